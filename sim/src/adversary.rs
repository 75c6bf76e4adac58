//! A stranger who posts to the namespaces: garbage, forgeries that are consistent in themselves, others' data, repeats.

use bytes::Bytes;
use downbeat_core::{BlockHash, RollupId, celestia::Namespace};
use downbeat_world::{
    World,
    forge::{Forgery, sequenced},
    random::Random,
    relayer::{compress, metadata_blob, rollup_data_blob},
};

/// Submits a few hostile blobs into Celestia's next block.
pub fn post(world: &mut World, random: &mut Random) {
    let head = world.sequencer.head();
    let tail = world.sequencer.tail();
    if head < tail {
        return;
    }
    let sequencer = Namespace::of_sequencer(world.sequencer.chain_id());
    let Some(victim) = pick(world.node_ids(), random) else { return };
    let rollup = Namespace::of_rollup(&victim);
    for _ in 0..random.within(1, 3) {
        let height = downbeat_core::SequencerHeight(random.within(tail.0, head.0));
        let Some(block) = world.sequencer.block(height).map(|block| block.published.clone()) else { continue };
        let forgery = match random.below(10) {
            0 => Forgery::Transactions(Bytes::from(random.bytes(20))),
            1 => Forgery::WithoutRollup(victim),
            2 => Forgery::ExtraRollup(victim, Bytes::from(random.bytes(20))),
            3 => Forgery::BlockHash(BlockHash(random.array())),
            4 => Forgery::ChainId("another-chain".to_owned()),
            5 => Forgery::Height(random.within(1, head.0 + 50)),
            6 => Forgery::Later(7),
            7 => Forgery::Proposer(random.array()),
            8 => Forgery::WithoutExtendedCommitInfo,
            _ => Forgery::UpgradeChangeHashes(vec![random.array()]),
        };
        let forged = block.forged(forgery);
        let (namespace, data) = match random.below(8) {
            0 => (sequencer, Bytes::from(random.bytes(40))),
            1 => (rollup, compress(&random.bytes(40))),
            2 => (rollup, compress(&vec![0; 4 << 20])),
            3 => match foreign_record(&block, victim) {
                Some(data) => (rollup, data),
                None => continue,
            },
            4 => (sequencer, metadata_blob(vec![block.metadata()])),
            5 => match forged.rollup_data(&victim) {
                Some(data) => (rollup, rollup_data_blob(vec![data])),
                None => continue,
            },
            _ => (sequencer, metadata_blob(vec![forged.metadata()])),
        };
        // A blob without content has no commitment and is not posted.
        let _ = world.celestia.submit(namespace, data);
    }
    if random.chance(10) {
        let data = sequenced(random.bytes(10));
        let _ = world.celestia.submit(rollup, data);
    }
}

/// A genuine record of another rollup, to be posted into the victim's namespace.
fn foreign_record(block: &downbeat_world::published::PublishedBlock, victim: RollupId) -> Option<Bytes> {
    let other = block.rollup_ids().find(|id| *id != victim)?;
    Some(rollup_data_blob(vec![block.rollup_data(&other)?]))
}

fn pick(ids: &[RollupId], random: &mut Random) -> Option<RollupId> {
    if ids.is_empty() {
        return None;
    }
    let index = random.below(u64::try_from(ids.len()).ok()?);
    ids.get(usize::try_from(index).ok()?).copied()
}
