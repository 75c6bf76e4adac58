//! Peers that were met, kept across restarts: a bounded JSON file, replaced as a whole.
//!
//! It only saves time at the next start. So a file that cannot be understood is put aside under a name that the log gives,
//! and the node begins with an empty list: nothing is guessed from it, and nothing is lost that a bootnode cannot give.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// Peers that are kept; of those that came by themselves, and then of the others, those seen longest ago go.
pub const PEERS_MAX: usize = 256;

/// Addresses kept of one peer; the newest.
pub const ADDRESSES_MAX: usize = 8;

/// Bytes of one address as text; real ones have less than 120.
const ADDRESS_BYTES_MAX: usize = 256;

/// A file is not read beyond this.
const FILE_BYTES_MAX: u64 = 1 << 20;

const VERSION: u32 = 1;

/// Addresses of one peer, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub addresses: Vec<Multiaddr>,
    /// Seconds since 1970 at which it was last connected.
    pub seen_at: u64,
    /// Whether this node has ever connected to it. Of others nobody knows whether they are where they say.
    pub is_proven: bool,
}

/// The peers of one space.
#[derive(Debug, Default)]
pub struct PeerStore {
    /// Nowhere: forgotten with the process.
    path: Option<PathBuf>,
    peers: BTreeMap<PeerId, Known>,
    is_changed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    space: String,
    peers: Vec<WrittenPeer>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPeer {
    id: String,
    addresses: Vec<String>,
    seen_at: u64,
    #[serde(default)]
    is_proven: bool,
}

impl PeerStore {
    /// What `path` holds of `space`; nothing if there is no such file, or it is damaged, or another space's.
    ///
    /// # Errors
    /// When the file cannot be read, or a damaged one cannot be put aside.
    pub fn open(path: &Path, space: &str) -> io::Result<Self> {
        let mut store = Self { path: Some(path.to_owned()), ..Self::default() };
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(store),
            Err(error) => return Err(error),
        };
        match parse(&bytes, space) {
            Ok(peers) => store.peers = peers,
            Err(problem) => {
                let aside = path.with_extension("damaged");
                fs::rename(path, &aside)?;
                warn!("the peers in {} are not used: {problem}; moved to {}", path.display(), aside.display());
            }
        }
        store.bound();
        Ok(store)
    }

    /// Nothing is kept.
    pub fn in_memory() -> Self {
        Self::default()
    }

    pub fn peers(&self) -> &BTreeMap<PeerId, Known> {
        &self.peers
    }

    /// This node connected to a peer at `address`.
    pub fn reached(&mut self, peer: PeerId, address: &Multiaddr, now: u64) {
        self.peers.entry(peer).or_default().is_proven = true;
        self.seen(peer, std::slice::from_ref(address), now);
    }

    /// A peer was connected at `now` (seconds since 1970) and says that it can be reached at `addresses`.
    pub fn seen(&mut self, peer: PeerId, addresses: &[Multiaddr], now: u64) {
        let known = self.peers.entry(peer).or_default();
        known.seen_at = now;
        for address in addresses.iter().rev() {
            known.addresses.retain(|other| other != address);
            known.addresses.insert(0, address.clone());
        }
        known.addresses.retain(|address| address.to_string().len() <= ADDRESS_BYTES_MAX);
        known.addresses.truncate(ADDRESSES_MAX);
        if known.addresses.is_empty() {
            self.peers.remove(&peer);
        }
        self.is_changed = true;
        self.bound();
    }

    /// A peer is not to be met again.
    pub fn forget(&mut self, peer: &PeerId) {
        self.is_changed |= self.peers.remove(peer).is_some();
    }

    /// Writes what has changed. A crash leaves the old file or the new one.
    ///
    /// # Errors
    /// When the disk refuses. What is in memory stays as it is and is written the next time.
    pub fn save(&mut self, space: &str) -> io::Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| self.is_changed) else { return Ok(()) };
        let peers = self.peers.iter().map(|(id, known)| WrittenPeer {
            id: id.to_base58(),
            addresses: known.addresses.iter().map(ToString::to_string).collect(),
            seen_at: known.seen_at,
            is_proven: known.is_proven,
        });
        let written = Written { version: VERSION, space: space.to_owned(), peers: peers.collect() };
        let text = serde_json::to_vec(&written).map_err(io::Error::other)?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let partial = path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        self.is_changed = false;
        Ok(())
    }

    fn bound(&mut self) {
        while self.peers.len() > PEERS_MAX {
            // Whoever merely came goes first: any number of names can come, and would push out all that are worth keeping.
            let worth = |known: &Known| (known.is_proven, known.seen_at);
            let oldest = self.peers.iter().min_by_key(|(_, known)| worth(known)).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.peers.remove(&oldest);
            }
        }
    }
}

