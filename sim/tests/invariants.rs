//! Invariants that need more than one run: the same seeds once more, with something left out.

use downbeat_core::{invariant, light::Trust};
use downbeat_sim::{
    Scenario,
    fault::{Group, Kind},
};

/// Hashes of all committed blocks of each rollup, from the genesis block on.
fn chains(scenario: &Scenario) -> Vec<Vec<String>> {
    let simulation = scenario.run().unwrap_or_else(|violation| panic!("seed {}: {violation}", scenario.seed));
    let chain = |node: &downbeat_world::RollupNode| node.blocks().map(|block| block.metadata.hash.clone()).collect();
    simulation.world.rollups.values().map(chain).collect()
}

fn posts(kind: Kind) -> bool {
    kind.group() == Group::Strangers
}

/// S4. A rollup's block hash covers everything that was executed before, so equal hashes are equal histories.
#[test]
fn what_strangers_post_changes_no_chain() {
    let mut compared = 0;
    for seed in 0..40 {
        let mut with = Scenario::swarm(seed);
        // The soft source's own lies are no stranger's, and each run is told them at other moments.
        with.faults.retain(|kind, _| !kind.may_park());
        for kind in Kind::ALL.iter().copied().filter(|kind| posts(*kind)) {
            with.faults.entry(kind).or_insert(40);
        }
        let mut without = with.clone();
        without.faults.retain(|kind, _| !posts(*kind));
        for (with, without) in chains(&with).into_iter().zip(chains(&without)) {
            let common = with.len().min(without.len());
            assert!(common > 10, "seed {seed}: only {common} blocks in common");
            assert_eq!(with[..common], without[..common], "seed {seed}");
            compared += common;
        }
    }
    assert!(compared > 1_000, "{compared} blocks were compared");
}

/// S4. With trust in consensus: headers, commits, sets and links that are refused.
#[test]
fn what_is_refused_of_the_sequencers_nodes_changes_no_chain() {
    let lies = [
        Kind::WeakCommit,
        Kind::RepeatedSigner,
        Kind::ForgedSignature,
        Kind::ForgedHeader,
        Kind::FutureHeader,
        Kind::OtherHeader,
        Kind::ForeignCommit,
        Kind::ForgedValidators,
        Kind::BrokenLink,
        Kind::GappedLinks,
    ];
    let mut compared = 0;
    for seed in (0..80).filter(|seed| Scenario::swarm(*seed).trust.level == Trust::Consensus) {
        let mut without = Scenario::swarm(seed);
        without.faults.retain(|kind, _| !kind.may_park() && !lies.contains(kind));
        let mut with = without.clone();
        with.faults.extend(lies.map(|kind| (kind, 8)));
        for (with, without) in chains(&with).into_iter().zip(chains(&without)) {
            let common = with.len().min(without.len());
            assert!(common > 10, "seed {seed}: only {common} blocks in common");
            assert_eq!(with[..common], without[..common], "seed {seed}");
            compared += common;
        }
    }
    assert!(compared > 1_000, "{compared} blocks were compared");
}

/// S10, L5: an answer that comes again, and a call that fails for once, change no chain either.
#[test]
fn repeated_answers_and_passing_faults_change_no_chain() {
    let faults = [Kind::Repeated, Kind::Late, Kind::Refused, Kind::ReplyFailed, Kind::Lost, Kind::DoubledBlobs];
    for seed in 0..10 {
        let mut without = Scenario::swarm(seed);
        without.faults.clear();
        let with = Scenario { faults: faults.iter().map(|kind| (*kind, 20)).collect(), ..without.clone() };
        for (with, without) in chains(&with).into_iter().zip(chains(&without)) {
            let common = with.len().min(without.len());
            assert!(common > 10, "seed {seed}: only {common} blocks in common");
            assert_eq!(with[..common], without[..common], "seed {seed}");
        }
    }
}

/// Everything that the judges can say is in the list of invariants.
#[test]
fn every_violation_names_an_invariant() {
    let sources = [
        include_str!("../src/oracle.rs"),
        include_str!("../src/oracle/watch/mod.rs"),
        include_str!("../src/oracle/watch/calls.rs"),
        include_str!("../src/oracle/watch/rollups.rs"),
        include_str!("../src/oracle/watch/trust.rs"),
        include_str!("../src/queue/gossip.rs"),
        include_str!("../src/queue/mod.rs"),
        include_str!("../src/queue/judge.rs"),
        include_str!("../src/queue/ports.rs"),
        include_str!("../src/queue/trouble.rs"),
        include_str!("../src/crashes.rs"),
    ];
    let mut named = 0;
    for source in sources {
        for part in source.split('"').skip(1).step_by(2) {
            let is_id = part.len() <= 3
                && part.starts_with(['S', 'L'])
                && part.len() > 1
                && part[1..].bytes().all(|byte| byte.is_ascii_digit());
            if is_id {
                named += 1;
                assert!(invariant::by_id(part).is_some(), "{part}");
            }
        }
    }
    assert!(named > 25, "{named} ids were found in the judges");
}
