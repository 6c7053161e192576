//! Bytes ↔ typed nodes: dag-pb, UnixFS, dag-cbor, dag-json, CAR; bitswap messages.
//!
//! The promise: every decoder is **total**: any input gives a value or a typed error, in time and
//! memory proportional to the input, without recursion by its depth. Encoders write the one
//! canonical form. Pure: no I/O, no clock, no network, no knowledge of where bytes come from.

pub mod bitswap;
pub mod car;
pub mod dag_cbor;
pub mod dag_json;
pub mod dag_pb;
pub mod ipld;
pub mod node;
pub mod unixfs;

mod proto;
