//! Whom to ask for what: servers, and peers for what did not come by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    celestia::Joiner,
    command::{Call, Command, Outbox, Subject},
    conductor::Conductor,
    event::Answer,
    fault::{Fault, FaultClass},
    gossip::{Ask, BlockPart, JudgedGossip, SLOWER, Source, Verdict, VerifyGossip},
    ids::{RollupId, SequencerHeight},
    job::Job,
    light::Wish,
    retry::Attempt,
    time::Timestamp,
};

impl Conductor {
    /// A server's head is asked for less often while peers are heard, and at once when they are not (L6).
    pub(in crate::conductor) fn postpone_polling(&mut self) {
        let at = self.awaits_peers_until().unwrap_or(self.now);
        self.follower.head_poll.postpone(at);
    }

    /// When a server's head is to be asked for again after it was heard.
    pub(in crate::conductor) fn next_poll(&self) -> Timestamp {
        let plain = self.now.after(self.limits.sequencer_poll);
        self.awaits_peers_until().map_or(plain, |at| at.max(plain))
    }

    /// Until when the next block is left to peers. Whoever delays all that they send must not keep us from noticing, so now
    /// and then a server is asked however fresh they are.
    fn awaits_peers_until(&self) -> Option<Timestamp> {
        let gossip = self.gossip.as_ref().filter(|gossip| gossip.is_fresh(self.now))?;
        if canary(Canary::GossipSilenceTrusted) {
            return Some(Timestamp::MAX);
        }
        let last = self.follower.polled_at.after(self.limits.sequencer_poll * SLOWER);
        gossip.silent_at().map(|at| at.min(last))
    }

    /// Whether no server is there to be asked.
    pub(in crate::conductor) fn asks_peers_only(&self) -> bool {
        self.gossip.is_some() && self.limits.gossip.sole_source_of.is_some()
    }

    /// Whether a soft block is to be fetched from the server: not at once if only peers have shown it.
    pub(in crate::conductor) fn asks_server_for(&self, height: SequencerHeight) -> bool {
        let Some(gossip) = &self.gossip else { return true };
        if self.asks_peers_only() {
            return false;
        }
        let is_claimed = self.follower.server_head.is_some_and(|head| height <= head);
        is_claimed || gossip.asks.get(&height).is_some_and(|ask| ask.attempt.failures() > 0)
    }

    pub(super) fn plan_asks(&mut self, out: &mut Outbox) {
        let wanted = self.wanted_from_peers();
        let (now, deadline) = (self.now, self.now.after(self.limits.gossip.answer_within));
        let Some(gossip) = &mut self.gossip else { return };
        // That nobody had it is remembered until they might be asked again.
        let has_to_wait = |attempt: &Attempt| attempt.failures() > 0 && attempt.due().is_some_and(|due| due > now);
        let over =
            gossip.asks.iter().filter(|(height, ask)| !wanted.contains_key(height) && !has_to_wait(&ask.attempt));
        for (height, in_flight) in over.map(|(height, ask)| (*height, ask.attempt.in_flight())).collect::<Vec<_>>() {
            gossip.asks.remove(&height);
            if let Some(id) = in_flight {
                self.calls.cancel(id, out);
            }
        }
        let mut room = self.limits.gossip.asked_at_once.saturating_sub(gossip.asked());
        for (height, Wanted { rollups, patience }) in wanted {
            let ask = gossip
                .asks
                .entry(height)
                .or_insert_with(|| Ask { attempt: Attempt::due_at(now.after(patience)), ..Ask::default() });
            if room == 0 || !ask.attempt.is_due(now) {
                continue;
            }
            room -= 1;
            ask.rollups = rollups;
            ask.peer = None;
            gossip.counts.asked += 1;
            let call = Call::FetchFromPeers { height, rollups: ask.rollups.iter().copied().collect() };
            ask.attempt.started(self.calls.call(Purpose::Peers(height), deadline, call, out));
        }
    }

