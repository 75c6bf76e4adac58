//! `downbeat-sim explore`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use downbeat_core::cell::Mode;

use super::{Bounds, Layout, Outcome, PROBES, Planted, Scope, Summary, Trail, search};

/// Goes through every order of deliveries, every place for a fault and every moment for a crash, in a small scope.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    downbeat-sim explore --soft 2 --firm 2 --crashes 1 --faults 1\n  \
    downbeat-sim explore --suite\n  \
    downbeat-sim explore --replay found.toml")]
pub struct Arguments {
    #[arg(long, value_enum, default_value = "soft-and-firm")]
    mode: ModeArgument,
    /// Sequencer blocks.
    #[arg(long, default_value_t = 3)]
    soft: u8,
    /// Of these, how many are on Celestia; none with `--mode soft-only`.
    #[arg(long, default_value_t = 3)]
    firm: u8,
    /// Crashes of the conductor.
    #[arg(long, default_value_t = 1)]
    crashes: u8,
    /// Faults in one run, at most one of each kind.
    #[arg(long, default_value_t = 1)]
    faults: u8,
    #[arg(long, value_enum, default_value = "in-order")]
    layout: Layout,
    /// Lengths of the first sessions, for example `1,2`.
    #[arg(long, value_delimiter = ',')]
    sessions: Vec<u64>,
    /// How far soft may be ahead of firm.
    #[arg(long, default_value_t = 3)]
    spread: u64,
    /// Blocks are made while the conductor runs.
    #[arg(long)]
    growing: bool,
    /// Results of jobs arrive at once, instead of by a choice of their own.
    #[arg(long)]
    instant_work: bool,
    /// Put a bug into the peers, to see that it is found.
    #[arg(long, value_enum)]
    plant: Option<Planted>,
    /// Search a list of scopes, each to its end, and look at no other argument but the bounds.
    #[arg(long)]
    suite: bool,
    /// Give up after so many situations.
    #[arg(long, default_value_t = 20_000_000)]
    max_states: usize,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 3_600)]
    max_seconds: u64,
    /// Situations that wait (25 kB each) before the search goes on from the newest.
    #[arg(long, default_value_t = 100_000)]
    max_waiting: usize,
    /// Where a way to a broken promise is written to.
    #[arg(long, default_value = "counter-example.toml")]
    out: PathBuf,
    /// Folder into which the shortest way to each interesting situation is written.
    #[arg(long)]
    ways: Option<PathBuf>,
    /// Go such a way again, and do nothing else.
    #[arg(long)]
    replay: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArgument {
    SoftOnly,
    FirmOnly,
    SoftAndFirm,
}

/// Does what the arguments say; the text is for people.
///
/// # Errors
/// If a promise is broken, or the arguments or a file make no sense.
pub fn run(arguments: Arguments) -> Result<String, String> {
    if let Some(file) = arguments.replay {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let trail: Trail = toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        for (number, step) in (1..).zip(&trail.steps) {
            println!("{number:>4}  {}", step.choice);
            for did in &step.did {
                println!("        {did}");
            }
        }
        trail.replay().map_err(|violation| format!("{}: {violation}", file.display()))?;
        return Ok(format!("{}: no violation, the run arrives", file.display()));
    }
    let time = Duration::from_secs(arguments.max_seconds);
    let bounds = Bounds { states: arguments.max_states, time, waiting: arguments.max_waiting };
    if arguments.suite {
        return suite(bounds, &arguments.out).map(|searched| searched.to_string());
    }
    let mode = match arguments.mode {
        ModeArgument::SoftOnly => Mode::SoftOnly,
        ModeArgument::FirmOnly => Mode::FirmOnly,
        ModeArgument::SoftAndFirm => Mode::SoftAndFirm,
    };
    let scope = Scope {
        mode,
        soft: arguments.soft,
        firm: if mode.follows_firm() { arguments.firm } else { 0 },
        crashes: arguments.crashes,
        faults: arguments.faults,
        layout: arguments.layout,
        sessions: arguments.sessions,
        spread: arguments.spread,
        growing: arguments.growing,
        work_takes_time: !arguments.instant_work,
        planted: arguments.plant,
    };
    let mut told = 0;
    let summary = search(&scope, bounds, |states, waiting| {
        if states >= told + 250_000 {
            told = states;
            eprintln!("{states} states, {waiting} waiting");
        }
    })?;
    let mut text = String::new();
    for (probe, way) in PROBES.iter().zip(&summary.ways) {
        // Writing to memory does not fail.
        let _ = match way {
            Some(way) => writeln!(text, "{:>4} choices  {probe}", way.steps.len()),
            None => writeln!(text, "     not met  {probe}"),
        };
    }
    if let Some(folder) = arguments.ways {
        for (probe, way) in PROBES.iter().zip(&summary.ways) {
            let Some(way) = way else { continue };
            let way = Trail { about: (*probe).to_owned(), ..way.clone() };
            let name: String = probe.chars().filter(|c| *c != '\'').collect();
            write(&folder.join(format!("{}.toml", name.replace([' ', ','], "_"))), &way)?;
        }
    }
    text.push_str(&describe(&summary));
    match summary.outcome {
        Outcome::Violated(trail) => Err(violated(&text, &trail, &arguments.out)),
        _ => Ok(text),
    }
}

