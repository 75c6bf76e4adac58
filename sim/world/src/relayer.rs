//! The relayer: publishes sequencer blocks on Celestia (reference §3.2), as tidily or untidily as configured.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use downbeat_core::{
    CelestiaHeight, RollupId, SequencerHeight, Timestamp,
    celestia::Namespace,
    wire::proto::astria::sequencerblock::v1::{
        SubmittedMetadata, SubmittedMetadataList, SubmittedRollupData, SubmittedRollupDataList,
    },
};
use prost::Message;

use crate::{
    memo::{Fingerprint, Memo},
    random::Random,
    sequencer::SequencerChain,
};

/// How a relayer works. The default is an orderly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayerConfig {
    pub seed: u64,
    /// From a sequencer block's time until it can be in a Celestia block.
    pub delay: Duration,
    /// Most sequencer blocks in one submission.
    pub blocks_per_submission: usize,
    /// Celestia blocks by which metadata comes later than it could.
    pub metadata_after: u64,
    /// Celestia blocks by which rollup data comes later than it could.
    pub rollup_data_after: u64,
    /// Each blob comes up to this many Celestia blocks late, drawn on its own: splits metadata from rollup data and
    /// changes the order of submissions.
    pub late_blocks: u64,
    /// Changes the order of the entries in every blob, and of the blobs in every Celestia block.
    pub shuffle: bool,
    /// Chance in percent that a blob is posted once more, up to three Celestia blocks later.
    pub duplicate_percent: u8,
    /// Chance in percent that an entry that cannot be decoded stands in front of the others in a list.
    pub malformed_percent: u8,
    /// Publish the data of these rollups only; all if unset. Metadata lists every rollup in any case.
    pub only: Option<Vec<RollupId>>,
    pub packing: Packing,
}

impl Default for RelayerConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            delay: Duration::from_secs(2),
            blocks_per_submission: 10,
            metadata_after: 0,
            rollup_data_after: 0,
            late_blocks: 0,
            shuffle: false,
            duplicate_percent: 0,
            malformed_percent: 0,
            only: None,
            packing: Packing::Compressed,
        }
    }
}

/// How much is done to make blobs small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Packing {
    /// As relayers do it.
    #[default]
    Compressed,
    /// A brotli stream all the same, with the data in it as they are. Takes next to no time.
    Stored,
}

/// Most bytes of compressed data in one submission.
pub const SUBMISSION_MAX_BYTES: usize = 1_000_000;

/// The blobs that are posted of some blocks.
pub(crate) type Submission = Vec<(Namespace, Bytes)>;

/// A relayer at work: which block is next, and which blobs wait for their Celestia block.
#[derive(Debug)]
pub struct Relayer {
    config: RelayerConfig,
    random: Random,
    next: SequencerHeight,
    /// By the Celestia height into which they go.
    waiting: BTreeMap<CelestiaHeight, Vec<(Namespace, Bytes)>>,
    paused: bool,
    memo: Option<Arc<Memo>>,
}

impl Relayer {
    /// Begins with the sequencer block at `first`. With a memo, what was packed before is not packed again.
    pub fn new(config: RelayerConfig, first: SequencerHeight, memo: Option<Arc<Memo>>) -> Self {
        Self {
            memo,
            random: Random::new(config.seed, "relayer"),
            config,
            next: first,
            waiting: BTreeMap::new(),
            paused: false,
        }
    }

    /// Height of the next sequencer block to publish.
    pub fn next(&self) -> SequencerHeight {
        self.next
    }

    /// While paused, nothing new is taken up; what waits is still posted.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Goes back to (or on to) a height, as a relayer that lost its state does.
    pub fn restart_from(&mut self, height: SequencerHeight) {
        self.next = height;
    }

    /// The blobs for Celestia block `height`, which is made at `time`.
    pub fn blobs_for(
        &mut self,
        height: CelestiaHeight,
        time: Timestamp,
        sequencer: &SequencerChain,
    ) -> Vec<(Namespace, Bytes)> {
        let metadata = Namespace::of_sequencer(sequencer.chain_id());
        while let Some((blocks, blobs)) = self.next_submission(time, sequencer) {
            self.next = self.next.plus(blocks);
            for blob in blobs.iter() {
                let after = if blob.0 == metadata { self.config.metadata_after } else { self.config.rollup_data_after };
                let at = height.plus(after).plus(self.random.within(0, self.config.late_blocks));
                if self.random.chance(self.config.duplicate_percent) {
                    let again = at.plus(self.random.within(0, 3));
                    self.waiting.entry(again).or_default().push(blob.clone());
                }
                self.waiting.entry(at).or_default().push(blob.clone());
            }
        }
        let later = self.waiting.split_off(&height.next());
        let due = std::mem::replace(&mut self.waiting, later);
        let mut blobs: Vec<_> = due.into_values().flatten().collect();
        if self.config.shuffle {
            self.random.shuffle(&mut blobs);
        }
        blobs
    }

