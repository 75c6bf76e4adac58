//! Joins metadata and rollup data of one rollup by block hash, across Celestia heights, into blocks in order.
//!
//! Anyone may post to the namespaces, so nothing is thrown away because something else came first: all candidates for a
//! height are kept until one is bound to the committed header. What does not fit is read again once the header is known,
//! and then only what is bound to it is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    command::Subject,
    ids::{BlockHash, CelestiaHeight, RollupId, SequencerHeight},
    job::DecodedBlobs,
    limits::Limits,
    sequencer::{BoundMetadata, RollupRecord, SequencedBlock, TrustedHeader, UnverifiedMetadata},
    verified::Verified,
};

/// Refusals that a step of the joiner produced.
pub(crate) type Dropped = Vec<(Subject, String)>;

/// Which Celestia heights have been read for one rollup, and what was found that is still needed.
#[derive(Clone, Debug)]
pub(crate) struct Joiner {
    rollup_id: RollupId,
    /// The sequencer height that firm needs next.
    next: SequencerHeight,
    window: Window,
    heights: BTreeMap<SequencerHeight, Slot>,
    /// Rollup data without bound metadata, by block hash.
    records: BTreeMap<BlockHash, Vec<(CelestiaHeight, Arc<RollupRecord>)>>,
    /// Heights from which something was left out for lack of room at least once.
    incomplete: BTreeMap<CelestiaHeight, Incomplete>,
    /// What was known when the blobs of a height began to be decoded.
    decoding: BTreeMap<CelestiaHeight, Knowledge>,
    /// Wire bytes of everything held.
    bytes: usize,
}

/// A height that did not fit.
#[derive(Clone, Copy, Debug, Default)]
struct Incomplete {
    /// Something from it is not held now. Stays known when it is held again, since it may be given up again.
    missing: bool,
    /// The lowest sequencer height whose metadata was left out because it was too far ahead.
    ahead: Option<SequencerHeight>,
    /// What was known when it was last read; it is not read twice with the same knowledge.
    known: Option<Knowledge>,
}

impl Incomplete {
    fn leave_out(&mut self, height: SequencerHeight) {
        self.ahead = Some(self.ahead.map_or(height, |ahead| ahead.min(height)));
    }

    /// Whether something is not held that may belong to the block `next`.
    fn lacks(&self, next: SequencerHeight) -> bool {
        self.missing || self.ahead.is_some_and(|ahead| ahead <= next)
    }

    fn lacks_anything(&self) -> bool {
        self.missing || self.ahead.is_some()
    }
}

/// What is known about the next block; an incomplete height is worth reading again when this has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Knowledge {
    next: SequencerHeight,
    evidence: Evidence,
    bound: bool,
}

/// What the sequencer's node has told about a height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Its header is trusted.
    pub(crate) header: bool,
    /// Its data items are known.
    pub(crate) transactions: bool,
}

/// The Celestia heights that may be read (reference §4.1).
#[derive(Clone, Debug)]
struct Window {
    /// Everything below has been read.
    frontier: CelestiaHeight,
    /// Read out of order, above the frontier.
    read: BTreeSet<CelestiaHeight>,
    /// Height of the last firm block, or where the session started to search.
    reference: CelestiaHeight,
    look_ahead: u64,
    /// Last reported `lowest_celestia_search_height`.
    lowest: CelestiaHeight,
    /// Whether the reference is known to be that of a firm block. A session starts at a height that may lie up to twice
    /// [`Window::slack`] below it, see [`Joiner::lowest_after`].
    anchored: bool,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    candidates: Vec<(CelestiaHeight, Arc<UnverifiedMetadata>)>,
    /// The lowest height at which metadata of this block was seen.
    bound: Option<(CelestiaHeight, Arc<Verified<BoundMetadata>>)>,
    block: Option<(CelestiaHeight, Verified<SequencedBlock>)>,
    /// Where the block's rollup data was found.
    data_at: Option<CelestiaHeight>,
}

impl Slot {
    fn bytes(&self) -> usize {
        self.candidates.iter().map(|(_, metadata)| metadata.wire_size()).sum::<usize>()
            + self.block.as_ref().map_or(0, |(_, block)| block.size())
    }

