//! The `downbeat` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

/// A rollup conductor: follows a shared sequencer and Celestia, verifies both, and drives rollup nodes.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  downbeat devnet --blocks 50              watch a whole network on this machine, then end
  downbeat run --config downbeat.toml      drive the rollups of a configuration file
  downbeat peers --data-dir DIR            whom a running conductor shares blocks with
  downbeat inspect blob blob.base64        what does this Celestia blob say, and is it true?
  downbeat replay DIR --quiet              take the conductor through a recorded run again";

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Arguments),
    Devnet(commands::devnet::Arguments),
    Peers(commands::peers::Arguments),
    Inspect(commands::inspect::Arguments),
    Replay(commands::replay::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Devnet(arguments) => commands::devnet::run(&arguments),
        Command::Peers(arguments) => commands::peers::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Replay(arguments) => commands::replay::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("downbeat: {}", failure.line());
            failure.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_command_shows_an_example() {
        super::Arguments::command().debug_assert();
        let mut command = super::Arguments::command();
        command.build();
        for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
        }
    }
}
