//! Token buckets: how often something may happen, on average and at once.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use tokio::time::Instant;

/// Peers whose bucket is remembered. A full bucket need not be.
const PEERS_MAX: usize = 1_024;

/// One bucket per peer, all of one size.
#[derive(Debug)]
pub(super) struct Buckets {
    /// How long one token takes to come.
    interval: Duration,
    /// How long a whole bucket takes.
    burst: Duration,
    /// When the bucket will be full again, which says how full it is.
    full_at: HashMap<PeerId, Instant>,
}

impl Buckets {
    /// `per_second` tokens come in a second; `burst` of them at most wait.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, burst: interval * burst.max(1), full_at: HashMap::new() }
    }

    /// Takes a token out of a peer's bucket, if there is one.
    pub(super) fn take(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.full_at.len() >= PEERS_MAX {
            self.full_at.retain(|_, full_at| *full_at > now);
            // Still full of peers that ask: whoever is new is asked to wait.
            if self.full_at.len() >= PEERS_MAX && !self.full_at.contains_key(&peer) {
                return false;
            }
        }
        let full_at = self.full_at.entry(peer).or_insert(now);
        let after = (*full_at).max(now) + self.interval;
        if after > now + self.burst {
            return false;
        }
        *full_at = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_ask_in_bursts_and_then_at_its_rate() {
        let mut buckets = Buckets::new(10, 5);
        let (one, other) = (PeerId::random(), PeerId::random());
        let now = Instant::now();
        let mut taken = |peer, at| (0..20).filter(|_| buckets.take(peer, at)).count();
        assert_eq!(taken(one, now), 5);
        assert_eq!(taken(other, now), 5, "each has its own");
        let later = now + Duration::from_millis(200);
        assert_eq!(taken(one, later), 2);
        assert_eq!(taken(one, later + Duration::from_mins(1)), 5);
    }

    #[test]
    fn the_buckets_are_bounded() {
        let mut buckets = Buckets::new(1, 2);
        let now = Instant::now();
        for _ in 0..2 * PEERS_MAX {
            buckets.take(PeerId::random(), now);
        }
        assert_eq!(buckets.full_at.len(), PEERS_MAX);
        assert!(buckets.take(PeerId::random(), now + Duration::from_secs(2)), "room comes back");
    }
}
