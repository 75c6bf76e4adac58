//! Conductors and rollup nodes that end and come back: what was committed is the truth, the rest is done again.

use std::{collections::BTreeSet, time::Duration};

use downbeat_core::cell::Mode;
use downbeat_tests::{Stage, world};
use downbeat_world::{
    random::Random,
    rollup::{Call, SequencerHash},
};

const STORY: u64 = 30;

/// A conductor that starts with soft ahead of firm looks each block up, and confirms what it finds.
async fn firm_confirms_what_an_earlier_conductor_executed(sequencer_hash: SequencerHash) {
    // Given 12 blocks that were executed softly, and a conductor that was stopped then.
    let mut world = world();
    world.node.sequencer_hash = sequencer_hash;
    let stage = Stage::open(world, 12).await;
    stage.with(|world| world.relayer.pause(true));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(12, 0).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(12, 0);

    // When another one starts, and the blocks come to Celestia.
    stage.with(|world| world.relayer.pause(false));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(12, 12).await;
    conductor.stop().await;

    // Then each was looked up, and none executed again.
    stage.assert_each_block_executed_once(12, 12);
    assert_eq!(stage.sessions(), 2);
    let looked_up = stage.trace().into_iter().filter_map(|call| match call {
        Call::Fetched(_, Ok(metadata)) => Some(metadata.number),
        _ => None,
    });
    assert_eq!(looked_up.collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firm_confirms_looked_up_blocks_by_the_sequencer_hash_that_the_node_stores() {
    firm_confirms_what_an_earlier_conductor_executed(SequencerHash::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firm_confirms_looked_up_blocks_whose_sequencer_hash_has_a_prefix() {
    firm_confirms_what_an_earlier_conductor_executed(SequencerHash::Prefixed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firm_confirms_looked_up_blocks_of_a_node_that_stores_no_sequencer_hash() {
    firm_confirms_what_an_earlier_conductor_executed(SequencerHash::NotStored).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_goes_on_where_another_one_ended() {
    let stage = Stage::open(world(), 0).await;
    for (mode, last, firm) in [
        (Mode::SoftOnly, 10, 0),
        // It confirms what is soft before it executes anything.
        (Mode::FirmOnly, 10, 10),
        (Mode::FirmOnly, 15, 15),
        (Mode::SoftOnly, 20, 15),
        (Mode::SoftAndFirm, 25, 25),
        (Mode::SoftOnly, 30, 25),
        (Mode::FirmOnly, 35, 35),
    ] {
        stage.go_on_to(last);
        let conductor = stage.conductor(mode);
        conductor.reaches(last, firm).await;
        conductor.stop().await;
        stage.assert_each_block_executed_once(last, firm);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_loses_nothing_and_repeats_nothing() {
    let stage = Stage::open(world(), STORY).await;
    for stop in [5, 10, 15, 20, 25] {
        let conductor = stage.conductor(Mode::SoftAndFirm);
        conductor.reaches(stop, stop / 2).await;
        conductor.stop().await;
    }
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    // A stop waits for the call in flight, but not for the commitment after it: such a block is executed again.
    stage.assert_chain(STORY, STORY);
    assert_no_block_was_skipped(&stage);
}

/// The numbers that were executed grow without a gap; one comes again only after a new session.
#[track_caller]
fn assert_no_block_was_skipped(stage: &Stage) {
    let mut highest = 0;
    let mut in_session = BTreeSet::new();
    for call in stage.trace() {
        match call {
            Call::Opened(Ok(_)) => in_session.clear(),
            Call::Executed(_, Ok(metadata)) => {
                assert!(metadata.number <= highest + 1, "{} follows {highest}", metadata.number);
                assert!(in_session.insert(metadata.number), "{} twice in one session", metadata.number);
                highest = highest.max(metadata.number);
            }
            _ => {}
        }
    }
    assert_eq!(highest, stage.last());
}

/// Kills and starts conductors at moments drawn from `seed` until they are through.
async fn one_chain_whenever_conductors_are_killed(mode: Mode, seed: u64) {
    let mut random = Random::new(seed, "kills");
    let mut world = world();
    world.seed = seed;
    let stage = Stage::open(world, STORY).await;
    let firm = if mode.follows_firm() { STORY } else { 0 };
    let mut kills = 0;
    while kills < 12 {
        let conductor = stage.conductor(mode);
        // Some moments are counted in calls, for those between two calls of a block; some in time, for those within.
        if random.chance(50) {
            let calls = stage.trace().len() + usize::try_from(random.within(1, 12)).expect("a small number");
            let is_late = |node: &downbeat_world::RollupNode| {
                node.trace().count() >= calls || (node.soft().0 >= STORY && node.firm().0 >= firm)
            };
            conductor.until("some calls", |world| world.rollups.values().all(is_late)).await;
        } else {
            tokio::time::sleep(Duration::from_micros(random.within(100, 80_000))).await;
        }
        conductor.kill().await;
        kills += 1;
    }
    if random.chance(50) {
        stage.node(downbeat_world::RollupNode::restart);
    }
    let conductor = stage.conductor(mode);
    conductor.reaches(STORY, firm).await;
    conductor.stop().await;
    stage.assert_chain(STORY, firm);
    assert_no_block_was_skipped(&stage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_chain_whenever_conductors_are_killed_that_follow_both() {
    for seed in 0..3 {
        one_chain_whenever_conductors_are_killed(Mode::SoftAndFirm, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_chain_whenever_conductors_are_killed_that_follow_firm() {
    for seed in 3..5 {
        one_chain_whenever_conductors_are_killed(Mode::FirmOnly, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_chain_whenever_conductors_are_killed_that_follow_soft() {
    for seed in 5..7 {
        one_chain_whenever_conductors_are_killed(Mode::SoftOnly, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_node_that_restarts_keeps_what_was_committed_and_gets_the_rest_again() {
    let stage = Stage::open(world(), STORY).await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    for restart in [4, 8, 12, 16] {
        conductor.reaches(restart, 0).await;
        stage.execution().set_down(true);
        stage.node(downbeat_world::RollupNode::restart);
        stage.execution().set_down(false);
    }
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_chain(STORY, STORY);
    assert_no_block_was_skipped(&stage);
}
