//! The workload, its servers, and the clients' turns.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use downbeat_core::{RollupId, Timestamp};
use downbeat_world::{
    World, WorldConfig,
    generate::Contents,
    relayer::SUBMISSION_MAX_BYTES,
    rollup::{RollupConfig, RollupNode, TraceLimit},
    serve::{Hooks, Shared, execution, preencoded::Preencoded},
};
use serde::Serialize;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    Error,
    client::Kind,
    measure::{Run, Used},
};

/// What there is to catch up with.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Workload {
    pub(crate) blocks: u64,
    /// In each block.
    pub(crate) transactions: u64,
    /// Of each transaction, in bytes.
    pub(crate) size: u64,
    /// Who sign each block, of the sequencer and of Celestia.
    pub(crate) validators: u64,
}

/// How often a rollup node is looked at while a client is at work.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// A client without progress for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets every client take its turn `rounds` times.
pub(crate) fn play(workload: Workload, kinds: &[Kind], rounds: u32, settings: &[String]) -> Result<Vec<Run>, Error> {
    eprintln!("preparing {} blocks of {} x {} bytes", workload.blocks, workload.transactions, workload.size);
    let world = build(workload);
    let Some(rollup_id) = world.node_ids().first().copied() else { return Err("a world without a rollup".into()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let servers = runtime.block_on(Servers::start(&world, rollup_id))?;
    let celestia_head = world.celestia.head().0;
    let node = world.rollups[&rollup_id].config().clone();
    drop(world);

    let mut runs = Vec::new();
    let mut reached = BTreeMap::new();
    for round in 0..rounds {
        // Everybody goes first as often as last.
        let mut order = kinds.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order {
            let (run, hash) = servers.turn(&runtime, kind, round, workload, celestia_head, &node, settings)?;
            eprintln!("round {round} {kind:<10} {:>6.0} blocks/s", run.blocks_per_second);
            reached.insert(hash, kind);
            runs.push(run);
        }
    }
    if reached.len() > 1 {
        return Err(format!("the clients executed different chains: {reached:?}").into());
    }
    Ok(runs)
}

fn config(workload: Workload, blocks_per_submission: usize) -> WorldConfig {
    let mut config = WorldConfig {
        contents: Contents::constant(workload.transactions, workload.size),
        da_delay: Duration::ZERO,
        foreign_rollups: 0,
        ..WorldConfig::default()
    };
    // All blocks are there at once, and none may be of the future.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    config.sequencer.genesis_time = Timestamp::ZERO.after(now.saturating_sub(Duration::from_hours(24)));
    config.sequencer.validators = vec![10; usize::try_from(workload.validators).unwrap_or(usize::MAX)];
    config.relayer.blocks_per_submission = blocks_per_submission;
    config.celestia.powers = vec![10; usize::try_from(workload.validators).unwrap_or(usize::MAX)];
    config.node.trace = TraceLimit::Off;
    config.node.cheap_hash = true;
    config.node.keep_blocks = Some(16);
    config
}

/// All blocks and, on Celestia, everything about them, batched as a relayer does: as many blocks per Celestia height as
/// fit into a submission.
fn build(workload: Workload) -> World {
    let size_of = |world: &World| {
        let blobs = world.celestia.block(world.celestia.head()).map_or(&[][..], |block| block.blobs());
        blobs.iter().map(|blob| blob.data.len()).sum::<usize>()
    };
    let probes = 8;
    let mut probe = World::new(config(workload, probes));
    fill(&mut probe, probes as u64, probes as u64);
    // A little room for what varies.
    let batch = (SUBMISSION_MAX_BYTES * probes / size_of(&probe).max(1) * 99 / 100).max(1);
    let mut world = World::new(config(workload, batch));
    fill(&mut world, workload.blocks, batch as u64);
    world
}

fn fill(world: &mut World, blocks: u64, batch: u64) {
    let time = |index: u64| -> Timestamp {
        world.now().after(Duration::from_millis(500) * u32::try_from(index).unwrap_or(u32::MAX))
    };
    let times: Vec<_> = (1..=blocks).map(time).collect();
    for batch in times.chunks(usize::try_from(batch).unwrap_or(usize::MAX)) {
        for at in batch {
            world.make_sequencer_block(*at);
        }
        if let Some(at) = batch.last() {
            world.make_celestia_block(*at);
        }
    }
}

/// Servers that stand still.
struct Servers {
    hooks: Hooks,
    sequencer: String,
    cometbft: String,
    celestia: String,
    rollup_id: RollupId,
    chain_id: String,
}

async fn listen() -> Result<(TcpListener, String), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

impl Servers {
    async fn start(world: &World, rollup_id: RollupId) -> Result<Self, Error> {
        let replies = Preencoded::new(world, &[rollup_id]);
        let hooks = Hooks::default();
        let (sequencer_listener, sequencer) = listen().await?;
        let (cometbft_listener, cometbft) = listen().await?;
        let (celestia_listener, celestia) = listen().await?;
        let forever = std::future::pending::<()>;
        tokio::spawn(replies.clone().serve_sequencer(sequencer_listener, hooks.clone(), forever()));
        tokio::spawn(replies.clone().serve_cometbft(cometbft_listener, hooks.clone(), forever()));
        tokio::spawn(replies.serve_celestia(celestia_listener, hooks.clone(), forever()));
        let chain_id = world.sequencer.chain_id().to_owned();
        Ok(Self { hooks, sequencer, cometbft, celestia, rollup_id, chain_id })
    }

    /// Starts a client against a fresh rollup node, waits until it has caught up, and ends it. Also returns the hash of
    /// the last block.
    #[expect(clippy::too_many_arguments, reason = "all of them differ from turn to turn or are made elsewhere")]
    fn turn(
        &self,
        runtime: &Runtime,
        kind: Kind,
        round: u32,
        workload: Workload,
        celestia_head: u64,
        node: &RollupConfig,
        settings: &[String],
    ) -> Result<(Run, String), Error> {
        let node = Shared::new(RollupNode::new(node.clone()));
        let hooks = Hooks::default();
        let (listener, execution) = runtime.block_on(listen())?;
        let forever = std::future::pending::<()>();
        let server = runtime.spawn(execution::serve_node(listener, node.clone(), hooks.clone(), forever));
        let before = self.hooks.counts();

        let mut command = Command::new(std::env::current_exe()?);
        command.arg("client").arg("--kind").arg(kind.to_string());
        for (name, value) in [
            ("--sequencer", &self.sequencer),
            ("--cometbft", &self.cometbft),
            ("--celestia", &self.celestia),
            ("--execution", &execution),
            ("--rollup-id", &hex::encode(self.rollup_id.0)),
            ("--chain-id", &self.chain_id),
            ("--blocks", &workload.blocks.to_string()),
            ("--celestia-head", &celestia_head.to_string()),
        ] {
            command.arg(name).arg(value);
        }
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        let mut client = Client(command.stdin(Stdio::piped()).spawn()?);
        let elapsed = wait(&mut client.0, kind, workload, &node, &hooks)?;
        let used = Used::by(client.0.id())?;
        drop(client);
        server.abort();

        let mut run = Run::new(kind, round, workload, elapsed, used);
        let asked = |(method, count): (String, u64)| {
            let count = count - before.get(&method).copied().unwrap_or(0);
            (count > 0).then_some((method, count))
        };
        run.requests = self.hooks.counts().into_iter().chain(hooks.counts()).filter_map(asked).collect();
        let hash = node.with(|node| {
            let commitment = node.commitment();
            let head = if kind.is_firm() {
                &commitment.firm_executed_block_metadata
            } else {
                &commitment.soft_executed_block_metadata
            };
            head.as_ref().map_or_else(String::new, |head| head.hash.clone())
        });
        Ok((run, hash))
    }
}

/// The time from the opening of a session until the last block is committed.
fn wait(
    client: &mut Child,
    kind: Kind,
    workload: Workload,
    node: &Shared<RollupNode>,
    hooks: &Hooks,
) -> Result<Duration, Error> {
    let mut opened = None;
    let mut progress = (0, Instant::now());
    loop {
        let reached = node.with(|node| if kind.is_firm() { node.firm() } else { node.soft() }).0;
        let now = Instant::now();
        if opened.is_none() && hooks.count("CreateExecutionSession") > 0 {
            opened = Some(now);
        }
        if reached >= workload.blocks {
            return Ok(now - opened.unwrap_or(now));
        }
        if reached > progress.0 {
            progress = (reached, now);
        }
        if progress.1 + PATIENCE < now {
            return Err(format!("{kind} stands still at block {reached}").into());
        }
        if let Some(status) = client.try_wait()? {
            return Err(format!("{kind} ended at block {reached}: {status}").into());
        }
        std::thread::sleep(LOOK_PERIOD);
    }
}

/// A client's process, which ends with this.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        // It ends by itself when its standard input does; this only makes sure. There is nobody to tell of a failure.
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
