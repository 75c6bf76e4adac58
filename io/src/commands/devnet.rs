//! `downbeat devnet`: the model world on loopback sockets, and a conductor that follows it through the real adapters.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use downbeat::{
    config::Config,
    connector::{Network, TcpConnector},
    driver::{DriverError, Handle, Snapshot, Workers},
    node,
    status_line::{StatusLine, lag, number, waits},
};
use downbeat_core::command::Exit;
use downbeat_world::{
    WorldConfig,
    serve::{Devnet, DevnetConfig, Urls},
};
use tokio::{
    task::{JoinError, JoinHandle},
    time::MissedTickBehavior,
};

use super::{Failure, Signals, runtime, say};

/// Watch a whole network on this machine: a model sequencer, Celestia and rollup nodes on loopback sockets, and a
/// conductor that follows, verifies and executes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// End once this many blocks are firm on every rollup, with a summary
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    blocks: Option<u64>,
    /// Makes the same chains again
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Time between sequencer blocks; Celestia takes twice as long
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = block_time)]
    block_time: Duration,
    /// From a sequencer block until it may be on Celestia
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = delay)]
    da_delay: Duration,
    /// Number of rollups
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    rollups: u32,
    /// Port of the sequencer's gRPC; a free one unless given, as for all
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    sequencer_port: u16,
    /// Port of the sequencer's CometBFT JSON-RPC
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    cometbft_port: u16,
    /// Port of Celestia's JSON-RPC
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    celestia_port: u16,
    /// Port of the first rollup node; the others follow it
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    execution_port: u16,
    /// Record every event of the conductor into this directory, for `downbeat replay`
    #[arg(long, value_name = "DIR")]
    journal: Option<String>,
    /// Log to standard error, as a filter such as debug or downbeat=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

const EXAMPLES: &str = "Examples:
  downbeat devnet                                     until Ctrl-C
  downbeat devnet --blocks 50                         until 50 blocks are firm
  downbeat devnet --rollups 3 --block-time 100ms --da-delay 1s --seed 7
  downbeat devnet --sequencer-port 8080 --cometbft-port 26657 --celestia-port 26658 --execution-port 50051";

/// How often the table is drawn.
const TABLE_PERIOD: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(1);

/// How long threads that verify may still run after everything has ended.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(filter) = &arguments.log {
        let filter = downbeat::config::log_filter(filter).map_err(|error| Failure::new(format!("--log: {error}")))?;
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .try_init()
            .map_err(|error| Failure::new(format!("cannot write a log: {error}")))?;
    }
    let runtime = runtime()?;
    let result = runtime.block_on(play(arguments));
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    result
}

type Driving = JoinHandle<Result<Exit, DriverError>>;

async fn play(arguments: &Arguments) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let devnet_config = devnet_config(arguments)?;
    let first_block = devnet_config.world.session.rollup_start.0;
    let devnet = Devnet::start(devnet_config).await.map_err(Failure::new)?;
    say(introduction(&devnet.urls));

    let config = conductor_config(arguments, &devnet.urls)?;
    let network = Network::plain(TcpConnector);
    let seed = seed_bytes(arguments.seed);
    let (driver, handle) = node::build(&config, &network, seed, Workers::Threads).map_err(Failure::new)?;
    let mut driving = tokio::spawn(driver.run());

    let start = Instant::now();
    let mut screen = Screen::new();
    let result = watch(arguments, first_block, &handle, &mut driving, &mut screen, &mut signals).await;
    let elapsed = start.elapsed();
    // What was reached, before stopping closes the sessions.
    let reached = handle.snapshot();
    let result = match result {
        Ended::DriverEnded(result) => result,
        Ended::Asked => {
            handle.stop();
            outcome((&mut driving).await)
        }
    };
    if let Some(snapshot) = reached {
        screen.show(&snapshot);
        say(summary(&snapshot, first_block, elapsed));
    }
    devnet.shutdown().await;
    result
}

/// How watching ended.
enum Ended {
    /// By signal, or because enough blocks are firm.
    Asked,
    DriverEnded(Result<(), Failure>),
}

/// Shows the conductor's progress until there is nothing more to see.
async fn watch(
    arguments: &Arguments,
    first_block: u64,
    handle: &Handle,
    driving: &mut Driving,
    screen: &mut Screen,
    signals: &mut Signals,
) -> Ended {
    let mut tick = tokio::time::interval(screen.period());
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut snapshots = handle.snapshots();
    loop {
        tokio::select! {
            _ = signals.next() => return Ended::Asked,
            ended = &mut *driving => return Ended::DriverEnded(outcome(ended)),
            _ = tick.tick() => {
                if let Some(snapshot) = handle.snapshot() {
                    screen.show(&snapshot);
                }
            }
            Ok(()) = snapshots.changed() => {
                let firm = snapshots.borrow_and_update().as_ref().map(|snapshot| firm_blocks(snapshot, first_block));
                if arguments.blocks.zip(firm).is_some_and(|(wanted, firm)| firm >= wanted) {
                    return Ended::Asked;
                }
            }
        }
    }
}

