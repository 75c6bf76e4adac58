//! Block metadata from Celestia: decoded, then bound to the header that the validators committed to (reference §2.5).

use bytes::Bytes;
use prost::Message as _;

use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, RollupId, SequencerHeight},
    limits::Limits,
    merkle::{self, Hash},
    sequencer::{
        block::SequencedBlock,
        data_tree::{DataTree, DataTreeError, DataTreeFields, item_digest},
        header::TrustedHeader,
        price_feed,
        rollup_data::{RollupDataError, RollupRecord},
    },
    verified::Verified,
    wire::{
        field::{self, FieldError},
        proto::astria::sequencerblock::v1::{
            DataItem, RollupData, SubmittedMetadata,
            data_item::{UpgradeChangeHashes, Value},
        },
        scan,
    },
};

/// Metadata whose own proofs hold. Anybody can make such a record: nothing follows from it before it is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct UnverifiedMetadata {
    block_hash: BlockHash,
    tree: DataTree,
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

/// Why metadata is not that of a committed header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindRefusal {
    #[error("block hash {actual} is not the committed {expected}")]
    BlockHash { expected: BlockHash, actual: BlockHash },
    #[error("chain id {actual:?} is not the committed {expected:?}")]
    ChainId { expected: String, actual: String },
    #[error("height {actual} is not the committed {expected}")]
    Height { expected: SequencerHeight, actual: SequencerHeight },
    #[error("time {actual} is not the committed {expected}")]
    Time { expected: String, actual: String },
    #[error("proposer {actual} is not the committed {expected}")]
    Proposer { expected: String, actual: String },
    #[error("the data of the record have the root {actual}, the committed header's is {expected}")]
    DataHash { expected: String, actual: String },
    #[error("the committed block's data begin with bare roots: it has neither {0}")]
    NotInOlderFormat(&'static str),
    #[error("the committed block has no upgrade item")]
    NoUpgrade,
    #[error("only the block's data items can tell")]
    NeedsTransactions,
    #[error("the data items that were fetched have the root {actual}, the committed header's is {expected}")]
    OtherTransactions { expected: String, actual: String },
    #[error("data item {index} of the committed block is not the {what} of the record")]
    Item { index: usize, what: &'static str },
    #[error("the committed block has {0}, the record has none")]
    LeftOut(&'static str),
}

impl BindRefusal {
    /// Whether the record may be genuine: to be bound again together with the block's data items.
    pub fn needs_transactions(&self) -> bool {
        *self == Self::NeedsTransactions
    }
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
        Ok(Self { block_hash, tree, price_feed, wire_size: bytes.len() })
    }

    pub fn height(&self) -> SequencerHeight {
        self.tree.header.height
    }

    pub fn block_hash(&self) -> BlockHash {
        self.block_hash
    }

    /// Whether the block has data for the rollup.
    pub fn lists(&self, rollup_id: &RollupId) -> bool {
        self.tree.rollup_ids.contains(rollup_id)
    }

    /// The rollups that the block has data for.
    pub fn rollup_ids(&self) -> &[RollupId] {
        &self.tree.rollup_ids
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
            self.compare(header)?;
            if !canary(Canary::MetadataNotBound) {
                self.compare_data(header.header().data_hash.unwrap_or_default().as_bytes(), transactions)?;
            }
        }
        Ok(self.believed())
    }

    /// This record as if it were bound. To be called after the last check.
    pub(crate) fn believed(&self) -> Verified<BoundMetadata> {
        Verified::new(BoundMetadata {
            height: self.height(),
            block_hash: self.block_hash,
            time: self.tree.header.time,
            rollup_transactions_root: self.tree.header.rollup_transactions_root,
            rollup_ids: self.tree.rollup_ids.clone(),
            price_feed: self.price_feed.clone(),
        })
    }

    /// Compares what stands in both headers.
    fn compare(&self, trusted: &TrustedHeader) -> Result<(), BindRefusal> {
        let own = &self.tree.header;
        if self.block_hash != trusted.hash() {
            return Err(BindRefusal::BlockHash { expected: trusted.hash(), actual: self.block_hash });
        }
        if canary(Canary::MetadataNotBound) {
            return Ok(());
        }
        if own.chain_id != trusted.chain_id() {
            let expected = trusted.chain_id().to_owned();
            return Err(BindRefusal::ChainId { expected, actual: own.chain_id.clone() });
        }
        if own.height != trusted.height() {
            return Err(BindRefusal::Height { expected: trusted.height(), actual: own.height });
        }
        let time = trusted.header().time;
        let nanos = i128::from(own.time.seconds) * 1_000_000_000 + i128::from(own.time.nanos);
        if nanos != time.unix_timestamp_nanos() {
            return Err(BindRefusal::Time { expected: time.to_rfc3339(), actual: own.time.to_string() });
        }
        let proposer = trusted.header().proposer_address;
        if own.proposer != proposer.as_bytes() {
            return Err(BindRefusal::Proposer {
                expected: proposer.to_string(),
                actual: hex::encode_upper(own.proposer),
            });
        }
        Ok(())
    }

    fn compare_data(&self, committed: &[u8], transactions: Option<&[Bytes]>) -> Result<(), BindRefusal> {
        let tree = &self.tree;
        if tree.header.data_hash == committed {
            // Bare roots (before Aspen): the record's proofs lead to the committed hash itself.
            if tree.commit_info.is_some() {
                return Err(BindRefusal::NotInOlderFormat("extended commit info"));
            }
            if !tree.upgrade_change_hashes.is_empty() {
                return Err(BindRefusal::NotInOlderFormat("upgrade changes"));
            }
            return Ok(());
        }
        let recomputed = self.recompute();
        if recomputed == committed {
            if !tree.upgrade_change_hashes.is_empty() {
                return Err(BindRefusal::NoUpgrade);
            }
            if tree.commit_info.is_some() || tree.rollup_transactions_proof.leaf_count() == 2 {
                return Ok(());
            }
        } else if tree.upgrade_change_hashes.is_empty() {
            let (expected, actual) = (hex::encode(committed), hex::encode(recomputed));
            return Err(BindRefusal::DataHash { expected, actual });
        }
        self.compare_items(committed, transactions.ok_or(BindRefusal::NeedsTransactions)?)
    }

    /// CometBFT's data hash if the block has no upgrade item: then its tree has the shape of the sequencer's, and
    /// differs from it only in leaves whose content the record carries.
    fn recompute(&self) -> Hash {
        let tree = &self.tree;
        let leaf = |value| merkle::leaf_hash(&item_digest(&data_item(value)));
        let roots = merkle::inner_hash(
            &leaf(Value::RollupTransactionsRoot(Bytes::copy_from_slice(&tree.header.rollup_transactions_root))),
            &leaf(Value::RollupIdsRoot(Bytes::copy_from_slice(&tree.rollup_ids_root()))),
        );
        // All siblings of the first leaf lie to its right; the first one is the second leaf.
        let siblings = tree.rollup_transactions_proof.siblings();
        let mut siblings = siblings.iter().skip(1);
        let mut root = roots;
        if let Some(info) = &tree.commit_info {
            let third = leaf(Value::ExtendedCommitInfo(info.bytes.clone()));
            // The third leaf has a neighbour unless it is the last one.
            let has_neighbour = info.proof.leaf_count() > 3;
            let pair = match info.proof.siblings().first() {
                Some(fourth) if has_neighbour => merkle::inner_hash(&third, fourth),
                _ => third,
            };
            siblings.next();
            root = merkle::inner_hash(&root, &pair);
        }
        siblings.fold(root, |left, right| merkle::inner_hash(&left, right))
    }

    /// Compares the record with the block's data items, one by one.
    fn compare_items(&self, committed: &[u8], transactions: &[Bytes]) -> Result<(), BindRefusal> {
        let tree = &self.tree;
        let root = merkle::root_of(transactions.iter().map(|item| item_digest(item)));
        if root != committed {
            let (expected, actual) = (hex::encode(committed), hex::encode(root));
            return Err(BindRefusal::OtherTransactions { expected, actual });
        }
        let mut rest = transactions.iter().enumerate().peekable();
        let mut expect = |what, value| {
            let (index, item) = rest.next().map_or((transactions.len(), None), |(index, item)| (index, Some(item)));
            if item.is_some_and(|item| *item == data_item(value)) {
                Ok(())
            } else {
                Err(BindRefusal::Item { index, what })
            }
        };
        let roots = [tree.header.rollup_transactions_root, tree.rollup_ids_root()];
        let [transactions_root, ids_root] = roots.map(|root| Bytes::copy_from_slice(&root));
        expect("rollup transactions root", Value::RollupTransactionsRoot(transactions_root))?;
        expect("root of the rollup ids", Value::RollupIdsRoot(ids_root))?;
        if !tree.upgrade_change_hashes.is_empty() {
            let hashes = tree.upgrade_change_hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
            expect("upgrade changes", Value::UpgradeChangeHashes(UpgradeChangeHashes { hashes }))?;
        }
        if let Some(info) = &tree.commit_info {
            expect("extended commit info", Value::ExtendedCommitInfo(info.bytes.clone()))?;
        }
        if let Some((_, item)) = rest.peek() {
            refuse_system_item(item, tree.commit_info.is_some())?;
        }
        // The sequencer's own tree: unwrapped roots, no leaf for the upgrade item, unwrapped commit info.
        let leaves = roots
            .iter()
            .map(|root| item_digest(root))
            .chain(tree.commit_info.iter().map(|info| item_digest(&info.bytes)))
            .chain(rest.map(|(_, item)| item_digest(item)));
        let actual = merkle::root_of(leaves);
        if actual != tree.header.data_hash {
            let (expected, actual) = (hex::encode(actual), hex::encode(tree.header.data_hash));
            return Err(BindRefusal::DataHash { expected, actual });
        }
        Ok(())
    }
}