    /// Where the block lies: nobody can have posted anything about it before it was made.
    fn position(&self) -> Option<CelestiaHeight> {
        let bound = self.bound.as_ref().map(|(found, _)| *found);
        bound.or_else(|| self.block.as_ref().map(|(found, _)| *found))
    }
}

/// Why the joiner has no block to hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The next Celestia height has not been read; it may not exist yet.
    Unread(CelestiaHeight),
    /// A candidate waits for the header of its height.
    Header(SequencerHeight),
    /// The block's metadata is bound and lists the rollup, but its data has not been found.
    RollupData(SequencerHeight),
    /// The window was read to its end.
    Exhausted { window_end: CelestiaHeight },
}

impl Window {
    /// How far below the records of a block those of a later one may lie.
    fn slack(&self) -> u64 {
        self.look_ahead / 4
    }

    fn end(&self) -> CelestiaHeight {
        self.reference.plus(self.look_ahead)
    }

    fn is_read(&self, height: CelestiaHeight) -> bool {
        height < self.frontier || self.read.contains(&height)
    }

    fn mark_read(&mut self, height: CelestiaHeight) {
        if height >= self.frontier {
            self.read.insert(height);
        }
        while self.read.remove(&self.frontier) {
            self.frontier = self.frontier.next();
        }
    }
}

impl Joiner {
    pub(crate) fn new(rollup_id: RollupId, next: SequencerHeight, lowest: CelestiaHeight, look_ahead: u64) -> Self {
        Self {
            rollup_id,
            next,
            window: Window {
                // Celestia has no block 0.
                frontier: lowest.max(CelestiaHeight(1)),
                read: BTreeSet::new(),
                reference: lowest,
                look_ahead,
                lowest,
                anchored: false,
            },
            heights: BTreeMap::new(),
            records: BTreeMap::new(),
            incomplete: BTreeMap::new(),
            decoding: BTreeMap::new(),
            bytes: 0,
        }
    }

    pub(crate) fn next(&self) -> SequencerHeight {
        self.next
    }

    pub(crate) fn frontier(&self) -> CelestiaHeight {
        self.window.frontier
    }

    /// Sequencer heights whose records are kept.
    pub(crate) fn wanted(&self, limits: &Limits) -> (SequencerHeight, SequencerHeight) {
        (self.next, self.next.plus(limits.firm_ahead))
    }

    /// Celestia heights to read now, lowest first, at most `count`; none above `head`.
    pub(crate) fn wants_to_read(
        &mut self,
        head: CelestiaHeight,
        evidence: Evidence,
        count: usize,
        limits: &Limits,
    ) -> Vec<CelestiaHeight> {
        let is_full = self.bytes >= limits.firm_buffer_bytes;
        if is_full && self.block().is_some() {
            return Vec::new();
        }
        // A full buffer without the next block: go on, but one height at a time.
        let count = if is_full { count.min(1) } else { count };
        if self.found().is_none() {
            if self.window.frontier > self.window.end() && !self.window.anchored {
                self.window.anchored = true;
                self.window.reference = self.window.reference.plus(2 * self.window.slack());
            }
        } else if self.block().is_none() {
            return self.unplaced().take(if evidence.header { count } else { 0 }).collect();
        }
        let last = head.min(self.window.end());
        let mut heights = Vec::new();
        let mut height = self.window.frontier;
        while height <= last && heights.len() < count {
            if !self.window.is_read(height) {
                heights.push(height);
            }
            height = height.next();
        }
        if heights.is_empty() && self.window.frontier > last && self.found().is_none() {
            let knowledge = Some(self.knowledge(evidence));
            heights.extend(
                self.incomplete
                    .iter()
                    .filter(|(_, incomplete)| incomplete.lacks(self.next) && incomplete.known != knowledge)
                    .map(|(height, _)| *height)
                    .take(count.min(1)),
            );
        }
        heights
    }

    fn knowledge(&self, evidence: Evidence) -> Knowledge {
        let bound = self.heights.get(&self.next).is_some_and(|slot| slot.bound.is_some());
        Knowledge { next: self.next, evidence, bound }
    }

