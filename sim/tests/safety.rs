//! The state machine against the model world: many small histories, judged by the oracle.

use downbeat_core::cell::Mode;
use downbeat_sim::{Scenario, Simulation, fault::Kind};
use downbeat_world::rollup::Call;

const UNTIDY: [(Kind, u8); 3] =
    [(Kind::LateRelaying, 100), (Kind::ShuffledRelaying, 100), (Kind::RepeatedRelaying, 100)];

fn run(scenario: &Scenario) -> Simulation {
    scenario.run().unwrap_or_else(|violation| panic!("{scenario:?}: {violation}"))
}

#[test]
fn each_mode_follows_a_healthy_world() {
    for mode in [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm] {
        let simulation = run(&Scenario::healthy(1, mode));
        let node = simulation.world.rollups.values().next().expect("one node");
        let head = if mode.follows_firm() { node.firm() } else { node.soft() };
        assert!(head.0 >= 30, "{mode:?}: {head:?}");
    }
}

#[test]
fn blobs_may_come_split_shuffled_late_and_twice() {
    for seed in 0..20 {
        let simulation = run(&Scenario::with(seed, Mode::SoftAndFirm, UNTIDY));
        assert_eq!(simulation.fired().len(), 3, "late, shuffled and repeated");
    }
}

#[test]
fn short_sessions_follow_one_another_in_each_mode() {
    for mode in [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm] {
        let simulation = run(&Scenario { sessions: vec![1, 2, 3, 1, 10], ..Scenario::healthy(3, mode) });
        let opened = simulation
            .world
            .rollups
            .values()
            .map(|node| node.trace().filter(|call| matches!(call, Call::Opened(Ok(_)))).count());
        assert_eq!(opened.collect::<Vec<_>>(), [6], "{mode:?}: one session after the other, and none more");
    }
}

/// `DOWNBEAT_SEEDS=FIRST+COUNT` runs others.
#[test]
fn no_mix_of_faults_breaks_a_promise() {
    let (first, count) = match std::env::var("DOWNBEAT_SEEDS") {
        Ok(range) => {
            let (first, count) = range.split_once('+').expect("DOWNBEAT_SEEDS is FIRST+COUNT");
            (first.parse().expect("a number"), count.parse().expect("a number"))
        }
        Err(_) => (0_u64, 60_u64),
    };
    for seed in first..first + count {
        let simulation = run(&Scenario::swarm(seed));
        assert!(simulation.events > 0, "seed {seed}");
    }
}

#[test]
fn the_same_scenario_gives_the_same_history() {
    for seed in [2, 5, 11] {
        let scenario = Scenario::swarm(seed);
        let hash =
            |simulation: Simulation| (simulation.conductor().state_hash(), simulation.now(), simulation.course());
        assert_eq!(hash(run(&scenario)), hash(run(&scenario)), "seed {seed}");
    }
}

#[test]
fn the_search_height_waits_for_records_whose_headers_are_slow() {
    for seed in 0..6 {
        let mut scenario = Scenario { latency_ms: 1_500, ..Scenario::with(seed, Mode::FirmOnly, UNTIDY) };
        scenario.tiny.headers_in_flight = Some(1);
        let simulation = run(&scenario);
        let firm = simulation.world.rollups.values().map(|node| node.firm().0).min();
        assert!(firm >= Some(scenario.blocks), "arrived at {firm:?}");
    }
}