/// Refuses an item of the sequencer behind those that the record has. A user's transaction is never mistaken for one:
/// it consists of several fields, a system item of exactly one.
fn refuse_system_item(item: &[u8], has_commit_info: bool) -> Result<(), BindRefusal> {
    let Some(Ok((number, scan::Value::Bytes(value)))) = scan::Fields::new(item).next() else { return Ok(()) };
    let value = match number {
        3 => UpgradeChangeHashes::decode(value).ok().map(Value::UpgradeChangeHashes),
        4 if !has_commit_info => Some(Value::ExtendedCommitInfo(Bytes::copy_from_slice(value))),
        _ => None,
    };
    match value {
        Some(value) if data_item(value.clone()) == item => Err(BindRefusal::LeftOut(match value {
            Value::UpgradeChangeHashes(_) => "upgrade changes",
            _ => "extended commit info",
        })),
        _ => Ok(()),
    }
}

fn data_item(value: Value) -> Vec<u8> {
    DataItem { value: Some(value) }.encode_to_vec()
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
    fn a_system_item_that_the_record_leaves_out_is_noticed_and_a_users_item_is_not_taken_for_one() {
        let hashes = UpgradeChangeHashes { hashes: vec![vec![1; 32].into()] };
        let upgrade = data_item(Value::UpgradeChangeHashes(hashes));
        let info = data_item(Value::ExtendedCommitInfo(Bytes::from_static(b"info")));
        let left_out = |item: &[u8], has_info| match refuse_system_item(item, has_info) {
            Err(BindRefusal::LeftOut(what)) => Some(what),
            Err(other) => panic!("{other}"),
            Ok(()) => None,
        };
        assert_eq!(
            (left_out(&upgrade, false), left_out(&upgrade, true)),
            (Some("upgrade changes"), Some("upgrade changes"))
        );
        assert_eq!((left_out(&info, false), left_out(&info, true)), (Some("extended commit info"), None));
        let of_a_user = [upgrade, b"\x12\x00".to_vec()].concat();
        assert_eq!((left_out(&of_a_user, false), left_out(b"", false)), (None, None), "it has several fields");
        let other = data_item(Value::RollupIdsRoot(Bytes::from_static(&[1; 32])));
        assert_eq!(left_out(&other, false), None, "the roots are compared elsewhere");
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
