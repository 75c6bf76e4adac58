//! Blocks from peers: a libp2p network of conductors in one space.
//!
//! The network moves bytes and decides nothing about them. What came from a peer is handed over with a handle
//! ([`Received`]) and goes on only after it was judged ([`Gossip::judge`]); what nobody judges in time is ignored. What was
//! accepted or published is kept for a number of heights and given to peers that ask for a height.
//!
//! It runs on a thread of its own, so that a flood cannot take the driver's processor time, and is reached through
//! bounded channels.

mod answering;
mod asking;
mod behaviour;
mod classes;
mod conduct;
pub(crate) mod config;
mod dialing;
mod exchange;
mod gate;
mod history;
pub mod key;
mod metered;
mod names;
pub mod peers;
pub mod peers_socket;
pub mod port;
mod rate;
mod service;
#[cfg(test)]
mod tests;
mod traffic;
mod undecided;

use std::{
    fmt, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use downbeat_core::gossip::{GossipHandle, GossipPeer, Message, Space, Topic};
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub use classes::{ByClass, ClassCounters, PeerClass};
pub use config::{Bounds, GossipConfig, PeerAddress};

/// What the network has to know of a message. Costs bounded time and memory, and proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Equal ids, equal contents.
    pub id: [u8; 32],
    pub height: u64,
    /// Bytes that were unpacked to read it.
    pub unpacked: usize,
}

/// Reads the label of a message; `None` for what no honest node sends.
pub type ReadLabel = dyn Fn(Topic, &[u8]) -> Option<Label> + Send + Sync;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Forwarded, and kept for peers that ask.
    Accept,
    /// Dropped.
    Ignore,
    /// Dropped, and whoever sent it loses score.
    Reject,
}

/// A message that waits for its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub handle: GossipHandle,
    pub peer: GossipPeer,
    pub topic: Topic,
    pub bytes: Bytes,
}

/// What one peer holds of a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub peer: GossipPeer,
    /// In the topics that were asked for, each at most once; none if the peer has not got the height.
    pub messages: Vec<(Topic, Bytes)>,
}

/// Why a peer's answer did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("no peer is connected that could be asked")]
    NoPeer,
    #[error("too many requests are on their way")]
    Busy,
    #[error("peer {peer} {problem}")]
    Failed { peer: PeerId, problem: String },
    #[error("the network has ended")]
    Ended,
}

/// One connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerInfo {
    pub peer: String,
    pub addresses: Vec<String>,
    /// What it says to be.
    pub agent: Option<String>,
    /// Its space, where it named one of ours.
    pub space: Option<String>,
    /// Above 0 is good; below −80 a peer is sent away.
    pub score: f64,
    /// Round trip.
    pub latency: Option<Duration>,
    pub is_inbound: bool,
    pub is_explicit: bool,
    pub class: PeerClass,
    /// Whether messages of at least one topic are exchanged at once.
    pub is_in_mesh: bool,
    pub connected_for: Duration,
}

/// What the network has done and refused so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipCounters {
    pub received: u64,
    pub accepted: u64,
    pub ignored: u64,
    pub rejected: u64,
    /// Not handed over, for there was no room.
    pub overflowed: u64,
    /// Without a verdict in time.
    pub expired: u64,
    pub published: u64,
    pub requests_served: u64,
    /// Answered with "later".
    pub requests_refused: u64,
    pub requests_failed: u64,
    /// By lists, bans, or the bound per address.
    pub connections_refused: u64,
    /// Sent away for their score.
    pub banned: u64,
    /// Sent away because they are of another network.
    pub foreign: u64,
    pub dials_failed: u64,
    /// Over TCP with all that encryption and framing add, over QUIC what went through streams.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// What of this concerned which peers.
    pub classes: ByClass,
}

/// How to take part.
pub struct Options {
    pub config: GossipConfig,
    pub space: Space,
    /// Where key and peers are kept; nowhere unless given.
    pub directory: Option<PathBuf>,
    pub read_label: Arc<ReadLabel>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, space, directory, read_label: _ } = self;
        f.debug_struct("Options").field("config", config).field("space", space).field("directory", directory).finish()
    }
}

/// Why the network cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Key(#[from] key::KeyError),
    #[error("cannot listen on {address}: {problem}")]
    Listen { address: Multiaddr, problem: String },
    #[error("mDNS cannot be used: {0}")]
    Mdns(io::Error),
    #[error("{path}: {error}", path = .path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("{path}: {error}", path = .path.display())]
    Peers { path: PathBuf, error: io::Error },
    #[error("the network cannot be set up: {0}")]
    Setup(String),
}