    /// The blobs of a height are about to be decoded with what is known now.
    pub(crate) fn decoding(&mut self, height: CelestiaHeight, evidence: Evidence) {
        let knowledge = self.knowledge(evidence);
        self.decoding.insert(height, knowledge);
    }

    /// Takes in what one Celestia height held.
    pub(crate) fn read(
        &mut self,
        height: CelestiaHeight,
        decoded: &DecodedBlobs,
        headers: &BTreeMap<SequencerHeight, Verified<TrustedHeader>>,
        limits: &Limits,
        dropped: &mut Dropped,
    ) {
        self.window.mark_read(height);
        let knowledge = self.decoding.remove(&height);
        let incomplete = Incomplete { missing: decoded.overflow, ahead: decoded.ahead, known: knowledge };
        if incomplete.lacks_anything() || self.incomplete.contains_key(&height) {
            self.incomplete.insert(height, incomplete);
        }
        for metadata in &decoded.bound {
            self.take_bound(height, metadata, dropped);
        }
        for metadata in &decoded.candidates {
            self.take_candidate(height, metadata, headers, limits, dropped);
        }
        for (rollup_id, block) in &decoded.blocks {
            if *rollup_id == self.rollup_id {
                self.take_block(height, block);
            }
        }
        for record in &decoded.records {
            if record.rollup_id() == self.rollup_id {
                self.take_record(height, record, limits, dropped);
            }
        }
        self.make_room(limits);
        // What was given up from this very height was read with the knowledge of this reading.
        if let Some(incomplete) = self.incomplete.get_mut(&height) {
            incomplete.known = knowledge;
        }
    }

    fn give_up(&mut self, height: CelestiaHeight) {
        self.incomplete.entry(height).or_default().missing = true;
    }

    fn take_candidate(
        &mut self,
        celestia: CelestiaHeight,
        metadata: &Arc<UnverifiedMetadata>,
        headers: &BTreeMap<SequencerHeight, Verified<TrustedHeader>>,
        limits: &Limits,
        dropped: &mut Dropped,
    ) {
        let height = metadata.height();
        let (first, last) = self.wanted(limits);
        if height < first {
            return;
        }
        if height > last {
            // Another cell is farther.
            self.incomplete.entry(celestia).or_default().leave_out(height);
            return;
        }
        if let Some((found, bound)) = self.heights.get_mut(&height).and_then(|slot| slot.bound.as_mut()) {
            if bound.block_hash() == metadata.block_hash() {
                *found = celestia.min(*found);
            }
            return;
        }
        if let Some(header) = headers.get(&height) {
            match metadata.bind(header, None) {
                Ok(bound) => return self.take_bound(celestia, &Arc::new(bound), dropped),
                Err(refusal) if refusal.needs_transactions() => {}
                Err(refusal) => return dropped.push((Subject::Metadata, format!("height {height}: {refusal}"))),
            }
        }
        let slot = self.heights.entry(height).or_default();
        // A block may be there without its metadata: another cell had bound that.
        if slot.block.is_some() {
            return;
        }
        if let Some((found, _)) = slot.candidates.iter_mut().find(|(_, known)| known == metadata) {
            *found = celestia.min(*found);
            return;
        }
        if slot.candidates.len() >= limits.candidates_per_height {
            self.give_up(celestia);
            return;
        }
        self.bytes += metadata.wire_size();
        slot.candidates.push((celestia, Arc::clone(metadata)));
    }

