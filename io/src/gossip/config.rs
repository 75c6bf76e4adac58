//! The `[gossip]` section of the configuration, checked.

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr, time::Duration};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::{
    config::{boolean, positive},
    settings::{ConfigError, Settings},
};

/// What of `[gossip]` there is, for the message about a setting that does not exist.
const KNOWN: &str = "gossip.{enabled, chain_id, genesis_hash, sole_source, listen, external_addresses, bootnodes, explicit_peers, mdns, publish, \
                                history, history_bytes, key_file, allow, deny, connections, connections_per_peer, \
                                connections_per_ip, requests_per_second}";

/// Where to listen unless something is configured: everywhere, TCP and QUIC.
const LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/26700", "/ip4/0.0.0.0/udp/26700/quic-v1"];

/// Elements of one list.
const LIST_MAX: usize = 256;

/// A peer and one address of it, without `/p2p`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub peer: PeerId,
    pub address: Multiaddr,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/p2p/{}", self.address, self.peer)
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| {
            let example = "/ip4/192.0.2.1/tcp/26700/p2p/12D3KooW…";
            format!("{text:?} is no address of a peer: {problem}; expected one such as {example}")
        };
        let mut address: Multiaddr = text.parse().map_err(|error| wrong(&format!("{error}")))?;
        let Some(Protocol::P2p(peer)) = address.pop() else {
            return Err(wrong("it does not end with /p2p/ and an id"));
        };
        dialable(&address).map_err(|problem| wrong(&problem))?;
        Ok(Self { peer, address })
    }
}

/// Settings of the gossip network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipConfig {
    /// Of the sequencer, where neither a genesis file nor a cell says it.
    pub chain_id: Option<String>,
    /// Tells this network from others of the same chain id: the SHA-256 of the genesis file, or whatever its operators
    /// agree on. That of `sequencer.genesis_file` unless given, or zeros.
    pub genesis_hash: Option<[u8; 32]>,
    /// Whether no sequencer node is to be asked for anything.
    pub sole_source: bool,
    pub listen: Vec<Multiaddr>,
    /// Under which others reach this node, where that is not where it listens.
    pub external_addresses: Vec<Multiaddr>,
    pub bootnodes: Vec<PeerAddress>,
    /// Always connected, always sent everything, and neither scored nor sent away.
    pub explicit_peers: Vec<PeerAddress>,
    /// Finds peers in the local network.
    pub mdns: bool,
    /// Whether what was verified from servers is published.
    pub publish: bool,
    /// The node's key; beside the peers in the data directory unless given.
    pub key_file: Option<PathBuf>,
    /// Only these peers, unless it is empty.
    pub allow: BTreeSet<PeerId>,
    pub deny: BTreeSet<PeerId>,
    pub bounds: Bounds,
}

/// What the network may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Established in total; two thirds of them may be inbound, so that strangers cannot take every place.
    pub connections: u32,
    pub connections_per_peer: u32,
    /// Inbound, pending ones as well.
    pub connections_per_ip: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Messages of one peer that are looked at in a second; four times as many at once.
    pub messages_per_second: u32,
    /// Bytes to which messages of one peer are unpacked in a second; eight times as many at once.
    pub unpacked_per_second: u32,
    /// Messages that wait for a verdict, of one peer and of all, and their bytes.
    pub undecided_per_peer: usize,
    pub undecided: usize,
    pub undecided_bytes: usize,
    /// Messages without a verdict by then are ignored.
    pub verdict_deadline: Duration,
    /// Heights whose messages are kept for others, and their bytes.
    pub history: usize,
    pub history_bytes: usize,
    /// Requests of one peer that are answered in a second; four times as many at once.
    pub requests_per_second: u32,
    /// Own requests on their way.
    pub requests_in_flight: usize,
    pub request_deadline: Duration,
    /// Bytes of one response.
    pub response_bytes: usize,
    /// Bytes of responses that were not yet read: of one peer, and of all.
    pub answering_bytes_per_peer: usize,
    pub answering_bytes: usize,
    /// For how long a peer that misbehaves is sent away.
    pub ban: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 96,
            connections_per_peer: 2,
            connections_per_ip: 8,
            message_bytes: 1 << 20,
            messages_per_second: 512,
            unpacked_per_second: 8 << 20,
            undecided_per_peer: 64,
            undecided: 512,
            undecided_bytes: 64 << 20,
            verdict_deadline: Duration::from_secs(8),
            history: 256,
            history_bytes: 128 << 20,
            requests_per_second: 64,
            requests_in_flight: 64,
            request_deadline: Duration::from_secs(5),
            response_bytes: 4 << 20,
            answering_bytes_per_peer: 8 << 20,
            answering_bytes: 64 << 20,
            ban: Duration::from_mins(10),
        }
    }
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            chain_id: None,
            genesis_hash: None,
            sole_source: false,
            listen: LISTEN.iter().filter_map(|text| text.parse().ok()).collect(),
            external_addresses: Vec::new(),
            bootnodes: Vec::new(),
            explicit_peers: Vec::new(),
            mdns: false,
            publish: true,
            key_file: None,
            allow: BTreeSet::new(),
            deny: BTreeSet::new(),
            bounds: Bounds::default(),
        }
    }
}

