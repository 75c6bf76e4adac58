//! How far trust in the sequencer's validators has come, what of it is to be persisted, and what witnesses say.

use std::time::Duration;

use tendermint::{block::signed_header::SignedHeader, validator};

use crate::{
    canary::{Canary, canary},
    ids::{CommandId, Node},
    light::{Check, Client, ConflictingHeaders, Keeper, LightBlock, RootSetting, Trust, TrustedRecord, TrustedState},
    limits::Limits,
    record::Record,
    retry::Attempt,
    time::Timestamp,
    verified::Verified,
};

/// The light client of the sequencer chain, and what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Trusting {
    pub(crate) client: Client,
    /// With trust on first use: what lies lower is too old to begin with.
    pub(crate) begins_at_head: bool,
    keeper: Keeper,
    /// The newest block that no witness has compared yet.
    unseen: Option<Box<Unseen>>,
    pub(crate) witness: Option<Witness>,
    /// When a witness may be asked again after one has failed.
    pub(crate) asking: Attempt,
    /// Who was asked last.
    last_witness: Node,
}

/// A block to be compared: what it followed from, and who showed it.
#[derive(Clone, Debug)]
pub(crate) struct Unseen {
    pub(crate) block: Verified<LightBlock>,
    pub(crate) check: Check,
    shown_by: Node,
}

/// A witness that is being asked.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    pub(crate) node: Node,
    pub(crate) about: Box<Unseen>,
    pub(crate) stage: WitnessStage,
    pub(crate) in_flight: Option<CommandId>,
}

#[derive(Clone, Debug)]
pub(crate) enum WitnessStage {
    /// Its header and commit are being fetched.
    Header,
    /// It has another header: the set that signed that is needed.
    Validators(Box<SignedHeader>),
    /// To be compared.
    Compare(Box<SignedHeader>, Vec<validator::Info>),
    Comparing,
}

impl Trusting {
    /// As configured, or where an earlier life got to. None with `trust = "endpoint"`.
    pub(crate) fn restored(limits: &Limits, records: &[Record]) -> Option<Self> {
        if limits.trust.level == Trust::Endpoint {
            return None;
        }
        let record = records.iter().find_map(|record| match record {
            Record::SequencerHeader(record) => Some(record),
            Record::SequencerConflict(_) | Record::CelestiaHeader(_) => None,
        });
        Some(Self::new(limits, record.filter(|_| !canary(Canary::RecordIgnored))))
    }

    /// Evidence that concerns what is trusted: a root that is configured above it settles it.
    pub(crate) fn unresolved(limits: &Limits, records: &[Record]) -> Option<Box<ConflictingHeaders>> {
        let settled = match &limits.trust.root {
            _ if limits.trust.level == Trust::Endpoint => u64::MAX,
            RootSetting::Header { height, .. } => *height,
            RootSetting::FirstUse | RootSetting::Genesis(_) => 0,
        };
        let conflicts = records.iter().filter_map(|record| match record {
            Record::SequencerConflict(conflict) => Some(conflict),
            Record::SequencerHeader(_) | Record::CelestiaHeader(_) => None,
        });
        let conflicts = conflicts.filter(|_| !canary(Canary::ConflictForgotten));
        conflicts.filter(|conflict| conflict.height >= settled).max_by_key(|conflict| conflict.height).cloned()
    }

    /// `record` is what an earlier run persisted. A configured root that is higher goes before it.
    fn new(limits: &Limits, record: Option<&TrustedRecord>) -> Self {
        let (client, keeper) = Keeper::restore(limits.trust.options(), &limits.trust.root, limits.validators, record);
        Self {
            client,
            begins_at_head: false,
            keeper,
            unseen: None,
            witness: None,
            asking: Attempt::default(),
            last_witness: Node::default(),
        }
    }

    /// A header was reached by signatures from `check`, shown by `node`.
    pub(crate) fn accept(&mut self, block: &Verified<LightBlock>, check: &Check, node: Node) {
        self.client.accept(block);
        // Whom to believe when nothing is trusted yet, no witness can say.
        if !matches!(check, Check::FirstUse { .. }) {
            self.offer(Unseen { block: block.clone(), check: check.clone(), shown_by: node });
        }
    }

    fn offer(&mut self, about: Unseen) {
        if self.unseen.as_ref().is_none_or(|unseen| unseen.block.height() < about.block.height()) {
            self.unseen = Some(Box::new(about));
        }
    }

    /// A witness could not say anything: another one, or the same once more, is asked after `delay`.
    pub(crate) fn witness_failed(&mut self, now: Timestamp, delay: Duration) {
        if let Some(witness) = self.witness.take() {
            self.offer(*witness.about);
        }
        self.asking.failed(now, delay);
    }

    /// When a witness wants to be asked.
    pub(crate) fn asking_due(&self, nodes: u32) -> Option<&Attempt> {
        (nodes > 1 && self.unseen.is_some() && self.witness.is_none()).then_some(&self.asking)
    }

    /// The next witness to be asked, if there is anything to ask about.
    pub(crate) fn next_witness(&mut self, nodes: u32, now: Timestamp) -> Option<&mut Witness> {
        if self.witness.is_some() || nodes < 2 || !self.asking.is_due(now) {
            return None;
        }
        let about = self.unseen.take()?;
        let mut node = self.last_witness.next(nodes);
        if node == about.shown_by {
            node = node.next(nodes);
        }
        self.last_witness = node;
        Some(self.witness.insert(Witness { node, about, stage: WitnessStage::Header, in_flight: None }))
    }

    /// What is to be persisted now: the first state at once, later ones now and then.
    pub(crate) fn record(&mut self, now: Timestamp, limits: &Limits, is_last: bool) -> Option<TrustedRecord> {
        if canary(Canary::ActedBeforePersisted) && !is_last {
            return None;
        }
        self.keeper.record(&self.client, now, limits.persist_period, is_last)
    }

    /// The height up to which trust has come.
    pub(crate) fn newest(&self) -> Option<&TrustedState> {
        self.client.newest()
    }
}
