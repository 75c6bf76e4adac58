//! Answers on their way to peers: their bytes are held until the peer has read them, or its time is up, so they have a bound.

use std::{collections::HashMap, hash::Hash};

use libp2p::{PeerId, request_response::InboundRequestId};

use super::Bounds;

#[derive(Debug)]
pub(super) struct Answering<K = InboundRequestId> {
    of_peer_max: usize,
    max: usize,
    held: HashMap<K, (PeerId, usize)>,
    of_peer: HashMap<PeerId, usize>,
    bytes: usize,
}

impl<K: Eq + Hash> Answering<K> {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            of_peer_max: bounds.answering_bytes_per_peer,
            max: bounds.answering_bytes,
            held: HashMap::new(),
            of_peer: HashMap::new(),
            bytes: 0,
        }
    }

    /// Whether there is room for one more answer, in bytes, for a peer. One alone always has.
    pub(super) fn has_room(&self, peer: &PeerId, size: usize) -> bool {
        let of_peer = self.of_peer.get(peer).copied().unwrap_or_default();
        let fits = |held: usize, max: usize| held == 0 || held.saturating_add(size) <= max;
        fits(of_peer, self.of_peer_max) && fits(self.bytes, self.max)
    }

    pub(super) fn began(&mut self, id: K, peer: PeerId, size: usize) {
        if size > 0 && self.held.insert(id, (peer, size)).is_none() {
            *self.of_peer.entry(peer).or_default() += size;
            self.bytes += size;
        }
    }

    /// It was sent, or never will be.
    pub(super) fn ended(&mut self, id: &K) {
        let Some((peer, size)) = self.held.remove(id) else { return };
        self.bytes -= size;
        if let Some(held) = self.of_peer.get_mut(&peer) {
            *held -= size;
            if *held == 0 {
                self.of_peer.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_read_its_answers_gets_no_more_and_others_do() {
        let bounds = Bounds { answering_bytes_per_peer: 10, answering_bytes: 25, ..Bounds::default() };
        let mut answering = Answering::<u32>::new(&bounds);
        let peers = [(); 4].map(|()| PeerId::random());
        assert!(answering.has_room(&peers[0], 100), "one alone always has room");
        answering.began(0, peers[0], 6);
        assert!(answering.has_room(&peers[0], 4) && !answering.has_room(&peers[0], 5));
        answering.began(1, peers[1], 10);
        answering.began(2, peers[2], 9);
        assert!(!answering.has_room(&peers[3], 1), "all have their bound, too");
        answering.ended(&1);
        answering.ended(&1);
        assert!(answering.has_room(&peers[1], 10) && !answering.has_room(&peers[1], 11));
        answering.ended(&0);
        answering.ended(&2);
        assert!(answering.held.is_empty() && answering.of_peer.is_empty() && answering.bytes == 0);
    }
}
