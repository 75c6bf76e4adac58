//! Messages from peers: which of them are worth a look, what follows from those that are genuine, and when peers are asked
//! or told.
//!
//! Every message gets one verdict, and none that accepts it before it was verified (S4). What peers send and what a server
//! answers meet in the follower: whatever is verified first is executed.

mod asks;
mod proven;

use std::sync::Arc;

use bytes::Bytes;

use super::{Conductor, Stop};
use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    command::{Command, Outbox, Subject},
    gossip::{
        BEHIND, BlockPart, BoundBlock, GossipHandle, GossipPeer, Head, Ignored, JudgedGossip, Known, Refused, Source,
        Topic, Undecided, Verdict, VerifyGossip, Waits,
    },
    ids::{RollupId, SequencerHeight},
    job::Job,
    light::Check,
    verified::Verified,
};

/// What becomes of a message at first sight.
enum Sight {
    Decided(Verdict),
    /// To be verified as a block, at the top of all that is known or not.
    Block {
        check: Box<Check>,
        is_far: bool,
    },
    Rollup(Arc<Verified<BoundBlock>>),
    /// Data whose block is not here yet.
    Waits,
}

impl Conductor {
    /// A message came. The cheap checks first: who sends what is of no use shall cost little.
    pub(super) fn gossiped(
        &mut self,
        handle: GossipHandle,
        peer: GossipPeer,
        topic: Topic,
        bytes: &Bytes,
        out: &mut Outbox,
    ) {
        let head = match Head::read(bytes, &self.limits) {
            Ok(head) => head,
            Err(error) => {
                let is_off = self.gossip.is_none() || self.stop != Stop::No;
                let refused = Verdict::Reject(Refused::Message(error));
                let verdict = if is_off { Verdict::Ignore(Ignored::Off) } else { refused };
                return self.judge(handle, topic, None, verdict, out);
            }
        };
        let sight = self.look_at(peer, topic, head, bytes.len());
        let (limits, at) = (Arc::clone(&self.limits), self.now);
        let (height, block_hash) = (head.height, head.block_hash);
        let (stage, is_far) = match sight {
            Sight::Decided(verdict) => return self.judge(handle, topic, Some(height), verdict, out),
            Sight::Waits => (Waits::ForBlock(self.now.after(limits.gossip.decide_within)), false),
            Sight::Block { check, is_far } => {
                let block = BlockPart::Message { bytes: bytes.clone(), check, at };
                let job = VerifyGossip { height, block, rollups: Vec::new(), limits };
                let job = Job::VerifyGossip(Box::new(job));
                (Waits::ForJob(self.calls.verify(Purpose::GossipJob(handle), job, out)), is_far)
            }
            Sight::Rollup(block) => {
                let Topic::Rollup(rollup) = topic else { return };
                let rollups = vec![(rollup, bytes.clone())];
                let job = VerifyGossip { height, block: BlockPart::Known(block), rollups, limits };
                let job = Job::VerifyGossip(Box::new(job));
                (Waits::ForJob(self.calls.verify(Purpose::GossipJob(handle), job, out)), false)
            }
        };
        let Some(gossip) = &mut self.gossip else { return };
        if canary(Canary::GossipSeenBeforeVerified) {
            gossip.is_spread(height, topic);
        }
        if canary(Canary::GossipJudgedBeforeVerified) {
            out.push(Command::JudgeGossip { handle, verdict: Verdict::Accept });
        }
        let undecided = Undecided { peer, topic, height, block_hash, bytes: bytes.clone(), stage, is_far };
        gossip.undecided.insert(handle, undecided);
    }

