//! Who may connect: lists of the operator, peers that were sent away for a while, and a bound per address.
//!
//! A connection above the bound of its address is refused before any handshake, so a thousand of them cost little, and so is
//! one from an address that comes again and again. IPv6
//! hosts usually have a whole /64, which counts as one address.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use tokio::time::Instant;

use super::rate::Buckets;

/// Bans at the same time; the one that ends first goes.
const BANS_MAX: usize = 1_024;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("peer {0} is on the list gossip.deny")]
    Listed(PeerId),
    #[error("peer {0} is not on the list gossip.allow")]
    NotListed(PeerId),
    #[error("peer {0} misbehaved not long ago")]
    Banned(PeerId),
    #[error("{ip} has {limit} connections already")]
    TooManyFrom { ip: IpAddr, limit: usize },
    #[error("{0} comes again too often")]
    TooOften(IpAddr),
}

/// A behaviour that does nothing but refuse.
#[derive(Debug)]
pub(super) struct Gate {
    /// Only these, unless it is empty.
    allow: BTreeSet<PeerId>,
    deny: BTreeSet<PeerId>,
    /// Chosen by the operator: neither banned nor counted.
    explicit: BTreeSet<PeerId>,
    per_ip: usize,
    inbound: HashMap<ConnectionId, IpAddr>,
    /// Or one address could have any number of names, one after the other, each with all that a peer may do.
    arrivals: Buckets<IpAddr>,
    banned: HashMap<PeerId, Instant>,
    /// Refused so far.
    pub(super) refused: u64,
}

impl Gate {
    pub(super) fn new(
        allow: BTreeSet<PeerId>,
        deny: BTreeSet<PeerId>,
        explicit: BTreeSet<PeerId>,
        per_ip: usize,
    ) -> Self {
        let per_minute = u32::try_from(per_ip).unwrap_or(u32::MAX);
        Self {
            allow,
            deny,
            explicit,
            per_ip,
            inbound: HashMap::new(),
            arrivals: Buckets::per_minute(per_minute, per_minute.saturating_mul(4)),
            banned: HashMap::new(),
            refused: 0,
        }
    }

    pub(super) fn is_explicit(&self, peer: &PeerId) -> bool {
        self.explicit.contains(peer)
    }

    /// Keeps a peer out for a while; an explicit one is not.
    pub(super) fn ban(&mut self, peer: PeerId, duration: Duration, now: Instant) {
        if self.is_explicit(&peer) {
            return;
        }
        self.banned.retain(|_, until| *until > now);
        if self.banned.len() >= BANS_MAX
            && let Some(first) = self.banned.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            self.banned.remove(&first);
        }
        self.banned.insert(peer, now + duration);
    }

    /// Whether a peer may be connected to, whichever side dials.
    pub(super) fn admits(&self, peer: &PeerId, now: Instant) -> Result<(), Denied> {
        if self.deny.contains(peer) {
            return Err(Denied::Listed(*peer));
        }
        if !self.allow.is_empty() && !self.allow.contains(peer) && !self.is_explicit(peer) {
            return Err(Denied::NotListed(*peer));
        }
        match self.banned.get(peer) {
            Some(until) if *until > now => Err(Denied::Banned(*peer)),
            _ => Ok(()),
        }
    }

    /// A connection comes from an address.
    fn arrives(&mut self, id: ConnectionId, remote: &Multiaddr, now: Instant) -> Result<(), Denied> {
        let Some(ip) = counted_ip(remote) else { return Ok(()) };
        let limit = self.per_ip;
        if self.inbound.values().filter(|other| **other == ip).take(limit).count() >= limit {
            return Err(Denied::TooManyFrom { ip, limit });
        }
        if !self.arrivals.take(ip, now) {
            return Err(Denied::TooOften(ip));
        }
        self.inbound.insert(id, ip);
        Ok(())
    }

    fn count(&mut self, verdict: Result<(), Denied>) -> Result<(), ConnectionDenied> {
        verdict.map_err(|denied| {
            self.refused = self.refused.saturating_add(1);
            ConnectionDenied::new(denied)
        })
    }
}