    /// Heights to ask peers about, what is missing of each, and how long it may be on its way by itself.
    fn wanted_from_peers(&self) -> BTreeMap<SequencerHeight, Wanted> {
        let mut wanted: BTreeMap<SequencerHeight, Wanted> = BTreeMap::new();
        let Some(gossip) = &self.gossip else { return wanted };
        let is_alone = self.asks_peers_only();
        // Nobody else would say that there are higher ones.
        let is_silent = is_alone && !gossip.is_fresh(self.now);
        let head = gossip.newest().unwrap_or_default();
        let is_trusting = self.headers.trusting.as_ref().is_some_and(|trusting| trusting.newest().is_some());
        for cell in self.cells.values().filter(|_| is_trusting) {
            let (Some((next, last)), Some(running)) = (cell.soft_bound(&self.limits), cell.running()) else { continue };
            let ahead = self.limits.soft_ahead.min(self.limits.gossip.ahead).saturating_sub(1);
            let until = if is_silent { head.max(next) } else { head };
            let last = last.min(until).min(next.plus(ahead));
            for height in (next.0..=last.0).map(SequencerHeight) {
                if self.follower.is_bound(height) || !(is_alone || self.is_left_to_peers(height)) {
                    continue;
                }
                // What could not be verified would come in vain.
                if is_alone && !self.can_verify(height) {
                    continue;
                }
                let entry = wanted.entry(height).or_default();
                entry.rollups.insert(running.session.rollup_id);
                // What has just been made is on its way.
                let is_new = height.next() >= head && height <= head;
                entry.patience = if is_new { self.limits.gossip.patience } else { Duration::ZERO };
            }
        }
        for (height, entry) in &mut wanted {
            if let Some(known) = gossip.known.get(height) {
                entry.rollups = known.lacks(&entry.rollups);
            }
        }
        if is_alone {
            for height in self.headers_on_the_way().into_iter().chain(self.contents_wanted()) {
                wanted.entry(height).or_default();
            }
        }
        wanted
    }

    /// Whether peers are asked for a height although there is a server: it was they who showed it, or the server fails.
    fn is_left_to_peers(&self, height: SequencerHeight) -> bool {
        let is_claimed = self.follower.server_head.is_some_and(|head| height <= head);
        !is_claimed || self.follower.slots.get(&height).is_some_and(|slot| slot.attempt.failures() > 0)
    }

    /// Whether the header of a height can be told from a forged one, once it comes.
    fn can_verify(&self, height: SequencerHeight) -> bool {
        let Some(trusting) = &self.headers.trusting else { return false };
        match trusting.client.wish(height.0, self.now) {
            Wish::Block(first) if first != height.0 => false,
            _ => self.gossip_check(height).is_some(),
        }
    }

    /// Headers that only peers can show, lowest first.
    fn headers_on_the_way(&self) -> BTreeSet<SequencerHeight> {
        let Some(trusting) = &self.headers.trusting else { return BTreeSet::new() };
        let far = self.gossip.as_ref().and_then(|gossip| gossip.far);
        // Before anything is trusted, the root is what is needed; and below all that is, nobody need say that there is more.
        let newest = trusting.newest().map(|newest| SequencerHeight(newest.height()));
        let next = self.headers_next();
        let first = next
            .iter()
            .copied()
            .filter(|next| self.headers.trusted(*next).is_none() && newest.is_none_or(|newest| *next <= newest));
        let targets = self.headers_wanted(&next).into_iter().chain(far).chain(first);
        let on_the_way = targets.filter_map(|target| match trusting.client.wish(target.0, self.now) {
            Wish::Block(height) => Some(SequencerHeight(height)),
            Wish::Links { .. } => Some(self.headers.anchor_above(target)?.height().minus(1)),
            Wish::Known | Wish::Expired(_) => None,
        });
        on_the_way.take(self.limits.headers_in_flight.max(1)).collect()
    }