fn outcome(ended: Result<Result<Exit, DriverError>, JoinError>) -> Result<(), Failure> {
    match ended {
        Ok(Ok(Exit::Stopped)) => Ok(()),
        Ok(Ok(Exit::AllCellsParked { reason })) => Err(Failure::new(format!("every rollup is parked: {reason}"))),
        Ok(Err(error)) => Err(Failure::new(error)),
        Err(error) => Err(Failure::new(format!("the driver ended unexpectedly: {error}"))),
    }
}

fn devnet_config(arguments: &Arguments) -> Result<DevnetConfig, Failure> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let execution = |index: u32| match arguments.execution_port {
        0 => Ok(at(0)),
        first => u16::try_from(index).ok().and_then(|index| first.checked_add(index)).map(at).ok_or(()),
    };
    let executions: Result<Vec<_>, ()> = (0..arguments.rollups).map(execution).collect();
    let executions = executions.map_err(|()| Failure::new("--execution-port: too high for that many rollups"))?;
    Ok(DevnetConfig {
        world: WorldConfig {
            seed: arguments.seed,
            block_time: arguments.block_time,
            celestia_block_time: arguments.block_time * 2,
            da_delay: arguments.da_delay,
            rollups: arguments.rollups,
            keep_blocks: Some(blocks_kept(arguments)),
            ..WorldConfig::default()
        },
        sequencer: at(arguments.sequencer_port),
        cometbft: at(arguments.cometbft_port),
        celestia: at(arguments.celestia_port),
        executions,
        ..DevnetConfig::default()
    })
}

/// Enough for the delay, and for a conductor that is behind, without growing for ever.
fn blocks_kept(arguments: &Arguments) -> usize {
    let delayed = arguments.da_delay.as_millis() / arguments.block_time.as_millis().max(1);
    usize::try_from(delayed * 2).unwrap_or(usize::MAX).saturating_add(4_096)
}

/// The conductor is configured as any other is, with nothing taken from the environment.
fn conductor_config(arguments: &Arguments, urls: &Urls) -> Result<Config, Failure> {
    let poll = (arguments.block_time / 4).max(Duration::from_millis(10));
    let poll_ms = format!("{}ms", poll.as_millis());
    let mut flags = vec![
        ("sequencer.grpc_url".to_owned(), urls.sequencer_grpc.clone()),
        ("sequencer.cometbft_url".to_owned(), urls.cometbft.clone()),
        ("celestia.url".to_owned(), urls.celestia.clone()),
        ("limits.sequencer_poll".to_owned(), poll_ms.clone()),
        ("limits.celestia_poll".to_owned(), poll_ms.clone()),
        ("limits.celestia_poll_min".to_owned(), poll_ms),
    ];
    flags.extend(arguments.journal.iter().map(|directory| ("journal.dir".to_owned(), directory.clone())));
    let rollups = urls.executions.iter().enumerate();
    flags.extend(rollups.map(|(index, url)| (format!("cell.{index}.execution_url"), url.clone())));
    Config::load(None, [], &flags).map_err(Failure::new)
}

