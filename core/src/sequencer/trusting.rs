//! How far trust in the sequencer's validators has come, what of it is to be persisted, and what witnesses say.

use std::sync::Arc;

use crate::{
    canary::{Canary, canary},
    ids::Node,
    light::{Check, Client, ConflictingHeaders, Keeper, LightBlock, RootSetting, Trust, TrustedRecord, TrustedState},
    limits::Limits,
    record::Record,
    sequencer::witness::{Reached, Witnesses},
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
    pub(crate) witnesses: Witnesses,
    /// The newest state that another node has as well, or that was configured: where the next life begins.
    vouched_for: Option<TrustedState>,
}

impl Trusting {
    /// As configured, or where an earlier life got to. None with `trust = "endpoint"`.
    pub(crate) fn restored(limits: &Limits, records: &[Record]) -> Option<Self> {
        if limits.trust.level == Trust::Endpoint {
            return None;
        }
        let record = records.iter().find_map(|record| match record {
            Record::SequencerHeader(record) => Some(record),
            _ => None,
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
            _ => None,
        });
        let conflicts = conflicts.filter(|_| !canary(Canary::ConflictForgotten));
        conflicts.filter(|conflict| conflict.height >= settled).max_by_key(|conflict| conflict.height).cloned()
    }

    /// `record` is what an earlier run persisted. A configured root that is higher goes before it.
    fn new(limits: &Limits, record: Option<&TrustedRecord>) -> Self {
        let (client, keeper) = Keeper::restore(limits.trust.options(), &limits.trust.root, limits.validators, record);
        let vouched_for = client.newest().cloned();
        Self { client, begins_at_head: false, keeper, witnesses: Witnesses::default(), vouched_for }
    }

    /// A header was reached by signatures from `check`, shown by `node`.
    pub(crate) fn accept(&mut self, block: &Verified<LightBlock>, check: &Check, node: Node, nodes: u32) {
        self.client.accept(block);
        let reached = Arc::new(Reached { block: block.clone(), check: check.clone() });
        // Whom to believe when nothing is trusted yet, no witness can say; and nobody has to confirm the operator's root.
        let is_first = matches!(check, Check::FirstUse { .. } | Check::Root { .. });
        if is_first || nodes < 2 {
            self.vouch_for(&reached);
        }
        if !is_first {
            self.witnesses.offer(&reached, node, nodes);
        }
    }

    /// Another node has the same header.
    pub(crate) fn vouch_for(&mut self, reached: &Reached) {
        if self.vouched_for.as_ref().is_none_or(|known| known.height() < reached.height().0) {
            self.vouched_for = Some(TrustedState::of_block(&reached.block));
        }
    }

    /// What is to be persisted now: the first state at once, later ones now and then. A header that no witness has seen
    /// would be taken for granted by the next life: it is kept only where trust would run out for want of witnesses.
    pub(crate) fn record(&mut self, now: Timestamp, limits: &Limits, is_last: bool) -> Option<TrustedRecord> {
        if canary(Canary::ActedBeforePersisted) && !is_last {
            return None;
        }
        let mut soon = limits.trust.options();
        soon.trusting_period /= 3;
        let vouched_for = self.vouched_for.as_ref().filter(|state| !state.is_expired(&soon, now));
        let state = vouched_for.or_else(|| self.client.newest())?;
        self.keeper.record(state, now, limits.persist_period, is_last)
    }

    /// The height up to which trust has come.
    pub(crate) fn newest(&self) -> Option<&TrustedState> {
        self.client.newest()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        ids::BlockHash,
        light::SignedBlock,
        sequencer::ValidatorSet,
        testing::{CHAIN, Made, block, block_after},
    };

    const NODES: u32 = 2;

    fn light(made: &Made) -> Verified<LightBlock> {
        let set = Arc::new(ValidatorSet::new(made.validators.clone(), 100).expect("a set"));
        LightBlock::unchecked(made.signed.clone(), set)
    }

