//! Joins metadata and rollup data of one rollup by block hash, across Celestia heights, into blocks in order.
//!
//! Anyone may post to the namespaces, so nothing is thrown away because something else came first: all candidates for a
//! height are kept until one is bound to the committed header. What does not fit is read again once the header is known,
//! and then only what is bound to it is kept.

mod room;
mod search;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::window::Window;
use crate::{
    canary::{Canary, canary},
    command::Subject,
    ids::{BlockHash, CelestiaHeight, RollupId, SequencerHeight},
    job::DecodedBlobs,
    limits::Limits,
    sequencer::{BoundMetadata, Content, RollupRecord, SequencedBlock, TrustedHeader, UnverifiedMetadata},
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
    refused: Refused,
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

/// The Celestia heights with metadata that is not that of its trusted header, and of which block at the highest. Should
/// validators have signed two chains, it may turn out to be the genuine one.
#[derive(Clone, Debug, Default)]
struct Refused(BTreeMap<CelestiaHeight, SequencerHeight>);

impl Refused {
    fn note(&mut self, celestia: CelestiaHeight, height: SequencerHeight) {
        let highest = self.0.entry(celestia).or_insert(height);
        *highest = height.max(*highest);
    }

    /// The lowest of them that concerns a block above `height`.
    fn above(&self, height: SequencerHeight) -> Option<CelestiaHeight> {
        self.0.iter().find(|(_, highest)| **highest > height).map(|(celestia, _)| *celestia)
    }
}

/// What is known about the next block; an incomplete height is worth reading again when this has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Knowledge {
    next: SequencerHeight,
    evidence: Evidence,
    bound: bool,
}

/// What the sequencer's node or peers have told about a height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Its header is trusted.
    pub(crate) header: bool,
    /// The content of its block is known.
    pub(crate) content: bool,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    candidates: Vec<(CelestiaHeight, Arc<UnverifiedMetadata>)>,
    bound: Option<Arc<Verified<BoundMetadata>>>,
    /// Where metadata that names the proven block was seen, whether bound here or not: another rollup may have bound it.
    /// At least one height holds the genuine record, and a forger may name the block at others: when the slot goes, each
    /// has to be read again.
    named: BTreeSet<CelestiaHeight>,
    block: Option<(CelestiaHeight, Verified<SequencedBlock>)>,
    /// Where the block's rollup data was found.
    data_at: Option<CelestiaHeight>,
}

impl Slot {
    /// Which of the candidates is the genuine one is not known yet.
    fn is_undecided(&self) -> bool {
        self.bound.is_none() && !self.candidates.is_empty()
    }

    fn bytes(&self) -> usize {
        self.candidates.iter().map(|(_, metadata)| metadata.wire_size()).sum::<usize>()
            + self.block.as_ref().map_or(0, |(_, block)| block.size())
    }

    /// The block that the validators committed to, if that is known.
    fn proven(&self) -> Option<BlockHash> {
        let bound = self.bound.as_ref().map(|bound| bound.block_hash());
        bound.or_else(|| self.block.as_ref().map(|(_, block)| block.block_hash()))
    }

    /// Drops the candidates, since `proven` is the block. Returns their size.
    fn decided(&mut self, proven: BlockHash, refused: &mut Refused) -> usize {
        let mut freed = 0;
        for (found, candidate) in self.candidates.drain(..) {
            freed += candidate.wire_size();
            if candidate.block_hash() == proven {
                self.named.insert(found);
            } else {
                refused.note(found, candidate.height());
            }
        }
        freed
    }

