//! The deterministic heart of the Downbeat rollup conductor.
//!
//! Nothing in this crate reads a clock, opens a socket or draws entropy. A [`Conductor`] consumes timestamped
//! [`Event`]s (facts) and emits [`Command`]s (wishes); adapters and simulators connect it to a world.
//!
//! A block enters as an answer in [`event`], is checked by a [`job`] (which calls [`sequencer`] and [`celestia`]), is
//! decided upon in [`cell`], and leaves as a [`command::Call::ExecuteBlock`].

mod calls;
#[cfg(feature = "canaries")]
pub mod canary;
#[cfg(not(feature = "canaries"))]
mod canary;
pub mod celestia;
pub mod cell;
pub mod command;
pub mod conductor;
pub mod event;
pub mod fault;
pub mod gossip;
pub mod ids;
pub mod inspect;
pub mod invariant;
pub mod job;
pub mod json;
pub mod light;
pub mod limits;
pub mod merkle;
pub mod record;
pub mod retry;
pub mod sequencer;
#[cfg(test)]
mod testing;
pub mod time;
pub mod verified;
pub mod view;
pub mod wire;

pub use command::{Call, Command, Outbox, Report};
pub use conductor::Conductor;
pub use event::{Answer, Event, Refusal, Stamped};
pub use fault::{Fault, FaultClass};
pub use ids::{BlockHash, CelestiaHeight, CellId, CommandId, Node, RollupId, RollupNumber, Seq, SequencerHeight};
pub use job::{Job, JobOutcome};
pub use light::Trust;
pub use limits::Limits;
pub use record::Record;
pub use time::Timestamp;
pub use verified::Verified;
