//! Runs simulations from the command line.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use downbeat_sim::Scenario;

/// Simulates Downbeat against a model world, deterministically.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: downbeat-sim seeds --first 1000 --count 500")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draws scenarios from seeds and runs them; stops at the first violation.
    Seeds {
        #[arg(long, default_value_t = 0)]
        first: u64,
        #[arg(long, default_value_t = 100)]
        count: u64,
    },
    /// Prints the scenario of a seed as a file that `replay` takes.
    Show { seed: u64 },
    /// Runs a scenario file.
    Replay { file: PathBuf },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<String, String> {
    match command {
        Command::Seeds { first, count } => {
            for seed in first..first.saturating_add(count) {
                Scenario::swarm(seed).run().map_err(|violation| {
                    format!("seed {seed}: {violation}\nagain: cargo run --release -p downbeat-sim -- seeds --first {seed} --count 1")
                })?;
            }
            Ok(format!("{count} seeds from {first} on: no violation"))
        }
        Command::Show { seed } => toml::to_string(&Scenario::swarm(seed)).map_err(|error| error.to_string()),
        Command::Replay { file } => {
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let scenario: Scenario = toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
            let simulation = scenario.run().map_err(|violation| format!("{}: {violation}", file.display()))?;
            Ok(format!("{}: no violation, arrived at {}", file.display(), simulation.now()))
        }
    }
}
