//! What the steps of verification gave before. Runs share their worlds: thousands of them unpack the same blobs and check
//! the same signatures. A result depends on nothing but what it is kept under, so runs are the same with and without.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use downbeat_core::{
    Limits, RollupId, SequencerHeight,
    celestia::{BlobError, DecodedList},
    job::{Afresh, HeaderRefusal, SignedBy, Steps, Validators},
    sequencer::{RollupRecord, SoftBlock, SoftBlockRequest, UnverifiedMetadata},
};
use downbeat_world::memo::Generations;
use sha2::{Digest as _, Sha256};
use tendermint::{block::signed_header::SignedHeader, validator};

/// Results of each kind that are kept at least, and twice as many at most.
const KEPT: usize = 4_096;

/// Headers with the same hash that are kept: forgeries beside the genuine one.
const ALIKE_MAX: usize = 8;

type Key = [u8; 32];
type Kept<T> = Mutex<Generations<Key, Arc<T>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Remembered {
    soft_blocks: Kept<Result<SoftBlock, String>>,
    headers: Kept<Vec<HeaderCheck>>,
    metadata: Kept<Result<DecodedList<UnverifiedMetadata>, BlobError>>,
    rollup_data: Kept<Result<DecodedList<RollupRecord>, BlobError>>,
}

/// A header that was checked, all of the input, and what came of it.
#[derive(Clone, Debug)]
struct HeaderCheck {
    signed_header: Box<SignedHeader>,
    validators: Signers,
    result: Result<Box<SignedBy>, HeaderRefusal>,
}

#[derive(Clone, Debug, PartialEq)]
enum Signers {
    /// By the hash of the set, which covers all keys and powers.
    Known([u8; 32]),
    Fetched(Vec<validator::Info>),
}

impl Default for Remembered {
    fn default() -> Self {
        Self { soft_blocks: kept(), headers: kept(), metadata: kept(), rollup_data: kept() }
    }
}

fn kept<T>() -> Kept<T> {
    Mutex::new(Generations::new(KEPT))
}

/// Shared by all runs of the process.
pub(crate) fn remembered() -> &'static Remembered {
    static REMEMBERED: OnceLock<Remembered> = OnceLock::new();
    REMEMBERED.get_or_init(Remembered::default)
}

/// The bug that is planted in the core: with it, steps give something else.
#[cfg(feature = "canaries")]
fn planted() -> String {
    format!("{:?}", downbeat_core::canary::planted())
}

#[cfg(not(feature = "canaries"))]
fn planted() -> &'static str {
    ""
}

/// The limits that steps look at. They get no others, so that nothing else can matter.
fn relevant(limits: &Limits) -> Limits {
    Limits {
        validators: limits.validators,
        blob_bytes: limits.blob_bytes,
        blob_unpacked_bytes: limits.blob_unpacked_bytes,
        blob_ratio: limits.blob_ratio,
        blob_ratio_floor_bytes: limits.blob_ratio_floor_bytes,
        list_entries: limits.list_entries,
        transactions: limits.transactions,
        soft_block_bytes: limits.soft_block_bytes,
        ..Limits::default()
    }
}

/// Digest of the planted bug, the relevant limits and these parts.
fn key<'a>(limits: &Limits, parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
    let mut digest = Sha256::new();
    let numbers = [
        limits.validators,
        limits.blob_bytes,
        limits.blob_unpacked_bytes,
        limits.blob_ratio,
        limits.blob_ratio_floor_bytes,
        limits.list_entries,
        limits.transactions,
        limits.soft_block_bytes,
    ];
    let mut words = [[0; 8]; 8];
    for (word, number) in words.iter_mut().zip(numbers) {
        *word = (number as u64).to_be_bytes();
    }
    digest.update(words.as_flattened());
    digest.update(planted());
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// What is kept under `key`, or what `make` gives.
fn or_make<T>(kept: &Kept<T>, key: Key, make: impl FnOnce() -> T) -> Arc<T> {
    let get = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = get().get(&key) {
        return known;
    }
    // Not under the lock: another thread may make the same meanwhile, and no harm is done.
    let made = Arc::new(make());
    get().insert(key, Arc::clone(&made));
    made
}

impl Steps for Remembered {
    fn soft_block(&self, block: &Bytes, request: &SoftBlockRequest, limits: &Limits) -> Result<SoftBlock, String> {
        let limits = relevant(limits);
        let SoftBlockRequest { height, chain_id, rollup_ids } = request;
        let height = height.0.to_be_bytes();
        let ids = rollup_ids.iter().map(|id| id.0.as_slice());
        let key = key(&limits, [&**block, &height, chain_id.as_bytes()].into_iter().chain(ids));
        let result = or_make(&self.soft_blocks, key, || Afresh.soft_block(block, request, &limits));
        Result::clone(&result)
    }

    fn header(
        &self,
        height: SequencerHeight,
        chain_id: &str,
        signed_header: Box<SignedHeader>,
        validators: Validators,
        limits: &Limits,
    ) -> Result<Box<SignedBy>, HeaderRefusal> {
        let limits = relevant(limits);
        let signers = match &validators {
            Validators::Known(set) => Signers::Known(set.hash()),
            Validators::Fetched(infos) => Signers::Fetched(infos.clone()),
        };
        let named = signed_header.commit.block_id.hash;
        let key = key(&limits, [named.as_bytes(), &height.0.to_be_bytes(), chain_id.as_bytes()]);
        let get = || self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        let alike = get().get(&key).unwrap_or_default();
        let is_same = |check: &&HeaderCheck| check.validators == signers && check.signed_header == signed_header;
        if let Some(check) = alike.iter().find(is_same) {
            return check.result.clone();
        }
        let result = Afresh.header(height, chain_id, signed_header.clone(), validators, &limits);
        if alike.len() < ALIKE_MAX {
            let check = HeaderCheck { signed_header, validators: signers, result: result.clone() };
            get().insert(key, Arc::new(alike.iter().cloned().chain([check]).collect()));
        }
        result
    }

    fn metadata(&self, blob: &Bytes, limits: &Limits) -> Result<DecodedList<UnverifiedMetadata>, BlobError> {
        let limits = relevant(limits);
        let key = key(&limits, [&**blob]);
        Result::clone(&or_make(&self.metadata, key, || Afresh.metadata(blob, &limits)))
    }

    fn rollup_data(
        &self,
        blob: &Bytes,
        wanted: &[RollupId],
        limits: &Limits,
    ) -> Result<DecodedList<RollupRecord>, BlobError> {
        let limits = relevant(limits);
        let key = key(&limits, [&**blob].into_iter().chain(wanted.iter().map(|id| id.0.as_slice())));
        Result::clone(&or_make(&self.rollup_data, key, || Afresh.rollup_data(blob, wanted, &limits)))
    }
}
