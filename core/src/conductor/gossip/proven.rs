//! What follows from messages that are genuine, and what is told to peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::Place;
use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    command::{Command, Outbox, Subject},
    conductor::Conductor,
    gossip::{
        BEHIND, BoundBlock, Ignored, JudgedBlock, JudgedRollup, MakeGossip, Message, OFFERED, Source, ToPublish, Topic,
        Verdict,
    },
    ids::{Node, RollupId, SequencerHeight},
    job::Job,
    light::{self, Check, LightBlock},
    retry::Attempt,
    sequencer::{Claim, ContentDigest, SlotStage},
    time::Timestamp,
    verified::Verified,
};

impl Conductor {
    /// A block message is genuine, whoever sent it: its header is trusted like any other.
    pub(in crate::conductor) fn block_proven(
        &mut self,
        judged: &JudgedBlock,
        source: Source,
        out: &mut Outbox,
    ) -> Verdict {
        let Some(light) = judged.signed.light.as_ref().map(|light| &light.1) else {
            return Verdict::Ignore(Ignored::NotReady);
        };
        let height = SequencerHeight(light.height());
        if let Some(verdict) = self.conflicts(height, light, out) {
            return verdict;
        }
        let is_linked = matches!(judged.signed.light.as_deref(), Some((Check::Known { .. }, _)));
        if is_linked {
            self.headers.shown(judged.signed.header.clone());
            self.header_trusted(height, out);
            self.headers.make_room(&self.headers_next(), &self.limits);
        } else if self.headers.trusted(height).is_none() {
            if let Some(id) = self.headers.wanted.get(&height).and_then(|want| want.attempt.in_flight()) {
                self.calls.cancel(id, out);
            }
            self.header_follows(height, &judged.signed, Node::NONE, out);
        }
        let time = u64::try_from(light.header().time.unix_timestamp_nanos()).unwrap_or_default();
        let is_kept = self.place(&self.windows(), Topic::Blocks, height) == Place::Kept;
        let Some(gossip) = &mut self.gossip else { return Verdict::Accept };
        let is_news = gossip.proven(height, Timestamp(time), source, self.now);
        if is_kept {
            let known = gossip.known.entry(height).or_default();
            known.light.get_or_insert_with(|| Box::new(light.clone()));
            known.block.get_or_insert_with(|| Arc::clone(&judged.bound));
            known.was_asked |= source == Source::Peer;
        }
        self.content_proven(height, judged.bound.content());
        if is_news {
            self.follower.head = self.follower.head.max(Some(height));
            self.postpone_polling();
        }
        Verdict::Accept
    }

    /// What a block consists of is known. Without a server it is kept until firm has passed, for peers may not have the
    /// block any more when Celestia names it.
    fn content_proven(&mut self, height: SequencerHeight, content: ContentDigest) {
        if self.asks_peers_only() && self.joiners().any(|joiner| joiner.next() <= height) {
            let next = self.headers_next();
            self.headers.content_shown(height, content, &next, &self.limits);
        }
    }

    /// The same of a block that peers had shown before firm came to need it.
    pub(in crate::conductor) fn recall_content(&mut self, height: SequencerHeight) {
        let known = self.gossip.as_ref().and_then(|gossip| gossip.known.get(&height)?.block.as_ref());
        if let Some(content) = known.map(|block| block.content()).filter(|_| self.headers.content(height).is_none()) {
            self.content_proven(height, content);
        }
    }

    /// A rollup's data are genuine.
    pub(in crate::conductor) fn data_proven(
        &mut self,
        height: SequencerHeight,
        rollup: RollupId,
        data: &JudgedRollup,
        source: Source,
    ) {
        let topic = Topic::Rollup(rollup);
        let is_kept = self.place(&self.windows(), topic, height) == Place::Kept || canary(Canary::GossipStaleTaken);
        if let Some(gossip) = self.gossip.as_mut().filter(|_| is_kept) {
            let known = gossip.known.entry(height).or_default();
            known.rollups.entry(rollup).or_insert_with(|| data.block.clone());
            known.was_asked |= source == Source::Peer;
        }
    }

