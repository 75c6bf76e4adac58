//! Celestia: blobs in namespaces, block by block, under real headers and commitments.
//!
//! The headers' data root is always that of the empty square: the model does not lay blobs out in a square, and nothing
//! that reads blobs by namespace can tell.

use std::{collections::VecDeque, sync::OnceLock, time::Duration};

use bytes::Bytes;
use celestia_types::{Commitment, DataAvailabilityHeader, ExtendedDataSquare, consts::appconsts};
use downbeat_core::{CelestiaHeight, Timestamp, celestia::Namespace, merkle::Hash};
use tendermint::{block::signed_header::SignedHeader, chain};

use crate::{
    cometbft::{self, Proposal, Vote},
    validators::{Keyring, ValidatorSet},
};

/// What a chain is from its genesis on.
#[derive(Clone, Debug)]
pub struct CelestiaConfig {
    /// 1 to 50 characters.
    pub chain_id: String,
    pub seed: u64,
    pub initial_height: CelestiaHeight,
    /// Whether headers are signed. Where nobody looks at signatures they only take time.
    pub signs: bool,
}

impl Default for CelestiaConfig {
    fn default() -> Self {
        Self { chain_id: "downbeat-celestia".to_owned(), seed: 0, initial_height: CelestiaHeight(1), signs: true }
    }
}

/// A blob in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostedBlob {
    pub namespace: Namespace,
    pub data: Bytes,
    commitment: OnceLock<Hash>,
    /// Index of the first share.
    pub index: u64,
}

impl PostedBlob {
    /// Share commitment, for share version 0; computed when it is first asked for.
    pub fn commitment(&self) -> Hash {
        // A blob that was posted has data, and therefore a commitment.
        *self.commitment.get_or_init(|| share_commitment(&self.namespace, &self.data).unwrap_or_default())
    }
}

/// One block.
#[derive(Clone, Debug)]
pub struct Block {
    pub signed_header: SignedHeader,
    /// By namespace, then in the order of submission.
    blobs: Vec<PostedBlob>,
    time: Timestamp,
}

impl Block {
    pub fn time(&self) -> Timestamp {
        self.time
    }

    pub fn blobs(&self) -> &[PostedBlob] {
        &self.blobs
    }
}

/// Why a blob cannot be posted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no share commitment for a blob of {size} bytes in namespace {namespace}: {reason}")]
pub struct NotPostable {
    pub namespace: Namespace,
    pub size: usize,
    pub reason: String,
}

/// A Celestia chain. Anyone may post anything in any namespace.
#[derive(Debug)]
pub struct CelestiaChain {
    chain_id: chain::Id,
    keyring: Keyring,
    validators: ValidatorSet,
    blocks: VecDeque<Block>,
    next_height: u64,
    last: Option<SignedHeader>,
    pending: Vec<PostedBlob>,
    signs: bool,
}

impl CelestiaChain {
    /// # Panics
    /// If the chain id does not have 1 to 50 characters.
    pub fn new(config: &CelestiaConfig) -> Self {
        let mut keyring = Keyring::new(config.seed ^ 0xce1e_571a);
        Self {
            chain_id: cometbft::chain_id(&config.chain_id),
            validators: ValidatorSet::genesis(&mut keyring, &[(0, 5_000)]),
            keyring,
            blocks: VecDeque::new(),
            next_height: config.initial_height.0.max(1),
            last: None,
            pending: Vec::new(),
            signs: config.signs,
        }
    }

    pub fn chain_id(&self) -> &str {
        self.chain_id.as_str()
    }

    /// Height of the newest block; one below the initial height while there is none.
    pub fn head(&self) -> CelestiaHeight {
        CelestiaHeight(self.next_height - 1)
    }

    /// Height of the oldest block that is kept; above the head if none is.
    pub fn tail(&self) -> CelestiaHeight {
        CelestiaHeight(self.next_height - self.blocks.len() as u64)
    }

    /// The one validator that signs every header.
    pub fn validators(&self) -> &ValidatorSet {
        &self.validators
    }

    /// Posts a blob into the next block.
    pub fn submit(&mut self, namespace: Namespace, data: Bytes) -> Result<(), NotPostable> {
        if data.is_empty() {
            let reason = "it has no data".to_owned();
            return Err(NotPostable { namespace, size: 0, reason });
        }
        self.pending.push(PostedBlob { namespace, data, commitment: OnceLock::new(), index: 0 });
        Ok(())
    }

