//! Blocks from a sequencer node, reduced to the rollups that were asked for (reference §1.8).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, RollupId, SequencerHeight},
    limits::Limits,
    merkle::{self, Hash, Proof, ProofError},
    sequencer::{
        bind::{BindRefusal, Claim},
        block::SequencedBlock,
        data_tree::{DataTree, DataTreeError, DataTreeFields, rollup_leaf},
        header::TrustedHeader,
        price_feed,
        rollup_data::{ElementError, decode_element},
    },
    verified::Verified,
    wire::{
        field::{self, FieldError},
        proto::astria::sequencerblock::v1::{FilteredSequencerBlock, RollupData, RollupTransactions},
        scan,
    },
};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftBlockRequest {
    pub height: SequencerHeight,
    /// Chain id of the session.
    pub chain_id: String,
    pub rollup_ids: Vec<RollupId>,
}

/// A sequencer block with the blocks of all requested rollups.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftBlock {
    height: SequencerHeight,
    block_hash: BlockHash,
    blocks: BTreeMap<RollupId, Verified<SequencedBlock>>,
    /// What it all follows from, to be bound to the committed header.
    claim: Box<Claim>,
}

impl SoftBlock {
    pub fn height(&self) -> SequencerHeight {
        self.height
    }

    pub fn block_hash(&self) -> BlockHash {
        self.block_hash
    }

    /// One block for every requested rollup; an empty one where the sequencer block has no data for it.
    pub fn blocks(&self) -> &BTreeMap<RollupId, Verified<SequencedBlock>> {
        &self.blocks
    }

    /// The blocks, and what they follow from.
    pub(crate) fn into_parts(self) -> (BTreeMap<RollupId, Verified<SequencedBlock>>, Box<Claim>) {
        (self.blocks, self.claim)
    }

    /// Checks that this is the block of a committed header, see [`UnverifiedMetadata::bind`].
    ///
    /// [`UnverifiedMetadata::bind`]: crate::sequencer::UnverifiedMetadata::bind
    pub fn bind(&self, header: &Verified<TrustedHeader>, transactions: Option<&[Bytes]>) -> Result<(), BindRefusal> {
        self.claim.bind(header, transactions)
    }
}

/// Why bytes are not the block that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilteredBlockError {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    DataTree(#[from] DataTreeError),
    #[error("the block of height {actual}, asked for {expected}")]
    Height { expected: SequencerHeight, actual: SequencerHeight },
    #[error("a block of chain {actual:?}, expected {expected:?}")]
    ChainId { expected: String, actual: String },
    #[error("rollup {0} is there twice")]
    Repeated(RollupId),
    #[error("rollup {0} is in the block's list of ids, but its data are missing")]
    DataMissing(RollupId),
    #[error("rollup {0} has data, but is not in the block's list of ids")]
    NotListed(RollupId),
    #[error("the data of rollup {rollup} are not covered by the rollup transactions root: {source}")]
    RollupProof { rollup: RollupId, source: ProofError },
    #[error("rollup {rollup}: {source}")]
    Element { rollup: RollupId, source: ElementError },
}

/// Checks everything about a filtered block that can be checked without its commit, and that it answers `request`.
pub fn verify_filtered_block(
    block: &Bytes,
    request: &SoftBlockRequest,
    limits: &Limits,
) -> Result<SoftBlock, FilteredBlockError> {
    UnverifiedFilteredBlock::decode(block, limits)?.verify(request, limits)
}

/// A filtered block whose fields are well formed, with nothing compared or proven yet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnverifiedFilteredBlock {
    block_hash: BlockHash,
    tree: DataTree,
    rollups: BTreeMap<RollupId, RollupPart>,
}

#[derive(Clone, Debug, PartialEq)]
struct RollupPart {
    transactions: Vec<Bytes>,
    proof: Proof,
}

impl UnverifiedFilteredBlock {
    pub fn decode(bytes: &Bytes, limits: &Limits) -> Result<Self, FilteredBlockError> {
        let wire = decode_wire(bytes, limits)?;
        let block_hash = field::array(&wire.block_hash, "block hash").map(BlockHash)?;
        let tree = DataTree::from_wire(&tree_fields(&wire), limits)?;
        let mut rollups = BTreeMap::new();
        for RollupTransactions { rollup_id, transactions, proof } in wire.rollup_transactions {
            let rollup_id = field::rollup_id(field::present(rollup_id.as_ref(), "rollup id")?)?;
            let proof = field::proof(proof.as_ref(), "proof of a rollup's transactions")?;
            if rollups.insert(rollup_id, RollupPart { transactions, proof }).is_some() {
                return Err(FilteredBlockError::Repeated(rollup_id));
            }
        }
        Ok(Self { block_hash, tree, rollups })
    }

