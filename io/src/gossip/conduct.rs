//! How peers behave where gossipsub does not see it: floods, and answers to questions. The sum goes into gossipsub's score
//! and outlives the connection, so that to come again cleans nobody.

use std::collections::HashMap;

use libp2p::PeerId;

/// Peers whose penalties are remembered; the smallest goes.
const PEERS_MAX: usize = 1_024;

/// Part of a penalty that is left after a second: half after about two minutes.
const KEPT_PER_SECOND: f64 = 0.994;

/// A penalty below this is none.
const NEGLIGIBLE: f64 = 0.1;

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offence {
    /// So many messages beyond what one peer may send in a time, or have undecided.
    Flood(usize),
    /// A question that it did not answer.
    Silence,
    /// An answer that no honest node gives.
    Garbage,
}

impl Offence {
    /// In points of score. Below −80 ([`super::behaviour::GRAYLIST`]) a peer is sent away.
    fn points(self) -> f64 {
        match self {
            // More than is needed to send a peer away says nothing new.
            Self::Flood(messages) => f64::from(u8::try_from(messages).unwrap_or(u8::MAX)),
            Self::Silence => 6.0,
            Self::Garbage => 30.0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Conduct(HashMap<PeerId, f64>);

impl Conduct {
    /// Adds to a peer's penalty and says what it is now.
    pub(super) fn blame(&mut self, peer: PeerId, offence: Offence) -> f64 {
        if self.0.len() >= PEERS_MAX
            && !self.0.contains_key(&peer)
            && let Some(least) = self.0.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(peer, _)| *peer)
        {
            self.0.remove(&least);
        }
        let penalty = self.0.entry(peer).or_default();
        *penalty += offence.points();
        *penalty
    }

    pub(super) fn penalty(&self, peer: &PeerId) -> f64 {
        self.0.get(peer).copied().unwrap_or_default()
    }

    /// To be called each second. Says whose penalty has changed to what.
    pub(super) fn decay(&mut self) -> impl Iterator<Item = (PeerId, f64)> {
        let changed: Vec<_> = self
            .0
            .iter_mut()
            .map(|(peer, penalty)| {
                *penalty *= KEPT_PER_SECOND;
                if *penalty < NEGLIGIBLE {
                    *penalty = 0.0;
                }
                (*peer, *penalty)
            })
            .collect();
        self.0.retain(|_, penalty| *penalty > 0.0);
        changed.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_add_up_and_fade() {
        let mut conduct = Conduct::default();
        let peer = PeerId::random();
        conduct.blame(peer, Offence::Garbage);
        conduct.blame(peer, Offence::Garbage);
        assert!(conduct.blame(peer, Offence::Garbage) > 80.0, "three answers of garbage are enough");
        for _ in 0..115 {
            conduct.decay().for_each(drop);
        }
        let penalty = conduct.penalty(&peer);
        assert!((40.0..50.0).contains(&penalty), "{penalty}");
        for _ in 0..2_000 {
            conduct.decay().for_each(drop);
        }
        assert!(conduct.0.is_empty());
    }

    #[test]
    fn the_worst_are_remembered_when_there_are_too_many() {
        let mut conduct = Conduct::default();
        let worst = PeerId::random();
        conduct.blame(worst, Offence::Garbage);
        for _ in 0..2 * PEERS_MAX {
            conduct.blame(PeerId::random(), Offence::Flood(1));
        }
        assert_eq!(conduct.0.len(), PEERS_MAX);
        assert!(conduct.penalty(&worst) > 0.0);
    }
}
