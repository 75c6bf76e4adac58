//! Peers that are away or err for a while: the conductor waits, tries again and goes on; nothing else changes.

use std::time::Duration;

use downbeat::driver::Snapshot;
use downbeat_core::cell::Mode;
use downbeat_tests::{Stage, world};
use downbeat_world::{
    rollup::{Code, Status},
    serve::{Failure, Hooks},
};

const STORY: u64 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Sequencer,
    CometBft,
    Celestia,
    Rollup,
}

#[derive(Debug)]
enum Outage {
    /// Connections are cut and new ones closed at once.
    Down,
    Erring(Failure),
}

fn hooks(stage: &Stage, peer: Peer) -> &Hooks {
    match peer {
        Peer::Sequencer => &stage.net.hooks.sequencer,
        Peer::CometBft => &stage.net.hooks.cometbft,
        Peer::Celestia => &stage.net.hooks.celestia,
        Peer::Rollup => stage.execution(),
    }
}

/// The peer fails after block 6, until the sequencer has made all others and some calls have failed.
async fn an_outage_only_delays(peer: Peer, outage: Outage) {
    let stage = Stage::open(world(), 6).await;
    let hooks = hooks(&stage, peer);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(6, 6).await;

    match outage {
        Outage::Down => hooks.set_down(true),
        Outage::Erring(failure) => hooks.fail(None, u32::MAX, failure),
    }
    if peer == Peer::Sequencer {
        // Or else firm could overtake soft before soft notices the outage.
        stage.with(|world| world.relayer.pause(true));
    }
    stage.go_on_to(STORY);
    let failed = conductor.snapshot().await.counters.failed_calls;
    let has_failed = |shown: &Snapshot| shown.counters.failed_calls >= failed + 4;
    conductor.until_shown("failed calls", has_failed).await;
    conductor.until("the sequencer's rest", |world| world.sequencer_stalled).await;
    if peer == Peer::Celestia {
        conductor.reaches(STORY, 6).await;
        stage.assert_each_block_executed_once(STORY, 6);
    } else {
        stage.assert_each_block_executed_once(6, 6);
    }
    hooks.heal();
    stage.with(|world| world.relayer.pause(false));

    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
    assert_eq!(stage.sessions(), if peer == Peer::Rollup { 2 } else { 1 });
}

fn internal_error() -> Outage {
    Outage::Erring(Failure::Http(500))
}

fn json_rpc_error() -> Outage {
    Outage::Erring(Failure::JsonRpc { code: -32603, message: "internal error".to_owned() })
}

fn unavailable() -> Outage {
    Outage::Erring(Failure::Grpc(Status::new(Code::Unavailable, "not now")))
}

fn garbage() -> Outage {
    Outage::Erring(Failure::Garbage(b"\"what is this?\"".to_vec()))
}

macro_rules! outages {
    ($($name:ident: $peer:ident, $outage:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            an_outage_only_delays(Peer::$peer, $outage).await;
        }
    )*};
}

outages! {
    the_sequencer_is_away: Sequencer, Outage::Down;
    the_sequencer_answers_http_500: Sequencer, internal_error();
    the_sequencer_is_unavailable: Sequencer, unavailable();
    the_sequencer_answers_garbage: Sequencer, garbage();
    cometbft_is_away: CometBft, Outage::Down;
    cometbft_answers_http_500: CometBft, internal_error();
    cometbft_answers_errors: CometBft, json_rpc_error();
    cometbft_answers_garbage: CometBft, garbage();
    celestia_is_away: Celestia, Outage::Down;
    celestia_answers_http_500: Celestia, internal_error();
    celestia_answers_errors: Celestia, json_rpc_error();
    celestia_answers_garbage: Celestia, garbage();
    the_rollup_node_is_away: Rollup, Outage::Down;
    the_rollup_node_answers_http_500: Rollup, internal_error();
    the_rollup_node_is_unavailable: Rollup, unavailable();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conductor_that_starts_before_all_of_its_peers_waits_for_them() {
    let stage = Stage::open(world(), 20).await;
    let all = [Peer::Sequencer, Peer::CometBft, Peer::Celestia, Peer::Rollup];
    for peer in all {
        hooks(&stage, peer).set_down(true);
    }
    let conductor = stage.conductor(Mode::SoftAndFirm);
    for peer in [Peer::Sequencer, Peer::Celestia, Peer::CometBft, Peer::Rollup] {
        let failed = conductor.snapshot().await.counters.failed_calls;
        conductor.until_shown("failed calls", |shown| shown.counters.failed_calls >= failed + 3).await;
        assert_eq!(stage.executed(), [] as [u64; 0]);
        hooks(&stage, peer).set_down(false);
    }
    conductor.reaches(20, 20).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(20, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_are_slow_only_delay() {
    let stage = Stage::open(world(), 20).await;
    for peer in [Peer::Sequencer, Peer::CometBft, Peer::Celestia] {
        hooks(&stage, peer).delay(None, Duration::from_millis(150));
    }
    stage.execution().delay(None, Duration::from_millis(10));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(20, 20).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(20, 20);
    assert_eq!(stage.sessions(), 1);
}
