//! A service of the sequencer whose soft blocks contradict signed headers: what it said can be shown to anybody.

use std::collections::BTreeSet;

use downbeat_core::{
    Limits, Report,
    cell::Mode,
    inspect::{Proven, inspect_evidence},
    light::{SoftTrust, Trust},
    sequencer::{BlockFalsehood, FalseBlock},
};
use downbeat_sim::{Scenario, Simulation, fault::Kind, scenario::Believes};

fn run(seed: u64, kind: Kind) -> Simulation {
    let trust = Believes { level: Trust::Consensus, soft: SoftTrust::Consensus, ..Believes::default() };
    let simulation = Scenario { trust, ..Scenario::with(seed, Mode::SoftAndFirm, [(kind, 60)]) }.run();
    simulation.unwrap_or_else(|violation| panic!("{kind}, seed {seed}: {violation:?}"))
}

/// Evidence that was handed out.
fn evidence(simulation: &Simulation) -> Vec<&FalseBlock> {
    let evidence = simulation.reports.iter().filter_map(|report| match report {
        Report::FalseBlock { evidence } => Some(evidence.as_ref()),
        _ => None,
    });
    evidence.collect()
}

#[test]
fn a_soft_block_that_contradicts_its_signed_header_can_be_shown_to_anybody() {
    use BlockFalsehood::{OtherData, OtherHash, OtherHeader};
    let table: [(Kind, &[BlockFalsehood]); 2] =
        [(Kind::Equivocation, &[OtherHash, OtherHeader, OtherData]), (Kind::OmittedRollup, &[OtherData])];
    for (kind, reasons) in table {
        let mut seen = BTreeSet::new();
        for seed in 0..4 {
            let simulation = run(seed, kind);
            let mut of_run = BTreeSet::new();
            for evidence in evidence(&simulation) {
                let proven = inspect_evidence(evidence.to_json().as_bytes(), &Limits::default());
                let Ok(Proven::FalseBlock(proven)) = proven else { panic!("{kind}, seed {seed}: {proven:?}") };
                assert!(of_run.insert(proven.reason), "{kind}, seed {seed}: {} twice", proven.reason);
            }
            seen.extend(of_run);
        }
        assert_eq!(seen, reasons.iter().copied().collect(), "{kind}");
    }
}

#[test]
fn what_is_true_of_some_block_is_no_evidence() {
    for kind in [Kind::OtherHeight, Kind::OmittedData, Kind::Lost, Kind::Crash, Kind::ForgedSignature] {
        let simulation = run(1, kind);
        assert_eq!(evidence(&simulation), [] as [&FalseBlock; 0], "{kind}");
    }
}
