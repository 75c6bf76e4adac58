//! Messages generated from `core/proto`.

#![allow(clippy::pedantic, clippy::all, missing_debug_implementations, unreachable_pub, missing_docs)]

include!(concat!(env!("OUT_DIR"), "/proto.rs"));
