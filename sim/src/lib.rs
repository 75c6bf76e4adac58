//! Deterministic simulation: the core against the model world, in virtual time, event by event.
//!
//! [`Simulation`] is the event-queue tier: it jumps from event to event, delays, loses and repeats calls, restarts the
//! conductor and the rollup node, and lets strangers post to the namespaces. [`oracle`] judges what the rollup nodes were
//! made to do, from the model chains alone.

pub mod adversary;
pub mod oracle;
pub mod queue;
pub mod scenario;

pub use oracle::Violation;
pub use queue::{Faults, Plan, Simulation};
pub use scenario::Scenario;
