//! What Celestia holds for one rollup and one sequencer block (reference §1.5).

use bytes::Bytes;
use prost::Message as _;

use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, RollupId},
    limits::Limits,
    merkle::{self, Hash, Proof, ProofError},
    sequencer::data_tree::rollup_leaf,
    wire::{
        field::{self, FieldError},
        proto::astria::{primitive::v1 as primitive, sequencerblock::v1::RollupData},
        scan::{self, Fields, Value},
    },
};

/// A rollup's data of one block, readable but not bound to any block yet.
///
/// The elements stay encoded, so that a record takes no more memory than it has bytes on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct RollupRecord {
    block_hash: BlockHash,
    rollup_id: RollupId,
    proof: Proof,
    transactions_root: Hash,
    encoded: Bytes,
}

/// Why bytes are no rollup data, or not those of a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollupDataError {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    Element(#[from] ElementError),
    #[error("the record is for block {actual}, not {expected}")]
    OtherBlock { expected: BlockHash, actual: BlockHash },
    #[error("block {block} has no data for rollup {rollup}")]
    NotListed { block: BlockHash, rollup: RollupId },
    #[error("block {block} has data for rollup {rollup}: it is not empty")]
    Listed { block: BlockHash, rollup: RollupId },
    #[error("the data of rollup {rollup} are not those of block {block}: {source}")]
    Proof { block: BlockHash, rollup: RollupId, source: ProofError },
}

/// An element of a rollup's data that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transaction {index} cannot be decoded: {source}")]
pub struct ElementError {
    pub index: usize,
    pub source: prost::DecodeError,
}

/// Field numbers of `SubmittedRollupData`.
const BLOCK_HASH: u32 = 1;
const ROLLUP_ID: u32 = 2;
const TRANSACTIONS: u32 = 3;
const PROOF: u32 = 4;

impl RollupRecord {
    /// Decodes the record of any rollup.
    pub fn decode(bytes: &Bytes, limits: &Limits) -> Result<Self, RollupDataError> {
        let head = Head::scan(bytes, limits)?;
        Self::from_head(&head, bytes)
    }

    /// Decodes a record if it is one of the `wanted` rollups'. Others cost no hashing and give none.
    pub fn decode_for(bytes: &Bytes, wanted: &[RollupId], limits: &Limits) -> Result<Option<Self>, RollupDataError> {
        let head = Head::scan(bytes, limits)?;
        if wanted.contains(&head.rollup_id) || canary(Canary::ForeignRollupTaken) {
            Self::from_head(&head, bytes).map(Some)
        } else {
            Ok(None)
        }
    }

    fn from_head(head: &Head<'_>, bytes: &Bytes) -> Result<Self, RollupDataError> {
        let block_hash = field::array(head.block_hash, "sequencer block hash").map(BlockHash)?;
        let proof = primitive::Proof::decode(bytes.slice_ref(head.proof)).map_err(FieldError::from)?;
        let proof = field::proof(Some(&proof), "proof")?;
        let transactions_root = merkle::root_of(transactions(bytes));
        // Readable, but not kept: decoded elements may take much more room than encoded ones.
        elements(bytes).try_for_each(|element| element.map(drop))?;
        Ok(Self { block_hash, rollup_id: head.rollup_id, proof, transactions_root, encoded: bytes.clone() })
    }

    /// The block that the record says it belongs to.
    pub fn block_hash(&self) -> BlockHash {
        self.block_hash
    }

    pub fn rollup_id(&self) -> RollupId {
        self.rollup_id
    }

    /// Encoded size in bytes, which is also about what the record takes in memory.
    pub fn wire_size(&self) -> usize {
        self.encoded.len()
    }

    pub(super) fn transactions_root(&self) -> Hash {
        self.transactions_root
    }

    /// The elements, decoded.
    pub(super) fn elements(&self) -> Result<Vec<RollupData>, ElementError> {
        elements(&self.encoded).collect()
    }

