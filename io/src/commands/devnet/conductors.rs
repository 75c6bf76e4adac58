//! The conductors of a devnet: one that follows the servers, and any number that know their peers only.

use std::time::Duration;

use downbeat::{
    config::Config,
    connector::{Network, TcpConnector},
    driver::{DriverError, Handle, Snapshot, Workers},
    gossip::PeerAddress,
    node,
};
use downbeat_core::{command::Exit, light::RootSetting};
use downbeat_world::serve::{DevnetHandle, Urls};
use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

use super::{super::Failure, Arguments, seed_bytes};

/// How long a network may take to listen on loopback.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);

/// Nothing listens here: who has only this address knows no sequencer.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Running conductors.
pub(super) struct Conductors {
    handles: Vec<Handle>,
    drivers: JoinSet<Result<Exit, DriverError>>,
}

impl Conductors {
    /// Starts one conductor, or as many as are to be peers. Those after the first get blocks from peers alone, and begin
    /// to trust with the genesis, which is what an operator would give them.
    pub(super) async fn start(arguments: &Arguments, devnet: &DevnetHandle) -> Result<Self, Failure> {
        let network = Network::plain(TcpConnector);
        let mut conductors = Self { handles: Vec::new(), drivers: JoinSet::new() };
        let mut bootnode = None;
        for index in 0..arguments.peers.unwrap_or(1) {
            let mut config = config(arguments, &devnet.urls, index, bootnode.as_ref())?;
            if arguments.peers.is_some() {
                let genesis = devnet.world.with(|world| world.sequencer.genesis());
                config.limits.trust.root = RootSetting::Genesis(Box::new(genesis));
            }
            let seed = seed_bytes(arguments.seed.wrapping_add(u64::from(index)));
            let (driver, handle) = node::build(&config, &network, seed, Workers::Threads).map_err(Failure::new)?;
            conductors.drivers.spawn(driver.run());
            if index == 0 && arguments.peers.is_some() {
                bootnode = Some(address(&handle).await?);
            }
            conductors.handles.push(handle);
        }
        Ok(conductors)
    }

    /// The newest of each conductor; nothing before all have one.
    pub(super) fn snapshots(&self) -> Option<Vec<std::sync::Arc<Snapshot>>> {
        self.handles.iter().map(Handle::snapshot).collect()
    }

    /// Waits until one of them has ended by itself.
    pub(super) async fn ended(&mut self) -> Result<(), Failure> {
        match self.drivers.join_next().await {
            Some(ended) => outcome(ended),
            None => Ok(()),
        }
    }

    /// Ends all of them.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.handles.iter().for_each(Handle::stop);
        let mut result = Ok(());
        while let Some(ended) = self.drivers.join_next().await {
            result = result.and(outcome(ended));
        }
        result
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

/// Where the first conductor can be reached.
async fn address(handle: &Handle) -> Result<PeerAddress, Failure> {
    let gossip = handle.gossip().ok_or_else(|| Failure::new("the first conductor has no network"))?;
    let mut addresses = gossip.addresses();
    let listening = timeout(LISTEN_PATIENCE, addresses.wait_for(|addresses| !addresses.is_empty())).await;
    let address = match listening {
        Ok(Ok(addresses)) => addresses.first().cloned(),
        Ok(Err(_)) | Err(_) => None,
    };
    let address = address.ok_or_else(|| Failure::new("the first conductor does not listen to peers"))?;
    Ok(PeerAddress { peer: gossip.peer_id(), address })
}

/// A conductor is configured as any other is, with nothing taken from the environment.
fn config(arguments: &Arguments, urls: &Urls, index: u32, bootnode: Option<&PeerAddress>) -> Result<Config, Failure> {
    let poll = (arguments.block_time / 4).max(Duration::from_millis(10));
    let poll_ms = format!("{}ms", poll.as_millis());
    let (grpc, cometbft) = match index {
        0 => (urls.sequencer_grpc.as_str(), urls.cometbft.as_str()),
        _ => (NOWHERE, NOWHERE),
    };
    let mut flags = vec![
        ("sequencer.grpc_url".to_owned(), grpc.to_owned()),
        ("sequencer.cometbft_url".to_owned(), cometbft.to_owned()),
        ("celestia.url".to_owned(), urls.celestia.clone()),
        ("limits.sequencer_poll".to_owned(), poll_ms.clone()),
        ("limits.celestia_poll".to_owned(), poll_ms.clone()),
        ("limits.celestia_poll_min".to_owned(), poll_ms),
    ];
    flags.extend(arguments.journal.iter().map(|directory| {
        let directory = if arguments.peers.is_some() { format!("{directory}/{index}") } else { directory.clone() };
        ("journal.dir".to_owned(), directory)
    }));
    let nodes = match index.checked_sub(1) {
        None => Some(&urls.executions),
        Some(replica) => usize::try_from(replica).ok().and_then(|replica| urls.replicas.get(replica)),
    };
    let nodes = nodes.into_iter().flatten().enumerate();
    flags.extend(nodes.map(|(cell, url)| (format!("cell.{cell}.execution_url"), url.clone())));
    if let Some(peers) = arguments.peers {
        let settings = [
            ("gossip.enabled", "true".to_owned()),
            ("gossip.listen", "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1".to_owned()),
            // All are at one address here.
            ("gossip.connections_per_ip", (4 * peers).to_string()),
            ("gossip.sole_source", (index > 0).to_string()),
        ];
        flags.extend(settings.map(|(path, value)| (path.to_owned(), value)));
        flags.extend(bootnode.map(|bootnode| ("gossip.bootnodes".to_owned(), bootnode.to_string())));
    }
    Config::load(None, [], &flags).map_err(Failure::new)
}
