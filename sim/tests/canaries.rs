//! Whether the hunt for deliberate bugs is worth what it says. The hunt itself is `downbeat-sim canaries`.
#![cfg(feature = "canaries")]

use std::collections::BTreeSet;

use downbeat_core::{canary::activate, invariant};
use downbeat_sim::{
    Scenario,
    canaries::{ALL, WITHOUT, check, hunt, unproven},
};

fn hash(seed: u64) -> [u8; 32] {
    let simulation = Scenario::swarm(seed).run().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    simulation.conductor().state_hash().0
}

#[test]
fn without_an_active_canary_runs_are_as_they_were() {
    let before: Vec<_> = (0..6).map(hash).collect();
    for entry in ALL.iter().step_by(7) {
        let _ = hunt(entry.canary, 0..2);
    }
    activate(None);
    assert_eq!((0..6).map(hash).collect::<Vec<_>>(), before);
}

#[test]
fn every_invariant_has_a_canary_or_a_reason() {
    let canaries: BTreeSet<_> = ALL.iter().map(|entry| entry.canary).collect();
    assert!(canaries.len() >= 25, "{} canaries", canaries.len());
    assert_eq!(unproven(), Vec::<&str>::new());
    for entry in ALL {
        assert!(invariant::by_id(entry.breaks).is_some(), "{entry:?}");
        let is_row = |row: &str| row.split_once('-').is_some_and(|(_, number)| number.parse::<u32>().is_ok());
        assert!(entry.rows.split(' ').all(is_row), "{entry:?}");
    }
    for (id, _) in WITHOUT {
        assert!(invariant::by_id(id).is_some() && ALL.iter().all(|entry| entry.breaks != *id), "{id}");
    }
}

#[test]
fn a_bug_of_each_sort_is_found_by_ordinary_seeds() {
    use downbeat_core::canary::Canary;
    for (canary, noticed) in [
        (Canary::FailedCheckPasses, "S1"),
        (Canary::AnswersByKind, "S10"),
        (Canary::UnknownOutcomeRepeated, "S11"),
        (Canary::JoinerSurvivesSession, "S14"),
        (Canary::JitterFromProcess, "S17"),
        (Canary::RetryAtOnce, "L8"),
    ] {
        let found = hunt(canary, 0..60).unwrap_or_else(|| panic!("{canary:?} was not found"));
        assert_eq!(found.invariant, noticed, "{canary:?}: {found:?}");
        assert_eq!(check(found.seed), None, "without {canary:?} seed {} is in order", found.seed);
    }
}

#[test]
fn what_lies_on_a_branch_of_celestia_and_became_firm_is_noticed() {
    use downbeat_core::{canary::Canary, cell::Mode, light::Trust};
    use downbeat_sim::fault::Kind;

    let run = |seed| {
        let scenario = Scenario::with(seed, Mode::SoftAndFirm, [(Kind::CelestiaBranch, 50)]);
        let mut scenario = Scenario { celestia_trust: Trust::Consensus, ..scenario };
        // Whoever believes the first header that comes can be told anything.
        scenario.celestia_chain.genesis = true;
        scenario.run().err().map(|violation| violation.invariant)
    };
    let noticed = || (0..6).map(run).collect::<BTreeSet<_>>();
    assert_eq!(noticed(), BTreeSet::from([None]));
    activate(Some(Canary::CelestiaReadTooEarly));
    let with_the_bug = noticed();
    activate(None);
    assert!(with_the_bug.contains(&Some("S15")), "{with_the_bug:?}");
}
