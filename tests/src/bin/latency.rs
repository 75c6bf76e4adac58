//! What trust costs at the head of the chain: the time from the moment a block is made until it is the rollup's soft head,
//! with each kind of trust, side by side.
//!
//! One model network makes blocks, and conductors follow it one after the other, so that all see the same machine. Every
//! reply of the sequencer and of the CometBFT node comes later by what a way through the Internet takes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Parser;
use downbeat_core::cell::Mode;
use downbeat_tests::{
    OFFSET, Stage,
    latency::{Seen, Times, wait_for_glance},
    node, world,
};

/// Measure the time from a block's making until it is the soft head, with each kind of trust
#[derive(Debug, Parser)]
struct Arguments {
    /// Blocks for each kind of trust in each round
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    blocks: u64,
    /// Milliseconds between blocks
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(20..))]
    block_time: u64,
    /// Milliseconds by which replies come later
    #[arg(long, default_value_t = 20)]
    delay: u64,
    /// Validators of the sequencer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    validators: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// `trust` and `soft_trust`.
const KINDS: [(&str, &str); 3] = [("endpoint", "sequencer"), ("consensus", "sequencer"), ("consensus", "consensus")];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let mut measured: BTreeMap<usize, Times> = BTreeMap::new();
    for _ in 0..arguments.rounds {
        for (index, kind) in KINDS.into_iter().enumerate() {
            measured.entry(index).or_default().extend(follow(&arguments, kind).await);
        }
    }
    println!(
        "{} validators, a block every {} ms, replies {} ms later, {} blocks each",
        arguments.validators,
        arguments.block_time,
        arguments.delay,
        arguments.blocks * u64::from(arguments.rounds)
    );
    println!("{:<10} {:<10} {:>11} {:>9} {:>9}", "trust", "soft_trust", "median ms", "p99 ms", "x first");
    let mut first = None;
    for (kind, times) in measured {
        let (median, p99) = (times.median_ms(), times.p99_ms());
        let ratio = median / *first.get_or_insert(median);
        let (trust, soft) = KINDS[kind];
        println!("{trust:<10} {soft:<10} {median:>11.1} {p99:>9.1} {ratio:>9.2}");
    }
}

/// Times from making to soft head, without those of the blocks that were there before the conductor had begun.
async fn follow(arguments: &Arguments, (trust, soft_trust): (&str, &str)) -> Times {
    const WARM_UP: u64 = 5;
    let mut config = world();
    config.block_time = Duration::from_millis(arguments.block_time);
    config.sequencer.validators = vec![10; usize::try_from(arguments.validators).unwrap_or(usize::MAX)];
    let last = arguments.blocks + WARM_UP;
    let mut stage = Stage::open(config, last).await;
    stage.set("trust", trust);
    stage.set("soft_trust", soft_trust);
    for hooks in [&stage.net.hooks.sequencer, &stage.net.hooks.cometbft] {
        hooks.delay(None, Duration::from_millis(arguments.delay));
    }
    let conductor = stage.conductor(Mode::SoftOnly);
    let (mut made, mut reached) = (Seen::default(), Seen::default());
    while !reached.has(last) {
        let (head, soft) =
            stage.with(|world| (world.sequencer.head().0.saturating_sub(OFFSET), node(world, 0).soft().0));
        let now = Instant::now();
        made.see(head, now);
        reached.see(soft, now);
        wait_for_glance();
    }
    conductor.stop().await;
    reached.after(&made, WARM_UP)
}
