//! What the sequencer makes of a block's data: its trees and proofs, and the messages that carry them
//! (reference §1.4, §1.5, §2.4, §2.5).

use std::collections::BTreeMap;

use bytes::Bytes;
use downbeat_core::{
    BlockHash, RollupId, SequencerHeight,
    merkle::{self, Hash, Tree},
    wire::proto::astria::{
        primitive::v1::{Proof, RollupId as WireRollupId},
        sequencerblock::v1::{
            DataItem, ExtendedCommitInfoWithProof, FilteredSequencerBlock, RollupTransactions, SequencerBlock,
            SequencerBlockHeader, SubmittedMetadata, SubmittedRollupData,
            data_item::{UpgradeChangeHashes, Value},
        },
    },
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// How the sequencer's own items stand in a CometBFT block (reference §2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The older one: two bare roots, and nothing else.
    RawRoots,
    /// Today's: encoded `DataItem`s.
    #[default]
    DataItems,
}

/// Everything that goes into one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockData {
    pub format: Format,
    /// Encoded `RollupData` per rollup. A rollup with an empty list has no data.
    pub rollups: BTreeMap<RollupId, Vec<Bytes>>,
    pub upgrade_change_hashes: Vec<Hash>,
    /// Encoded `ExtendedCommitInfoWithCurrencyPairMapping`.
    pub extended_commit_info: Option<Bytes>,
    /// The users' signed transactions, opaque.
    pub sequencer_transactions: Vec<Bytes>,
}

impl BlockData {
    /// The block's transactions as CometBFT knows them, the sequencer's own items first.
    pub fn transactions(&self) -> Vec<Bytes> {
        let (transactions_root, ids_root) = (self.transactions_tree().root(), self.ids_tree().root());
        let mut items = match self.format {
            Format::RawRoots => vec![root_bytes(transactions_root), root_bytes(ids_root)],
            Format::DataItems => {
                let mut items = vec![
                    item(Value::RollupTransactionsRoot(root_bytes(transactions_root))),
                    item(Value::RollupIdsRoot(root_bytes(ids_root))),
                ];
                if !self.upgrade_change_hashes.is_empty() {
                    let hashes = self.upgrade_change_hashes.iter().copied().map(root_bytes).collect();
                    items.push(item(Value::UpgradeChangeHashes(UpgradeChangeHashes { hashes })));
                }
                items.extend(self.extended_commit_info.clone().map(|info| item(Value::ExtendedCommitInfo(info))));
                items
            }
        };
        items.extend(self.sequencer_transactions.iter().cloned());
        items
    }

    fn transactions_tree(&self) -> Tree {
        let leaf = |(id, transactions): (&RollupId, &Vec<Bytes>)| [id.0, merkle::root_of(transactions)].concat();
        Tree::new(self.rollups.iter().map(leaf))
    }

    fn ids_tree(&self) -> Tree {
        Tree::new(self.rollups.keys().map(|id| id.0))
    }

    /// The tree that `SequencerBlockHeader.data_hash` is the root of. In it the items stand bare, and an upgrade item
    /// not at all.
    fn data_tree(&self) -> Tree {
        let own = [self.transactions_tree().root(), self.ids_tree().root()].map(root_bytes);
        let leaves = own.iter().chain(&self.extended_commit_info).chain(&self.sequencer_transactions);
        Tree::new(leaves.map(Sha256::digest))
    }
}

/// A block as the sequencer serves and publishes it. Made by [`SequencerChain`](crate::SequencerChain) it is genuine;
/// made by [`forged`](Self::forged) it is consistent in itself only.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedBlock {
    pub(crate) block_hash: BlockHash,
    pub(crate) header: SequencerBlockHeader,
    pub(crate) data: BlockData,
    /// In the order of the rollup ids.
    rollup_proofs: Vec<Proof>,
    rollup_transactions_proof: Proof,
    rollup_ids_proof: Proof,
    extended_commit_info_proof: Option<Proof>,
}

impl PublishedBlock {
    /// Derives trees and proofs from `data`, and with them the header's `data_hash` and `rollup_transactions_root`.
    pub fn new(block_hash: BlockHash, mut header: SequencerBlockHeader, mut data: BlockData) -> Self {
        data.rollups.retain(|_, transactions| !transactions.is_empty());
        if data.format == Format::RawRoots {
            data.upgrade_change_hashes.clear();
            data.extended_commit_info = None;
        }
        let (rollups, tree) = (data.transactions_tree(), data.data_tree());
        header.data_hash = root_bytes(tree.root());
        header.rollup_transactions_root = root_bytes(rollups.root());
        Self {
            block_hash,
            header,
            rollup_proofs: (0..data.rollups.len()).map(|index| proof(&rollups, index)).collect(),
            rollup_transactions_proof: proof(&tree, 0),
            rollup_ids_proof: proof(&tree, 1),
            extended_commit_info_proof: data.extended_commit_info.as_ref().map(|_| proof(&tree, 2)),
            data,
        }
    }

