//! Heavy pure work, run outside the loop: on a worker pool in production, at a chosen moment in simulations.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tendermint::{
    block::{Header, signed_header::SignedHeader},
    validator,
};

use crate::{
    canary::{Canary, canary},
    celestia::{self, Namespace},
    command::Subject,
    event::Blob,
    ids::{BlockHash, RollupId, SequencerHeight},
    limits::Limits,
    merkle,
    sequencer::{
        self, BoundMetadata, RollupRecord, SequencedBlock, SoftBlock, SoftBlockRequest, TrustedHeader,
        UnverifiedMetadata, ValidatorSet,
    },
    verified::Verified,
};

/// Work whose result depends on nothing but its fields.
#[derive(Clone, Debug)]
pub enum Job {
    /// Checks everything about a filtered block that can be checked without its commit.
    VerifySoftBlock { block: Bytes, request: SoftBlockRequest, limits: Arc<Limits> },
    /// Checks a header's commit against a validator set.
    VerifyHeader {
        height: SequencerHeight,
        chain_id: String,
        signed_header: Box<SignedHeader>,
        validators: Validators,
        limits: Arc<Limits>,
    },
    /// Checks that headers lead down from a trusted one by their hashes.
    VerifyLinks { anchor: Box<Verified<TrustedHeader>>, first: SequencerHeight, headers: Vec<Header> },
    /// Checks that data items are those of a header.
    VerifyTransactions { header: Box<Verified<TrustedHeader>>, transactions: Vec<Bytes> },
    /// Unpacks, decodes and sorts the blobs of one Celestia height.
    DecodeBlobs(Box<DecodeBlobs>),
}

/// Where the validators for a header come from.
#[derive(Clone, Debug)]
pub enum Validators {
    /// A set that signed an earlier header with the same `validators_hash`.
    Known(Arc<ValidatorSet>),
    /// As the node sent it.
    Fetched(Vec<validator::Info>),
}

/// Input of [`Job::DecodeBlobs`].
#[derive(Clone, Debug)]
pub struct DecodeBlobs {
    pub blobs: Vec<Blob>,
    /// Namespace of the metadata.
    pub sequencer: Namespace,
    pub rollups: BTreeSet<RollupId>,
    /// Metadata for heights outside is of no use to anybody: first and last height.
    pub wanted: (SequencerHeight, SequencerHeight),
    /// Headers that are trusted already: metadata at these heights is bound or dropped at once.
    pub headers: BTreeMap<SequencerHeight, Verified<TrustedHeader>>,
    /// Verified data items of blocks with trusted headers, where they were fetched.
    pub transactions: BTreeMap<SequencerHeight, Vec<Bytes>>,
    /// Blocks whose metadata is bound already and which still lack their rollup data.
    pub bound: Vec<Arc<Verified<BoundMetadata>>>,
    pub limits: Arc<Limits>,
}

/// What became of the blobs of one Celestia height.
#[derive(Clone, Debug, Default)]
pub struct DecodedBlobs {
    /// Consistent in itself; its header is not known yet.
    pub candidates: Vec<Arc<UnverifiedMetadata>>,
    pub bound: Vec<Arc<Verified<BoundMetadata>>>,
    /// Blocks that are complete.
    pub blocks: Vec<(RollupId, Verified<SequencedBlock>)>,
    /// Rollup data whose metadata is not bound yet.
    pub records: Vec<Arc<RollupRecord>>,
    /// Something was left out for lack of room: to be read again once more is known.
    pub overflow: bool,
    /// The lowest height above the wanted ones whose metadata was left out.
    pub ahead: Option<SequencerHeight>,
    /// What was refused, with a reason; bounded, see `dropped_more`.
    pub dropped: Vec<(Subject, String)>,
    /// Refusals beyond those listed.
    pub dropped_more: u64,
}

/// What a job found. Failures are results: they say that the input is not what it claims to be.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    SoftBlock(Result<SoftBlock, String>),
    Header(Result<Box<SignedBy>, HeaderRefusal>),
    Links(Result<Vec<Verified<TrustedHeader>>, String>),
    Transactions(Result<Vec<Bytes>, String>),
    Blobs(Box<DecodedBlobs>),
}

/// A header and the set that signed it.
#[derive(Clone, Debug)]
pub struct SignedBy {
    pub header: Verified<TrustedHeader>,
    pub validators: Arc<ValidatorSet>,
}

/// Why a header is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRefusal {
    pub subject: Subject,
    pub reason: String,
}

