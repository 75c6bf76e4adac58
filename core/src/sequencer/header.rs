//! CometBFT headers: their hash, and those that are trusted.

use std::{collections::BTreeMap, sync::Arc};

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
    /// Shared, for many hold it.
    header: Arc<Header>,
}

impl TrustedHeader {
    /// `hash` is that of `header`: the caller has compared it with what is trusted.
    pub(crate) fn new(hash: BlockHash, header: Header) -> Self {
        Self { height: SequencerHeight(header.height.value()), hash, header: Arc::new(header) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CHAIN, Made, block, block_after};

    /// Blocks 5 to 8.
    fn chain() -> Vec<Made> {
        let mut chain = vec![block(5, &[])];
        for _ in 0..3 {
            chain.push(block_after(&chain[chain.len() - 1], &[]));
        }
        chain
    }

    fn headers(chain: &[Made]) -> Vec<Header> {
        chain.iter().map(|made| made.signed.header.clone()).collect()
    }

    #[test]
    fn headers_that_lead_down_from_a_trusted_one_are_trusted_from_the_first_that_was_asked_for() {
        let chain = chain();
        let anchor = chain[3].trusted();
        let linked = |first, headers| verify_links(&anchor, SequencerHeight(first), headers);
        let mut shuffled = headers(&chain[..3]);
        shuffled.reverse();
        let all = linked(5, shuffled).expect("a chain");
        assert_eq!(all, [0, 1, 2].map(|index| chain[index].trusted()));
        assert_eq!(all[0].chain_id(), CHAIN);
        assert_eq!(linked(7, headers(&chain)).expect("a chain").len(), 1, "no more than that");
        assert!(linked(8, headers(&chain)).expect("nothing to do").is_empty());
        assert_eq!(linked(5, headers(&chain[1..])), Err(LinkError::Missing(SequencerHeight(5))));
    }

    #[test]
    fn a_header_that_its_successor_does_not_name_breaks_the_links_below() {
        let chain = chain();
        let mut altered = headers(&chain[..3]);
        altered[1].app_hash = vec![1].try_into().expect("any bytes");
        let Err(LinkError::OtherHash { height, actual, .. }) =
            verify_links(&chain[3].trusted(), SequencerHeight(5), altered)
        else {
            panic!("an altered header was trusted")
        };
        assert_eq!(height, SequencerHeight(6));
        assert_ne!(actual, chain[1].trusted().hash());
        // The first block names no other one.
        let first = block(5, &[]);
        assert!(verify_links(&first.trusted(), SequencerHeight(4), headers(&[block(4, &[])])).is_err());
    }

    #[test]
    fn there_is_no_header_of_height_0() {
        let anchor = block(1, &[]).trusted();
        assert_eq!(verify_links(&anchor, SequencerHeight(0), Vec::new()), Ok(Vec::new()));
    }
}
