//! Proves that equal seeds give equal runs: two processes with another environment and working directory, compared by
//! hash chains over events, commands and states.

use std::{
    cell::RefCell,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command as Process, Stdio},
    rc::Rc,
};

use downbeat_core::{Command, Conductor, Refusal, Stamped};
use sha2::{Digest as _, Sha256};

use crate::{Scenario, Simulation, queue::Observer};

/// The whole state is hashed after every so many events; it takes longer than the event.
const STATE_EVERY: u64 = 32;

#[derive(Debug, Default)]
struct Links {
    chain: [u8; 32],
    events: u64,
    /// One line per event, if they are asked for.
    lines: Option<Vec<String>>,
}

struct Chain(Rc<RefCell<Links>>);

struct Sink(Sha256);

impl std::fmt::Write for Sink {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

impl Observer for Chain {
    fn step(&mut self, input: &Stamped, _: &Result<(), Refusal>, commands: &[Command], conductor: &Conductor) {
        let mut links = self.0.borrow_mut();
        let mut sink = Sink(Sha256::new());
        sink.0.update(links.chain);
        // Writing to a digest cannot fail.
        let _ = write!(sink, "{input:?}{commands:?}");
        if links.events.is_multiple_of(STATE_EVERY) || links.lines.is_some() {
            let state = conductor.state_hash();
            // Positions that are only looked at must not change the chain.
            if links.events.is_multiple_of(STATE_EVERY) {
                sink.0.update(state.0);
            }
        }
        links.chain = sink.0.finalize().into();
        links.events += 1;
        let (events, chain) = (links.events, hex(&links.chain[..8]));
        if let Some(lines) = &mut links.lines {
            let event: String = format!("{:?}", input.event).chars().take(120).collect();
            let wishes: Vec<String> =
                commands.iter().map(|command| format!("{command:?}").chars().take(60).collect()).collect();
            lines.push(format!("{events} {chain} at {} {event} -> {wishes:?}", input.at));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn linked(scenario: &Scenario, lines: bool) -> Links {
    let links = Rc::new(RefCell::new(Links { lines: lines.then(Vec::new), ..Links::default() }));
    let mut simulation = Simulation::observed(scenario.clone(), Some(Box::new(Chain(Rc::clone(&links)))));
    let _ = simulation.finish();
    drop(simulation);
    links.take()
}

/// The chain of a seed: its number of events and its last link.
pub fn chain(seed: u64) -> String {
    let links = linked(&Scenario::swarm(seed), false);
    format!("{seed} {} {}", links.events, hex(&links.chain))
}

/// Every link of a seed's chain, a line each.
pub fn positions(seed: u64) -> Vec<String> {
    linked(&Scenario::swarm(seed), true).lines.unwrap_or_default()
}

/// Runs `count` seeds in two other processes and compares.
///
/// # Errors
/// The first seed whose chains differ, with the first position and both sides, or what kept a process from running.
pub fn prove(first: u64, count: u64) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let root = Path::new("/");
    let temporary = std::env::temp_dir();
    let run = |arguments: &[String], folder: &Path, name: &str| -> Result<_, String> {
        Process::new(&program)
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("DOWNBEAT_SIMULATED_AS", name)
            .env("HOME", folder)
            .env("TZ", name)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))
    };
    let lines = |child: &mut std::process::Child| {
        let output = child.stdout.take();
        output.into_iter().flat_map(|output| BufReader::new(output).lines().map_while(Result::ok))
    };
    let arguments = ["chain".to_owned(), first.to_string(), count.to_string()];
    let (mut one, mut other) = (run(&arguments, root, "one")?, run(&arguments, &temporary, "another-name")?);
    let (mut ones, mut others) = (lines(&mut one), lines(&mut other));
    for seed in first..first.saturating_add(count) {
        let (one, other) = (ones.next(), others.next());
        if one.is_none() || one != other {
            let arguments = ["chain".to_owned(), "--positions".to_owned(), seed.to_string(), "1".to_owned()];
            let (mut one, mut other) = (run(&arguments, root, "one")?, run(&arguments, &temporary, "another-name")?);
            let (ones, others): (Vec<_>, Vec<_>) = (lines(&mut one).collect(), lines(&mut other).collect());
            let position = ones.iter().zip(&others).position(|(one, other)| one != other);
            let position = position.unwrap_or(ones.len().min(others.len()));
            let side = |lines: &[String]| lines.get(position).cloned().unwrap_or_else(|| "(ended)".to_owned());
            return Err(format!(
                "seed {seed} gives two runs; they part at event {position}:\n  {}\n  {}",
                side(&ones),
                side(&others)
            ));
        }
    }
    let _ = (one.wait(), other.wait());
    Ok(format!(
        "{count} seeds from {first} on: two processes gave the same chain of events, commands and states for each"
    ))
}
