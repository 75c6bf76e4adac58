//! `downbeat devnet`: the model world on loopback sockets, and a conductor that follows it through the real adapters.

mod conductors;
mod screen;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::IsTerminal as _,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use conductors::Conductors;
use downbeat::driver::Snapshot;
use downbeat_core::view::Status;
use downbeat_world::{
    WorldConfig,
    rollup::RollupNode,
    serve::{Devnet, DevnetConfig, DevnetHandle, Urls},
};
use screen::Screen;
use tokio::time::MissedTickBehavior;

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
    /// Run so many conductors that share blocks as peers; only the first knows the sequencer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=64))]
    peers: Option<u32>,
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
  downbeat devnet --peers 5 --blocks 20               five conductors, of which one knows the sequencer
  downbeat devnet --rollups 3 --block-time 100ms --da-delay 1s --seed 7
  downbeat devnet --sequencer-port 8080 --cometbft-port 26657 --celestia-port 26658 --execution-port 50051";

/// How often it is looked whether enough blocks are firm.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// How long threads that verify may still run after everything has ended.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(filter) = &arguments.log {
        let filter = downbeat::config::log_filter(filter).map_err(|error| Failure::new(format!("--log: {error}")))?;
        tracing_subscriber::fmt()
            .with_env_filter(downbeat::config::env_filter(&filter))
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

async fn play(arguments: &Arguments) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let devnet_config = devnet_config(arguments)?;
    let first_block = devnet_config.world.session.rollup_start.0;
    let devnet = Devnet::start(devnet_config).await.map_err(Failure::new)?;
    say(introduction(&devnet.urls));
    let mut conductors = Conductors::start(arguments, &devnet).await?;

    let start = Instant::now();
    let mut screen = Screen::new();
    let result = watch(arguments, first_block, &mut conductors, &mut screen, &mut signals).await;
    let elapsed = start.elapsed();
    // What was reached, before stopping closes the sessions.
    let reached = conductors.snapshots();
    let result = result.and(conductors.stop().await);
    if let Some(snapshots) = reached {
        screen.show(&snapshots);
        for (index, snapshot) in snapshots.iter().enumerate() {
            if snapshots.len() > 1 {
                say(format!("conductor {index}, {}", source(&snapshot.status)));
            }
            say(summary(snapshot, first_block, elapsed));
        }
    }
    let result = result.and(compare(&devnet));
    devnet.shutdown().await;
    result
}

/// Shows the conductors' progress until there is nothing more to see: by signal, when enough blocks are firm everywhere, or
/// when one has ended.
async fn watch(
    arguments: &Arguments,
    first_block: u64,
    conductors: &mut Conductors,
    screen: &mut Screen,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let ticks = |period| {
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tick
    };
    let (mut show, mut look) = (ticks(screen.period()), ticks(LOOK_PERIOD));
    loop {
        tokio::select! {
            _ = signals.next() => return Ok(()),
            ended = conductors.ended() => return ended,
            _ = show.tick() => {
                if let Some(snapshots) = conductors.snapshots() {
                    screen.show(&snapshots);
                }
            }
            _ = look.tick() => {
                let firm = conductors.snapshots().and_then(|snapshots| {
                    snapshots.iter().map(|snapshot| firm_blocks(snapshot, first_block)).min()
                });
                if arguments.blocks.zip(firm).is_some_and(|(wanted, firm)| firm >= wanted) {
                    return Ok(());
                }
            }
        }
    }
}

/// Who had the soft blocks first.
fn source(status: &Status) -> String {
    let Some(gossip) = &status.gossip else { return "without peers".to_owned() };
    let won: Vec<_> = gossip.counts.won.iter().map(|(source, count)| format!("{count} by {source:?}")).collect();
    if won.is_empty() { "no soft block yet".to_owned() } else { format!("soft blocks: {}", won.join(", ")) }
}

/// Whether the rollups' nodes of all conductors have the same blocks, up to the lowest firm one.
fn compare(devnet: &DevnetHandle) -> Result<(), Failure> {
    if devnet.replicas.is_empty() {
        return Ok(());
    }
    let rollups: Vec<_> = devnet.world.with(|world| world.rollups.clone().into_iter().collect());
    for (id, first) in rollups {
        let mut nodes = vec![first];
        for replica in &devnet.replicas {
            nodes.extend(replica.get(&id).map(|node| node.with(|node| node.clone())));
        }
        let Some(firm) = nodes.iter().map(RollupNode::firm).min() else { continue };
        let hashes: BTreeSet<_> =
            nodes.iter().map(|node| node.block(firm).map(|block| block.metadata.hash.clone())).collect();
        match (hashes.len(), hashes.first()) {
            (1, Some(Some(hash))) => {
                say(format!("rollup {id}: all {} conductors have block {firm}, {hash}", nodes.len()));
            }
            _ => return Err(Failure::new(format!("rollup {id}: conductors differ at block {firm}: {hashes:?}"))),
        }
    }
    Ok(())
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
        replicas: arguments.peers.map_or(0, |peers| usize::try_from(peers - 1).unwrap_or(usize::MAX)),
        ..DevnetConfig::default()
    })
}

/// Enough for the delay, and for a conductor that is behind, without growing for ever.
fn blocks_kept(arguments: &Arguments) -> usize {
    let delayed = arguments.da_delay.as_millis() / arguments.block_time.as_millis().max(1);
    usize::try_from(delayed * 2).unwrap_or(usize::MAX).saturating_add(4_096)
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
    let Urls { sequencer_grpc, cometbft, celestia, executions, replicas: _ } = urls;
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
    fn block_times_are_neither_zero_nor_endless() {
        assert_eq!(block_time("250ms"), Ok(Duration::from_millis(250)));
        for text in ["0", "1ms", "2h", "soon"] {
            block_time(text).unwrap_err();
        }
        assert_eq!(delay("0s"), Ok(Duration::ZERO));
    }
}
