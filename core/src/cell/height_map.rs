//! The map between sequencer heights and rollup numbers of one session (reference §6.2).

use crate::canary::{Canary, canary};
use crate::ids::{RollupNumber, SequencerHeight};

/// Highest sequencer height: CometBFT heights are signed 64-bit integers.
const HEIGHT_MAX: u64 = i64::MAX.unsigned_abs();

/// Maps `start_number` to `start_height` and on from there, one to one. Total from one below the start (the block that
/// a new rollup is committed to) up to the end; an error outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeightMap {
    start_number: RollupNumber,
    start_height: SequencerHeight,
    end_number: Option<RollupNumber>,
}

/// A height or number outside the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeightMapError {
    #[error("rollup block {number} lies more than one below the session's first block {start}")]
    BelowStart { number: RollupNumber, start: RollupNumber },
    #[error("sequencer height {height} lies below the session's first height {start}")]
    HeightBelowStart { height: SequencerHeight, start: SequencerHeight },
    #[error("rollup block {0} has no sequencer height between 0 and 2^63 - 1")]
    NoHeight(RollupNumber),
    #[error("sequencer height {0} has no rollup number")]
    NoNumber(SequencerHeight),
    #[error("the session would end with block {end} before it starts with block {start}")]
    EndsBeforeStart { start: RollupNumber, end: RollupNumber },
}

impl HeightMap {
    /// `end_number` 0 means no end.
    ///
    /// # Errors
    /// If the start or the end has no sequencer height, or the end lies before the start.
    pub fn new(
        start_number: RollupNumber,
        start_height: SequencerHeight,
        end_number: RollupNumber,
    ) -> Result<Self, HeightMapError> {
        let end_number = (end_number.0 != 0).then_some(end_number);
        let map = Self { start_number, start_height, end_number };
        map.to_sequencer(start_number)?;
        if let Some(end) = end_number {
            if end < start_number {
                return Err(HeightMapError::EndsBeforeStart { start: start_number, end });
            }
            map.to_sequencer(end)?;
        }
        Ok(map)
    }

    /// Height of the sequencer block that a rollup block is made from.
    pub fn to_sequencer(&self, number: RollupNumber) -> Result<SequencerHeight, HeightMapError> {
        if number.0 == u64::MAX {
            return Err(HeightMapError::NoHeight(number));
        }
        if self.start_number.0 > number.0 + 1 {
            return Err(HeightMapError::BelowStart { number, start: self.start_number });
        }
        let start = if canary(Canary::MapFromBlockOne) { RollupNumber(1) } else { self.start_number };
        let height = i128::from(self.start_height.0) + i128::from(number.0) - i128::from(start.0);
        u64::try_from(height)
            .ok()
            .filter(|height| *height <= HEIGHT_MAX)
            .map(SequencerHeight)
            .ok_or(HeightMapError::NoHeight(number))
    }

    /// Number of the rollup block that is made from a sequencer block.
    pub fn to_rollup(&self, height: SequencerHeight) -> Result<RollupNumber, HeightMapError> {
        let above = height
            .0
            .checked_sub(self.start_height.0)
            .ok_or(HeightMapError::HeightBelowStart { height, start: self.start_height })?;
        if height.0 > HEIGHT_MAX {
            return Err(HeightMapError::NoNumber(height));
        }
        self.start_number.0.checked_add(above).map(RollupNumber).ok_or(HeightMapError::NoNumber(height))
    }

    /// Sequencer height of the block after `number`; never 0.
    pub fn next_height(&self, number: RollupNumber) -> Result<SequencerHeight, HeightMapError> {
        let next = number.0.checked_add(1).map(RollupNumber).ok_or(HeightMapError::NoHeight(number))?;
        if self.start_number > next {
            return Err(HeightMapError::BelowStart { number, start: self.start_number });
        }
        match self.to_sequencer(next)? {
            SequencerHeight(0) => Err(HeightMapError::NoHeight(next)),
            height => Ok(height),
        }
    }

    /// Last block of the session, if it has one.
    pub fn end_number(&self) -> Option<RollupNumber> {
        self.end_number
    }

    /// Last sequencer height of the session, inclusive.
    pub fn end_height(&self) -> Option<SequencerHeight> {
        self.end_number.and_then(|end| self.to_sequencer(end).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(height: u64, number: u64) -> HeightMap {
        HeightMap::new(RollupNumber(number), SequencerHeight(height), RollupNumber(0)).unwrap()
    }

    #[test]
    fn numbers_map_to_heights_as_published() {
        for (s0, r0, number, height) in [(0, 0, 0, 0), (0, 1, 1, 0), (1, 0, 1, 2), (10, 1, 1, 10), (10, 1, 0, 9)] {
            assert_eq!(
                map(s0, r0).to_sequencer(RollupNumber(number)),
                Ok(SequencerHeight(height)),
                "{s0} {r0} {number}"
            );
        }
        assert!(matches!(map(10, 11).to_sequencer(RollupNumber(9)), Err(HeightMapError::BelowStart { .. })));
        assert_eq!(map(10, 1).next_height(RollupNumber(1)), Ok(SequencerHeight(11)));
        assert_eq!(map(10, 1).next_height(RollupNumber(2)), Ok(SequencerHeight(12)));
    }

    #[test]
    fn the_ends_of_the_number_range_are_errors_and_not_wraps() {
        assert!(map(1, 0).to_sequencer(RollupNumber(u64::MAX)).is_err());
        assert!(map(1, 0).next_height(RollupNumber(u64::MAX)).is_err());
        assert!(map(10, 0).to_sequencer(RollupNumber(u64::MAX - 1)).is_err());
        assert!(map(10, 0).to_rollup(SequencerHeight(9)).is_err());
        assert!(map(0, 5).to_rollup(SequencerHeight(u64::MAX)).is_err());
        assert!(map(0, 1).next_height(RollupNumber(0)).is_err(), "height 0 does not exist");
        assert!(HeightMap::new(RollupNumber(0), SequencerHeight(1 << 63), RollupNumber(0)).is_err());
        assert!(HeightMap::new(RollupNumber(5), SequencerHeight(1), RollupNumber(4)).is_err());
        let short = HeightMap::new(RollupNumber(1), SequencerHeight(10), RollupNumber(3)).unwrap();
        assert_eq!(short.end_height(), Some(SequencerHeight(12)));
    }
}
