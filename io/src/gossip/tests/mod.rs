//! Nodes on loopback, over real sockets. Nothing here asserts a time: conditions are waited for, with a deadline that
//! only a broken network reaches.

mod doors;
mod mesh;
mod questions;

use std::{future::Future, path::Path};

use downbeat_core::RollupId;
use libp2p::{
    Swarm,
    futures::StreamExt as _,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, timeout};

use super::{
    behaviour::{Behaviour, BehaviourEvent},
    names::Names,
    traffic::Traffic,
    *,
};

const PATIENCE: Duration = Duration::from_mins(1);
const ROLLUP: Topic = Topic::Rollup(RollupId([7; 32]));

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp,
    Quic,
}

impl Transport {
    const BOTH: [Self; 2] = [Self::Tcp, Self::Quic];

    fn any_port(self) -> Multiaddr {
        let text = match self {
            Self::Tcp => "/ip4/127.0.0.1/tcp/0",
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        text.parse().unwrap()
    }
}

fn space() -> Space {
    Space::new("test", &[0; 32])
}

/// A message of these tests: a byte that says how it is "packed" and does not matter for its id, the height, a content.
fn message(packing: u8, height: u64, content: &[u8]) -> Bytes {
    [&[packing][..], &height.to_be_bytes(), content].concat().into()
}

fn simple(height: u64) -> Bytes {
    message(0, height, format!("of height {height}").as_bytes())
}

fn read_label(topic: Topic, bytes: &[u8]) -> Option<Label> {
    let height = u64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?);
    let mut digest = Sha256::new();
    digest.update(format!("{topic:?}"));
    digest.update(&bytes[1..]);
    Some(Label { id: digest.finalize().into(), height, unpacked: bytes.len() })
}

/// A configuration for one node on loopback.
fn config(transport: Transport) -> GossipConfig {
    let bounds = Bounds { connections_per_ip: 100, ..Bounds::default() };
    GossipConfig { listen: vec![transport.any_port()], bounds, ..GossipConfig::default() }
}

fn options(config: GossipConfig) -> Options {
    Options { config, space: space(), directory: None, read_label: Arc::new(read_label) }
}

struct Node {
    gossip: Gossip,
    received: mpsc::Receiver<Received>,
    address: PeerAddress,
}

impl Node {
    /// A node that follows the blocks and one rollup.
    async fn start(options: Options) -> Self {
        let (gossip, received) = start(options).unwrap();
        gossip.follow(vec![Topic::Blocks, ROLLUP]);
        let mut addresses = gossip.addresses();
        let addresses = timeout(PATIENCE, addresses.wait_for(|addresses| !addresses.is_empty())).await;
        let address = addresses.expect("it listens").unwrap()[0].clone();
        let address = PeerAddress { peer: gossip.peer_id(), address };
        Self { gossip, received, address }
    }

    async fn simple(transport: Transport) -> Self {
        Self::start(options(config(transport))).await
    }

    fn id(&self) -> PeerId {
        self.address.peer
    }

    async fn next(&mut self) -> Received {
        timeout(PATIENCE, self.received.recv()).await.expect("a message comes").expect("the network runs")
    }

    /// What it knows of a peer that is connected.
    async fn peer(&self, id: PeerId) -> Option<PeerInfo> {
        self.gossip.peers().await.into_iter().find(|info| info.peer == id.to_base58())
    }

    async fn is_in_mesh_with(&self, other: &Self) -> bool {
        self.peer(other.id()).await.is_some_and(|info| info.is_in_mesh)
    }
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Connects two nodes and waits until messages go both ways.
async fn join(one: &Node, other: &Node) {
    one.gossip.dial(other.address.clone());
    until("two nodes are in one mesh", || async {
        one.is_in_mesh_with(other).await && other.is_in_mesh_with(one).await
    })
    .await;
}

/// A peer that speaks the protocols and does as a test says.
struct Puppet {
    swarm: Swarm<Behaviour>,
}

impl Puppet {
    fn new(transport: Transport) -> Self {
        let mut config = config(transport);
        config.bounds.undecided = 1_000_000;
        let mut swarm = service::swarm(
            &config,
            Names(space()),
            key::ephemeral().unwrap(),
            &(Arc::new(read_label) as _),
            &Traffic::default(),
        )
        .unwrap();
        for topic in [Topic::Blocks, ROLLUP] {
            swarm.behaviour_mut().gossipsub.subscribe(&Names(space()).topic(topic)).unwrap();
        }
        Self { swarm }
    }

    fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Connects, and does as `on_event` says for each event, for as long as the returned task is kept.
    fn play(
        mut self,
        with: &Node,
        mut on_event: impl FnMut(&mut Swarm<Behaviour>, SwarmEvent<BehaviourEvent>) + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let PeerAddress { peer, address } = with.address.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            let mut dialled: Option<Instant> = None;
            loop {
                // Again as well: on a busy machine a handshake may not end in time.
                if !self.swarm.is_connected(&peer) && dialled.is_none_or(|at| at.elapsed() > Duration::from_secs(2)) {
                    let opts = DialOpts::peer_id(peer).addresses(vec![address.clone()]).build();
                    // What is being dialled is not dialled again.
                    drop(self.swarm.dial(opts));
                    dialled = Some(Instant::now());
                }
                tokio::select! {
                    event = self.swarm.select_next_some() => on_event(&mut self.swarm, event),
                    // So that a test may also act when nothing happens.
                    _ = tick.tick() => {
                        let listener = SwarmEvent::NewExternalAddrCandidate { address: Transport::Tcp.any_port() };
                        on_event(&mut self.swarm, listener);
                    }
                }
            }
        })
    }
}

fn with_directory(options: Options, directory: &Path) -> Options {
    Options { directory: Some(directory.to_owned()), ..options }
}
