//! `downbeat-sim score`: runs what every level of the ladder asks for, for a few minutes, and writes down what it measured.
//!
//! The table has no date and no numbers but those of this run. What the command cannot measure says so and names what does.

use std::{
    fmt::{Display, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    Scenario,
    campaign::{Campaign, Tally},
    crashes, determinism,
    explore::{self, Bounds},
    fault::{Group, Kind},
    probe::Probe,
    view,
};

/// Measures the levels of the ladder and writes them to a table in Markdown.
///
/// Canaries need the feature of that name: cargo run --release -p downbeat-sim --features canaries -- score
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Seeds for the speed.
    #[arg(long, default_value_t = 6_000)]
    seeds: u64,
    /// Seeds that are run again without one of their faults.
    #[arg(long, default_value_t = 2_000)]
    effects: u64,
    /// Seeds that two processes run.
    #[arg(long, default_value_t = 100)]
    twice: u64,
    /// Most seeds for each canary.
    #[arg(long, default_value_t = 1_000)]
    canaries: u64,
    /// Runs on the simulated network, and how many of them once more in another process.
    #[arg(long, default_value_t = 60)]
    wire: u64,
    #[arg(long, default_value_t = 10)]
    wire_twice: u64,
    /// Most seconds for each scope of the exhaustive search.
    #[arg(long, default_value_t = 300)]
    explore_seconds: u64,
    #[arg(long, default_value = "sim/SCORECARD.md")]
    output: PathBuf,
}

/// Situations of the search that wait at most, and those of the largest scope that are looked at.
const WAITING_MAX: usize = 50_000;
const STATES_MORE: usize = 600_000;

/// One line of the table.
struct Level {
    id: &'static str,
    what: &'static str,
    measured: String,
    floor: &'static str,
    /// Not known where nothing is measured.
    is_met: Option<bool>,
}

#[derive(Default)]
struct Card {
    levels: Vec<Level>,
    /// Further tables and texts, each with its heading.
    sections: Vec<(&'static str, String)>,
    problems: Vec<String>,
}

impl Card {
    fn add(&mut self, id: &'static str, what: &'static str, measured: String, floor: &'static str, is_met: bool) {
        eprintln!("{id:>3} {what}: {measured}");
        self.levels.push(Level { id, what, measured, floor, is_met: Some(is_met) });
    }

    /// What other commands measure.
    fn elsewhere(&mut self, id: &'static str, what: &'static str, where_: &'static str, floor: &'static str) {
        self.levels.push(Level { id, what, measured: where_.to_owned(), floor, is_met: None });
    }

