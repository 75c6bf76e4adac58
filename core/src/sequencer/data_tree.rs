//! The sequencer's own header of a block and the data that its data hash covers (reference §1.4, §2.4 to §2.6).
//!
//! Metadata and filtered blocks share this part. What is in here is consistent in itself once [`DataTree::verify`] says
//! so; whether it is the block that the sequencer's validators committed to is decided elsewhere.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    ids::{RollupId, SequencerHeight},
    limits::Limits,
    merkle::{self, Hash, Proof, ProofError},
    sequencer::price_feed,
    wire::{
        field::{self, FieldError},
        proto::astria::{
            primitive::v1 as primitive,
            sequencerblock::v1::{ExtendedCommitInfoWithProof, SequencerBlockHeader},
        },
    },
};

/// Seconds from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z, as Unix time.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Header of a sequencer block as the sequencer publishes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockHeader {
    pub(crate) chain_id: String,
    pub(crate) height: SequencerHeight,
    pub(crate) time: prost_types::Timestamp,
    /// Root of the sequencer's data tree, which is CometBFT's only in blocks of the older format.
    pub(crate) data_hash: Hash,
    pub(crate) proposer: [u8; 20],
    pub(crate) rollup_transactions_root: Hash,
}

impl BlockHeader {
    pub(crate) fn from_wire(wire: &SequencerBlockHeader) -> Result<Self, FieldError> {
        let permitted = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if !(1..=50).contains(&wire.chain_id.len()) || !wire.chain_id.as_bytes().iter().all(permitted) {
            return Err(FieldError::ChainId);
        }
        if i64::try_from(wire.height).is_err() {
            return Err(FieldError::Height(wire.height));
        }
        let time = *field::present(wire.time.as_ref(), "time")?;
        if !SECONDS.contains(&time.seconds) || !(0..=999_999_999).contains(&time.nanos) {
            return Err(FieldError::Time { seconds: time.seconds, nanos: time.nanos });
        }
        Ok(Self {
            chain_id: wire.chain_id.clone(),
            height: SequencerHeight(wire.height),
            time,
            data_hash: field::array(&wire.data_hash, "data hash")?,
            proposer: field::array(&wire.proposer_address, "proposer address")?,
            rollup_transactions_root: field::array(&wire.rollup_transactions_root, "rollup transactions root")?,
        })
    }
}

/// Extended commit info, valid by itself, with its place in the data tree.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CommitInfo {
    /// As published, since it is hashed.
    pub(crate) bytes: Bytes,
    pub(crate) proof: Proof,
}

/// A header and the proofs that lead to its data hash.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataTree {
    pub(crate) header: BlockHeader,
    pub(crate) rollup_transactions_proof: Proof,
    pub(crate) rollup_ids: Vec<RollupId>,
    pub(crate) rollup_ids_proof: Proof,
    /// No proof covers these.
    pub(crate) upgrade_change_hashes: Vec<Hash>,
    pub(crate) commit_info: Option<CommitInfo>,
}

/// The fields of a message that make up a [`DataTree`].
pub(crate) struct DataTreeFields<'a> {
    pub(crate) header: Option<&'a SequencerBlockHeader>,
    pub(crate) rollup_transactions_proof: Option<&'a primitive::Proof>,
    pub(crate) rollup_ids: &'a [primitive::RollupId],
    pub(crate) rollup_ids_proof: Option<&'a primitive::Proof>,
    pub(crate) upgrade_change_hashes: &'a [Bytes],
    pub(crate) commit_info: Option<&'a ExtendedCommitInfoWithProof>,
}