impl Job {
    /// A pure function of the job. Never panics, whatever came from outside.
    pub fn run(self) -> JobOutcome {
        match self {
            Self::VerifySoftBlock { block, request, limits } => JobOutcome::SoftBlock(
                sequencer::verify_filtered_block(&block, &request, &limits).map_err(|error| error.to_string()),
            ),
            Self::VerifyHeader { height, chain_id, signed_header, validators, limits } => {
                JobOutcome::Header(verify_header(height, &chain_id, &signed_header, validators, &limits))
            }
            Self::VerifyLinks { anchor, first, headers } => {
                JobOutcome::Links(sequencer::verify_links(&anchor, first, headers).map_err(|error| error.to_string()))
            }
            Self::VerifyTransactions { header, transactions } => {
                JobOutcome::Transactions(verify_transactions(&header, transactions))
            }
            Self::DecodeBlobs(job) => JobOutcome::Blobs(Box::new(job.run())),
        }
    }
}

fn verify_header(
    height: SequencerHeight,
    chain_id: &str,
    signed_header: &SignedHeader,
    validators: Validators,
    limits: &Limits,
) -> Result<Box<SignedBy>, HeaderRefusal> {
    let set = match validators {
        Validators::Known(set) => set,
        Validators::Fetched(validators) => Arc::new(
            ValidatorSet::new(validators, limits.validators)
                .map_err(|error| HeaderRefusal { subject: Subject::Validators, reason: error.to_string() })?,
        ),
    };
    let header = sequencer::verify_signed_header(signed_header, &set, chain_id, height)
        .map_err(|error| HeaderRefusal { subject: Subject::SignedHeader, reason: error.to_string() })?;
    Ok(Box::new(SignedBy { header, validators: set }))
}

fn verify_transactions(header: &Verified<TrustedHeader>, transactions: Vec<Bytes>) -> Result<Vec<Bytes>, String> {
    let root = merkle::root_of(transactions.iter().map(|item| <[u8; 32]>::from(Sha256::digest(item))));
    let expected = header.header().data_hash.unwrap_or_default();
    if expected.as_bytes() == root {
        Ok(transactions)
    } else {
        Err(format!("data items have the root {}, the header's is {expected}", hex::encode(root)))
    }
}

/// Most reasons that one job lists.
const REASONS_MAX: usize = 16;

impl DecodedBlobs {
    fn drop(&mut self, subject: Subject, reason: impl Into<String>) {
        if self.dropped.len() < REASONS_MAX {
            self.dropped.push((subject, reason.into()));
        } else {
            self.dropped_more = self.dropped_more.saturating_add(1);
        }
    }
}

impl DecodeBlobs {
    fn run(self) -> DecodedBlobs {
        let mut decoded = DecodedBlobs::default();
        let mut bound: BTreeMap<BlockHash, Arc<Verified<BoundMetadata>>> =
            self.bound.iter().map(|bound| (bound.block_hash(), Arc::clone(bound))).collect();
        // Metadata first, so that most rollup data meets its block at once.
        let (metadata, rollup_data): (Vec<_>, Vec<_>) =
            self.blobs.iter().partition(|blob| blob.namespace == self.sequencer);
        let mut room = self.limits.firm_buffer_bytes;
        let mut undecided = BTreeMap::new();
        for blob in metadata {
            self.take_metadata(blob, &mut bound, &mut undecided, &mut room, &mut decoded);
        }
        let mut room = self.limits.firm_buffer_bytes;
        if canary(Canary::ManyBlobsDropHeight) && rollup_data.len() > 1 {
            return decoded;
        }
        let mut complete = BTreeSet::new();
        for blob in rollup_data {
            self.take_rollup_data(blob, &bound, &mut complete, &mut room, &mut decoded);
        }
        decoded
    }