impl GossipConfig {
    /// Takes the section out of the settings; `None` where gossip is off. It is checked either way.
    pub(crate) fn take(settings: &mut Settings) -> Result<Option<Self>, ConfigError> {
        let default = Self::default();
        let is_enabled = settings.take_parsed("gossip.enabled", boolean)?.unwrap_or(false);
        let listen = take_list(settings, "gossip.listen", listen_address)?.unwrap_or(default.listen);
        let allow = take_list(settings, "gossip.allow", peer_id)?.unwrap_or_default();
        let deny = take_list(settings, "gossip.deny", peer_id)?.unwrap_or_default();
        let explicit_origin = settings.origin_below("gossip.explicit_peers");
        let explicit_peers =
            take_list(settings, "gossip.explicit_peers", str::parse::<PeerAddress>)?.unwrap_or_default();
        if let Some(both) = explicit_peers.iter().find(|explicit| deny.contains(&explicit.peer)) {
            let problem = format!("{} is on the list gossip.deny, too; take it out of one of them", both.peer);
            return Err(ConfigError::new(explicit_origin.unwrap_or_default(), problem));
        }
        let origin = settings.origin_below("gossip.bootnodes");
        let bootnodes = take_list(settings, "gossip.bootnodes", str::parse::<PeerAddress>)?.unwrap_or_default();
        let is_kept_out = |peer: &PeerId| deny.contains(peer) || !(allow.is_empty() || allow.contains(peer));
        let is_explicit = |peer: &PeerId| explicit_peers.iter().any(|explicit| explicit.peer == *peer);
        if let Some(node) = bootnodes.iter().find(|node| is_kept_out(&node.peer) && !is_explicit(&node.peer)) {
            let problem = format!("{} may not connect: it is on gossip.deny, or not on gossip.allow", node.peer);
            return Err(ConfigError::new(origin.unwrap_or_default(), problem));
        }
        let bounds = default.bounds;
        let config = Self {
            chain_id: settings.take("gossip.chain_id").map(|setting| setting.value),
            genesis_hash: settings.take_parsed("gossip.genesis_hash", hash)?,
            sole_source: settings.take_parsed("gossip.sole_source", boolean)?.unwrap_or(default.sole_source),
            listen,
            external_addresses: take_list(settings, "gossip.external_addresses", own_address)?.unwrap_or_default(),
            bootnodes,
            explicit_peers,
            mdns: settings.take_parsed("gossip.mdns", boolean)?.unwrap_or(default.mdns),
            publish: settings.take_parsed("gossip.publish", boolean)?.unwrap_or(default.publish),
            key_file: settings.take("gossip.key_file").map(|setting| PathBuf::from(setting.value)),
            allow: allow.into_iter().collect(),
            deny: deny.into_iter().collect(),
            bounds: Bounds {
                connections: settings.take_parsed("gossip.connections", connections)?.unwrap_or(bounds.connections),
                connections_per_peer: settings
                    .take_parsed("gossip.connections_per_peer", positive)?
                    .unwrap_or(bounds.connections_per_peer),
                connections_per_ip: settings
                    .take_parsed("gossip.connections_per_ip", positive)?
                    .unwrap_or(bounds.connections_per_ip),
                history: settings.take_parsed("gossip.history", positive)?.unwrap_or(bounds.history),
                history_bytes: settings.take_parsed("gossip.history_bytes", positive)?.unwrap_or(bounds.history_bytes),
                requests_per_second: settings
                    .take_parsed("gossip.requests_per_second", positive)?
                    .unwrap_or(bounds.requests_per_second),
                ..bounds
            },
        };
        if let Some(name) = settings.names_below("gossip.").first() {
            let origin = settings.origin_below(&format!("gossip.{name}")).unwrap_or_default();
            return Err(ConfigError::new(origin, format!("there is no setting \"gossip.{name}\"; there are {KNOWN}")));
        }
        Ok(is_enabled.then_some(config))
    }
}

