//! A Celestia node that has to prove what it says, and lies: every lie is refused by its name, and only delays.

use std::collections::BTreeSet;

use downbeat_core::{
    Limits, Report,
    celestia::{FalseNamespaces, Falsehood},
    cell::Mode,
    command::Subject,
    inspect::{Proven, inspect_evidence},
    light::Trust,
};
use downbeat_sim::{Scenario, Simulation, fault::Kind};

fn scenario(seed: u64, kind: Kind) -> Scenario {
    Scenario { celestia_trust: Trust::Consensus, ..Scenario::with(seed, Mode::SoftAndFirm, [(kind, 100)]) }
}

/// Reasons for which something that Celestia's node said was refused.
fn reasons(simulation: &Simulation) -> Vec<String> {
    let refused = simulation.reports.iter().filter_map(|report| match report {
        Report::Dropped { what: Subject::CelestiaBlock, reason, .. } => Some(reason.clone()),
        _ => None,
    });
    refused.collect()
}

/// Evidence that was handed out.
fn evidence(simulation: &Simulation) -> Vec<&FalseNamespaces> {
    let evidence = simulation.reports.iter().filter_map(|report| match report {
        Report::FalseNamespaces { evidence } => Some(evidence.as_ref()),
        _ => None,
    });
    evidence.collect()
}

#[test]
fn every_lie_is_refused_by_its_name_and_the_rollup_arrives_all_the_same() {
    let table: [(Kind, &[&str]); 10] = [
        (Kind::ForgedShares, &["leads to another row root"]),
        (Kind::ForgedRoots, &["the block's data hash is"]),
        (Kind::WithheldRows, &["missing row"]),
        (Kind::NarrowedRows, &["incomplete range"]),
        (Kind::FalseAbsence, &["absent without proof", "absence is claimed", "incomplete range"]),
        (Kind::WrongProof, &["the proof has", "row root", "namespaces", "columns"]),
        (Kind::OtherCelestiaBlock, &["header of height", "is not above the trusted", "the trusted one to"]),
        (Kind::CelestiaStrangers, &["is signed by the set", "the trusted one to"]),
        (Kind::CelestiaNoQuorum, &["is no quorum", "the trusted one to"]),
        (Kind::CelestiaBranch, &["is signed by the set", "the trusted one to"]),
    ];
    for (kind, names) in table {
        for seed in 0..3 {
            let simulation = scenario(seed, kind).run();
            let simulation = simulation.unwrap_or_else(|violation| panic!("{kind}, seed {seed}: {violation:?}"));
            let reasons = reasons(&simulation);
            assert!(reasons.len() > 3, "{kind}, seed {seed}: {reasons:?}");
            for reason in &reasons {
                assert!(names.iter().any(|name| reason.contains(name)), "{kind}, seed {seed}: {reason}");
            }
        }
    }
}

#[test]
fn a_lie_about_what_a_signed_header_holds_can_be_shown_to_anybody() {
    use Falsehood::{FalseAbsence, ForgedRoots, ForgedShares, IncompleteRange, MissingRow, SurplusRow, WrongProof};
    let table: [(Kind, &[Falsehood]); 6] = [
        (Kind::ForgedShares, &[ForgedShares]),
        (Kind::ForgedRoots, &[ForgedRoots]),
        (Kind::WithheldRows, &[MissingRow]),
        (Kind::NarrowedRows, &[IncompleteRange]),
        (Kind::FalseAbsence, &[FalseAbsence, IncompleteRange]),
        (Kind::WrongProof, &[WrongProof, ForgedShares, MissingRow, SurplusRow]),
    ];
    for (kind, reasons) in table {
        for seed in 0..3 {
            let simulation = scenario(seed, kind).run();
            let simulation = simulation.unwrap_or_else(|violation| panic!("{kind}, seed {seed}: {violation:?}"));
            let shown = evidence(&simulation);
            let mut seen = BTreeSet::new();
            for evidence in &shown {
                let proven = inspect_evidence(evidence.to_json().as_bytes(), &Limits::default());
                let Ok(Proven::FalseNamespaces(proven)) = proven else { panic!("{kind}, seed {seed}: {proven:?}") };
                assert!(reasons.contains(&proven.reason), "{kind}, seed {seed}: {proven:?}");
                assert!(seen.insert(proven.reason), "{kind}, seed {seed}: {} twice", proven.reason);
            }
            assert!(!shown.is_empty(), "{kind}, seed {seed}");
        }
    }
}

#[test]
fn without_a_lie_about_what_a_signed_header_holds_there_is_no_evidence() {
    let others = [
        Kind::OtherCelestiaBlock,
        Kind::CelestiaStrangers,
        Kind::CelestiaNoQuorum,
        Kind::CelestiaBranch,
        Kind::Lost,
        Kind::Crash,
    ];
    for kind in others {
        let simulation = scenario(1, kind).run().unwrap_or_else(|violation| panic!("{kind}: {violation:?}"));
        assert_eq!(evidence(&simulation), [] as [&FalseNamespaces; 0], "{kind}");
    }
}

#[test]
fn no_block_becomes_firm_by_what_is_not_proven() {
    // All answers are lies for the whole time.
    let mut simulation = Simulation::new(scenario(1, Kind::ForgedRoots));
    let end = simulation.now().after(std::time::Duration::from_secs(19));
    while simulation.now() < end {
        simulation.step();
    }
    let nodes: Vec<_> = simulation.world.rollups.values().map(|node| (node.soft().0, node.firm().0)).collect();
    assert!(nodes.iter().all(|(soft, firm)| *soft > 5 && *firm == 0), "{nodes:?}");
    let status = simulation.conductor().status(simulation.now());
    let waits: Vec<String> =
        status.cells.values().flat_map(|cell| &cell.waiting_for).map(ToString::to_string).collect();
    assert!(waits.iter().any(|wait| wait.contains("proof of what lies in Celestia block")), "{waits:?}");
}
