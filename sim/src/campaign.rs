//! Many seeds: what they found, which faults mattered, which situations were reached.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Scenario, Simulation, Violation,
    fault::{Group, Kind},
    probe::Probe,
};

/// Which seeds to run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    pub first: u64,
    pub count: u64,
    /// Threads.
    pub jobs: usize,
    /// Of every `shards` seeds run the one with this index.
    pub shard: u64,
    pub shards: u64,
    /// Runs each seed once more without one of the kinds of fault that fired, to see whether that one mattered.
    pub effects: bool,
    /// Ends after so many failures.
    pub failures_max: usize,
}

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub violation: Violation,
}

/// How often a kind of fault did what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Efficacy {
    /// Runs in which it fired, and how often it did in all of them.
    pub runs: u64,
    pub fired: u64,
    /// Runs that were repeated without it, and those of them that took another course.
    pub compared: u64,
    pub mattered: u64,
}

/// What a campaign found.
#[derive(Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    pub events: u64,
    pub simulated: Duration,
    /// Longest virtual time that a healed world took to arrive.
    pub latest: Duration,
    /// Processor time of all threads, without the repeated runs.
    pub busy: Duration,
    pub faults: BTreeMap<Kind, Efficacy>,
    /// Runs that reached it, and the first seed that did.
    pub probes: BTreeMap<Probe, (u64, u64)>,
    pub failures: Vec<Failure>,
}

impl Campaign {
    /// Runs all seeds. `progress` is called now and then with what was found so far.
    pub fn run(&self, progress: impl Fn(&Tally) + Sync) -> Tally {
        let tally = Mutex::new(Tally::default());
        let next = AtomicU64::new(0);
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !enough.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let seed = index.saturating_mul(self.shards.max(1)).saturating_add(self.shard);
                        if seed >= self.count {
                            break;
                        }
                        let seed = self.first.saturating_add(seed);
                        let start = processor_time();
                        let mut simulation = Simulation::new(Scenario::swarm(seed));
                        let result = simulation.finish();
                        let busy = processor_time().saturating_sub(start);
                        let compared = self.compare(&simulation, &tally);
                        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                        tally.take(seed, &simulation, busy, compared);
                        if let Err(violation) = result {
                            tally.failures.push(Failure { seed, violation });
                            if tally.failures.len() >= self.failures_max {
                                enough.store(true, Ordering::Relaxed);
                            }
                        }
                        progress(&tally);
                    }
                });
            }
        });
        tally.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the run would have taken another course without the kind about which least is known.
    fn compare(&self, simulation: &Simulation, tally: &Mutex<Tally>) -> Option<(Kind, bool)> {
        if !self.effects {
            return None;
        }
        let kind = {
            let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            let mattered =
                |kind: Kind| tally.faults.get(&kind).map_or((0, 0), |efficacy| (efficacy.mattered, efficacy.compared));
            simulation.fired().iter().map(|firing| firing.kind).min_by_key(|kind| (mattered(*kind), *kind))?
        };
        let mut without = Simulation::new(simulation.scenario().without(kind));
        let _ = without.finish();
        Some((kind, without.course() != simulation.course()))
    }
}

impl Tally {
    fn take(&mut self, seed: u64, simulation: &Simulation, busy: Duration, compared: Option<(Kind, bool)>) {
        self.seeds += 1;
        self.events += simulation.events;
        self.simulated += simulation.elapsed();
        self.latest = self.latest.max(simulation.healthy());
        self.busy += busy;
        let mut fired: BTreeMap<Kind, u64> = BTreeMap::new();
        for firing in simulation.fired() {
            *fired.entry(firing.kind).or_default() += 1;
        }
        for (kind, times) in fired {
            let efficacy = self.faults.entry(kind).or_default();
            efficacy.runs += 1;
            efficacy.fired += times;
        }
        if let Some((kind, mattered)) = compared {
            let efficacy = self.faults.entry(kind).or_default();
            efficacy.compared += 1;
            efficacy.mattered += u64::from(mattered);
        }
        for probe in simulation.probes() {
            let (runs, first) = self.probes.entry(*probe).or_insert((0, seed));
            *runs += 1;
            *first = seed.min(*first);
        }
    }

    /// Kinds that never changed the course of a run.
    pub fn inert(&self) -> Vec<Kind> {
        let matters = |kind: &Kind| self.faults.get(kind).is_some_and(|efficacy| efficacy.mattered > 0);
        Kind::ALL.iter().copied().filter(|kind| !matters(kind)).collect()
    }

    /// Situations that no run reached.
    pub fn missed(&self) -> Vec<Probe> {
        Probe::ALL.iter().copied().filter(|probe| !self.probes.contains_key(probe)).collect()
    }

    /// Core events per second of processor time.
    pub fn events_per_second(&self) -> f64 {
        ratio(self.events, self.busy)
    }

    /// Simulated seconds per second of processor time.
    pub fn speed(&self) -> f64 {
        self.simulated.as_secs_f64() / self.busy.as_secs_f64().max(f64::EPSILON)
    }

    /// Seeds per second of processor time.
    pub fn seeds_per_second(&self) -> f64 {
        ratio(self.seeds, self.busy)
    }
}

/// Processor time that this thread has had: other processes do not count. Where the system does not tell, the time that
/// has passed.
pub fn processor_time() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let told = told.and_then(|text| text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()));
    told.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

fn ratio(count: u64, time: Duration) -> f64 {
    // A count of this size has an exact place in a double.
    let count = f64::from(u32::try_from(count >> 16).unwrap_or(u32::MAX)) * 65_536.0
        + f64::from(u16::try_from(count & 0xffff).unwrap_or(0));
    count / time.as_secs_f64().max(f64::EPSILON)
}

/// What broke, and how to see it again.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violation } = self;
        let first = violation.to_string();
        writeln!(f, "seed {seed}: {}", first.lines().next().unwrap_or_default())?;
        write!(f, "  again: cargo run --release -p downbeat-sim -- replay seed:{seed}")
    }
}

/// Everything, as text.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        writeln!(
            f,
            "{} seeds, {} failed; {} core events, {:.0} simulated seconds; per second of processor time {:.0} events, {:.0} simulated seconds, {:.1} seeds",
            self.seeds,
            self.failures.len(),
            self.events,
            self.simulated.as_secs_f64(),
            self.events_per_second(),
            self.speed(),
            self.seeds_per_second()
        )
    }
}

impl Tally {
    /// Faults and situations, as two tables.
    pub fn tables(&self) -> String {
        let mut text =
            String::from("| fault | group | runs | fired | compared | mattered |\n|---|---|---|---|---|---|\n");
        for kind in Kind::ALL {
            let Efficacy { runs, fired, compared, mattered } = self.faults.get(kind).copied().unwrap_or_default();
            let group: Group = kind.group();
            let _ = writeln!(text, "| {kind} | {group:?} | {runs} | {fired} | {compared} | {mattered} |");
        }
        text.push_str("\n| situation | runs | first seed |\n|---|---|---|\n");
        for probe in Probe::ALL {
            let _ = match self.probes.get(probe) {
                Some((runs, first)) => writeln!(text, "| {probe} | {runs} | {first} |"),
                None => writeln!(text, "| {probe} | **never** | |"),
            };
        }
        text
    }
}
