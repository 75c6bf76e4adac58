//! The whole world on loopback sockets.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use downbeat_core::{RollupId, Timestamp};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::Instant};

use super::{Hooks, Shared, celestia, cometbft, execution, sequencer};
use crate::{
    World, WorldConfig,
    rollup::{RollupNode, TraceLimit},
};

/// Where a devnet listens and how its time passes.
#[derive(Clone, Debug)]
pub struct DevnetConfig {
    pub world: WorldConfig,
    /// Port 0 asks for a free one, here and below.
    pub sequencer: SocketAddr,
    pub cometbft: SocketAddr,
    pub celestia: SocketAddr,
    /// One per rollup; those that are missing get a free port.
    pub executions: Vec<SocketAddr>,
    /// So many further nodes of each rollup, for conductors that drive the same rollups.
    pub replicas: usize,
    /// What Celestia wants as bearer token, if anything.
    pub celestia_token: Option<String>,
    /// Step the world with tokio's clock. Otherwise it stands still until it is stepped through
    /// [`DevnetHandle::world`].
    pub clock: bool,
    /// The chains begin at the present moment, whatever the world's configuration says: whoever checks headers compares
    /// their times with the clock.
    pub starts_now: bool,
}

/// Any free port of the loopback interface.
const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Blocks, and calls of each node, that a devnet remembers: days of them fit into memory, weeks do not.
const REMEMBERED: u32 = 20_000;

impl Default for DevnetConfig {
    fn default() -> Self {
        let mut world = WorldConfig { keep_blocks: usize::try_from(REMEMBERED).ok(), ..WorldConfig::default() };
        world.node.keep_blocks = Some(REMEMBERED.into());
        world.node.trace = usize::try_from(REMEMBERED).map_or(TraceLimit::Off, TraceLimit::Newest);
        Self {
            world,
            sequencer: FREE,
            cometbft: FREE,
            celestia: FREE,
            executions: Vec::new(),
            replicas: 0,
            celestia_token: None,
            clock: true,
            starts_now: true,
        }
    }
}

/// Where the servers are, as `http://` URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls {
    pub sequencer_grpc: String,
    pub cometbft: String,
    pub celestia: String,
    /// In the order of [`World::node_ids`].
    pub executions: Vec<String>,
    /// The same for each replica.
    pub replicas: Vec<Vec<String>>,
}

/// Fault hooks of each server.
#[derive(Clone, Debug, Default)]
pub struct DevnetHooks {
    pub sequencer: Hooks,
    pub cometbft: Hooks,
    pub celestia: Hooks,
    /// In the order of [`World::node_ids`].
    pub executions: Vec<Hooks>,
}

/// Starts devnets.
#[derive(Clone, Copy, Debug)]
pub struct Devnet;

impl Devnet {
    /// Binds the listeners, then starts the servers and the clock on the current runtime.
    ///
    /// # Errors
    /// If an address cannot be bound; nothing is left running then.
    ///
    /// # Panics
    /// As [`World::new`] does, and outside of a runtime.
    pub async fn start(config: DevnetConfig) -> io::Result<DevnetHandle> {
        let mut world = config.world;
        if config.starts_now {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            world.sequencer.genesis_time = Timestamp::ZERO.after(now);
        }
        let replica_nodes: Vec<_> = (0..config.replicas).map(|_| World::new(world.clone()).rollups).collect();
        let world = World::new(world);
        let node_ids: Vec<RollupId> = world.node_ids().to_vec();
        let (sequencer, sequencer_grpc) = bind(config.sequencer).await?;
        let (cometbft, cometbft_url) = bind(config.cometbft).await?;
        let (celestia, celestia_url) = bind(config.celestia).await?;
        let (mut executions, mut execution_urls) = (Vec::new(), Vec::new());
        for index in 0..node_ids.len() {
            let (listener, url) = bind(config.executions.get(index).copied().unwrap_or(FREE)).await?;
            executions.push(listener);
            execution_urls.push(url);
        }

        let world = Shared::new(world);
        let hooks =
            DevnetHooks { executions: node_ids.iter().map(|_| Hooks::default()).collect(), ..DevnetHooks::default() };
        let stop = watch::Sender::new(false);
        let stopped = || {
            let mut stop = stop.subscribe();
            // An error means that the handle is gone, which ends the devnet as well.
            async move { drop(stop.wait_for(|stop| *stop).await) }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(sequencer::serve(sequencer, world.clone(), hooks.sequencer.clone(), stopped()));
        tasks.spawn(cometbft::serve(cometbft, world.clone(), hooks.cometbft.clone(), stopped()));
        tasks.spawn(celestia::serve(celestia, world.clone(), config.celestia_token, hooks.celestia.clone(), stopped()));
        for ((listener, rollup_id), hooks) in executions.into_iter().zip(node_ids.clone()).zip(&hooks.executions) {
            tasks.spawn(execution::serve(listener, world.clone(), rollup_id, hooks.clone(), stopped()));
        }
        let (mut replicas, mut replica_urls) = (Vec::new(), Vec::new());
        for nodes in replica_nodes {
            let nodes: BTreeMap<_, _> = nodes.into_iter().map(|(id, node)| (id, Shared::new(node))).collect();
            let mut urls = Vec::new();
            for node in node_ids.iter().filter_map(|id| nodes.get(id)) {
                let (listener, url) = bind(FREE).await?;
                tasks.spawn(execution::serve_node(listener, node.clone(), Hooks::default(), stopped()));
                urls.push(url);
            }
            replicas.push(nodes);
            replica_urls.push(urls);
        }
        if config.clock {
            let (world, stopped) = (world.clone(), stopped());
            tasks.spawn(async move {
                tokio::select! {
                    () = run_clock(world) => {}
                    () = stopped => {}
                }
            });
        }
        let urls = Urls {
            sequencer_grpc,
            cometbft: cometbft_url,
            celestia: celestia_url,
            executions: execution_urls,
            replicas: replica_urls,
        };
        Ok(DevnetHandle { urls, world, replicas, hooks, stop, tasks })
    }
}

/// A running devnet. Dropping it ends the servers as well, without waiting for them.
#[derive(Debug)]
pub struct DevnetHandle {
    pub urls: Urls,
    pub world: Shared<World>,
    /// Their nodes, by rollup.
    pub replicas: Vec<BTreeMap<RollupId, Shared<RollupNode>>>,
    pub hooks: DevnetHooks,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl DevnetHandle {
    /// Ends the servers and the clock, and waits until their sockets are closed.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn bind(address: SocketAddr) -> io::Result<(TcpListener, String)> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

/// Steps `world` with tokio's clock, from its present moment on; does not end.
pub async fn run_clock(world: Shared<World>) {
    let (from, began) = (world.with(|world| world.now()), Instant::now());
    loop {
        let next = world.with(|world| {
            world.step(from.after(began.elapsed()));
            world.next_event().since(from)
        });
        // A world whose blocks come without a pause must leave room for everybody else.
        let at = (began + next).max(Instant::now() + Duration::from_millis(1));
        tokio::time::sleep_until(at).await;
    }
}