/// The seed on the command line, spread over the conductor's 32 bytes.
fn seed_bytes(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// Blocks that are firm on every rollup.
fn firm_blocks(snapshot: &Snapshot, first_block: u64) -> u64 {
    let firm = |head: Option<u64>| head.map_or(0, |number| (number + 1).saturating_sub(first_block));
    snapshot.status.cells.values().map(|cell| firm(cell.firm.as_ref().map(|head| head.number.0))).min().unwrap_or(0)
}

fn introduction(urls: &Urls) -> String {
    let Urls { sequencer_grpc, cometbft, celestia, executions } = urls;
    let mut text = format!("sequencer {sequencer_grpc} (CometBFT {cometbft}), Celestia {celestia}");
    for (index, url) in executions.iter().enumerate() {
        // Writing to a text cannot fail.
        let _ = write!(text, "\nrollup {index} {url}");
    }
    text
}

fn summary(snapshot: &Snapshot, first_block: u64, elapsed: Duration) -> String {
    let counters = &snapshot.counters;
    let blocks = firm_blocks(snapshot, first_block);
    let rollups = snapshot.status.cells.len();
    let millis = elapsed.as_millis().max(1);
    // In tenths, for there is no need of floats.
    let rate = u128::from(counters.blocks_executed) * 10_000 / millis;
    let dropped: u64 = snapshot.status.dropped.values().sum();
    let of_rollups = if rollups == 1 { "the rollup".to_owned() } else { format!("each of {rollups} rollups") };
    format!(
        "{blocks} blocks are firm on {of_rollups}, after {}.{} s\n  executed  {} blocks with {} transactions, {}.{} \
         blocks/s\n  committed {} soft and {} firm heads\n  verified  {} jobs, {dropped} records dropped, {} calls failed \
         and were made again",
        millis / 1_000,
        millis % 1_000 / 100,
        counters.blocks_executed,
        counters.transactions_executed,
        rate / 10,
        rate % 10,
        counters.soft_heads,
        counters.firm_heads,
        counters.verifications,
        counters.failed_calls,
    )
}

/// Where progress is shown: a table that is drawn again in its place, or line after line.
struct Screen {
    is_terminal: bool,
    lines_drawn: usize,
    last: Option<Arc<Snapshot>>,
}

impl Screen {
    fn new() -> Self {
        Self { is_terminal: std::io::stdout().is_terminal(), lines_drawn: 0, last: None }
    }

    fn period(&self) -> Duration {
        if self.is_terminal { TABLE_PERIOD } else { LINE_PERIOD }
    }

    fn show(&mut self, snapshot: &Arc<Snapshot>) {
        let mut out = std::io::stdout().lock();
        // A reader that went away is no reason to fail.
        let _ = if self.is_terminal {
            let table = table(snapshot);
            let drawn = out.write_all(redraw(&table, self.lines_drawn).as_bytes()).and_then(|()| out.flush());
            self.lines_drawn = table.len();
            drawn
        } else if self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, snapshot)) {
            Ok(())
        } else {
            writeln!(out, "{}", StatusLine(&snapshot.status))
        };
        self.last = Some(Arc::clone(snapshot));
    }
}

/// Goes up over what was drawn before and writes each line over the old one. Lines are cut at the terminal's edge (not
/// wrapped), so that going up by their number is right.
fn redraw(lines: &[String], lines_drawn: usize) -> String {
    let mut text = String::from("\x1b[?7l");
    if lines_drawn > 0 {
        let _ = write!(text, "\x1b[{lines_drawn}A");
    }
    for line in lines {
        let _ = write!(text, "\r{line}\x1b[K\n");
    }
    text.push_str("\x1b[J\x1b[?7h");
    text
}

fn table(snapshot: &Snapshot) -> Vec<String> {
    let status = &snapshot.status;
    let known = |head: Option<String>| head.unwrap_or_else(|| "?".to_owned());
    let mut lines = vec![
        format!(
            "sequencer head {}   Celestia head {}",
            known(status.sequencer.head.map(|head| head.to_string())),
            known(status.celestia.head.map(|head| head.to_string())),
        ),
        format!("{:<8} {:>8} {:>8} {:>5}  waiting for", "rollup", "soft", "firm", "lag"),
    ];
    for (id, cell) in &status.cells {
        lines.push(format!(
            "{:<8} {:>8} {:>8} {:>5}  {}",
            id.to_string(),
            number(cell.soft.as_ref()),
            number(cell.firm.as_ref()),
            known(lag(status, cell).map(|lag| lag.to_string())),
            waits(&cell.waiting_for),
        ));
    }
    lines
}

fn block_time(text: &str) -> Result<Duration, String> {
    let time = downbeat::config::duration(text)?;
    let range = Duration::from_millis(10)..=Duration::from_mins(1);
    if range.contains(&time) { Ok(time) } else { Err(format!("{text:?} is not between 10ms and 60s")) }
}

fn delay(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0ms" | "0s") { Ok(Duration::ZERO) } else { downbeat::config::duration(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_drawn_over_the_one_before() {
        let lines = ["one".to_owned(), "two".to_owned()];
        assert_eq!(redraw(&lines, 0), "\x1b[?7l\rone\x1b[K\n\rtwo\x1b[K\n\x1b[J\x1b[?7h");
        assert!(redraw(&lines, 2).starts_with("\x1b[?7l\x1b[2A\rone"));
    }

    #[test]
    fn block_times_are_neither_zero_nor_endless() {
        assert_eq!(block_time("250ms"), Ok(Duration::from_millis(250)));
        for text in ["0", "1ms", "2h", "soon"] {
            block_time(text).unwrap_err();
        }
        assert_eq!(delay("0s"), Ok(Duration::ZERO));
    }
}
