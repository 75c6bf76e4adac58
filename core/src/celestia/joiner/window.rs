//! The Celestia heights that may be read, and which have been.

use std::collections::BTreeSet;

use crate::ids::CelestiaHeight;

/// The Celestia heights that may be read (reference §4.1).
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Everything below has been read.
    pub(super) frontier: CelestiaHeight,
    /// Read out of order, above the frontier.
    pub(super) read: BTreeSet<CelestiaHeight>,
    /// Height of the last firm block, or where the session started to search.
    pub(super) reference: CelestiaHeight,
    pub(super) look_ahead: u64,
    /// Last reported `lowest_celestia_search_height`.
    pub(super) lowest: CelestiaHeight,
    /// Whether the reference is known to be that of a firm block. A session starts at a height that may lie up to twice
    /// [`Window::slack`] below it, see [`Joiner::lowest_after`].
    pub(super) anchored: bool,
}

impl Window {
    /// How far below the records of a block those of a later one may lie.
    pub(super) fn slack(&self) -> u64 {
        self.look_ahead / 4
    }

    pub(super) fn end(&self) -> CelestiaHeight {
        self.reference.plus(self.look_ahead)
    }

    pub(super) fn is_read(&self, height: CelestiaHeight) -> bool {
        height < self.frontier || self.read.contains(&height)
    }

    pub(super) fn mark_read(&mut self, height: CelestiaHeight) {
        if height >= self.frontier {
            self.read.insert(height);
        }
        while self.read.remove(&self.frontier) {
            self.frontier = self.frontier.next();
        }
    }
}