    /// Where the block lies: nobody can have posted anything about it before it was made.
    fn position(&self) -> Option<CelestiaHeight> {
        self.named.first().copied().or_else(|| self.block.as_ref().map(|(found, _)| *found))
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
            refused: Refused::default(),
            decoding: BTreeMap::new(),
            bytes: 0,
        }
    }

    pub(crate) fn next(&self) -> SequencerHeight {
        self.next
    }

    /// The canaries of a header that cannot be fetched.
    pub(crate) fn header_failed(&mut self, height: SequencerHeight) {
        if canary(Canary::HeaderErrorFinal)
            && let Some(slot) = self.heights.remove(&height)
        {
            self.bytes = self.bytes.saturating_sub(slot.bytes());
        }
        if canary(Canary::FailedCheckPasses) {
            let first = self.heights.get(&height).and_then(|slot| slot.candidates.first().cloned());
            if let Some((celestia, metadata)) = first {
                self.take_bound(celestia, &Arc::new(metadata.believed()), &mut Dropped::new());
            }
        }
    }

    /// By how many bytes the count of what is held is wrong.
    pub(crate) fn bytes_off(&self) -> usize {
        let records = self.records.values().flatten().map(|(_, record)| record.wire_size());
        let held = self.heights.values().map(Slot::bytes).chain(records).sum::<usize>();
        self.bytes.abs_diff(held)
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
            // What was read is read again only with the header, which shows whether it holds the block.
            let is_useful = |height: &CelestiaHeight| evidence.header || !self.window.is_read(*height);
            return self.unplaced().filter(is_useful).take(count).collect();
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
        if let Some(refused) = decoded.refused {
            self.refused.note(height, refused);
        }
        for metadata in &decoded.bound {
            self.take_bound(height, metadata, dropped);
        }
        for metadata in &decoded.candidates {
            self.take_candidate(height, metadata, headers, limits, dropped);
        }
        for (rollup_id, block) in &decoded.blocks {
            if *rollup_id == self.rollup_id || canary(Canary::ForeignRollupTaken) {
                self.take_block(height, block);
            }
        }
        for record in &decoded.records {
            if record.rollup_id() == self.rollup_id || canary(Canary::ForeignRollupTaken) {
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
        if let Some(slot) = self.heights.get_mut(&height)
            && let Some(proven) = slot.proven()
        {
            if proven == metadata.block_hash() {
                slot.named.insert(celestia);
            } else {
                self.refused.note(celestia, height);
            }
            return;
        }
        if let Some(header) = headers.get(&height) {
            match metadata.bind(header, None) {
                Ok(bound) => return self.take_bound(celestia, &Arc::new(bound), dropped),
                Err(refusal) if refusal.needs_transactions() => {}
                Err(refusal) => {
                    self.refused.note(celestia, height);
                    return dropped.push((Subject::Metadata, format!("height {height}: {refusal}")));
                }
            }
        }
        let slot = self.heights.entry(height).or_default();
        if let Some((found, _)) = slot.candidates.iter_mut().find(|(_, known)| known == metadata) {
            *found = celestia.min(*found);
            return;
        }
        if canary(Canary::FirstCandidateWins) && !slot.candidates.is_empty() {
            return;
        }
        if slot.candidates.len() >= limits.candidates_per_height {
            self.give_up(celestia);
            return;
        }
        self.bytes += metadata.wire_size();
        slot.candidates.push((celestia, Arc::clone(metadata)));
    }

    /// Binds the candidates of a height to its header. `content` is that of the block, if it is known.
    /// Returns whether a candidate can only be judged with it.
    pub(crate) fn header_trusted(
        &mut self,
        header: &Verified<TrustedHeader>,
        content: Option<&Content>,
        dropped: &mut Dropped,
    ) -> bool {
        let height = header.height();
        let Some(slot) = self.heights.get_mut(&height) else { return false };
        if slot.bound.is_some() || slot.candidates.is_empty() {
            return false;
        }
        let mut needs_content = false;
        let mut bound = None;
        let mut kept = Vec::new();
        for (celestia, metadata) in &slot.candidates {
            match metadata.bind_to(header, content) {
                Ok(metadata) => {
                    bound = Some((*celestia, Arc::new(metadata)));
                    break;
                }
                Err(refusal) if refusal.needs_transactions() && content.is_none() => {
                    needs_content = true;
                    kept.push((*celestia, Arc::clone(metadata)));
                }
                Err(refusal) => {
                    self.refused.note(*celestia, height);
                    dropped.push((Subject::Metadata, format!("height {height}: {refusal}")));
                    if canary(Canary::RefusalClearsHeight) {
                        break;
                    }
                }
            }
        }
        if let Some((celestia, metadata)) = bound {
            self.take_bound(celestia, &metadata, dropped);
            return false;
        }
        let before = slot.bytes();
        slot.candidates = kept;
        self.bytes = self.bytes.saturating_sub(before.saturating_sub(slot.bytes()));
        if slot.candidates.is_empty() {
            self.heights.remove(&height);
        }
        needs_content
    }

    fn take_bound(&mut self, celestia: CelestiaHeight, metadata: &Arc<Verified<BoundMetadata>>, dropped: &mut Dropped) {
        let height = metadata.height();
        if height < self.next {
            return;
        }
        let slot = self.heights.entry(height).or_default();
        slot.named.insert(celestia);
        if slot.bound.is_some() {
            return;
        }
        self.bytes = self.bytes.saturating_sub(slot.decided(metadata.block_hash(), &mut self.refused));
        slot.bound = Some(Arc::clone(metadata));
        let is_found = self.records.contains_key(&metadata.block_hash());
        if !metadata.lists(&self.rollup_id) || (canary(Canary::MissingDataIsEmpty) && !is_found) {
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
            self.bytes = self.bytes.saturating_sub(slot.decided(block.block_hash(), &mut self.refused));
            let found = slot.position().map_or(celestia, |found| celestia.max(found));
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
        let bound = self.heights.values_mut().find(|slot| slot.proven() == Some(record.block_hash()));
        if let Some(slot) = bound {
            let found = slot.position().map_or(celestia, |found| celestia.max(found));
            let Some(metadata) = &slot.bound else { return };
            if slot.block.is_some() {
                return;
            }
            match metadata.block_with(record) {
                Ok(block) => {
                    self.bytes += block.size();
                    slot.block = Some((found, block));
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
        if canary(Canary::FirstRecordWins) && !known.is_empty() {
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

    /// The next block, with the Celestia height at which it was complete, once it is known well enough where it lies.
    pub(crate) fn block(&self) -> Option<(CelestiaHeight, &Verified<SequencedBlock>)> {
        self.found().filter(|_| self.unplaced().next().is_none())
    }

    fn found(&self) -> Option<(CelestiaHeight, &Verified<SequencedBlock>)> {
        let slot = self.heights.get(&self.next)?;
        slot.block.as_ref().map(|(celestia, block)| (*celestia, block))
    }

    /// Blocks whose metadata is bound and whose rollup data is missing.
    pub(crate) fn bound_without_data(&self) -> impl Iterator<Item = Arc<Verified<BoundMetadata>>> + '_ {
        self.heights.values().filter(|slot| slot.block.is_none()).filter_map(|slot| slot.bound.as_ref().map(Arc::clone))
    }

    /// Sequencer heights whose header would decide something now, lowest first.
    pub(crate) fn wants_headers(&self, limits: &Limits) -> impl Iterator<Item = SequencerHeight> + '_ {
        let last = self.next.plus(limits.headers_ahead);
        let incomplete = self.needs_next_header().then_some(self.next);
        let heights = self.heights.range(..=last).filter(|(_, slot)| slot.is_undecided()).map(|(height, _)| *height);
        incomplete.into_iter().chain(heights)
    }

    /// Whether `height` is one of these.
    pub(crate) fn wants_header(&self, height: SequencerHeight, limits: &Limits) -> bool {
        let is_near = height <= self.next.plus(limits.headers_ahead);
        is_near && self.heights.get(&height).is_some_and(Slot::is_undecided)
            || height == self.next && self.needs_next_header()
    }

    /// Whether the next block's header is needed although none of its metadata waits for it.
    fn needs_next_header(&self) -> bool {
        let is_missing = self.incomplete.values().any(|incomplete| incomplete.lacks(self.next));
        (is_missing && !self.heights.contains_key(&self.next)) || self.unplaced().next().is_some()
    }

    /// Why there is no block to hand out; `None` if there is one.
    pub(crate) fn lack(&self) -> Option<Lack> {
        let slot = self.heights.get(&self.next);
        if slot.is_some_and(|slot| slot.block.is_some()) {
            return self.unplaced().next().map(Lack::Unread);
        }
        if slot.is_some_and(Slot::is_undecided) {
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
mod tests;
