//! Reads Celestia: its head, its block time, and the blobs of the heights that any cell wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    celestia::Namespace,
    event::{CelestiaBlock, CelestiaHead},
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
    /// What the node named last, be it lower.
    said: Option<CelestiaHeight>,
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
    /// What has arrived and waits until the header of the height is trusted, and since when.
    pub(crate) held: Option<(Box<CelestiaBlock>, Timestamp)>,
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

    /// The head that trust may begin with or be renewed by: what was named once and never shown must not be waited for.
    pub(crate) fn head_to_trust(&self) -> Option<CelestiaHeight> {
        self.said
    }

    /// Takes in a head. One of another chain changes nothing, an older one next to nothing.
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
        self.said = Some(head.height);
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
            if read.cells.is_empty() {
                read.held = None;
            }
        }
        self.reads.retain(|_, read| {
            !read.cells.is_empty() || read.attempt.is_in_flight() || read.decoding || read.attempt.failures() > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CommandId;

    fn head(height: u64, seconds: u64) -> CelestiaHead {
        let time = Timestamp::ZERO.after(Duration::from_secs(seconds));
        CelestiaHead { chain_id: "celestia".to_owned(), height: CelestiaHeight(height), time }
    }

    /// In how many milliseconds the head is asked for again.
    fn next_poll_ms(scanner: &mut Scanner, head: CelestiaHead, limits: &Limits) -> u128 {
        let now = Timestamp(1_000);
        scanner.head_fetched(head, now, limits).expect("the same chain");
        scanner.head_poll.due().expect("nothing is in flight").since(now).as_millis()
    }

    #[test]
    fn the_head_is_asked_for_thrice_per_block_once_the_block_time_is_known() {
        let limits = Limits::default();
        let mut scanner = Scanner::default();
        assert_eq!(next_poll_ms(&mut scanner, head(10, 100), &limits), 2_000);
        assert_eq!((scanner.block_time(), scanner.chain_id()), (None, Some("celestia")), "one head says nothing");
        // Four blocks in 24 seconds.
        assert_eq!(next_poll_ms(&mut scanner, head(14, 124), &limits), 2_000);
        assert_eq!(scanner.block_time(), Some(Duration::from_secs(6)));
        assert_eq!(next_poll_ms(&mut scanner, head(15, 148), &limits), 3_200, "the average since the first");
        let slow = head(16, 100_000);
        assert_eq!(next_poll_ms(&mut scanner, slow, &limits), 10_000, "within bounds");
        let hurried = Limits { celestia_poll_max: Duration::ZERO, ..limits };
        assert_eq!(next_poll_ms(&mut scanner, head(17, 100_000), &hurried), 100, "the lower bound counts");
    }

    #[test]
    fn an_older_head_and_one_of_another_chain_change_nothing() {
        let mut scanner = Scanner::default();
        next_poll_ms(&mut scanner, head(10, 100), &Limits::default());
        next_poll_ms(&mut scanner, head(9, 50), &Limits::default());
        next_poll_ms(&mut scanner, head(10, 999), &Limits::default());
        assert_eq!(scanner.head.as_ref(), Some(&head(10, 100)), "the first one of a height stays");
        next_poll_ms(&mut scanner, head(8, 40), &Limits::default());
        assert_eq!(scanner.head_to_trust(), Some(CelestiaHeight(8)), "but trust waits for nothing that is gone");
        let foreign = CelestiaHead { chain_id: "other".to_owned(), ..head(99, 200) };
        let refused = scanner.head_fetched(foreign, Timestamp(5), &Limits::default());
        assert_eq!((refused, scanner.head()), (Err("celestia".to_owned()), Some(CelestiaHeight(10))));
        assert!(scanner.head_poll.due() > Some(Timestamp(5)), "and the right one is asked for again later");
    }

    #[test]
    fn fewer_heights_are_read_together_when_they_hold_much() {
        let limits = Limits { firm_buffer_bytes: 8_000, celestia_in_flight: 6, ..Limits::default() };
        let mut scanner = Scanner::default();
        assert_eq!(scanner.reads_max(&limits), 6, "nothing is known");
        scanner.fetched(1_000);
        assert_eq!(scanner.reads_max(&limits), 4, "together they hold half of the buffer");
        scanner.fetched(1_000_000);
        assert_eq!(scanner.reads_max(&limits), 1, "one is always read");
        scanner.recent_bytes = 1_600;
        scanner.fetched(0);
        assert_eq!(scanner.recent_bytes, 1_200, "a full height is forgotten a quarter at a time");
        scanner.fetched(1_199);
        assert_eq!(scanner.recent_bytes, 1_199);
    }

    #[test]
    fn what_is_read_for_several_cells_goes_on_for_those_that_are_left() {
        let (one, other) = (CellId(1), CellId(2));
        let mut scanner = Scanner::default();
        let read = |cells: &[CellId]| Read { cells: cells.iter().copied().collect(), ..Read::default() };
        let mut in_flight = read(&[one]);
        in_flight.attempt.started(CommandId { incarnation: 1, ordinal: 1 });
        let decoding = Read { decoding: true, ..read(&[one]) };
        for (height, read) in (1..).zip([read(&[one]), read(&[one, other]), in_flight, decoding]) {
            scanner.reads.insert(CelestiaHeight(height), read);
        }
        scanner.forget_cell(one);
        assert_eq!(
            scanner.reads.keys().map(|height| height.0).collect::<Vec<_>>(),
            [2, 3, 4],
            "and what is on its way"
        );
        assert!(scanner.reads.values().all(|read| !read.cells.contains(&one)));
    }

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
