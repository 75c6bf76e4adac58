//! Follows the sequencer's head and fetches soft blocks for all cells, each height once.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    canary::{Canary, canary},
    ids::{CellId, CommandId, Node, RollupId, SequencerHeight},
    light::SoftTrust,
    retry::Attempt,
    sequencer::{Claim, SequencedBlock, SoftBlock},
    time::Timestamp,
    verified::Verified,
};

/// What is known of the sequencer, and the soft blocks on their way to the cells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Follower {
    pub(crate) chain_id: Option<String>,
    pub(crate) identify: Attempt,
    /// The highest block that is said or proven to exist.
    pub(crate) head: Option<SequencerHeight>,
    /// What servers say of it, and when one was heard last.
    pub(crate) server_head: Option<SequencerHeight>,
    pub(crate) polled_at: Timestamp,
    pub(crate) head_poll: Attempt,
    /// Who was asked last.
    pub(crate) head_node: Node,
    pub(crate) slots: BTreeMap<SequencerHeight, Slot>,
}

/// One sequencer height.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) attempt: Attempt,
    /// For whom it was or will be fetched.
    pub(crate) owners: BTreeMap<CellId, RollupId>,
    pub(crate) stage: Stage,
    /// As it came, where peers are to be told or others shown that it is false. Mostly its parts are slices of it.
    pub(crate) encoded: Option<Bytes>,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    #[default]
    Fetch,
    /// Size of the encoded block in bytes.
    Verifying(usize),
    /// With what the blocks follow from, until that is bound to a trusted header.
    Ready(BTreeMap<RollupId, Verified<SequencedBlock>>, Option<Unbound>),
}

/// A block that waits for its header.
#[derive(Clone, Debug)]
pub(crate) struct Unbound {
    pub(crate) claim: Box<Claim>,
}

impl Slot {
    /// What is in it is proven.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.stage, Stage::Ready(_, None))
    }

    fn bytes(&self) -> usize {
        match &self.stage {
            Stage::Fetch => 0,
            Stage::Verifying(bytes) => *bytes,
            Stage::Ready(blocks, _) => blocks.values().map(|block| block.size()).sum(),
        }
    }
}

