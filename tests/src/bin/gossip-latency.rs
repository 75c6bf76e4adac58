//! What peers cost and gain at the head of the chain: the time from the moment a block is made until it is executed and soft
//! at each of several conductors, once when all of them poll the sequencer, and once when one does and publishes what it
//! reads, so that the others have it over real libp2p on loopback.
//!
//! One model network makes the blocks, in one case after the other. Whoever reads the sequencer waits for its next poll,
//! also when it reads for others. So there is a third case, in which the one reader polls as often as all together did in
//! the first: the same number of questions about the head.

use std::time::{Duration, Instant};

use clap::Parser;
use downbeat_core::cell::Mode;
use downbeat_tests::{
    Conductor, OFFSET, PATIENCE, Stage,
    latency::{Seen, Times, wait_for_glance},
    world,
};
use downbeat_world::{RollupNode, World, generate::Contents};

/// Measure the time from a block's making until it is soft at each of several conductors, polling and as peers
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=64))]
    conductors: u32,
    /// Blocks in each case
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    blocks: u64,
    /// Milliseconds between blocks
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(20..))]
    block_time: u64,
    /// Milliseconds between polls; by default a little less than half of the block time, so that polls come at all
    /// moments between two blocks
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    poll: Option<u64>,
    /// Bytes of the rollup's data in each block
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    data: u64,
    /// Validators of the sequencer
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    validators: u64,
    /// Milliseconds by which the sequencer's replies come later; there is nothing of the kind between peers
    #[arg(long, default_value_t = 0)]
    delay: u64,
}

/// Blocks that are not counted: the mesh of peers needs some seconds to form, at least these.
const WARM_UP: Duration = Duration::from_secs(6);

#[derive(Debug)]
struct Measured {
    made: Seen,
    /// The first one reads the sequencer in all cases.
    reached: Vec<Seen>,
    /// Bytes that each conductor sent to peers and received from them.
    traffic: Vec<[u64; 2]>,
    /// Requests to the sequencer and its CometBFT node.
    requests: u64,
    warm_up: u64,
    blocks: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let Arguments { conductors, blocks, block_time, data, validators, delay, .. } = arguments;
    let poll = arguments.poll.unwrap_or((block_time * 7 / 15).max(1));
    println!(
        "{conductors} conductors, {validators} validators, a block every {block_time} ms with {data} bytes for the rollup, \
         replies {delay} ms later, {blocks} blocks in each case"
    );
    println!(
        "{:<34} {:>10} {:>9} {:>9} {:>9} {:>9} {:>14}",
        "case", "conductors", "median ms", "p99 ms", "median x", "p99 x", "requests/block"
    );
    let polling = follow(&arguments, poll, false).await;
    let base = polling.times(0..polling.reached.len());
    row(&format!("each polls every {poll} ms"), &polling, 0..polling.reached.len(), &base);
    for poll in [poll, (poll / u64::from(conductors)).max(1)] {
        let gossip = follow(&arguments, poll, true).await;
        row(&format!("one polls every {poll} ms, publishes"), &gossip, 0..1, &base);
        row("  its peers", &gossip, 1..gossip.reached.len(), &base);
        let after: Times = gossip.peers().flat_map(|seen| seen.after(&gossip.reached[0], gossip.warm_up)).collect();
        println!(
            "{:<34} {:>10} {:>9.1} {:>9.1}",
            "  its peers, after it has the block",
            gossip.reached.len() - 1,
            after.median_ms(),
            after.p99_ms()
        );
        for (index, what) in ["sent to peers", "received from peers"].into_iter().enumerate() {
            let mut each: Vec<u64> = gossip.traffic.iter().map(|bytes| bytes[index] / blocks).collect();
            each.sort_unstable();
            let mean = each.iter().sum::<u64>() / u64::from(conductors);
            let (least, most) = (each.first().unwrap_or(&0), each.last().unwrap_or(&0));
            let reader = gossip.traffic.first().map_or(0, |bytes| bytes[index] / blocks);
            println!("  bytes per node and block, {what}: {mean} (of all {least} to {most}, the reader {reader})");
        }
    }
}

impl Measured {
    fn times(&self, conductors: std::ops::Range<usize>) -> Times {
        self.reached[conductors].iter().flat_map(|seen| seen.after(&self.made, self.warm_up)).collect()
    }

    fn peers(&self) -> impl Iterator<Item = &Seen> {
        self.reached.iter().skip(1)
    }
}

fn row(name: &str, measured: &Measured, conductors: std::ops::Range<usize>, base: &Times) {
    let count = conductors.len();
    let times = measured.times(conductors);
    let (median, p99) = (times.median_ms(), times.p99_ms());
    let (median_ratio, p99_ratio) = (median / base.median_ms(), p99 / base.p99_ms());
    let tenths = measured.requests * 10 / measured.blocks;
    let requests = format!("{}.{}", tenths / 10, tenths % 10);
    println!("{name:<34} {count:>10} {median:>9.1} {p99:>9.1} {median_ratio:>9.2} {p99_ratio:>9.2} {requests:>14}");
}

