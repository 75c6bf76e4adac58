//! What to wish for next, derived from what is known.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    celestia::{Lack, Namespace},
    cell::{Cell, Context, State},
    command::{Call, Command, Exit, Outbox},
    ids::{CelestiaHeight, CellId, RollupId, SequencerHeight},
    light::Trust,
    sequencer::{Slot, SlotStage},
};

use super::{Conductor, Stop};

/// More headers in a row than a light client has to be recalled.
const RECALLS_MAX: usize = 16;

impl Conductor {
    pub(super) fn plan(&mut self, out: &mut Outbox) {
        let stopping = self.stop != Stop::No;
        self.plan_persistence(stopping, out);
        self.plan_celestia_persistence(stopping, out);
        // A header that is recalled may complete the block that a cell needs next, and a cell that gets on may need another
        // one that can be recalled.
        self.recall_headers(out);
        self.take_from_peers(out);
        for _ in 0..=RECALLS_MAX {
            self.judge_late_candidates(out);
            self.plan_cells(stopping, out);
            // A cell that has just begun may find its next block among those of peers.
            let has_recalled = self.recall_headers(out);
            if !self.take_from_peers(out) && !has_recalled {
                break;
            }
        }
        if stopping {
            self.give_up_gossip(out);
            return self.plan_stop(out);
        }
        self.plan_identity_and_heads(out);
        self.plan_soft_blocks(out);
        self.plan_headers(out);
        self.plan_gossip(out);
        self.plan_witnesses(out);
        self.plan_false_blocks(out);
        self.plan_celestia(out);
        self.plan_celestia_headers(out);
        self.plan_exit(out);
    }

    fn plan_cells(&mut self, stopping: bool, out: &mut Outbox) {
        let mut parked = Vec::new();
        for (id, cell) in &mut self.cells {
            if cell.is_over() {
                continue;
            }
            let mut ctx =
                Context { now: self.now, limits: &self.limits, calls: &mut self.calls, rng: &mut self.rng, out };
            if !stopping {
                cell.open_session(&mut ctx);
            }
            cell.identify(self.follower.chain_id.as_deref(), self.scanner.chain_id(), &mut ctx);
            let next = cell.running().and_then(|running| running.session.next_soft());
            let soft = next.and_then(|next| self.follower.peek(*id, next));
            let skipped = || next.and_then(|next| self.follower.peek(*id, next.next()));
            let soft = if canary(Canary::SoftHeightSkipped) { soft.or_else(skipped) } else { soft };
            cell.advance(soft, stopping, &mut ctx);
            if cell.is_over() {
                parked.push(*id);
            }
        }
        for id in parked {
            self.forget_cell(id, out);
        }
    }

    fn plan_stop(&mut self, out: &mut Outbox) {
        let Stop::Stopping(until) = self.stop else { return };
        let waits = self.cells.values().any(Cell::has_effect_in_flight);
        if waits && self.now < until {
            return;
        }
        for cell in self.cells.values_mut() {
            let mut ctx =
                Context { now: self.now, limits: &self.limits, calls: &mut self.calls, rng: &mut self.rng, out };
            cell.stop(&mut ctx);
        }
        for id in self.calls.matching(|_| true) {
            self.calls.cancel(id, out);
        }
        self.stop = Stop::Done;
        out.push(Command::Exit(Exit::Stopped));
    }

    fn plan_exit(&mut self, out: &mut Outbox) {
        if self.limits.stay_when_parked || self.cells.is_empty() {
            return;
        }
        let reasons: Vec<String> = self
            .cells
            .iter()
            .map_while(|(id, cell)| match &cell.state {
                State::Parked(reason) if self.cells.len() == 1 => Some(reason.clone()),
                State::Parked(reason) => Some(format!("{id}: {reason}")),
                _ => None,
            })
            .collect();
        if reasons.len() == self.cells.len() {
            if !canary(Canary::GossipUndecidedAtExit) {
                self.give_up_gossip(out);
            }
            for id in self.calls.matching(|_| true) {
                self.calls.cancel(id, out);
            }
            self.stop = Stop::Done;
            out.push(Command::Exit(Exit::AllCellsParked { reason: reasons.join("; ") }));
        }
    }

    fn plan_identity_and_heads(&mut self, out: &mut Outbox) {
        let (now, deadline) = (self.now, self.now.after(self.limits.fetch_deadline));
        let active = || self.cells.values().filter(|cell| !cell.is_over());
        if active().next().is_none() {
            return;
        }
        if self.follower.chain_id.is_none() && self.follower.identify.is_due(now) {
            let (purpose, node) = (Purpose::SequencerIdentity, self.headers.node);
            let id = self.calls.call_node(purpose, deadline, Call::IdentifySequencer, node, out);
            self.follower.identify.started(id);
        }
        if self.follower.head_poll.is_due(now) && !self.asks_peers_only() {
            // Each node in turn: one that stands still must not hold up the others.
            let node = self.follower.head_node.next(self.limits.trust.nodes);
            self.follower.head_node = node;
            let id = self.calls.call_node(Purpose::SequencerHead, deadline, Call::FetchSequencerHead, node, out);
            self.follower.head_poll.started(id);
        }
        if active().any(|cell| cell.spec.mode.follows_firm()) && self.scanner.head_poll.is_due(now) {
            let id = self.calls.call(Purpose::CelestiaHead, deadline, Call::FetchCelestiaHead, out);
            self.scanner.head_poll.started(id);
        }
    }

