//! CometBFT headers: their hash, and those that are trusted.

use std::collections::BTreeMap;

use tendermint::block::Header;

use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, SequencerHeight},
    merkle,
    sequencer::encode,
    verified::Verified,
};

/// A header of the sequencer chain that its validators committed to. Proven when wrapped in
/// [`Verified`](crate::Verified).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedHeader {
    height: SequencerHeight,
    hash: BlockHash,
    header: Header,
}

impl TrustedHeader {
    /// `hash` is that of `header`: the caller has compared it with what is trusted.
    pub(super) fn new(hash: BlockHash, header: Header) -> Self {
        Self { height: SequencerHeight(header.height.value()), hash, header }
    }

    pub fn height(&self) -> SequencerHeight {
        self.height
    }

    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn chain_id(&self) -> &str {
        self.header.chain_id.as_str()
    }
}

/// Why headers are not those below a trusted one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("there is no header of height {0}")]
    Missing(SequencerHeight),
    #[error("the header of height {height} hashes to {actual}, its successor names {expected}")]
    OtherHash { height: SequencerHeight, expected: String, actual: BlockHash },
}

/// Follows the hash links (`last_block_id`) from a trusted header down to `first`: each header that hashes to what its
/// successor names was committed as well. Returns the headers from `first` to the one below `anchor`.
pub fn verify_links(
    anchor: &Verified<TrustedHeader>,
    first: SequencerHeight,
    headers: Vec<Header>,
) -> Result<Vec<Verified<TrustedHeader>>, LinkError> {
    let mut by_height: BTreeMap<SequencerHeight, Header> =
        headers.into_iter().map(|header| (SequencerHeight(header.height.value()), header)).collect();
    let mut linked = Vec::new();
    let mut named = anchor.header.last_block_id;
    let mut height = anchor.height.minus(1);
    while height >= first && height.0 > 0 {
        let header = by_height.remove(&height).ok_or(LinkError::Missing(height))?;
        let (expected, actual) = (named.unwrap_or_default().hash, header_hash(&header));
        if expected.as_bytes() != actual.0 && !canary(Canary::LinksNotFollowed) {
            return Err(LinkError::OtherHash { height, expected: expected.to_string(), actual });
        }
        named = header.last_block_id;
        linked.push(Verified::new(TrustedHeader::new(actual, header)));
        height = height.minus(1);
    }
    linked.reverse();
    Ok(linked)
}

/// CometBFT's block hash: the root over the encoded fields of the header. A field that is not there is an empty leaf,
/// and an absent last block id that of an empty message.
pub fn header_hash(header: &Header) -> BlockHash {
    let mut version = Vec::new();
    encode::varint(&mut version, 1, header.version.block);
    encode::varint(&mut version, 2, header.version.app);
    let mut height = Vec::new();
    encode::varint(&mut height, 1, header.height.value());
    let bytes = |value: &[u8]| {
        let mut out = Vec::with_capacity(value.len() + 2);
        encode::bytes(&mut out, 1, value);
        out
    };
    BlockHash(merkle::root_of([
        version,
        bytes(header.chain_id.as_bytes()),
        height,
        encode::time(header.time),
        encode::block_id(&header.last_block_id.unwrap_or_default()),
        bytes(header.last_commit_hash.unwrap_or_default().as_bytes()),
        bytes(header.data_hash.unwrap_or_default().as_bytes()),
        bytes(header.validators_hash.as_bytes()),
        bytes(header.next_validators_hash.as_bytes()),
        bytes(header.consensus_hash.as_bytes()),
        bytes(header.app_hash.as_bytes()),
        bytes(header.last_results_hash.unwrap_or_default().as_bytes()),
        bytes(header.evidence_hash.unwrap_or_default().as_bytes()),
        bytes(header.proposer_address.as_bytes()),
    ]))
}
