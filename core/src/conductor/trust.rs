//! Which headers are to be got and how, and what becomes of trust: persisted, shown to witnesses, over.

use std::{collections::BTreeMap, sync::Arc};

use tendermint::{block::signed_header::SignedHeader, validator};

use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    celestia::Joiner,
    cell::{Cell, report_failure},
    command::{Call, Command, HEADERS_MAX, Outbox, Report, Subject},
    fault::{Fault, FaultClass},
    ids::{CellId, Node, SequencerHeight},
    job::{HeaderRefusal, Job, Proof, SignedBy, Validators},
    light::{Check, ConflictingHeaders, Refusal, RootSetting, SoftTrust, Wish, Witnessed},
    record::Record,
    retry::{Attempt, backoff},
    sequencer::{BindRefusal, Routes, SlotStage, Stage, Transactions, WitnessStep, header_hash, validators_hash},
    time::Timestamp,
};

use super::Conductor;

/// Headers that soft blocks want at the same time; the next ones are wanted once these have come.
const WANTED_MAX: usize = 4_096;

impl Conductor {
    /// The heights whose headers are needed next, one per cell and head at most, lowest first.
    pub(super) fn headers_next(&self) -> Vec<SequencerHeight> {
        let mut next: Vec<_> = self.headers_needed().collect();
        next.sort_unstable();
        next.dedup();
        next
    }