impl Follower {
    /// Calls in flight for soft blocks.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.values().filter(|slot| slot.attempt.is_in_flight()).count()
    }

    /// Bytes of soft blocks held.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.values().map(Slot::bytes).sum()
    }

    /// Bytes of soft blocks kept as they came.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.slots.values().filter_map(|slot| slot.encoded.as_ref()).map(Bytes::len).sum()
    }

    pub(crate) fn head_fetched(&mut self, height: SequencerHeight, now: Timestamp) {
        self.polled_at = now;
        self.server_head = self.server_head.max(Some(height));
        self.head = self.head.max(Some(height));
    }

    /// When the head is to be asked for again.
    pub(crate) fn poll_again(&mut self, next_poll: Timestamp) {
        self.head_poll.succeeded(if canary(Canary::HeadAskedOnce) { Timestamp::MAX } else { next_poll });
    }

    /// A block is consistent in itself. With `soft` it still has to be bound to its header.
    pub(crate) fn verified(&mut self, height: SequencerHeight, block: SoftBlock, soft: SoftTrust, now: Timestamp) {
        if let Some(slot) = self.slots.get_mut(&height) {
            let (blocks, claim) = block.into_parts();
            let is_bound = soft == SoftTrust::Sequencer || canary(Canary::SoftNotBound);
            slot.stage = Stage::Ready(blocks, (!is_bound).then_some(Unbound { claim }));
            if is_bound {
                slot.encoded = None;
                slot.attempt = Attempt::default();
            } else {
                // Failures stay: whoever tells a lie once more is asked less often.
                slot.attempt.answered(now);
            }
        }
    }

    /// Whether a block is there that waits for its header.
    pub(crate) fn is_unbound(&self, height: SequencerHeight) -> bool {
        self.slots.get(&height).is_some_and(|slot| matches!(slot.stage, Stage::Ready(_, Some(_))))
    }

    /// Whether the header of this height is of no more use: its soft block is bound.
    pub(crate) fn is_bound(&self, height: SequencerHeight) -> bool {
        self.slots.get(&height).is_some_and(Slot::is_bound)
    }

    /// The block of `height` for one cell, if it is there.
    pub(crate) fn peek(&self, cell: CellId, height: SequencerHeight) -> Option<&Verified<SequencedBlock>> {
        let slot = self.slots.get(&height)?;
        let rollup_id = slot.owners.get(&cell)?;
        match &slot.stage {
            Stage::Ready(blocks, None) => blocks.get(rollup_id),
            _ => None,
        }
    }

    /// Whether `height` is there but without data for `cell`, which came later.
    pub(crate) fn lacks(&self, cell: CellId, height: SequencerHeight) -> bool {
        self.slots
            .get(&height)
            .is_some_and(|slot| matches!(slot.stage, Stage::Ready(..)) && !slot.owners.contains_key(&cell))
    }

    /// A cell needs nothing below `height` any more. Returns the commands whose answers nobody waits for.
    pub(crate) fn forget(&mut self, cell: CellId, height: SequencerHeight) -> Vec<CommandId> {
        let mut cancelled = Vec::new();
        let heights: Vec<SequencerHeight> = self
            .slots
            .range(..height)
            .filter(|(_, slot)| slot.owners.contains_key(&cell))
            .map(|(height, _)| *height)
            .collect();
        for height in heights {
            let Some(slot) = self.slots.get_mut(&height) else { continue };
            let rollup_id = slot.owners.remove(&cell);
            if slot.owners.is_empty() {
                cancelled.extend(slot.attempt.in_flight());
                self.slots.remove(&height);
            } else if let (Some(rollup_id), Stage::Ready(blocks, _)) = (rollup_id, &mut slot.stage)
                && !slot.owners.values().any(|other| *other == rollup_id)
            {
                blocks.remove(&rollup_id);
            }
        }
        cancelled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        job::{Job, JobOutcome},
        limits::Limits,
        sequencer::SoftBlockRequest,
        testing::{CHAIN, ROLLUP, block},
    };
    use prost::Message as _;

    const ONE: CellId = CellId(1);
    const OTHER: CellId = CellId(2);
    const THIRD: CellId = CellId(3);

    /// A follower that holds block 5 for three cells, two of which follow the same rollup.
    fn follower() -> Follower {
        let (height, other) = (SequencerHeight(5), RollupId([8; 32]));
        let made = block(5, &[ROLLUP, other]);
        let request = SoftBlockRequest { height, chain_id: CHAIN.to_owned(), rollup_ids: vec![ROLLUP, other] };
        let block = made.filtered.encode_to_vec().into();
        let job = Job::VerifySoftBlock { block, request, limits: Arc::new(Limits::default()) };
        let JobOutcome::SoftBlock(Ok(block)) = job.run() else { panic!("a genuine block") };
        let mut follower = Follower::default();
        let slot = follower.slots.entry(height).or_default();
        slot.owners = BTreeMap::from([(ONE, ROLLUP), (OTHER, ROLLUP), (THIRD, other)]);
        follower.verified(height, block, SoftTrust::Sequencer, Timestamp::ZERO);
        follower
    }

    #[test]
    fn a_block_is_shown_to_those_it_was_fetched_for_and_lacks_for_others() {
        let follower = follower();
        let shown = |cell| follower.peek(cell, SequencerHeight(5)).map(|block| block.block_hash());
        assert_eq!(shown(ONE), Some(block(5, &[ROLLUP, RollupId([8; 32])]).trusted().hash()));
        assert!(shown(THIRD).is_some() && shown(CellId(4)).is_none());
        let lacks = |cell, height| follower.lacks(cell, SequencerHeight(height));
        assert!(lacks(CellId(4), 5) && !lacks(ONE, 5), "it came later");
        assert!(!lacks(CellId(4), 6), "what is not there is fetched for all");
        assert!(follower.peek(ONE, SequencerHeight(6)).is_none());
    }

    #[test]
    fn data_is_kept_as_long_as_one_cell_needs_it() {
        let mut follower = follower();
        let (height, whole) = (SequencerHeight(5), follower.bytes());
        follower.forget(ONE, height);
        assert!(follower.peek(ONE, height).is_some(), "it is needed up to its height, exclusively");
        follower.forget(ONE, height.next());
        assert!(follower.peek(ONE, height).is_none() && follower.peek(OTHER, height).is_some());
        assert!(whole > 0 && follower.bytes() == whole, "another cell follows the same rollup");
        follower.forget(OTHER, height.next());
        assert_eq!(follower.bytes(), whole / 2, "nobody needs this rollup's part");
        follower.forget(THIRD, height.next());
        assert!(follower.slots.is_empty());
    }

    #[test]
    fn a_call_whose_block_nobody_needs_is_given_up() {
        let mut follower = Follower::default();
        let id = CommandId { incarnation: 1, ordinal: 7 };
        let slot = follower.slots.entry(SequencerHeight(5)).or_default();
        slot.owners = BTreeMap::from([(ONE, ROLLUP), (OTHER, ROLLUP)]);
        slot.attempt.started(id);
        assert_eq!((follower.in_flight(), follower.bytes()), (1, 0));
        assert!(!follower.lacks(THIRD, SequencerHeight(5)), "it is on its way");
        assert!(follower.forget(ONE, SequencerHeight(9)).is_empty(), "the other one waits for it");
        assert_eq!(follower.forget(OTHER, SequencerHeight(9)), [id]);
        assert_eq!(follower.in_flight(), 0);
    }

    #[test]
    fn the_head_does_not_go_back() {
        let mut follower = Follower::default();
        follower.head_fetched(SequencerHeight(9), Timestamp(1));
        follower.head_fetched(SequencerHeight(7), Timestamp(2));
        follower.poll_again(Timestamp(3));
        assert_eq!((follower.head, follower.head_poll.due()), (Some(SequencerHeight(9)), Some(Timestamp(3))));
        assert_eq!((follower.server_head, follower.polled_at), (follower.head, Timestamp(2)));
    }
}
