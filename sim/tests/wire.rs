//! The real driver and adapters on a simulated network: a fixed set of seeds, single faults, and that runs repeat.

use std::time::Duration;

use downbeat::journal::{self, Replay};
use downbeat_core::cell::Mode;
use downbeat_sim::wire::{Direction, Fault, Item, Node, Outcome, Peer, WireScenario, minimise, run, run_traced};

fn arrives(scenario: &WireScenario) -> Outcome {
    run(scenario).unwrap_or_else(|violation| panic!("{scenario:?}: {violation}"))
}

/// A run of 12 s in which only this happens, from the sixth second on.
fn only(fault: Fault, for_ms: u64) -> WireScenario {
    let items = vec![Item { at_ms: 6_010, for_ms, fault }];
    WireScenario { faulty_for_s: 12, items, ..WireScenario::healthy(1, Mode::SoftAndFirm) }
}

#[test]
fn each_mode_follows_a_healthy_world() {
    for mode in [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm] {
        let outcome = arrives(&WireScenario::healthy(1, mode));
        assert_eq!(outcome.lives, 1);
        assert!(outcome.connections.0 < 20, "connections are kept: {outcome:?}");
    }
}

/// turmoil never sends a lost segment again: whoever does not give a connection up waits for ever.
#[test]
fn connections_that_lost_a_message_are_given_up_after_a_deadline() {
    for direction in [Direction::Both, Direction::ToPeer, Direction::ToConductor] {
        for peer in [Peer::Sequencer, Peer::Celestia, Peer::Rollup(0)] {
            let outcome = arrives(&only(Fault::Cut { peer, direction }, 5_000));
            assert!(outcome.failures > 0, "{peer:?} {direction:?}: {outcome:?}");
        }
    }
}

#[test]
fn every_host_may_be_killed_or_lose_power() {
    for node in [Node::Conductor, Node::Peer(Peer::Sequencer), Node::Peer(Peer::Celestia), Node::Peer(Peer::Rollup(0))]
    {
        for fault in [Fault::Crash { node }, Fault::PowerLoss { node }] {
            let outcome = arrives(&only(fault, 3_000));
            assert_eq!(outcome.lives, if node == Node::Conductor { 2 } else { 1 }, "{fault:?}");
        }
    }
}

#[test]
fn a_stopped_conductor_goes_on_where_it_was_when_it_is_started_again() {
    assert_eq!(arrives(&only(Fault::Stop, 3_000)).lives, 2);
}

#[test]
fn what_is_held_and_arrives_late_does_no_harm() {
    for peer in [Peer::Sequencer, Peer::Celestia, Peer::Rollup(0)] {
        arrives(&only(Fault::Hold { peer }, 5_000));
    }
}

/// `DOWNBEAT_WIRE_SEEDS=FIRST+COUNT` runs others.
#[test]
fn no_schedule_of_faults_breaks_a_promise() {
    let (first, count) = match std::env::var("DOWNBEAT_WIRE_SEEDS") {
        Ok(range) => {
            let (first, count) = range.split_once('+').expect("DOWNBEAT_WIRE_SEEDS is FIRST+COUNT");
            (first.parse().expect("a number"), count.parse().expect("a number"))
        }
        Err(_) => (0_u64, 12_u64),
    };
    for seed in first..first + count {
        if let Err(violation) = run(&WireScenario::draw(seed)) {
            panic!("seed {seed}: {violation}");
        }
    }
}

/// The net holds: a run that cannot arrive is told from one that does.
#[test]
fn a_rollup_that_cannot_arrive_in_time_is_a_violation() {
    let scenario = WireScenario { blocks_after: 100, arrive_within_s: 10, ..WireScenario::healthy(1, Mode::SoftOnly) };
    assert_eq!(run(&scenario).expect_err("100 blocks take 70 s").invariant, "L1");
}

#[test]
fn a_parked_rollup_is_a_violation() {
    let garbage = only(Fault::Garbage { peer: Peer::Rollup(0), replies: 1 }, 0);
    let violation = run(&garbage).expect_err("a rollup node that answers garbage is parked");
    assert_eq!(violation.invariant, "L1");
    assert!(violation.detail.contains("parked"), "{violation}");
}