    /// Binds the candidates of a height to its header. `transactions` are the block's data items, if they were fetched.
    /// Returns whether a candidate can only be judged with them.
    pub(crate) fn header_trusted(
        &mut self,
        header: &Verified<TrustedHeader>,
        transactions: Option<&[Bytes]>,
        dropped: &mut Dropped,
    ) -> bool {
        let height = header.height();
        let Some(slot) = self.heights.get_mut(&height) else { return false };
        if slot.bound.is_some() || slot.candidates.is_empty() {
            return false;
        }
        let mut needs_transactions = false;
        let mut bound = None;
        let mut kept = Vec::new();
        let candidates = std::mem::take(&mut slot.candidates);
        let freed: usize = candidates.iter().map(|(_, metadata)| metadata.wire_size()).sum();
        self.bytes = self.bytes.saturating_sub(freed);
        for (celestia, metadata) in candidates {
            match metadata.bind(header, transactions) {
                Ok(metadata) => {
                    bound = Some((celestia, Arc::new(metadata)));
                    break;
                }
                Err(refusal) if refusal.needs_transactions() && transactions.is_none() => {
                    needs_transactions = true;
                    kept.push((celestia, metadata));
                }
                Err(refusal) => {
                    dropped.push((Subject::Metadata, format!("height {height}: {refusal}")));
                }
            }
        }
        if let Some((celestia, metadata)) = bound {
            self.take_bound(celestia, &metadata, dropped);
            needs_transactions = false;
        } else if kept.is_empty() {
            let removed = self.heights.remove(&height).map_or(0, |slot| slot.bytes());
            self.bytes = self.bytes.saturating_sub(removed);
        } else {
            self.bytes += kept.iter().map(|(_, metadata)| metadata.wire_size()).sum::<usize>();
            slot.candidates = kept;
        }
        needs_transactions
    }

    fn take_bound(&mut self, celestia: CelestiaHeight, metadata: &Arc<Verified<BoundMetadata>>, dropped: &mut Dropped) {
        let height = metadata.height();
        if height < self.next {
            return;
        }
        let slot = self.heights.entry(height).or_default();
        if let Some((found, _)) = &mut slot.bound {
            *found = celestia.min(*found);
            return;
        }
        let freed: usize = slot.candidates.drain(..).map(|(_, candidate)| candidate.wire_size()).sum();
        self.bytes = self.bytes.saturating_sub(freed);
        slot.bound = Some((celestia, Arc::clone(metadata)));
        if !metadata.lists(&self.rollup_id) {
            match metadata.empty_block(&self.rollup_id) {
                Ok(block) => {
                    self.bytes += block.size();
                    slot.block = Some((celestia, block));
                }
                Err(error) => dropped.push((Subject::Metadata, error.to_string())),
            }
            return;
        }
        for (found, record) in self.records.remove(&metadata.block_hash()).unwrap_or_default() {
            self.bytes = self.bytes.saturating_sub(record.wire_size());
            if slot.block.is_some() {
                continue;
            }
            match metadata.block_with(&record) {
                Ok(block) => {
                    self.bytes += block.size();
                    slot.block = Some((celestia.max(found), block));
                    slot.data_at = Some(found);
                }
                Err(error) => {
                    dropped.push((Subject::RollupData, format!("block {}: {error}", metadata.block_hash())));
                }
            }
        }
    }

    fn take_block(&mut self, celestia: CelestiaHeight, block: &Verified<SequencedBlock>) {
        if block.height() < self.next {
            return;
        }
        let slot = self.heights.entry(block.height()).or_default();
        if slot.block.is_none() {
            let freed: usize = slot.candidates.drain(..).map(|(_, candidate)| candidate.wire_size()).sum();
            self.bytes = self.bytes.saturating_sub(freed);
            let found = slot.bound.as_ref().map_or(celestia, |(found, _)| celestia.max(*found));
            self.bytes += block.size();
            slot.data_at = Some(celestia);
            slot.block = Some((found, block.clone()));
        }
    }

    fn take_record(
        &mut self,
        celestia: CelestiaHeight,
        record: &Arc<RollupRecord>,
        limits: &Limits,
        dropped: &mut Dropped,
    ) {
        let bound = self
            .heights
            .values_mut()
            .find(|slot| slot.bound.as_ref().is_some_and(|(_, bound)| bound.block_hash() == record.block_hash()));
        if let Some(slot) = bound {
            let Some((found, metadata)) = &slot.bound else { return };
            if slot.block.is_some() {
                return;
            }
            match metadata.block_with(record) {
                Ok(block) => {
                    self.bytes += block.size();
                    slot.block = Some((celestia.max(*found), block));
                    slot.data_at = Some(celestia);
                }
                Err(error) => {
                    dropped.push((Subject::RollupData, format!("block {}: {error}", record.block_hash())));
                }
            }
            return;
        }
        let known = self.records.entry(record.block_hash()).or_default();
        if let Some((found, _)) = known.iter_mut().find(|(_, other)| other == record) {
            *found = celestia.min(*found);
            return;
        }
        // Each one is compared with all that came before it, hence there are only so many.
        if known.len() >= limits.candidates_per_height.max(1) {
            self.give_up(celestia);
            return;
        }
        self.bytes += record.wire_size();
        known.push((celestia, Arc::clone(record)));
    }