    /// The next submission and how many sequencer blocks are in it; nothing while the next block is not due.
    fn next_submission(&mut self, time: Timestamp, sequencer: &SequencerChain) -> Option<(u64, Arc<Submission>)> {
        let mut count = if self.paused { 0 } else { self.config.blocks_per_submission.max(1) as u64 };
        count = (0..count)
            .take_while(|offset| {
                let block = sequencer.block(self.next.plus(*offset));
                block.is_some_and(|block| block.time().after(self.config.delay) <= time)
            })
            .count() as u64;
        if count == 0 {
            return None;
        }
        loop {
            let blobs = self.remembered(count, sequencer);
            let size: usize = blobs.iter().map(|(_, data)| data.len()).sum();
            // A single block always goes: a sequencer block is far smaller than the cap.
            if size <= SUBMISSION_MAX_BYTES || count == 1 {
                return Some((count, blobs));
            }
            count /= 2;
        }
    }

    /// What [`submission`](Self::submission) gives, made once for all relayers that do the same.
    fn remembered(&self, count: u64, sequencer: &SequencerChain) -> Arc<Submission> {
        let make = || self.submission(count, sequencer);
        let Some(memo) = &self.memo else { return Arc::new(make()) };
        let RelayerConfig { seed, shuffle, malformed_percent, only, packing, .. } = &self.config;
        let numbers = [*seed, self.next.0, count].map(u64::to_be_bytes);
        let flags =
            [u8::from(*shuffle), *malformed_percent, u8::from(*packing == Packing::Stored), u8::from(only.is_some())];
        let fixed = [sequencer.chain_id().as_bytes(), numbers.as_flattened(), &flags];
        let only = only.iter().flatten().map(|id| &id.0[..]);
        // A hash stands for all that is in its block.
        let blocks = (0..count).filter_map(|offset| sequencer.block(self.next.plus(offset)));
        let hashes: Vec<[u8; 32]> = blocks.map(|block| block.hash().0).collect();
        let parts = fixed.into_iter().chain([hashes.as_flattened()]).chain(only);
        memo.submission(Fingerprint::of(parts), make)
    }

    fn submission(&self, count: u64, sequencer: &SequencerChain) -> Submission {
        let mut metadata = Vec::new();
        let mut rollups = BTreeMap::<Namespace, Vec<SubmittedRollupData>>::new();
        for block in (0..count).filter_map(|offset| sequencer.block(self.next.plus(offset))) {
            metadata.push(block.published.metadata());
            for id in block.published.rollup_ids() {
                if self.config.only.as_ref().is_none_or(|only| only.contains(&id)) {
                    rollups.entry(Namespace::of_rollup(&id)).or_default().extend(block.published.rollup_data(&id));
                }
            }
        }
        // A stream for each submission: whatever else happened, the same blocks become the same blobs.
        let mut random = Random::new(self.config.seed, &format!("submission {} {count}", self.next.0));
        // Without a header and without a rollup id respectively.
        let is_malformed = random.chance(self.config.malformed_percent);
        if self.config.shuffle {
            random.shuffle(&mut metadata);
            for entries in rollups.values_mut() {
                random.shuffle(entries);
            }
        }
        if is_malformed {
            metadata.insert(0, SubmittedMetadata::default());
            for entries in rollups.values_mut() {
                entries.insert(0, SubmittedRollupData::default());
            }
        }
        let metadata = SubmittedMetadataList { entries: metadata }.encode_to_vec();
        let mut blobs = vec![(Namespace::of_sequencer(sequencer.chain_id()), self.packed(&metadata))];
        blobs.extend(rollups.into_iter().map(|(namespace, entries)| {
            (namespace, self.packed(&SubmittedRollupDataList { entries }.encode_to_vec()))
        }));
        blobs
    }

    fn packed(&self, data: &[u8]) -> Bytes {
        match self.config.packing {
            Packing::Stored => store(data),
            Packing::Compressed => compress(data),
        }
    }
}

