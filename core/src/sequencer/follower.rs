//! Follows the sequencer's head and fetches soft blocks for all cells, each height once.

use std::collections::BTreeMap;

use crate::{
    canary::{Canary, canary},
    ids::{CellId, CommandId, RollupId, SequencerHeight},
    retry::Attempt,
    sequencer::{SequencedBlock, SoftBlock},
    time::Timestamp,
    verified::Verified,
};

/// What is known of the sequencer, and the soft blocks on their way to the cells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Follower {
    pub(crate) chain_id: Option<String>,
    pub(crate) identify: Attempt,
    pub(crate) head: Option<SequencerHeight>,
    pub(crate) head_poll: Attempt,
    pub(crate) slots: BTreeMap<SequencerHeight, Slot>,
}

/// One sequencer height.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) attempt: Attempt,
    /// For whom it was or will be fetched.
    pub(crate) owners: BTreeMap<CellId, RollupId>,
    pub(crate) stage: Stage,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    #[default]
    Fetch,
    /// Size of the encoded block in bytes.
    Verifying(usize),
    Ready(BTreeMap<RollupId, Verified<SequencedBlock>>),
}

impl Slot {
    fn bytes(&self) -> usize {
        match &self.stage {
            Stage::Fetch => 0,
            Stage::Verifying(bytes) => *bytes,
            Stage::Ready(blocks) => blocks.values().map(|block| block.size()).sum(),
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

    pub(crate) fn head_fetched(&mut self, height: SequencerHeight, next_poll: Timestamp) {
        self.head_poll.succeeded(if canary(Canary::HeadAskedOnce) { Timestamp::MAX } else { next_poll });
        self.head = Some(self.head.map_or(height, |head| head.max(height)));
    }

    pub(crate) fn verified(&mut self, height: SequencerHeight, block: SoftBlock) {
        if let Some(slot) = self.slots.get_mut(&height) {
            slot.stage = Stage::Ready(block.into_blocks());
            slot.attempt = Attempt::default();
        }
    }

    /// The block of `height` for one cell, if it is there.
    pub(crate) fn peek(&self, cell: CellId, height: SequencerHeight) -> Option<&Verified<SequencedBlock>> {
        let slot = self.slots.get(&height)?;
        let rollup_id = slot.owners.get(&cell)?;
        match &slot.stage {
            Stage::Ready(blocks) => blocks.get(rollup_id),
            _ => None,
        }
    }

    /// Whether `height` is there but without data for `cell`, which came later.
    pub(crate) fn lacks(&self, cell: CellId, height: SequencerHeight) -> bool {
        self.slots
            .get(&height)
            .is_some_and(|slot| matches!(slot.stage, Stage::Ready(_)) && !slot.owners.contains_key(&cell))
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
            } else if let (Some(rollup_id), Stage::Ready(blocks)) = (rollup_id, &mut slot.stage)
                && !slot.owners.values().any(|other| *other == rollup_id)
            {
                blocks.remove(&rollup_id);
            }
        }
        cancelled
    }
}
