//! From a failure to the smallest schedule that still shows it.

use std::time::{Duration, Instant};

use crate::{Scenario, Simulation, Violation, fault::Firing, scenario::Tiny};

/// A smaller scenario, and what it took to find it.
#[derive(Clone, Debug)]
pub struct Minimised {
    pub scenario: Scenario,
    pub violation: Violation,
    /// Faults before and after.
    pub before: usize,
    pub after: usize,
    pub runs: u64,
    pub took: Duration,
}

struct Minimiser {
    best: Scenario,
    violation: Violation,
    runs: u64,
    start: Instant,
    budget: Duration,
}

/// Shrinks a failing scenario by leaving out faults and everything else that it does not need, as long as the same
/// invariant breaks: the one that breaks first when each fault is named.
///
/// # Errors
/// If the scenario does not fail.
pub fn minimise(scenario: &Scenario, budget: Duration) -> Result<Minimised, String> {
    let mut simulation = Simulation::new(scenario.clone());
    if simulation.finish().is_ok() {
        return Err("the scenario breaks no promise".to_owned());
    }
    let mut schedule: Vec<Firing> = simulation.fired().to_vec();
    schedule.sort_unstable();
    schedule.dedup();
    let before = schedule.len();
    let explicit = Scenario { schedule: Some(schedule), faults: scenario.faults.clone(), ..scenario.clone() };
    // Where faults are named, more is looked at (L3 after each event): another promise may be seen to break before.
    let Err(violation) = explicit.run() else {
        return Err("the failure does not come back when its faults are named one by one".to_owned());
    };
    let mut minimiser = Minimiser { best: explicit, violation, runs: 2, start: Instant::now(), budget };
    minimiser.simplify();
    minimiser.thin_out();
    minimiser.simplify();
    let Minimiser { best: mut scenario, violation, runs, start, .. } = minimiser;
    scenario.found.clone_from(&violation.invariant.to_owned());
    let after = scenario.schedule.as_ref().map_or(0, Vec::len);
    Ok(Minimised { scenario, violation, before, after, runs, took: start.elapsed() })
}

impl Minimiser {
    fn is_out_of_time(&self) -> bool {
        self.start.elapsed() > self.budget
    }

    /// Keeps a candidate that still fails in the same way.
    fn adopts(&mut self, candidate: Scenario) -> bool {
        if candidate == self.best || self.is_out_of_time() {
            return false;
        }
        self.runs += 1;
        match candidate.run() {
            Err(violation) if violation.invariant == self.violation.invariant => {
                self.best = candidate;
                self.violation = violation;
                true
            }
            _ => false,
        }
    }

    fn tries(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.adopts(candidate)
    }

    /// Everything but the faults.
    fn simplify(&mut self) {
        // The weights no longer decide anything.
        self.tries(|scenario| scenario.faults.clear());
        // The end stays where it is: with an earlier one a run that is only slow would look like one that never arrives.
        while self.best.rollups > 1 && self.tries(|scenario| scenario.rollups -= 1) {}
        if !self.tries(|scenario| scenario.sessions.clear()) {
            while !self.best.sessions.is_empty()
                && self.tries(|scenario| scenario.sessions.truncate(scenario.sessions.len() - 1))
            {}
        }
        if !self.tries(|scenario| scenario.tiny = Tiny::default()) {
            let clear: [fn(&mut Tiny); 12] = [
                |tiny| tiny.soft_firm_spread = None,
                |tiny| tiny.soft_ahead = None,
                |tiny| tiny.soft_in_flight = None,
                |tiny| tiny.soft_buffer_bytes = None,
                |tiny| tiny.celestia_in_flight = None,
                |tiny| tiny.firm_ahead = None,
                |tiny| tiny.firm_buffer_bytes = None,
                |tiny| tiny.candidates_per_height = None,
                |tiny| tiny.headers_in_flight = None,
                |tiny| tiny.headers_ahead = None,
                |tiny| tiny.trusted_headers = None,
                |tiny| tiny.validator_sets = None,
            ];
            for clear in clear {
                self.tries(|scenario| clear(&mut scenario.tiny));
            }
        }
        self.tries(|scenario| scenario.latency_ms = 5);
        self.tries(|scenario| scenario.look_ahead = 40);
        self.tries(|scenario| scenario.validators = vec![1]);
        for part in [4, 2] {
            while self.best.faulty_for_s > 1 {
                if !self.tries(|scenario| {
                    scenario.faulty_for_s -= (scenario.faulty_for_s / part).max(1);
                    scenario.blocks = scenario.blocks.min(scenario.pace.blocks(scenario.faulty_for_s));
                }) {
                    break;
                }
            }
        }
        while self.best.blocks > 1 && self.tries(|scenario| scenario.blocks -= (scenario.blocks / 4).max(1)) {}
    }

    fn thin_out(&mut self) {
        let schedule = self.best.schedule.clone().unwrap_or_default();
        fewest(schedule, |rest| self.tries(|scenario| scenario.schedule = Some(rest)));
    }
}

/// Delta debugging: leaves out ever smaller parts of `items` for as long as `fails` says that the rest still fails.
pub(crate) fn fewest<T: Clone>(mut items: Vec<T>, mut fails: impl FnMut(Vec<T>) -> bool) -> Vec<T> {
    let mut pieces = 2_usize;
    while !items.is_empty() {
        let size = items.len().div_ceil(pieces);
        let shorter = (0..items.len()).step_by(size).find_map(|from| {
            let to = (from + size).min(items.len());
            let rest = [&items[..from], &items[to..]].concat();
            fails(rest.clone()).then_some(rest)
        });
        match shorter {
            Some(rest) => {
                items = rest;
                pieces = pieces.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => pieces = (pieces * 2).min(items.len()),
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_for_a_failure_stays_and_nothing_else() {
        let fails = |rest: Vec<u32>| rest.contains(&3) && rest.contains(&17);
        assert_eq!(fewest((0..40).collect(), fails), [3, 17]);
        assert!(fewest((0..40).collect::<Vec<u32>>(), |_| true).is_empty());
    }
}
