//! Token buckets: how often something may happen, or how much, on average and at once.

use std::{collections::HashMap, hash::Hash, time::Duration};

use libp2p::PeerId;
use tokio::time::Instant;

/// Keys whose bucket is remembered. A full bucket need not be; of others, the one that is full first goes.
const KEYS_MAX: usize = 1_024;

/// One bucket per peer (or whatever it is that is counted), all of one size.
#[derive(Debug)]
pub(super) struct Buckets<K = PeerId> {
    /// Nanoseconds that a thousand tokens take to come.
    thousand: u64,
    /// How long a whole bucket takes.
    burst: Duration,
    /// When the bucket will be full again, which says how full it is.
    full_at: HashMap<K, Instant>,
}

impl<K: Copy + Eq + Hash> Buckets<K> {
    /// `per_second` tokens come in a second; `burst` of them at most wait.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let thousand = 1_000_000_000_000 / u64::from(per_second.max(1));
        let mut buckets = Self { thousand, burst: Duration::ZERO, full_at: HashMap::new() };
        buckets.burst = buckets.time_of(u64::from(burst.max(1)));
        buckets
    }

    /// `per_minute` tokens come in a minute.
    pub(super) fn per_minute(per_minute: u32, burst: u32) -> Self {
        let thousand = 60_000_000_000_000 / u64::from(per_minute.max(1));
        let mut buckets = Self { thousand, burst: Duration::ZERO, full_at: HashMap::new() };
        buckets.burst = buckets.time_of(u64::from(burst.max(1)));
        buckets
    }

    /// Takes a token out of a bucket, if there is one.
    pub(super) fn take(&mut self, key: K, now: Instant) -> bool {
        self.take_many(key, 1, now)
    }

    /// Takes so many, or none.
    pub(super) fn take_many(&mut self, key: K, tokens: usize, now: Instant) -> bool {
        let time = self.time_of(u64::try_from(tokens).unwrap_or(u64::MAX));
        let after = self.full_at(&key, now) + time.min(2 * self.burst);
        let is_there = after <= now + self.burst;
        if is_there {
            self.keep(key, after, now);
        }
        is_there
    }

    /// Whether a bucket is not empty.
    pub(super) fn has_any(&self, key: &K, now: Instant) -> bool {
        self.full_at(key, now) < now + self.burst
    }

    /// Takes so many out, also if there are less: the next ones that come fill the gap, which is never deeper than a bucket.
    pub(super) fn spend(&mut self, key: K, tokens: usize, now: Instant) {
        let time = self.time_of(u64::try_from(tokens).unwrap_or(u64::MAX));
        if tokens > 0 {
            let after = self.full_at(&key, now) + time.min(2 * self.burst);
            self.keep(key, after.min(now + 2 * self.burst), now);
        }
    }

    fn full_at(&self, key: &K, now: Instant) -> Instant {
        self.full_at.get(key).map_or(now, |at| (*at).max(now))
    }

    fn keep(&mut self, key: K, full_at: Instant, now: Instant) {
        if self.full_at.len() >= KEYS_MAX && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= KEYS_MAX
                && let Some(first) = self.full_at.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key)
            {
                self.full_at.remove(&first);
            }
        }
        self.full_at.insert(key, full_at);
    }

    fn time_of(&self, tokens: u64) -> Duration {
        Duration::from_nanos(self.thousand.saturating_mul(tokens) / 1_000)
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
        let mut buckets = Buckets::per_minute(6, 2);
        let mut taken = |at| (0..20).filter(|_| buckets.take(one, at)).count();
        assert_eq!((taken(now), taken(now + Duration::from_secs(10))), (2, 1));
    }

    #[test]
    fn what_is_more_than_a_bucket_is_never_there_and_what_was_spent_has_to_come_first() {
        let mut buckets = Buckets::new(10, 5);
        let peer = PeerId::random();
        let now = Instant::now();
        assert!(!buckets.take_many(peer, 6, now) && !buckets.take_many(peer, usize::MAX, now));
        assert!(buckets.take_many(peer, 5, now), "what was refused cost nothing");
        assert!(!buckets.has_any(&peer, now));
        let mut buckets = Buckets::new(8 << 20, 64 << 20);
        assert!(buckets.has_any(&peer, now));
        buckets.spend(peer, 72 << 20, now);
        assert!(!buckets.has_any(&peer, now + Duration::from_millis(900)), "one second of debt");
        assert!(buckets.has_any(&peer, now + Duration::from_millis(1_100)));
        buckets.spend(peer, usize::MAX, now);
        assert!(buckets.has_any(&peer, now + Duration::from_millis(8_100)), "the debt is bounded");
    }

    #[test]
    fn the_buckets_are_bounded_and_whoever_is_new_finds_a_full_one() {
        let mut buckets = Buckets::new(1, 2);
        let now = Instant::now();
        let deep = PeerId::random();
        assert!(buckets.take_many(deep, 2, now));
        for _ in 0..2 * KEYS_MAX {
            assert!(buckets.take(PeerId::random(), now));
        }
        assert_eq!(buckets.full_at.len(), KEYS_MAX);
        assert!(!buckets.take(deep, now), "who took most is remembered longest");
    }
}
