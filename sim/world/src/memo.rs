//! What equal worlds have made before. A simulator runs thousands of worlds with a few seeds: to sign and compress the same
//! things again takes most of its time.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, Hasher as _},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use downbeat_core::celestia::Namespace;
use foldhash::{fast, quality::FixedState};
use sha2::{Digest as _, Sha256};

use crate::{
    random::Random,
    relayer::Submission,
    sequencer::Made,
    square::{Parity, Square},
};

/// Everything that a block of the sequencer chain depends on, as a digest.
pub(crate) type History = [u8; 32];

/// Blocks, and blobs posted together, that are remembered at least, and twice as many at most.
const BLOCKS: usize = 16_384;
const SUBMISSIONS: usize = 8_192;
const SQUARES: usize = 2_048;
/// Rows of the largest square that is remembered.
const SQUARE_WIDTH_MAX: usize = 16;

/// Shared by worlds. Results are the same with and without one.
#[derive(Debug)]
pub struct Memo {
    blocks: Mutex<Generations<History, Arc<(Made, Random)>>>,
    submissions: Mutex<Generations<Fingerprint, Arc<Submission>>>,
    squares: Mutex<Generations<Fingerprint, Arc<Square>>>,
}

impl Default for Memo {
    fn default() -> Self {
        Self {
            blocks: Mutex::new(Generations::new(BLOCKS)),
            submissions: Mutex::new(Generations::new(SUBMISSIONS)),
            squares: Mutex::new(Generations::new(SQUARES)),
        }
    }
}

impl Memo {
    /// The block that follows a history, with the chain and the contents' randomness after it.
    pub(crate) fn block(&self, history: &History) -> Option<Arc<(Made, Random)>> {
        lock(&self.blocks).get(history)
    }

    pub(crate) fn keep_block(&self, history: History, made: Made, random: Random) {
        lock(&self.blocks).insert(history, Arc::new((made, random)));
    }

    /// The blobs that a relayer makes of blocks, which `key` stands for.
    pub(crate) fn submission(&self, key: Fingerprint, make: impl FnOnce() -> Submission) -> Arc<Submission> {
        if let Some(known) = lock(&self.submissions).get(&key) {
            return known;
        }
        let made = Arc::new(make());
        lock(&self.submissions).insert(key, Arc::clone(&made));
        made
    }

    /// The square of a block that holds blobs, which come by namespace.
    pub(crate) fn square<'a>(
        &self,
        blobs: impl Iterator<Item = (&'a Namespace, &'a [u8])> + Clone,
        parity: Parity,
    ) -> Arc<Square> {
        let parts = blobs.clone().flat_map(|(namespace, data)| [&namespace.as_bytes()[..], data]);
        let key = Fingerprint::of([&[u8::from(parity == Parity::Coded)][..]].into_iter().chain(parts));
        if let Some(square) = lock(&self.squares).get(&key) {
            return square;
        }
        let square = Arc::new(Square::of_blobs(blobs, parity));
        if square.header().width() <= SQUARE_WIDTH_MAX {
            lock(&self.squares).insert(key, Arc::clone(&square));
        }
        square
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stands for bytes in memos. Not for enemies: nobody looks for two inputs with the same one, and by chance there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u64; 2]);

impl Fingerprint {
    /// Of several parts, each with its length.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hashers = [1, 2].map(|seed| FixedState::with_seed(seed).build_hasher());
        for part in parts {
            for hasher in &mut hashers {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
        }
        Self(hashers.map(|hasher| hasher.finish()))
    }
}

/// Nobody goes through it, so that its order does not matter.
type Map<K, V> = HashMap<K, V, fast::FixedState>;

/// A bounded map that forgets what was not asked for: when the newer generation is full, the older one goes.
#[derive(Debug)]
pub struct Generations<K, V> {
    size: usize,
    newer: Map<K, V>,
    older: Map<K, V>,
}

impl<K, V> Generations<K, V> {
    /// Keeps the `size` entries that were used last, and at most twice as many.
    pub const fn new(size: usize) -> Self {
        const HASHER: fast::FixedState = fast::FixedState::with_seed(0);
        Self { size, newer: HashMap::with_hasher(HASHER), older: HashMap::with_hasher(HASHER) }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Generations<K, V> {
    /// What is kept under `key`; it counts as used.
    pub fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.newer.get(key) {
            return Some(value.clone());
        }
        let value = self.older.remove(key)?;
        self.insert(key.clone(), value.clone());
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.newer.len() >= self.size {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(key, value);
    }
}

/// A history after one more thing has happened.
pub(crate) fn after(history: &History, what: &[u8]) -> History {
    Sha256::new().chain_update(history).chain_update(what).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut kept = Generations::new(4);
        for number in 0..100 {
            kept.insert(number, number);
            assert_eq!(kept.get(&0), Some(0), "used all the time");
            assert!(kept.newer.len() + kept.older.len() <= 8, "bounded");
        }
        assert_eq!((kept.get(&99), kept.get(&50)), (Some(99), None));
    }
}
