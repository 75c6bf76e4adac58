//! The flight recorder: every event of a run with the hash of what the conductor wished for, and its replay.
//!
//! Nothing is ever recovered from it. Writing never holds the driver up: what cannot be written (a full disk, a disk that
//! is too slow) ends the recording with a line in the log, and the node goes on. A recording and the program that made it
//! are enough to run the conductor through the same states again: [`Replay`].
//!
//! * [`encode`], [`decode`]: one event as a protobuf record (`proto/journal_v1.proto`).
//! * [`Writer`], [`Reader`]: a journal over anything that takes or gives bytes.
//! * [`Recorder`], [`open`]: a bounded directory of journals, written by a thread of its own.

mod describe;
mod directory;
mod file;
mod outbox;
mod record;
mod recorder;
mod replay;
#[cfg(test)]
mod tests;

use std::fmt;

pub use describe::{describe_command, describe_event};
pub use directory::{BYTES_MAX, BYTES_MIN, Entries, Life, OpenError, SourceError, lives, open};
pub use file::{Header, ReadError, Reader, VERSION, Writer};
pub use outbox::{Digester, OutboxDigest, OutboxHash, kind_name, kind_of};
pub use record::{DecodeError, Entry, Recorded, decode, encode};
pub use recorder::Recorder;
pub use replay::{Difference, Outcome, Replay, ReplayError, Stepped, Visit};

mod proto {
    #![allow(clippy::pedantic, clippy::all, missing_debug_implementations, unreachable_pub, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/downbeat.journal.v1.rs"));
}

/// Takes what a driver has to record.
pub trait Record: fmt::Debug + Send {
    /// Never fails and never waits for a disk: an implementation that cannot go on says so once and takes no more.
    fn record(&mut self, entry: Entry);
}
