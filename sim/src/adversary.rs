//! Strangers who post to the namespaces: garbage, forgeries that are consistent in themselves, others' data, copies.

use std::sync::OnceLock;

use bytes::Bytes;
use downbeat_core::{
    BlockHash, RollupId, SequencerHeight,
    celestia::Namespace,
    wire::proto::astria::sequencerblock::v1::{
        SubmittedMetadata, SubmittedMetadataList, SubmittedRollupData, SubmittedRollupDataList,
    },
};
use downbeat_world::{
    World,
    forge::{Forgery, sequenced},
    published::PublishedBlock,
    relayer::{compress, store},
};
use prost::Message as _;

use crate::fault::{Draw, Kind};

/// What strangers post.
pub const KINDS: &[Kind] = &[
    Kind::PostedGarbage,
    Kind::PostedBomb,
    Kind::PostedForgery,
    Kind::PostedForgedData,
    Kind::PostedForeign,
    Kind::PostedCopy,
    Kind::PostedAhead,
    Kind::PostedFlood,
];

/// Submits one of each kind into Celestia's next block.
pub fn post_all(world: &mut World, draw: &mut Draw) {
    for kind in KINDS {
        draw.draw();
        post(world, *kind, *draw);
    }
}

/// Submits a hostile blob (or several) into Celestia's next block.
pub fn post(world: &mut World, kind: Kind, mut draw: Draw) {
    let (head, tail) = (world.sequencer.head(), world.sequencer.tail());
    let sequencer = Namespace::of_sequencer(world.sequencer.chain_id());
    let ids = world.node_ids();
    let Some(victim) = ids.get(draw.index(ids.len())).copied() else { return };
    let rollup = Namespace::of_rollup(&victim);
    let height = SequencerHeight(draw.within(tail.0, head.0));
    let Some(block) = world.sequencer.block(height).map(|block| block.published.clone()) else { return };
    let blobs = match kind {
        Kind::PostedGarbage => match draw.below(3) {
            0 => vec![(sequencer, Bytes::copy_from_slice(&draw.array::<40>()))],
            1 => vec![(rollup, store(&draw.array::<40>()))],
            _ => vec![(rollup, sequenced(draw.array::<10>().to_vec()))],
        },
        // Unpacks to a hundred times what the ratio permits for its size, and to more than any limit.
        Kind::PostedBomb => vec![(if draw.below(2) == 0 { sequencer } else { rollup }, bomb())],
        Kind::PostedForgery => {
            let forged = forgery(&mut draw, victim, head);
            vec![(sequencer, metadata(vec![block.forged(forged).metadata()]))]
        }
        Kind::PostedForgedData => {
            let forged = block.forged(Forgery::Transactions(Bytes::copy_from_slice(&draw.array::<20>())));
            forged.rollup_data(&victim).map(|data| (rollup, records(vec![data]))).into_iter().collect()
        }
        Kind::PostedForeign => foreign_record(&block, victim).map(|data| (rollup, data)).into_iter().collect(),
        Kind::PostedCopy => vec![(sequencer, metadata(vec![block.metadata()]))],
        Kind::PostedAhead => {
            let ahead = head.0.saturating_add(draw.within(1, 100));
            vec![(sequencer, metadata(vec![block.forged(Forgery::Height(ahead)).metadata()]))]
        }
        Kind::PostedFlood => {
            let flood = (0..draw.within(3, 70)).map(|_| block.forged(Forgery::Proposer(draw.array())).metadata());
            vec![(sequencer, metadata(flood.collect()))]
        }
        _ => Vec::new(),
    };
    for (namespace, data) in blobs {
        // A blob without content has no commitment and is not posted.
        let _ = world.celestia.submit(namespace, data);
    }
}

/// Blobs without a relayer's care.
fn metadata(entries: Vec<SubmittedMetadata>) -> Bytes {
    store(&SubmittedMetadataList { entries }.encode_to_vec())
}

fn records(entries: Vec<SubmittedRollupData>) -> Bytes {
    store(&SubmittedRollupDataList { entries }.encode_to_vec())
}

/// A third of a megabyte of zeros.
fn bomb() -> Bytes {
    static BOMB: OnceLock<Bytes> = OnceLock::new();
    BOMB.get_or_init(|| compress(&vec![0; 300 << 10])).clone()
}

fn forgery(draw: &mut Draw, victim: RollupId, head: SequencerHeight) -> Forgery {
    match draw.below(10) {
        0 => Forgery::Transactions(Bytes::copy_from_slice(&draw.array::<20>())),
        1 => Forgery::WithoutRollup(victim),
        2 => Forgery::ExtraRollup(victim, Bytes::copy_from_slice(&draw.array::<20>())),
        3 => Forgery::BlockHash(BlockHash(draw.array())),
        4 => Forgery::ChainId("another-chain".to_owned()),
        5 => Forgery::Height(draw.within(1, head.0 + 50)),
        6 => Forgery::Later(7),
        7 => Forgery::Proposer(draw.array()),
        8 => Forgery::WithoutExtendedCommitInfo,
        _ => Forgery::UpgradeChangeHashes(vec![draw.array()]),
    }
}

/// A genuine record of another rollup, to be posted into the victim's namespace.
fn foreign_record(block: &PublishedBlock, victim: RollupId) -> Option<Bytes> {
    let other = block.rollup_ids().find(|id| *id != victim)?;
    Some(records(vec![block.rollup_data(&other)?]))
}