/// Lets conductors follow all blocks of a new network, as peers or not.
async fn follow(arguments: &Arguments, poll_ms: u64, as_peers: bool) -> Measured {
    let mut config = world();
    config.block_time = Duration::from_millis(arguments.block_time);
    config.contents = Contents::constant(1, arguments.data);
    config.sequencer.validators = vec![10; usize::try_from(arguments.validators).unwrap_or(usize::MAX)];
    let warm_up_ms = u64::try_from(WARM_UP.as_millis()).unwrap_or(u64::MAX);
    let warm_up = warm_up_ms.div_ceil(arguments.block_time).max(5);
    let last = warm_up + arguments.blocks;
    let chain_id = config.sequencer.chain_id.clone();
    let followers = usize::try_from(arguments.conductors - 1).unwrap_or(usize::MAX);
    let mut stage = Stage::open_replicated(config, 1, followers, |_| {}).await;
    stage.set("soft_trust", "consensus");
    stage.set("limits.sequencer_poll", &format!("{poll_ms}ms"));
    for hooks in [&stage.net.hooks.sequencer, &stage.net.hooks.cometbft] {
        hooks.delay(None, Duration::from_millis(arguments.delay));
    }
    if as_peers {
        stage.set("gossip.enabled", "true");
        stage.set("gossip.listen", "/ip4/127.0.0.1/tcp/0");
        stage.set("gossip.connections_per_ip", "1000");
        stage.set("gossip.chain_id", &chain_id);
    }
    let mut conductors = vec![stage.conductor(Mode::SoftOnly)];
    let bootnode = if as_peers { Some(conductors[0].address().await.to_string()) } else { None };
    for replica in 0..followers {
        conductors.push(match &bootnode {
            Some(bootnode) => stage.peer(replica, Mode::SoftOnly, &[("gossip.bootnodes", bootnode.clone())]),
            None => stage.follower(replica, Mode::SoftOnly, &[]),
        });
    }
    let has_first = |world: &World| softs(world.rollups.values(), &stage).into_iter().all(|soft| soft >= 1);
    stage.until("the first block everywhere", has_first).await;
    stage.go_on_to(last);
    let started = Instant::now();
    let expected = Duration::from_millis(arguments.block_time.saturating_mul(2 * last)) + PATIENCE;
    let mut made = Seen::default();
    let mut reached = vec![Seen::default(); conductors.len()];
    let mut before: Option<(Vec<[u64; 2]>, u64)> = None;
    while !reached.iter().all(|seen| seen.has(last)) {
        let (head, softs) = stage
            .with(|world| (world.sequencer.head().0.saturating_sub(OFFSET), softs(world.rollups.values(), &stage)));
        let now = Instant::now();
        made.see(head, now);
        for (seen, soft) in reached.iter_mut().zip(&softs) {
            seen.see(*soft, now);
        }
        if before.is_none() && made.has(warm_up) {
            before = Some((traffic(&conductors, as_peers), requests(&stage)));
        }
        assert!(started.elapsed() < expected, "the sequencer is at {head} of {last}, conductors at {softs:?}");
        wait_for_glance();
    }
    let (bytes_before, requests_before) = before.unwrap_or_default();
    let traffic = traffic(&conductors, as_peers).into_iter().zip(bytes_before);
    let traffic = traffic.map(|(now, before)| [now[0] - before[0], now[1] - before[1]]).collect();
    let requests = requests(&stage) - requests_before;
    for conductor in conductors {
        conductor.stop().await;
    }
    Measured { made, reached, traffic, requests, warm_up, blocks: arguments.blocks }
}

/// The soft head of each conductor's rollup node, of which the first one's is in the world.
fn softs<'a>(first: impl Iterator<Item = &'a RollupNode>, stage: &Stage) -> Vec<u64> {
    let replicas = stage.net.replicas.iter().flat_map(|nodes| nodes.values());
    first.map(|node| node.soft().0).chain(replicas.map(|node| node.with(|node| node.soft().0))).collect()
}

fn traffic(conductors: &[Conductor], as_peers: bool) -> Vec<[u64; 2]> {
    let counters = conductors.iter().filter(|_| as_peers).map(|conductor| conductor.gossip().counters());
    counters.map(|counters| [counters.bytes_sent, counters.bytes_received]).collect()
}

fn requests(stage: &Stage) -> u64 {
    let hooks = [&stage.net.hooks.sequencer, &stage.net.hooks.cometbft];
    hooks.into_iter().flat_map(|hooks| hooks.counts().into_values()).sum()
}
