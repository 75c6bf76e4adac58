//! From a failure on the simulated network to the shortest list of faults that still shows it.

use std::time::{Duration, Instant};

use super::{Relaying, WireScenario, run};
use crate::{Violation, minimise::fewest};

/// Shrinks a failing scenario as long as the same invariant breaks, for about as long as `budget`.
///
/// # Errors
/// If the scenario breaks no promise.
pub fn minimise(scenario: &WireScenario, budget: Duration) -> Result<(WireScenario, Violation), String> {
    let Err(violation) = run(scenario) else { return Err("the scenario breaks no promise".to_owned()) };
    let start = Instant::now();
    let mut best = (scenario.clone(), violation);
    let tries = |best: &mut (WireScenario, Violation), change: &dyn Fn(&mut WireScenario)| {
        let mut candidate = best.0.clone();
        change(&mut candidate);
        if candidate == best.0 || start.elapsed() > budget {
            return false;
        }
        match run(&candidate) {
            Err(violation) if violation.invariant == best.1.invariant => {
                *best = (candidate, violation);
                true
            }
            _ => false,
        }
    };
    fewest(scenario.items.clone(), |rest| tries(&mut best, &|scenario| scenario.items.clone_from(&rest)));
    let healthy = WireScenario::healthy(scenario.seed, scenario.mode);
    tries(&mut best, &|scenario| scenario.relayer = Relaying::default());
    tries(&mut best, &|scenario| scenario.random_order = false);
    tries(&mut best, &|scenario| scenario.limits = healthy.limits.clone());
    tries(&mut best, &|scenario| (scenario.latency_ms, scenario.tick_ms) = (healthy.latency_ms, healthy.tick_ms));
    while best.0.rollups > 1 && tries(&mut best, &|scenario| scenario.rollups -= 1) {}
    while best.0.faulty_for_s > 1
        && tries(&mut best, &|scenario| scenario.faulty_for_s -= scenario.faulty_for_s.div_ceil(4))
    {}
    // Shorter ones say better what it takes.
    for index in 0..best.0.items.len() {
        while best.0.items[index].for_ms > 100 && tries(&mut best, &|scenario| scenario.items[index].for_ms /= 2) {}
    }
    Ok(best)
}