    #[test]
    fn the_next_life_begins_with_a_header_that_another_node_has_or_the_newest_before_trust_runs_out() {
        let mut limits = Limits { persist_period: Duration::ZERO, ..Limits::default() };
        limits.trust.level = Trust::Consensus;
        limits.trust.nodes = NODES;
        let period = Duration::from_hours(3);
        limits.trust.trusting_period = period;
        let mut trusting = Trusting::restored(&limits, &[]).expect("with trust in consensus");
        let first = block(5, &[]);
        let second = block_after(&first, &[]);
        let made = first.signed.header.time.unix_timestamp_nanos();
        let made = Timestamp(u64::try_from(made).expect("after 1970"));
        let record = |trusting: &mut Trusting, after: Duration| {
            Some(trusting.record(made.after(after), &limits, false)?.height())
        };
        assert_eq!(record(&mut trusting, Duration::ZERO), None, "nothing is trusted");
        trusting.accept(&light(&first), &Check::FirstUse { chain_id: String::new() }, Node(0), NODES);
        assert_eq!(record(&mut trusting, Duration::ZERO), Some(5), "what trust begins with is kept at once");
        let state = trusting.newest().cloned().expect("trusted");
        trusting.accept(&light(&second), &Check::From(Box::new(state)), Node(0), NODES);
        assert_eq!(record(&mut trusting, Duration::ZERO), None, "nobody has confirmed it");
        let mut alone = trusting.clone();
        assert_eq!(record(&mut alone, period / 3), Some(6), "and nobody will");
        let witness = trusting.witnesses.of(Node(1)).expect("the other node");
        assert!(witness.step(made).is_some());
        let reached = witness.compared(made).expect("compared");
        trusting.vouch_for(&reached);
        assert_eq!(record(&mut trusting, Duration::ZERO), Some(6));
    }

    #[test]
    fn with_one_node_nobody_has_to_confirm_a_header() {
        let mut limits = Limits { persist_period: Duration::ZERO, ..Limits::default() };
        limits.trust.level = Trust::Consensus;
        let mut trusting = Trusting::restored(&limits, &[]).expect("with trust in consensus");
        let first = block(5, &[]);
        trusting.accept(&light(&first), &Check::FirstUse { chain_id: String::new() }, Node(0), 1);
        let state = trusting.newest().cloned().expect("trusted");
        trusting.accept(&light(&block_after(&first, &[])), &Check::From(Box::new(state)), Node(0), 1);
        let record = trusting.record(first.moment(), &limits, false).expect("something is trusted");
        assert_eq!((record.height(), trusting.witnesses.attempts().count()), (6, 0));
    }

    #[test]
    fn evidence_of_an_earlier_life_stands_until_a_root_above_it_is_configured() {
        let conflict = |height| {
            let Made { signed, validators, .. } = block(height, &[]);
            let block = SignedBlock { signed_header: signed, validators };
            let conflict =
                ConflictingHeaders { chain_id: CHAIN.to_owned(), height, trusted: block.clone(), other: block };
            Record::SequencerConflict(Box::new(conflict))
        };
        let records = [conflict(5), conflict(9), conflict(7)];
        let unresolved = |level, root| {
            let mut limits = Limits::default();
            (limits.trust.level, limits.trust.root) = (level, root);
            Trusting::unresolved(&limits, &records).map(|conflict| conflict.height)
        };
        let root = |height| RootSetting::Header { height, hash: BlockHash([1; 32]) };
        assert_eq!(unresolved(Trust::Consensus, RootSetting::FirstUse), Some(9), "the highest");
        assert_eq!(unresolved(Trust::Consensus, root(9)), Some(9));
        assert_eq!(unresolved(Trust::Consensus, root(10)), None);
        assert_eq!(unresolved(Trust::Endpoint, RootSetting::FirstUse), None, "nothing is trusted");
    }
}
