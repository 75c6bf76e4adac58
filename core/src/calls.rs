//! The commands that wait for an answer, and what the answers are for.

use std::collections::BTreeMap;

use crate::{
    canary::{Canary, canary},
    command::{Call, Command, Outbox},
    gossip::GossipHandle,
    ids::{CelestiaHeight, CellId, CommandId, Node, SequencerHeight},
    job::Job,
    time::Timestamp,
};

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    SequencerIdentity,
    SequencerHead,
    SoftBlock(SequencerHeight),
    SoftBlockJob(SequencerHeight),
    Header(SequencerHeight),
    Validators(SequencerHeight),
    HeaderJob(SequencerHeight),
    /// Headers linked to the trusted one at this height.
    Links(SequencerHeight),
    LinksJob(SequencerHeight),
    Transactions(SequencerHeight),
    TransactionsJob(SequencerHeight),
    /// What this node has at the height that it is asked about as a witness.
    Witness(Node),
    WitnessValidators(Node),
    WitnessJob(Node),
    /// The commit of a header that a soft block contradicts.
    FalseBlockHeader,
    FalseBlockValidators,
    FalseBlockJob,
    CelestiaHead,
    Blobs(CelestiaHeight),
    BlobsJob(CelestiaHeight),
    /// A header on the way to others.
    CelestiaHeader(CelestiaHeight),
    CelestiaHeaderJob(CelestiaHeight),
    /// Headers that lead down from the trusted one at this height.
    CelestiaLinks(CelestiaHeight),
    CelestiaLinksJob(CelestiaHeight),
    /// What becomes of a message.
    GossipJob(GossipHandle),
    /// What a peer has of the block at this height.
    Peers(SequencerHeight),
    PeersJob(SequencerHeight),
    /// Messages about the block at this height.
    MessagesJob(SequencerHeight),
    Session(CellId),
    Execute(CellId),
    Commit(CellId),
    ExecutedBlock(CellId),
}

impl Purpose {
    fn is_of_rollup(self) -> bool {
        matches!(self, Self::Session(_) | Self::Execute(_) | Self::Commit(_) | Self::ExecutedBlock(_))
    }

    /// For the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SequencerIdentity => "sequencer genesis",
            Self::SequencerHead => "sequencer head",
            Self::SoftBlock(_) | Self::SoftBlockJob(_) => "soft block",
            Self::Header(_) | Self::HeaderJob(_) => "sequencer header",
            Self::Links(_) | Self::LinksJob(_) => "sequencer headers",
            Self::Validators(_) => "validator set",
            Self::Transactions(_) | Self::TransactionsJob(_) => "sequencer block data",
            Self::Witness(_) | Self::WitnessValidators(_) | Self::WitnessJob(_) => "witness",
            Self::FalseBlockHeader | Self::FalseBlockValidators | Self::FalseBlockJob => "evidence of a false block",
            Self::CelestiaHead => "celestia head",
            Self::Blobs(_) | Self::BlobsJob(_) => "celestia blobs",
            Self::CelestiaHeader(_) | Self::CelestiaHeaderJob(_) => "celestia header",
            Self::CelestiaLinks(_) | Self::CelestiaLinksJob(_) => "celestia headers",
            Self::GossipJob(_) => "message",
            Self::Peers(_) | Self::PeersJob(_) => "block of a peer",
            Self::MessagesJob(_) => "messages",
            Self::Session(_) => "execution session",
            Self::Execute(_) => "block execution",
            Self::Commit(_) => "commitment update",
            Self::ExecutedBlock(_) => "executed block",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) purpose: Purpose,
    /// Jobs have none.
    pub(crate) deadline: Option<Timestamp>,
    /// Kept to tell a wrong kind of answer; large requests are not kept.
    pub(crate) expects: Expects,
}

/// The kind of answer that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    Answer,
    Outcome,
}

/// All commands in flight, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    incarnation: u64,
    next: u64,
    pending: BTreeMap<u64, Pending>,
}

impl Calls {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self { incarnation, next: 0, pending: BTreeMap::new() }
    }

    fn register(&mut self, purpose: Purpose, deadline: Option<Timestamp>, expects: Expects) -> CommandId {
        let id = CommandId { incarnation: self.incarnation, ordinal: self.next };
        self.next = self.next.saturating_add(1);
        self.pending.insert(id.ordinal, Pending { purpose, deadline, expects });
        id
    }

    pub(crate) fn call(&mut self, purpose: Purpose, deadline: Timestamp, call: Call, out: &mut Outbox) -> CommandId {
        self.call_node(purpose, deadline, call, Node::default(), out)
    }

    /// A call to one of several nodes.
    pub(crate) fn call_node(
        &mut self,
        purpose: Purpose,
        deadline: Timestamp,
        call: Call,
        node: Node,
        out: &mut Outbox,
    ) -> CommandId {
        let id = self.register(purpose, Some(deadline), Expects::Answer);
        out.push(Command::Call { id, deadline, call, node });
        id
    }

    pub(crate) fn verify(&mut self, purpose: Purpose, job: Job, out: &mut Outbox) -> CommandId {
        let id = self.register(purpose, None, Expects::Outcome);
        out.push(Command::Verify { id, job });
        id
    }

    pub(crate) fn get(&self, id: CommandId) -> Option<&Pending> {
        self.pending.get(&id.ordinal).filter(|_| id.incarnation == self.incarnation)
    }

    pub(crate) fn take(&mut self, id: CommandId) -> Option<Pending> {
        if id.incarnation == self.incarnation { self.pending.remove(&id.ordinal) } else { None }
    }

    /// The deadline has come.
    pub(crate) fn give_up(&mut self, id: CommandId) -> Option<Pending> {
        if canary(Canary::OldSessionAnswered)
            && let Some(pending) = self.pending.get_mut(&id.ordinal)
        {
            pending.deadline = None;
            return Some(pending.clone());
        }
        self.take(id)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn cancel(&mut self, id: CommandId, out: &mut Outbox) {
        if self.take(id).is_some() {
            out.push(Command::Cancel { id });
        }
    }

    /// Commands for a purpose that matches.
    pub(crate) fn matching(&self, matches: impl Fn(Purpose) -> bool) -> Vec<CommandId> {
        self.pending
            .iter()
            .filter(|(_, pending)| matches(pending.purpose))
            .map(|(ordinal, _)| CommandId { incarnation: self.incarnation, ordinal: *ordinal })
            .collect()
    }

    /// Commands whose deadline has come.
    pub(crate) fn overdue(&self, now: Timestamp) -> Vec<CommandId> {
        self.pending
            .iter()
            .filter(|(_, pending)| pending.deadline.is_some_and(|deadline| deadline <= now))
            .filter(|(_, pending)| !(canary(Canary::DeadlineForgotten) && pending.purpose.is_of_rollup()))
            .map(|(ordinal, _)| CommandId { incarnation: self.incarnation, ordinal: *ordinal })
            .collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<(Timestamp, Purpose)> {
        let of_all = self.pending.values().filter_map(|pending| Some((pending.deadline?, pending.purpose)));
        of_all.filter(|(_, purpose)| !(canary(Canary::DeadlineForgotten) && purpose.is_of_rollup())).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
}
