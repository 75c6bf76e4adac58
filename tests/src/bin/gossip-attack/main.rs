//! What attackers cost: one honest conductor that follows a slow model chain and publishes its blocks, under one attack
//! after the other, and one at peace before and after them.
//!
//! The attackers are another process (this program again, with `--attack`), so that memory and processor time measured here
//! are the victim's: its whole process, so with the model sequencer and rollup node, which are in the idle rows, too. An
//! attacker that is sent away comes again at once under a new name.

mod attacker;

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum as _};
use downbeat::gossip::GossipCounters;
use downbeat_core::cell::Mode;
use downbeat_tests::{Conductor, OFFSET, Stage, world};
use downbeat_world::generate::Contents;

use attacker::{Attack, Target};

/// Measure what each kind of attack by peers costs a conductor
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds of each attack
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Only these, in this order
    #[arg(long = "only", value_enum)]
    only: Vec<Attack>,
    /// Attackers at the same time, all from one address
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    attackers: u32,
    /// More than by default is what attackers from several addresses have
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections_per_ip: u32,
    /// Be the attackers: for the program itself
    #[arg(long, hide = true, value_enum, requires = "target")]
    attack: Option<Attack>,
    #[arg(long, hide = true)]
    target: Option<Target>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    match (arguments.attack, &arguments.target) {
        (Some(attack), Some(target)) => attacker::run(attack, target, arguments.attackers).await,
        _ => measure(&arguments).await,
    }
}

async fn measure(arguments: &Arguments) {
    let Arguments { seconds, attackers, .. } = arguments;
    println!(
        "{attackers} attackers at a time, {} connections for their address, {seconds} s of each attack, load of the machine before: {}",
        arguments.connections_per_ip,
        fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    println!(
        "{:<13} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7}",
        "attack",
        "RSS MB",
        "growth",
        "CPU s/s",
        "received",
        "refused",
        "MB in",
        "answers",
        "later",
        "banned",
        "turned",
        "blocks"
    );
    let attacks = if arguments.only.is_empty() { Attack::value_variants() } else { &arguments.only };
    let all = std::iter::once(None).chain(attacks.iter().copied().map(Some)).chain([None]);
    for attack in all {
        // A new one each time: what attackers of before have used up of their address's part is not to spare it anything.
        // Who never answers, or with garbage, has to be asked.
        let is_alone = matches!(attack, Some(Attack::Garbage | Attack::Silence));
        let victim = Victim::start(arguments.connections_per_ip, is_alone).await;
        let name = attack.and_then(|attack| attack.to_possible_value());
        victim.suffer(name.as_ref().map_or("idle", |name| name.get_name()), attack, arguments).await;
        victim.conductor.stop().await;
    }
}

/// A conductor whose sequencer makes a block of 200 kB each second.
struct Victim {
    stage: Stage,
    /// It knows no server.
    is_alone: bool,
    conductor: Conductor,
    target: Target,
}

impl Victim {
    async fn start(connections_per_ip: u32, is_alone: bool) -> Self {
        let mut config = world();
        config.block_time = Duration::from_secs(1);
        config.contents = Contents::constant(1, 200_000);
        let chain_id = config.sequencer.chain_id.clone();
        let mut stage = Stage::open_replicated(config, u64::MAX - OFFSET, 1, |_| {}).await;
        stage.set("soft_trust", "consensus");
        stage.set("limits.sequencer_poll", "100ms");
        stage.set("limits.backoff_last", "1s");
        stage.set("gossip.enabled", "true");
        stage.set("gossip.listen", "/ip4/127.0.0.1/tcp/0");
        stage.set("gossip.connections_per_ip", &connections_per_ip.to_string());
        stage.set("gossip.chain_id", &chain_id);
        let conductor = if is_alone { stage.peer(0, Mode::SoftOnly, &[]) } else { stage.conductor(Mode::SoftOnly) };
        let address = conductor.address().await;
        let rollup = stage.with(|world| world.node_ids()[0]);
        if !is_alone {
            conductor.reaches(3, 0).await;
        }
        Self { is_alone, stage, target: Target { address, chain_id, rollup }, conductor }
    }

    async fn suffer(&self, name: &str, attack: Option<Attack>, arguments: &Arguments) {
        let attackers = attack.map(|attack| self.attackers(attack, arguments.attackers));
        // They have to start, and to be let in.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (before, blocks) = (Usage::now(&self.conductor), self.soft());
        let mut peak = before.rss_kb;
        while before.at.elapsed() < Duration::from_secs(arguments.seconds) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            peak = peak.max(rss_kb());
        }
        let after = Usage::now(&self.conductor);
        drop(attackers);
        let (old, new) = (before.counters, after.counters);
        let refused = |it: &GossipCounters| it.rejected + it.overflowed + it.ignored;
        println!(
            "{name:<13} {:>8.1} {:>+8.1} {:>8.2} {:>9} {:>9} {:>9.1} {:>8} {:>7} {:>7} {:>7} {:>7}",
            megabytes(peak),
            megabytes(peak) - megabytes(before.rss_kb),
            (after.cpu.saturating_sub(before.cpu)).as_secs_f64() / before.at.elapsed().as_secs_f64(),
            new.received - old.received,
            refused(&new) - refused(&old),
            megabytes((new.bytes_received - old.bytes_received) >> 10),
            new.requests_served - old.requests_served,
            new.requests_refused + new.requests_failed - old.requests_refused - old.requests_failed,
            new.banned - old.banned,
            new.connections_refused - old.connections_refused,
            self.soft() - blocks,
        );
    }

    fn soft(&self) -> u64 {
        if self.is_alone { 0 } else { self.stage.node(|node| node.soft().0) }
    }

    fn attackers(&self, attack: Attack, count: u32) -> Running {
        let program = std::env::current_exe().expect("the program knows where it is");
        let name = attack.to_possible_value().expect("none is hidden");
        let child = Command::new(program)
            .args(["--attack", name.get_name(), "--target", &self.target.to_string()])
            .args(["--attackers", &count.to_string()])
            .stdin(Stdio::null())
            .spawn();
        Running(child.expect("a process can be started"))
    }
}

/// Ends with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Usage {
    at: Instant,
    rss_kb: u64,
    cpu: Duration,
    counters: GossipCounters,
}

impl Usage {
    fn now(victim: &Conductor) -> Self {
        Self { at: Instant::now(), rss_kb: rss_kb(), cpu: cpu(), counters: victim.gossip().counters() }
    }
}

#[allow(clippy::cast_precision_loss)]
fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1024.0
}

/// Memory of this process that is in use, as Linux counts it.
fn rss_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a number of kilobytes")
}

/// Processor time of this process, in steps of 10 ms.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name of the program, which may contain anything, is in parentheses.
    let fields = stat.rsplit(')').next().expect("a part always").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(10 * ticks)
}
