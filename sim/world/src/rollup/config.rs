//! What a rollup node is like, and the statuses that it answers with.

use downbeat_core::{RollupId, RollupNumber, SequencerHeight};

/// The gRPC codes that a rollup node uses, and those that tests want from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// A refusal as gRPC carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// One session that the node hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPlan {
    pub rollup_start: RollupNumber,
    /// Inclusive; none if unset.
    pub rollup_end: Option<RollupNumber>,
    pub sequencer_chain_id: String,
    pub sequencer_start: SequencerHeight,
    pub celestia_chain_id: String,
    /// In Celestia heights.
    pub look_ahead: u64,
}

impl Default for SessionPlan {
    fn default() -> Self {
        Self {
            rollup_start: RollupNumber(1),
            rollup_end: None,
            sequencer_chain_id: "downbeat-sequencer".to_owned(),
            sequencer_start: SequencerHeight(1),
            celestia_chain_id: "downbeat-celestia".to_owned(),
            look_ahead: 300,
        }
    }
}

/// What the node does with an update that moves neither head. The API demands that one moves; nodes differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepeatedUpdate {
    Accept,
    /// With FAILED_PRECONDITION.
    #[default]
    Refuse,
}

/// How the node gives back the hash of the sequencer block that it executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SequencerHash {
    NotStored,
    #[default]
    Plain,
    /// With `0x` in front.
    Prefixed,
    /// As [`Plain`](Self::Plain), and a request without one is an INVALID_ARGUMENT.
    Required,
}

/// Which head ends a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionEnd {
    Soft,
    #[default]
    Firm,
}

/// How much of what was called the node remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceLimit {
    Off,
    Newest(usize),
    Everything,
}

/// What a node is.
#[derive(Clone, Debug)]
pub struct RollupConfig {
    pub rollup_id: RollupId,
    /// One after the other; past the last one the chain is halted.
    pub sessions: Vec<SessionPlan>,
    pub session_end: SessionEnd,
    /// Of the genesis commitment.
    pub lowest_celestia_search_height: u64,
    pub genesis_time: prost_types::Timestamp,
    pub sequencer_hash: SequencerHash,
    pub repeated_update: RepeatedUpdate,
    /// Refuse a `lowest_celestia_search_height` below the current one, with INVALID_ARGUMENT.
    pub refuse_lower_search_height: bool,
    /// Take a soft head on another branch (and of a lower number) if it descends from an advancing firm head.
    pub can_roll_back: bool,
    pub trace: TraceLimit,
    /// Leave transactions out of block hashes and forget them: for benchmarks.
    pub cheap_hash: bool,
    /// Committed blocks below firm that are kept; all if unset.
    pub keep_blocks: Option<u64>,
}

impl RollupConfig {
    /// A node with one endless session.
    pub fn new(rollup_id: RollupId) -> Self {
        Self {
            rollup_id,
            sessions: vec![SessionPlan::default()],
            session_end: SessionEnd::default(),
            lowest_celestia_search_height: 1,
            genesis_time: prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 },
            sequencer_hash: SequencerHash::default(),
            repeated_update: RepeatedUpdate::default(),
            refuse_lower_search_height: false,
            can_roll_back: false,
            trace: TraceLimit::Everything,
            cheap_hash: false,
            keep_blocks: None,
        }
    }
}
