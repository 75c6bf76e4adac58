//! What came from peers and is kept for a while: verified parts of blocks, messages that wait for a verdict, and questions
//! to peers. Holds observations; [`crate::conductor`] decides what follows from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{BoundBlock, GossipHandle, GossipPeer, Source, Topic};
use crate::{
    ids::{BlockHash, CommandId, RollupId, SequencerHeight},
    light::LightBlock,
    limits::Limits,
    retry::Attempt,
    sequencer::SequencedBlock,
    time::Timestamp,
    verified::Verified,
    view::GossipCounts,
};

/// Heights below the next one whose headers are remembered, for evidence and so that repetitions are known as such.
pub(crate) const BEHIND: u64 = 16;
/// Heights below the head that a node makes messages of: as many as an adapter keeps by default for peers that ask.
pub(crate) const OFFERED: u64 = 256;
/// Heights of which is remembered what peers have.
const SPREAD: usize = 512;
/// Bounds of the time after which peers count as silent, and the length of it before a block time is known.
const SILENCE_MIN: Duration = Duration::from_millis(200);
const SILENCE_MAX: Duration = Duration::from_secs(30);
const SILENCE_UNKNOWN: Duration = Duration::from_secs(4);
/// While peers are heard, a server's head is asked for so much less often.
pub(crate) const SLOWER: u32 = 8;

/// All that concerns peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gossip {
    pub(crate) known: BTreeMap<SequencerHeight, Known>,
    pub(crate) undecided: BTreeMap<GossipHandle, Undecided>,
    pub(crate) asks: BTreeMap<SequencerHeight, Ask>,
    /// What peers have sent and got an acceptance for, or were sent: of the highest heights.
    spread: BTreeMap<SequencerHeight, BTreeSet<Topic>>,
    /// The highest block that a peer's message proved, and the time in its header.
    newest: Option<(SequencerHeight, Timestamp)>,
    /// When a message proved a higher block than any before.
    heard_at: Option<Timestamp>,
    block_time: Option<Duration>,
    /// A block that is too far from what is trusted.
    pub(crate) far: Option<SequencerHeight>,
    pub(crate) counts: GossipCounts,
}

/// What is known of a recent height.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// What proves the header, where its own commit was checked.
    pub(crate) light: Option<Box<Verified<LightBlock>>>,
    /// The block itself, whoever showed it.
    pub(crate) block: Option<Arc<Verified<BoundBlock>>>,
    /// Data from peers.
    pub(crate) rollups: BTreeMap<RollupId, Verified<SequencedBlock>>,
    /// Whether part of it is the answer to a question.
    pub(crate) was_asked: bool,
    /// A server's block of which messages are to be made.
    pub(crate) to_publish: Option<ToPublish>,
}

/// A block that was bound to its header.
#[derive(Clone, Debug)]
pub(crate) struct ToPublish {
    pub(crate) block: Bytes,
    pub(crate) transactions: Option<Vec<Bytes>>,
}

/// A message that waits for a verdict.
#[derive(Clone, Debug)]
pub(crate) struct Undecided {
    pub(crate) peer: GossipPeer,
    pub(crate) topic: Topic,
    pub(crate) height: SequencerHeight,
    pub(crate) block_hash: BlockHash,
    pub(crate) bytes: Bytes,
    pub(crate) stage: Waits,
    /// Further ahead than anything that is kept: one at a time.
    pub(crate) is_far: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// For its block, at most until then.
    ForBlock(Timestamp),
    ForJob(CommandId),
}

/// A question to peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) attempt: Attempt,
    pub(crate) rollups: BTreeSet<RollupId>,
    /// Whose answer is being checked.
    pub(crate) peer: Option<GossipPeer>,
}

impl Known {
    /// The hash of the block, if anything says so.
    pub(crate) fn hash(&self) -> Option<BlockHash> {
        let of_block = self.block.as_ref().map(|block| block.block_hash());
        of_block.or_else(|| self.light.as_ref().map(|light| light.hash()))
    }

    /// What a rollup has to execute, if all that it takes is here.
    pub(crate) fn rollup(&self, id: &RollupId) -> Option<Verified<SequencedBlock>> {
        let empty = || self.block.as_ref()?.empty_block(id);
        self.rollups.get(id).cloned().or_else(empty)
    }

