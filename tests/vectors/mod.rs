//! Known answers: fixtures of other implementations and the vectors of the specifications.

mod codec;
mod codec_car;