    /// Gives up what is least likely to be needed soon until the buffer is at most twice its limit. Blocks that are
    /// proven for the next heights stay.
    fn make_room(&mut self, limits: &Limits) {
        let most = limits.firm_buffer_bytes.saturating_mul(2);
        if self.bytes <= most {
            return;
        }
        let candidates = self.heights.values().flat_map(|slot| &slot.candidates);
        let claimed: BTreeSet<BlockHash> = candidates.map(|(_, metadata)| metadata.block_hash()).collect();
        let unclaimed: Vec<BlockHash> = self.records.keys().filter(|hash| !claimed.contains(*hash)).copied().collect();
        for hash in unclaimed {
            if self.bytes <= most {
                return;
            }
            self.give_up_records(hash);
        }
        // The farthest height goes, with the rollup data that it claims, unless it is the next one.
        while self.bytes > most
            && let Some(entry) = self.heights.last_entry().filter(|entry| *entry.key() != self.next)
        {
            let slot = entry.remove();
            self.bytes = self.bytes.saturating_sub(slot.bytes());
            let found = slot.candidates.iter().map(|(celestia, _)| *celestia);
            let found = found.chain(slot.bound.iter().map(|(celestia, _)| *celestia));
            for celestia in found.chain(slot.data_at) {
                self.give_up(celestia);
            }
            for (_, metadata) in slot.candidates {
                self.give_up_records(metadata.block_hash());
            }
        }
        while self.bytes > most
            && let Some(hash) = self.records.last_key_value().map(|(hash, _)| *hash)
        {
            self.give_up_records(hash);
        }
    }

    fn give_up_records(&mut self, hash: BlockHash) {
        for (celestia, record) in self.records.remove(&hash).unwrap_or_default() {
            self.bytes = self.bytes.saturating_sub(record.wire_size());
            self.give_up(celestia);
        }
    }

    /// The next block, with the Celestia height at which it was complete, once it is known well enough where it lies.
    pub(crate) fn block(&self) -> Option<(CelestiaHeight, &Verified<SequencedBlock>)> {
        self.found().filter(|_| self.unplaced().next().is_none())
    }

    fn found(&self) -> Option<(CelestiaHeight, &Verified<SequencedBlock>)> {
        let slot = self.heights.get(&self.next)?;
        slot.block.as_ref().map(|(celestia, block)| (*celestia, block))
    }

    fn position(&self) -> Option<CelestiaHeight> {
        self.heights.get(&self.next).and_then(Slot::position)
    }