/// Wishes to the network.
#[derive(Debug)]
enum Command {
    Judge { handle: GossipHandle, acceptance: Acceptance },
    Publish { topic: Topic, height: u64, bytes: Bytes },
    PublishMessage(Message),
    KeepMessage(Message),
    Follow { topics: Vec<Topic> },
    Fetch { height: u64, topics: Vec<Topic>, answer: oneshot::Sender<Result<Fetched, FetchError>> },
    Penalize { peer: GossipPeer },
    Peers { answer: oneshot::Sender<Vec<PeerInfo>> },
    Dial(PeerAddress),
    End { ended: oneshot::Sender<()> },
}

/// Wishes that wait. Verdicts are bounded by what was handed over; a wish that finds no room is dropped: a verdict then
/// counts as `Ignore`.
const COMMANDS: usize = 4_096;

const END_PATIENCE: Duration = Duration::from_secs(2);

/// The network, from outside. Cheap to clone; when the last one is gone the network ends.
#[derive(Clone, Debug)]
pub struct Gossip {
    commands: mpsc::Sender<Command>,
    peer_id: PeerId,
    space: Space,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    counters: watch::Receiver<GossipCounters>,
}

/// Where a node with this data directory keeps key and peers.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("gossip")
}

/// Joins the network. What peers send comes through the channel.
///
/// # Errors
/// If the key cannot be used or an address not be listened on.
pub fn start(options: Options) -> Result<(Gossip, mpsc::Receiver<Received>), StartError> {
    if let Some(directory) = &options.directory {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| StartError::Directory { path: directory.clone(), error })?;
    }
    let keypair = match options.config.key_file.clone().or_else(|| Some(options.directory.as_ref()?.join("node.key"))) {
        Some(path) => key::load_or_create(&path)?,
        None => key::ephemeral()?,
    };
    let (peer_id, space) = (keypair.public().to_peer_id(), options.space);
    let (commands, wishes) = mpsc::channel(COMMANDS);
    let (address_sender, addresses) = watch::channel(Vec::new());
    let (counter_sender, counters) = watch::channel(GossipCounters::default());
    let (inbound, received) = mpsc::channel(options.config.bounds.undecided.max(1));
    let outside = service::Outside { wishes, inbound, addresses: address_sender, counters: counter_sender };
    service::spawn(options, keypair, outside)?;
    Ok((Gossip { commands, peer_id, space, addresses, counters }, received))
}

impl Gossip {
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub fn space(&self) -> Space {
        self.space
    }

    /// Where it listens, as addresses come and go.
    pub fn addresses(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.addresses.clone()
    }

    pub fn counters(&self) -> GossipCounters {
        *self.counters.borrow()
    }

    /// Says what becomes of a message; once for each handle.
    pub fn judge(&self, handle: GossipHandle, acceptance: Acceptance) {
        self.wish(Command::Judge { handle, acceptance });
    }

    /// Publishes what was verified, and keeps it for peers that ask. It is packed on the network's thread.
    pub fn publish_message(&self, message: Message) {
        self.wish(Command::PublishMessage(message));
    }

    /// Keeps what was verified for peers that ask, and tells nobody.
    pub fn keep_message(&self, message: Message) {
        self.wish(Command::KeepMessage(message));
    }

    /// Publishes a message as it travels.
    pub fn publish(&self, topic: Topic, height: u64, bytes: Bytes) {
        self.wish(Command::Publish { topic, height, bytes });
    }

    /// Takes part in these topics, beside those of before. Messages of others do not come.
    pub fn follow(&self, topics: Vec<Topic>) {
        self.wish(Command::Follow { topics });
    }

    /// Asks one peer for what it holds of a height: another one than the last time where there is one.
    ///
    /// # Errors
    /// If there is nobody to ask, or the peer does not answer or answers with garbage. Then it loses score.
    pub async fn fetch(&self, height: u64, topics: Vec<Topic>) -> Result<Fetched, FetchError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Fetch { height, topics, answer };
        self.commands.send(command).await.map_err(|_| FetchError::Ended)?;
        answered.await.unwrap_or(Err(FetchError::Ended))
    }

    /// What a peer answered was refused.
    pub fn penalize(&self, peer: GossipPeer) {
        self.wish(Command::Penalize { peer });
    }

    /// All connected peers; none if the network has ended.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        let (answer, answered) = oneshot::channel();
        match self.commands.send(Command::Peers { answer }).await {
            Ok(()) => answered.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Connects to a peer as soon as may be.
    pub fn dial(&self, peer: PeerAddress) {
        self.wish(Command::Dial(peer));
    }

    /// Leaves the network, keeps what is known of peers, and waits for that, but not long.
    pub async fn end(&self) {
        let (ended, has_ended) = oneshot::channel();
        let end = async {
            if self.commands.send(Command::End { ended }).await.is_ok() {
                // An error means that it ended otherwise.
                drop(has_ended.await);
            }
        };
        if tokio::time::timeout(END_PATIENCE, end).await.is_err() {
            tracing::warn!("the network of peers does not end");
        }
    }

    fn wish(&self, command: Command) {
        if let Err(error) = self.commands.try_send(command) {
            tracing::debug!("the network takes no more wishes: {error}");
        }
    }
}
