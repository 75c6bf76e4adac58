//! Trusted headers by height.
//!
//! The one place that decides which headers are believed: [`Headers::trusted`]. With `trust = "consensus"` each one is
//! reached from the root by signatures ([`Trusting`]) or by hashes from one above; with `trust = "endpoint"` each commit
//! is checked against the set that its own header names, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tendermint::{
    block::{Header, signed_header::SignedHeader},
    validator,
};

use crate::{
    canary::{Canary, canary},
    celestia::Evidence,
    command::HEADERS_MAX,
    ids::{BlockHash, Node, SequencerHeight},
    light::{Refusal, Wish},
    limits::Limits,
    merkle::Hash,
    retry::Attempt,
    sequencer::{Content, ContentDigest, TrustedHeader, ValidatorSet, header_hash, trusting::Trusting},
    time::Timestamp,
    verified::Verified,
};

/// Headers that are trusted, being fetched, or wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers {
    trusted: BTreeMap<SequencerHeight, Verified<TrustedHeader>>,
    /// Headers far above all that are needed, from which those in between are linked: a way down is gone only once.
    waypoints: BTreeMap<SequencerHeight, Verified<TrustedHeader>>,
    /// None with `trust = "endpoint"`.
    pub(crate) trusting: Option<Trusting>,
    /// The CometBFT node that is asked. The next one is when it fails or does not tell the truth.
    pub(crate) node: Node,
    /// The newest height that each node has said to have. Absent: nothing, or it did not have what it said to have.
    claims: BTreeMap<Node, Option<SequencerHeight>>,
    pub(crate) wanted: BTreeMap<SequencerHeight, Want>,
    /// Headers being linked to a trusted one, by the height of that.
    pub(crate) links: BTreeMap<SequencerHeight, Links>,
    /// Times in a row that linking failed.
    links_failed: u32,
    /// Until then every header gets a commit of its own.
    links_paused_until: Timestamp,
    /// Sets that signed a trusted header, oldest first.
    sets: Vec<Arc<ValidatorSet>>,
    /// Content of blocks whose metadata cannot be bound without. Data items are fetched on demand and dropped when they
    /// were used, except for the heights that firm needs next; what peers have shown is small and stays until firm has passed.
    pub(crate) transactions: BTreeMap<SequencerHeight, Transactions>,
}

/// A header on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Want {
    pub(crate) attempt: Attempt,
    pub(crate) stage: Stage,
    /// Who was asked.
    pub(crate) node: Node,
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
    pub(crate) node: Node,
    /// One header is asked for, with its commit: the node does not serve several.
    pub(crate) is_single: bool,
}

/// How wanted headers are to be got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    /// By a commit of their own.
    pub(crate) commits: BTreeSet<SequencerHeight>,
    /// By hash links: trusted height, and the lowest height wanted below it.
    pub(crate) links: BTreeMap<SequencerHeight, SequencerHeight>,
    /// Commits that some cell cannot do without for its next block.
    pub(crate) essential: BTreeSet<SequencerHeight>,
    /// Nothing more can be trusted, and why.
    pub(crate) expired: Option<Refusal>,
}

/// Waypoints kept, and how far above what is needed all are.
const WAYPOINTS: usize = 1_024;
const WAYPOINTS_NEAR: u64 = 8_192;

/// So far below a header that gets a commit others are linked to it: one check of signatures for 121 headers. What is
/// needed first comes last, after six answers, which is why headers are wanted twice as far ahead.
pub(crate) const SPAN: u64 = 6 * HEADERS_MAX;

/// Failures in a row after which linking rests, and for how long: not every proxy serves `blockchain`.
const LINKS_FAILED_MAX: u32 = 2;
const LINKS_PAUSE: Duration = Duration::from_mins(1);

/// Content of one block, there or on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transactions {
    pub(crate) attempt: Attempt,
    pub(crate) content: Option<Content>,
    pub(crate) node: Node,
}

