//! A sequencer block as one rollup sees it.

use sha2::{Digest as _, Sha256};

use crate::{
    ids::{BlockHash, SequencerHeight},
    merkle::Hash,
    wire::proto::astria::sequencerblock::v1::RollupData,
};
use prost::Message as _;

/// What one rollup has to execute for one sequencer height. Proven when wrapped in [`Verified`](crate::Verified).
#[derive(Clone, Debug, PartialEq)]
pub struct SequencedBlock {
    pub(crate) height: SequencerHeight,
    pub(crate) block_hash: BlockHash,
    pub(crate) time: prost_types::Timestamp,
    pub(crate) transactions: Vec<RollupData>,
    pub(crate) content: ContentHash,
    pub(crate) size: usize,
}

/// Commits to a block's time and elements; equal for soft and firm versions of the same block (S9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHash(pub Hash);

impl SequencedBlock {
    /// `transactions_root` is the root over the encoded elements; `price_feed` the element that goes first, if any.
    pub(crate) fn new(
        height: SequencerHeight,
        block_hash: BlockHash,
        time: prost_types::Timestamp,
        transactions_root: Hash,
        price_feed: Option<RollupData>,
        elements: Vec<RollupData>,
    ) -> Self {
        let mut content = Sha256::new();
        content.update(time.seconds.to_be_bytes());
        content.update(time.nanos.to_be_bytes());
        content.update(transactions_root);
        let mut transactions = elements;
        if let Some(price_feed) = price_feed {
            content.update(price_feed.encode_to_vec());
            transactions.insert(0, price_feed);
        }
        let size = transactions.iter().map(prost::Message::encoded_len).sum();
        Self { height, block_hash, time, transactions, content: ContentHash(content.finalize().into()), size }
    }

    pub fn height(&self) -> SequencerHeight {
        self.height
    }

    pub fn block_hash(&self) -> BlockHash {
        self.block_hash
    }

    /// Time of the sequencer block's header.
    pub fn time(&self) -> prost_types::Timestamp {
        self.time
    }

    /// The elements in execution order, price feed first.
    pub fn transactions(&self) -> &[RollupData] {
        &self.transactions
    }

    pub fn content(&self) -> ContentHash {
        self.content
    }

    /// Encoded size of all elements, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }
}