    /// Heights whose records on Celestia only the block can tell from forged ones, lowest first. Peers may have them no
    /// more, so they take half of the room.
    fn contents_wanted(&self) -> impl Iterator<Item = SequencerHeight> + '_ {
        let lowest = self.joiners().map(Joiner::next).min();
        let room = (self.limits.gossip.asked_at_once / 2).max(1);
        lowest.into_iter().flat_map(|lowest| self.headers.without_content(lowest)).take(room)
    }

    /// A peer answered.
    pub(in crate::conductor) fn peers_answered(&mut self, height: SequencerHeight, answer: &Answer, out: &mut Outbox) {
        let Answer::FetchedFromPeers { peer, block, rollups } = answer else { return };
        let check = self.gossip_check(height);
        let Some(gossip) = &mut self.gossip else { return };
        let Some(ask) = gossip.asks.get_mut(&height) else { return };
        ask.peer = Some(*peer);
        // What was not asked for is not looked at.
        let asked = rollups.iter().filter(|(id, _)| ask.rollups.contains(id));
        let rollups: BTreeMap<RollupId, Bytes> = asked.cloned().collect();
        let known = gossip.known.get(&height).and_then(|known| known.block.clone());
        // A header that is needed and was forgotten has to be shown again, although the block is known.
        let is_trusted = self.headers.trusted(height).is_some();
        let part = match (known, block, check) {
            (Some(_), Some(bytes), Some(check)) if !is_trusted => {
                Some(BlockPart::Message { bytes: bytes.clone(), check: Box::new(check), at: self.now })
            }
            (Some(block), ..) => Some(BlockPart::Known(block)),
            (None, Some(bytes), Some(check)) => {
                Some(BlockPart::Message { bytes: bytes.clone(), check: Box::new(check), at: self.now })
            }
            (None, ..) => None,
        };
        let Some(block) = part.filter(|part| matches!(part, BlockPart::Message { .. }) || !rollups.is_empty()) else {
            let fault = Fault::new(FaultClass::NotYet, "the peer has nothing that is missing");
            return self.failed(Purpose::Peers(height), &fault, out);
        };
        let limits = Arc::clone(&self.limits);
        let job = VerifyGossip { height, block, rollups: rollups.into_iter().collect(), limits };
        ask.attempt.started(self.calls.verify(Purpose::PeersJob(height), Job::VerifyGossip(Box::new(job)), out));
    }

    /// What a peer answered was verified.
    pub(in crate::conductor) fn answer_judged(
        &mut self,
        height: SequencerHeight,
        judged: &JudgedGossip,
        out: &mut Outbox,
    ) {
        let Some(ask) = self.gossip.as_mut().and_then(|gossip| gossip.asks.get_mut(&height)) else { return };
        let (peer, asked) = (ask.peer.take(), ask.rollups.clone());
        let mut messages = Vec::new();
        let mut refused = None;
        match &judged.block {
            Some(Ok(block)) => match self.block_proven(block, Source::Peer, out) {
                Verdict::Accept => messages.push(&block.message),
                verdict => refused = Some(verdict),
            },
            Some(Err(refusal)) => {
                self.header_of_peer_refused(height, refusal.light.as_deref(), out);
                refused = Some(refusal.verdict.clone());
            }
            None => {}
        }
        for (rollup, result) in &judged.rollups {
            match result {
                _ if refused.is_some() => break,
                Ok(data) => {
                    self.data_proven(height, *rollup, data, Source::Peer);
                    messages.push(&data.message);
                }
                Err(verdict) => refused = Some(verdict.clone()),
            }
        }
        for message in messages {
            self.publish(height, message, out);
        }
        if let (Some(Verdict::Reject(refused)), Some(peer)) = (&refused, peer) {
            let reason: String = refused.to_string().chars().take(Fault::DETAIL_MAX).collect();
            self.drop_input(Subject::Gossip, format!("answer of a peer, height {height}"), &reason, out);
            out.push(Command::PenalizePeer { peer, reason });
        }
        let known = self.gossip.as_ref().and_then(|gossip| gossip.known.get(&height));
        // Of what firm alone needs no more is kept than what it needs.
        let is_shown = refused.is_none() && matches!(judged.block, Some(Ok(_)));
        let has_all = match known {
            Some(known) => (known.block.is_some() || is_shown) && known.lacks(&asked).is_empty(),
            None => asked.is_empty() && (is_shown || self.headers.trusted(height).is_some()),
        };
        // After a refusal nobody is asked again at once, or an ask that can never succeed would go round without end.
        let is_complete = has_all && refused.is_none();
        if is_complete {
            if let Some(ask) = self.gossip.as_mut().and_then(|gossip| gossip.asks.get_mut(&height)) {
                ask.attempt.answered(self.now);
            }
            return;
        }
        let fault = match refused {
            Some(verdict) => Fault::invalid(verdict.to_string()),
            None => Fault::new(FaultClass::NotYet, "the peer has not all of it"),
        };
        self.failed(Purpose::Peers(height), &fault, out);
    }
}

/// What peers are to be asked for.
#[derive(Clone, Debug, Default)]
struct Wanted {
    rollups: BTreeSet<RollupId>,
    patience: Duration,
}