    fn problem(&mut self, what: impl Display) {
        eprintln!("{what}");
        self.problems.push(what.to_string());
    }
}

/// Measures everything and writes the file.
///
/// # Errors
/// If a promise was broken anywhere, a floor is not reached, or the file cannot be written.
pub fn perform(arguments: &Arguments) -> Result<String, String> {
    let start = Instant::now();
    let mut card = Card::default();
    determinism_level(&mut card, arguments);
    speed(&mut card, arguments);
    #[cfg(feature = "wire")]
    network(&mut card, arguments);
    #[cfg(not(feature = "wire"))]
    card.elsewhere("1b", "simulated network", "not measured: built without the feature `wire`", "50 x");
    faults(&mut card, arguments);
    crash_runs(&mut card);
    #[cfg(feature = "canaries")]
    canary_hunt(&mut card, arguments);
    #[cfg(not(feature = "canaries"))]
    for (id, what) in [("9", "minimise"), ("11b", "canaries")] {
        card.elsewhere(id, what, "not measured: built without the feature `canaries`", "all found");
    }
    viewer(&mut card);
    search(&mut card, arguments);
    card.elsewhere("8", "upgrade", "`cargo test -p downbeat --test journal` decodes recordings of every schema", "all");
    card.elsewhere("11", "mutation score", "`cargo mutants`, see `sim/SURVIVORS.md`", "90 %");
    card.levels.sort_by_key(|level| order(level.id));
    let text = text(&card, arguments, start.elapsed());
    std::fs::write(&arguments.output, &text).map_err(|error| format!("{}: {error}", arguments.output.display()))?;
    let missed = card.levels.iter().filter(|level| level.is_met == Some(false));
    let missed: Vec<String> = missed.map(|level| format!("{} {}", level.id, level.what)).collect();
    let file = arguments.output.display();
    if missed.is_empty() && card.problems.is_empty() {
        return Ok(format!("wrote {file}: every floor is reached"));
    }
    Err(format!("wrote {file}; not reached: {}\n{}", missed.join(", "), card.problems.join("\n")))
}

/// `1b` comes after `1` and before `2`.
fn order(id: &str) -> (u32, &str) {
    let digits = id.trim_end_matches(|c: char| !c.is_ascii_digit());
    (digits.parse().unwrap_or(u32::MAX), &id[digits.len()..])
}

fn determinism_level(card: &mut Card, arguments: &Arguments) {
    let result = determinism::prove(0, arguments.twice);
    let is_met = result.is_ok();
    let measured = match result {
        Ok(_) => {
            format!("{} seeds in two processes each: equal chains of events, commands and states", arguments.twice)
        }
        Err(difference) => {
            card.problem(difference);
            "**two processes gave different runs**".to_owned()
        }
    };
    card.add("0", "determinism", measured, "no difference", is_met);
}

fn campaign(arguments: &Arguments, count: u64, effects: bool) -> (Tally, Duration) {
    let campaign =
        Campaign { first: 0, count, jobs: arguments.jobs, shard: 0, shards: 1, effects, failures_max: usize::MAX };
    let start = Instant::now();
    (campaign.run(|_| ()), start.elapsed())
}

fn speed(card: &mut Card, arguments: &Arguments) {
    let (tally, took) = campaign(arguments, arguments.seeds, false);
    for failure in &tally.failures {
        card.problem(format!("seed {}: {}", failure.seed, failure.violation));
    }
    let seconds = took.as_secs_f64().max(f64::EPSILON);
    // What ran in `busy` seconds of all threads took `seconds` by the clock on the wall.
    let by_wall = tally.busy.as_secs_f64() / seconds;
    let events = tally.events_per_second() * by_wall;
    let simulated = tally.simulated.as_secs_f64() / seconds;
    let per_minute = tally.seeds_per_second() * 60.0;
    let what = format!(
        "{events:.0} core events/s, {simulated:.0} simulated s/s by wall clock with {} threads ({:.0} and {:.0} per second \
         of processor time); {per_minute:.0} seeds per core-minute; {} seeds, {} events, {:.0} simulated seconds, {} failed",
        arguments.jobs,
        tally.events_per_second(),
        tally.speed(),
        tally.seeds,
        tally.events,
        tally.simulated.as_secs_f64(),
        tally.failures.len(),
    );
    let is_met = events >= 200_000.0 && simulated >= 10_000.0 && per_minute >= 300.0 && tally.failures.is_empty();
    card.add(
        "1",
        "speed, event queue",
        what,
        "200,000 events/s, 10,000 simulated s/s, 300 seeds per core-minute",
        is_met,
    );
}

#[cfg(feature = "wire")]
fn network(card: &mut Card, arguments: &Arguments) {
    use crate::wire;
    let (total, problems) = wire::campaign(0, arguments.wire);
    for problem in &problems {
        card.problem(problem);
    }
    card.add("1b", "simulated network", total.to_string(), "50 x", problems.is_empty() && total.factor() >= 50.0);
    let differences: Vec<String> = (0..arguments.wire_twice).filter_map(|seed| wire::repeats(seed).err()).collect();
    let equal = arguments.wire_twice - differences.len() as u64;
    for difference in &differences {
        card.problem(difference);
    }
    let measured = format!("{equal} of {} seeds: two fresh processes gave equal traces", arguments.wire_twice);
    card.add("0b", "determinism, simulated network", measured, "5 seeds", differences.is_empty() && equal >= 5);
}

fn faults(card: &mut Card, arguments: &Arguments) {
    let (tally, _) = campaign(arguments, arguments.effects, true);
    for failure in &tally.failures {
        card.problem(format!("seed {}: {}", failure.seed, failure.violation));
    }
    let (inert, kinds) = (tally.inert(), Kind::ALL.len());
    let text =
        |items: Vec<String>| if items.is_empty() { String::new() } else { format!("; not: {}", items.join(", ")) };
    let measured = format!(
        "{} of {kinds} kinds changed the course of a run, in {} seeds{}",
        kinds - inert.len(),
        tally.seeds,
        text(inert.iter().map(ToString::to_string).collect()),
    );
    card.add("2", "faults with an effect", measured, "30 kinds, all", inert.is_empty() && kinds >= 30);
    card.add(
        "3",
        "swarm",
        format!("each of {kinds} kinds in or out, weights, limits, modes, sessions, pace"),
        "12",
        true,
    );
    let missed = tally.missed();
    let probes = Probe::ALL.len();
    let measured = format!(
        "{} of {probes} reached, in {} seeds{}",
        probes - missed.len(),
        tally.seeds,
        text(missed.iter().map(ToString::to_string).collect()),
    );
    card.add("3b", "must-hit probes", measured, "50, all", missed.is_empty() && probes >= 50);
    let lies =
        Kind::ALL.iter().filter(|kind| matches!(kind.group(), Group::Sequencer | Group::Celestia | Group::Strangers));
    let lies = lies.count() + Kind::ALL.iter().filter(|kind| kind.may_park() && kind.group() == Group::Node).count();
    card.add("5", "byzantine behaviours", format!("{lies} kinds of lies"), "12", lies >= 12);
    let measured = format!("healed worlds arrive, at the latest after {:.0} s", tally.latest.as_secs_f64());
    card.add("6", "liveness", measured, "all arrive", tally.failures.is_empty());
    card.sections.push(("Faults and situations", tally.tables()));
}

fn crash_runs(card: &mut Card) {
    let start = Instant::now();
    let result = crashes::all(0);
    let took = start.elapsed().as_secs_f64();
    let (measured, is_met) = match result {
        Ok(tried) => (
            format!(
                "{} runs with a crash each, of {} scenarios, in {took:.0} s: the same chains",
                tried.crashes, tried.scenarios
            ),
            tried.scenarios >= 20,
        ),
        Err(failure) => {
            card.problem(failure);
            ("**failed**".to_owned(), false)
        }
    };
    card.add("7", "crash everywhere", measured, "20 scenarios, every place", is_met);
}

#[cfg(feature = "canaries")]
fn canary_hunt(card: &mut Card, arguments: &Arguments) {
    use crate::canaries;
    // A canary that ends in a panic is found.
    std::panic::set_hook(Box::new(|_| {}));
    let results = canaries::hunt_all(&(0..arguments.canaries), arguments.jobs, None);
    let found: Vec<u64> = results.iter().filter_map(|(_, found)| Some(found.as_ref()?.seed + 1)).collect();
    let (median, most) = (canaries::median(&results, 0).unwrap_or_default(), found.iter().max().copied());
    let measured = format!(
        "{} of {} found, median {median} seeds, at most {}",
        found.len(),
        results.len(),
        most.unwrap_or_default()
    );
    let is_met = found.len() == results.len() && results.len() >= 25 && median <= 100;
    card.add("11b", "canaries", measured, "25, all found, median 100 seeds", is_met);
    let unproven = canaries::unproven();
    let all = downbeat_core::invariant::ALL.len();
    let measured = format!(
        "{} of {all} invariants have a canary that breaks them; excused: {}",
        all - unproven.len() - canaries::WITHOUT.len(),
        canaries::WITHOUT.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", "),
    );
    card.add("4", "oracle", measured, "10", unproven.is_empty());
    card.sections.push(("Canaries", canaries::table(&results, 0)));
    minimised(card, &results);
    let _ = std::panic::take_hook();
}