    /// Which of `rollups` are not here.
    pub(crate) fn lacks(&self, rollups: &BTreeSet<RollupId>) -> BTreeSet<RollupId> {
        rollups.iter().filter(|id| self.rollup(id).is_none()).copied().collect()
    }

    /// Who was first.
    pub(crate) fn source(&self) -> Source {
        if self.was_asked { Source::Peer } else { Source::Gossip }
    }

    fn bytes(&self) -> usize {
        self.rollups.values().map(|block| block.size()).sum()
    }
}

impl Gossip {
    /// The highest block that peers have proven.
    pub(crate) fn newest(&self) -> Option<SequencerHeight> {
        self.newest.map(|(height, _)| height)
    }

    /// A peer has proven a block whose header is of `time`. Returns whether it is higher than any before.
    pub(crate) fn proven(&mut self, height: SequencerHeight, time: Timestamp, source: Source, now: Timestamp) -> bool {
        if let Some((before, time_before)) = self.newest {
            if height <= before {
                return false;
            }
            let count = u32::try_from(height.0 - before.0).unwrap_or(u32::MAX);
            self.block_time = Some(time.since(time_before) / count);
        }
        self.newest = Some((height, time));
        if source == Source::Gossip {
            self.heard_at = Some(now);
        }
        true
    }

    /// When peers count as silent: a block was due, and one block time more has passed (L6).
    pub(crate) fn silent_at(&self) -> Option<Timestamp> {
        let silence = self.block_time.map_or(SILENCE_UNKNOWN, |time| (2 * time).clamp(SILENCE_MIN, SILENCE_MAX));
        self.heard_at.map(|at| at.after(silence))
    }

