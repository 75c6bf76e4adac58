//! What happened in a run, for people: a model of it, a builder that is fed step by step, and a page that shows it.
//!
//! A [`Builder`] takes each event with what the conductor answered to it, from a simulation or from a journal that is
//! played again, and makes a [`Timeline`]. [`html`] turns that into one page without any reference to the outside.

mod builder;
mod describe;
mod html;
mod model;
#[cfg(test)]
mod tests;

pub use builder::{Builder, Leg};
pub use html::html;
pub use model::{
    Actor, Band, Change, Deadline, HeadPoint, Heads, Message, Note, Outcome, ReportLine, Severity, Step, StepKind,
    Timeline, Violation,
};
