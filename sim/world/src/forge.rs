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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockInput, SequencerChain, SequencerConfig};
    use downbeat_core::Timestamp;

    #[test]
    fn a_forgery_differs_from_the_genuine_block_and_fits_itself() {
        let mut chain = SequencerChain::new(SequencerConfig::default());
        let id = RollupId([1; 32]);
        let input =
            BlockInput { rollup_data: vec![(id, vec![sequenced("a"), sequenced("b")])], ..BlockInput::default() };
        chain.make_block(Timestamp(1), BlockInput::default());
        let height = chain.make_block(Timestamp(2), input);
        let genuine = &chain.block(height).expect("a block").published;
        let forgeries = [
            Forgery::Transactions(Bytes::from_static(b"x")),
            Forgery::WithoutRollup(id),
            Forgery::ExtraRollup(RollupId([2; 32]), Bytes::from_static(b"x")),
            Forgery::BlockHash(BlockHash([5; 32])),
            Forgery::ChainId("other".to_owned()),
            Forgery::Height(77),
            Forgery::Later(1),
            Forgery::Proposer([3; 20]),
            Forgery::WithoutExtendedCommitInfo,
            Forgery::ExtendedCommitInfo(Bytes::from_static(&[0x0a, 0])),
            Forgery::UpgradeChangeHashes(vec![[6; 32]]),
        ];
        for forgery in forgeries {
            let forged = genuine.forged(forgery.clone());
            assert_ne!(forged.metadata(), genuine.metadata(), "{forgery:?}");
            assert_ne!(forged.filtered(&[id]), genuine.filtered(&[id]), "{forgery:?}");
            assert_eq!(
                PublishedBlock::new(forged.block_hash(), forged.header().clone(), forged.data().clone()),
                forged
            );
        }
    }
}
