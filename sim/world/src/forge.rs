//! Blocks that a liar would make: each is consistent in itself, and at odds with what the validators committed.

use bytes::Bytes;
use downbeat_core::{
    BlockHash, RollupId,
    wire::proto::astria::sequencerblock::v1::{RollupData, rollup_data::Value},
};
use prost::Message as _;

use crate::published::PublishedBlock;

/// What a forged block lies about. All trees and proofs fit the lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// Every rollup gets one transaction of the liar's instead of its own.
    Transactions(Bytes),
    /// A rollup is left out, of the list of ids too.
    WithoutRollup(RollupId),
    /// A rollup gets data that it does not have.
    ExtraRollup(RollupId, Bytes),
    BlockHash(BlockHash),
    ChainId(String),
    Height(u64),
    /// The header's time, this many seconds later.
    Later(u32),
    Proposer([u8; 20]),
    WithoutExtendedCommitInfo,
    ExtendedCommitInfo(Bytes),
    UpgradeChangeHashes(Vec<[u8; 32]>),
}

impl PublishedBlock {
    /// This block with a lie in it.
    pub fn forged(&self, forgery: Forgery) -> Self {
        let Self { mut block_hash, mut header, mut data, .. } = self.clone();
        match forgery {
            Forgery::Transactions(content) => {
                data.rollups.values_mut().for_each(|transactions| *transactions = vec![sequenced(content.clone())]);
            }
            Forgery::WithoutRollup(id) => drop(data.rollups.remove(&id)),
            Forgery::ExtraRollup(id, content) => drop(data.rollups.insert(id, vec![sequenced(content)])),
            Forgery::BlockHash(other) => block_hash = other,
            Forgery::ChainId(other) => header.chain_id = other,
            Forgery::Height(other) => header.height = other,
            Forgery::Later(seconds) => {
                let time = header.time.get_or_insert_default();
                time.seconds = time.seconds.saturating_add(seconds.into());
            }
            Forgery::Proposer(other) => header.proposer_address = Bytes::copy_from_slice(&other),
            Forgery::WithoutExtendedCommitInfo => data.extended_commit_info = None,
            Forgery::ExtendedCommitInfo(other) => data.extended_commit_info = Some(other),
            Forgery::UpgradeChangeHashes(other) => data.upgrade_change_hashes = other,
        }
        Self::new(block_hash, header, data)
    }
}

/// An encoded element of sequenced data.
pub fn sequenced(content: impl Into<Bytes>) -> Bytes {
    RollupData { value: Some(Value::SequencedData(content.into())) }.encode_to_vec().into()
}
