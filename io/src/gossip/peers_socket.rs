//! Who is connected, for `downbeat peers`: a socket in the data directory that writes one JSON document and closes.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};
use tracing::debug;

use super::{Gossip, GossipCounters, PeerInfo};
use crate::driver::Snapshot;

/// A reader that takes longer is left.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than any list of peers has.
const BYTES_MAX: u64 = 16 << 20;

/// What the socket says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeersReport {
    /// This node.
    pub peer: String,
    pub space: String,
    pub addresses: Vec<String>,
    pub counters: GossipCounters,
    /// What the conductor made of it; none before it has shown itself.
    pub race: Option<Race>,
    pub peers: Vec<PeerInfo>,
}

/// Who had blocks first, and what became of messages, since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Race {
    /// Whether peers were heard as lately as blocks are made. If not, servers are asked as often as without peers.
    pub fresh: bool,
    /// Soft blocks by who had them here first: `server`, `gossip` (peers by themselves) or `peer` (one that was asked).
    pub won: BTreeMap<String, u64>,
    /// Messages by verdict: `accept`, or the name of the reason.
    pub verdicts: BTreeMap<String, u64>,
}

impl Race {
    fn of(snapshot: &Snapshot) -> Option<Self> {
        let gossip = snapshot.status.gossip.as_ref()?;
        let counts = &gossip.counts;
        let ignored = counts.ignored.iter().map(|(ignored, count)| (ignored.name(), *count));
        let refused = counts.refused.iter().map(|(name, count)| (*name, *count));
        let verdicts = std::iter::once(("accept", counts.accepted)).chain(ignored).chain(refused);
        Some(Self {
            fresh: gossip.fresh,
            won: counts.won.iter().map(|(source, count)| (source.name().to_owned(), *count)).collect(),
            verdicts: verdicts.map(|(name, count)| (name.to_owned(), count)).collect(),
        })
    }
}

/// The newest state of the conductor, as the driver shows it.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Where the socket of a node with this data directory is.
pub fn path(data_dir: &Path) -> PathBuf {
    super::directory(data_dir).join("peers.sock")
}

/// Serves until the returned future is dropped. Only the owner of the process may connect.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve(path: &Path, gossip: Gossip, snapshots: Snapshots) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    // One process has the data directory, so what lies here is of one that ended.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(async move {
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let report = report(&gossip, &snapshots).await;
                    let write = async {
                        stream.write_all(&serde_json::to_vec(&report)?).await?;
                        stream.shutdown().await
                    };
                    let written = timeout(PATIENCE, write).await;
                    debug!("peers were asked for: {written:?}");
                }
                Err(error) => {
                    debug!("the socket for peers: {error}");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        }
    })
}

/// Asks a running node.
///
/// # Errors
/// If there is none, or it does not answer.
pub async fn ask(path: &Path) -> io::Result<PeersReport> {
    let answer = async {
        let mut bytes = Vec::new();
        UnixStream::connect(path).await?.take(BYTES_MAX).read_to_end(&mut bytes).await?;
        serde_json::from_slice(&bytes).map_err(io::Error::from)
    };
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn report(gossip: &Gossip, snapshots: &Snapshots) -> PeersReport {
    let race = snapshots.borrow().as_deref().and_then(Race::of);
    let addresses = gossip.addresses().borrow().iter().map(ToString::to_string).collect();
    PeersReport {
        peer: gossip.peer_id().to_base58(),
        space: gossip.space().to_string(),
        addresses,
        counters: gossip.counters(),
        race,
        peers: gossip.peers().await,
    }
}
