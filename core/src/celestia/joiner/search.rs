//! Where the next session has to begin to search: the height below which nothing lies that is still needed.

use super::{Incomplete, Joiner, Knowledge, Slot};
use crate::canary::{Canary, canary};
use crate::ids::CelestiaHeight;

impl Joiner {
    /// Value of `lowest_celestia_search_height` that goes with the next block being firm.
    ///
    /// It never goes back, and does not pass a height at which something lies that a later block needs: what is bound to
    /// consensus holds it wherever it lies; what only a stranger vouches for, or nobody any more, holds it at most half a
    /// look-ahead behind the block, or anyone could freeze the search. That is twice the slack: once for where the block
    /// itself may lie (see [`Joiner::unplaced`]), once for how far the records of a later block may lie below it.
    pub(crate) fn lowest_after(&self, celestia: CelestiaHeight) -> CelestiaHeight {
        if canary(Canary::SearchFromLastFirm) {
            return celestia.max(self.window.lowest);
        }
        let mut lowest = celestia.min(self.window.frontier);
        let mut unproven = celestia;
        for slot in self.heights.range(self.next.next()..).map(|(_, slot)| slot) {
            lowest = slot.named.first().map_or(lowest, |found| lowest.min(*found));
            lowest = slot.data_at.map_or(lowest, |found| lowest.min(found));
            for (found, _) in &slot.candidates {
                unproven = unproven.min(*found);
            }
            // Nothing holds it farther back than it is; mostly the first slot says so.
            if lowest <= self.window.lowest {
                return self.window.lowest;
            }
        }
        for (found, _) in self.records.values().flatten() {
            unproven = unproven.min(*found);
        }
        if let Some((found, _)) = self.incomplete.iter().find(|(_, incomplete)| incomplete.lacks_anything()) {
            unproven = unproven.min(*found);
        }
        unproven = self.refused.above(self.next).map_or(unproven, |found| unproven.min(found));
        let unproven = unproven.max(self.lowest_position(celestia).minus(self.window.slack()));
        lowest.min(unproven).max(self.window.lowest)
    }

    /// The next block became firm, found at `celestia`, and `lowest` was committed with it.
    pub(crate) fn advance(&mut self, celestia: CelestiaHeight, lowest: CelestiaHeight) {
        let position = self.position().unwrap_or(celestia);
        let passed = self.lowest_position(celestia).minus(self.window.slack());
        let mut incomplete = std::mem::take(&mut self.incomplete);
        incomplete.retain(|height, incomplete| *height >= passed || self.may_hide_next(incomplete));
        self.incomplete = incomplete;
        self.next = self.next.next();
        let next = self.next;
        self.refused.0.retain(|height, highest| *height >= passed && *highest > next);
        while let Some(entry) = self.heights.first_entry() {
            if *entry.key() >= self.next {
                break;
            }
            let slot = entry.remove();
            self.bytes = self.bytes.saturating_sub(slot.bytes());
        }
        self.window.lowest = self.window.lowest.max(lowest);
        if canary(Canary::WindowNeverMoves) {
            return;
        }
        if celestia > self.window.reference || !self.window.anchored {
            self.window.anchored = true;
            self.window.reference = self.window.reference.max(celestia);
            // Data farther back than the window is wide cannot belong to a block that is still to come.
            let oldest = position.minus(self.window.look_ahead);
            let bytes = &mut self.bytes;
            self.records.retain(|_, records| {
                records.retain(|(found, record)| {
                    let keep = *found >= oldest;
                    if !keep {
                        *bytes = bytes.saturating_sub(record.wire_size());
                    }
                    keep
                });
                !records.is_empty()
            });
        }
    }

    pub(super) fn position(&self) -> Option<CelestiaHeight> {
        self.heights.get(&self.next).and_then(Slot::position)
    }

    /// Where the next block lies at the lowest.
    fn lowest_position(&self, celestia: CelestiaHeight) -> CelestiaHeight {
        let hiding = self.incomplete.iter().find(|(_, incomplete)| self.may_hide_next(incomplete));
        let position = self.position().unwrap_or(celestia).min(self.window.frontier);
        hiding.map_or(position, |(height, _)| position.min(*height))
    }

    /// Heights so far below the next block that its search height would pass them, although they have not been read, or
    /// something was left out from them that may have been this very block: what was found higher up may be a stranger's
    /// copy, and the records of later blocks may lie where it came from.
    pub(super) fn unplaced(&self) -> impl Iterator<Item = CelestiaHeight> + '_ {
        let last = self.position().map_or(CelestiaHeight(0), |position| position.minus(self.window.slack()));
        let left_out = self
            .incomplete
            .range(..last)
            .filter(|(_, incomplete)| self.may_hide_next(incomplete))
            .map(|(height, _)| *height);
        self.unread_below(last).chain(left_out)
    }

    /// Heights below `last` that could not be read yet, while higher ones were.
    pub(super) fn unread_below(&self, last: CelestiaHeight) -> impl Iterator<Item = CelestiaHeight> + '_ {
        let heights = self.window.frontier.0..last.0;
        heights.map(CelestiaHeight).filter(|height| !self.window.is_read(*height))
    }

    /// Once read with the trusted header of the next block, a height has shown whether it holds that block's metadata.
    pub(super) fn may_hide_next(&self, incomplete: &Incomplete) -> bool {
        let is_conclusive = |known: &Knowledge| known.next == self.next && known.evidence.header;
        incomplete.lacks(self.next) && !incomplete.known.as_ref().is_some_and(is_conclusive)
    }
}
