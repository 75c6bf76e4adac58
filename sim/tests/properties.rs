//! Random histories of one or two cells, shrunk to the smallest that breaks a promise (S5 to S10, L1 to L3, L7, L9).

use std::time::Duration;

use downbeat_core::{Event, Limits, cell::Mode, command::Exit};
use downbeat_sim::{Faults, Scenario, Simulation, scenario::Relaying};
use proptest::prelude::*;

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::SoftAndFirm), Just(Mode::FirmOnly), Just(Mode::SoftOnly)]
}

/// Nothing half of the time, which is also what it shrinks to.
fn percent(most: u8) -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), 0..=most]
}

fn faults() -> impl Strategy<Value = Faults> {
    let calls = (prop_oneof![Just(1), 1..2_000_u64], percent(30), percent(10), percent(30), percent(50));
    let world = (percent(20), percent(20), percent(20), percent(100));
    (calls, world).prop_map(|((delay_ms, refused, lost, reply_lost, repeated), world)| {
        let (conductor_restarts, node_restarts, revocations, hostile_posts) = world;
        Faults {
            delay_ms,
            refused,
            lost,
            reply_lost,
            repeated,
            conductor_restarts,
            node_restarts,
            revocations,
            hostile_posts,
        }
    })
}

fn relaying() -> impl Strategy<Value = Relaying> {
    let untidy = (0..=5_u64, any::<bool>(), percent(40))
        .prop_map(|(late_blocks, shuffle, duplicate_percent)| Relaying { late_blocks, shuffle, duplicate_percent });
    prop_oneof![Just(Relaying::default()), untidy]
}

/// Small limits: the smaller, the more has to be given up and read again.
fn limits() -> impl Strategy<Value = Limits> {
    let usual = Scenario::healthy(0, Mode::SoftAndFirm).limits;
    let buffers = (1..4_usize, 1..20_000_usize, 1..5_000_usize);
    let counts = (1..4_usize, 1..10_usize, 1..4_usize, 1..30_u64, 1..20_u64);
    let scarce = (Just(usual.clone()), buffers, counts).prop_map(|(limits, buffers, counts)| {
        let (candidates_per_height, firm_buffer_bytes, soft_buffer_bytes) = buffers;
        let (headers_in_flight, trusted_headers, celestia_in_flight, soft_firm_spread, soft_ahead) = counts;
        Limits {
            candidates_per_height,
            firm_buffer_bytes,
            soft_buffer_bytes,
            headers_in_flight,
            trusted_headers,
            celestia_in_flight,
            soft_firm_spread,
            soft_ahead,
            ..limits
        }
    });
    prop_oneof![Just(usual), scarce]
}

prop_compose! {
    fn scenarios()(
        (seed, mode, rollups) in (any::<u64>(), modes(), 1..=2_u32),
        faulty_for_s in 0..=20_u64,
        look_ahead in 20..=40_u64,
        sessions in prop::collection::vec(1..8_u64, 0..4),
        faults in faults(),
        relayer in relaying(),
        limits in limits(),
    ) -> Scenario {
        Scenario {
            rollups,
            blocks: faulty_for_s + 10,
            faulty_for_s,
            look_ahead,
            sessions,
            faults,
            relayer,
            limits,
            ..Scenario::healthy(seed, mode)
        }
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_interleaving_of_soft_firm_faults_and_restarts_breaks_a_promise(scenario in scenarios()) {
        if let Err(violation) = scenario.run() {
            prop_assert!(false, "{violation}");
        }
    }

    #[test]
    fn a_stop_at_any_moment_is_prompt_and_final(scenario in scenarios(), events in 0..400_usize) {
        // A conductor that is killed and started again was not told to stop.
        let faults = Faults { conductor_restarts: 0, ..scenario.faults };
        let scenario = Scenario { faults, ..scenario };
        let mut simulation = Simulation::new(scenario.plan());
        for _ in 0..events {
            simulation.step();
        }
        let asked = simulation.now();
        simulation.deliver(Event::StopRequested);
        while simulation.exit.is_none() && simulation.now() <= asked.after(Duration::from_mins(1)) {
            simulation.step();
        }
        prop_assert_eq!(simulation.broken(), None);
        prop_assert_eq!(simulation.exit.as_ref(), Some(&Exit::Stopped));
        prop_assert!(simulation.now().since(asked) <= Duration::from_secs(10), "{} to {}", asked, simulation.now());
        let next = simulation.conductor().next_deadline();
        prop_assert!(next.is_none() && simulation.conductor().in_flight() == 0, "{:?}", next);
    }
}