    fn plan_soft_blocks(&mut self, out: &mut Outbox) {
        let Some(head) = self.follower.head else { return };
        // A cell may need a height that was fetched before it came: again then, for all that need it. First of all, for
        // it makes room.
        for cell in self.cells.values() {
            if let Some((next, _)) = cell.soft_bound(&self.limits)
                && self.follower.lacks(cell.id, next)
            {
                self.follower.slots.remove(&next);
            }
        }
        let mut room = self.limits.soft_in_flight.saturating_sub(self.follower.in_flight());
        if room == 0 {
            return;
        }
        // To weigh all that is held takes long: not before something is wanted for which it matters.
        let is_full = OnceCell::new();
        let is_full = || *is_full.get_or_init(|| self.follower.bytes() >= self.limits.soft_buffer_bytes);
        let mut wanted: BTreeMap<SequencerHeight, BTreeMap<CellId, RollupId>> = BTreeMap::new();
        for cell in self.cells.values() {
            let (Some((next, last)), Some(running)) = (cell.soft_bound(&self.limits), cell.running()) else { continue };
            let last = last.min(head).min(next.plus(self.limits.soft_ahead.saturating_sub(1)));
            let mut height = next;
            // The node's head and the look-ahead may be anything: no more is looked for than there is room for.
            let mut found = 0;
            let mut slots =
                (height <= last).then(|| self.follower.slots.range(height..=last)).into_iter().flatten().peekable();
            while height <= last && found < room {
                let slot = slots.next_if(|(known, _)| **known == height).map(|(_, slot)| slot);
                let is_due = |slot: &Slot| matches!(slot.stage, SlotStage::Fetch) && slot.attempt.is_due(self.now);
                if slot.is_none_or(is_due) && self.asks_server_for(height) {
                    // A full buffer holds up the future, never the block that is needed to empty it.
                    if height > next && is_full() {
                        break;
                    }
                    wanted.entry(height).or_default().insert(cell.id, running.session.rollup_id);
                    found += 1;
                }
                height = height.next();
            }
        }
        for (height, owners) in wanted {
            if room == 0 {
                break;
            }
            let slot = self.follower.slots.entry(height).or_default();
            slot.owners = owners;
            let rollup_ids: BTreeSet<RollupId> = slot.owners.values().copied().collect();
            let call = Call::FetchSoftBlock { height, rollup_ids: rollup_ids.into_iter().collect() };
            let deadline = self.now.after(self.limits.fetch_deadline);
            let id = self.calls.call(Purpose::SoftBlock(height), deadline, call, out);
            slot.attempt.started(id);
            room -= 1;
        }
    }

    /// A candidate may have come after its header, and can then only be judged with the block's data items.
    fn judge_late_candidates(&mut self, out: &mut Outbox) {
        let mut wanted: Vec<SequencerHeight> =
            self.joiners().flat_map(|joiner| joiner.wants_headers(&self.limits)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for height in wanted {
            self.recall_content(height);
            if self.headers.is_settled(height) {
                self.header_trusted(height, out);
            }
        }
    }

    fn plan_celestia(&mut self, out: &mut Outbox) {
        let (Some(head), Some(chain_id)) = (self.scanner.head(), self.follower.chain_id.as_deref()) else { return };
        let in_flight = self.scanner.reads.values().filter(|read| read.attempt.is_in_flight()).count();
        let count = self.scanner.reads_max(&self.limits);
        let mut room = count.saturating_sub(in_flight);
        if room == 0 {
            return;
        }
        let mut wanted: BTreeMap<CelestiaHeight, BTreeMap<CellId, RollupId>> = BTreeMap::new();
        let mut gaps = Vec::new();
        for (id, cell) in &mut self.cells {
            let Some(running) = cell.running_mut() else { continue };
            if !running.identified {
                continue;
            }
            let rollup_id = running.session.rollup_id;
            let Some(joiner) = running.joiner.as_mut() else { continue };
            let evidence = self.headers.evidence(joiner.next());
            for height in joiner.wants_to_read(head, evidence, count, &self.limits) {
                wanted.entry(height).or_default().insert(*id, rollup_id);
            }
            match joiner.lack() {
                Some(Lack::Exhausted { window_end }) if head > window_end => {
                    gaps.push((*id, joiner.next(), "the whole look-ahead window was read without finding the block"));
                }
                Some(Lack::RollupData(height)) if joiner.frontier() > head => {
                    gaps.push((*id, height, "its metadata lists the rollup, but the rollup's data was not found yet"));
                }
                _ => {}
            }
        }
        // What failed and is wanted by nobody any more is forgotten, but not before it may be tried again: it could be
        // wanted soon, and would be tried at once.
        let now = self.now;
        self.scanner.reads.retain(|height, read| {
            let is_busy = read.decoding || read.attempt.is_in_flight();
            wanted.contains_key(height) || is_busy || !read.attempt.is_due(now)
        });
        for (height, cells) in wanted {
            if room == 0 {
                break;
            }
            let read = self.scanner.reads.entry(height).or_default();
            if read.decoding || read.held.is_some() || !read.attempt.is_due(self.now) {
                continue;
            }
            let mut namespaces = BTreeSet::from([Namespace::of_sequencer(chain_id)]);
            namespaces.extend(cells.values().map(Namespace::of_rollup));
            read.cells = cells.into_keys().collect();
            let namespaces: Vec<Namespace> = namespaces.into_iter().collect();
            read.namespaces.clone_from(&namespaces);
            let call = match self.limits.celestia_trust {
                Trust::Endpoint => Call::FetchBlobs { height, namespaces },
                Trust::Consensus => Call::FetchNamespaces { height, namespaces },
            };
            let deadline = self.now.after(self.limits.fetch_deadline);
            let id = self.calls.call(Purpose::Blobs(height), deadline, call, out);
            read.attempt.started(id);
            room -= 1;
        }
        for (id, missing, reason) in gaps {
            if let Some(cell) = self.cells.get_mut(&id) {
                cell.report_gap(missing, reason, out);
            }
        }
    }
}