    fn look_at(&self, peer: GossipPeer, topic: Topic, head: Head, size: usize) -> Sight {
        let ignore = |ignored| Sight::Decided(Verdict::Ignore(ignored));
        let Some(gossip) = &self.gossip else { return ignore(Ignored::Off) };
        if self.stop != Stop::No {
            return ignore(Ignored::Off);
        }
        let Head { height, block_hash } = head;
        let windows = self.windows();
        if windows.is_empty() {
            return ignore(Ignored::NotReady);
        }
        let known = gossip.known.get(&height);
        let is_other = known.and_then(Known::hash).is_some_and(|hash| hash != block_hash);
        if gossip.has_spread(height, topic) && !is_other {
            return ignore(Ignored::Known);
        }
        let place = self.place(&windows, topic, height);
        let has_room = gossip.has_room(peer, size, &self.limits);
        match topic {
            Topic::Blocks => {
                let is_known = known.is_some_and(|known| known.hash().is_some());
                let is_far = match place {
                    Place::Passed if !is_known && !canary(Canary::GossipStaleTaken) => return ignore(Ignored::Stale),
                    Place::Ahead if gossip.newest().is_some_and(|newest| height <= newest) => {
                        return ignore(Ignored::Future);
                    }
                    Place::Ahead => true,
                    Place::Passed | Place::Kept => false,
                };
                // Anybody can claim to be far ahead: one at a time may show that it is so.
                if is_far && gossip.undecided.values().any(|undecided| undecided.is_far) {
                    return ignore(Ignored::Future);
                }
                if !has_room {
                    return ignore(Ignored::Busy);
                }
                match self.gossip_check(height) {
                    Some(check) => Sight::Block { check: Box::new(check), is_far },
                    None => ignore(Ignored::NotReady),
                }
            }
            Topic::Rollup(rollup) => {
                match place {
                    Place::Passed if !canary(Canary::GossipStaleTaken) => return ignore(Ignored::Stale),
                    _ if !windows.iter().any(|(followed, _)| *followed == rollup) => {
                        return ignore(Ignored::Unfollowed);
                    }
                    Place::Ahead => return ignore(Ignored::Future),
                    Place::Passed | Place::Kept => {}
                }
                let is_next = windows.iter().any(|(followed, next)| *followed == rollup && *next == height);
                let is_full = gossip.bytes() >= self.limits.soft_buffer_bytes;
                if !has_room || (is_full && !is_next) {
                    return ignore(Ignored::Busy);
                }
                match known.and_then(|known| known.block.as_ref()) {
                    Some(block) if block.block_hash() != block_hash => {
                        let expected = block.block_hash();
                        Sight::Decided(Verdict::Reject(Refused::OtherBlock { expected, actual: block_hash }))
                    }
                    Some(block) if !block.lists(&rollup) => Sight::Decided(Verdict::Reject(Refused::NotListed(rollup))),
                    Some(block) => Sight::Rollup(Arc::clone(block)),
                    None => Sight::Waits,
                }
            }
        }
    }

    /// What a header from a peer has to follow from. None where nothing is trusted yet: a stranger is never believed first.
    pub(super) fn gossip_check(&self, height: SequencerHeight) -> Option<Check> {
        let chain_id = self.follower.chain_id.as_deref()?;
        let client = &self.headers.trusting.as_ref()?.client;
        let check = client.check(height.0, chain_id, self.now);
        let leads = match &check {
            Check::From(state) => state.height() < height.0 && !state.is_expired(client.options(), self.now),
            // The root itself may be older than the trusting period when its block is needed again.
            Check::Root { .. } => self.headers.hash_at(height).is_none(),
            // A stranger is never believed first.
            Check::FirstUse { .. } | Check::Known { .. } => false,
        };
        if leads {
            return Some(check);
        }
        // Below all that is reached by signatures, hashes lead down.
        let hash = self.headers.hash_at(height)?;
        Some(Check::Known { chain_id: chain_id.to_owned(), hash })
    }

    /// The rollups that are followed softly, each with the height that it needs next.
    pub(super) fn windows(&self) -> Vec<(RollupId, SequencerHeight)> {
        let running =
            self.cells.values().filter(|cell| cell.spec.mode.follows_soft()).filter_map(|cell| cell.running());
        let running = running.filter(|running| running.identified);
        running.filter_map(|running| Some((running.session.rollup_id, running.session.next_soft()?))).collect()
    }

    pub(super) fn place(
        &self,
        windows: &[(RollupId, SequencerHeight)],
        topic: Topic,
        height: SequencerHeight,
    ) -> Place {
        let concerned = |(rollup, next): &&(RollupId, SequencerHeight)| match topic {
            Topic::Blocks => Some(*next),
            Topic::Rollup(id) => (id == *rollup).then_some(*next),
        };
        let ahead = self.limits.gossip.ahead;
        let nexts: Vec<SequencerHeight> = windows.iter().filter_map(|window| concerned(&window)).collect();
        if nexts.iter().any(|next| *next <= height && height <= next.plus(ahead)) {
            Place::Kept
        } else if nexts.iter().any(|next| height < *next) {
            Place::Passed
        } else {
            Place::Ahead
        }
    }

    fn judge(
        &mut self,
        handle: GossipHandle,
        topic: Topic,
        height: Option<SequencerHeight>,
        verdict: Verdict,
        out: &mut Outbox,
    ) {
        if let Some(gossip) = &mut self.gossip {
            gossip.counts.judged(&verdict);
        }
        if let Verdict::Reject(refused) = &verdict {
            let height = height.map_or_else(|| "unknown".to_owned(), |height| height.to_string());
            self.drop_input(Subject::Gossip, format!("{topic}, height {height}"), &refused.to_string(), out);
        }
        if !canary(Canary::GossipJudgedBeforeVerified) || verdict != Verdict::Accept {
            out.push(Command::JudgeGossip { handle, verdict });
        }
    }

