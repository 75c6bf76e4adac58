//! Block metadata from Celestia: decoded, then bound to the header that the validators committed to (reference §2.5).

use bytes::Bytes;
use prost::Message as _;

use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, RollupId, SequencerHeight},
    limits::Limits,
    merkle::{self, Hash},
    sequencer::{
        bind::{BindRefusal, Claim, Content},
        block::SequencedBlock,
        data_tree::{DataTree, DataTreeError, DataTreeFields},
        header::TrustedHeader,
        price_feed,
        rollup_data::{RollupDataError, RollupRecord},
    },
    verified::Verified,
    wire::{
        field::{self, FieldError},
        proto::astria::sequencerblock::v1::{RollupData, SubmittedMetadata},
        scan,
    },
};

/// Metadata whose own proofs hold. Anybody can make such a record: nothing follows from it before it is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct UnverifiedMetadata {
    claim: Claim,
    price_feed: Option<RollupData>,
    wire_size: usize,
}

/// Why bytes are no metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    DataTree(#[from] DataTreeError),
}

impl UnverifiedMetadata {
    /// Decodes one `SubmittedMetadata` and checks its proofs against its own data hash.
    pub fn decode(bytes: &Bytes, limits: &Limits) -> Result<Self, MetadataError> {
        let wire = decode_wire(bytes, limits)?;
        let tree = DataTree::from_wire(&tree_fields(&wire), limits)?;
        let block_hash = field::array(&wire.block_hash, "block hash").map(BlockHash)?;
        tree.verify()?;
        let price_feed = match &tree.commit_info {
            Some(info) => price_feed::first_transaction(&info.bytes, limits)?,
            None => None,
        };
        Ok(Self { claim: Claim { block_hash, tree }, price_feed, wire_size: bytes.len() })
    }

    pub fn height(&self) -> SequencerHeight {
        self.claim.tree.header.height
    }

    pub fn block_hash(&self) -> BlockHash {
        self.claim.block_hash
    }

    /// Whether the block has data for the rollup.
    pub fn lists(&self, rollup_id: &RollupId) -> bool {
        self.claim.tree.rollup_ids.contains(rollup_id)
    }

    /// The rollups that the block has data for.
    pub fn rollup_ids(&self) -> &[RollupId] {
        &self.claim.tree.rollup_ids
    }

    /// Encoded size in bytes, which is also about what the record takes in memory.
    pub fn wire_size(&self) -> usize {
        self.wire_size
    }

    /// Checks that the record describes the block of `header`, including the data that the header commits to.
    ///
    /// `transactions` are the block's data items. They are needed where the record alone cannot tell: if it claims
    /// upgrade changes, which no proof covers; and if it has no extended commit info although the block has further
    /// items, because whoever leaves the info out may put the committed hash of the third item into the proofs.
    pub fn bind(
        &self,
        header: &Verified<TrustedHeader>,
        transactions: Option<&[Bytes]>,
    ) -> Result<Verified<BoundMetadata>, BindRefusal> {
        if !canary(Canary::MetadataMismatchIgnored) {
            self.claim.bind(header, transactions)?;
        }
        Ok(self.believed())
    }

    /// The same with whatever is known of the block's content.
    pub(crate) fn bind_to(
        &self,
        header: &Verified<TrustedHeader>,
        content: Option<&Content>,
    ) -> Result<Verified<BoundMetadata>, BindRefusal> {
        if !canary(Canary::MetadataMismatchIgnored) {
            self.claim.bind_to(header, content)?;
        }
        Ok(self.believed())
    }

    /// This record as if it were bound. To be called after the last check.
    pub(crate) fn believed(&self) -> Verified<BoundMetadata> {
        Verified::new(BoundMetadata {
            height: self.height(),
            block_hash: self.claim.block_hash,
            time: self.claim.tree.header.time,
            rollup_transactions_root: self.claim.tree.header.rollup_transactions_root,
            rollup_ids: self.claim.tree.rollup_ids.clone(),
            price_feed: self.price_feed.clone(),
        })
    }
}

