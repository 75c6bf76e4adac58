//! What stands on Celestia: genuine blobs in any order and number, and whatever strangers post beside them.

use downbeat_core::{celestia::Namespace, cell::Mode};
use downbeat_sim::{
    adversary,
    fault::{Draw, Site, Spot},
};
use downbeat_tests::{Stage, world};
use downbeat_world::{
    RelayerConfig, World, WorldConfig,
    forge::{Forgery, sequenced},
    random::Random,
    relayer::{compress, metadata_blob, rollup_data_blob},
};

const STORY: u64 = 40;

/// Every block comes to be firm exactly once, whatever stands on Celestia, in the modes that read it.
async fn all_become_firm(
    mode: Mode,
    world: WorldConfig,
    before_celestia: impl FnMut(&mut World) + Send + 'static,
) -> downbeat::driver::Snapshot {
    let stage = Stage::open_with(world, STORY, before_celestia).await;
    let conductor = stage.conductor(mode);
    conductor.reaches(STORY, STORY).await;
    let shown = conductor.snapshot().await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
    assert_eq!(stage.sessions(), 1);
    shown
}

fn untidy() -> WorldConfig {
    let relayer = RelayerConfig {
        late_blocks: 4,
        shuffle: true,
        duplicate_percent: 40,
        blocks_per_submission: 3,
        ..RelayerConfig::default()
    };
    WorldConfig { relayer, ..world() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_may_come_late_shuffled_split_and_twice() {
    for mode in [Mode::SoftAndFirm, Mode::FirmOnly] {
        all_become_firm(mode, untidy(), |_| {}).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_may_come_many_celestia_heights_before_or_after_the_data() {
    for (metadata_after, rollup_data_after) in [(0, 8), (8, 0)] {
        let mut world = world();
        world.relayer.metadata_after = metadata_after;
        world.relayer.rollup_data_after = rollup_data_after;
        all_become_firm(Mode::FirmOnly, world, |_| {}).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_post_forgeries_garbage_and_bombs_change_nothing() {
    for (seed, mode) in [(1, Mode::SoftAndFirm), (2, Mode::FirmOnly)] {
        let mut draw = Draw::new(seed, 0, Spot { site: Site::CelestiaBlock, nth: 0 });
        let shown = all_become_firm(mode, untidy(), move |world| adversary::post_all(world, &mut draw)).await;
        assert!(shown.counters.dropped.values().sum::<u64>() > 0, "{:?}", shown.counters);
    }
}

/// Forgeries of the newest block, which are on Celestia before the genuine one is: as metadata and as rollup data.
fn post_forgeries_first(world: &mut World, random: &mut Random) {
    let victim = world.node_ids()[0];
    let Some(block) = world.sequencer.block(world.sequencer.head()).map(|block| block.published.clone()) else {
        return;
    };
    let sequencer = Namespace::of_sequencer(world.sequencer.chain_id());
    let rollup = Namespace::of_rollup(&victim);
    let lie = sequenced(random.bytes(20));
    for forgery in [
        Forgery::Transactions(lie.clone()),
        Forgery::ExtraRollup(victim, lie),
        Forgery::WithoutRollup(victim),
        Forgery::Later(1),
        Forgery::Proposer(random.array()),
        Forgery::WithoutExtendedCommitInfo,
    ] {
        let forged = block.forged(forgery);
        world.celestia.submit(sequencer, metadata_blob(vec![forged.metadata()])).expect("postable");
        if let Some(data) = forged.rollup_data(&victim) {
            world.celestia.submit(rollup, rollup_data_blob(vec![data])).expect("postable");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgeries_of_every_block_that_come_before_the_genuine_one_are_dropped() {
    let mut random = Random::new(1, "forgeries");
    let shown = all_become_firm(Mode::FirmOnly, world(), move |world| post_forgeries_first(world, &mut random)).await;
    let dropped = shown.counters.dropped.values().sum::<u64>();
    assert!(dropped >= STORY, "{:?}", shown.counters);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decompression_bombs_in_both_namespaces_stop_at_the_limit() {
    let bomb = compress(&vec![0; 64 << 20]);
    let shown = all_become_firm(Mode::SoftAndFirm, world(), move |world| {
        let rollup = Namespace::of_rollup(&world.node_ids()[0]);
        let sequencer = Namespace::of_sequencer(world.sequencer.chain_id());
        for namespace in [rollup, sequencer] {
            world.celestia.submit(namespace, bomb.clone()).expect("postable");
        }
    })
    .await;
    assert!(shown.counters.dropped[&downbeat_core::command::Subject::Blob] > 0, "{:?}", shown.counters);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firm_block_whose_data_is_missing_is_waited_for_and_never_executed_without_it() {
    // Given that the relayer has lost the rollup's data of what it published.
    let mut world = world();
    world.relayer.only = Some(Vec::new());
    world.contents.absent_rollup_percent = 0;
    world.contents.empty_block_percent = 0;
    let stage = Stage::open(world, 10).await;
    let conductor = stage.conductor(Mode::FirmOnly);
    conductor.until_shown("a reported gap", |shown| shown.counters.gaps > 0).await;
    stage.assert_each_block_executed_once(0, 0);

    // When somebody posts it, out of order.
    let found = stage.with(|world| {
        let id = world.node_ids()[0];
        let data: Vec<_> = world.sequencer.blocks().filter_map(|block| block.published.rollup_data(&id)).collect();
        let blob = rollup_data_blob(data.into_iter().rev().collect());
        world.celestia.submit(Namespace::of_rollup(&id), blob).is_ok()
    });
    assert!(found);
    conductor.until("what was made by then", |world| world.rollups.values().all(|node| node.firm().0 > 0)).await;
    stage.until("the sequencer's rest", |world| world.sequencer_stalled && world.relayer.next().0 > 12).await;
    stage.with(|world| {
        let id = world.node_ids()[0];
        let data: Vec<_> = world.sequencer.blocks().filter_map(|block| block.published.rollup_data(&id)).collect();
        world.celestia.submit(Namespace::of_rollup(&id), rollup_data_blob(data)).expect("postable");
    });

    // Then all become firm.
    conductor.reaches(10, 10).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(10, 10);
}
