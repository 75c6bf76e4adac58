//! Which peer to ask for a height.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use tokio::time::Instant;

/// Failures in a row that are told apart.
const FAILURES_MAX: u32 = 8;

/// For how long a peer that said "later" is left in peace.
const PAUSE: Duration = Duration::from_secs(1);

/// What is remembered of the peers that could be asked: those that are connected.
#[derive(Debug, Default)]
pub(super) struct Asking {
    peers: HashMap<PeerId, Asked>,
    /// Counts questions, to tell who was asked longest ago.
    questions: u64,
}

#[derive(Debug, Default)]
struct Asked {
    /// Number of the last question.
    last: u64,
    in_flight: u32,
    /// Since the last good answer.
    failures: u32,
    paused_until: Option<Instant>,
    /// The heights that it said to hold. Not proven: it only orders.
    range: Option<(u64, u64)>,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Answered { range: Option<(u64, u64)> },
    Later,
    Failed,
}

impl Asking {
    /// The peer can be asked now.
    pub(super) fn add(&mut self, peer: PeerId) {
        self.peers.entry(peer).or_default();
    }

    pub(super) fn remove(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// Chooses a peer for a question about `height`. Peers that answered well and may have the height come first, and
    /// among equals the one that was asked longest ago: a bad answer thus never leads to the same peer again, if there is
    /// another.
    pub(super) fn choose(&mut self, height: u64, now: Instant, mut may: impl FnMut(&PeerId) -> bool) -> Option<PeerId> {
        let rank = |asked: &Asked| {
            let is_paused = asked.paused_until.is_some_and(|until| until > now);
            let lacks_it = asked.range.is_some_and(|(lowest, highest)| height < lowest || height > highest);
            (is_paused, asked.failures, lacks_it, asked.in_flight, asked.last)
        };
        let open = self.peers.iter_mut().filter(|(peer, _)| may(peer));
        let (peer, asked) = open.min_by_key(|(peer, asked)| (rank(asked), **peer))?;
        self.questions += 1;
        asked.last = self.questions;
        asked.in_flight += 1;
        Some(*peer)
    }

    pub(super) fn ended(&mut self, peer: &PeerId, ended: Ended, now: Instant) {
        let Some(asked) = self.peers.get_mut(peer) else { return };
        asked.in_flight = asked.in_flight.saturating_sub(1);
        match ended {
            Ended::Answered { range } => {
                asked.failures = 0;
                asked.range = range;
            }
            Ended::Later => asked.paused_until = Some(now + PAUSE),
            Ended::Failed => asked.failures = (asked.failures + 1).min(FAILURES_MAX),
        }
    }

    /// What a peer answered turned out to be worth nothing.
    pub(super) fn was_garbage(&mut self, peer: &PeerId) {
        if let Some(asked) = self.peers.get_mut(peer) {
            asked.failures = (asked.failures + 1).min(FAILURES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(count: usize) -> (Asking, Vec<PeerId>) {
        let peers: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
        let mut asking = Asking::default();
        for peer in &peers {
            asking.add(*peer);
        }
        (asking, peers)
    }

    #[test]
    fn peers_take_turns() {
        let (mut asking, peers) = asking(3);
        let now = Instant::now();
        let mut asked = Vec::new();
        for _ in 0..6 {
            let peer = asking.choose(7, now, |_| true).unwrap();
            asking.ended(&peer, Ended::Answered { range: None }, now);
            asked.push(peer);
        }
        assert_eq!(asked[..3], asked[3..]);
        assert!(peers.iter().all(|peer| asked.contains(peer)));
        assert_eq!(asking.choose(7, now, |_| false), None);
    }

    #[test]
    fn who_fails_or_lacks_the_height_or_said_later_comes_last() {
        let (mut asking, _) = asking(3);
        let now = Instant::now();
        let failed = asking.choose(7, now, |_| true).unwrap();
        asking.ended(&failed, Ended::Failed, now);
        let lacking = asking.choose(7, now, |_| true).unwrap();
        asking.ended(&lacking, Ended::Answered { range: Some((8, 20)) }, now);
        let good = asking.choose(7, now, |_| true).unwrap();
        asking.ended(&good, Ended::Answered { range: Some((1, 20)) }, now);
        for _ in 0..5 {
            let peer = asking.choose(7, now, |_| true).unwrap();
            assert_eq!(peer, good);
            asking.ended(&peer, Ended::Answered { range: Some((1, 20)) }, now);
        }
        assert_eq!(asking.choose(9, now, |_| true), Some(lacking), "for what it has it is as good as others");
        asking.ended(&lacking, Ended::Later, now);
        asking.ended(&good, Ended::Later, now);
        assert_eq!(asking.choose(9, now, |_| true), Some(failed));
        let later = now + PAUSE * 2;
        assert_ne!(asking.choose(9, later, |_| true), Some(failed));
    }
}
