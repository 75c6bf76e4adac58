//! Messages on the wire and what is checked of them before they are decoded.
//!
//! The decoded forms live with their meaning, in [`sequencer`](crate::sequencer) and [`celestia`](crate::celestia).

pub(crate) mod field;
pub mod proto;
pub mod scan;

pub use field::FieldError;
