//! Reads Celestia: its head, its block time, and the blobs of the heights that any cell wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    celestia::Namespace,
    event::CelestiaHead,
    ids::{CelestiaHeight, CellId},
    limits::Limits,
    retry::Attempt,
    time::Timestamp,
};

/// Shared by all cells: each height is read once for all that want it at that moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scanner {
    chain_id: Option<String>,
    pub(crate) head_poll: Attempt,
    head: Option<CelestiaHead>,
    /// The first head seen; the block time is the average since then.
    first: Option<CelestiaHead>,
    pub(crate) reads: BTreeMap<CelestiaHeight, Read>,
    /// Bytes of blobs that heights held lately.
    recent_bytes: usize,
}

/// One height being read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    pub(crate) attempt: Attempt,
    /// For whom.
    pub(crate) cells: BTreeSet<CellId>,
    /// The blobs have arrived and are being decoded.
    pub(crate) decoding: bool,
    /// What was asked for.
    pub(crate) namespaces: Vec<Namespace>,
    /// Why the last answer was not shown to be all of it.
    pub(crate) unproven: Option<String>,
}

impl Scanner {
    pub(crate) fn chain_id(&self) -> Option<&str> {
        self.chain_id.as_deref()
    }

    pub(crate) fn head(&self) -> Option<CelestiaHeight> {
        self.head.as_ref().map(|head| head.height)
    }

    /// Takes in a head. One of another chain, or an older one, changes nothing.
    ///
    /// # Errors
    /// The chain id that was expected, if the head has another.
    pub(crate) fn head_fetched(&mut self, head: CelestiaHead, now: Timestamp, limits: &Limits) -> Result<(), String> {
        self.head_poll.succeeded(now.after(self.poll_period(limits)));
        if let Some(known) = &self.chain_id
            && *known != head.chain_id
        {
            return Err(known.clone());
        }
        if self.chain_id.is_none() {
            self.chain_id = Some(head.chain_id.clone());
            self.first = Some(head.clone());
        }
        if self.head.as_ref().is_none_or(|known| known.height < head.height) {
            self.head = Some(head);
            self.head_poll.succeeded(now.after(self.poll_period(limits)));
        }
        Ok(())
    }

    /// The blobs of a height have arrived.
    pub(crate) fn fetched(&mut self, bytes: usize) {
        // One full height is enough to be careful; it takes several small ones to forget it.
        self.recent_bytes = bytes.max(self.recent_bytes - self.recent_bytes / 4);
    }

    /// How many heights to read at the same time: as many as permitted while they hold little, fewer when what they hold
    /// together would fill half of the buffer.
    pub(crate) fn reads_max(&self, limits: &Limits) -> usize {
        let fitting = limits.firm_buffer_bytes / 2 / self.recent_bytes.max(1);
        fitting.min(limits.celestia_in_flight).max(1)
    }

    /// Average time between the blocks seen so far, from their headers.
    pub(crate) fn block_time(&self) -> Option<Duration> {
        let (first, head) = (self.first.as_ref()?, self.head.as_ref()?);
        let blocks = u32::try_from(head.height.0.checked_sub(first.height.0)?).ok().filter(|blocks| *blocks > 0)?;
        Some(head.time.since(first.time) / blocks)
    }

    /// Time between two questions for the head: a third of the block time.
    fn poll_period(&self, limits: &Limits) -> Duration {
        let longest = limits.celestia_poll_max.max(limits.celestia_poll_min);
        self.block_time().map_or(limits.celestia_poll, |time| (time / 3).clamp(limits.celestia_poll_min, longest))
    }

    /// A cell no longer wants anything. What failed stays until it may be tried again: the next session of the cell could
    /// want it, and would try at once.
    pub(crate) fn forget_cell(&mut self, cell: CellId) {
        for read in self.reads.values_mut() {
            read.cells.remove(&cell);
        }
        self.reads.retain(|_, read| {
            !read.cells.is_empty() || read.attempt.is_in_flight() || read.decoding || read.attempt.failures() > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_keeps_its_pause_when_the_rollup_that_wanted_it_loses_its_session() {
        let (failed, unread, now) = (CelestiaHeight(14), CelestiaHeight(15), Timestamp(1_000));
        let mut scanner = Scanner::default();
        for height in [failed, unread] {
            scanner.reads.entry(height).or_default().cells.insert(CellId(0));
        }
        scanner.reads.entry(failed).or_default().attempt.failed(now, Duration::from_secs(1));
        scanner.forget_cell(CellId(0));
        assert!(!scanner.reads.entry(failed).or_default().attempt.is_due(now), "it is not tried again at once");
        assert!(!scanner.reads.contains_key(&unread), "what nobody wants any more is forgotten");
    }
}
