//! What equal worlds have made before. A simulator runs thousands of worlds with a few seeds: to sign and compress the same
//! things again takes most of its time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    celestia::{PostedBlob, square_of},
    random::Random,
    relayer::compress,
    sequencer::Made,
    square::Square,
};

/// Everything that a block of the sequencer chain depends on, as a digest.
pub(crate) type History = [u8; 32];

/// Most blocks and blobs that are remembered; beyond that everything is made afresh.
const BLOCKS_MAX: usize = 20_000;
const BLOBS_MAX: usize = 50_000;
const SQUARES_MAX: usize = 2_000;
/// Rows of the largest square that is remembered.
const SQUARE_WIDTH_MAX: usize = 16;

/// Shared by worlds. Results are the same with and without one.
#[derive(Debug, Default)]
pub struct Memo(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    blocks: BTreeMap<History, (Made, Random)>,
    blobs: BTreeMap<[u8; 32], Bytes>,
    squares: BTreeMap<[u8; 32], Arc<Square>>,
}

impl Memo {
    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block that follows a history, with the chain and the contents' randomness after it.
    pub(crate) fn block(&self, history: &History) -> Option<(Made, Random)> {
        self.remembered().blocks.get(history).cloned()
    }

    pub(crate) fn keep_block(&self, history: History, made: Made, random: Random) {
        let blocks = &mut self.remembered().blocks;
        if blocks.len() < BLOCKS_MAX {
            blocks.insert(history, (made, random));
        }
    }

    /// See [`compress`].
    pub(crate) fn compressed(&self, data: &[u8]) -> Bytes {
        let key = Sha256::digest(data).into();
        if let Some(blob) = self.remembered().blobs.get(&key) {
            return blob.clone();
        }
        let blob = compress(data);
        let blobs = &mut self.remembered().blobs;
        if blobs.len() < BLOBS_MAX {
            blobs.insert(key, blob.clone());
        }
        blob
    }

    /// The square of a block that holds `blobs`.
    pub(crate) fn square(&self, blobs: &[PostedBlob]) -> Arc<Square> {
        let mut key = Sha256::new();
        for blob in blobs {
            key.update(blob.namespace.as_bytes());
            key.update(blob.data.len().to_be_bytes());
            key.update(&blob.data);
        }
        let key = key.finalize().into();
        if let Some(square) = self.remembered().squares.get(&key) {
            return Arc::clone(square);
        }
        let square = Arc::new(square_of(blobs));
        let squares = &mut self.remembered().squares;
        if squares.len() < SQUARES_MAX && square.header().width() <= SQUARE_WIDTH_MAX {
            squares.insert(key, Arc::clone(&square));
        }
        square
    }
}

/// A history after one more thing has happened.
pub(crate) fn after(history: &History, what: &[u8]) -> History {
    Sha256::new().chain_update(history).chain_update(what).finalize().into()
}