/// Why a header and its proofs contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataTreeError {
    #[error("{what} is proven as data item {actual}, not {expected}")]
    Position { what: &'static str, expected: u64, actual: u64 },
    #[error("{what} is proven in a tree of {actual} data items, the rollup transactions root in one of {expected}")]
    TreeSize { what: &'static str, expected: u64, actual: u64 },
    #[error("{what} is not covered by the data hash: {source}")]
    Proof { what: &'static str, source: ProofError },
}

impl DataTree {
    pub(crate) fn from_wire(fields: &DataTreeFields<'_>, limits: &Limits) -> Result<Self, FieldError> {
        Ok(Self {
            header: BlockHeader::from_wire(field::present(fields.header, "header")?)?,
            rollup_transactions_proof: field::proof(fields.rollup_transactions_proof, "rollup transactions proof")?,
            rollup_ids: field::rollup_ids(fields.rollup_ids)?,
            rollup_ids_proof: field::proof(fields.rollup_ids_proof, "rollup ids proof")?,
            upgrade_change_hashes: field::hashes(fields.upgrade_change_hashes, "upgrade change hash")?,
            commit_info: fields
                .commit_info
                .map(|wire| {
                    let bytes = wire.extended_commit_info.clone();
                    let proof = field::proof(wire.proof.as_ref(), "extended commit info proof")?;
                    price_feed::check(&bytes, limits)?;
                    Ok::<_, FieldError>(CommitInfo { bytes, proof })
                })
                .transpose()?,
        })
    }

    /// Root over the rollup ids.
    pub(crate) fn rollup_ids_root(&self) -> Hash {
        merkle::root_of(self.rollup_ids.iter().map(|id| id.0))
    }

    /// Checks every proof against the header's data hash. The positions are part of what is proven: a transaction of
    /// a user may hash to anything, but it never comes first.
    pub(crate) fn verify(&self) -> Result<(), DataTreeError> {
        let root = self.header.rollup_transactions_root;
        self.check("rollup transactions root", 0, &self.rollup_transactions_proof, &root)?;
        self.check("list of rollup ids", 1, &self.rollup_ids_proof, &self.rollup_ids_root())?;
        if let Some(CommitInfo { bytes, proof }) = &self.commit_info {
            self.check("extended commit info", 2, proof, bytes)?;
        }
        Ok(())
    }

    fn check(&self, what: &'static str, expected: u64, proof: &Proof, item: &[u8]) -> Result<(), DataTreeError> {
        if proof.leaf_index() != expected {
            return Err(DataTreeError::Position { what, expected, actual: proof.leaf_index() });
        }
        let leaves = self.rollup_transactions_proof.leaf_count();
        if proof.leaf_count() != leaves {
            return Err(DataTreeError::TreeSize { what, expected: leaves, actual: proof.leaf_count() });
        }
        proof.verify(&item_digest(item), &self.header.data_hash).map_err(|source| DataTreeError::Proof { what, source })
    }
}

/// Content of an item's leaf in a data tree, the sequencer's as well as CometBFT's.
pub(crate) fn item_digest(item: &[u8]) -> Hash {
    Sha256::digest(item).into()
}

/// Content of a rollup's leaf in the rollup transactions tree.
pub(crate) fn rollup_leaf(rollup_id: &RollupId, transactions_root: &Hash) -> [u8; 64] {
    let mut leaf = [0; 64];
    leaf[..32].copy_from_slice(&rollup_id.0);
    leaf[32..].copy_from_slice(transactions_root);
    leaf
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ROLLUP, block};

    #[test]
    fn headers_have_fields_within_their_ranges() {
        let genuine = block(4, &[ROLLUP]).metadata.header.expect("a header");
        let read = |change: &dyn Fn(&mut SequencerBlockHeader)| {
            let mut wire = genuine.clone();
            change(&mut wire);
            BlockHeader::from_wire(&wire)
        };
        let time = |seconds, nanos| {
            move |header: &mut SequencerBlockHeader| header.time = Some(prost_types::Timestamp { seconds, nanos })
        };
        let chain = |chain_id: &'static str, count| {
            move |header: &mut SequencerBlockHeader| header.chain_id = chain_id.repeat(count)
        };
        let height = |height| move |header: &mut SequencerBlockHeader| header.height = height;
        let (first, last) = (*SECONDS.start(), *SECONDS.end());
        for good in [time(first, 0), time(last, 999_999_999)] {
            assert!(read(&good).is_ok());
        }
        for bad in [time(first - 1, 0), time(last + 1, 0), time(0, -1), time(0, 1_000_000_000)] {
            assert!(matches!(read(&bad), Err(FieldError::Time { .. })));
        }
        for good in [chain("a", 1), chain("Z", 50), chain("a-_.9", 10)] {
            assert!(read(&good).is_ok());
        }
        for bad in [chain("", 1), chain("a", 51), chain("a b", 1), chain("ä", 1), chain("a/b", 1)] {
            assert_eq!(read(&bad), Err(FieldError::ChainId));
        }
        assert!(read(&height(i64::MAX.unsigned_abs())).is_ok());
        assert_eq!(read(&height(1 << 63)), Err(FieldError::Height(1 << 63)));
    }
}