fn parse(bytes: &[u8], space: &str) -> Result<BTreeMap<PeerId, Known>, String> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(format!("more than {FILE_BYTES_MAX} bytes"));
    }
    let written: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if written.version != VERSION {
        return Err(format!("version {} where {VERSION} is known", written.version));
    }
    if written.space != space {
        return Err(format!("they are of space {:?}, this node is in {space:?}", written.space));
    }
    let mut peers = BTreeMap::new();
    for WrittenPeer { id, addresses, seen_at, is_proven } in written.peers {
        let peer: PeerId = id.parse().map_err(|error| format!("{id:?} is no peer: {error}"))?;
        let parsed: Result<Vec<Multiaddr>, _> = addresses.iter().take(ADDRESSES_MAX).map(|text| text.parse()).collect();
        let addresses = parsed.map_err(|error| format!("an address of {id}: {error}"))?;
        peers.insert(peer, Known { addresses, seen_at, is_proven });
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn peers_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers.json");
        let mut store = PeerStore::open(&path, "a").unwrap();
        let (near, far) = (PeerId::random(), PeerId::random());
        store.seen(near, &[address(1), address(2)], 10);
        store.seen(near, &[address(3), address(1)], 20);
        store.seen(far, &[address(4)], 11);
        store.save("a").unwrap();
        let store = PeerStore::open(&path, "a").unwrap();
        assert_eq!(store.peers()[&near].addresses, [address(3), address(1), address(2)]);
        assert_eq!(store.peers()[&near].seen_at, 20);
        assert_eq!(store.peers().len(), 2);
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_never_guessed_from() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers.json");
        let mut store = PeerStore::open(&path, "a").unwrap();
        store.seen(PeerId::random(), &[address(1)], 10);
        store.save("a").unwrap();
        let good = fs::read(&path).unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        let newer = text.replace("\"version\":1", "\"version\":2").into_bytes();
        let no_address = text.replace("/tcp/", "/tpc/").into_bytes();
        let huge = vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
        for damaged in [good[..good.len() - 1].to_vec(), newer, no_address, huge, Vec::new(), b"\xff".to_vec()] {
            fs::write(&path, &damaged).unwrap();
            assert!(PeerStore::open(&path, "a").unwrap().peers().is_empty());
            assert!(!path.exists());
            assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), damaged);
        }
        fs::write(&path, &good).unwrap();
        assert!(PeerStore::open(&path, "b").unwrap().peers().is_empty(), "another space's peers are not met");
    }

    #[test]
    fn the_store_is_bounded_and_the_longest_unseen_go() {
        let mut store = PeerStore::in_memory();
        let first = PeerId::random();
        store.seen(first, &[address(1)], 1);
        for index in 0..u16::try_from(PEERS_MAX).unwrap() {
            store.seen(PeerId::random(), &[address(index)], 2 + u64::from(index));
        }
        assert_eq!(store.peers().len(), PEERS_MAX);
        assert!(!store.peers().contains_key(&first));
        let many: Vec<_> = (0..100).map(address).collect();
        let last = PeerId::random();
        store.seen(last, &many, 1_000);
        assert_eq!(store.peers()[&last].addresses, many[..ADDRESSES_MAX]);
        store.seen(last, &[], 1_001);
        assert_eq!(store.peers()[&last].seen_at, 1_001);
        store.forget(&last);
        assert!(!store.peers().contains_key(&last));
    }

    #[test]
    fn strangers_that_come_in_numbers_push_out_nobody_whom_this_node_has_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers.json");
        let mut store = PeerStore::open(&path, "a").unwrap();
        let friend = PeerId::random();
        store.reached(friend, &address(1), 1);
        store.seen(friend, &[address(2)], 2);
        store.save("a").unwrap();
        let mut store = PeerStore::open(&path, "a").unwrap();
        for index in 0..2 * u16::try_from(PEERS_MAX).unwrap() {
            store.seen(PeerId::random(), &[address(index)], 10 + u64::from(index));
        }
        assert_eq!(store.peers().len(), PEERS_MAX);
        assert_eq!(store.peers()[&friend].addresses, [address(2), address(1)]);
    }
}
