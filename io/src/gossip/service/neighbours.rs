//! Who is connected, how they behave, and who is looked for.

use std::collections::BTreeSet;

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    super::{
        GossipPeer, PeerAddress, PeerClass, PeerInfo,
        behaviour::{Behaviour, GRAYLIST},
        conduct::Offence,
        config::dialable,
        dialing::{has_name, resolve},
        peers::ADDRESSES_MAX,
    },
    Peer, Service, is_loopback, unix_seconds, without_peer,
};

/// With fewer peers than this the node looks for more, and with fewer that it chose itself, however many came: a stranger
/// could be all that come.
const PEERS_WANTED: usize = 8;
const CHOSEN_WANTED: usize = 4;

/// Peers that are tried in one tick.
const DIALS_PER_TICK: usize = 4;

/// Numbers of peers that are remembered after they went.
const NUMBERS_MAX: usize = 4_096;

/// Bytes of what a peer says of itself that are kept.
const AGENT_BYTES: usize = 64;

impl Service {
    pub(super) fn connected(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        let address = without_peer(endpoint.get_remote_address().clone());
        if endpoint.is_dialer() {
            self.store.reached(peer, &address, unix_seconds());
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.connections += 1;
            return;
        }
        let number = GossipPeer(self.next_number);
        self.next_number += 1;
        self.numbers.insert(number, peer);
        // Who is connected stays, however long it has been: its answers are judged by its number.
        while self.numbers.len() > NUMBERS_MAX {
            let gone = self.numbers.iter().find(|(_, peer)| !self.peers.contains_key(*peer)).map(|(number, _)| *number);
            let Some(gone) = gone else { break };
            self.numbers.remove(&gone);
        }
        let is_inbound = endpoint.is_listener();
        let class = if self.swarm.behaviour().gate.is_explicit(&peer) {
            PeerClass::Explicit
        } else if self.config.bootnodes.iter().any(|known| known.peer == peer) {
            PeerClass::Bootnode
        } else if is_inbound {
            PeerClass::Inbound
        } else {
            PeerClass::Chosen
        };
        let counts = self.counters.classes.of_mut(class);
        counts.connected += 1;
        counts.connections += 1;
        let connected = Peer {
            number,
            connections: 1,
            address,
            is_inbound,
            class,
            since: Instant::now(),
            agent: None,
            is_of_our_space: false,
            latency: None,
            topics: BTreeSet::new(),
        };
        self.peers.insert(peer, connected);
        let penalty = self.conduct.penalty(&peer);
        self.swarm.behaviour_mut().gossipsub.set_application_score(&peer, -penalty);
    }

    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        known.connections -= 1;
        if known.connections == 0 {
            self.of_class(peer).connected -= 1;
            self.peers.remove(peer);
            self.asking.remove(peer);
        }
    }

    pub(super) fn identified(&mut self, peer: PeerId, info: identify::Info) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.agent = Some(info.agent_version.chars().filter(|c| !c.is_control()).take(AGENT_BYTES).collect());
        if info.protocol_version != self.names.protocol_version() {
            let (ours, theirs) = (self.names.protocol_version(), info.protocol_version.escape_debug());
            let is_configured = self.config.bootnodes.iter().chain(&self.config.explicit_peers).any(|p| p.peer == peer);
            if is_configured {
                warn!("peer {peer} is of another network: this node is {ours}, it is {theirs}");
            } else {
                debug!("peer {peer} is of another network: {theirs}");
            }
            self.counters.foreign += 1;
            return self.part_from(peer);
        }
        known.is_of_our_space = true;
        // Not before: who is of another network, or does not want this node, is not to be tried again at once.
        self.backoff.connected(&peer);
        let is_local = is_loopback(&known.address);
        if info.protocols.iter().any(|protocol| self.names.is_blocks_by_height(protocol)) {
            self.asking.add(peer);
        }
        let is_usable = |address: &Multiaddr| dialable(address).is_ok() && (is_local || !is_loopback(address));
        let addresses: Vec<_> =
            info.listen_addrs.into_iter().map(without_peer).filter(is_usable).take(ADDRESSES_MAX).collect();
        for address in &addresses {
            self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
        }
        self.forget_routes(&peer, &addresses);
        self.store.seen(peer, &addresses, unix_seconds());
    }

    /// The routing table keeps all addresses that a peer ever had: whoever always has new ones would fill the memory.
    fn forget_routes(&mut self, peer: &PeerId, newest: &[Multiaddr]) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let mut routes: Vec<Multiaddr> = Vec::new();
        if let Some(bucket) = kad.kbucket(*peer) {
            let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer);
            routes.extend(entry.into_iter().flat_map(|entry| entry.node.value.iter().cloned().collect::<Vec<_>>()));
        }
        let surplus = routes.len().saturating_sub(2 * ADDRESSES_MAX);
        for address in routes.iter().filter(|route| !newest.contains(*route)).take(surplus) {
            kad.remove_address(peer, address);
        }
    }

    pub(super) fn blame(&mut self, peer: PeerId, offence: Offence) {
        let penalty = self.conduct.blame(peer, offence);
        debug!("peer {peer}: {offence:?}, penalty {penalty:.0}");
        self.swarm.behaviour_mut().gossipsub.set_application_score(&peer, -penalty);
        if -penalty < GRAYLIST {
            self.send_away();
        }
    }

    /// Parts from peers whose score is too low.
    pub(super) fn send_away(&mut self) {
        let Behaviour { gossipsub, gate, .. } = self.swarm.behaviour();
        let now = Instant::now();
        // Who was sent away a moment ago may still be there.
        let is_bad = |peer: &&PeerId| {
            let is_low = gossipsub.peer_score(peer).is_some_and(|score| score < GRAYLIST);
            is_low && !gate.is_explicit(peer) && gate.admits(peer, now).is_ok()
        };
        let bad: Vec<_> = self.peers.keys().filter(is_bad).copied().collect();
        for peer in bad {
            info!("peer {peer} is sent away: its score is below {GRAYLIST}");
            self.counters.banned += 1;
            self.of_class(&peer).banned += 1;
            self.part_from(peer);
        }
    }

    fn part_from(&mut self, peer: PeerId) {
        self.store.forget(&peer);
        let duration = self.config.bounds.ban;
        let behaviour = self.swarm.behaviour_mut();
        behaviour.gate.ban(peer, duration, Instant::now());
        behaviour.kad.remove_peer(&peer);
        // An error says that it is not connected any more: as it should be.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    /// Connects to explicit peers, and to others while there are few.
    pub(super) fn look_for_peers(&mut self, now: Instant) {
        let mut candidates: Vec<(PeerId, Vec<Multiaddr>)> = Vec::new();
        let address = |known: &PeerAddress| (known.peer, vec![known.address.clone()]);
        candidates.extend(self.config.explicit_peers.iter().map(address));
        let chosen = self.peers.values().filter(|peer| !peer.is_inbound).count();
        if self.peers.len() < PEERS_WANTED || chosen < CHOSEN_WANTED {
            candidates.extend(self.config.bootnodes.iter().map(address));
            // Those first that were once where they said.
            let (proven, others): (Vec<_>, Vec<_>) = self.store.peers().iter().partition(|(_, known)| known.is_proven);
            let known = proven.into_iter().chain(others);
            candidates.extend(known.map(|(peer, known)| (*peer, known.addresses.clone())));
            for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
                let entries = bucket.iter().map(|entry| entry.node);
                candidates.extend(entries.map(|node| (*node.key.preimage(), node.value.iter().cloned().collect())));
            }
        }
        let own = *self.swarm.local_peer_id();
        let mut left = DIALS_PER_TICK;
        for (peer, addresses) in candidates {
            if left == 0 {
                break;
            }
            let is_open = peer != own && !self.peers.contains_key(&peer);
            if is_open && self.swarm.behaviour().gate.admits(&peer, now).is_ok() && self.backoff.try_now(peer, now) {
                left -= 1;
                self.dial(peer, addresses);
            }
        }
    }

    pub(super) fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if !addresses.iter().any(has_name) {
            return self.dial_at(peer, addresses);
        }
        self.lookups.spawn(async move {
            let mut found = Vec::new();
            for address in &addresses {
                found.extend(resolve(address).await);
            }
            (peer, found)
        });
    }

    pub(super) fn dial_at(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if addresses.is_empty() || peer == *self.swarm.local_peer_id() {
            return;
        }
        let condition = PeerCondition::DisconnectedAndNotDialing;
        if let Err(error) = self.swarm.dial(DialOpts::peer_id(peer).addresses(addresses).condition(condition).build()) {
            debug!("peer {peer} is not dialled: {error}");
        }
    }

    pub(super) fn save(&mut self) {
        if let Err(error) = self.store.save(&self.space.to_string()) {
            warn!("the peers that are known cannot be kept: {error}");
        }
    }

    pub(super) fn peer_infos(&self) -> Vec<PeerInfo> {
        let Behaviour { gossipsub, gate, .. } = self.swarm.behaviour();
        let mesh: BTreeSet<_> = gossipsub.all_mesh_peers().collect();
        let mut infos: Vec<_> = self
            .peers
            .iter()
            .map(|(id, peer)| PeerInfo {
                peer: id.to_base58(),
                addresses: vec![peer.address.to_string()],
                agent: peer.agent.clone(),
                space: peer.is_of_our_space.then(|| self.space.to_string()),
                score: gossipsub.peer_score(id).unwrap_or_default(),
                latency: peer.latency,
                is_inbound: peer.is_inbound,
                is_explicit: gate.is_explicit(id),
                class: peer.class,
                is_in_mesh: mesh.contains(id),
                connected_for: peer.since.elapsed(),
            })
            .collect();
        infos.sort_by(|one, other| other.score.total_cmp(&one.score).then_with(|| one.peer.cmp(&other.peer)));
        infos
    }
}