    /// Heights so far below the next block that its search height would pass them, from which something was left out
    /// that may have been this very block: what was found higher up may be a stranger's copy, and the records of later
    /// blocks may lie where it came from.
    fn unplaced(&self) -> impl Iterator<Item = CelestiaHeight> + '_ {
        let last = self.position().map_or(CelestiaHeight(0), |position| position.minus(self.window.slack()));
        self.incomplete
            .range(..last)
            .filter(|(_, incomplete)| self.may_hide_next(incomplete))
            .map(|(height, _)| *height)
    }

    /// Once read with the trusted header of the next block, a height has shown whether it holds that block's metadata.
    fn may_hide_next(&self, incomplete: &Incomplete) -> bool {
        let is_conclusive = |known: &Knowledge| known.next == self.next && known.evidence.header;
        incomplete.lacks(self.next) && !incomplete.known.as_ref().is_some_and(is_conclusive)
    }

    /// Blocks whose metadata is bound and whose rollup data is missing.
    pub(crate) fn bound_without_data(&self) -> impl Iterator<Item = Arc<Verified<BoundMetadata>>> + '_ {
        self.heights
            .values()
            .filter(|slot| slot.block.is_none())
            .filter_map(|slot| slot.bound.as_ref().map(|(_, bound)| Arc::clone(bound)))
    }

    /// Sequencer heights whose header would decide something now, lowest first.
    pub(crate) fn wants_headers(&self, limits: &Limits) -> impl Iterator<Item = SequencerHeight> + '_ {
        let last = self.next.plus(limits.headers_ahead);
        let is_missing = self.incomplete.values().any(|incomplete| incomplete.lacks(self.next));
        let is_needed = (is_missing && !self.heights.contains_key(&self.next)) || self.unplaced().next().is_some();
        let incomplete = is_needed.then_some(self.next);
        incomplete.into_iter().chain(
            self.heights
                .range(..=last)
                .filter(|(_, slot)| slot.bound.is_none() && !slot.candidates.is_empty())
                .map(|(height, _)| *height),
        )
    }

    /// Value of `lowest_celestia_search_height` that goes with the next block being firm.
    ///
    /// It never goes back, and does not pass a height at which something lies that a later block needs: what is bound to
    /// consensus holds it wherever it lies; what only a stranger vouches for holds it at most half a look-ahead behind
    /// the block, or anyone could freeze the search. That is twice the slack: once for where the block itself may lie
    /// (see [`Joiner::unplaced`]), once for how far the records of a later block may lie below it.
    pub(crate) fn lowest_after(&self, celestia: CelestiaHeight) -> CelestiaHeight {
        let mut lowest = celestia.min(self.window.frontier);
        let mut unproven = celestia;
        for slot in self.heights.range(self.next.next()..).map(|(_, slot)| slot) {
            if let Some((found, _)) = &slot.bound {
                lowest = lowest.min(*found);
            }
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
        let hiding = self.incomplete.iter().find(|(_, incomplete)| self.may_hide_next(incomplete));
        let position = self.position().unwrap_or(celestia).min(self.window.frontier);
        let position = hiding.map_or(position, |(height, _)| position.min(*height));
        let unproven = unproven.max(position.minus(self.window.slack()));
        lowest.min(unproven).max(self.window.lowest)
    }

    /// The next block became firm, found at `celestia`, and `lowest` was committed with it.
    pub(crate) fn advance(&mut self, celestia: CelestiaHeight, lowest: CelestiaHeight) {
        let position = self.position().unwrap_or(celestia);
        let passed = position.minus(self.window.slack());
        let mut incomplete = std::mem::take(&mut self.incomplete);
        incomplete.retain(|height, incomplete| *height >= passed || self.may_hide_next(incomplete));
        self.incomplete = incomplete;
        self.next = self.next.next();
        while let Some(entry) = self.heights.first_entry() {
            if *entry.key() >= self.next {
                break;
            }
            let slot = entry.remove();
            self.bytes = self.bytes.saturating_sub(slot.bytes());
        }
        self.window.lowest = self.window.lowest.max(lowest);
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

    /// Why there is no block to hand out; `None` if there is one.
    pub(crate) fn lack(&self) -> Option<Lack> {
        let slot = self.heights.get(&self.next);
        if slot.is_some_and(|slot| slot.block.is_some()) {
            return self.unplaced().next().map(Lack::Unread);
        }
        if slot.is_some_and(|slot| slot.bound.is_none() && !slot.candidates.is_empty()) {
            return Some(Lack::Header(self.next));
        }
        if self.window.frontier > self.window.end() {
            return Some(Lack::Exhausted { window_end: self.window.end() });
        }
        if slot.is_some_and(|slot| slot.bound.is_some()) {
            return Some(Lack::RollupData(self.next));
        }
        Some(Lack::Unread(self.window.frontier))
    }

    /// First and last height of the window.
    pub(crate) fn window(&self) -> (CelestiaHeight, CelestiaHeight) {
        (self.window.lowest, self.window.end())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::wire::proto::astria::{
        primitive::v1::{Proof, RollupId as WireRollupId},
        sequencerblock::v1::SubmittedRollupData,
    };

    const ROLLUP: RollupId = RollupId([7; 32]);

    fn joiner(lowest: u64, look_ahead: u64) -> Joiner {
        Joiner::new(ROLLUP, SequencerHeight(10), CelestiaHeight(lowest), look_ahead)
    }

    fn wanted(joiner: &mut Joiner, head: u64) -> Vec<u64> {
        let heights = joiner.wants_to_read(CelestiaHeight(head), Evidence::default(), 4, &Limits::default());
        heights.into_iter().map(|height| height.0).collect()
    }

    fn read(joiner: &mut Joiner, height: u64, decoded: &DecodedBlobs, limits: &Limits) {
        joiner.decoding(CelestiaHeight(height), Evidence::default());
        joiner.read(CelestiaHeight(height), decoded, &BTreeMap::new(), limits, &mut Dropped::new());
    }

    fn read_nothing(joiner: &mut Joiner, heights: impl IntoIterator<Item = u64>) {
        for height in heights {
            read(joiner, height, &DecodedBlobs::default(), &Limits::default());
        }
    }

    /// Rollup data that claims a block and belongs to none.
    fn record(block: u8, path: u8) -> Arc<RollupRecord> {
        let wire = SubmittedRollupData {
            sequencer_block_hash: Bytes::from(vec![block; 32]),
            rollup_id: Some(WireRollupId { inner: Bytes::copy_from_slice(&ROLLUP.0) }),
            transactions: Vec::new(),
            proof: Some(Proof { audit_path: Bytes::from(vec![path; 32]), leaf_index: 0, tree_size: 3 }),
        };
        let bytes = Bytes::from(wire.encode_to_vec());
        Arc::new(RollupRecord::decode(&bytes, &Limits::default()).expect("a readable record"))
    }

    fn with_records(records: impl IntoIterator<Item = Arc<RollupRecord>>) -> DecodedBlobs {
        DecodedBlobs { records: records.into_iter().collect(), ..DecodedBlobs::default() }
    }

    #[test]
    fn the_window_ends_where_the_look_ahead_does_and_is_stretched_by_half_of_it_once() {
        let mut joiner = joiner(5, 8);
        assert_eq!(wanted(&mut joiner, 4), [0_u64; 0], "nothing above the head");
        assert_eq!(wanted(&mut joiner, 6), [5, 6]);
        assert_eq!(wanted(&mut joiner, 100), [5, 6, 7, 8]);
        read_nothing(&mut joiner, [6, 8]);
        assert_eq!(wanted(&mut joiner, 100), [5, 7, 9, 10], "what was read out of order is not read again");
        assert_eq!(joiner.lack(), Some(Lack::Unread(CelestiaHeight(5))));
        read_nothing(&mut joiner, [5, 7, 9, 10, 11, 12]);
        assert_eq!(wanted(&mut joiner, 100), [13], "the look-ahead is inclusive");
        read_nothing(&mut joiner, [13]);
        assert_eq!(wanted(&mut joiner, 100), [14, 15, 16, 17], "once, half a look-ahead more");
        read_nothing(&mut joiner, [14, 15, 16, 17]);
        assert_eq!(wanted(&mut joiner, 100), [0_u64; 0]);
        assert_eq!(joiner.lack(), Some(Lack::Exhausted { window_end: CelestiaHeight(17) }));
    }

    #[test]
    fn a_firm_block_moves_the_window_and_nothing_moves_it_back() {
        let mut joiner = joiner(5, 6);
        read_nothing(&mut joiner, 5..=9);
        assert_eq!(joiner.lowest_after(CelestiaHeight(8)), CelestiaHeight(8));
        joiner.advance(CelestiaHeight(8), CelestiaHeight(8));
        assert_eq!(joiner.next(), SequencerHeight(11));
        assert_eq!(joiner.window(), (CelestiaHeight(8), CelestiaHeight(14)));
        joiner.advance(CelestiaHeight(6), CelestiaHeight(8));
        assert_eq!(joiner.window(), (CelestiaHeight(8), CelestiaHeight(14)));
        assert_eq!(joiner.lowest_after(CelestiaHeight(6)), CelestiaHeight(8), "the search height does not go back");
    }

    #[test]
    fn a_window_at_the_end_of_all_numbers_does_not_loop_or_wrap() {
        let mut joiner = joiner(u64::MAX - 1, u64::MAX);
        assert!(wanted(&mut joiner, u64::MAX).len() <= 4);
        read_nothing(&mut joiner, [u64::MAX - 1, u64::MAX]);
        assert!(wanted(&mut joiner, u64::MAX).len() <= 4);
        assert_eq!(joiner.lowest_after(CelestiaHeight(u64::MAX)), CelestiaHeight(u64::MAX));
    }

    #[test]
    fn rollup_data_that_nothing_vouches_for_holds_the_search_back_by_a_quarter_of_the_look_ahead_at_most() {
        let mut joiner = joiner(5, 8);
        read(&mut joiner, 5, &with_records([record(1, 1)]), &Limits::default());
        read_nothing(&mut joiner, 6..=14);
        assert_eq!(joiner.lowest_after(CelestiaHeight(7)), CelestiaHeight(5));
        assert_eq!(joiner.lowest_after(CelestiaHeight(10)), CelestiaHeight(8));
        joiner.advance(CelestiaHeight(13), CelestiaHeight(11));
        assert!(!joiner.records.is_empty(), "as wide as the window is, it may still be needed");
        joiner.advance(CelestiaHeight(14), CelestiaHeight(12));
        assert!(joiner.records.is_empty() && joiner.bytes == 0, "it lies farther back than the window is wide");
    }

    #[test]
    fn a_flood_of_rollup_data_for_one_block_is_cut_and_its_height_read_again_with_more_knowledge() {
        let limits = Limits { candidates_per_height: 3, ..Limits::default() };
        let mut joiner = joiner(5, 6);
        read(&mut joiner, 5, &with_records((0..100).chain(0..100).map(|path| record(1, path))), &limits);
        assert_eq!(joiner.records.values().map(Vec::len).sum::<usize>(), 3);
        assert_eq!(joiner.wants_headers(&limits).collect::<Vec<_>>(), [SequencerHeight(10)]);
        assert_eq!(wanted(&mut joiner, 5), [0_u64; 0], "nothing more is known");
        let trusted = Evidence { header: true, transactions: false };
        assert_eq!(joiner.wants_to_read(CelestiaHeight(5), trusted, 4, &limits), [CelestiaHeight(5)]);
    }

    #[test]
    fn what_is_too_far_ahead_is_read_again_when_its_turn_has_come() {
        let mut joiner = joiner(5, 8);
        let decoded = DecodedBlobs { ahead: Some(SequencerHeight(11)), ..DecodedBlobs::default() };
        read(&mut joiner, 5, &decoded, &Limits::default());
        assert_eq!(joiner.wants_headers(&Limits::default()).count(), 0, "the next block cannot be among it");
        assert_eq!(wanted(&mut joiner, 5), [0_u64; 0]);
        assert_eq!(joiner.lowest_after(CelestiaHeight(5)), CelestiaHeight(5));
        joiner.advance(CelestiaHeight(5), CelestiaHeight(5));
        assert_eq!(wanted(&mut joiner, 5), [5]);
    }

    #[test]
    fn a_full_buffer_gives_up_what_no_candidate_claims_and_remembers_from_where() {
        let size = record(0, 0).wire_size();
        let limits = Limits { firm_buffer_bytes: size, ..Limits::default() };
        let mut joiner = joiner(5, 6);
        for height in 5..=9_u8 {
            read(&mut joiner, height.into(), &with_records([record(height, 0)]), &limits);
        }
        read_nothing(&mut joiner, [10]);
        assert_eq!((joiner.records.len(), joiner.bytes), (2, 2 * size));
        let missing = joiner.incomplete.iter().filter(|(_, incomplete)| incomplete.missing);
        assert_eq!(missing.map(|(height, _)| height.0).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(joiner.lowest_after(CelestiaHeight(8)), CelestiaHeight(5), "they may be needed by a later block");
    }
}