/// Decodes the message after counting its lists.
pub(crate) fn decode_wire(bytes: &Bytes, limits: &Limits) -> Result<SubmittedMetadata, FieldError> {
    scan::at_most(bytes, &[3], limits.list_entries, "rollup ids")?;
    scan::at_most(bytes, &[6], limits.list_entries, "upgrade change hashes")?;
    Ok(SubmittedMetadata::decode(bytes.clone())?)
}

pub(crate) fn tree_fields(wire: &SubmittedMetadata) -> DataTreeFields<'_> {
    DataTreeFields {
        header: wire.header.as_ref(),
        rollup_transactions_proof: wire.rollup_transactions_proof.as_ref(),
        rollup_ids: &wire.rollup_ids,
        rollup_ids_proof: wire.rollup_ids_proof.as_ref(),
        upgrade_change_hashes: &wire.upgrade_change_hashes,
        commit_info: wire.extended_commit_info_with_proof.as_ref(),
    }
}

/// Metadata of a committed block. Its fields are what the validators signed.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundMetadata {
    height: SequencerHeight,
    block_hash: BlockHash,
    time: prost_types::Timestamp,
    rollup_transactions_root: Hash,
    rollup_ids: Vec<RollupId>,
    price_feed: Option<RollupData>,
}

impl BoundMetadata {
    pub fn height(&self) -> SequencerHeight {
        self.height
    }

    pub fn block_hash(&self) -> BlockHash {
        self.block_hash
    }

    pub fn time(&self) -> prost_types::Timestamp {
        self.time
    }

    /// Whether the block has data for the rollup.
    pub fn lists(&self, rollup_id: &RollupId) -> bool {
        self.rollup_ids.contains(rollup_id)
    }

    /// The element that goes in front of the others.
    pub fn price_feed(&self) -> Option<&RollupData> {
        self.price_feed.as_ref()
    }
}

impl Verified<BoundMetadata> {
    /// The block of a rollup that has data in it.
    pub fn block_with(&self, data: &RollupRecord) -> Result<Verified<SequencedBlock>, RollupDataError> {
        let (block, rollup) = (self.block_hash, data.rollup_id());
        if data.block_hash() != block {
            return Err(RollupDataError::OtherBlock { expected: block, actual: data.block_hash() });
        }
        if !self.lists(&rollup) {
            return Err(RollupDataError::NotListed { block, rollup });
        }
        data.verify(&self.rollup_transactions_root).map_err(|source| RollupDataError::Proof {
            block,
            rollup,
            source,
        })?;
        Ok(self.sequenced(data.transactions_root(), data.elements()?))
    }

    /// The block of a rollup that has no data in it.
    pub fn empty_block(&self, rollup_id: &RollupId) -> Result<Verified<SequencedBlock>, RollupDataError> {
        if self.lists(rollup_id) && !canary(Canary::MissingDataIsEmpty) {
            return Err(RollupDataError::Listed { block: self.block_hash, rollup: *rollup_id });
        }
        Ok(self.sequenced(merkle::root_of::<[Hash; 0]>([]), Vec::new()))
    }

