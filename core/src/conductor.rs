//! The state machine's front door.

use crate::{
    command::Outbox,
    event::{Refusal, Stamped},
    limits::Limits,
    time::Timestamp,
    view::Status,
};

/// Consumes events, emits commands. See the crate documentation.
#[derive(Debug)]
pub struct Conductor {}

/// What falls due at a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer(pub &'static str);

impl Conductor {
    /// `seed` feeds every random choice (jitter, incarnation).
    pub fn new(_limits: Limits, _seed: [u8; 32]) -> Self { Self {} }
    /// Takes one event and appends what follows from it to `out`. A refused event changes nothing.
    pub fn handle(&mut self, _input: &Stamped, _out: &mut Outbox) -> Result<(), Refusal> { Ok(()) }
    /// The earliest moment at which `DeadlineReached` has to be delivered, with its reason.
    pub fn next_deadline(&self) -> Option<(Timestamp, Timer)> { None }
    /// A copy of what an operator may want to know.
    pub fn status(&self, _now: Timestamp) -> Status { todo!() }
}
