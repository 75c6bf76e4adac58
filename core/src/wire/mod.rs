//! Messages on the wire and their bounded decoding.

pub mod proto;
