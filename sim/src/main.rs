//! Runs simulations from the command line.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use downbeat_sim::{
    campaign::{Campaign, Tally},
    crashes, determinism, explore, score,
    token::{Smaller, Token},
    view,
};

/// Runs allocate and free all the time, beside results that stay: with the system's allocator that takes a quarter of the
/// time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates Downbeat against a model world, deterministically.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str =
    "TOKEN is seed:N, wire:N (on the simulated network), a scenario file, or the word that a failure printed.

Examples:
  downbeat-sim run --seeds 1000               draw scenarios and run them
  downbeat-sim replay seed:582                run one of them again
  downbeat-sim view seed:582 -o run.html      look at it in a browser
  downbeat-sim minimise seed:582 -o x.toml    the smallest schedule that still fails
  downbeat-sim adopt x.toml NAME              into tests/regressions, which cargo test replays
  downbeat-sim score                          measure everything, into sim/SCORECARD.md";

#[derive(Debug, Subcommand)]
enum Command {
    /// Draws scenarios from seeds and runs them; failures come first.
    Run {
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Threads.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Run only a part, such as 0/4: the first of four.
        #[arg(long, value_parser = shard, default_value = "0/1")]
        shard: (u64, u64),
        /// Run each seed again without one of its kinds of fault, and fail if some kind never matters.
        #[arg(long)]
        effects: bool,
        /// Fail if some situation is never reached.
        #[arg(long)]
        probes: bool,
        /// Write everything that was found to a file.
        #[arg(long)]
        summary: Option<PathBuf>,
        /// End after so many failures.
        #[arg(long, default_value_t = 10)]
        failures: usize,
    },
    /// Prints a scenario as a file.
    Show {
        token: Token,
    },
    /// Runs one scenario.
    Replay {
        token: Token,
    },
    /// Writes a run as one page for a browser: who said what when, faults, heads, state, and what was violated.
    View {
        token: Token,
        #[arg(short, long, default_value = "run.html")]
        output: PathBuf,
        /// Events to show: the last ones.
        #[arg(long, default_value_t = 10_000)]
        steps: usize,
    },
    /// Finds the smallest scenario that still breaks the same promise.
    Minimise {
        token: Token,
        /// Seconds to try for.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Where to write it; standard output unless given.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// Writes a scenario to tests/regressions, where every test run replays it.
    Adopt {
        token: Token,
        /// What must hold, such as `sessions_end_where_they_should`.
        name: String,
        /// What went wrong, in a sentence.
        #[arg(long)]
        about: String,
    },
    /// Kills the conductor at every event and at every boundary of a call to a rollup.
    Crashes {
        /// Second crashes to try for each first one.
        #[arg(long, default_value_t = 0)]
        pairs: usize,
    },
    /// Runs seeds in two processes and compares them event by event.
    Determinism {
        #[arg(long, default_value_t = 0)]
        first: u64,
        #[arg(long, default_value_t = 20)]
        seeds: u64,
    },
    Explore(Box<explore::command::Arguments>),
    Score(score::Arguments),
    /// Runs the real driver and adapters on a simulated network.
    #[cfg(feature = "wire")]
    Wire(downbeat_sim::wire::Arguments),
    /// Prints the hash chains of seeds: what `determinism` compares.
    #[command(hide = true)]
    Chain {
        #[arg(long)]
        positions: bool,
        first: u64,
        count: u64,
    },
    /// Hunts for deliberate bugs of the core with ordinary seeds; fails if one is not found.
    #[cfg(feature = "canaries")]
    Canaries {
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Most seeds for each.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// Threads.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// This one only.
        #[arg(long)]
        only: Option<String>,
    },
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    parts.filter(|(index, of)| index < of).ok_or_else(|| "a shard looks like 0/4".to_owned())
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<String, String> {
    match command {
        Command::Explore(arguments) => explore::command::run(*arguments),
        Command::Score(arguments) => score::perform(&arguments),
        Command::Run { seeds, first, jobs, shard: (shard, shards), effects, probes, summary, failures } => {
            let campaign = Campaign { first, count: seeds, jobs, shard, shards, effects, failures_max: failures };
            let tally = campaign.run(progress());
            let mut text = tally.to_string();
            let mut is_good = tally.failures.is_empty();
            if effects && !tally.inert().is_empty() {
                is_good = false;
                let _ = writeln!(text, "faults that never mattered: {}", names(&tally.inert()));
            }
            if probes && !tally.missed().is_empty() {
                is_good = false;
                let _ = writeln!(text, "situations that were never reached: {}", names(&tally.missed()));
            }
            if let Some(file) = summary {
                let all = format!("{text}\n{}", tally.tables());
                std::fs::write(&file, all).map_err(|error| format!("{}: {error}", file.display()))?;
            }
            if is_good { Ok(text) } else { Err(text) }
        }
        Command::Show { token } => Ok(token.load()?.to_toml()),
        Command::Replay { token } => token.load()?.run(),
        Command::View { token, output, steps } => {
            let (page, result) = view::page(token.scenario()?, &token.to_string(), steps);
            std::fs::write(&output, page).map_err(|error| format!("{}: {error}", output.display()))?;
            // All of it is on the page.
            let outcome = result.map_or_else(|violation| violation.to_string(), |()| "no violation".to_owned());
            Ok(format!("{}\nwrote {}", outcome.lines().next().unwrap_or_default(), output.display()))
        }
        Command::Minimise { token, seconds, output } => {
            let Smaller { scenario, line } = token.load()?.minimise(Duration::from_secs(seconds))?;
            let Some(file) = output else {
                eprintln!("{line}");
                return Ok(scenario.to_toml());
            };
            std::fs::write(&file, scenario.to_toml()).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(format!("{line}\nagain: cargo run --release -p downbeat-sim -- replay {}", file.display()))
        }
        Command::Adopt { token, name, about } => {
            let mut scenario = token.load()?;
            scenario.describe(about);
            if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') || name.is_empty() {
                return Err("a name consists of small letters, digits and underscores".to_owned());
            }
            let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/regressions/{name}.toml"));
            if file.exists() {
                return Err(format!("{} exists already", file.display()));
            }
            std::fs::write(&file, scenario.to_toml()).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(format!("wrote tests/regressions/{name}.toml"))
        }
        Command::Crashes { pairs } => {
            let start = Instant::now();
            let crashes::Enumerated { scenarios, crashes, events } = crashes::all(pairs)?;
            Ok(format!(
                "{scenarios} scenarios, {crashes} runs with crashes, {events} events: the same chains as without, in {:.0} s",
                start.elapsed().as_secs_f64()
            ))
        }
        Command::Determinism { first, seeds } => determinism::prove(first, seeds),
        #[cfg(feature = "wire")]
        Command::Wire(arguments) => downbeat_sim::wire::perform(&arguments),
        Command::Chain { positions, first, count } => {
            for seed in first..first.saturating_add(count) {
                if positions {
                    println!("{}", determinism::positions(seed).join("\n"));
                } else {
                    println!("{}", determinism::chain(seed));
                }
            }
            Ok(String::new())
        }
        #[cfg(feature = "canaries")]
        Command::Canaries { first, seeds, jobs, only } => canaries(first, seeds, jobs, only.as_deref()),
    }
}

#[cfg(feature = "canaries")]
fn canaries(first: u64, seeds: u64, jobs: usize, only: Option<&str>) -> Result<String, String> {
    use downbeat_sim::canaries::{hunt_all, median, table};
    // A canary that ends in a panic is found; its message would only be in the way of the table.
    std::panic::set_hook(Box::new(|_| {}));
    let results = hunt_all(&(first..first.saturating_add(seeds)), jobs, only);
    print!("{}", table(&results, first));
    for (entry, found) in &results {
        if let Some(found) = found {
            let detail: String = found.detail.chars().take(160).collect();
            eprintln!("{:?} at seed {}: {}: {detail}", entry.canary, found.seed, found.invariant);
        }
    }
    let missing = results.iter().filter(|(_, found)| found.is_none()).count();
    let median = median(&results, first).unwrap_or_default();
    let line = format!("{} canaries, {missing} not found, median {median} seeds", results.len());
    if missing == 0 { Ok(line) } else { Err(line) }
}

fn names(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Says now and then how far it is, and at once what has failed, on standard error.
fn progress() -> impl Fn(&Tally) + Sync {
    let last = Mutex::new((Instant::now(), 0));
    move |tally| {
        let Ok(mut last) = last.lock() else { return };
        let failed = tally.failures.len();
        if last.0.elapsed() > Duration::from_secs(10) || failed > last.1 {
            let mut error = std::io::stderr().lock();
            for failure in tally.failures.iter().skip(last.1) {
                let _ = writeln!(error, "{failure}");
            }
            *last = (Instant::now(), failed);
            let _ = writeln!(error, "{} seeds, {failed} failed", tally.seeds);
        }
    }
}