/// Payload of a blob in the sequencer's namespace.
pub fn metadata_blob(entries: Vec<SubmittedMetadata>) -> Bytes {
    compress(&SubmittedMetadataList { entries }.encode_to_vec())
}

/// Payload of a blob in a rollup's namespace.
pub fn rollup_data_blob(entries: Vec<SubmittedRollupData>) -> Bytes {
    compress(&SubmittedRollupDataList { entries }.encode_to_vec())
}

/// One brotli stream, with the quality and window that relayers use.
pub fn compress(data: &[u8]) -> Bytes {
    let parameters = brotli::enc::BrotliEncoderParams {
        quality: 5,
        lgwin: 22,
        size_hint: data.len(),
        ..brotli::enc::BrotliEncoderParams::default()
    };
    let mut compressed = Vec::new();
    brotli::BrotliCompress(&mut &*data, &mut compressed, &parameters).expect("memory can be read and written");
    compressed.into()
}

/// Ends a stream: a last meta-block, which is empty (RFC 7932, 9.2).
const LAST_AND_EMPTY: u32 = 0b11;
/// Says that the window has 10 bits, the fewest there are, and how many bits say so: readers make room for all of a window
/// (RFC 7932, 9.1).
const SMALLEST_WINDOW: (u32, u32) = (0b010_0001, 7);