impl Headers {
    pub(crate) fn new(trusting: Option<Trusting>) -> Self {
        Self { trusting, ..Self::default() }
    }

    /// The seam: whatever the trust model, this is the only way to a trusted header.
    pub(crate) fn trusted(&self, height: SequencerHeight) -> Option<&Verified<TrustedHeader>> {
        self.trusted.get(&height)
    }

    /// The trusted header at `height`, also where it is kept only for others to be linked to it.
    pub(crate) fn anchor(&self, height: SequencerHeight) -> Option<&Verified<TrustedHeader>> {
        let known = self.trusted.get(&height).or_else(|| self.waypoints.get(&height));
        known.or_else(|| self.anchor_above(height.minus(1)).filter(|header| header.height() == height))
    }

    /// The hash of the header at `height`, where it is trusted or a trusted one above names it.
    pub(crate) fn hash_at(&self, height: SequencerHeight) -> Option<BlockHash> {
        if let Some(header) = self.anchor(height) {
            return Some(header.hash());
        }
        let below = self.anchor(height.next())?.header().last_block_id?;
        below.hash.as_bytes().try_into().ok().map(BlockHash)
    }

    /// The lowest trusted header above `height`, however far.
    pub(crate) fn anchor_above(&self, height: SequencerHeight) -> Option<&Verified<TrustedHeader>> {
        let above = height.next()..;
        let trusted = self.trusted.range(above.clone()).next().map(|(_, header)| header);
        let waypoint = self.waypoints.range(above).next().map(|(_, header)| header);
        let state = self.trusting.as_ref().and_then(|trusting| trusting.client.above(height.0)?.header());
        [trusted, waypoint, state].into_iter().flatten().min_by_key(|header| header.height())
    }

    /// How many headers are kept far above what is needed, and how many there may be.
    pub(crate) fn waypoints(&self) -> (usize, usize) {
        (self.waypoints.len(), WAYPOINTS)
    }

    /// Another node is to be asked from now on, unless that is so already.
    pub(crate) fn give_up_on(&mut self, node: Node, limits: &Limits) {
        if self.node == node && !canary(Canary::PrimaryNeverReplaced) {
            self.node = node.next(limits.trust.nodes);
        }
    }

    /// A node says that it has the blocks up to `height`. What others did not have is asked for again.
    pub(crate) fn claimed(&mut self, node: Node, height: SequencerHeight, now: Timestamp) {
        let before = match self.claims.insert(node, Some(height)) {
            None => SequencerHeight(0),
            // It did not have what it said before: nothing of it is tried again at once.
            Some(None) => return,
            Some(Some(before)) => before,
        };
        if height <= before {
            self.claims.insert(node, Some(before));
            return;
        }
        for want in self.wanted.range_mut(before.next()..=height).map(|(_, want)| want) {
            if want.node != node && matches!(want.stage, Stage::Header) && !want.attempt.is_in_flight() {
                want.attempt.answered(now);
            }
        }
    }

    /// A node did not show the header at `height`. If it said to have it, that counts no more until it says so again.
    pub(crate) fn doubt(&mut self, node: Node, height: SequencerHeight) {
        if let Some(claim) = self.claims.get_mut(&node)
            && claim.is_some_and(|claim| claim >= height)
        {
            *claim = None;
        }
    }

    /// The highest height that a node says to have, of those that have shown what they said to have.
    pub(crate) fn head(&self) -> Option<SequencerHeight> {
        self.claims.values().flatten().max().copied()
    }

