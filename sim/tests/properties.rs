//! Random histories of one or two cells, shrunk to the smallest that breaks a promise (S5 to S10, L1 to L3, L7, L9).

use std::{collections::BTreeMap, time::Duration};

use downbeat_core::{Event, cell::Mode, command::Exit};
use downbeat_sim::{
    Scenario, Simulation,
    fault::{Group, Kind},
    scenario::Tiny,
};
use proptest::prelude::*;

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::SoftAndFirm), Just(Mode::FirmOnly), Just(Mode::SoftOnly)]
}

/// A few kinds of faults, each with any weight up to a third.
fn faults() -> impl Strategy<Value = BTreeMap<Kind, u8>> {
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| !kind.may_park()).collect();
    prop::collection::btree_map(prop::sample::select(kinds), 1..=33_u8, 0..8)
}

/// Small limits: the smaller, the more has to be given up and read again.
fn tiny() -> impl Strategy<Value = Tiny> {
    let buffers = (1..4_usize, 1..20_000_usize, 1..5_000_usize);
    let counts = (1..4_usize, 1..10_usize, 1..4_usize, 1..30_u64, 1..20_u64);
    let scarce = (buffers, counts).prop_map(|(buffers, counts)| {
        let (candidates_per_height, firm_buffer_bytes, soft_buffer_bytes) = buffers;
        let (headers_in_flight, trusted_headers, celestia_in_flight, soft_firm_spread, soft_ahead) = counts;
        Tiny {
            candidates_per_height: Some(candidates_per_height),
            firm_buffer_bytes: Some(firm_buffer_bytes),
            soft_buffer_bytes: Some(soft_buffer_bytes),
            headers_in_flight: Some(headers_in_flight),
            trusted_headers: Some(trusted_headers),
            celestia_in_flight: Some(celestia_in_flight),
            soft_firm_spread: Some(soft_firm_spread),
            soft_ahead: Some(soft_ahead),
            ..Tiny::default()
        }
    });
    prop_oneof![Just(Tiny::default()), scarce]
}

prop_compose! {
    fn scenarios()(
        (seed, mode, rollups) in (any::<u64>(), modes(), 1..=2_u32),
        faulty_for_s in 0..=20_u64,
        look_ahead in 20..=40_u64,
        sessions in prop::collection::vec(1..8_u64, 0..4),
        faults in faults(),
        (latency_ms, delay_ms) in (1..400_u64, 1..2_000_u64),
        tiny in tiny(),
    ) -> Scenario {
        Scenario {
            rollups,
            blocks: faulty_for_s + 10,
            faulty_for_s,
            look_ahead,
            sessions,
            faults,
            latency_ms,
            delay_ms,
            tiny,
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
        let disturbs = |kind: &Kind| matches!(kind.group(), Group::Process | Group::Clock);
        let faults = scenario.faults.into_iter().filter(|(kind, _)| !disturbs(kind)).collect();
        let scenario = Scenario { faults, ..scenario };
        let mut simulation = Simulation::new(scenario.clone());
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
