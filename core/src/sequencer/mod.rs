//! The shared sequencer: headers, quorums, and the verification of its blocks.

mod block;

pub use block::{ContentHash, SequencedBlock};