    /// Whom to ask for something of `height`, which `attempt` stands for and `asked` was asked for last: the first node
    /// that says to have it, beginning with the one that is asked for everything or, after a failure, with the one behind
    /// that which failed. A node that is behind is not asked in vain, one that says to have what nobody has does not make
    /// the others look bad, and what fails at one node is not asked of it again because something else failed at another.
    pub(crate) fn whom(&self, height: SequencerHeight, attempt: &Attempt, asked: Node, limits: &Limits) -> Node {
        let nodes = limits.trust.nodes;
        let failed = attempt.failures() > 0 && !canary(Canary::PrimaryNeverReplaced);
        let first = if failed { asked.next(nodes) } else { self.node };
        let all = std::iter::successors(Some(first), |node| Some(node.next(nodes)));
        let has = |node: &Node| self.claims.get(node).copied().flatten().is_some_and(|claim| claim >= height);
        all.take(usize::try_from(nodes).unwrap_or(usize::MAX)).find(has).unwrap_or(first)
    }

    /// Whether a header is trusted and nothing more about its height is on its way.
    pub(crate) fn is_settled(&self, height: SequencerHeight) -> bool {
        self.trusted.contains_key(&height)
            && self.transactions.get(&height).is_none_or(|transactions| transactions.content.is_some())
    }

    /// What is known about a height.
    pub(crate) fn evidence(&self, height: SequencerHeight) -> Evidence {
        Evidence { header: self.trusted.contains_key(&height), content: self.content(height).is_some() }
    }

    /// Content of the block of a height, if it is known.
    pub(crate) fn content(&self, height: SequencerHeight) -> Option<&Content> {
        self.transactions.get(&height).and_then(|transactions| transactions.content.as_ref())
    }

    /// Data items of the block of a height, if they were fetched.
    pub(crate) fn items(&self, height: SequencerHeight) -> Option<&[Bytes]> {
        match self.content(height) {
            Some(Content::Items(items)) => Some(items),
            Some(Content::Bound(_)) | None => None,
        }
    }

    /// Whether the content of a block is wanted and not there.
    pub(crate) fn lacks_content(&self, height: SequencerHeight) -> bool {
        self.transactions.get(&height).is_some_and(|transactions| transactions.content.is_none())
    }

