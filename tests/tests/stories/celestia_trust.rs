//! Celestia's headers are believed for its validators' signatures only, whoever shows them.

use std::time::Duration;

use downbeat::{driver::Snapshot, status_line::StatusLine};
use downbeat_core::{CelestiaHeight, cell::Mode, command::Subject, light::Trust, sequencer::header_hash, view::Wait};
use downbeat_tests::{Stage, world};
use downbeat_world::{
    World, WorldConfig,
    serve::{Failure, Hooks, Shared, celestia},
};
use tokio::{net::TcpListener, task::JoinHandle};

const STORY: u64 = 30;

/// Sets the root of trust in Celestia to the stage's header of height 1, which is waited for.
async fn root_at_height_1(stage: &mut Stage) {
    let first = CelestiaHeight(1);
    stage.until("Celestia's first block", |world| world.celestia.head() >= first).await;
    let hash = stage.with(|world| header_hash(&world.celestia.block(first).expect("made").signed_header.header));
    stage.set("celestia.trust_root", &format!("1:{hash}"));
}

/// A Celestia node of another chain with the same name: strangers signed it, and no rollup has blobs there.
struct Impostor {
    url: String,
    hooks: Hooks,
    serving: JoinHandle<()>,
}

impl Impostor {
    async fn start(stage: &Stage) -> Self {
        let mut config = WorldConfig { seed: 99, ..world() };
        config.sequencer.genesis_time = stage.with(|world| world.sequencer.config().genesis_time);
        let mut world = World::new(config);
        world.sequencer_stalled = true;
        while world.celestia.head().0 < 3 * STORY {
            world.step(world.next_event());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let hooks = Hooks::default();
        let serving = celestia::serve(listener, Shared::new(world), None, hooks.clone(), std::future::pending());
        Self { url, hooks, serving: tokio::spawn(serving) }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Why the first rollup waits for a proof, if it does.
fn unproven(shown: &Snapshot) -> Option<String> {
    shown.status.cells.values().next()?.waiting_for.iter().find_map(|wait| match wait {
        Wait::CelestiaProof { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

fn refused(shown: &Snapshot) -> u64 {
    shown.counters.dropped.get(&Subject::CelestiaBlock).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_becomes_firm_of_a_node_whose_headers_strangers_signed_until_an_honest_one_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("data_dir", &folder.path().display().to_string());
    root_at_height_1(&mut stage).await;
    let honest = stage.net.urls.celestia.clone();
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until("some firm blocks", |world| world.rollups.values().all(|node| node.firm().0 >= 5)).await;
    conductor.kill().await;
    let firm = stage.node(|node| node.firm().0);

    let liar = Impostor::start(&stage).await;
    stage.set("celestia.url", &liar.url);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until_shown("three refusals", |shown| refused(shown) >= 3 && unproven(shown).is_some()).await;
    let shown = conductor.snapshot().await;
    let reason = unproven(&shown).unwrap_or_default();
    assert!(reason.contains("is signed by the set") || reason.contains("hashes to"), "{reason}");
    assert!(StatusLine(&shown.status).to_string().contains("proof of what lies in Celestia block"));
    conductor.stop().await;
    assert!(liar.hooks.count("share.GetNamespaceData") > 0);
    assert_eq!(stage.node(|node| node.firm().0), firm, "nothing of another chain");

    stage.set("celestia.url", &honest);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_chain(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_from_the_celestia_header_that_was_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("data_dir", &folder.path().display().to_string());
    // No root is configured: the first header that comes is trusted, and kept.
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until("some firm blocks", |world| world.rollups.values().all(|node| node.firm().0 >= 5)).await;
    conductor.kill().await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    let kept = conductor.snapshot().await.status.celestia.trusted;
    assert!(kept.is_some(), "before anything was asked for");
    conductor.reaches(STORY, STORY).await;
    let shown = conductor.snapshot().await;
    assert!(shown.status.celestia.trusted > kept && refused(&shown) == 0, "{:?}", shown.status.celestia);
    conductor.stop().await;
    stage.assert_chain(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_not_the_chains_is_said_and_nothing_becomes_firm() {
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("celestia.trust_root", &format!("1:{}", "07".repeat(32)));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, 0).await;
    conductor.until_shown("the reason", |shown| refused(shown) >= 2 && unproven(shown).is_some()).await;
    let reason = unproven(&conductor.snapshot().await).unwrap_or_default();
    assert!(reason.contains("the root of trust is 0707"), "{reason}");
    conductor.stop().await;
    stage.assert_chain(STORY, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_whose_trusting_period_is_over_stops_with_what_to_do() {
    let mut stage = Stage::open(world(), STORY).await;
    root_at_height_1(&mut stage).await;
    stage.set("celestia.trusting_period", "1s");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let reason = stage.conductor(Mode::FirmOnly).parked().await;
    assert!(reason.contains("the trusting period is over"), "{reason}");
    assert!(reason.contains("celestia.trust_root = \"HEIGHT:HASH\""), "says what to do: {reason}");
    stage.assert_chain(0, 0);
}

/// The next height is one further than what anybody vouches for: the way leads through heights between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_of_celestia_that_change_at_every_height_are_followed() {
    let mut churning = world();
    churning.celestia.powers = vec![7; 5];
    churning.celestia.change_every = 1;
    let mut stage = Stage::open(churning, STORY).await;
    root_at_height_1(&mut stage).await;
    stage.until("a way to go", |world| world.celestia.head() >= CelestiaHeight(20)).await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    let shown = conductor.snapshot().await;
    assert_eq!(refused(&shown), 0);
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_prove_anything_is_said_in_plain_words() {
    let stage = Stage::open(world(), STORY).await;
    let unknown = Failure::JsonRpc { code: -32601, message: "method 'share.GetNamespaceData' not found".to_owned() };
    stage.net.hooks.celestia.fail(Some("share.GetNamespaceData"), u32::MAX, unknown);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, 0).await;
    conductor.until_shown("the reason", |shown| unproven(shown).is_some()).await;
    let shown = conductor.snapshot().await;
    assert_eq!(shown.status.celestia.trust, Trust::Consensus, "by default");
    let reason = unproven(&shown).unwrap_or_default();
    assert!(reason.contains("does not offer share.GetNamespaceData"), "{reason}");
    assert!(reason.contains("celestia_trust = \"endpoint\""), "names the setting: {reason}");
    conductor.stop().await;
    stage.assert_chain(STORY, 0);
}
