//! What the conductor shows of itself: status lines, metrics, and the answer to "why is it not advancing?".

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use crate::{
    cell::Mode,
    command::Subject,
    gossip::{Ignored, Source, Verdict},
    ids::{CelestiaHeight, CellId, RollupNumber, SequencerHeight},
    light::{SoftTrust, Trust},
};

/// A copy of what an operator may want to know at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub sequencer: SequencerStatus,
    pub celestia: CelestiaStatus,
    pub cells: BTreeMap<CellId, CellStatus>,
    /// Refused input by kind, since start.
    pub dropped: BTreeMap<Subject, u64>,
    /// Absent where nothing is taken from peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gossip: Option<GossipStatus>,
}

/// What comes from peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GossipStatus {
    /// The highest block that a message has proven.
    pub newest: Option<SequencerHeight>,
    /// Whether peers were heard as lately as blocks are made. If not, servers are asked as often as without peers.
    pub fresh: bool,
    /// Whether there is no server that could be asked.
    pub alone: bool,
    /// Messages that wait for a verdict, and questions that wait for an answer.
    pub undecided: usize,
    pub asking: usize,
    #[serde(flatten)]
    pub counts: GossipCounts,
}

/// Counted since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GossipCounts {
    /// Messages by what became of them: accepted; of no use, by reason; refused, by reason.
    pub accepted: u64,
    pub ignored: BTreeMap<Ignored, u64>,
    pub refused: BTreeMap<&'static str, u64>,
    /// Messages that were handed out.
    pub published: u64,
    /// Questions to peers, and those that brought nothing.
    pub asked: u64,
    pub unanswered: u64,
    /// Soft blocks by who had them here first.
    pub won: BTreeMap<Source, u64>,
}