    /// Compares a header that is signed with the one that is trusted. If they differ, validators signed twice.
    fn conflicts(
        &mut self,
        height: SequencerHeight,
        other: &Verified<LightBlock>,
        out: &mut Outbox,
    ) -> Option<Verdict> {
        let trusted = self.headers.trusted(height).map(|header| header.hash());
        let known =
            self.gossip.as_ref().and_then(|gossip| gossip.known.get(&height)).and_then(|it| it.light.as_deref());
        let trusted = known.map(|light| light.hash()).or(trusted)?;
        if trusted == other.hash() {
            return None;
        }
        if let Some(evidence) = known.map(|known| light::conflict(known, other)) {
            self.conflict(&evidence, Node::NONE, out);
        } else {
            // What was linked has no commit of its own that could be shown.
            let reason = format!("block {} is signed, block {trusted} is trusted", other.hash());
            self.drop_input(Subject::Gossip, format!("blocks, height {height}"), &reason, out);
        }
        Some(Verdict::Ignore(Ignored::Conflict))
    }

    /// A header that a peer has shown is not trusted: the way to it leads through another one, or the root is too old.
    pub(in crate::conductor) fn header_of_peer_refused(
        &mut self,
        height: SequencerHeight,
        refusal: Option<&light::Refusal>,
        out: &mut Outbox,
    ) {
        let (Some(trusting), Some(refusal)) = (&mut self.headers.trusting, refusal) else { return };
        if trusting.client.refuse(height.0, refusal)
            && let Some(gossip) = &mut self.gossip
        {
            gossip.far = gossip.far.max(Some(height));
        }
        self.root_expired(refusal, out);
    }

    /// What was verified goes where it is waited for, if nothing was there before it.
    /// Returns whether there was any.
    pub(in crate::conductor) fn take_from_peers(&mut self, out: &mut Outbox) -> bool {
        let Some(head) = self.follower.head.filter(|_| self.gossip.is_some()) else { return false };
        let mut has_taken = false;
        let mut wanted: BTreeMap<SequencerHeight, BTreeMap<_, RollupId>> = BTreeMap::new();
        for cell in self.cells.values() {
            let (Some((next, last)), Some(running)) = (cell.soft_bound(&self.limits), cell.running()) else { continue };
            let last = last.min(head).min(next.plus(self.limits.soft_ahead.saturating_sub(1)));
            let Some(gossip) = self.gossip.as_ref().filter(|_| next <= last) else { continue };
            let has = |height: &SequencerHeight| {
                let slot = self.follower.slots.get(height);
                slot.is_some_and(|slot| slot.is_bound() && slot.owners.contains_key(&cell.id))
            };
            for height in gossip.known.range(next..=last).map(|(height, _)| *height).filter(|height| !has(height)) {
                wanted.entry(height).or_default().insert(cell.id, running.session.rollup_id);
            }
        }
        for (height, mut owners) in wanted {
            if let Some(slot) = self.follower.slots.get(&height).filter(|slot| slot.is_bound()) {
                // One that came later needs its part as well.
                owners.extend(slot.owners.iter().map(|(cell, rollup)| (*cell, *rollup)));
            }
            let Some(known) = self.gossip.as_ref().and_then(|gossip| gossip.known.get(&height)) else { continue };
            let rollups: BTreeSet<RollupId> = owners.values().copied().collect();
            let blocks = rollups.iter().map(|id| Some((*id, known.rollup(id)?)));
            let Some(blocks) = blocks.collect::<Option<BTreeMap<_, _>>>() else { continue };
            let source = known.source();
            let slot = self.follower.slots.entry(height).or_default();
            if let Some(id) = slot.attempt.in_flight() {
                self.calls.cancel(id, out);
            }
            slot.attempt = Attempt::default();
            slot.owners = owners;
            slot.stage = SlotStage::Ready(blocks, None);
            slot.encoded = None;
            self.won(source);
            has_taken = true;
        }
        has_taken
    }