    /// Whether the record's data are covered by the root of a block's rollup transactions.
    pub(super) fn verify(&self, rollup_transactions_root: &Hash) -> Result<(), ProofError> {
        self.proof.verify(&rollup_leaf(&self.rollup_id, &self.transactions_root), rollup_transactions_root)
    }
}

/// The fields of a record that are there once.
struct Head<'a> {
    block_hash: &'a [u8],
    rollup_id: RollupId,
    proof: &'a [u8],
}

impl<'a> Head<'a> {
    fn scan(bytes: &'a [u8], limits: &Limits) -> Result<Self, FieldError> {
        scan::at_most(bytes, &[TRANSACTIONS], limits.transactions, "transactions")?;
        let once = |number, what| {
            let mut values = Fields::new(bytes).all(number);
            let first = values.next().transpose()?;
            if values.next().is_some() { Err(FieldError::Repeated(what)) } else { Ok(first) }
        };
        let rollup_id = once(ROLLUP_ID, "rollup id")?.ok_or(FieldError::Missing("rollup id"))?;
        Ok(Self {
            block_hash: once(BLOCK_HASH, "sequencer block hash")?.unwrap_or_default(),
            rollup_id: field::rollup_id(&primitive::RollupId::decode(rollup_id)?)?,
            proof: once(PROOF, "proof")?.ok_or(FieldError::Missing("proof"))?,
        })
    }
}

/// The encoded elements of a record whose framing was checked.
fn transactions(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    Fields::new(bytes).filter_map(|field| match field {
        Ok((TRANSACTIONS, Value::Bytes(transaction))) => Some(transaction),
        _ => None,
    })
}

fn elements(bytes: &Bytes) -> impl Iterator<Item = Result<RollupData, ElementError>> {
    transactions(bytes).enumerate().map(|(index, transaction)| decode_element(&bytes.slice_ref(transaction), index))
}

/// Decodes the element at `index` of a rollup's transactions. Its payload stays a slice of the received buffer.
pub(crate) fn decode_element(transaction: &Bytes, index: usize) -> Result<RollupData, ElementError> {
    RollupData::decode(transaction.clone()).map_err(|source| ElementError { index, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{ROLLUP, block},
        wire::proto::astria::sequencerblock::v1::SubmittedRollupData,
    };

    fn decoded(change: impl FnOnce(&mut SubmittedRollupData)) -> Result<RollupRecord, RollupDataError> {
        let mut wire = block(4, &[ROLLUP]).records.remove(0);
        change(&mut wire);
        RollupRecord::decode(&wire.encode_to_vec().into(), &Limits::default())
    }

    #[test]
    fn a_record_holds_what_was_sent() {
        let record = decoded(|_| {}).expect("a record");
        let wire = block(4, &[ROLLUP]).records.remove(0);
        assert_eq!((record.rollup_id(), record.wire_size()), (ROLLUP, wire.encoded_len()));
        assert_eq!(record.block_hash().0, wire.sequencer_block_hash[..]);
        let elements = record.elements().expect("readable");
        assert_eq!(elements.iter().map(RollupData::encode_to_vec).collect::<Vec<_>>(), wire.transactions);
    }

    #[test]
    fn a_record_with_an_element_that_cannot_be_read_is_refused_and_the_element_named() {
        let unreadable = decoded(|wire| wire.transactions.push(Bytes::from_static(&[0xff])));
        assert!(matches!(unreadable, Err(RollupDataError::Element(ElementError { index: 1, .. }))), "{unreadable:?}");
    }

    #[test]
    fn a_record_of_another_rollup_is_not_decoded() {
        let bytes = block(4, &[ROLLUP]).records.remove(0).encode_to_vec().into();
        let decoded = |wanted: &[RollupId]| RollupRecord::decode_for(&bytes, wanted, &Limits::default());
        assert_eq!(decoded(&[RollupId([8; 32])]), Ok(None));
        assert!(matches!(decoded(&[RollupId([8; 32]), ROLLUP]), Ok(Some(_))));
    }
}
