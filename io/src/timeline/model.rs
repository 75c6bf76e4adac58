//! The data of a timeline. Indices are positions in the lists of the same [`Timeline`]; moments are nanoseconds since
//! [`Timeline::start`], which a browser's numbers hold exactly for a hundred days.

use std::fmt;

use downbeat_core::CellId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A run, or the last part of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    pub title: String,
    /// What to type to see the same again; empty if there is no such command.
    pub command: String,
    /// First moment, in nanoseconds since the Unix epoch: as text, for it is too large for a browser's numbers.
    pub start: String,
    /// Who has a lane, from top to bottom.
    pub lanes: Vec<Actor>,
    /// Steps at the beginning that were not kept.
    pub omitted: u64,
    /// In the order in which they happened.
    pub steps: Vec<Step>,
    /// In the order in which they were sent.
    pub messages: Vec<Message>,
    pub deadlines: Vec<Deadline>,
    pub faults: Vec<Band>,
    pub heads: Vec<Heads>,
    pub notes: Vec<Note>,
    pub reports: Vec<ReportLine>,
    pub violations: Vec<Violation>,
    /// Names of the fields that [`Change`]s refer to.
    pub fields: Vec<String>,
    /// The conductor's state before the first step of the list.
    pub base: Vec<Change>,
}

/// Who takes part. Serialises as its short name, such as `rollup:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Actor {
    Celestia,
    CometBft,
    /// The sequencer's gRPC server.
    Sequencer,
    /// Other conductors.
    Peers,
    Conductor,
    /// Where jobs are run.
    Verification,
    Rollup(CellId),
    /// Deadlines that are reached, and what the operator asks for.
    ClockAndOperator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Celestia => f.write_str("celestia"),
            Self::CometBft => f.write_str("cometbft"),
            Self::Sequencer => f.write_str("sequencer"),
            Self::Peers => f.write_str("peers"),
            Self::Conductor => f.write_str("conductor"),
            Self::Verification => f.write_str("verification"),
            Self::Rollup(cell) => write!(f, "rollup:{}", cell.0),
            Self::ClockAndOperator => f.write_str("clock"),
        }
    }
}

impl From<Actor> for String {
    fn from(actor: Actor) -> Self {
        actor.to_string()
    }
}

impl TryFrom<String> for Actor {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let rollup = || Some(Self::Rollup(CellId(name.strip_prefix("rollup:")?.parse().ok()?)));
        let plain = [Self::Celestia, Self::CometBft, Self::Sequencer, Self::Peers, Self::Conductor];
        plain
            .into_iter()
            .chain([Self::Verification, Self::ClockAndOperator])
            .find(|actor| actor.to_string() == name)
            .or_else(rollup)
            .ok_or_else(|| format!("{name:?} is not an actor"))
    }
}

/// One event and what followed from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Counts the conductor's restarts; the first life is 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub life: u32,
    /// Number of the event in its life.
    pub seq: u64,
    pub at: u64,
    pub kind: StepKind,
    pub label: String,
    /// What the event says beyond its label.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The message that the event answers, also if the answer came late or twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<usize>,
    /// Why the conductor refused the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Messages that were sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sends: Vec<usize>,
    /// Messages that were given up: cancelled, overdue, or left behind by a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gives_up: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<usize>,
    /// Why the conductor wishes to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// How the state after this step differs from the state before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// What kind of event a step took in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    Installed,
    Deadline,
    Answered,
    Failed,
    Verified,
    Stop,
    Gossiped,
}

/// A field of the conductor's status and its new value; null if the field is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change(pub usize, pub Value);

/// A call to a peer, or work given to a verifier, with what came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Whom the conductor sent it to.
    pub to: Actor,
    #[serde(default, skip_serializing_if = "is_default")]
    pub life: u32,
    /// Number of the command in its life.
    pub ordinal: u64,
    pub label: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    pub sent_at: u64,
    /// The step that sent it; absent if that was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_by: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// When it took effect at the peer, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<u64>,
    /// When it was answered or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// The step that took the answer, or gave up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub outcome: Outcome,
    /// What came back, or what is known about why nothing did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing came back until the end of the recording.
    Open,
    /// Left out of the data, as most messages end so.
    #[default]
    Ok,
    /// An answer came: a failure, or work that refused what it was given.
    Fault,
    /// The conductor did not want the answer any more.
    Cancelled,
    /// The conductor gave up at the deadline.
    Overdue,
    /// The network lost the request or the answer, or the conductor's restart left it behind.
    Lost,
}

/// The next moment at which the conductor wanted to be woken, as it was after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deadline {
    /// The step after which it held, until the next entry.
    pub step: usize,
    /// Absent if nothing was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    pub reason: String,
}

/// A fault that was injected, or a condition that lasted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    pub kind: String,
    /// Whose lane shows it.
    pub actor: Actor,
    /// Between the conductor and the actor, rather than inside the actor.
    pub is_link: bool,
    pub from: u64,
    /// Equal to `from` for what happened in one moment; absent if it lasted until the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A height or block number over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heads {
    pub actor: Actor,
    /// `soft`, `firm` and `known head` come from the conductor's status; others from whoever feeds the builder.
    pub name: String,
    pub points: Vec<HeadPoint>,
}

/// From this moment on the value was so; absent if it was not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadPoint(pub u64, pub Option<u64>);

/// A remark on a lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub actor: Actor,
    pub at: u64,
    pub text: String,
}

/// Something that the conductor reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportLine {
    pub step: usize,
    pub severity: Severity,
    pub text: String,
}

/// How much a report matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Debug,
    Info,
    Warn,
    Error,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Its id, such as `S8`.
    pub invariant: String,
    pub text: String,
    pub at: u64,
}

/// What is left out of the data to keep it small.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
