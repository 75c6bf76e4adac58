//! Trusted headers by height.
//!
//! The one place that decides which headers are believed: [`Headers::trusted`]. Today headers and validator sets come
//! from the configured CometBFT node (`trust = "endpoint"`), each commit checked against the set that its header names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tendermint::{block::signed_header::SignedHeader, validator};

use crate::{
    celestia::Evidence,
    command::HEADERS_MAX,
    ids::SequencerHeight,
    limits::Limits,
    merkle::Hash,
    retry::Attempt,
    sequencer::{TrustedHeader, ValidatorSet},
    time::Timestamp,
    verified::Verified,
};

/// Headers that are trusted, being fetched, or wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers {
    trusted: BTreeMap<SequencerHeight, Verified<TrustedHeader>>,
    pub(crate) wanted: BTreeMap<SequencerHeight, Want>,
    /// Headers being linked to a trusted one, by the height of that.
    pub(crate) links: BTreeMap<SequencerHeight, Links>,
    /// Times in a row that linking failed.
    links_failed: u32,
    /// Until then every header gets a commit of its own.
    links_paused_until: Timestamp,
    /// Sets that signed a trusted header, oldest first.
    sets: Vec<Arc<ValidatorSet>>,
    /// Data items of blocks whose metadata cannot be bound without: fetched on demand, dropped when they were used,
    /// except for the heights that firm needs next.
    pub(crate) transactions: BTreeMap<SequencerHeight, Transactions>,
}

/// A header on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Want {
    pub(crate) attempt: Attempt,
    pub(crate) stage: Stage,
}

/// How far a wanted header is.
#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    /// Header and commit are to be fetched.
    #[default]
    Header,
    /// The validator set that the header names is to be found.
    Validators(Box<SignedHeader>),
    /// The commit is to be checked against a fetched set.
    Verify(Box<SignedHeader>, Vec<validator::Info>),
    /// The commit is being checked.
    Verifying,
}

/// Headers below a trusted one on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    pub(crate) attempt: Attempt,
    pub(crate) first: SequencerHeight,
}

/// How wanted headers are to be got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    /// By a commit of their own.
    pub(crate) commits: BTreeSet<SequencerHeight>,
    /// By hash links: trusted height, and the lowest height wanted below it.
    pub(crate) links: BTreeMap<SequencerHeight, SequencerHeight>,
}

/// Failures in a row after which linking rests, and for how long: not every proxy serves `blockchain`.
const LINKS_FAILED_MAX: u32 = 2;
const LINKS_PAUSE: Duration = Duration::from_mins(1);

/// Data items of one block on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transactions {
    pub(crate) attempt: Attempt,
    pub(crate) items: Option<Vec<Bytes>>,
}

impl Headers {
    /// The seam: whatever the trust model, this is the only way to a trusted header.
    pub(crate) fn trusted(&self, height: SequencerHeight) -> Option<&Verified<TrustedHeader>> {
        self.trusted.get(&height)
    }

    /// Whether a header is trusted and nothing more about its height is on its way.
    pub(crate) fn is_settled(&self, height: SequencerHeight) -> bool {
        self.trusted.contains_key(&height)
            && self.transactions.get(&height).is_none_or(|transactions| transactions.items.is_some())
    }

    /// What is known about a height.
    pub(crate) fn evidence(&self, height: SequencerHeight) -> Evidence {
        Evidence {
            header: self.trusted.contains_key(&height),
            transactions: self.transactions.get(&height).is_some_and(|transactions| transactions.items.is_some()),
        }
    }

    /// Data items of the heights in a range, as far as they are known.
    pub(crate) fn known_transactions(
        &self,
        first: SequencerHeight,
        last: SequencerHeight,
    ) -> BTreeMap<SequencerHeight, Vec<Bytes>> {
        let known = self.transactions.range(first..=last);
        known.filter_map(|(height, transactions)| Some((*height, transactions.items.clone()?))).collect()
    }

    pub(crate) fn all_trusted(&self) -> &BTreeMap<SequencerHeight, Verified<TrustedHeader>> {
        &self.trusted
    }

    /// The set with this hash, if it signed a header before.
    pub(crate) fn set(&self, hash: &Hash) -> Option<&Arc<ValidatorSet>> {
        self.sets.iter().find(|set| set.hash() == *hash)
    }

    /// How many validator sets are kept.
    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Whether a fetch of the set with this hash is under way.
    pub(crate) fn is_fetching_set(&self, hash: &Hash) -> bool {
        self.wanted.values().any(|want| {
            let in_flight = want.attempt.is_in_flight();
            match &want.stage {
                Stage::Validators(signed_header) => in_flight && validators_hash(signed_header) == Some(*hash),
                _ => false,
            }
        })
    }