    /// Whether the next block is awaited from peers.
    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        self.silent_at().is_some_and(|at| now < at)
    }

    /// Whether there is room for one more message of `peer`.
    pub(crate) fn has_room(&self, peer: GossipPeer, size: usize, limits: &Limits) -> bool {
        let settings = &limits.gossip;
        let of_peer = self.undecided.values().filter(|undecided| undecided.peer == peer).count();
        self.undecided.len() < settings.undecided
            && of_peer < settings.undecided_per_peer
            && self.undecided_bytes().saturating_add(size) <= settings.undecided_bytes
    }

    pub(crate) fn undecided_bytes(&self) -> usize {
        self.undecided.values().map(|undecided| undecided.bytes.len()).sum()
    }

    /// Bytes of rollup data that are verified and wait to be used.
    pub(crate) fn bytes(&self) -> usize {
        self.known.values().map(Known::bytes).sum()
    }

    /// Peers have a message, by themselves or from here. Returns whether that is news.
    pub(crate) fn is_spread(&mut self, height: SequencerHeight, topic: Topic) -> bool {
        let is_news = self.spread.entry(height).or_default().insert(topic);
        while self.spread.len() > SPREAD {
            self.spread.pop_first();
        }
        is_news
    }

    /// Whether peers have a message.
    pub(crate) fn has_spread(&self, height: SequencerHeight, topic: Topic) -> bool {
        self.spread.get(&height).is_some_and(|topics| topics.contains(&topic))
    }

    /// Heights whose messages peers are known to have, and how many there may be.
    pub(crate) fn spread(&self) -> (usize, usize) {
        (self.spread.len(), SPREAD)
    }

    /// Questions on their way.
    pub(crate) fn asked(&self) -> usize {
        self.asks.values().filter(|ask| ask.attempt.is_in_flight()).count()
    }

    /// The first moment at which a message has waited for too long.
    pub(crate) fn next_verdict(&self) -> Option<Timestamp> {
        let until = self.undecided.values().filter_map(|undecided| match undecided.stage {
            Waits::ForBlock(until) => Some(until),
            Waits::ForJob(_) => None,
        });
        until.min()
    }

    /// Messages for which `decide` has something.
    pub(crate) fn find<T>(&self, decide: impl Fn(&Undecided) -> Option<T>) -> Vec<(GossipHandle, T)> {
        self.undecided.iter().filter_map(|(handle, undecided)| Some((*handle, decide(undecided)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ROLLUP, block};

    fn seconds(count: u64) -> Timestamp {
        Timestamp(count * 1_000_000_000)
    }

    #[test]
    fn peers_are_silent_one_block_time_after_a_block_was_due() {
        let mut gossip = Gossip::default();
        assert!(!gossip.is_fresh(seconds(1)), "nobody was heard yet");
        assert!(gossip.proven(SequencerHeight(5), seconds(100), Source::Gossip, seconds(10)));
        assert!(gossip.is_fresh(seconds(13)) && !gossip.is_fresh(seconds(14)), "no block time is known");
        assert!(gossip.proven(SequencerHeight(7), seconds(104), Source::Gossip, seconds(20)));
        assert!(gossip.is_fresh(seconds(23)) && !gossip.is_fresh(seconds(24)), "two seconds for a block");
        assert!(!gossip.proven(SequencerHeight(7), seconds(104), Source::Gossip, seconds(30)), "again");
        assert!(!gossip.proven(SequencerHeight(6), seconds(102), Source::Gossip, seconds(30)), "an older one");
        assert!(!gossip.is_fresh(seconds(30)), "which are no news");
        assert!(gossip.proven(SequencerHeight(9), seconds(108), Source::Peer, seconds(30)));
        assert!(!gossip.is_fresh(seconds(30)), "nor is an answer");
        assert_eq!(gossip.newest(), Some(SequencerHeight(9)));
    }

    #[test]
    fn what_waits_is_bounded_for_each_peer_and_for_all_together() {
        let mut limits = Limits::default();
        (limits.gossip.undecided, limits.gossip.undecided_per_peer, limits.gossip.undecided_bytes) = (3, 2, 10);
        let mut gossip = Gossip::default();
        let (one, other) = (GossipPeer(1), GossipPeer(2));
        let hold = |gossip: &mut Gossip, handle, peer, size| {
            assert!(gossip.has_room(peer, size, &limits));
            let undecided = Undecided {
                peer,
                topic: Topic::Blocks,
                height: SequencerHeight(1),
                block_hash: BlockHash([0; 32]),
                bytes: vec![0; size].into(),
                stage: Waits::ForBlock(seconds(handle)),
                is_far: false,
            };
            gossip.undecided.insert(GossipHandle(handle), undecided);
        };
        hold(&mut gossip, 7, one, 4);
        hold(&mut gossip, 3, one, 4);
        assert!(!gossip.has_room(one, 1, &limits) && gossip.has_room(other, 2, &limits));
        assert!(!gossip.has_room(other, 3, &limits), "too many bytes");
        hold(&mut gossip, 9, other, 1);
        assert!(!gossip.has_room(GossipPeer(3), 0, &limits), "too many of all");
        assert_eq!((gossip.next_verdict(), gossip.undecided_bytes()), (Some(seconds(3)), 9));
    }

    #[test]
    fn what_peers_have_is_remembered_of_the_highest_heights() {
        let mut gossip = Gossip::default();
        let heights = SPREAD as u64 + 3;
        for height in 1..=heights {
            assert!(gossip.is_spread(SequencerHeight(height), Topic::Blocks));
            assert!(!gossip.is_spread(SequencerHeight(height), Topic::Blocks), "no news");
        }
        assert_eq!(gossip.spread(), (SPREAD, SPREAD));
        let has = |height| gossip.has_spread(SequencerHeight(height), Topic::Blocks);
        assert!(!has(3) && has(4) && has(heights));
    }

    #[test]
    fn questions_on_their_way_and_data_that_wait_are_counted() {
        let made = block(4, &[ROLLUP]);
        let mut gossip = Gossip::default();
        let known = gossip.known.entry(made.height()).or_default();
        let data = made.bound().block_with(&made.record()).expect("genuine data");
        let size = data.size();
        known.rollups.insert(ROLLUP, data);
        assert_eq!((gossip.bytes(), size > 1), (size, true));
        for height in 4..7 {
            let ask = gossip.asks.entry(SequencerHeight(height)).or_default();
            if height > 4 {
                ask.attempt.started(CommandId { incarnation: 1, ordinal: height });
            }
        }
        assert_eq!(gossip.asked(), 2, "one is not due yet");
    }
}
