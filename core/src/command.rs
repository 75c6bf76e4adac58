//! Everything that the conductor can wish for.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;

use crate::{
    celestia::{FalseNamespaces, Namespace},
    event::Answer,
    gossip::{GossipHandle, GossipPeer, Message, Verdict},
    ids::{BlockHash, CelestiaHeight, CellId, CommandId, Node, RollupId, RollupNumber, SequencerHeight},
    job::Job,
    light::ConflictingHeaders,
    record::Record,
    sequencer::FalseBlock,
    time::Timestamp,
    wire::proto::astria::execution::v2::{ExecuteBlockRequest, UpdateCommitmentStateRequest},
};

/// A wish. Those with an id are answered by exactly one event, however long it takes.
#[derive(Clone, Debug)]
pub enum Command {
    /// To be performed by the adapter of the call's port. At `deadline` the driver gives up and reports
    /// [`FaultClass::Transient`](crate::FaultClass::Transient).
    /// `node` says which CometBFT node is to be asked; for all other calls it is 0.
    Call { id: CommandId, deadline: Timestamp, call: Call, node: Node },
    /// To be kept across restarts. What stands behind it in the outbox waits until it is durable.
    Persist { records: Vec<Record> },
    /// To be run on a worker, outside the loop.
    Verify { id: CommandId, job: Job },
    /// The answer to this command is no longer wanted; the driver may drop the call. No event follows.
    Cancel { id: CommandId },
    /// For the log and the metrics; nothing depends on it.
    Report(Report),
    /// Nothing is left to do: the process ends.
    Exit(Exit),
    /// What became of the message that [`Event::Gossiped`](crate::Event::Gossiped) brought: exactly once for each handle.
    /// An accepted one is to be forwarded, and kept for peers that ask for it.
    JudgeGossip { handle: GossipHandle, verdict: Verdict },
    /// To be compressed, sealed ([`Message::seal`]), published, and kept for peers that ask for it. It is verified, and no
    /// peer has sent it yet. Once per content. One that `is_old` is only kept: most peers have it, and the others ask.
    PublishGossip { message: Message, is_old: bool },
    /// What this peer answered to `FetchFromPeers` was refused: no honest node would have sent it.
    PenalizePeer { peer: GossipPeer, reason: String },
}

/// Headers in one answer of CometBFT's `blockchain`.
pub const HEADERS_MAX: u64 = 20;

/// A request to a peer. All are safe to send twice, except that the rollup node may see a block executed again.
#[derive(Clone, Debug)]
pub enum Call {
    /// Chain id in the genesis of the CometBFT node.
    IdentifySequencer,
    /// Newest height of the CometBFT node.
    FetchSequencerHead,
    /// `GetFilteredSequencerBlock`. Rollup ids are ascending and distinct.
    FetchSoftBlock { height: SequencerHeight, rollup_ids: Vec<RollupId> },
    /// CometBFT `commit`.
    FetchSignedHeader { height: SequencerHeight },
    /// CometBFT `blockchain`: the headers from `first` to `last`, at most [`HEADERS_MAX`].
    FetchHeaders { first: SequencerHeight, last: SequencerHeight },
    /// CometBFT `validators`, all pages.
    FetchValidators { height: SequencerHeight },
    /// CometBFT `block`, of which only the data items are kept.
    FetchBlockTransactions { height: SequencerHeight },
    /// Celestia `header.NetworkHead`.
    FetchCelestiaHead,
    /// Celestia `blob.GetAll` for several namespaces at once.
    FetchBlobs { height: CelestiaHeight, namespaces: Vec<Namespace> },
    /// Celestia `header.GetByHeight`, and `share.GetNamespaceData` for each of several namespaces.
    FetchNamespaces { height: CelestiaHeight, namespaces: Vec<Namespace> },
    /// Celestia `header.GetByHeight`: header, commit and validators.
    FetchCelestiaHeader { height: CelestiaHeight },
    /// Celestia `header.GetByHeight` for each height from `first` to `last`, at most [`HEADERS_MAX`]; only headers are kept.
    FetchCelestiaHeaders { first: CelestiaHeight, last: CelestiaHeight },
    /// `CreateExecutionSession`.
    OpenSession { cell: CellId },
    /// `ExecuteBlock`.
    ExecuteBlock { cell: CellId, request: Arc<ExecuteBlockRequest> },
    /// `UpdateCommitmentState`.
    UpdateCommitment { cell: CellId, request: Arc<UpdateCommitmentStateRequest> },
    /// `GetExecutedBlockMetadata` by number.
    FetchExecutedBlock { cell: CellId, number: RollupNumber },
    /// The message about the block at `height`, and those about the data of `rollups` in it, from one peer that the adapter
    /// chooses: another one than the last time where there is one. Rollup ids are ascending and distinct, and may be none.
    FetchFromPeers { height: SequencerHeight, rollups: Vec<RollupId> },
}