    /// Appends a block with everything submitted since the last one.
    pub fn make_block(&mut self, time: Timestamp) -> CelestiaHeight {
        let header = Proposal {
            chain_id: &self.chain_id,
            app_version: 4,
            height: self.next_height,
            time,
            last: self.last.as_ref(),
            data_hash: empty_square().1,
            last_results: 0,
            validators: &self.validators,
            next_validators: &self.validators,
        }
        .header();
        let voted_at = time.after(Duration::from_secs(1));
        let vote = if self.signs { Vote::Commit } else { Vote::Absent };
        let commit = cometbft::commit(&header, 0, &self.validators, &mut self.keyring, |_| (vote, voted_at));
        let signed_header = SignedHeader::new(header, commit).expect("header and commit have one height");
        let mut blobs = std::mem::take(&mut self.pending);
        blobs.sort_by_key(|blob| blob.namespace);
        // The first share holds the transactions that pay for the blobs.
        let mut index = 1;
        for blob in &mut blobs {
            blob.index = index;
            index += share_count(blob.data.len());
        }
        self.last = Some(signed_header.clone());
        self.blocks.push_back(Block { signed_header, blobs, time });
        self.next_height += 1;
        self.head()
    }

    /// Forgets all but the newest `keep` blocks.
    pub fn prune(&mut self, keep: usize) {
        self.blocks.drain(..self.blocks.len().saturating_sub(keep));
    }

    /// Nothing for heights above the head and for those that were pruned.
    pub fn block(&self, height: CelestiaHeight) -> Option<&Block> {
        let index = height.0.checked_sub(self.tail().0)?;
        self.blocks.get(usize::try_from(index).ok()?)
    }

    /// Blobs of a height in the given namespaces, namespace by namespace in the order asked for.
    pub fn blobs<'a>(
        &'a self,
        height: CelestiaHeight,
        namespaces: &'a [Namespace],
    ) -> Option<impl Iterator<Item = &'a PostedBlob>> {
        let block = self.block(height)?;
        Some(
            namespaces.iter().flat_map(|namespace| block.blobs.iter().filter(move |blob| blob.namespace == *namespace)),
        )
    }
}

/// Shares that a blob of share version 0 takes up.
fn share_count(length: usize) -> u64 {
    let rest = length.saturating_sub(appconsts::FIRST_SPARSE_SHARE_CONTENT_SIZE);
    1 + rest.div_ceil(appconsts::CONTINUATION_SPARSE_SHARE_CONTENT_SIZE) as u64
}

/// Celestia's commitment to a blob of share version 0.
pub fn share_commitment(namespace: &Namespace, data: &[u8]) -> Result<Hash, NotPostable> {
    let refused = |error: celestia_types::Error| NotPostable {
        namespace: *namespace,
        size: data.len(),
        reason: error.to_string(),
    };
    let raw = celestia_types::nmt::Namespace::from_raw(namespace.as_bytes()).map_err(refused)?;
    Commitment::from_blob(raw, data, appconsts::SHARE_VERSION_ZERO, None).map(Into::into).map_err(refused)
}

/// Data availability header of a block without data, and its hash.
pub fn empty_square() -> &'static (DataAvailabilityHeader, Hash) {
    static EMPTY: OnceLock<(DataAvailabilityHeader, Hash)> = OnceLock::new();
    EMPTY.get_or_init(|| {
        let header = DataAvailabilityHeader::from_eds(&ExtendedDataSquare::empty());
        let hash = <[u8; 32]>::try_from(header.hash().as_bytes()).unwrap_or_default();
        (header, hash)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(byte: u8) -> Namespace {
        Namespace::of_rollup(&downbeat_core::RollupId([byte; 32]))
    }

    #[test]
    fn a_commitment_is_the_one_that_celestia_computes() {
        let commitment = share_commitment(&namespace(1), &vec![0xab; 70_000]).expect("a commitment");
        assert_eq!(hex::encode(commitment), "23f383cf8fb3d8dd9cc8a81aff95d51d1e8363981fc76b163882d39eb756de0c");
    }

    #[test]
    fn blobs_come_by_namespace_in_the_order_asked_for() {
        let mut chain = CelestiaChain::new(&CelestiaConfig::default());
        for (byte, data) in [(2, "b"), (1, "a"), (2, "c"), (3, "d")] {
            chain.submit(namespace(byte), Bytes::from(data)).expect("postable");
        }
        let height = chain.make_block(Timestamp(5));
        let asked = [namespace(3), namespace(2)];
        let found: Vec<_> = chain.blobs(height, &asked).expect("a block").map(|blob| blob.data.clone()).collect();
        assert_eq!(found, ["d", "b", "c"]);
        let indexes: Vec<_> = chain.block(height).expect("a block").blobs().iter().map(|blob| blob.index).collect();
        assert_eq!(indexes, [1, 2, 3, 4]);
        assert!(chain.blobs(height.next(), &asked).is_none());
    }
}
