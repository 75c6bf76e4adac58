//! Crash everywhere: the conductor is killed at every event and at every boundary of a call to a rollup, and the chain
//! must be the same as without (S16).

use downbeat_core::light::{SoftTrust, Trust};

use crate::{
    Scenario, Simulation, Violation,
    fault::{Firing, Kind, Site},
    scenario::Believes,
    token::Token,
};

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Enumerated {
    pub scenarios: u64,
    pub crashes: u64,
    pub events: u64,
}

/// Scenarios to crash in: modes, sessions, limits and orders of arrival, small enough to try everything.
pub fn bases() -> Vec<Scenario> {
    use downbeat_core::cell::Mode::{FirmOnly, SoftAndFirm, SoftOnly};
    let mut bases = Vec::new();
    for (seed, mode) in (0..).zip([SoftOnly, FirmOnly, SoftAndFirm, SoftAndFirm]) {
        for (variant, sessions) in (0..).zip([vec![], vec![1, 2], vec![3]]) {
            let mut base = Scenario::healthy(100 + 10 * seed + variant, mode);
            base.sessions = sessions;
            // Time enough for calls to overlap.
            base.latency_ms = if seed == 3 { 400 } else { 40 };
            bases.push(base);
        }
    }
    let with = |seed, change: fn(&mut Scenario)| {
        let mut base = Scenario { latency_ms: 60, ..Scenario::healthy(seed, SoftAndFirm) };
        change(&mut base);
        base
    };
    bases.push(with(200, |base| base.rollups = 2));
    bases.push(with(201, |base| base.tiny.soft_firm_spread = Some(2)));
    bases.push(with(202, |base| base.tiny.firm_buffer_bytes = Some(1)));
    bases.push(with(203, |base| base.tiny.candidates_per_height = Some(1)));
    bases.push(with(204, |base| {
        base.rollups = 2;
        base.sessions = vec![2, 2];
    }));
    bases.push(with(205, |base| base.tiny.trusted_headers = Some(1)));
    bases.push(with(206, |base| base.latency_ms = 1_200));
    bases.push(with(207, |base| {
        base.tiny.celestia_in_flight = Some(1);
        base.tiny.headers_in_flight = Some(1);
    }));
    // Records: from the genesis, from the first header that comes, and with validators that change and a witness.
    bases.push(with(208, |base| base.trust = believes(1, true)));
    bases.push(with(209, |base| base.trust = believes(1, false)));
    bases.push(with(210, |base| {
        base.trust = believes(2, true);
        base.faults.insert(Kind::ValidatorChanges, 100);
    }));
    for base in &mut bases {
        // Until then latencies are those of the scenario.
        base.faulty_for_s = 6;
        base.blocks = 7;
        base.healthy_for_s = 60;
        base.schedule = Some(base.faults.keys().map(|kind| Firing { kind: *kind, at: Site::Run, nth: 0 }).collect());
    }
    bases
}

fn believes(nodes: u32, genesis: bool) -> Believes {
    Believes { level: Trust::Consensus, soft: SoftTrust::Consensus, nodes, genesis, ..Believes::default() }
}

/// Kills the conductor at every place of every scenario of [`bases`], see [`everywhere`].
///
/// # Errors
/// What was violated, and how to see it again.
pub fn all(pairs: usize) -> Result<Enumerated, String> {
    let mut tried = Enumerated::default();
    for base in bases() {
        everywhere(&base, pairs, &mut tried).map_err(|(scenario, violation)| {
            format!("{violation}\nagain: cargo run --release -p downbeat-sim -- replay {}", Token::of(&scenario))
        })?;
    }
    Ok(tried)
}

/// The blocks of every rollup up to the number that the scenario asks for.
fn chains(simulation: &Simulation) -> Vec<Vec<String>> {
    let most = simulation.scenario().blocks;
    let chain = |node: &downbeat_world::RollupNode| {
        node.blocks().filter(|block| block.metadata.number <= most).map(|block| block.metadata.hash.clone()).collect()
    };
    simulation.world.rollups.values().map(chain).collect()
}

/// Every place in a run at which the conductor can be killed.
fn places(simulation: &Simulation) -> Vec<Firing> {
    let mut places = Vec::new();
    for (site, passed) in simulation.injector.sites() {
        let kinds: &[Kind] = match site {
            Site::Event => &[Kind::Crash],
            site if site.cell().is_some() => &[Kind::CrashBefore, Kind::CrashBetween, Kind::CrashAfter],
            _ => continue,
        };
        for nth in 0..passed {
            places.extend(kinds.iter().map(|kind| Firing { kind: *kind, at: site, nth }));
        }
    }
    places
}

/// Kills the conductor at every place of one scenario. With `pairs`, kills it a second time at a place of the run that
/// the first crash led to, `pairs` of them for each first one.
///
/// # Errors
/// The scenario that failed, and how.
pub fn everywhere(base: &Scenario, pairs: usize, tried: &mut Enumerated) -> Result<(), (Box<Scenario>, Violation)> {
    let fail = |scenario: &Scenario, violation| (Box::new(scenario.clone()), violation);
    let undisturbed = base.run().map_err(|violation| fail(base, violation))?;
    let expected = chains(&undisturbed);
    let mut crashed = |schedule: Vec<Firing>| {
        let schedule = base.schedule.iter().flatten().copied().chain(schedule).collect();
        let scenario = Scenario { schedule: Some(schedule), ..base.clone() };
        let simulation = scenario.run().map_err(|violation| fail(&scenario, violation))?;
        tried.crashes += 1;
        tried.events += simulation.events;
        if chains(&simulation) == expected {
            return Ok(simulation);
        }
        Err(fail(&scenario, Violation::new("S16", "the chain differs from that of the run without a crash")))
    };
    for place in places(&undisturbed) {
        let simulation = crashed(vec![place])?;
        let later = places(&simulation);
        let stride = later.len().checked_div(pairs).unwrap_or(usize::MAX).max(1);
        for second in later.iter().step_by(stride).take(pairs).filter(|second| **second != place) {
            crashed(vec![place, *second])?;
        }
    }
    tried.scenarios += 1;
    Ok(())
}