    fn take_metadata(
        &self,
        blob: &Blob,
        bound: &mut BTreeMap<BlockHash, Arc<Verified<BoundMetadata>>>,
        undecided: &mut BTreeMap<SequencerHeight, usize>,
        room: &mut usize,
        decoded: &mut DecodedBlobs,
    ) {
        let list = match celestia::decode_metadata(&blob.data, &self.limits) {
            Ok(list) => list,
            Err(error) => return decoded.drop(Subject::Blob, error.to_string()),
        };
        for (index, reason) in list.dropped {
            decoded.drop(Subject::Metadata, format!("entry {index}: {reason}"));
        }
        for metadata in list.entries {
            let height = metadata.height();
            if height < self.wanted.0 {
                continue;
            }
            if height > self.wanted.1 {
                decoded.ahead = Some(decoded.ahead.map_or(height, |ahead| ahead.min(height)));
                continue;
            }
            if let Some(known) = bound.get(&metadata.block_hash()) {
                // One cell has it, another one may have had to give it up.
                if !decoded.bound.iter().any(|other| Arc::ptr_eq(other, known)) {
                    decoded.bound.push(Arc::clone(known));
                }
                continue;
            }
            let transactions = self.transactions.get(&height).map(Vec::as_slice);
            match self.headers.get(&height).map(|header| metadata.bind(header, transactions)) {
                Some(Ok(metadata)) => {
                    let metadata = Arc::new(metadata);
                    bound.insert(metadata.block_hash(), Arc::clone(&metadata));
                    decoded.bound.push(metadata);
                }
                Some(Err(refusal)) if !refusal.needs_transactions() => {
                    decoded.drop(Subject::Metadata, format!("height {height}: {refusal}"));
                }
                Some(Err(_)) => {
                    // As far as its header tells it is genuine: it needs no room, but only so many are kept.
                    let count = undecided.entry(height).or_insert(0);
                    if *count < self.limits.candidates_per_height {
                        *count += 1;
                        decoded.candidates.push(Arc::new(metadata));
                    } else {
                        decoded.overflow = true;
                    }
                }
                None => match room.checked_sub(metadata.wire_size()) {
                    Some(left) => {
                        *room = left;
                        decoded.candidates.push(Arc::new(metadata));
                    }
                    None => decoded.overflow = true,
                },
            }
        }
    }