    pub fn block_hash(&self) -> BlockHash {
        self.block_hash
    }

    pub fn height(&self) -> SequencerHeight {
        SequencerHeight(self.header.height)
    }

    pub fn header(&self) -> &SequencerBlockHeader {
        &self.header
    }

    pub fn data(&self) -> &BlockData {
        &self.data
    }

    /// Ascending.
    pub fn rollup_ids(&self) -> impl Iterator<Item = RollupId> + '_ {
        self.data.rollups.keys().copied()
    }

    /// What `GetFilteredSequencerBlock` answers. Ids without data in this block are left out.
    pub fn filtered(&self, rollup_ids: &[RollupId]) -> FilteredSequencerBlock {
        FilteredSequencerBlock {
            block_hash: self.hash_bytes(),
            header: Some(self.header.clone()),
            rollup_transactions: self.rollup_transactions(|id| rollup_ids.contains(id)),
            rollup_transactions_proof: Some(self.rollup_transactions_proof.clone()),
            all_rollup_ids: self.wire_ids(),
            rollup_ids_proof: Some(self.rollup_ids_proof.clone()),
            upgrade_change_hashes: self.change_hashes(),
            extended_commit_info_with_proof: self.extended_commit_info(),
        }
    }

    /// What `GetSequencerBlock` answers.
    pub fn sequencer_block(&self) -> SequencerBlock {
        SequencerBlock {
            header: Some(self.header.clone()),
            rollup_transactions: self.rollup_transactions(|_| true),
            rollup_transactions_proof: Some(self.rollup_transactions_proof.clone()),
            rollup_ids_proof: Some(self.rollup_ids_proof.clone()),
            block_hash: self.hash_bytes(),
            upgrade_change_hashes: self.change_hashes(),
            extended_commit_info_with_proof: self.extended_commit_info(),
        }
    }

    /// What is published in the sequencer's namespace.
    pub fn metadata(&self) -> SubmittedMetadata {
        SubmittedMetadata {
            block_hash: self.hash_bytes(),
            header: Some(self.header.clone()),
            rollup_ids: self.wire_ids(),
            rollup_transactions_proof: Some(self.rollup_transactions_proof.clone()),
            rollup_ids_proof: Some(self.rollup_ids_proof.clone()),
            upgrade_change_hashes: self.change_hashes(),
            extended_commit_info_with_proof: self.extended_commit_info(),
        }
    }

    /// What is published in a rollup's namespace; nothing if it has no data in this block.
    pub fn rollup_data(&self, rollup_id: &RollupId) -> Option<SubmittedRollupData> {
        let found = self.data.rollups.iter().zip(&self.rollup_proofs).find(|((id, _), _)| *id == rollup_id);
        found.map(|((id, transactions), proof)| SubmittedRollupData {
            sequencer_block_hash: self.hash_bytes(),
            rollup_id: Some(wire_id(id)),
            transactions: transactions.clone(),
            proof: Some(proof.clone()),
        })
    }

    fn rollup_transactions(&self, wanted: impl Fn(&RollupId) -> bool) -> Vec<RollupTransactions> {
        let all = self.data.rollups.iter().zip(&self.rollup_proofs).filter(|((id, _), _)| wanted(id));
        all.map(|((id, transactions), proof)| RollupTransactions {
            rollup_id: Some(wire_id(id)),
            transactions: transactions.clone(),
            proof: Some(proof.clone()),
        })
        .collect()
    }

    fn extended_commit_info(&self) -> Option<ExtendedCommitInfoWithProof> {
        self.data.extended_commit_info.clone().map(|extended_commit_info| ExtendedCommitInfoWithProof {
            extended_commit_info,
            proof: self.extended_commit_info_proof.clone(),
        })
    }

    fn wire_ids(&self) -> Vec<WireRollupId> {
        self.data.rollups.keys().map(wire_id).collect()
    }

    fn change_hashes(&self) -> Vec<Bytes> {
        self.data.upgrade_change_hashes.iter().copied().map(root_bytes).collect()
    }

    fn hash_bytes(&self) -> Bytes {
        root_bytes(self.block_hash.0)
    }
}

fn root_bytes(hash: Hash) -> Bytes {
    Bytes::copy_from_slice(&hash)
}

fn item(value: Value) -> Bytes {
    DataItem { value: Some(value) }.encode_to_vec().into()
}

fn proof(tree: &Tree, index: usize) -> Proof {
    tree.proof(index).expect("the tree has this leaf").to_wire()
}

/// A rollup id as messages carry it.
pub fn wire_id(id: &RollupId) -> WireRollupId {
    WireRollupId { inner: Bytes::copy_from_slice(&id.0) }
}