impl GossipCounts {
    pub(crate) fn judged(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Accept => self.accepted += 1,
            Verdict::Ignore(ignored) => *self.ignored.entry(*ignored).or_default() += 1,
            Verdict::Reject(refused) => *self.refused.entry(refused.name()).or_default() += 1,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SequencerStatus {
    /// Known once the CometBFT node has answered.
    pub chain_id: Option<String>,
    pub head: Option<SequencerHeight>,
    /// What is believed about its headers, and what a soft block needs.
    pub trust: Trust,
    pub soft_trust: SoftTrust,
    /// The highest header that was reached by signatures, with trust in consensus.
    pub trusted: Option<SequencerHeight>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CelestiaStatus {
    pub chain_id: Option<String>,
    pub head: Option<CelestiaHeight>,
    /// What is believed of it.
    pub trust: Trust,
    /// The highest header that was reached by signatures, with trust in consensus.
    pub trusted: Option<CelestiaHeight>,
    /// Time between blocks as learnt from headers.
    pub block_time: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellStatus {
    pub mode: Mode,
    pub phase: Phase,
    pub soft: Option<Head>,
    pub firm: Option<Head>,
    pub lowest_celestia_search_height: Option<CelestiaHeight>,
    /// Celestia heights below this one have been read for this cell.
    pub celestia_read_below: Option<CelestiaHeight>,
    /// Everything that keeps this cell from advancing right now; never empty.
    pub waiting_for: Vec<Wait>,
    /// Blocks executed since start.
    pub executed: u64,
    /// Sessions opened since start.
    pub sessions: u64,
}

/// A rollup block that was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    pub number: RollupNumber,
    pub hash: String,
    /// Sequencer height of the block; absent where the session's map has none (below its start).
    pub height: Option<SequencerHeight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for a session.
    Opening,
    /// Has a session.
    Running,
    /// Will not do anything any more.
    Parked,
    /// Ended on request.
    Stopped,
}

/// One reason for not advancing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// The rollup's answer to `CreateExecutionSession`.
    Session { attempts: u32 },
    /// The delay before the next session.
    SessionDelay { left_ms: u64 },
    /// The chain id of the sequencer.
    SequencerIdentity { attempts: u32 },
    /// The chain id of Celestia.
    CelestiaIdentity { attempts: u32 },
    /// The sequencer has not made this height yet.
    SequencerBlock { height: SequencerHeight },
    /// The soft block of this height is being fetched or verified.
    SoftBlock { height: SequencerHeight, attempts: u32 },
    /// The parts of this soft block are being fetched from peers; from a server as well, if peers did not have them.
    Peers { height: SequencerHeight, attempts: u32, asks_server: bool },
    /// Firm must follow first: soft is at its permitted lead.
    Spread { limit: u64 },
    /// Celestia's next block: everything up to its head was read.
    CelestiaBlock { height: CelestiaHeight },
    /// Blobs of this Celestia height.
    Blobs { height: CelestiaHeight, attempts: u32 },
    /// A proof that what the node says of this Celestia height is all of it: its last answer was refused.
    CelestiaProof { height: CelestiaHeight, attempts: u32, reason: String },
    /// The sequencer's header at this height.
    Header { height: SequencerHeight, attempts: u32 },
    /// A header of the sequencer to begin to trust with: those that came are older than the trusting period.
    FirstHeader,
    /// What the sequencer's block of this height consists of: its metadata on Celestia cannot be told from forged ones without.
    Content { height: SequencerHeight, attempts: u32, from_peers: bool },
    /// The rollup's data for this block, which its metadata lists.
    RollupData { height: SequencerHeight },
    /// The whole look-ahead window was read without finding the block.
    Gap { height: SequencerHeight, window_end: CelestiaHeight },
    /// The rollup's answer to `ExecuteBlock`.
    Execution { number: RollupNumber },
    /// The rollup's answer to `UpdateCommitmentState`.
    Commitment { number: RollupNumber },
    /// The rollup's answer to `GetExecutedBlockMetadata`.
    ExecutedBlock { number: RollupNumber },
    /// Its own next step, which follows within this moment.
    NextStep,
    /// Nothing: the cell is parked.
    Parked { reason: String },
    /// Nothing: the cell was stopped.
    Stopped,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tries = |f: &mut fmt::Formatter<'_>, attempts: u32| match attempts {
            0 | 1 => Ok(()),
            attempts => write!(f, " (try {attempts})"),
        };
        match self {
            Self::Session { attempts } => {
                f.write_str("a session from the rollup node")?;
                tries(f, *attempts)
            }
            Self::SessionDelay { left_ms } => write!(f, "the next session, in {left_ms} ms"),
            Self::SequencerIdentity { attempts } => {
                f.write_str("the sequencer's chain id")?;
                tries(f, *attempts)
            }
            Self::CelestiaIdentity { attempts } => {
                f.write_str("Celestia's chain id")?;
                tries(f, *attempts)
            }
            Self::SequencerBlock { height } => write!(f, "sequencer block {height} to be made"),
            Self::SoftBlock { height, attempts } => {
                write!(f, "soft block {height}")?;
                tries(f, *attempts)
            }
            Self::Peers { height, asks_server: true, .. } => {
                write!(f, "soft block {height}: peers do not have it, the server is asked as well")
            }
            Self::Peers { height, attempts, .. } => {
                write!(f, "soft block {height} from peers")?;
                tries(f, *attempts)
            }
            Self::Spread { limit } => write!(f, "firm: soft is {limit} heights ahead"),
            Self::CelestiaBlock { height } => write!(f, "Celestia block {height} to be made"),
            Self::Blobs { height, attempts } => {
                write!(f, "blobs of Celestia block {height}")?;
                tries(f, *attempts)
            }
            Self::CelestiaProof { height, attempts, reason } => {
                write!(f, "proof of what lies in Celestia block {height}")?;
                tries(f, *attempts)?;
                write!(f, ": {reason}")
            }
            Self::Header { height, attempts } => {
                write!(f, "sequencer header {height}")?;
                tries(f, *attempts)
            }
            Self::FirstHeader => f.write_str(
                "a sequencer header that is not older than the trusting period, to begin to trust with: is the clock of \
                 this machine right, and does the chain go on?",
            ),
            Self::Content { height, attempts, from_peers } => {
                let whom = if *from_peers { "peers" } else { "a CometBFT node" };
                write!(f, "what sequencer block {height} consists of, from {whom}")?;
                tries(f, *attempts)
            }
            Self::RollupData { height } => write!(f, "rollup data of sequencer block {height} on Celestia"),
            Self::Gap { height, window_end } => {
                write!(f, "sequencer block {height} on Celestia: not found up to {window_end}, the end of the window")
            }
            Self::Execution { number } => write!(f, "the rollup to execute block {number}"),
            Self::Commitment { number } => write!(f, "the rollup to commit block {number}"),
            Self::ExecutedBlock { number } => write!(f, "the rollup's metadata of block {number}"),
            Self::NextStep => f.write_str("its next step"),
            Self::Parked { reason } => write!(f, "nothing: parked, {reason}"),
            Self::Stopped => f.write_str("nothing: stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_to_wait_is_said_in_words() {
        let (height, number) = (SequencerHeight(7), RollupNumber(5));
        let celestia = CelestiaHeight(9);
        let table = [
            (Wait::Session { attempts: 1 }, "a session from the rollup node"),
            (Wait::Session { attempts: 2 }, "a session from the rollup node (try 2)"),
            (Wait::SessionDelay { left_ms: 30 }, "the next session, in 30 ms"),
            (Wait::SequencerIdentity { attempts: 0 }, "the sequencer's chain id"),
            (Wait::CelestiaIdentity { attempts: 3 }, "Celestia's chain id (try 3)"),
            (Wait::SequencerBlock { height }, "sequencer block 7 to be made"),
            (Wait::SoftBlock { height, attempts: 4 }, "soft block 7 (try 4)"),
            (Wait::Peers { height, attempts: 2, asks_server: false }, "soft block 7 from peers (try 2)"),
            (
                Wait::Peers { height, attempts: 2, asks_server: true },
                "soft block 7: peers do not have it, the server is asked as well",
            ),
            (Wait::Spread { limit: 2 }, "firm: soft is 2 heights ahead"),
            (Wait::CelestiaBlock { height: celestia }, "Celestia block 9 to be made"),
            (Wait::Blobs { height: celestia, attempts: 1 }, "blobs of Celestia block 9"),
            (Wait::Header { height, attempts: 2 }, "sequencer header 7 (try 2)"),
            (
                Wait::FirstHeader,
                "a sequencer header that is not older than the trusting period, to begin to trust with: is the clock of \
                 this machine right, and does the chain go on?",
            ),
            (
                Wait::Content { height, attempts: 1, from_peers: false },
                "what sequencer block 7 consists of, from a CometBFT node",
            ),
            (
                Wait::Content { height, attempts: 2, from_peers: true },
                "what sequencer block 7 consists of, from peers (try 2)",
            ),
            (Wait::RollupData { height }, "rollup data of sequencer block 7 on Celestia"),
            (
                Wait::Gap { height, window_end: celestia },
                "sequencer block 7 on Celestia: not found up to 9, the end of the window",
            ),
            (Wait::Execution { number }, "the rollup to execute block 5"),
            (Wait::Commitment { number }, "the rollup to commit block 5"),
            (Wait::ExecutedBlock { number }, "the rollup's metadata of block 5"),
            (Wait::NextStep, "its next step"),
            (Wait::Parked { reason: "it lied".to_owned() }, "nothing: parked, it lied"),
            (Wait::Stopped, "nothing: stopped"),
        ];
        for (wait, words) in table {
            assert_eq!(wait.to_string(), words);
        }
    }
}
