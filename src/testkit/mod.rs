//! Test doubles and helpers; built for tests and fuzz targets only.

pub mod fixtures;
