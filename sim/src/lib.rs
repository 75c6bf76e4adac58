//! Deterministic simulation: the core against the model world, in virtual time, event by event.
//!
//! [`Simulation`] is the event-queue tier: it jumps from event to event. [`fault`] says what can go wrong and decides
//! whether it does; the peers put lies into answers, [`adversary`] posts to the namespaces. [`oracle`] judges what the
//! rollup nodes were made to do, from the model chains alone; [`probe`] lists situations that runs must reach.
//! [`explore`] goes through all runs of a very small world.
//!
//! `wire` is the turmoil tier: the real driver and adapters on a simulated network.

pub mod adversary;
pub mod campaign;
#[cfg(feature = "canaries")]
pub mod canaries;
pub mod crashes;
pub mod determinism;
pub mod explore;
pub mod fault;
pub mod minimise;
mod nodes;
mod observe;
pub mod oracle;
mod peers;
pub mod probe;
mod proofs;
pub mod queue;
mod remember;
pub mod scenario;
pub mod score;
pub mod token;
pub mod view;
#[cfg(feature = "wire")]
pub mod wire;

pub use oracle::Violation;
pub use queue::Simulation;
pub use scenario::Scenario;