    pub fn height(&self) -> SequencerHeight {
        self.tree.header.height
    }

    pub fn block_hash(&self) -> BlockHash {
        self.block_hash
    }

    pub fn chain_id(&self) -> &str {
        &self.tree.header.chain_id
    }

    /// What it claims about the block, and each rollup's transactions with their proof.
    pub(crate) fn into_parts(self) -> (Claim, impl Iterator<Item = (RollupId, Vec<Bytes>, Proof)>) {
        let Self { block_hash, tree, rollups } = self;
        let rollups = rollups.into_iter().map(|(id, RollupPart { transactions, proof })| (id, transactions, proof));
        (Claim { block_hash, tree }, rollups)
    }

    fn verify(self, request: &SoftBlockRequest, limits: &Limits) -> Result<SoftBlock, FilteredBlockError> {
        let Self { block_hash, tree, mut rollups } = self;
        let header = &tree.header;
        if header.height != request.height {
            return Err(FilteredBlockError::Height { expected: request.height, actual: header.height });
        }
        if header.chain_id != request.chain_id && !canary(Canary::SoftChainIdIgnored) {
            let (expected, actual) = (request.chain_id.clone(), header.chain_id.clone());
            return Err(FilteredBlockError::ChainId { expected, actual });
        }
        tree.verify()?;
        let mut roots = BTreeMap::new();
        for (rollup, part) in &rollups {
            let root = merkle::root_of(&part.transactions);
            part.proof
                .verify(&rollup_leaf(rollup, &root), &header.rollup_transactions_root)
                .map_err(|source| FilteredBlockError::RollupProof { rollup: *rollup, source })?;
            roots.insert(*rollup, root);
        }
        let price_feed = match &tree.commit_info {
            Some(info) => price_feed::first_transaction(&info.bytes, limits)?,
            None => None,
        };
        let mut blocks = BTreeMap::new();
        for rollup in &request.rollup_ids {
            let listed = tree.rollup_ids.contains(rollup);
            let (root, elements) = match (listed, rollups.remove(rollup), roots.get(rollup)) {
                (true, Some(part), Some(root)) => (*root, decode_elements(rollup, &part.transactions)?),
                (true, None, _) if canary(Canary::SoftDataMissingIsEmpty) => {
                    (merkle::root_of::<[Hash; 0]>([]), Vec::new())
                }
                (false, None, _) => (merkle::root_of::<[Hash; 0]>([]), Vec::new()),
                // Asked for twice.
                _ if blocks.contains_key(rollup) => continue,
                (true, ..) => return Err(FilteredBlockError::DataMissing(*rollup)),
                (false, ..) => return Err(FilteredBlockError::NotListed(*rollup)),
            };
            let block = SequencedBlock::new(header.height, block_hash, header.time, root, price_feed.clone(), elements);
            blocks.insert(*rollup, Verified::new(block));
        }
        let height = header.height;
        Ok(SoftBlock { height, block_hash, blocks, claim: Box::new(Claim { block_hash, tree }) })
    }
}

fn decode_elements(rollup: &RollupId, transactions: &[Bytes]) -> Result<Vec<RollupData>, FilteredBlockError> {
    let elements = transactions.iter().enumerate().map(|(index, transaction)| decode_element(transaction, index));
    elements.collect::<Result<_, _>>().map_err(|source| FilteredBlockError::Element { rollup: *rollup, source })
}

/// Decodes the message after checking its size and counting its lists.
pub(crate) fn decode_wire(bytes: &Bytes, limits: &Limits) -> Result<FilteredSequencerBlock, FieldError> {
    if bytes.len() > limits.soft_block_bytes {
        return Err(FieldError::TooLong(bytes.len(), limits.soft_block_bytes));
    }
    scan::at_most(bytes, &[3], limits.list_entries, "rollups")?;
    scan::at_most(bytes, &[3, 2], limits.transactions, "transactions")?;
    scan::at_most(bytes, &[5], limits.list_entries, "rollup ids")?;
    scan::at_most(bytes, &[7], limits.list_entries, "upgrade change hashes")?;
    Ok(FilteredSequencerBlock::decode(bytes.clone())?)
}

