//! What a conductor does when nothing goes wrong: the modes, firm overtaking soft, and several rollups in one process.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use downbeat_core::{CellId, SequencerHeight, cell::Mode, view::Wait};
use downbeat_tests::{OFFSET, Stage, world};
use downbeat_world::{BlockInput, World, cometbft::Vote, rollup::Call, serve::Failure};

const STORY: u64 = 30;

/// Heads that the updates of the first rollup's node asked for, in order.
fn heads(stage: &Stage) -> Vec<(u64, u64)> {
    let number = |call: Call| match call {
        Call::Updated(_, Ok(state)) => {
            let soft = state.soft_executed_block_metadata.map_or(0, |block| block.number);
            Some((soft, state.firm_executed_block_metadata.map_or(0, |block| block.number)))
        }
        _ => None,
    };
    stage.trace().into_iter().filter_map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_only_executes_each_block_softly_and_leaves_firm_alone() {
    let stage = Stage::open(world(), STORY).await;
    let conductor = stage.conductor(Mode::SoftOnly);
    conductor.reaches(STORY, 0).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, 0);
    assert_eq!(heads(&stage), (1..=STORY).map(|number| (number, 0)).collect::<Vec<_>>());
    assert!(stage.net.hooks.celestia.counts().is_empty(), "Celestia is not asked for anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firm_only_executes_each_block_firmly_and_asks_for_no_soft_block() {
    let stage = Stage::open(world(), STORY).await;
    let conductor = stage.conductor(Mode::FirmOnly);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
    assert_eq!(heads(&stage), (1..=STORY).map(|number| (number, number)).collect::<Vec<_>>());
    assert!(stage.net.hooks.sequencer.counts().is_empty(), "the sequencer's own service is not asked for anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_and_firm_executes_each_block_once_and_confirms_it_without_executing_again() {
    // Given that nothing comes to Celestia until 20 blocks are soft.
    let stage = Stage::open(world(), STORY).await;
    stage.with(|world| world.relayer.pause(true));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(20, 0).await;
    let soft = heads(&stage);
    assert_eq!(soft, (1..=soft.len() as u64).map(|number| (number, 0)).collect::<Vec<_>>());

    // When it does, then firm follows, block by block, and soft goes on.
    stage.with(|world| world.relayer.pause(false));
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
    let moves = heads(&stage);
    let firm = moves.iter().map(|(_, firm)| *firm).filter(|firm| *firm > 0).collect::<BTreeSet<_>>();
    assert_eq!(firm, (1..=STORY).collect(), "firm moves by one: {moves:?}");
    assert!(!stage.trace().iter().any(|call| matches!(call, Call::Fetched(..))), "what it executed itself it knows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firm_overtakes_soft_while_the_sequencer_is_down_and_soft_resumes_above_it() {
    // Given no soft blocks, and 15 that come to Celestia.
    let stage = Stage::open(world(), 15).await;
    stage.net.hooks.sequencer.set_down(true);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(15, 15).await;
    assert_eq!(heads(&stage), (1..=15).map(|number| (number, number)).collect::<Vec<_>>(), "each executed firmly");

    // When the sequencer is back, and Celestia has nothing new.
    stage.with(|world| world.relayer.pause(true));
    stage.net.hooks.sequencer.set_down(false);
    stage.go_on_to(STORY);

    // Then soft goes on above firm, which follows.
    conductor.reaches(STORY, 15).await;
    stage.assert_each_block_executed_once(STORY, 15);
    stage.with(|world| world.relayer.pause(false));
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_rollups_share_one_request_per_height() {
    const ROLLUPS: u32 = 4;
    let mut world = world();
    world.rollups = ROLLUPS;
    let stage = Stage::open(world, 0).await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    let has_session =
        |world: &World| world.rollups.values().all(|node| node.trace().any(|call| matches!(call, Call::Opened(Ok(_)))));
    conductor.until("a session of each", has_session).await;
    stage.go_on_to(STORY);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);

    let soft = stage.net.hooks.sequencer.count("GetFilteredSequencerBlock");
    let headers = stage.net.hooks.cometbft.count("commit");
    let blobs = stage.net.hooks.celestia.count("header.GetByHeight");
    let celestia = stage.with(|world| world.celestia.head().0);
    assert!(soft <= STORY + 2, "{soft} soft blocks were fetched for {STORY} heights");
    assert!(headers <= STORY + 2, "{headers} headers were fetched for {STORY} heights");
    assert!(blobs <= celestia + 2, "{blobs} reads of {celestia} Celestia heights");
}

/// Firm catches up with blocks that are all on Celestia already. Returns how often the node was asked for a commit.
async fn commits_fetched_to_catch_up(prepare: impl FnOnce(&Stage)) -> u64 {
    let stage = Stage::open(world(), STORY).await;
    prepare(&stage);
    stage.with(|world| world.relayer.pause(true));
    let conductor = stage.conductor(Mode::FirmOnly);
    conductor.until("the sequencer's rest", |world| world.sequencer_stalled).await;
    stage.with(|world| world.relayer.pause(false));
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
    stage.net.hooks.cometbft.count("commit")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_commit_proves_a_stretch_of_headers() {
    let commits = commits_fetched_to_catch_up(|_| {}).await;
    assert!(commits <= STORY / 2, "{commits} commits for {STORY} headers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_serve_blockchain_is_asked_for_every_commit() {
    let refused = Failure::JsonRpc { code: -32601, message: "Method not found".to_owned() };
    let commits = commits_fetched_to_catch_up(|stage| {
        stage.net.hooks.cometbft.fail(Some("blockchain"), u32::MAX, refused);
    })
    .await;
    assert!(commits >= STORY / 2, "{commits} commits for {STORY} headers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_waits_for_firm_at_exactly_its_permitted_lead() {
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("limits.soft_firm_spread", "5");
    stage.with(|world| world.relayer.pause(true));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until("the sequencer's rest", |world| world.sequencer_stalled).await;
    let is_waiting = |wait: &Wait| *wait == Wait::Spread { limit: 5 };
    conductor.until_shown("the lead", |shown| shown.status.cells[&CellId(0)].waiting_for.iter().any(is_waiting)).await;
    stage.assert_each_block_executed_once(5, 0);

    stage.with(|world| world.relayer.pause(false));
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
    let leads: Vec<_> = heads(&stage).into_iter().map(|(soft, firm)| soft - firm).collect();
    assert!(leads.iter().all(|lead| *lead <= 5), "{leads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_does_not_come_within_the_look_ahead_is_reported_and_soft_goes_on() {
    let mut world = world();
    world.session.look_ahead = 5;
    let stage = Stage::open(world, STORY).await;
    stage.with(|world| world.relayer.pause(true));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until_shown("a gap", |shown| shown.counters.gaps > 0).await;
    stage.with(|world| world.relayer.pause(false));
    conductor.reaches(STORY, 0).await;
    let posted = |world: &World| world.relayer.next().0 > STORY;
    conductor.until("all blobs, which come too late", posted).await;
    let waits = conductor.snapshot().await.status.cells[&CellId(0)].waiting_for.clone();
    assert!(waits.iter().any(|wait| matches!(wait, Wait::Gap { .. })), "{waits:?}");
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_of_the_sequencer_and_of_its_data_format_is_followed() {
    for mode in [Mode::FirmOnly, Mode::SoftAndFirm] {
        // Raw roots, then data items with an upgrade, and vote extensions a while later.
        let mut world = world();
        world.sequencer.data_items_from = SequencerHeight(10);
        world.sequencer.upgrades =
            BTreeMap::from([(SequencerHeight(10), vec![[7; 32]]), (SequencerHeight(20), vec![[8; 32], [9; 32]])]);
        world.sequencer.vote_extensions_from = Some(SequencerHeight(20));
        let stage = Stage::open(world, STORY).await;
        let conductor = stage.conductor(mode);
        conductor.reaches(STORY, STORY).await;
        let dropped = conductor.snapshot().await.counters.dropped;
        conductor.stop().await;
        stage.assert_each_block_executed_once(STORY, STORY);
        assert_eq!(dropped.values().sum::<u64>(), 0, "{dropped:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_and_changing_validator_set_is_followed() {
    // More validators than one page holds; some leave, some come, some vote nil or not at all.
    let mut world = world();
    world.block_time = Duration::from_millis(100);
    world.celestia_block_time = Duration::from_millis(150);
    world.sequencer.validators = vec![10; 120];
    let mut height = 0;
    let stage = Stage::open_with(world, 12, move |world| {
        height += 1;
        if height % 3 == 0 && !world.sequencer_stalled {
            let votes = (1..30).map(|number| (number, if number % 2 == 0 { Vote::Nil } else { Vote::Absent }));
            let input = BlockInput {
                validator_updates: vec![(height, 0), (200 + height, 15), (0, 10 + u64::from(height))],
                votes: votes.collect(),
                ..BlockInput::default()
            };
            world.sequencer.make_block(world.now(), input);
        }
    })
    .await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until("the sequencer's rest", |world| world.sequencer_stalled).await;
    let last = stage.with(|world| world.sequencer.head().0) - OFFSET;
    conductor.reaches(last, last).await;
    let dropped = conductor.snapshot().await.counters.dropped;
    conductor.stop().await;
    stage.assert_each_block_executed_once(last, last);
    assert_eq!(dropped.values().sum::<u64>(), 0, "{dropped:?}");
    assert!(stage.net.hooks.cometbft.count("validators") >= 4, "pages of several sets");
}