    fn won(&mut self, source: Source) {
        if let Some(gossip) = &mut self.gossip {
            *gossip.counts.won.entry(source).or_default() += 1;
        }
    }

    /// A header's own commit was checked: it can be shown to others, and held against what others show.
    pub(in crate::conductor) fn gossip_header(&mut self, height: SequencerHeight, light: &Verified<LightBlock>) {
        let is_kept = self.place(&self.windows(), Topic::Blocks, height) == Place::Kept;
        if let Some(gossip) = self.gossip.as_mut().filter(|_| is_kept) {
            gossip.known.entry(height).or_default().light.get_or_insert_with(|| Box::new(light.clone()));
        }
    }

    /// A server's block was bound to its header.
    pub(in crate::conductor) fn gossip_bound(
        &mut self,
        height: SequencerHeight,
        claim: &Claim,
        encoded: Option<Bytes>,
    ) {
        if self.gossip.is_none() {
            return;
        }
        self.won(Source::Server);
        let Some(header) = self.headers.trusted(height) else { return };
        // It was read when the block was verified.
        let Ok(bound) = BoundBlock::new(header, claim, &self.limits) else { return };
        let transactions = self.headers.items(height).map(<[Bytes]>::to_vec);
        let is_kept = self.place(&self.windows(), Topic::Blocks, height) == Place::Kept;
        let is_of_use = self.is_of_use_to_peers(height);
        let Some(gossip) = self.gossip.as_mut().filter(|_| is_kept) else { return };
        let known = gossip.known.entry(height).or_default();
        known.block.get_or_insert_with(|| Arc::new(Verified::new(bound)));
        if self.limits.gossip.publish && is_of_use {
            known.to_publish = encoded.map(|block| ToPublish { block, transactions });
        }
    }

    /// Whether peers may still have use for a block. Where this node alone knows a server, peers wait for all that was made
    /// while it could not be reached.
    pub(in crate::conductor) fn is_of_use_to_peers(&self, height: SequencerHeight) -> bool {
        self.follower.head.is_none_or(|head| head <= height.plus(OFFERED))
    }

    /// Whether a header of this height needs a commit of its own, to be shown to peers.
    pub(in crate::conductor) fn needs_own_commit(&self, height: SequencerHeight) -> bool {
        self.gossip.is_some() && self.limits.gossip.publish && self.is_of_use_to_peers(height)
    }

    /// Messages were made of a server's block.
    pub(in crate::conductor) fn gossip_made(
        &mut self,
        height: SequencerHeight,
        messages: &[Message],
        out: &mut Outbox,
    ) {
        for message in messages {
            self.publish(height, message, out);
        }
    }

    /// Hands a message to peers, unless they have it.
    pub(in crate::conductor) fn publish(&mut self, height: SequencerHeight, message: &Message, out: &mut Outbox) {
        if !self.limits.gossip.publish || !self.is_of_use_to_peers(height) {
            return;
        }
        let Some(gossip) = &mut self.gossip else { return };
        if gossip.is_spread(height, message.topic) {
            gossip.counts.published += 1;
            let is_old = self.follower.head.is_some_and(|head| head > height.plus(BEHIND));
            out.push(Command::PublishGossip { message: message.clone(), is_old });
        }
    }

    pub(in crate::conductor) fn plan_publishing(&mut self, out: &mut Outbox) {
        let Some(gossip) = &mut self.gossip else { return };
        for (height, known) in &mut gossip.known {
            let Some(light) = &known.light else { continue };
            let Some(ToPublish { block, transactions }) = known.to_publish.take() else { continue };
            let job = MakeGossip { block, light: light.clone(), transactions, limits: Arc::clone(&self.limits) };
            self.calls.verify(Purpose::MessagesJob(*height), Job::MakeGossip(Box::new(job)), out);
        }
    }
}