pub(crate) fn tree_fields(wire: &FilteredSequencerBlock) -> DataTreeFields<'_> {
    DataTreeFields {
        header: wire.header.as_ref(),
        rollup_transactions_proof: wire.rollup_transactions_proof.as_ref(),
        rollup_ids: &wire.all_rollup_ids,
        rollup_ids_proof: wire.rollup_ids_proof.as_ref(),
        upgrade_change_hashes: &wire.upgrade_change_hashes,
        commit_info: wire.extended_commit_info_with_proof.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CHAIN, ROLLUP, block};

    const OTHER: RollupId = RollupId([8; 32]);
    const ABSENT: RollupId = RollupId([9; 32]);

    fn verified(
        rollup_ids: &[RollupId],
        change: impl FnOnce(&mut FilteredSequencerBlock),
    ) -> Result<SoftBlock, FilteredBlockError> {
        let mut wire = block(4, &[ROLLUP, OTHER]).filtered;
        change(&mut wire);
        let request = SoftBlockRequest {
            height: SequencerHeight(4),
            chain_id: CHAIN.to_owned(),
            rollup_ids: rollup_ids.to_vec(),
        };
        verify_filtered_block(&wire.encode_to_vec().into(), &request, &Limits::default())
    }

    #[test]
    fn each_rollup_that_was_asked_for_gets_its_block_and_one_without_data_an_empty_one() {
        let made = block(4, &[ROLLUP, OTHER]);
        let soft = verified(&[ROLLUP, ABSENT, ROLLUP], |_| {}).expect("a genuine block");
        assert_eq!((soft.height(), soft.block_hash()), (made.height(), made.trusted().hash()));
        assert_eq!(soft.blocks().keys().copied().collect::<Vec<_>>(), [ROLLUP, ABSENT]);
        let (data, none) = (&soft.blocks()[&ROLLUP], &soft.blocks()[&ABSENT]);
        assert_eq!((data.transactions().len(), data.size(), none.transactions().len()), (1, 18, 0));
        let firm = made.bound().block_with(&made.record()).expect("genuine data");
        assert_eq!(*data, firm, "what Celestia holds is the same block");
        assert_eq!(data.time(), made.metadata.header.and_then(|header| header.time).expect("a time"));
        let wire = UnverifiedFilteredBlock::decode(&made.filtered.encode_to_vec().into(), &Limits::default());
        let wire = wire.expect("well formed");
        assert_eq!((wire.height(), wire.chain_id(), wire.block_hash()), (soft.height(), CHAIN, soft.block_hash()));
    }

    #[test]
    fn a_block_that_is_not_what_was_asked_for_is_refused() {
        type Change = fn(&mut FilteredSequencerBlock);
        let changes: [(Change, &str); 8] = [
            (|block| block.header.as_mut().expect("a header").height = 5, "the block of height 5, asked for 4"),
            (|block| block.header.as_mut().expect("a header").chain_id = "x".to_owned(), "a block of chain \"x\""),
            (|block| block.rollup_transactions.push(block.rollup_transactions[0].clone()), "is there twice"),
            (|block| drop(block.rollup_transactions.remove(0)), "but its data are missing"),
            (|block| block.rollup_transactions[0].transactions.clear(), "not covered by the rollup transactions root"),
            (|block| drop(block.all_rollup_ids.pop()), "list of rollup ids is not covered"),
            (
                |block| block.header.as_mut().expect("a header").data_hash = vec![1; 32].into(),
                "not covered by the data",
            ),
            (|block| block.rollup_transactions_proof = block.rollup_ids_proof.clone(), "as data item 1, not 0"),
        ];
        for (change, reason) in changes {
            let error = verified(&[ROLLUP], change).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn bounds_of_a_filtered_block_are_inclusive() {
        let bytes: Bytes = block(4, &[ROLLUP]).filtered.encode_to_vec().into();
        let limits = |soft_block_bytes| Limits { soft_block_bytes, ..Limits::default() };
        assert!(decode_wire(&bytes, &limits(bytes.len())).is_ok());
        assert_eq!(
            decode_wire(&bytes, &limits(bytes.len() - 1)),
            Err(FieldError::TooLong(bytes.len(), bytes.len() - 1))
        );
    }
}