/// One brotli stream that holds the data uncompressed.
pub fn store(data: &[u8]) -> Bytes {
    let mut stream = Vec::with_capacity(data.len() + 3 * (data.len() >> 16) + 5);
    // Stands in front of the first meta-block.
    let (mut before, mut bits) = SMALLEST_WINDOW;
    for chunk in data.chunks(1 << 16) {
        // Not the last, four nibbles of length less one, uncompressed; then data from the next whole byte on.
        let length = u32::try_from(chunk.len() - 1).unwrap_or_default();
        let header = (length << 3 | 1 << 19) << bits | before;
        let bytes = if bits + 20 > 24 { 4 } else { 3 };
        stream.extend_from_slice(&header.to_le_bytes()[..bytes]);
        stream.extend_from_slice(chunk);
        (before, bits) = (0, 0);
    }
    let end = LAST_AND_EMPTY << bits | before;
    stream.extend_from_slice(&end.to_le_bytes()[..if bits + 2 > 8 { 2 } else { 1 }]);
    stream.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{SequencerConfig, generate::Contents};

    fn ids() -> [RollupId; 2] {
        [RollupId([1; 32]), RollupId([2; 32])]
    }

    fn sequencer(blocks: u64) -> SequencerChain {
        let mut chain = SequencerChain::new(SequencerConfig::default());
        let mut random = Random::new(1, "test");
        for second in 0..blocks {
            let input = Contents { absent_rollup_percent: 0, empty_block_percent: 0, ..Contents::default() };
            chain.make_block(Timestamp(second * 1_000_000_000), input.draw(&mut random, &ids()));
        }
        chain
    }

    fn decompress(data: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        brotli::BrotliDecompress(&mut &*data, &mut plain).expect("a brotli stream");
        plain
    }

    /// Sequencer heights of metadata, per Celestia height.
    fn relay(config: RelayerConfig, blocks: u64) -> Vec<(u64, Namespace, Bytes)> {
        relay_with(config, blocks, 1, None)
    }

    /// A Celestia block is made every `seconds`.
    fn relay_with(
        config: RelayerConfig,
        blocks: u64,
        seconds: u64,
        memo: Option<Arc<Memo>>,
    ) -> Vec<(u64, Namespace, Bytes)> {
        let sequencer = sequencer(blocks);
        let mut relayer = Relayer::new(config, SequencerHeight(1), memo);
        let mut posted = Vec::new();
        for height in 1..=blocks + 10 {
            let time = Timestamp(height * seconds * 1_000_000_000);
            let blobs = relayer.blobs_for(CelestiaHeight(height), time, &sequencer);
            posted.extend(blobs.into_iter().map(|(namespace, data)| (height, namespace, data)));
        }
        posted
    }

    fn metadata_heights(posted: &[(u64, Namespace, Bytes)]) -> Vec<(u64, Vec<u64>)> {
        let namespace = Namespace::of_sequencer(&SequencerConfig::default().chain_id);
        let metadata = posted.iter().filter(|(_, at, _)| *at == namespace);
        metadata
            .map(|(height, _, data)| {
                let list = SubmittedMetadataList::decode(&decompress(data)[..]).expect("a list");
                (
                    *height,
                    list.entries.iter().map(|entry| entry.header.as_ref().map_or(0, |header| header.height)).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn relayers_that_share_a_memory_do_what_each_would_do_alone() {
        let plain = RelayerConfig { packing: Packing::Stored, ..RelayerConfig::default() };
        let configs = [
            plain.clone(),
            RelayerConfig::default(),
            RelayerConfig { shuffle: true, ..plain.clone() },
            RelayerConfig { shuffle: true, seed: 1, ..plain.clone() },
            RelayerConfig { malformed_percent: 100, ..plain.clone() },
            RelayerConfig { malformed_percent: 50, ..plain.clone() },
            RelayerConfig { only: Some(vec![ids()[0]]), ..plain.clone() },
            RelayerConfig { only: Some(vec![ids()[1]]), ..plain.clone() },
            RelayerConfig { only: Some(Vec::new()), ..plain.clone() },
            RelayerConfig { blocks_per_submission: 3, delay: Duration::from_secs(7), ..plain },
        ];
        let memo = Arc::new(Memo::default());
        for config in configs.iter().chain(&configs) {
            // Several blocks in each submission.
            let shared = relay_with(config.clone(), 30, 5, Some(Arc::clone(&memo)));
            assert_eq!(shared, relay_with(config.clone(), 30, 5, None), "{config:?}");
        }
    }

    #[test]
    fn what_is_stored_unpacks_to_itself() {
        for length in [0, 1, 2, 255, 256, 65_535, 65_536, 65_537, 200_000] {
            let data = Random::new(length, "stored").bytes(usize::try_from(length).expect("small"));
            assert_eq!(decompress(&store(&data)), data, "{length} bytes");
        }
    }

    #[test]
    fn an_orderly_relayer_posts_each_block_once_after_the_delay() {
        let posted = relay(RelayerConfig { blocks_per_submission: 2, ..RelayerConfig::default() }, 6);
        // Block n has second n - 1 in its header, hence is due at second n + 1.
        let expected: Vec<_> =
            [(2, vec![1]), (3, vec![2]), (4, vec![3]), (5, vec![4]), (6, vec![5]), (7, vec![6])].into();
        assert_eq!(metadata_heights(&posted), expected);
        assert_eq!(posted.len(), 18, "one blob of metadata and one per rollup for each");
    }

    #[test]
    fn a_late_start_is_caught_up_in_batches() {
        let sequencer = sequencer(7);
        let mut relayer = Relayer::new(
            RelayerConfig { blocks_per_submission: 3, ..RelayerConfig::default() },
            SequencerHeight(1),
            None,
        );
        let blobs = relayer.blobs_for(CelestiaHeight(50), Timestamp(u64::MAX), &sequencer);
        let posted: Vec<_> = blobs.into_iter().map(|(namespace, data)| (50, namespace, data)).collect();
        let heights: Vec<_> = metadata_heights(&posted).into_iter().map(|(_, heights)| heights).collect();
        assert_eq!(heights, [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    }

    #[test]
    fn metadata_and_rollup_data_come_apart_when_told_to() {
        let config = RelayerConfig { metadata_after: 1, rollup_data_after: 3, ..RelayerConfig::default() };
        let namespace = Namespace::of_sequencer(&SequencerConfig::default().chain_id);
        for (height, at, _) in relay(config, 1) {
            assert_eq!(height, if at == namespace { 3 } else { 5 });
        }
    }

    #[test]
    fn an_untidy_relayer_splits_shuffles_and_repeats_but_loses_nothing() {
        let config = RelayerConfig { late_blocks: 3, shuffle: true, duplicate_percent: 50, ..RelayerConfig::default() };
        let posted = relay(config.clone(), 20);
        let metadata = metadata_heights(&posted);
        let order: Vec<u64> = metadata.iter().flat_map(|(_, heights)| heights.clone()).collect();
        assert!(!order.is_sorted(), "in order: {order:?}");
        assert!(order.len() > 20, "nothing was repeated");
        assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), (1..=20).collect());
        for id in ids() {
            let mut hashes = BTreeSet::new();
            for (_, _, data) in posted.iter().filter(|(_, at, _)| *at == Namespace::of_rollup(&id)) {
                let list = SubmittedRollupDataList::decode(&decompress(data)[..]).expect("a list");
                hashes.extend(list.entries.iter().map(|entry| entry.sequencer_block_hash.clone()));
            }
            assert_eq!(hashes.len(), 20);
        }
        assert_eq!(posted, relay(config, 20), "the same seed does the same");
    }
}
