//! Pseudo-random block contents.

use bytes::Bytes;
use downbeat_core::RollupId;
use sha2::{Digest as _, Sha256};

use crate::{forge::sequenced, random::Random, sequencer::BlockInput};

/// How full generated blocks are. Ranges are inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Chance in percent that nobody has data in a block.
    pub empty_block_percent: u8,
    /// Chance in percent that a rollup has no data in a block that is not empty.
    pub absent_rollup_percent: u8,
    /// Elements per rollup and block.
    pub elements: (u64, u64),
    /// Bytes per element.
    pub element_size: (u64, u64),
    /// The sequencer's own users' transactions per block.
    pub sequencer_transactions: (u64, u64),
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            empty_block_percent: 5,
            absent_rollup_percent: 20,
            elements: (1, 5),
            element_size: (16, 256),
            sequencer_transactions: (0, 3),
        }
    }
}

impl Contents {
    /// Every block full alike: what a benchmark wants.
    pub fn constant(elements: u64, element_size: u64) -> Self {
        Self {
            empty_block_percent: 0,
            absent_rollup_percent: 0,
            elements: (elements, elements),
            element_size: (element_size, element_size),
            sequencer_transactions: (1, 1),
        }
    }

    /// Draws the contents of one block.
    pub fn draw(&self, random: &mut Random, rollup_ids: &[RollupId]) -> BlockInput {
        let mut input = BlockInput::default();
        if random.chance(self.empty_block_percent) {
            return input;
        }
        let size = |random: &mut Random| {
            usize::try_from(random.within(self.element_size.0, self.element_size.1)).unwrap_or(usize::MAX)
        };
        for id in rollup_ids {
            if !random.chance(self.absent_rollup_percent) {
                let count = random.within(self.elements.0, self.elements.1);
                let mut element = |_| {
                    sequenced({
                        let size = size(random);
                        random.bytes(size)
                    })
                };
                input.rollup_data.push((*id, (0..count).map(&mut element).collect()));
            }
        }
        for _ in 0..random.within(self.sequencer_transactions.0, self.sequencer_transactions.1) {
            let size = size(random);
            input.sequencer_transactions.push(Bytes::from(random.bytes(size)));
        }
        input
    }
}

/// Id of the rollup of this name: by convention its SHA-256.
pub fn rollup_id(name: &str) -> RollupId {
    RollupId(Sha256::digest(name).into())
}