    /// A header passed verification against `set`.
    pub(crate) fn verified(&mut self, header: Verified<TrustedHeader>, set: Arc<ValidatorSet>, limits: &Limits) {
        if self.set(&set.hash()).is_none() {
            self.sets.push(set);
            if self.sets.len() > limits.validator_sets.max(1) {
                self.sets.remove(0);
            }
        }
        self.wanted.remove(&header.height());
        self.trusted.insert(header.height(), header);
    }

    /// Chooses for each wanted height how its header is got. One commit proves a whole stretch of headers: the highest
    /// wanted one of a stretch gets a commit, the others are linked to it. A stretch that is not full waits for more
    /// until it is urgent.
    pub(crate) fn routes(
        &self,
        wanted: &BTreeSet<SequencerHeight>,
        is_urgent: impl Fn(SequencerHeight) -> bool,
        now: Timestamp,
    ) -> Routes {
        let mut routes = Routes::default();
        if now < self.links_paused_until {
            routes.commits.clone_from(wanted);
            return routes;
        }
        let mut rest = BTreeSet::new();
        for height in wanted {
            let above = self.trusted.range(height.next()..=height.plus(HEADERS_MAX)).next();
            match above {
                Some((anchor, _)) => {
                    routes.links.entry(*anchor).or_insert(*height);
                }
                None => {
                    rest.insert(*height);
                }
            }
        }
        while let Some(first) = rest.pop_first() {
            let top = rest.range(..=first.plus(HEADERS_MAX)).next_back().copied().unwrap_or(first);
            if top < first.plus(HEADERS_MAX) && !is_urgent(first) && !self.wanted.contains_key(&top) {
                continue;
            }
            routes.commits.insert(top);
            if self.wanted.get(&top).is_some_and(|want| want.attempt.failures() >= LINKS_FAILED_MAX) {
                // Nothing waits for long for a commit that does not come.
                routes.commits.insert(first);
            }
            rest = rest.split_off(&top.next());
        }
        routes
    }

    pub(crate) fn linked(&mut self, anchor: SequencerHeight, headers: &[Verified<TrustedHeader>]) {
        self.links.remove(&anchor);
        self.links_failed = 0;
        for header in headers {
            self.trusted.insert(header.height(), header.clone());
        }
    }

    pub(crate) fn links_failed(&mut self, now: Timestamp) {
        self.links_failed = self.links_failed.saturating_add(1);
        if self.links_failed >= LINKS_FAILED_MAX {
            self.links_failed = 0;
            self.links_paused_until = now.after(LINKS_PAUSE);
        }
    }

    /// Keeps the number of trusted headers in bounds. The farthest goes first, and never one that firm needs `next`
    /// (one per cell at most). To be called after the new header was used.
    pub(crate) fn make_room(&mut self, next: &BTreeSet<SequencerHeight>, limits: &Limits) {
        while self.trusted.len() > limits.trusted_headers.max(1) {
            let Some(farthest) = self.trusted.keys().rev().find(|height| !next.contains(*height)).copied() else {
                break;
            };
            self.trusted.remove(&farthest);
        }
    }

    /// `next` are the heights that firm needs next, one per cell at most: no header below all of them is needed, and no
    /// data items but theirs are kept. What is on its way stays, for it counts as such until it has come or failed.
    pub(crate) fn forget_passed(&mut self, next: &BTreeSet<SequencerHeight>) {
        let Some(lowest) = next.first() else { return };
        self.trusted = self.trusted.split_off(lowest);
        self.transactions.retain(|height, pending| match &pending.items {
            None => height >= lowest || pending.attempt.is_in_flight(),
            Some(_) => next.contains(height),
        });
    }
}

/// The hash of the set that signs a header, as the header says.
pub(crate) fn validators_hash(signed_header: &SignedHeader) -> Option<Hash> {
    Hash::try_from(signed_header.header.validators_hash.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CommandId;

    #[test]
    fn data_items_that_one_cell_has_used_are_not_kept_because_another_is_behind() {
        let (behind, ahead) = (SequencerHeight(10), SequencerHeight(500));
        let mut headers = Headers::default();
        let fetched = || Transactions { items: Some(Vec::new()), ..Transactions::default() };
        headers.transactions.extend((490..=500).map(|height| (SequencerHeight(height), fetched())));
        headers.transactions.insert(SequencerHeight(8), Transactions::default());
        headers.transactions.insert(SequencerHeight(9), Transactions::default());
        headers.transactions.insert(SequencerHeight(11), Transactions::default());
        let asked = CommandId { incarnation: 1, ordinal: 1 };
        headers.transactions.entry(SequencerHeight(9)).or_default().attempt.started(asked);
        headers.forget_passed(&BTreeSet::from([behind, ahead]));
        let kept: Vec<u64> = headers.transactions.keys().map(|height| height.0).collect();
        assert_eq!(kept, [9, 11, 500], "what is on its way, and what is needed next");
    }
}