impl Call {
    /// Whether `answer` is of the kind that this call asks for.
    pub fn is_answered_by(&self, answer: &Answer) -> bool {
        matches!(
            (self, answer),
            (Self::IdentifySequencer, Answer::SequencerIdentified { .. })
                | (Self::FetchSequencerHead, Answer::SequencerHeadFetched { .. })
                | (Self::FetchSoftBlock { .. }, Answer::SoftBlockFetched { .. })
                | (Self::FetchSignedHeader { .. }, Answer::SignedHeaderFetched { .. })
                | (Self::FetchHeaders { .. }, Answer::HeadersFetched { .. })
                | (Self::FetchValidators { .. }, Answer::ValidatorsFetched { .. })
                | (Self::FetchBlockTransactions { .. }, Answer::BlockTransactionsFetched { .. })
                | (Self::FetchCelestiaHead, Answer::CelestiaHeadFetched { .. })
                | (Self::FetchBlobs { .. }, Answer::BlobsFetched { .. })
                | (Self::FetchNamespaces { .. }, Answer::NamespacesFetched { .. })
                | (Self::FetchCelestiaHeader { .. }, Answer::CelestiaHeaderFetched { .. })
                | (Self::FetchCelestiaHeaders { .. }, Answer::CelestiaHeadersFetched { .. })
                | (Self::OpenSession { .. }, Answer::SessionOpened { .. })
                | (Self::ExecuteBlock { .. }, Answer::BlockExecuted { .. })
                | (Self::UpdateCommitment { .. }, Answer::CommitmentUpdated { .. })
                | (Self::FetchExecutedBlock { .. }, Answer::ExecutedBlockFetched { .. })
                | (Self::FetchFromPeers { .. }, Answer::FetchedFromPeers { .. })
        )
    }
}

/// Something worth telling. The driver chooses the log level: see each variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Info. A chain was identified and is the expected one.
    ChainIdentified { chain: Chain, chain_id: String },
    /// Info. A rollup opened a session.
    SessionOpened { cell: CellId, session_id: String, rollup_id: RollupId, soft: RollupNumber, firm: RollupNumber },
    /// Warn. A session ended early and another will be opened after `delay_ms`.
    SessionLost { cell: CellId, reason: String, delay_ms: u64 },
    /// Info. A session reached its last block; the next one follows.
    SessionFinished { cell: CellId, last: RollupNumber },
    /// Debug. A head moved.
    HeadMoved {
        cell: CellId,
        level: Level,
        number: RollupNumber,
        hash: String,
        block_hash: BlockHash,
        height: SequencerHeight,
    },
    /// Debug. Something from outside was refused; nothing else changed. `reason` is bounded.
    Dropped { what: Subject, at: String, reason: String },
    /// Warn. A call failed and will be tried again.
    CallFailed { what: &'static str, attempt: u32, retry_in_ms: u64, reason: String },
    /// Warn. Firm cannot go on: everything inside the look-ahead window was read.
    Gap { cell: CellId, missing: SequencerHeight, from: CelestiaHeight, to: CelestiaHeight, reason: String },
    /// Warn. Trust begins with a header that nobody vouched for. Said once; it is kept.
    TrustedOnFirstUse { height: SequencerHeight, hash: BlockHash, node: Node },
    /// Warn. The same of Celestia.
    CelestiaTrustedOnFirstUse { height: CelestiaHeight, hash: BlockHash },
    /// Error. Validators of the sequencer signed two headers of one height: the proof, which is persisted as well.
    Conflict { evidence: Box<ConflictingHeaders>, node: Node },
    /// Error. Celestia's node answered what the signed header of the height contradicts: the proof, which is persisted as
    /// well. Once for each way to be false; no cell stops for it.
    FalseNamespaces { evidence: Box<FalseNamespaces> },
    /// Error. The sequencer's service answered a block that the signed header of its height contradicts: the same.
    FalseBlock { evidence: Box<FalseBlock> },
    /// Error. The cell stopped for good, with the evidence in the reason.
    Parked { cell: CellId, reason: String },
}

