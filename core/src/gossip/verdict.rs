//! What becomes of a message, by name.

use std::fmt;

use serde::Serialize;

use super::message::MessageError;
use crate::{
    ids::{BlockHash, RollupId},
    light::Refusal,
    merkle::ProofError,
    sequencer::{BindRefusal, DataTreeError, ElementError, ValidatorsError},
    wire::FieldError,
};

/// What an adapter is to tell the network about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is genuine: to be forwarded, and to be handed to peers that ask for it.
    Accept,
    /// Not to be forwarded. Nobody is to blame.
    Ignore(Ignored),
    /// Not to be forwarded, and the peer that sent it is to blame: an honest node would have refused it as well.
    Reject(Refused),
}

/// Why a message is of no use, which says nothing about whether it is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ignored {
    /// This node takes nothing from peers, or is about to stop.
    Off,
    /// Nothing is trusted yet that it could be compared with.
    NotReady,
    /// Of a height that is passed.
    Stale,
    /// Further ahead than anything that is kept.
    Future,
    /// The same is here already.
    Known,
    /// Of a rollup that nobody here follows.
    Unfollowed,
    /// Too much is undecided, of this peer or of all.
    Busy,
    /// What it belongs to did not come in time.
    Undecided,
    /// Trust does not reach that far yet.
    TooFar,
    /// Its time is ahead of this node's clock, or what is trusted is too old: either clock may be wrong.
    Clock,
    /// Validators signed it and another block of the same height.
    Conflict,
}

impl Ignored {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Off,
        Self::NotReady,
        Self::Stale,
        Self::Future,
        Self::Known,
        Self::Unfollowed,
        Self::Busy,
        Self::Undecided,
        Self::TooFar,
        Self::Clock,
        Self::Conflict,
    ];

    /// Name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NotReady => "not_ready",
            Self::Stale => "stale",
            Self::Future => "future",
            Self::Known => "known",
            Self::Unfollowed => "unfollowed",
            Self::Busy => "busy",
            Self::Undecided => "undecided",
            Self::TooFar => "too_far",
            Self::Clock => "clock",
            Self::Conflict => "conflict",
        }
    }
}

/// Why a message is not genuine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the validators make no set: {0}")]
    Set(#[from] ValidatorsError),
    #[error(transparent)]
    Untrusted(Refusal),
    #[error(transparent)]
    Tree(#[from] DataTreeError),
    #[error("it is not the committed block: {0}")]
    NotBound(#[from] BindRefusal),
    #[error("it has data items that it does not need")]
    Superfluous,
    #[error("extended commit info: {0}")]
    CommitInfo(FieldError),
    #[error("it is about block {actual}, the committed one is {expected}")]
    OtherBlock { expected: BlockHash, actual: BlockHash },
    #[error("the block has no data for rollup {0}")]
    NotListed(RollupId),
    #[error("the data of rollup {rollup} are not those of the block: {source}")]
    Data { rollup: RollupId, source: ProofError },
    #[error(transparent)]
    Element(#[from] ElementError),
}

impl Refused {
    /// What kind of refusal it is; the label of its counter.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Message(MessageError::TooLong { .. }) => "oversized",
            Self::Message(MessageError::Version(_)) => "version",
            Self::Message(MessageError::NotCanonical(_)) | Self::Superfluous => "not_canonical",
            Self::Message(MessageError::Height { .. } | MessageError::BlockHash { .. }) => "head",
            Self::Message(_) => "malformed",
            Self::Set(_) => "validators",
            Self::Untrusted(_) => "header",
            Self::Tree(_) | Self::NotBound(_) | Self::CommitInfo(_) => "data",
            Self::OtherBlock { .. } => "other_block",
            Self::NotListed(_) | Self::Data { .. } | Self::Element(_) => "rollup_data",
        }
    }
}

impl Verdict {
    /// What follows from the light client's refusal of the header.
    pub(crate) fn of_header(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::TooFar { .. } => Self::Ignore(Ignored::TooFar),
            Refusal::NotAbove { .. } => Self::Ignore(Ignored::Stale),
            Refusal::Expired { .. } | Refusal::FromFuture { .. } => Self::Ignore(Ignored::Clock),
            refusal => Self::Reject(Refused::Untrusted(refusal.clone())),
        }
    }

    /// `accept`, or the name of the reason.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Ignore(ignored) => ignored.name(),
            Self::Reject(refused) => refused.name(),
        }
    }
}

/// For the log.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accepted"),
            Self::Ignore(ignored) => write!(f, "ignored: {}", ignored.name()),
            Self::Reject(refused) => write!(f, "refused: {refused}"),
        }
    }
}
