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
use downbeat_world::memo::{Fingerprint, Generations};
use tendermint::{block::signed_header::SignedHeader, validator};

/// Checked blocks, and blobs, of which the results are kept at least; twice as many at most.
const BLOCKS_KEPT: usize = 16_384;
const BLOBS_KEPT: usize = 8_192;

/// Headers with the same hash that are kept: forgeries beside the genuine one.
const ALIKE_MAX: usize = 8;

type Kept<T> = Mutex<Generations<Fingerprint, Arc<T>>>;

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
        Self {
            soft_blocks: Mutex::new(Generations::new(BLOCKS_KEPT)),
            headers: Mutex::new(Generations::new(BLOCKS_KEPT)),
            metadata: Mutex::new(Generations::new(BLOBS_KEPT)),
            rollup_data: Mutex::new(Generations::new(BLOBS_KEPT)),
        }
    }
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

/// Stands for the planted bug, the relevant limits and these parts.
fn key(limits: &Limits, parts: &[&[u8]]) -> Fingerprint {
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
    let numbers = numbers.map(usize::to_be_bytes);
    let planted = planted();
    Fingerprint::of([numbers.as_flattened(), planted.as_bytes()].into_iter().chain(parts.iter().copied()))
}

/// What is kept under `key`, or what `make` gives.
fn or_make<T>(kept: &Kept<T>, key: Fingerprint, make: impl FnOnce() -> T) -> Arc<T> {
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
        let ids: Vec<u8> = rollup_ids.iter().flat_map(|id| id.0).collect();
        let key = key(&limits, &[block, &height, chain_id.as_bytes(), &ids]);
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
        let key = key(&limits, &[named.as_bytes(), &height.0.to_be_bytes(), chain_id.as_bytes()]);
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
        let key = key(&limits, &[blob]);
        Result::clone(&or_make(&self.metadata, key, || Afresh.metadata(blob, &limits)))
    }

    fn rollup_data(
        &self,
        blob: &Bytes,
        wanted: &[RollupId],
        limits: &Limits,
    ) -> Result<DecodedList<RollupRecord>, BlobError> {
        let limits = relevant(limits);
        let key = key(&limits, &[blob, &wanted.iter().flat_map(|id| id.0).collect::<Vec<u8>>()]);
        Result::clone(&or_make(&self.rollup_data, key, || Afresh.rollup_data(blob, wanted, &limits)))
    }
}

#[cfg(test)]
mod tests {
    use downbeat_core::{Command, Conductor, Refusal, Stamped};

    use super::*;
    use crate::{Scenario, Simulation, queue::Observer};

    /// Does every job of a run afresh and from memory.
    struct Both;

    impl Observer for Both {
        fn step(&mut self, _: &Stamped, _: &Result<(), Refusal>, commands: &[Command], _: &Conductor) {
            for command in commands {
                let Command::Verify { job, .. } = command else { continue };
                let afresh = format!("{:?}", job.clone().run());
                for time in ["first", "second"] {
                    let remembered = format!("{:?}", job.clone().run_with(remembered()));
                    assert_eq!(remembered, afresh, "the {time} time");
                }
            }
        }
    }

    #[test]
    fn jobs_give_the_same_afresh_and_from_memory() {
        // Tiny limits, forgeries and strangers are among these.
        for seed in 0..12 {
            let scenario = Scenario { faulty_for_s: 6, blocks: 8, ..Scenario::swarm(seed) };
            let run = Simulation::observed(scenario, Some(Box::new(Both))).finish();
            assert_eq!(run, Ok(()), "seed {seed}");
        }
    }
}