    fn sequenced(&self, transactions_root: Hash, elements: Vec<RollupData>) -> Verified<SequencedBlock> {
        let price_feed = self.price_feed.clone().filter(|_| !canary(Canary::PriceFeedLeftOut));
        Verified::new(SequencedBlock::new(
            self.height,
            self.block_hash,
            self.time,
            transactions_root,
            price_feed,
            elements,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{ROLLUP, block, block_with_items},
        wire::proto::astria::sequencerblock::v1::SequencerBlockHeader,
    };

    const ABSENT: RollupId = RollupId([9; 32]);

    fn header(wire: &mut SubmittedMetadata) -> &mut SequencerBlockHeader {
        wire.header.as_mut().expect("a header")
    }

    #[test]
    fn metadata_names_the_rollups_that_have_data_and_no_others() {
        let made = block(4, &[ROLLUP]);
        let (candidate, bound) = (made.candidate(), made.bound());
        assert_eq!((candidate.lists(&ROLLUP), candidate.lists(&ABSENT)), (true, false));
        assert_eq!((bound.lists(&ROLLUP), bound.lists(&ABSENT)), (true, false));
        assert_eq!((candidate.height(), bound.height()), (made.height(), made.height()));
        assert_eq!(Some(bound.time()), made.metadata.header.and_then(|header| header.time));
        assert_eq!(bound.price_feed(), None);
    }

    #[test]
    fn a_rollup_with_data_in_the_block_is_not_given_an_empty_one() {
        let bound = block(4, &[ROLLUP]).bound();
        assert!(matches!(bound.empty_block(&ROLLUP), Err(RollupDataError::Listed { .. })));
        assert_eq!(bound.empty_block(&ABSENT).map(|block| block.transactions().len()), Ok(0));
        let other = block(5, &[ROLLUP]).record();
        assert!(matches!(bound.block_with(&other), Err(RollupDataError::OtherBlock { .. })));
        let stranger = block(4, &[ABSENT]).bound();
        assert_ne!(stranger.block_hash(), bound.block_hash(), "another set of rollups, another block");
    }

    #[test]
    fn each_field_that_the_header_has_is_compared() {
        let made = block(4, &[ROLLUP]);
        let refusal = |change: fn(&mut SubmittedMetadata)| {
            let mut wire = made.metadata.clone();
            change(&mut wire);
            let record = UnverifiedMetadata::decode(&wire.encode_to_vec().into(), &Limits::default());
            record.expect("consistent in itself").bind(&made.trusted(), None).expect_err("another block").to_string()
        };
        assert!(refusal(|wire| wire.block_hash = vec![1; 32].into()).starts_with("block hash"));
        assert!(refusal(|wire| header(wire).chain_id = "x".to_owned()).starts_with("chain id \"x\""));
        assert!(refusal(|wire| header(wire).height = 5).starts_with("height 5"));
        assert!(refusal(|wire| header(wire).proposer_address = vec![1; 20].into()).starts_with("proposer"));
        for (seconds, nanos) in [(1, 0), (0, 1), (-1, 999_999_999)] {
            let mut wire = made.metadata.clone();
            let time = header(&mut wire).time.as_mut().expect("a time");
            (time.seconds, time.nanos) = (time.seconds + seconds, nanos);
            let record = UnverifiedMetadata::decode(&wire.encode_to_vec().into(), &Limits::default());
            let refusal = record.expect("consistent in itself").bind(&made.trusted(), None);
            assert!(matches!(refusal, Err(BindRefusal::Time { .. })), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_record_that_was_bound_tells_all_others_of_the_block_from_forged_ones() {
        let made = block_with_items(4, &[ROLLUP]);
        let genuine = made.candidate();
        let bound = Content::Bound(made.bound_content());
        let other = Content::Bound(block_with_items(5, &[ROLLUP]).bound_content());
        assert!(genuine.bind_to(&made.trusted(), Some(&bound)).is_ok());
        assert!(matches!(genuine.bind_to(&made.trusted(), Some(&other)), Err(BindRefusal::OtherContent)));
        // Data of another block, and an upgrade, which no proof covers and which would change the committed hash.
        let mut wire = block_with_items(4, &[ABSENT]).metadata;
        wire.block_hash = made.metadata.block_hash.clone();
        wire.upgrade_change_hashes.push(vec![1; 32].into());
        let forged = UnverifiedMetadata::decode(&wire.encode_to_vec().into(), &Limits::default());
        let forged = forged.expect("consistent in itself");
        assert!(matches!(forged.bind_to(&made.trusted(), None), Err(BindRefusal::NeedsTransactions)));
        assert!(matches!(forged.bind_to(&made.trusted(), Some(&bound)), Err(BindRefusal::OtherContent)));
    }

    #[test]
    fn a_record_about_which_only_data_items_can_tell_is_bound_with_those_of_its_block() {
        let (made, other) = (block_with_items(4, &[ROLLUP]), block_with_items(5, &[ROLLUP]));
        let bind = |items: Option<&[Bytes]>| made.candidate().bind(&made.trusted(), items);
        let waits = bind(None).expect_err("nobody can tell");
        assert!(waits.needs_transactions());
        assert!(bind(Some(&made.items)).is_ok());
        assert!(matches!(bind(Some(&other.items)), Err(BindRefusal::OtherTransactions { .. })));
    }
}
