//! Messages that wait for their verdict, bounded in number and bytes, per peer and together.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use libp2p::{PeerId, gossipsub::MessageId};
use tokio::time::Instant;

use super::{Bounds, GossipHandle, PeerClass, Topic};

/// One of them.
#[derive(Debug)]
pub(super) struct Undecided {
    pub(super) id: MessageId,
    /// Who sent it here.
    pub(super) peer: PeerId,
    pub(super) class: PeerClass,
    pub(super) topic: Topic,
    pub(super) height: u64,
    pub(super) bytes: Bytes,
}

/// Why a message is not even handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// This peer has sent more than its part.
    Peer,
    /// Everybody together has.
    All,
}

#[derive(Debug)]
pub(super) struct Inbox {
    per_peer: usize,
    total: usize,
    bytes_max: usize,
    deadline: Duration,
    next: u64,
    /// By handle, so by age; each with its deadline.
    waiting: BTreeMap<GossipHandle, (Instant, Undecided)>,
    of_peer: HashMap<PeerId, usize>,
    bytes: usize,
}

impl Inbox {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            per_peer: bounds.undecided_per_peer,
            total: bounds.undecided,
            bytes_max: bounds.undecided_bytes,
            deadline: bounds.verdict_deadline,
            next: 0,
            waiting: BTreeMap::new(),
            of_peer: HashMap::new(),
            bytes: 0,
        }
    }

    /// Takes a message in, if there is room.
    pub(super) fn add(&mut self, message: Undecided, now: Instant) -> Result<GossipHandle, Full> {
        let (peer, size) = (message.peer, message.bytes.len());
        if self.of_peer.get(&peer).is_some_and(|count| *count >= self.per_peer) {
            return Err(Full::Peer);
        }
        if self.waiting.len() >= self.total || self.bytes + size > self.bytes_max {
            return Err(Full::All);
        }
        let handle = GossipHandle(self.next);
        self.next += 1;
        self.bytes += size;
        *self.of_peer.entry(peer).or_default() += 1;
        self.waiting.insert(handle, (now + self.deadline, message));
        Ok(handle)
    }

    /// Takes a message out for its verdict; `None` if it had one, or waited too long.
    pub(super) fn take(&mut self, handle: GossipHandle) -> Option<Undecided> {
        let (_, undecided) = self.waiting.remove(&handle)?;
        self.bytes -= undecided.bytes.len();
        if let Some(count) = self.of_peer.get_mut(&undecided.peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&undecided.peer);
            }
        }
        Some(undecided)
    }

    /// Takes out what has waited too long.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Undecided> {
        let mut expired = Vec::new();
        while let Some((handle, (deadline, _))) = self.waiting.first_key_value()
            && *deadline <= now
        {
            let handle = *handle;
            expired.extend(self.take(handle));
        }
        expired
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.of_peer.is_empty() && self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> Inbox {
        Inbox::new(&Bounds { undecided_per_peer: 2, undecided: 3, undecided_bytes: 100, ..Bounds::default() })
    }

    fn of(peer: PeerId, size: usize) -> Undecided {
        let id = MessageId::new(&[1]);
        Undecided { id, peer, class: PeerClass::Inbound, topic: Topic::Blocks, height: 1, bytes: vec![0; size].into() }
    }

    fn add(inbox: &mut Inbox, peer: PeerId, size: usize) -> Result<GossipHandle, Full> {
        inbox.add(of(peer, size), Instant::now())
    }

    #[test]
    fn a_peer_has_its_share_and_all_together_have_theirs() {
        let mut inbox = inbox();
        let (one, two, three) = (PeerId::random(), PeerId::random(), PeerId::random());
        let first = add(&mut inbox, one, 10).unwrap();
        let second = add(&mut inbox, one, 10).unwrap();
        assert_eq!(add(&mut inbox, one, 10), Err(Full::Peer));
        assert_eq!(add(&mut inbox, two, 81), Err(Full::All), "bytes count");
        let third = add(&mut inbox, two, 80).unwrap();
        assert_eq!(add(&mut inbox, three, 0), Err(Full::All), "places count");
        assert_eq!(inbox.take(first).unwrap().peer, one);
        assert!(inbox.take(first).is_none(), "one verdict each");
        add(&mut inbox, three, 10).unwrap();
        assert!(inbox.take(second).is_some() && inbox.take(third).is_some());
    }

    #[test]
    fn what_waits_too_long_leaves_and_makes_room() {
        let mut inbox = inbox();
        let peer = PeerId::random();
        let now = Instant::now();
        let at = |inbox: &mut Inbox, now| inbox.add(of(peer, 1), now).unwrap();
        let second = Duration::from_secs(1);
        let (early, late) = (at(&mut inbox, now), at(&mut inbox, now + second));
        assert!(inbox.take_expired(now + second).is_empty());
        let deadline = now + inbox.deadline;
        assert_eq!(inbox.take_expired(deadline).len(), 1);
        assert!(inbox.take(early).is_none());
        assert!(inbox.take(late).is_some());
        assert!(inbox.is_empty());
    }
}