    fn take_rollup_data(
        &self,
        blob: &Blob,
        bound: &BTreeMap<BlockHash, Arc<Verified<BoundMetadata>>>,
        complete: &mut BTreeSet<(RollupId, SequencerHeight)>,
        room: &mut usize,
        decoded: &mut DecodedBlobs,
    ) {
        let wanted: Vec<RollupId> =
            self.rollups.iter().copied().filter(|id| Namespace::of_rollup(id) == blob.namespace).collect();
        if wanted.is_empty() {
            return;
        }
        let list = match celestia::decode_rollup_data(&blob.data, &wanted, &self.limits) {
            Ok(list) => list,
            Err(error) => return decoded.drop(Subject::Blob, error.to_string()),
        };
        for (index, reason) in list.dropped {
            decoded.drop(Subject::RollupData, format!("entry {index}: {reason}"));
        }
        for record in list.entries {
            let rollup_id = record.rollup_id();
            match bound.get(&record.block_hash()).map(|metadata| metadata.block_with(&record)) {
                Some(Ok(block)) => {
                    if complete.insert((rollup_id, block.height())) {
                        decoded.blocks.push((rollup_id, block));
                    }
                }
                Some(Err(error)) => {
                    decoded.drop(Subject::RollupData, format!("block {}: {error}", record.block_hash()));
                }
                None => match room.checked_sub(record.wire_size()) {
                    Some(left) => {
                        *room = left;
                        decoded.records.push(Arc::new(record));
                    }
                    None => decoded.overflow = true,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CHAIN, Made, ROLLUP, block, block_with_items, metadata_blob, rollup_blob};

    fn job(blobs: Vec<Blob>) -> DecodeBlobs {
        DecodeBlobs {
            blobs,
            sequencer: Namespace::of_sequencer(CHAIN),
            rollups: BTreeSet::from([ROLLUP]),
            wanted: (SequencerHeight(4), SequencerHeight(5)),
            headers: BTreeMap::new(),
            transactions: BTreeMap::new(),
            bound: Vec::new(),
            limits: Arc::new(Limits { candidates_per_height: 2, ..Limits::default() }),
        }
    }

    fn run(job: DecodeBlobs) -> DecodedBlobs {
        let JobOutcome::Blobs(decoded) = Job::DecodeBlobs(Box::new(job)).run() else { panic!("an outcome of blobs") };
        *decoded
    }

    fn knowing(blobs: Vec<Blob>, made: &Made) -> DecodeBlobs {
        DecodeBlobs { headers: BTreeMap::from([(made.height(), made.trusted())]), ..job(blobs) }
    }

    #[test]
    fn metadata_from_the_first_to_the_last_wanted_height_is_kept_and_the_lowest_beyond_is_named() {
        let all = metadata_blob((3..=7).rev().map(|height| block(height, &[ROLLUP]).metadata));
        let decoded = run(job(vec![all]));
        let mut kept: Vec<u64> = decoded.candidates.iter().map(|metadata| metadata.height().0).collect();
        kept.sort_unstable();
        assert_eq!((kept, decoded.ahead), (vec![4, 5], Some(SequencerHeight(6))));
        assert!(!decoded.overflow && decoded.dropped.is_empty());
    }

    #[test]
    fn a_block_is_complete_when_header_metadata_and_data_meet() {
        let made = block(4, &[ROLLUP]);
        let data = rollup_blob(&ROLLUP, made.records.clone());
        let decoded = run(knowing(vec![data.clone(), metadata_blob([made.metadata.clone()])], &made));
        let (rollup, complete) = &decoded.blocks[0];
        assert_eq!((*rollup, complete.block_hash(), complete.height()), (ROLLUP, made.trusted().hash(), made.height()));
        assert!(decoded.bound.len() == 1 && decoded.records.is_empty());
        // The same without the header: nothing is proven, both parts are kept.
        let decoded = run(job(vec![data, metadata_blob([made.metadata])]));
        assert_eq!((decoded.candidates.len(), decoded.records.len(), decoded.blocks.len()), (1, 1, 0));
    }

    #[test]
    fn metadata_that_another_cell_has_bound_is_passed_on_once_however_often_it_was_posted() {
        let made = block(4, &[ROLLUP]);
        let bound = Arc::new(made.bound());
        let copies = metadata_blob([made.metadata.clone(), made.metadata]);
        let decoded = run(DecodeBlobs { bound: vec![Arc::clone(&bound)], ..job(vec![copies]) });
        assert_eq!(decoded.bound, [bound]);
        assert!(decoded.candidates.is_empty());
    }

    #[test]
    fn metadata_that_contradicts_the_committed_header_is_dropped_and_not_kept() {
        let made = block(4, &[ROLLUP]);
        let mut forged = made.metadata.clone();
        forged.header.as_mut().expect("a header").proposer_address = Bytes::from_static(&[9; 20]);
        let decoded = run(knowing(vec![metadata_blob([forged])], &made));
        assert!(decoded.candidates.is_empty() && decoded.bound.is_empty());
        assert_eq!(decoded.dropped[0].0, Subject::Metadata);
        assert!(decoded.dropped[0].1.contains("height 4: proposer"), "{:?}", decoded.dropped);
    }

    #[test]
    fn metadata_that_only_data_items_can_tell_about_waits_for_them_in_bounds() {
        let made = block_with_items(4, &[ROLLUP]);
        let copies = || vec![metadata_blob([made.metadata.clone(), made.metadata.clone(), made.metadata.clone()])];
        let two = || vec![metadata_blob([made.metadata.clone(), made.metadata.clone()])];
        let waiting = run(knowing(two(), &made));
        assert_eq!((waiting.candidates.len(), waiting.overflow), (2, false), "as many as may be kept");
        let waiting = run(knowing(copies(), &made));
        assert_eq!((waiting.candidates.len(), waiting.overflow), (2, true), "and the height is read again");
        let transactions = BTreeMap::from([(made.height(), made.items.clone())]);
        let decoded = run(DecodeBlobs { transactions, ..knowing(copies(), &made) });
        assert_eq!((decoded.bound.len(), decoded.candidates.len(), decoded.overflow), (1, 0, false));
    }

    #[test]
    fn a_flood_of_bad_blobs_is_counted_in_full_and_listed_in_part() {
        let bad = Blob { namespace: Namespace::of_sequencer(CHAIN), data: Bytes::from_static(b"not brotli") };
        let decoded = run(job(vec![bad; 20]));
        assert_eq!((decoded.dropped.len(), decoded.dropped_more), (16, 4));
        assert!(decoded.dropped.iter().all(|(subject, reason)| *subject == Subject::Blob && !reason.is_empty()));
    }

    #[test]
    fn a_buffer_without_room_leaves_out_what_is_unproven_and_says_so() {
        let made = block(4, &[ROLLUP]);
        let blobs = vec![metadata_blob([made.metadata.clone()]), rollup_blob(&ROLLUP, made.records.clone())];
        let limits = Arc::new(Limits { firm_buffer_bytes: made.record().wire_size(), ..Limits::default() });
        let decoded = run(DecodeBlobs { limits, ..job(blobs) });
        assert_eq!((decoded.candidates.len(), decoded.records.len(), decoded.overflow), (0, 1, true));
    }

    #[test]
    fn data_items_of_another_block_are_refused() {
        let (made, other) = (block_with_items(4, &[ROLLUP]), block_with_items(5, &[ROLLUP]));
        let verify = |transactions| {
            let JobOutcome::Transactions(result) =
                (Job::VerifyTransactions { header: Box::new(made.trusted()), transactions }).run()
            else {
                panic!("an outcome of transactions")
            };
            result
        };
        assert_eq!(verify(made.items.clone()).as_ref(), Ok(&made.items));
        assert!(verify(other.items).is_err() && verify(Vec::new()).is_err());
    }
}