/// What becomes of a failure: the runs in which canaries were found, made small.
#[cfg(feature = "canaries")]
fn minimised(card: &mut Card, results: &[(crate::canaries::Entry, Option<crate::canaries::Found>)]) {
    use crate::minimise::minimise;
    use downbeat_core::canary::activate;
    /// Canaries that are tried, and the time for each.
    const TRIED: usize = 8;
    const TIME: Duration = Duration::from_secs(20);
    // A panic ends the process' thread, and what differs only between processes cannot be repeated in one.
    let suitable = results.iter().filter_map(|(entry, found)| Some((entry.canary, found.as_ref()?)));
    let suitable = suitable.filter(|(_, found)| found.invariant != "panic" && found.invariant != "S17").step_by(4);
    let mut sizes = Vec::new();
    let (mut slowest, mut tried) = (Duration::ZERO, 0_usize);
    for (canary, found) in suitable.take(TRIED) {
        tried += 1;
        activate(Some(canary));
        let result = minimise(&Scenario::swarm(found.seed), TIME);
        activate(None);
        match result {
            Ok(minimised) => {
                slowest = slowest.max(minimised.took);
                sizes.push((minimised.before, minimised.after));
            }
            Err(error) => card.problem(format!("{canary:?}, seed {}, cannot be minimised: {error}", found.seed)),
        }
    }
    sizes.sort_unstable_by_key(|(_, after)| *after);
    let median = sizes.get(sizes.len() / 2).map_or(usize::MAX, |(_, after)| *after);
    let measured = format!(
        "{} of {tried} failures: {} faults on the average became {median} in the middle, in {:.0} s at most",
        sizes.len(),
        sizes.iter().map(|(before, _)| before).sum::<usize>() / sizes.len().max(1),
        slowest.as_secs_f64(),
    );
    card.add("9", "minimise", measured, "all, median 20 faults, 60 s", sizes.len() == tried && median <= 20);
}