#[test]
fn only_what_is_needed_for_a_violation_is_left_of_its_schedule() {
    let mut scenario = WireScenario::draw(3);
    let garbage = Item { at_ms: 2_000, for_ms: 0, fault: Fault::Garbage { peer: Peer::Rollup(0), replies: 4 } };
    scenario.items.insert(scenario.items.len() / 2, garbage);
    assert!(scenario.items.len() > 2);
    let (smaller, violation) = minimise(&scenario, Duration::from_mins(10)).expect("a violation");
    assert_eq!((&smaller.items[..], smaller.rollups, violation.invariant), (&[garbage][..], 1, "L1"));
    assert_eq!(run(&smaller).expect_err("it still fails").detail, violation.detail);
}

#[test]
fn what_a_driver_recorded_on_the_network_replays_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = only(Fault::Crash { node: Node::Conductor }, 2_000);
    let (outcome, _) = run_traced(&scenario, false, Some(folder.path()));
    let outcome = outcome.expect("no violation");
    assert_eq!(outcome, arrives(&scenario), "recording changes nothing");
    let lives = journal::lives(folder.path()).expect("a journal");
    assert_eq!(lives.len(), 2);
    let mut replayed = 0;
    for life in lives {
        let mut entries = life.entries().expect("entries");
        let mut replay = Replay::new(entries.header()).expect("a beginning");
        for entry in &mut entries {
            replay
                .step(entry.expect("an event"), &mut |_, _, _, _| {})
                .unwrap_or_else(|difference| panic!("{difference}"));
        }
        replayed += replay.equal();
    }
    assert_eq!(replayed, outcome.events);
}

#[test]
fn the_same_scenario_gives_the_same_history_twice_in_one_process() {
    for seed in [3, 8] {
        let scenario = WireScenario::draw(seed);
        assert_eq!(arrives(&scenario), arrives(&scenario), "seed {seed}");
        assert_ne!(arrives(&scenario).chain, arrives(&WireScenario { seed: 1_000, ..scenario }).chain);
    }
}

/// tokio counts tasks for the whole process. In this seed the order in which connections of a crashed host break depended
/// on how many there had been before.
#[test]
fn a_run_does_not_depend_on_tasks_that_there_were_before() {
    let scenario = WireScenario::draw(15);
    let first = arrives(&scenario);
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async { tokio::spawn(async {}).await.expect("a task") });
        assert_eq!(arrives(&scenario), first);
    }
}

/// In this seed messages are set free in the moment of healing, which woke the connections in an order that tokio drew.
#[test]
fn a_run_does_not_depend_on_what_tokio_draws_by_chance() {
    let scenario = WireScenario::draw(1149);
    let first = arrives(&scenario);
    for _ in 0..5 {
        assert_eq!(arrives(&scenario), first);
    }
}

/// What could differ between processes: addresses, the hashers' keys, the environment, the wall clock.
#[test]
fn the_same_seed_gives_the_same_history_in_another_process() {
    let program = env!("CARGO_BIN_EXE_downbeat-sim");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = std::process::Command::new(program);
    command.args(["wire", "--chain", "--first", "5", "--count", "2"]);
    let output = command.current_dir(folder.path()).env("TZ", "Asia/Kolkata").env_remove("HOME").output();
    let output = output.expect("the command runs");
    let there = String::from_utf8_lossy(&output.stdout);
    let here: Vec<_> = (5..7).map(|seed| arrives(&WireScenario::draw(seed)).chain).collect();
    assert_eq!(there.split_whitespace().collect::<Vec<_>>(), here, "{output:?}");
}

#[test]
fn a_scenario_survives_being_written_and_read() {
    for seed in 0..20 {
        let scenario = WireScenario::draw(seed);
        let text = toml::to_string(&scenario).expect("writable");
        assert_eq!(toml::from_str::<WireScenario>(&text).expect("readable"), scenario, "{text}");
    }
}