    /// Heights from `first` on of whose blocks the content is wanted and not there, lowest first.
    pub(crate) fn without_content(&self, first: SequencerHeight) -> impl Iterator<Item = SequencerHeight> + '_ {
        self.transactions.range(first..).filter(|(_, pending)| pending.content.is_none()).map(|(height, _)| *height)
    }

    /// A peer has shown a block. There is room for as many as for headers; the highest goes first, for it can be asked for
    /// again.
    pub(crate) fn content_shown(
        &mut self,
        height: SequencerHeight,
        digest: ContentDigest,
        next: &[SequencerHeight],
        limits: &Limits,
    ) {
        self.transactions.entry(height).or_default().content.get_or_insert(Content::Bound(digest));
        while self.transactions.len() > limits.trusted_headers.max(1) {
            let is_spare = |(height, known): &(&SequencerHeight, &Transactions)| {
                matches!(known.content, Some(Content::Bound(_))) && !next.contains(height)
            };
            let Some(highest) = self.transactions.iter().rev().find(is_spare).map(|(height, _)| *height) else { break };
            self.transactions.remove(&highest);
        }
    }

    /// Content of the blocks in a range, as far as it is known.
    pub(crate) fn known_contents(
        &self,
        first: SequencerHeight,
        last: SequencerHeight,
    ) -> BTreeMap<SequencerHeight, Content> {
        let known = self.transactions.range(first..=last);
        known.filter_map(|(height, transactions)| Some((*height, transactions.content.clone()?))).collect()
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

    /// Believes a header that nobody has checked: what [`Canary::RememberedBeforeVerified`] does.
    pub(crate) fn remember_unverified(&mut self, header: &Header) {
        let header = Verified::new(TrustedHeader::new(header_hash(header), header.clone()));
        self.trusted.insert(header.height(), header);
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
        wanted: &[SequencerHeight],
        is_urgent: impl Fn(SequencerHeight) -> bool,
        now: Timestamp,
    ) -> Routes {
        let mut routes = Routes::default();
        if self.are_links_paused(now) {
            routes.commits.extend(wanted);
            return routes;
        }
        let mut rest = Vec::new();
        // The lowest trusted header above is the same for all heights up to it.
        let mut above: Option<Option<SequencerHeight>> = None;
        for height in wanted.iter().copied() {
            let known = above.filter(|anchor| anchor.is_none_or(|anchor| height < anchor));
            let anchor = known.unwrap_or_else(|| self.anchor_above(height).map(|anchor| anchor.height()));
            above = Some(anchor);
            match anchor.filter(|anchor| *anchor <= height.plus(SPAN)) {
                Some(anchor) => {
                    // What lies further down is linked to the lowest of these, when they are there.
                    routes.links.entry(anchor).or_insert(anchor.minus(HEADERS_MAX).max(height));
                }
                None => rest.push(height),
            }
        }
        let mut rest = &rest[..];
        while let [first, others @ ..] = rest {
            let stretch = others.partition_point(|height| *height <= first.plus(SPAN));
            let top = others[..stretch].last().copied().unwrap_or(*first);
            rest = others;
            if top < first.plus(SPAN) && !is_urgent(*first) && !self.wanted.contains_key(&top) {
                continue;
            }
            routes.commits.insert(top);
            if self.wanted.get(&top).is_some_and(|want| self.does_not_come(want, now)) {
                routes.commits.insert(*first);
            }
            rest = &others[stretch..];
        }
        routes
    }

    /// Nothing waits for long for a commit that does not come: whether the lowest header of its stretch is got beside it.
    ///
    /// Trust begins with one of the two, so before it the other is unwanted, and [`Headers::admit`] forgets that when its
    /// back-off is over. It must not count for longer here, or what is wanted would change with no event to cause it.
    fn does_not_come(&self, want: &Want, now: Timestamp) -> bool {
        let begins = self.trusting.as_ref().is_some_and(|trusting| trusting.client.newest().is_none());
        let failed = want.attempt.failures() >= LINKS_FAILED_MAX;
        failed && (!begins || want.attempt.due().is_some_and(|due| due > now))
    }

    /// Of the `wanted` headers, those that there is room for: what [`Headers::make_room`] would take away at once is not
    /// got, or it would be got again and again.
    pub(crate) fn fitting(
        &self,
        mut wanted: Vec<SequencerHeight>,
        next: &[SequencerHeight],
        limits: &Limits,
    ) -> Vec<SequencerHeight> {
        let most = limits.trusted_headers.max(1);
        if self.trusted.len() + wanted.len() > most {
            let all = self.trusted.keys().chain(&wanted);
            let mut nearest: Vec<_> = all.map(|height| (distance(*height, next), *height)).collect();
            nearest.sort_unstable();
            let kept: BTreeSet<_> = nearest.into_iter().take(most).map(|(_, height)| height).collect();
            wanted.retain(|height| next.contains(height) || kept.contains(height));
        }
        wanted
    }

    /// Of the heights from `first` to `last`, those that are not trusted.
    pub(crate) fn untrusted(
        &self,
        first: SequencerHeight,
        last: SequencerHeight,
    ) -> impl Iterator<Item = SequencerHeight> + '_ {
        let mut trusted = (first <= last).then(|| self.trusted.range(first..=last)).into_iter().flatten().peekable();
        let heights = (first.0..=last.0).map(SequencerHeight);
        heights.filter(move |height| trusted.next_if(|(known, _)| *known == height).is_none())
    }

    /// Of the `wanted` headers, those that are now to be got; `room` says how many may be on their way when one is added.
    ///
    /// One that nobody wants any more is not waited for. That it failed is remembered until it might be asked for again,
    /// or it would be asked for at once if it is wanted once more before that.
    pub(crate) fn admit(
        &mut self,
        wanted: &BTreeSet<SequencerHeight>,
        now: Timestamp,
        room: impl Fn(SequencerHeight) -> usize,
    ) -> Vec<SequencerHeight> {
        let counts = |height: &SequencerHeight, want: &Want| {
            wanted.contains(height) || want.attempt.is_in_flight() || matches!(want.stage, Stage::Verifying)
        };
        self.wanted.retain(|height, want| counts(height, want) || want.attempt.due().is_some_and(|due| due > now));
        let mut taken = self.wanted.iter().filter(|(height, want)| counts(height, want)).count();
        for height in wanted {
            if taken < room(*height)
                && let Entry::Vacant(entry) = self.wanted.entry(*height)
            {
                entry.insert(Want::default());
                taken += 1;
            }
        }
        wanted.iter().filter(|height| self.wanted.contains_key(*height)).copied().collect()
    }

    /// Heights from `lowest` on that the light client has the header of, and that are not held.
    pub(crate) fn recallable(&self, lowest: SequencerHeight) -> impl Iterator<Item = SequencerHeight> + '_ {
        let heights = self.trusting.iter().flat_map(move |trusting| trusting.client.heights_from(lowest.0));
        heights.map(SequencerHeight).filter(|height| !self.trusted.contains_key(height))
    }

    /// Takes over those of `wanted` that the light client still has.
    pub(crate) fn recall(
        &mut self,
        wanted: &[SequencerHeight],
        next: &[SequencerHeight],
        limits: &Limits,
    ) -> Vec<SequencerHeight> {
        let Some(trusting) = &self.trusting else { return Vec::new() };
        let known = |height: &SequencerHeight| trusting.client.at(height.0)?.header().cloned();
        // No more than there is room for, except for what is needed next.
        let mut room = limits.trusted_headers.max(1).saturating_sub(self.trusted.len());
        let mut fits = |header: &Verified<TrustedHeader>| {
            let has_room = room > 0;
            room = room.saturating_sub(1);
            has_room || next.contains(&header.height())
        };
        let recalled: Vec<_> = wanted.iter().filter_map(known).filter(|header| fits(header)).collect();
        let heights = recalled.iter().map(|header| header.height()).collect();
        self.trusted.extend(recalled.into_iter().map(|header| (header.height(), header)));
        heights
    }

    /// Replaces heights that are to be got by commits with what the light client says is the way to them. `head` is
    /// wanted as well when the newest header grows old.
    pub(crate) fn through_trust(
        &self,
        mut routes: Routes,
        next: &[SequencerHeight],
        head: Option<SequencerHeight>,
        is_there: impl Fn(SequencerHeight) -> bool,
        now: Timestamp,
    ) -> Routes {
        let Some(trusting) = &self.trusting else {
            routes.essential.extend(next);
            return routes;
        };
        let mut tops = std::mem::take(&mut routes.commits);
        // Of each that is needed next, the commit that leads to it.
        let leads = |next: &SequencerHeight| tops.range(*next..=next.plus(SPAN)).next().copied();
        let essential: BTreeSet<SequencerHeight> = next.iter().filter_map(leads).collect();
        tops.extend(head.filter(|head| trusting.client.needs_refreshing(head.0, now)));
        if trusting.client.newest().is_none() {
            // The first one decides what all others follow from: the lowest that is needed, if it is not too old.
            let lowest = next.first().copied().filter(|lowest| is_there(*lowest));
            let first = tops.first().copied().map(|top| lowest.unwrap_or(top).min(top));
            tops = if trusting.begins_at_head { head } else { first }.into_iter().collect();
        }
        for top in tops {
            match trusting.client.wish(top.0, now) {
                Wish::Known => {}
                Wish::Block(height) => {
                    routes.commits.insert(SequencerHeight(height));
                    if essential.contains(&top) || trusting.client.newest().is_none() {
                        routes.essential.insert(SequencerHeight(height));
                    }
                }
                Wish::Links { .. } => {
                    if let Some(anchor) = self.anchor_above(top).map(|anchor| anchor.height()) {
                        let first = anchor.minus(HEADERS_MAX).max(top);
                        let linked = routes.links.entry(anchor).or_insert(first);
                        *linked = first.min(*linked);
                    }
                }
                Wish::Expired(refusal) => routes.expired = Some(refusal),
            }
        }
        routes
    }

    /// Forgets links that are not `wanted` any more. That one failed is remembered until it might be asked for again.
    pub(crate) fn keep_links(&mut self, wanted: &BTreeMap<SequencerHeight, SequencerHeight>, now: Timestamp) {
        self.links.retain(|anchor, links| wanted.contains_key(anchor) || !links.attempt.is_due(now));
    }

    pub(crate) fn linked(&mut self, anchor: SequencerHeight, headers: &[Verified<TrustedHeader>]) {
        self.links.remove(&anchor);
        self.links_failed = 0;
        if let Some(lowest) = headers.first() {
            self.waypoints.insert(lowest.height(), lowest.clone());
        }
        for header in headers {
            self.trusted.insert(header.height(), header.clone());
        }
    }

    /// A peer has shown a header that what is trusted leads down to.
    pub(crate) fn shown(&mut self, header: Verified<TrustedHeader>) {
        self.waypoints.insert(header.height(), header.clone());
        self.trusted.insert(header.height(), header);
    }

    /// Whether headers are asked for one by one, with their commits, instead of several at a time.
    pub(crate) fn are_links_paused(&self, now: Timestamp) -> bool {
        now < self.links_paused_until
    }

    pub(crate) fn links_failed(&mut self, now: Timestamp) {
        self.links_failed = self.links_failed.saturating_add(1);
        if self.links_failed >= LINKS_FAILED_MAX {
            self.links_failed = 0;
            self.links_paused_until = now.after(LINKS_PAUSE);
        }
    }

    /// Keeps the number of trusted headers in bounds. What lies farthest above one that is needed `next` (one per cell
    /// and head at most) goes first, and never one of these. To be called after the new header was used.
    pub(crate) fn make_room(&mut self, next: &[SequencerHeight], limits: &Limits) {
        while self.trusted.len() > limits.trusted_headers.max(1) {
            let others = self.trusted.keys().copied().filter(|height| !next.contains(height));
            let farthest = others.max_by_key(|height| distance(*height, next));
            let Some(farthest) = farthest else { break };
            self.trusted.remove(&farthest);
        }
        if self.waypoints.len() > WAYPOINTS {
            // Every other one far up, but never the lowest: the way down goes on from there.
            let near = next.first().map_or(SequencerHeight(0), |lowest| lowest.plus(WAYPOINTS_NEAR));
            let far: Vec<_> = self.waypoints.range(near..).map(|(height, _)| *height).skip(1).step_by(2).collect();
            for height in far {
                self.waypoints.remove(&height);
            }
            while self.waypoints.len() > WAYPOINTS {
                self.waypoints.pop_last();
            }
        }
    }

    /// `next` are the heights that are needed next, one per cell and head at most: no header below all of them is needed,
    /// and no data items but theirs are kept. What is on its way stays, for it counts as such until it has come or failed.
    pub(crate) fn forget_passed(&mut self, next: &[SequencerHeight]) {
        let Some(lowest) = next.first() else { return };
        self.trusted = self.trusted.split_off(lowest);
        self.waypoints = self.waypoints.split_off(lowest);
        self.transactions.retain(|height, pending| match &pending.content {
            None => height >= lowest || pending.attempt.is_in_flight(),
            Some(Content::Items(_)) => next.contains(height),
            Some(Content::Bound(_)) => height >= lowest,
        });
    }
}

/// How far a height lies above one that is needed next (these come lowest first); what lies below all of them is farthest.
fn distance(height: SequencerHeight, next: &[SequencerHeight]) -> u64 {
    let needed = next.iter().rfind(|next| **next <= height);
    needed.map_or(u64::MAX, |needed| height.0 - needed.0)
}

/// The hash of the set that signs a header, as the header says.
pub(crate) fn validators_hash(signed_header: &SignedHeader) -> Option<Hash> {
    Hash::try_from(signed_header.header.validators_hash.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