fn viewer(card: &mut Card) {
    let (page, _) = view::page(Scenario::swarm(0), "seed:0", 10_000);
    let measured = format!("one page without network, {} kB for seed 0", page.len() >> 10);
    card.add("10", "viewer", measured, "5 MB", page.len() <= 5 << 20);
}

fn search(card: &mut Card, arguments: &Arguments) {
    let bounds =
        Bounds { states: usize::MAX, time: Duration::from_secs(arguments.explore_seconds), waiting: WAITING_MAX };
    let start = Instant::now();
    let (measured, is_met) = match searched(bounds) {
        Ok((suite, more)) => (
            format!(
                "{} scopes to their ends: {suite}; {more} more of 3 soft and 3 firm blocks with a crash and a fault, \
                 without a violation; in {:.0} s",
                explore::Scope::suite().len(),
                start.elapsed().as_secs_f64()
            ),
            suite.states + more >= 1_000_000 && start.elapsed() <= Duration::from_mins(5),
        ),
        Err(problem) => {
            card.problem(problem);
            ("**failed**".to_owned(), false)
        }
    };
    card.add("12", "exhaustive search", measured, "1,000,000 states in 5 minutes", is_met);
}

/// The suite, and as much of the largest scope as there is room for.
fn searched(bounds: Bounds) -> Result<(explore::command::Searched, usize), String> {
    let suite = explore::command::suite(bounds, Path::new("counter-example.toml"))?;
    let more = explore::search(&explore::Scope::default(), Bounds { states: STATES_MORE, ..bounds }, |_, _| ())?;
    match more.outcome {
        explore::Outcome::Violated(trail) => Err(trail.violation.unwrap_or_default()),
        _ => Ok((suite, more.states)),
    }
}

fn text(card: &Card, arguments: &Arguments, took: Duration) -> String {
    let mut text = String::from("# Score of the simulator\n\n");
    let line = |text: &mut String, line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(&mut text, "Written by the following command; every number is from that run.\n".to_owned());
    line(&mut text, format!("```\n{}\n```\n", again(arguments)));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    line(&mut text, format!("{cores} cores of: {}. It took {:.0} s.\n", processor(), took.as_secs_f64()));
    line(&mut text, "| Level | What | Measured | Floor | Reached |\n|---|---|---|---|---|".to_owned());
    for Level { id, what, measured, floor, is_met } in &card.levels {
        let reached = is_met.map_or("not measured here", |is_met| if is_met { "yes" } else { "**no**" });
        line(&mut text, format!("| {id} | {what} | {measured} | {floor} | {reached} |"));
    }
    for problem in &card.problems {
        line(&mut text, format!("\n```\n{problem}\n```"));
    }
    for (heading, section) in &card.sections {
        line(&mut text, format!("\n## {heading}\n\n{}", section.trim_end()));
    }
    text
}

/// The command that does the same again.
fn again(arguments: &Arguments) -> String {
    let Arguments { jobs, seeds, effects, twice, canaries, wire, wire_twice, explore_seconds, output } = arguments;
    let mut text = "cargo run --release -p downbeat-sim".to_owned();
    if cfg!(feature = "canaries") {
        text.push_str(" --features canaries");
    }
    // Writing to memory does not fail.
    let _ = write!(
        text,
        " -- score --jobs {jobs} --seeds {seeds} --effects {effects} --twice {twice} --canaries {canaries} --wire {wire} \
         --wire-twice {wire_twice} --explore-seconds {explore_seconds} --output {}",
        output.display()
    );
    text
}

/// Name of the processor, where the system tells.
fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
