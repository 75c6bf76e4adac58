//! Everything that can happen to the conductor, as facts in the past tense.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tendermint::{
    block::{Header, signed_header::SignedHeader},
    validator,
};

use crate::{
    celestia::{
        Namespace,
        square::{DataAvailabilityHeader, UnverifiedNamespace},
    },
    cell::CellSpec,
    fault::Fault,
    gossip::{GossipHandle, GossipPeer, Topic},
    ids::{CelestiaHeight, CellId, CommandId, RollupId, Seq, SequencerHeight},
    job::JobOutcome,
    light::SignedBlock,
    time::Timestamp,
    wire::proto::astria::execution::v2::{
        CommitmentState, ExecuteBlockResponse, ExecutedBlockMetadata, ExecutionSession,
    },
};

/// An event with its place in the sequence and the moment at which the driver took it in.
#[derive(Clone, Debug)]
pub struct Stamped {
    /// Exactly one more than the event before; the first is 0.
    pub seq: Seq,
    /// Never before the event before; a clock that jumps back is held by the driver.
    pub at: Timestamp,
    pub event: Event,
}

/// A fact. Every state change of the core has exactly one as its cause.
#[derive(Clone, Debug)]
pub enum Event {
    /// Sent by the driver at start, once per configured rollup, before anything else.
    CellInstalled { cell: CellId, spec: CellSpec },
    /// Sent by the driver when `next_deadline` has come. May repeat; an early one does nothing.
    DeadlineReached,
    /// Sent by an adapter once per [`Command::Call`](crate::Command::Call), unless [`Event::Failed`] is.
    Answered { id: CommandId, answer: Answer },
    /// Sent by an adapter (or, past the deadline, by the driver) in place of [`Event::Answered`].
    Failed { id: CommandId, fault: Fault },
    /// Sent by the driver once per [`Command::Verify`](crate::Command::Verify).
    JobFinished { id: CommandId, outcome: JobOutcome },
    /// Sent by the driver when the operator asks the process to end. May repeat.
    StopRequested,
    /// Sent by the gossip adapter for each message that it has not seen yet, as it came. Answered by exactly one
    /// [`Command::JudgeGossip`](crate::Command::JudgeGossip) with this handle, unless the process ends before.
    Gossiped { handle: GossipHandle, peer: GossipPeer, topic: Topic, bytes: Bytes },
}

/// What a peer said. Nothing in it is trusted.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `IdentifySequencer`: the chain id of the CometBFT node's genesis.
    SequencerIdentified { chain_id: String },
    /// To `FetchSequencerHead`.
    SequencerHeadFetched { height: SequencerHeight },
    /// To `FetchSoftBlock`: the encoded `FilteredSequencerBlock`, not decoded.
    SoftBlockFetched { block: Bytes },
    /// To `FetchSignedHeader`: header and commit of one height.
    SignedHeaderFetched { signed_header: Box<SignedHeader> },
    /// To `FetchHeaders`: in any order, possibly fewer than asked for.
    HeadersFetched { headers: Vec<Header> },
    /// To `FetchValidators`: the whole set, all pages, in the node's order.
    ValidatorsFetched { validators: Vec<validator::Info> },
    /// To `FetchBlockTransactions`: the block's data items as CometBFT holds them.
    BlockTransactionsFetched { transactions: Vec<Bytes> },
    /// To `FetchCelestiaHead`.
    CelestiaHeadFetched { head: CelestiaHead },
    /// To `FetchBlobs`: all blobs of the height in the requested namespaces, in the node's order. Elements that were
    /// not blobs at all are left out and counted.
    BlobsFetched { blobs: Vec<Blob>, unreadable: u32 },
    /// To `FetchNamespaces`.
    NamespacesFetched { block: Box<CelestiaBlock> },
    /// To `FetchCelestiaHeader`.
    CelestiaHeaderFetched { header: Box<SignedBlock> },
    /// To `FetchCelestiaHeaders`: in any order, possibly fewer than asked for.
    CelestiaHeadersFetched { headers: Vec<Header> },
    /// To `OpenSession`.
    SessionOpened { session: Box<ExecutionSession> },
    /// To `ExecuteBlock`.
    BlockExecuted { response: Box<ExecuteBlockResponse> },
    /// To `UpdateCommitment`.
    CommitmentUpdated { commitment: Box<CommitmentState> },
    /// To `FetchExecutedBlock`.
    ExecutedBlockFetched { metadata: Box<ExecutedBlockMetadata> },
    /// To `FetchFromPeers`: the messages as `peer` keeps them, as far as it has them. None of a height that it has not is
    /// a failure that may pass.
    FetchedFromPeers { peer: GossipPeer, block: Option<Bytes>, rollups: Vec<(RollupId, Bytes)> },
}

/// The newest Celestia header that a node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CelestiaHead {
    pub chain_id: String,
    pub height: CelestiaHeight,
    /// Time in the header.
    pub time: Timestamp,
}

/// A Celestia blob, as far as the conductor looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub namespace: Namespace,
    pub data: Bytes,
}

/// What a node says about a Celestia height. Nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CelestiaBlock {
    /// Header, commit and validators.
    pub signed: SignedBlock,
    pub availability: DataAvailabilityHeader,
    /// Those asked for, in that order.
    pub namespaces: Vec<UnverifiedNamespace>,
}

impl CelestiaBlock {
    /// How many shares came.
    pub fn share_count(&self) -> usize {
        self.namespaces.iter().flat_map(|namespace| &namespace.rows).map(|row| row.shares.len()).sum()
    }
}

/// Why an event was not taken. The state is as it was before; the driver logs it and goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no command {0:?} is waiting for an answer")]
    UnknownCommand(CommandId),
    #[error("the answer is not of the kind that command {0:?} asked for")]
    WrongAnswer(CommandId),
    #[error("event {got:?} does not follow: {expected:?} is next")]
    OutOfSequence { expected: Seq, got: Seq },
    #[error("{0} is installed already")]
    CellExists(CellId),
    #[error("no more than {0} cells fit into one conductor")]
    TooManyCells(usize),
}
