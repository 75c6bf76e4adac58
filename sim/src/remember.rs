//! What the steps of verification gave before. Runs share their worlds: thousands of them unpack the same blobs and check
//! the same signatures. A result depends on nothing but what it is kept under, so runs are the same with and without.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use downbeat_core::{
    Limits, RollupId,
    celestia::{BlobError, DecodedList},
    job::{Afresh, Steps},
    sequencer::{
        CommitError, Committed, RollupRecord, SoftBlock, SoftBlockRequest, UnverifiedMetadata, ValidatorSet,
        ValidatorsError,
    },
};
use downbeat_world::memo::{Fingerprint, Generations};
use tendermint::{block::signed_header::SignedHeader, validator};

/// Checked blocks, and blobs, of which the results are kept at least; twice as many at most.
const BLOCKS_KEPT: usize = 16_384;
const BLOBS_KEPT: usize = 8_192;
const SETS_KEPT: usize = 4_096;

/// Headers with the same hash that are kept: forgeries beside the genuine one.
const ALIKE_MAX: usize = 8;

type Kept<T> = Mutex<Generations<Fingerprint, Arc<T>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Remembered {
    soft_blocks: Kept<Result<SoftBlock, String>>,
    commits: Kept<Vec<CommitCheck>>,
    validator_sets: Kept<Result<Arc<ValidatorSet>, ValidatorsError>>,
    metadata: Kept<Result<DecodedList<UnverifiedMetadata>, BlobError>>,
    rollup_data: Kept<Result<DecodedList<RollupRecord>, BlobError>>,
}

/// A commit that was checked, with its header, and what came of it.
#[derive(Clone, Debug)]
struct CommitCheck {
    signed_header: SignedHeader,
    result: Result<Committed, CommitError>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self {
            soft_blocks: Mutex::new(Generations::new(BLOCKS_KEPT)),
            commits: Mutex::new(Generations::new(BLOCKS_KEPT)),
            validator_sets: Mutex::new(Generations::new(SETS_KEPT)),
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

    fn validator_set(&self, infos: Vec<validator::Info>, max: usize) -> Result<Arc<ValidatorSet>, ValidatorsError> {
        // Key and power of each validator: nothing else is looked at.
        let members: Vec<Vec<u8>> = infos.iter().map(validator::Info::hash_bytes).collect();
        let parts = [planted().as_bytes().to_vec(), max.to_be_bytes().to_vec()].into_iter().chain(members);
        let parts: Vec<Vec<u8>> = parts.collect();
        let key = Fingerprint::of(parts.iter().map(Vec::as_slice));
        Result::clone(&or_make(&self.validator_sets, key, || Afresh.validator_set(infos, max)))
    }

    fn commit(
        &self,
        signed: &SignedHeader,
        validators: &ValidatorSet,
        chain_id: &str,
        height: u64,
    ) -> Result<Committed, CommitError> {
        let named = signed.commit.block_id.hash;
        let planted = planted();
        let parts =
            [planted.as_bytes(), named.as_bytes(), &height.to_be_bytes(), &validators.hash(), chain_id.as_bytes()];
        let key = Fingerprint::of(parts);
        let get = || self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let alike = get().get(&key).unwrap_or_default();
        if let Some(check) = alike.iter().find(|check| check.signed_header == *signed) {
            return check.result.clone();
        }
        let result = Afresh.commit(signed, validators, chain_id, height);
        if alike.len() < ALIKE_MAX {
            let check = CommitCheck { signed_header: signed.clone(), result: result.clone() };
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
