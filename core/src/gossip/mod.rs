//! Blocks from peers: messages that prove themselves, and what is made of them.
//!
//! The network belongs to an adapter. It hands over bytes ([`crate::Event::Gossiped`]) and is told what to make of them
//! ([`crate::Command::JudgeGossip`]); nothing is marked as seen, forwarded or executed before it is verified (S4).

pub(crate) mod job;
mod message;
mod pool;
mod settings;
mod space;
mod verdict;
mod verify;

pub use job::{BlockPart, JudgedBlock, JudgedGossip, JudgedRollup, MakeGossip, VerifyGossip};
pub(crate) use message::Head;
pub use message::{BlockMessage, Message, MessageError, MessageId, RollupMessage, identify};
pub(crate) use pool::{Ask, BEHIND, Gossip, Known, OFFERED, SLOWER, ToPublish, Undecided, Waits};
pub use settings::{GossipSettings, GossipUnsafe};
pub use space::{Space, Topic};
pub use verdict::{Ignored, Refused, Verdict};
pub use verify::{BlockRefusal, BoundBlock, GenuineBlock, verify_block, verify_rollup};

use serde::Serialize;

/// Version of messages, topics and protocols.
pub const VERSION: u8 = 1;

/// Names what an adapter wants a verdict about; its own choice, never used twice in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GossipHandle(pub u64);

/// From whom a block came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A sequencer server.
    Server,
    /// Messages that peers sent by themselves.
    Gossip,
    /// A peer's answer.
    Peer,
}

impl Source {
    /// Name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Gossip => "gossip",
            Self::Peer => "peer",
        }
    }
}

/// Names a peer as the adapter counts them. The same number is the same peer for as long as it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GossipPeer(pub u64);

#[cfg(test)]
mod tests;