    /// The same, in any order and with repetitions.
    fn headers_needed(&self) -> impl Iterator<Item = SequencerHeight> + '_ {
        let soft = (self.limits.trust.soft == SoftTrust::Consensus).then(|| self.cells.values());
        let soft = soft.into_iter().flatten().filter_map(|cell| cell.running()?.session.next_soft());
        self.joiners().map(Joiner::next).chain(soft)
    }

    /// Heights whose soft blocks need a header that is not trusted yet, or will.
    fn soft_headers(&self, head: SequencerHeight) -> impl Iterator<Item = SequencerHeight> + '_ {
        let cells = (self.limits.trust.soft == SoftTrust::Consensus).then(|| self.cells.values());
        let bounds = cells.into_iter().flatten().filter_map(|cell| cell.soft_bound(&self.limits));
        let heights = move |(next, last): (SequencerHeight, SequencerHeight)| {
            let last = last.min(head).min(next.plus(self.limits.headers_ahead));
            self.headers.untrusted(next, last)
        };
        bounds.flat_map(heights).filter(|height| !self.follower.is_bound(*height))
    }

    /// Whether somebody may want the header of a height that is not trusted yet. Cheaper than to list them all.
    pub(super) fn may_want_header(&self, height: SequencerHeight) -> bool {
        let is_soft =
            |cell: &Cell| cell.soft_bound(&self.limits).is_some_and(|(next, last)| next <= height && height <= last);
        let soft = self.limits.trust.soft == SoftTrust::Consensus && self.cells.values().any(is_soft);
        soft && !self.follower.is_bound(height)
            || self.joiners().any(|joiner| joiner.wants_header(height, &self.limits))
    }

    /// Headers that are not trusted yet, lowest first. `next` are those of [`Self::headers_next`]. A blob may claim any
    /// height; what the sequencer has not reached cannot be fetched.
    pub(super) fn headers_wanted(&self, next: &[SequencerHeight]) -> Vec<SequencerHeight> {
        // Where the head lies that a node has only named, there is nothing to link others to.
        let head = self.headers.head().or(self.follower.head);
        let firm = self.joiners().flat_map(|joiner| joiner.wants_headers(&self.limits));
        let firm = firm.filter(|height| self.headers.trusted(*height).is_none());
        let soft = head.into_iter().flat_map(|head| self.soft_headers(head));
        // Without a server nobody names the head: what peers have shown may be far below it, or nothing.
        let beyond = if self.asks_peers_only() {
            u64::try_from(self.limits.gossip.asked_at_once / 2).unwrap_or(0).max(1)
        } else {
            0
        };
        let is_near = |height: SequencerHeight| {
            next.iter().rfind(|next| **next <= height).is_some_and(|next| height.0 - next.0 < beyond)
        };
        let is_there = |height| head.is_none_or(|head| height <= head) || is_near(height);
        // However far the limits permit to look ahead, and wherever a node says that the head lies.
        let soft = soft.filter(|height| is_there(*height)).take(WANTED_MAX);
        let mut wanted: Vec<_> = firm.filter(|height| is_there(*height)).chain(soft).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.headers.fitting(wanted, next, &self.limits)
    }

    /// Takes over headers that the light client still has, for instance those of an earlier life. Returns whether there
    /// were any.
    pub(super) fn recall_headers(&mut self, out: &mut Outbox) -> bool {
        let Some(lowest) = self.headers_needed().min() else { return false };
        if !self.headers.recallable(lowest).any(|height| self.may_want_header(height)) {
            return false;
        }
        let next = self.headers_next();
        let recalled = self.headers.recall(&self.headers_wanted(&next), &next, &self.limits);
        for height in &recalled {
            self.header_trusted(*height, out);
        }
        if !recalled.is_empty() {
            self.headers.make_room(&next, &self.limits);
        }
        !recalled.is_empty()
    }

    /// The head that trust may begin with or be renewed by, if anybody needs headers at all. A head that a node has only
    /// named would be waited for without end.
    fn trusted_head(&self) -> Option<SequencerHeight> {
        let soft = self.limits.trust.soft == SoftTrust::Consensus;
        let needs = |cell: &Cell| cell.running().is_some() && (soft || cell.spec.mode.follows_firm());
        self.headers.head().filter(|_| self.cells.values().any(needs))
    }

    pub(super) fn plan_headers(&mut self, out: &mut Outbox) {
        let Some(chain_id) = self.follower.chain_id.clone() else { return };
        let deadline = self.now.after(self.limits.fetch_deadline);
        let next = self.headers_next();
        let wanted = self.headers_wanted(&next);
        let soon = self.limits.headers_ahead / 2;
        let is_urgent = |height| next.iter().any(|next| *next <= height && height <= next.plus(soon));
        if self.asks_peers_only() {
            return self.plan_headers_of_peers(&wanted, out);
        }
        // What is to be shown to peers needs a commit of its own.
        let (own, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|height| self.needs_own_commit(*height));
        let mut routes = self.headers.routes(&others, is_urgent, self.now);
        routes.commits.extend(own);
        let is_there = |height| self.follower.head.is_some_and(|head| height <= head);
        let routes = self.headers.through_trust(routes, &next, self.trusted_head(), is_there, self.now);
        let Routes { commits: wanted, links, essential, expired } = routes;
        if let Some(refusal) = expired {
            return self.trust_expired(&refusal, out);
        }
        self.plan_links(&links, deadline, out);
        // What a cell needs next has a place beside the others, or headers that one cell cannot get would hold up the rest:
        // two places for each cell, one for the head. Those that nobody needs any more count until they have come.
        let most = self.limits.headers_in_flight;
        let heights = self.headers.admit(&wanted, self.now, |height| {
            if essential.contains(&height) { most.saturating_add(2 * self.cells.len() + 1) } else { most }
        });
        for height in heights {
            self.plan_header(height, &chain_id, deadline, out);
        }
        let in_flight = |pending: &Transactions| pending.content.is_none() && pending.attempt.is_in_flight();
        let busy = self.headers.transactions.values().filter(|pending| in_flight(pending)).count();
        let room = self.limits.headers_in_flight.saturating_sub(busy);
        let lowest = next.first().copied().unwrap_or(SequencerHeight(u64::MAX));
        let due = |pending: &Transactions| pending.content.is_none() && pending.attempt.is_due(self.now);
        let due = self.headers.transactions.range(lowest..).filter(|(_, pending)| due(pending));
        let due: Vec<_> = due.map(|(height, _)| *height).take(room).collect();
        for height in due {
            let Some(pending) = self.headers.transactions.get(&height) else { continue };
            let node = self.headers.whom(height, &pending.attempt, pending.node, &self.limits);
            let call = Call::FetchBlockTransactions { height };
            let id = self.calls.call_node(Purpose::Transactions(height), deadline, call, node, out);
            if let Some(pending) = self.headers.transactions.get_mut(&height) {
                pending.node = node;
                pending.attempt.started(id);
            }
        }
    }

    /// Without a server, peers are asked for headers; only the operator can help when none can be trusted any more.
    fn plan_headers_of_peers(&mut self, wanted: &[SequencerHeight], out: &mut Outbox) {
        let Some(trusting) = &self.headers.trusting else { return };
        // Nothing follows from what is too old, so that no higher header will ever be wanted.
        let next = trusting.newest().map(|newest| SequencerHeight(newest.height()).next());
        let wanted = wanted.iter().copied().chain(next.filter(|_| !self.headers_next().is_empty()));
        let expired = wanted.into_iter().find_map(|height| match trusting.client.wish(height.0, self.now) {
            Wish::Expired(refusal) => Some(refusal),
            Wish::Known | Wish::Block(_) | Wish::Links { .. } => None,
        });
        if let Some(refusal) = expired {
            self.trust_expired(&refusal, out);
        }
    }

    /// `wanted` are trusted heights and the lowest height to be linked to each.
    fn plan_links(
        &mut self,
        wanted: &BTreeMap<SequencerHeight, SequencerHeight>,
        deadline: Timestamp,
        out: &mut Outbox,
    ) {
        self.headers.keep_links(wanted, self.now);
        // Only what is in flight takes up room: what failed must be able to go on as well.
        let in_flight = self.headers.links.values().filter(|links| links.attempt.is_in_flight()).count();
        let mut room = self.limits.headers_in_flight.saturating_sub(in_flight);
        let is_paused = self.headers.are_links_paused(self.now);
        for (anchor, first) in wanted {
            if room == 0 {
                break;
            }
            let (attempt, asked) =
                self.headers.links.get(anchor).map(|links| (links.attempt.clone(), links.node)).unwrap_or_default();
            let node = self.headers.whom(*anchor, &attempt, asked, &self.limits);
            let links = self.headers.links.entry(*anchor).or_default();
            if links.attempt.is_due(self.now) {
                room -= 1;
                links.first = if is_paused { anchor.minus(1) } else { *first };
                let several =
                    Call::FetchHeaders { first: *first, last: anchor.minus(1).min(first.plus(HEADERS_MAX - 1)) };
                let call = if is_paused { Call::FetchSignedHeader { height: anchor.minus(1) } } else { several };
                let id = self.calls.call_node(Purpose::Links(*anchor), deadline, call, node, out);
                links.node = node;
                links.is_single = is_paused;
                links.attempt.started(id);
            }
        }
    }

    fn plan_header(&mut self, height: SequencerHeight, chain_id: &str, deadline: Timestamp, out: &mut Outbox) {
        let Some(want) = self.headers.wanted.get(&height) else { return };
        if !want.attempt.is_due(self.now) {
            return;
        }
        let mut job = None;
        let mut call = None;
        match &want.stage {
            Stage::Header => call = Some((Purpose::Header(height), Call::FetchSignedHeader { height })),
            Stage::Validators(signed_header) => {
                let hash = validators_hash(signed_header);
                match hash.and_then(|hash| self.headers.set(&hash)) {
                    Some(set) => job = Some((signed_header.clone(), Validators::Known(Arc::clone(set)))),
                    None if hash.is_some_and(|hash| self.headers.is_fetching_set(&hash)) => {}
                    None => {
                        let asked = if canary(Canary::ValidatorsOfHeightBefore) { height.minus(1) } else { height };
                        call = Some((Purpose::Validators(height), Call::FetchValidators { height: asked }));
                    }
                }
            }
            Stage::Verify(signed_header, validators) => {
                job = Some((signed_header.clone(), Validators::Fetched(validators.clone())));
            }
            Stage::Verifying => {}
        }
        let proof = match &self.headers.trusting {
            Some(trusting) => {
                let check = Box::new(trusting.client.check(height.0, chain_id, self.now));
                Proof::Light { check, at: self.now }
            }
            None => Proof::Commit,
        };
        if let Some((signed_header, _)) = job.as_ref().filter(|_| canary(Canary::RememberedBeforeVerified)) {
            self.headers.remember_unverified(&signed_header.header);
        }
        let Some(node) = self
            .headers
            .wanted
            .get(&height)
            .map(|want| self.headers.whom(height, &want.attempt, want.node, &self.limits))
        else {
            return;
        };
        let Some(want) = self.headers.wanted.get_mut(&height) else { return };
        if let Some((signed_header, validators)) = job {
            let (chain_id, limits) = (chain_id.to_owned(), Arc::clone(&self.limits));
            let job = Job::VerifyHeader { height, chain_id, signed_header, validators, proof, limits };
            let id = self.calls.verify(Purpose::HeaderJob(height), job, out);
            want.stage = Stage::Verifying;
            want.attempt.started(id);
        } else if let Some((purpose, call)) = call {
            // Header and set are judged together, so both come from one node.
            if matches!(want.stage, Stage::Header) {
                want.node = node;
            }
            let id = self.calls.call_node(purpose, deadline, call, want.node, out);
            want.attempt.started(id);
        }
    }

    /// A header's commit was checked: it is trusted now.
    pub(super) fn header_verified(&mut self, height: SequencerHeight, signed: &SignedBy, out: &mut Outbox) {
        let node = self.headers.wanted.get(&height).map_or(self.headers.node, |want| want.node);
        self.header_follows(height, signed, node, out);
    }

    /// The same, whoever showed it.
    pub(super) fn header_follows(&mut self, height: SequencerHeight, signed: &SignedBy, node: Node, out: &mut Outbox) {
        // One node alone is asked for blocks, and is no witness of what peers show.
        let is_unseen = node == Node::NONE && (self.limits.trust.nodes < 2 || self.asks_peers_only());
        let witnesses = if is_unseen { 0 } else { self.limits.trust.nodes };
        if let (Some(trusting), Some(light)) = (&mut self.headers.trusting, &signed.light) {
            let (check, block) = light.as_ref();
            if matches!(check, Check::FirstUse { .. }) {
                if trusting.newest().is_some() {
                    // Another one was first. This one has to follow from it.
                    self.headers.wanted.remove(&height);
                    return;
                }
                out.report(Report::TrustedOnFirstUse { height, hash: block.hash(), node });
            }
            trusting.accept(block, check, node, witnesses);
        }
        if let Some(light) = &signed.light {
            self.gossip_header(height, &light.1);
        }
        self.headers.verified(signed.header.clone(), Arc::clone(&signed.validators), &self.limits);
        // What follows from it waits until it is kept.
        self.plan_persistence(false, out);
        self.header_trusted(height, out);
        self.headers.make_room(&self.headers_next(), &self.limits);
    }

    /// A header is not trusted, or not yet.
    pub(super) fn header_refused(&mut self, height: SequencerHeight, refusal: &HeaderRefusal, out: &mut Outbox) {
        if let (Some(trusting), Some(light)) = (&mut self.headers.trusting, &refusal.light) {
            if trusting.client.refuse(height.0, light) {
                // Nobody is to blame: the way leads through another height.
                self.headers.wanted.remove(&height);
                return;
            }
            if matches!(light, Refusal::Expired { .. })
                && trusting.newest().is_none()
                && self.limits.trust.root == RootSetting::FirstUse
            {
                trusting.begins_at_head = true;
            }
            if self.root_expired(light, out) {
                return;
            }
        }
        self.drop_input(refusal.subject, format!("sequencer height {height}"), &refusal.reason, out);
        self.failed(Purpose::Header(height), &Fault::invalid(refusal.reason.as_str()), out);
        if canary(Canary::RefusedHeightBarred)
            && let Some(want) = self.headers.wanted.get_mut(&height)
        {
            want.attempt = Attempt::due_at(Timestamp::MAX);
        }
    }

    /// Whether the root of trust is what is too old, whoever showed it; then nothing will ever follow from it.
    pub(super) fn root_expired(&mut self, refusal: &Refusal, out: &mut Outbox) -> bool {
        let has_begun = self.headers.trusting.as_ref().is_none_or(|trusting| trusting.newest().is_some());
        let is_configured = self.limits.trust.root != RootSetting::FirstUse;
        let is_over = matches!(refusal, Refusal::Expired { .. }) && !has_begun && is_configured;
        if is_over {
            self.trust_expired(refusal, out);
        }
        is_over
    }

    /// Nothing more can be trusted. Only the operator can help.
    fn trust_expired(&mut self, refusal: &Refusal, out: &mut Outbox) {
        let days = self.limits.trust.trusting_period.as_secs() / 86_400;
        self.park_all(
            &format!(
                "{refusal}, and {days} days are permitted. Take height and hash of a newer header from a source that \
                 you trust, set sequencer.trust_root = \"HEIGHT:HASH\" and start again"
            ),
            out,
        );
    }

    fn park_all(&mut self, reason: &str, out: &mut Outbox) {
        let cells: Vec<CellId> = self.cells.iter().filter(|(_, cell)| !cell.is_over()).map(|(id, _)| *id).collect();
        for cell in cells {
            self.with_cell(cell, out, |cell, ctx| cell.park(reason.to_owned(), ctx));
            self.forget_cell(cell, out);
        }
    }

    /// Binds the soft block of a height to its header, if both are there.
    pub(super) fn bind_soft(&mut self, height: SequencerHeight, out: &mut Outbox) {
        let Some(header) = self.headers.trusted(height) else { return };
        let items = self.headers.items(height);
        let Some(slot) = self.follower.slots.get_mut(&height) else { return };
        let SlotStage::Ready(_, proof) = &mut slot.stage else { return };
        let Some(unbound) = proof else { return };
        match unbound.claim.bind(header, items) {
            Ok(()) => {
                let claim = proof.take().map(|unbound| unbound.claim);
                slot.attempt.succeeded(self.now);
                let encoded = slot.encoded.take();
                if let Some(claim) = claim {
                    self.gossip_bound(height, &claim, encoded);
                }
            }
            Err(BindRefusal::NeedsTransactions) => {
                self.headers.transactions.entry(height).or_default();
            }
            Err(refusal) => {
                let items = items.map(|items| unbound.claim.items_of(items));
                slot.stage = SlotStage::Fetch;
                let reason = format!("it is not the committed block: {refusal}");
                self.drop_input(Subject::SoftBlock, format!("sequencer height {height}"), &reason, out);
                self.suspect(height, items);
                self.failed(Purpose::SoftBlock(height), &Fault::invalid(reason), out);
            }
        }
    }

    /// Persists how far trust has come: its beginning at once, what follows now and then.
    pub(super) fn plan_persistence(&mut self, is_last: bool, out: &mut Outbox) {
        let Some(trusting) = &mut self.headers.trusting else { return };
        if let Some(record) = trusting.record(self.now, &self.limits, is_last) {
            out.push(Command::Persist { records: vec![Record::SequencerHeader(record)] });
        }
    }

    /// Asks each witness for the next header that is to be compared with its own.
    pub(super) fn plan_witnesses(&mut self, out: &mut Outbox) {
        let (now, deadline) = (self.now, self.now.after(self.limits.fetch_deadline));
        let Some(trusting) = &mut self.headers.trusting else { return };
        for (node, witness) in trusting.witnesses.all() {
            let Some(step) = witness.step(now) else { continue };
            let id = match step {
                WitnessStep::FetchHeader(height) => {
                    let call = Call::FetchSignedHeader { height };
                    self.calls.call_node(Purpose::Witness(node), deadline, call, node, out)
                }
                WitnessStep::FetchValidators(height) => {
                    let call = Call::FetchValidators { height };
                    self.calls.call_node(Purpose::WitnessValidators(node), deadline, call, node, out)
                }
                WitnessStep::Compare(reached, signed_header, validators) => {
                    let job = Job::CompareWitness {
                        trusted: Box::new(reached.block.clone()),
                        check: Box::new(reached.check.clone()),
                        signed_header: Box::new(signed_header.clone()),
                        validators: validators.to_vec(),
                        at: now,
                        limits: Arc::clone(&self.limits),
                    };
                    self.calls.verify(Purpose::WitnessJob(node), job, out)
                }
            };
            witness.attempt().started(id);
        }
    }

    pub(super) fn witness_has(&mut self, node: Node, signed_header: &SignedHeader) {
        let Some(trusting) = &mut self.headers.trusting else { return };
        let Some(witness) = trusting.witnesses.of(node) else { return };
        let own = header_hash(&signed_header.header);
        if witness.reached().is_some_and(|reached| reached.block.hash() != own) {
            return witness.has_other(signed_header.clone(), self.now);
        }
        if let Some(reached) = witness.compared(self.now) {
            trusting.vouch_for(&reached);
        }
    }

    pub(super) fn witness_names(&mut self, node: Node, validators: &[validator::Info]) {
        let witness = self.headers.trusting.as_mut().and_then(|trusting| trusting.witnesses.of(node));
        if let Some(witness) = witness {
            witness.names(validators, self.now);
        }
    }

    pub(super) fn witness_compared(&mut self, node: Node, outcome: &Witnessed, out: &mut Outbox) {
        let Some(trusting) = &mut self.headers.trusting else { return };
        let Some(witness) = trusting.witnesses.of(node) else { return };
        match outcome {
            // It has said nothing about the header: it may once more.
            Witnessed::Unproven(reason) => {
                let height = witness.reached().map_or(SequencerHeight(0), |reached| reached.height());
                let at = format!("sequencer height {height}, CometBFT node {}", node.0);
                self.drop_input(Subject::Witness, at, reason, out);
                self.witness_failed(node, Purpose::WitnessJob(node), &Fault::invalid(reason.as_str()), out);
            }
            Witnessed::Same => {
                if let Some(reached) = witness.compared(self.now) {
                    trusting.vouch_for(&reached);
                }
            }
            Witnessed::Conflict(evidence) => {
                witness.compared(self.now);
                if !canary(Canary::WitnessConflictIgnored) {
                    self.conflict(evidence, node, out);
                }
            }
        }
    }

    /// A witness does not answer, or has no such header: nothing waits for it, and it is asked again later.
    pub(super) fn witness_failed(&mut self, node: Node, purpose: Purpose, fault: &Fault, out: &mut Outbox) {
        let witness = self.headers.trusting.as_mut().and_then(|trusting| trusting.witnesses.of(node));
        let Some(witness) = witness else { return };
        let failures = witness.attempt().failures().saturating_add(1);
        let delay = backoff(failures, self.limits.backoff_first, self.limits.backoff_last, &mut self.rng);
        witness.failed(fault.class == FaultClass::Gone, self.now, delay);
        report_failure(purpose, failures, delay, fault, out);
    }

    /// Validators signed twice: nothing that they signed can be relied on.
    pub(super) fn conflict(&mut self, evidence: &ConflictingHeaders, node: Node, out: &mut Outbox) {
        let evidence = Box::new(evidence.clone());
        out.push(Command::Persist { records: vec![Record::SequencerConflict(evidence.clone())] });
        let reason = conflict_reason(&evidence);
        out.report(Report::Conflict { evidence, node });
        self.park_all(&reason, out);
    }
}

/// For the operator.
pub(super) fn conflict_reason(evidence: &ConflictingHeaders) -> String {
    let hash = |block: &crate::light::SignedBlock| header_hash(&block.signed_header.header);
    format!(
        "the sequencer's validators signed two headers of height {}: {} and {}. Find out which chain is the right one, \
         then set sequencer.trust_root to a later header of it and start again",
        evidence.height,
        hash(&evidence.trusted),
        hash(&evidence.other)
    )
}