/// A list in a file, or one text with commas between; `None` where nothing is set.
fn take_list<T>(
    settings: &mut Settings,
    path: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, ConfigError> {
    let Some(elements) = settings.take_list(path) else { return Ok(None) };
    if elements.len() > LIST_MAX {
        return Err(ConfigError::new(path, format!("{} elements; at most {LIST_MAX}", elements.len())));
    }
    let parsed = elements
        .into_iter()
        .map(|setting| parse(&setting.value).map_err(|problem| ConfigError::new(setting.origin, problem)));
    parsed.collect::<Result<_, _>>().map(Some)
}

fn peer_id(text: &str) -> Result<PeerId, String> {
    text.parse().map_err(|_| format!("{text:?} is no peer id such as 12D3KooW…"))
}

fn hash(text: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    let decoded = hex::decode_to_slice(text, &mut hash);
    decoded.map(|()| hash).map_err(|_| format!("{text:?} is no hash of 64 hexadecimal digits"))
}

fn connections(text: &str) -> Result<u32, String> {
    let number = positive::<u32>(text)?;
    if number < 4 { Err(format!("{number} is less than the 4 that a mesh needs")) } else { Ok(number) }
}

fn listen_address(text: &str) -> Result<Multiaddr, String> {
    let address = own_address(text)?;
    match address.iter().next() {
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => Ok(address),
        _ => Err(format!("{text:?} is a name: listen on an IP address such as {}", LISTEN[0])),
    }
}

fn own_address(text: &str) -> Result<Multiaddr, String> {
    let wrong = |problem: &str| {
        format!("{text:?} is no address of a node: {problem}; expected one such as {} or {}", LISTEN[0], LISTEN[1])
    };
    let address: Multiaddr = text.parse().map_err(|error| wrong(&format!("{error}")))?;
    dialable(&address).map_err(|problem| wrong(&problem))?;
    Ok(address)
}

/// Whether an address is TCP or QUIC on an IP address or a name.
pub(super) fn dialable(address: &Multiaddr) -> Result<(), String> {
    let parts: Vec<_> = address.iter().collect();
    match parts.as_slice() {
        [host, Protocol::Tcp(_)] | [host, Protocol::Udp(_), Protocol::QuicV1] if is_host(host) => Ok(()),
        _ => Err("it is neither TCP (/tcp/PORT) nor QUIC (/udp/PORT/quic-v1) on /ip4, /ip6 or /dns".to_owned()),
    }
}

fn is_host(part: &Protocol<'_>) -> bool {
    matches!(part, Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

    fn load(text: &str) -> Result<Option<GossipConfig>, ConfigError> {
        let mut settings = Settings::from_toml(text, "file.toml")?;
        let config = GossipConfig::take(&mut settings)?;
        settings.finish(KNOWN)?;
        Ok(config)
    }

    #[test]
    fn gossip_is_off_unless_asked_for() {
        assert_eq!(load("").unwrap(), None);
        assert_eq!(load("gossip.history = 5").unwrap(), None);
        assert_eq!(load("gossip.enabled = true").unwrap(), Some(GossipConfig::default()));
        assert!(!GossipConfig::default().mdns && GossipConfig::default().listen.len() == 2);
    }

    #[test]
    fn every_setting_has_its_meaning() {
        let text = format!(
            "[gossip]\nenabled = true\nchain_id = 'c'\ngenesis_hash = '{}'\nsole_source = true\nlisten = ['/ip4/127.0.0.1/tcp/1', '/ip6/::1/udp/2/quic-v1']\n\
             external_addresses = ['/dns/node.example/tcp/3']\nbootnodes = ['/dns4/boot.example/tcp/4/p2p/{PEER}']\n\
             explicit_peers = ['/ip4/192.0.2.1/udp/5/quic-v1/p2p/{PEER}']\nmdns = true\npublish = false\nhistory = 6\n\
             history_bytes = 7_000\nkey_file = 'k'\nallow = ['{PEER}']\ndeny = []\nconnections = 8\n\
             connections_per_peer = 9\nconnections_per_ip = 10\nrequests_per_second = 11",
            "ab".repeat(32)
        );
        let config = load(&text).unwrap().unwrap();
        assert_eq!((config.chain_id.as_deref(), config.genesis_hash), (Some("c"), Some([0xab; 32])));
        assert!(config.sole_source);
        let peer: PeerId = PEER.parse().unwrap();
        let address = |text: &str| text.parse::<Multiaddr>().unwrap();
        assert_eq!(config.listen, [address("/ip4/127.0.0.1/tcp/1"), address("/ip6/::1/udp/2/quic-v1")]);
        assert_eq!(config.external_addresses, [address("/dns/node.example/tcp/3")]);
        assert_eq!(config.bootnodes, [PeerAddress { peer, address: address("/dns4/boot.example/tcp/4") }]);
        assert_eq!(config.explicit_peers, [PeerAddress { peer, address: address("/ip4/192.0.2.1/udp/5/quic-v1") }]);
        assert!(config.mdns && !config.publish && config.deny.is_empty());
        assert_eq!((config.key_file, config.allow), (Some("k".into()), BTreeSet::from([peer])));
        let Bounds { connections, connections_per_peer, connections_per_ip, history, history_bytes, .. } =
            config.bounds;
        assert_eq!((connections, connections_per_peer, connections_per_ip), (8, 9, 10));
        assert_eq!((history, history_bytes, config.bounds.requests_per_second), (6, 7_000, 11));
    }

    #[test]
    fn lists_may_be_one_text_with_commas() {
        let mut settings = Settings::default();
        settings.set("gossip.enabled", "true", "DOWNBEAT_GOSSIP__ENABLED");
        settings.set("gossip.listen", "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2", "DOWNBEAT_GOSSIP__LISTEN");
        assert_eq!(GossipConfig::take(&mut settings).unwrap().unwrap().listen.len(), 2);
        settings.set("gossip.listen", "/ip4/127.0.0.1/tcp/1,7", "DOWNBEAT_GOSSIP__LISTEN");
        assert_eq!(GossipConfig::take(&mut settings).unwrap_err().origin, "DOWNBEAT_GOSSIP__LISTEN");
    }

    #[test]
    fn mistakes_name_their_place_and_what_is_accepted() {
        let both = format!("gossip.deny = ['{PEER}']\ngossip.explicit_peers = ['/ip4/192.0.2.1/tcp/5/p2p/{PEER}']");
        let boot = format!("gossip.bootnodes = ['/ip4/192.0.2.1/tcp/5/p2p/{PEER}']");
        let boot_denied = format!("{boot}\ngossip.deny = ['{PEER}']");
        let other = PeerId::from(libp2p::identity::Keypair::generate_ed25519().public());
        let boot_unlisted = format!("{boot}\ngossip.allow = ['{other}']");
        let table = [
            ("gossip.listen = ['127.0.0.1:1']", "file.toml: gossip.listen.0", "/ip4/0.0.0.0/tcp/26700"),
            ("gossip.listen = ['/dns/node.example/tcp/1']", "file.toml: gossip.listen.0", "is a name"),
            ("gossip.listen = ['/ip4/127.0.0.1/udp/1']", "file.toml: gossip.listen.0", "neither TCP"),
            ("gossip.listen = ['/ip4/127.0.0.1/tcp/1/ws']", "file.toml: gossip.listen.0", "neither TCP"),
            ("gossip.bootnodes = ['/ip4/127.0.0.1/tcp/1']", "file.toml: gossip.bootnodes.0", "does not end with /p2p"),
            ("gossip.deny = ['me']", "file.toml: gossip.deny.0", "no peer id"),
            ("gossip.connections = 3", "file.toml: gossip.connections", "less than the 4"),
            ("gossip.genesis_hash = '12'", "file.toml: gossip.genesis_hash", "64 hexadecimal"),
            ("gossip.history = 0", "file.toml: gossip.history", "above 0"),
            ("gossip.mdns = 2", "file.toml: gossip.mdns", "true nor false"),
            ("gossip.bootnode = 'x'", "file.toml: gossip.bootnode", "bootnodes"),
            (&both, "file.toml: gossip.explicit_peers.0", "take it out of one"),
            (&boot_denied, "file.toml: gossip.bootnodes.0", "may not connect"),
            (&boot_unlisted, "file.toml: gossip.bootnodes.0", "may not connect"),
        ];
        for (text, origin, problem) in table {
            let error = load(text).unwrap_err();
            assert_eq!(error.origin, origin, "{text}: {error}");
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
    }
}