/// Which chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    Sequencer,
    Celestia,
}

/// Which head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Soft,
    Firm,
}

/// What was refused; the label of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Blob,
    Metadata,
    RollupData,
    SoftBlock,
    SignedHeader,
    Validators,
    BlockTransactions,
    CelestiaBlock,
    Witness,
    /// A message that a peer sent, or its answer.
    Gossip,
}

impl Subject {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Blob,
        Self::Metadata,
        Self::RollupData,
        Self::SoftBlock,
        Self::SignedHeader,
        Self::Validators,
        Self::BlockTransactions,
        Self::CelestiaBlock,
        Self::Witness,
        Self::Gossip,
    ];

    /// Name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Metadata => "metadata",
            Self::RollupData => "rollup_data",
            Self::SoftBlock => "soft_block",
            Self::SignedHeader => "signed_header",
            Self::Validators => "validators",
            Self::BlockTransactions => "block_transactions",
            Self::CelestiaBlock => "celestia_block",
            Self::Witness => "witness",
            Self::Gossip => "gossip",
        }
    }
}

/// Why the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The operator asked for it; nothing that has an effect is in flight any more.
    Stopped,
    /// Every cell is parked and the configuration does not say to stay.
    AllCellsParked { reason: String },
}

/// Collects the commands of one step, in the order in which they are to be dispatched.
#[derive(Debug, Default)]
pub struct Outbox {
    commands: VecDeque<Command>,
}

impl Outbox {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    pub fn report(&mut self, report: Report) {
        self.push(Command::Report(report));
    }

    /// Takes all commands out, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.commands.drain(..)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter()
    }

    pub fn len(&self) -> usize {
        self.commands.len()
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_name_in_logs_metrics_and_recordings() {
        for subject in Subject::ALL {
            assert_eq!(serde_json::to_value(subject).expect("JSON"), subject.name());
        }
    }

    #[test]
    fn a_call_is_answered_by_its_own_kind_of_answer_only() {
        let height = SequencerHeight(1);
        let (head, items) =
            (Answer::SequencerHeadFetched { height }, Answer::BlockTransactionsFetched { transactions: vec![] });
        let (asks_head, asks_items) = (Call::FetchSequencerHead, Call::FetchBlockTransactions { height });
        assert!(asks_head.is_answered_by(&head) && asks_items.is_answered_by(&items));
        assert!(!asks_head.is_answered_by(&items) && !asks_items.is_answered_by(&head));
    }

    #[test]
    fn commands_leave_in_the_order_in_which_they_were_wished_for() {
        let mut out = Outbox::new();
        assert!(out.is_empty());
        out.push(Command::Exit(Exit::Stopped));
        out.report(Report::Parked { cell: CellId(1), reason: "told".to_owned() });
        assert_eq!((out.len(), out.is_empty(), out.iter().count()), (2, false, 2));
        let drained: Vec<Command> = out.drain().collect();
        assert!(matches!(drained[..], [Command::Exit(_), Command::Report(_)]));
        assert!(out.is_empty());
    }
}