/// What a search of the whole suite did.
#[derive(Clone, Copy, Debug)]
pub struct Searched {
    /// Situations that differ, of all scopes together.
    pub states: usize,
}

impl std::fmt::Display for Searched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} states: no violation, and all {} interesting situations were met", self.states, PROBES.len())
    }
}

/// Searches every scope of the suite to its end; prints a line for each.
///
/// # Errors
/// If a promise is broken, of which the way is written to `out`, a bound is reached, or a situation is never met.
pub fn suite(bounds: Bounds, out: &Path) -> Result<Searched, String> {
    let mut reached = vec![false; PROBES.len()];
    let mut states = 0;
    for (name, scope) in Scope::suite() {
        let summary = search(&scope, bounds, |_, _| ())?;
        println!("{name}: {}", describe(&summary));
        states += summary.states;
        for (reached, way) in reached.iter_mut().zip(&summary.ways) {
            *reached |= way.is_some();
        }
        match summary.outcome {
            Outcome::Complete => {}
            Outcome::Bounded { .. } => return Err(format!("{name}: a bound was reached")),
            Outcome::Violated(trail) => return Err(violated(name, &trail, out)),
        }
    }
    let missing: Vec<&str> = PROBES.iter().zip(&reached).filter(|(_, is)| !**is).map(|(probe, _)| *probe).collect();
    if !missing.is_empty() {
        return Err(format!("never met: {}", missing.join("; ")));
    }
    Ok(Searched { states })
}

fn violated(text: &str, trail: &Trail, out: &Path) -> String {
    match write(out, trail) {
        Ok(()) => format!("{text}\nagain: cargo run --release -p downbeat-sim -- explore --replay {}", out.display()),
        Err(error) => format!("{text}\n{error}"),
    }
}

fn write(file: &Path, trail: &Trail) -> Result<(), String> {
    let text = toml::to_string(trail).map_err(|error| error.to_string())?;
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn describe(summary: &Summary) -> String {
    let mut text = String::new();
    let millis = summary.time.as_millis().max(1);
    let per_second = summary.states as u128 * 1_000 / millis;
    // Writing to memory does not fail.
    let _ = writeln!(
        text,
        "{} states, {} transitions, depth {}, {}.{:03} s, {per_second} states/s, at most {} waiting",
        summary.states,
        summary.transitions,
        summary.depth,
        millis / 1_000,
        millis % 1_000,
        summary.waiting_most,
    );
    let arrive = summary.arrive;
    let _ = match &summary.outcome {
        Outcome::Complete => write!(text, "complete: no violation, and the run arrives from all {arrive} states"),
        Outcome::Bounded { waiting } => {
            write!(
                text,
                "not complete, {waiting} states wait: no violation so far, the run arrives from {arrive} states"
            )
        }
        Outcome::Violated(trail) => {
            let violation = trail.violation.as_deref().unwrap_or_default();
            write!(text, "after {} choices: {violation}", trail.steps.len())
        }
    };
    text
}
