//! When to try a peer again, and what its address is today.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_mins(2);

/// Peers whose failures are remembered.
const PEERS_MAX: usize = 1_024;

/// Addresses that are taken of one name.
const ADDRESSES_MAX: usize = 8;

/// Growing delays for peers that cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Backoff(HashMap<PeerId, (Instant, Duration)>);

impl Backoff {
    /// Whether a peer may be tried; then it counts as tried, and the next time is later.
    pub(super) fn try_now(&mut self, peer: PeerId, now: Instant) -> bool {
        let delay = match self.0.get(&peer) {
            Some((at, _)) if *at > now => return false,
            Some((_, delay)) => (*delay * 2).min(LAST),
            None => FIRST,
        };
        if self.0.len() >= PEERS_MAX {
            self.0.retain(|_, (at, _)| *at > now);
        }
        if self.0.len() < PEERS_MAX {
            self.0.insert(peer, (now + delay, delay));
        }
        true
    }

    pub(super) fn connected(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }
}

/// Whether an address begins with a name.
pub(super) fn has_name(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)))
}

/// The addresses behind a name, as the system's resolver knows them now; an address without a name is itself.
pub(super) async fn resolve(address: &Multiaddr) -> Vec<Multiaddr> {
    let mut parts = address.iter();
    let (name, wants_v4, wants_v6) = match parts.next() {
        Some(Protocol::Dns(name)) => (name, true, true),
        Some(Protocol::Dns4(name)) => (name, true, false),
        Some(Protocol::Dns6(name)) => (name, false, true),
        _ => return vec![address.clone()],
    };
    let rest: Multiaddr = parts.collect();
    let Ok(found) = tokio::net::lookup_host((name.as_ref(), 0)).await else { return Vec::new() };
    let wanted = found.filter_map(|address| match address {
        SocketAddr::V4(v4) if wants_v4 => Some(Protocol::Ip4(*v4.ip())),
        SocketAddr::V6(v6) if wants_v6 => Some(Protocol::Ip6(*v6.ip())),
        _ => None,
    });
    wanted.take(ADDRESSES_MAX).map(|ip| std::iter::once(ip).chain(rest.iter()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_cannot_be_reached_is_tried_less_and_less_often() {
        let mut backoff = Backoff::default();
        let peer = PeerId::random();
        let mut now = Instant::now();
        for expected in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            assert!(backoff.try_now(peer, now));
            assert!(!backoff.try_now(peer, now + Duration::from_millis(expected * 1_000 - 1)));
            now += Duration::from_secs(expected);
        }
        backoff.connected(&peer);
        assert!(backoff.try_now(peer, now));
        assert!(backoff.try_now(peer, now + FIRST));
    }

    #[tokio::test]
    async fn names_become_addresses() {
        let address = |text: &str| text.parse::<Multiaddr>().unwrap();
        let plain = address("/ip4/192.0.2.1/tcp/1");
        assert_eq!(resolve(&plain).await, [plain]);
        assert_eq!(resolve(&address("/dns4/localhost/udp/7/quic-v1")).await, [address("/ip4/127.0.0.1/udp/7/quic-v1")]);
        assert!(resolve(&address("/dns/name.invalid/tcp/1")).await.is_empty());
    }
}