    /// A message was verified.
    pub(super) fn gossip_judged(&mut self, handle: GossipHandle, judged: &JudgedGossip, out: &mut Outbox) {
        let Some(undecided) = self.gossip.as_mut().and_then(|gossip| gossip.undecided.remove(&handle)) else { return };
        let Undecided { topic, height, .. } = undecided;
        let verdict = match (&judged.block, judged.rollups.first()) {
            (Some(Ok(block)), _) => self.block_proven(block, Source::Gossip, out),
            (None, Some((rollup, Ok(data)))) => {
                self.data_proven(height, *rollup, data, Source::Gossip);
                Verdict::Accept
            }
            (Some(Err(refusal)), _) => {
                self.header_of_peer_refused(height, refusal.light.as_deref(), out);
                refusal.verdict.clone()
            }
            (None, Some((_, Err(verdict)))) => verdict.clone(),
            (None, None) => Verdict::Ignore(Ignored::Undecided),
        };
        if let Some(gossip) = self.gossip.as_mut().filter(|_| verdict == Verdict::Accept) {
            gossip.is_spread(height, topic);
        }
        self.judge(handle, topic, Some(height), verdict, out);
    }

    pub(super) fn plan_gossip(&mut self, out: &mut Outbox) {
        if self.gossip.is_none() {
            return;
        }
        self.forget_gossip();
        self.plan_verdicts(out);
        self.plan_publishing(out);
        self.plan_asks(out);
    }

    fn forget_gossip(&mut self) {
        let (windows, ahead) = (self.windows(), self.limits.gossip.ahead);
        let Some(gossip) = self.gossip.as_mut().filter(|_| !windows.is_empty()) else { return };
        gossip.known.retain(|height, known| {
            let is_of_use = windows.iter().any(|(_, next)| *next <= *height && *height <= next.plus(ahead));
            if !is_of_use {
                known.rollups.clear();
                known.block = known.block.take().filter(|_| known.light.is_none());
                known.to_publish = None;
            }
            is_of_use || windows.iter().any(|(_, next)| next.minus(BEHIND) <= *height && *height < *next)
        });
        if gossip.far.is_some_and(|far| gossip.newest().is_some_and(|newest| far <= newest)) {
            gossip.far = None;
        }
    }

    /// Data whose block came are verified, and those whose block did not come in time are given up.
    pub(super) fn plan_verdicts(&mut self, out: &mut Outbox) {
        let (now, windows) = (self.now, self.windows());
        let Some(gossip) = &self.gossip else { return };
        let waits = gossip.find(|undecided| match (undecided.stage, undecided.topic) {
            (Waits::ForBlock(until), Topic::Rollup(rollup)) => Some((until, rollup)),
            _ => None,
        });
        for (handle, (until, rollup)) in waits {
            let Some(gossip) = &mut self.gossip else { return };
            let Some(undecided) = gossip.undecided.get_mut(&handle) else { continue };
            let (topic, height, actual) = (undecided.topic, undecided.height, undecided.block_hash);
            let block = gossip.known.get(&height).and_then(|known| known.block.clone());
            let is_passed = !windows.is_empty() && windows.iter().all(|(_, next)| height < *next);
            let verdict = match block {
                Some(block) if block.block_hash() != actual => {
                    let expected = block.block_hash();
                    Verdict::Reject(Refused::OtherBlock { expected, actual })
                }
                Some(block) if !block.lists(&rollup) => Verdict::Reject(Refused::NotListed(rollup)),
                Some(block) => {
                    let (rollups, limits) = (vec![(rollup, undecided.bytes.clone())], Arc::clone(&self.limits));
                    let job = VerifyGossip { height, block: BlockPart::Known(block), rollups, limits };
                    let job = Job::VerifyGossip(Box::new(job));
                    undecided.stage = Waits::ForJob(self.calls.verify(Purpose::GossipJob(handle), job, out));
                    continue;
                }
                None if is_passed => Verdict::Ignore(Ignored::Stale),
                None if until <= now => Verdict::Ignore(Ignored::Undecided),
                None => continue,
            };
            gossip.undecided.remove(&handle);
            self.judge(handle, topic, Some(height), verdict, out);
        }
    }

    /// Nobody waits for a verdict after the end.
    pub(super) fn give_up_gossip(&mut self, out: &mut Outbox) {
        let Some(gossip) = &mut self.gossip else { return };
        for (handle, undecided) in std::mem::take(&mut gossip.undecided) {
            self.judge(handle, undecided.topic, Some(undecided.height), Verdict::Ignore(Ignored::Off), out);
        }
    }
}

/// Where a height lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Passed,
    /// What is known of it is kept.
    Kept,
    Ahead,
}
