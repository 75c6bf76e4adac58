//! `downbeat-sim wire`: many seeds, one scenario file, or the proof that runs repeat.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;

use super::{Outcome, WireScenario, run, run_traced};

/// What to run on the simulated network.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  downbeat-sim wire --first 0 --count 100\n  downbeat-sim wire --first 7 --show > run.toml\n  downbeat-sim wire --file run.toml --trace run.txt"
)]
pub struct Arguments {
    #[arg(long, default_value_t = 0)]
    first: u64,
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Run this scenario instead of drawing some.
    #[arg(long, conflicts_with_all = ["first", "count"])]
    file: Option<PathBuf>,
    /// Print the scenario of the first seed instead of running it.
    #[arg(long)]
    show: bool,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// Write what happens in the (last) run into this file, a line per event.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Record every life of the conductor in this directory; `downbeat replay DIR` then goes through it without network.
    #[arg(long)]
    journal: Option<PathBuf>,
    /// Run each seed once more in a process of its own, with another environment and working directory, and compare.
    #[arg(long, conflicts_with = "file")]
    twice: bool,
    /// Print only the hash chain of each run.
    #[arg(long)]
    chain: bool,
}

/// Does what the arguments say; returns the last line.
///
/// # Errors
/// What to tell about violations and differences.
pub fn perform(arguments: &Arguments) -> Result<String, String> {
    if let Some(file) = &arguments.file {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let scenario: WireScenario = toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        let outcome = run_one(&scenario, arguments)?;
        return Ok(format!("{}: no violation\n{outcome:#?}", file.display()));
    }
    if arguments.show {
        return Ok(WireScenario::draw(arguments.first).to_toml());
    }
    let mut total = Total::default();
    for seed in arguments.first..arguments.first.saturating_add(arguments.count) {
        let started = Instant::now();
        match run_one(&WireScenario::draw(seed), arguments) {
            Ok(outcome) => {
                total.add(&outcome, started.elapsed());
                if arguments.chain {
                    say(&outcome.chain);
                }
                if arguments.twice {
                    compare(seed, &outcome.chain)?;
                }
            }
            Err(problem) => {
                let line =
                    format!("seed {seed}: {problem}\nagain: cargo run --release -p downbeat-sim -- replay wire:{seed}");
                if !arguments.keep_going {
                    return Err(line);
                }
                say(&line);
                total.violations += 1;
            }
        }
        if !arguments.chain && (seed - arguments.first) % 20 == 19 {
            say(&total);
        }
    }
    if arguments.chain {
        return Ok(String::new());
    }
    if total.violations > 0 { Err(total.to_string()) } else { Ok(total.to_string()) }
}

/// A reader that went away is no reason to fail.
fn say(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn run_one(scenario: &WireScenario, arguments: &Arguments) -> Result<Outcome, String> {
    let (result, trace) = run_traced(scenario, arguments.trace.is_some(), arguments.journal.as_deref());
    if let Some(file) = &arguments.trace {
        let text = trace.into_lines().iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        });
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    result.map_err(|violation| violation.to_string())
}

/// Runs seeds one after the other. Returns what they did, and what was wrong with some.
pub fn campaign(first: u64, count: u64) -> (Total, Vec<String>) {
    let (mut total, mut problems) = (Total::default(), Vec::new());
    for seed in first..first.saturating_add(count) {
        let started = Instant::now();
        match run(&WireScenario::draw(seed)) {
            Ok(outcome) => total.add(&outcome, started.elapsed()),
            Err(problem) => {
                total.violations += 1;
                problems.push(format!("seed {seed} on the simulated network: {problem}"));
            }
        }
    }
    (total, problems)
}

/// Runs a seed in two fresh processes and compares.
///
/// # Errors
/// That they differ.
pub fn repeats(seed: u64) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let traces = [folder.path().join("one"), folder.path().join("other")];
    let [one, other] =
        [fresh(seed, folder.path(), &traces[0], "UTC")?, fresh(seed, folder.path(), &traces[1], "Asia/Kolkata")?];
    if one == other && !one.is_empty() { Ok(()) } else { Err(format!("seed {seed} gives two runs: {one}, {other}")) }
}

/// The hash chain of a seed's run in a process of its own.
fn fresh(seed: u64, folder: &Path, trace: &Path, zone: &str) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(&program);
    command.args(["wire", "--chain", "--first", &seed.to_string(), "--trace"]).arg(trace);
    command.current_dir(folder).env("TZ", zone).env("DOWNBEAT_ANYTHING", "1").env_remove("HOME");
    let output = command.output().map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a seed in another process and compares; where they differ, says at which position.
fn compare(seed: u64, chain: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let there = folder.path().join("there");
    let other = fresh(seed, folder.path(), &there, "Asia/Kolkata")?;
    if other == chain {
        return Ok(());
    }
    let (_, trace) = run_traced(&WireScenario::draw(seed), true, None);
    let theirs = std::fs::read_to_string(&there).map_err(|error| error.to_string())?;
    let ours = trace.into_lines();
    let different =
        ours.iter().map(String::as_str).zip(theirs.lines()).enumerate().find(|(_, (ours, theirs))| ours != theirs);
    Err(match different {
        Some((position, (ours, theirs))) => {
            format!("seed {seed} differs at position {position}:\n  here:  {ours}\n  there: {theirs}")
        }
        None => format!("seed {seed} differs: {chain} here, {other} there, and no position of {} does", ours.len()),
    })
}

/// What runs did, together.
#[derive(Clone, Debug, Default)]
pub struct Total {
    runs: u64,
    violations: u64,
    events: u64,
    failures: u64,
    lives: u64,
    virtual_time: Duration,
    real_time: Duration,
    latest_arrival: Duration,
    most_connections: u64,
}

impl Total {
    /// How many times faster than real time they were.
    pub fn factor(&self) -> f64 {
        self.virtual_time.as_secs_f64() / self.real_time.as_secs_f64().max(f64::EPSILON)
    }

    fn add(&mut self, outcome: &Outcome, took: Duration) {
        self.runs += 1;
        self.events += outcome.events;
        self.failures += outcome.failures;
        self.lives += outcome.lives;
        self.virtual_time += outcome.took;
        self.real_time += took;
        self.most_connections = self.most_connections.max(outcome.connections.1);
        self.latest_arrival = self.latest_arrival.max(outcome.arrived_after);
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let factor = self.factor();
        write!(
            f,
            "{} runs without a violation, {} with; {} events, {} failed calls, {} lives; {} s of virtual time in {:.1} s \
             ({factor:.0} x); latest arrival {:.1} s after the healing, at most {} connections",
            self.runs,
            self.violations,
            self.events,
            self.failures,
            self.lives,
            self.virtual_time.as_secs(),
            self.real_time.as_secs_f64(),
            self.latest_arrival.as_secs_f64(),
            self.most_connections,
        )
    }
}