/// The address that a connection counts for.
fn counted_ip(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => IpAddr::V4(ip),
            None => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        }),
        _ => None,
    })
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let verdict = self.arrives(id, remote, Instant::now());
        self.count(verdict)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let verdict = self.admits(&peer, Instant::now());
        self.count(verdict)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(peer) = peer {
            self.admits(&peer, Instant::now()).map_err(ConnectionDenied::new)?;
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admits(&peer, Instant::now()).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.inbound.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_networks_of_a_host_count_as_one_address() {
        let table = [
            ("/ip4/192.0.2.1/tcp/1", "192.0.2.1"),
            ("/ip6/::ffff:192.0.2.1/udp/1/quic-v1", "192.0.2.1"),
            ("/ip6/2001:db8:1:2:3:4:5:6/tcp/1", "2001:db8:1:2::"),
        ];
        for (text, ip) in table {
            assert_eq!(counted_ip(&address(text)), Some(ip.parse().unwrap()), "{text}");
        }
        assert_eq!(counted_ip(&address("/memory/1")), None);
    }

    #[test]
    fn lists_and_bans_decide_who_may_come() {
        let peers: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
        let set = |indices: &[usize]| indices.iter().map(|index| peers[*index]).collect::<BTreeSet<_>>();
        let now = Instant::now();
        let mut gate = Gate::new(set(&[0, 1]), set(&[1]), set(&[2]), 1);
        assert_eq!(gate.admits(&peers[0], now), Ok(()));
        assert_eq!(gate.admits(&peers[1], now), Err(Denied::Listed(peers[1])));
        assert_eq!(gate.admits(&peers[2], now), Ok(()), "explicit peers need not be listed");
        assert_eq!(gate.admits(&peers[3], now), Err(Denied::NotListed(peers[3])));
        gate.ban(peers[0], Duration::from_secs(10), now);
        gate.ban(peers[2], Duration::from_secs(10), now);
        assert_eq!(gate.admits(&peers[0], now), Err(Denied::Banned(peers[0])));
        assert_eq!(gate.admits(&peers[2], now), Ok(()), "explicit peers are not sent away");
        assert_eq!(gate.admits(&peers[0], now + Duration::from_secs(11)), Ok(()));
    }

    #[test]
    fn bans_are_bounded() {
        let now = Instant::now();
        let mut gate = Gate::new(BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 1);
        for _ in 0..BANS_MAX + 10 {
            gate.ban(PeerId::random(), Duration::from_secs(10), now);
        }
        assert_eq!(gate.banned.len(), BANS_MAX);
    }

    #[test]
    fn connections_from_one_address_are_bounded_and_room_comes_back() {
        let mut gate = Gate::new(BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 2);
        let (local, remote) = (address("/ip4/127.0.0.1/tcp/1"), address("/ip4/192.0.2.1/tcp/9"));
        let ids: Vec<_> = (0..3).map(ConnectionId::new_unchecked).collect();
        let come = |gate: &mut Gate, id| gate.handle_pending_inbound_connection(id, &local, &remote).is_ok();
        assert!(come(&mut gate, ids[0]) && come(&mut gate, ids[1]));
        assert!(!come(&mut gate, ids[2]));
        assert_eq!(gate.refused, 1);
        let elsewhere = address("/ip4/192.0.2.2/tcp/9");
        assert!(gate.handle_pending_inbound_connection(ConnectionId::new_unchecked(9), &local, &elsewhere).is_ok());
        gate.inbound.remove(&ids[0]);
        assert!(come(&mut gate, ids[2]));
    }

    #[test]
    fn an_address_that_comes_again_and_again_has_to_wait_and_others_do_not() {
        let mut gate = Gate::new(BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 2);
        let (now, remote) = (Instant::now(), "/ip6/2001:db8::7/tcp/9");
        let mut come = |remote: &str, now| {
            let id = ConnectionId::new_unchecked(1);
            let is_let_in = gate.arrives(id, &address(remote), now).is_ok();
            gate.inbound.remove(&id);
            is_let_in
        };
        assert_eq!((0..100).filter(|_| come(remote, now)).count(), 8);
        assert!(!come("/ip6/2001:db8::8/tcp/9", now), "the same network");
        assert!(come("/ip6/2001:db8:0:1::8/tcp/9", now), "another one");
        let later = now + Duration::from_secs(30);
        assert_eq!((0..100).filter(|_| come(remote, later)).count(), 1);
    }
}
