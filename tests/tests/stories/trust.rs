//! Headers are believed for the validators' signatures only, whoever shows them.

use std::time::Duration;

use downbeat::driver::Snapshot;
use downbeat_core::{
    Limits, SequencerHeight,
    cell::Mode,
    command::Subject,
    inspect::{Proven, inspect_evidence},
};
use downbeat_tests::{MODES, OFFSET, Stage, world};
use downbeat_world::{
    World, WorldConfig,
    serve::{Hooks, Shared, cometbft},
};
use tokio::{net::TcpListener, task::JoinHandle};

const STORY: u64 = 30;

/// Sets the root of trust to the stage's header of height 1, which is waited for.
async fn root_at_height_1(stage: &mut Stage) {
    stage.until("the first block", |world| world.sequencer.head() >= SequencerHeight(1)).await;
    let hash = stage.with(|world| world.sequencer.block(SequencerHeight(1)).expect("made").hash());
    stage.set("sequencer.trust_root", &format!("1:{hash}"));
}

/// A CometBFT node of another chain with the same name, which is as long as this story.
struct Impostor {
    url: String,
    hooks: Hooks,
    serving: JoinHandle<()>,
}

impl Impostor {
    /// Of the same `seed` as the stage's, the validators are the same; what is in the blocks never is.
    async fn start(stage: &Stage, seed: u64) -> Self {
        let mut config = WorldConfig { seed, ..world() };
        config.sequencer.genesis_time = stage.with(|world| world.sequencer.config().genesis_time);
        config.contents.absent_rollup_percent = 100;
        let mut world = World::new(config);
        while world.sequencer.head().0 < STORY + OFFSET {
            world.step(world.next_event());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let hooks = Hooks::default();
        let serving = cometbft::serve(listener, Shared::new(world), hooks.clone(), std::future::pending());
        Self { url, hooks, serving: tokio::spawn(serving) }
    }

    fn was_asked(&self) -> bool {
        self.hooks.count("commit") > 0
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_block_is_reached_from_a_root_at_height_1() {
    for mode in MODES {
        let mut stage = Stage::open(world(), STORY).await;
        root_at_height_1(&mut stage).await;
        let conductor = stage.conductor(mode);
        let (soft, firm) =
            (if mode == Mode::FirmOnly { 0 } else { STORY }, if mode == Mode::SoftOnly { 0 } else { STORY });
        conductor.reaches(soft, firm).await;
        let snapshot = conductor.snapshot().await;
        assert!(snapshot.status.sequencer.trusted.is_some(), "{:?}", snapshot.status.sequencer);
        conductor.stop().await;
        assert_eq!(snapshot.counters.dropped.values().sum::<u64>(), 0, "{:?}", snapshot.counters);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_that_change_at_every_height_are_followed() {
    let mut churning = world();
    churning.validator_change_percent = 100;
    churning.sequencer.validators = vec![7; 30];
    let mut stage = Stage::open(churning, STORY).await;
    root_at_height_1(&mut stage).await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_executed_of_a_chain_that_does_not_begin_with_the_configured_root() {
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("sequencer.trust_root", &format!("1:{}", "07".repeat(32)));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    let is_refused =
        |shown: &Snapshot| shown.counters.dropped.get(&Subject::SignedHeader).is_some_and(|count| *count > 3);
    conductor.until_shown("refused headers", is_refused).await;
    conductor.stop().await;
    stage.assert_chain(0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_node_is_found_out_and_an_honest_one_is_asked_instead() {
    let mut stage = Stage::open(world(), STORY).await;
    root_at_height_1(&mut stage).await;
    let liar = Impostor::start(&stage, 99).await;
    let honest = stage.net.urls.cometbft.clone();
    stage.set("sequencer.cometbft_url", &liar.url);
    stage.set("sequencer.witness_urls", &honest);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    assert!(liar.was_asked());
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnesses_that_are_silent_or_show_what_nobody_signed_change_nothing() {
    let mut stage = Stage::open(world(), STORY).await;
    root_at_height_1(&mut stage).await;
    let liar = Impostor::start(&stage, 99).await;
    stage.set("sequencer.witness_urls", &format!("http://127.0.0.1:1,{}", liar.url));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    let is_seen = |shown: &Snapshot| shown.counters.dropped.contains_key(&Subject::Witness);
    conductor.until_shown("a witness that proves nothing", is_seen).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_shows_another_signed_header_parks_the_rollup_with_the_evidence() {
    let mut stage = Stage::open(world(), STORY).await;
    root_at_height_1(&mut stage).await;
    // The same validators have signed another chain as well.
    let fork = Impostor::start(&stage, world().seed).await;
    stage.set("sequencer.witness_urls", &fork.url);
    let folder = tempfile::tempdir().expect("a folder");
    stage.set("data_dir", &folder.path().display().to_string());
    let reason = stage.conductor(Mode::SoftAndFirm).parked().await;
    assert!(reason.contains("signed two headers of height"), "{reason}");
    assert!(reason.contains("sequencer.trust_root"), "says what to do: {reason}");

    // Blocks of the one chain may have been held against the other's headers first, which is evidence as well.
    let files = std::fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("an entry").path());
    let found = files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).find_map(|file| {
        let bytes = std::fs::read(&file).expect("the evidence");
        match inspect_evidence(&bytes, &Limits::default()).expect("it proves something offline") {
            Proven::ConflictingHeaders(proven) => Some((file, proven)),
            _ => None,
        }
    });
    let (file, proven) = found.expect("a file with the evidence");
    assert!(file.ends_with(format!("evidence-{}.json", proven.height)), "{}", file.display());
    assert_eq!(proven.power_signed_both, proven.trusted.power_total, "everybody signed both");

    // A restart does not forget it, even if the witness is gone.
    stage.set("sequencer.witness_urls", "");
    assert_eq!(stage.conductor(Mode::SoftAndFirm).parked().await, reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_whose_trusting_period_is_over_stops_with_what_to_do() {
    let mut stage = Stage::open(world(), STORY).await;
    root_at_height_1(&mut stage).await;
    stage.set("sequencer.trusting_period", "1s");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let reason = stage.conductor(Mode::SoftAndFirm).parked().await;
    assert!(reason.contains("the trusting period is over"), "{reason}");
    assert!(reason.contains("sequencer.trust_root = \"HEIGHT:HASH\""), "says what to do: {reason}");
    stage.assert_chain(0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_conductor_goes_on_from_what_it_trusted_and_cannot_be_led_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("data_dir", &folder.path().display().to_string());
    let honest = stage.net.urls.cometbft.clone();
    // No root is configured: the first header that comes is trusted, and kept.
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until("some firm blocks", |world| world.rollups.values().all(|node| node.firm().0 >= 5)).await;
    conductor.kill().await;
    let before = stage.executed();

    let liar = Impostor::start(&stage, 99).await;
    stage.set("sequencer.cometbft_url", &liar.url);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    let is_refused =
        |shown: &Snapshot| shown.counters.dropped.get(&Subject::SignedHeader).is_some_and(|count| *count > 3);
    conductor.until_shown("refused headers", is_refused).await;
    conductor.stop().await;
    assert!(liar.was_asked());
    assert_eq!(stage.executed(), before, "nothing of another chain");

    stage.set("sequencer.cometbft_url", &honest);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
}
