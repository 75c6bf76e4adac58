//! Binds what is claimed about a block to the header that the validators committed to (reference §2.5).

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, SequencerHeight},
    merkle::{self, Hash},
    sequencer::{
        data_tree::{DataTree, item_digest},
        header::TrustedHeader,
    },
    verified::Verified,
    wire::{
        proto::astria::sequencerblock::v1::{
            DataItem,
            data_item::{UpgradeChangeHashes, Value},
        },
        scan,
    },
};

/// A block hash and the data that are said to belong to it. Consistent in itself; anybody can make such a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claim {
    pub(crate) block_hash: BlockHash,
    pub(crate) tree: DataTree,
}

/// A block's data items as far as they tell what a claim alone cannot: the digests of all, and the first one that is not
/// the sequencer's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataItems {
    pub(crate) digests: Vec<Hash>,
    /// None if there are no others.
    pub(crate) next: Option<Bytes>,
}

impl DataItems {
    /// How many items the block has.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }
}

/// What decides about a claim where its own proofs cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The block's data items.
    Items(Vec<Bytes>),
    /// What a claim says that was bound to the header already. A header commits to one content, so no other is genuine.
    Bound(ContentDigest),
}

/// Digest of all that a bound claim says about its block beside what stands in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentDigest(Hash);

impl ContentDigest {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a claim is not about a committed header.
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
    #[error("another record was bound to the committed header, and this one says otherwise")]
    OtherContent,
}

impl BindRefusal {
    /// Whether the record may be genuine: to be bound again together with the block's data items.
    pub fn needs_transactions(&self) -> bool {
        *self == Self::NeedsTransactions
    }
}

impl Claim {
    /// Checks that the claim describes the block of `header`, including the data that the header commits to.
    ///
    /// `transactions` are the block's data items. They are needed where the claim alone cannot tell: if it has
    /// upgrade changes, which no proof covers; and if it has no extended commit info although the block has further
    /// items, because whoever leaves the info out may put the committed hash of the third item into the proofs.
    pub(crate) fn bind(
        &self,
        header: &Verified<TrustedHeader>,
        transactions: Option<&[Bytes]>,
    ) -> Result<(), BindRefusal> {
        self.bind_items(header, transactions.map(|items| self.items_of(items)).as_ref())
    }

    /// The same where of the block's data items only as much is known as it takes.
    pub(crate) fn bind_items(
        &self,
        header: &Verified<TrustedHeader>,
        items: Option<&DataItems>,
    ) -> Result<(), BindRefusal> {
        self.compare(header)?;
        if canary(Canary::MetadataNotBound) {
            return Ok(());
        }
        self.compare_data(header.header().data_hash.unwrap_or_default().as_bytes(), items)
    }

    /// The same with whatever is there to decide where the claim alone cannot tell.
    pub(crate) fn bind_to(
        &self,
        header: &Verified<TrustedHeader>,
        content: Option<&Content>,
    ) -> Result<(), BindRefusal> {
        match content {
            None => self.bind(header, None),
            Some(Content::Items(items)) => self.bind(header, Some(items)),
            Some(Content::Bound(digest)) => match self.bind(header, None) {
                Err(BindRefusal::NeedsTransactions) if self.content() == *digest => Ok(()),
                Err(BindRefusal::NeedsTransactions) => Err(BindRefusal::OtherContent),
                decided => decided,
            },
        }
    }

    /// What the claim says that binding compares with the block's data. Proofs are left out: they lead to the same hash.
    pub(crate) fn content(&self) -> ContentDigest {
        let tree = &self.tree;
        let mut digest = Sha256::new();
        digest.update(tree.header.data_hash);
        digest.update(tree.header.rollup_transactions_root);
        digest.update(tree.rollup_ids_root());
        digest.update(merkle::root_of(&tree.upgrade_change_hashes));
        digest.update([u8::from(tree.commit_info.is_some())]);
        digest.update(tree.commit_info.as_ref().map(|info| &*info.bytes).unwrap_or_default());
        ContentDigest(digest.finalize().into())
    }

    /// What of a block's data items it takes to bind this claim.
    pub(crate) fn items_of(&self, transactions: &[Bytes]) -> DataItems {
        let digests = transactions.iter().map(|item| item_digest(item)).collect();
        DataItems { digests, next: transactions.get(self.own_items()).cloned() }
    }

    /// How many data items the sequencer itself has put into the block, if the claim is true.
    fn own_items(&self) -> usize {
        2 + usize::from(!self.tree.upgrade_change_hashes.is_empty()) + usize::from(self.tree.commit_info.is_some())
    }

    /// Compares what stands in both headers.
    pub(crate) fn compare(&self, trusted: &TrustedHeader) -> Result<(), BindRefusal> {
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

    /// Compares the data, of which the proofs hold, with what the header commits to.
    pub(crate) fn compare_data(&self, committed: &[u8], items: Option<&DataItems>) -> Result<(), BindRefusal> {
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
        self.compare_items(committed, items.ok_or(BindRefusal::NeedsTransactions)?)
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
    fn compare_items(&self, committed: &[u8], items: &DataItems) -> Result<(), BindRefusal> {
        let tree = &self.tree;
        let root = merkle::root_of(&items.digests);
        if root != committed {
            let (expected, actual) = (hex::encode(committed), hex::encode(root));
            return Err(BindRefusal::OtherTransactions { expected, actual });
        }
        let count = items.digests.len();
        let mut rest = items.digests.iter().enumerate().peekable();
        let mut expect = |what, value| {
            let (index, digest) = rest.next().map_or((count, None), |(index, digest)| (index, Some(digest)));
            if digest.is_some_and(|digest| *digest == item_digest(&data_item(value))) {
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
        match (rest.peek(), &items.next) {
            (None, None) => {}
            (Some((_, digest)), Some(item)) if **digest == item_digest(item) => {
                refuse_system_item(item, tree.commit_info.is_some())?;
            }
            (next, _) => {
                let index = next.map_or(count, |(index, _)| *index);
                return Err(BindRefusal::Item { index, what: "next item" });
            }
        }
        // The sequencer's own tree: unwrapped roots, no leaf for the upgrade item, unwrapped commit info.
        let leaves = roots
            .iter()
            .map(|root| item_digest(root))
            .chain(tree.commit_info.iter().map(|info| item_digest(&info.bytes)))
            .chain(rest.map(|(_, digest)| *digest));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ROLLUP, block};

    #[test]
    fn items_are_counted_and_what_is_bound_is_told_apart_by_its_digest() {
        let none = DataItems { digests: Vec::new(), next: None };
        let some = DataItems { digests: vec![[0; 32]; 3], ..none.clone() };
        assert_eq!([&none, &some].map(|items| (items.len(), items.is_empty())), [(0, true), (3, false)]);
        let (one, other) = (block(4, &[]).bound_content(), block(4, &[ROLLUP]).bound_content());
        assert_ne!(one.as_bytes(), other.as_bytes());
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
}
