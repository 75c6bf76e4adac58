//! Gossipsub with an account of what each peer makes it do.
//!
//! Gossipsub scores what is not genuine. Copies of what is known, messages of topics that nobody here follows, and small
//! messages that unpack to large ones cost it time as well, and are nobody's fault by its rules. So everything that a peer
//! sends is counted here before gossipsub looks at it: messages, and the bytes that they unpacked to. What is beyond a peer's
//! part is dropped unseen.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use tokio::time::Instant;

use super::{Bounds, behaviour::Gossipsub, rate::Buckets};

/// So many subscriptions and control messages count like one message.
const SIGNALS: usize = 16;

/// So many messages does one count for that no honest node sends on: its signature does not hold, and it is of a topic of
/// which gossipsub keeps no score.
const INVALID: usize = 10;

/// Events that wait to be seen; more say nothing new.
const EVENTS_MAX: usize = 256;

/// Bytes that were unpacked since somebody looked.
#[derive(Clone, Debug, Default)]
pub(super) struct Unpacked(Arc<AtomicUsize>);

impl Unpacked {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) enum Event {
    Gossipsub(gossipsub::Event),
    /// So many messages of a peer were beyond its part.
    Flood {
        peer: PeerId,
        messages: usize,
    },
}

pub(super) struct Metered {
    inner: Gossipsub,
    unpacked: Unpacked,
    /// Chosen by the operator: not counted.
    explicit: BTreeSet<PeerId>,
    messages: Buckets,
    bytes: Buckets,
    floods: VecDeque<(PeerId, usize)>,
}

impl Metered {
    pub(super) fn new(inner: Gossipsub, unpacked: Unpacked, explicit: BTreeSet<PeerId>, bounds: &Bounds) -> Self {
        let messages = Buckets::new(bounds.messages_per_second, bounds.messages_per_second.saturating_mul(4));
        let bytes = Buckets::new(bounds.unpacked_per_second, bounds.unpacked_per_second.saturating_mul(8));
        Self { inner, unpacked, explicit, messages, bytes, floods: VecDeque::new() }
    }

    /// How many messages this counts for, without those that nobody here follows, which are taken out.
    fn weigh(&self, event: &mut THandlerOutEvent<Gossipsub>) -> Option<usize> {
        // The type of the event has no public name.
        type Sent = THandlerOutEvent<Gossipsub>;
        let Sent::Message { rpc, invalid_messages } = event else { return None };
        let is_followed = |topic: &gossipsub::TopicHash| self.inner.topics().any(|followed| followed == topic);
        let (sent, invalid) = (rpc.messages.len(), invalid_messages.len());
        rpc.messages.retain(|message| is_followed(&message.topic));
        invalid_messages.retain(|(message, _)| is_followed(&message.topic));
        let unscored = invalid - invalid_messages.len();
        let all = sent
            + invalid_messages.len()
            + unscored * INVALID
            + (rpc.control_msgs.len() + rpc.subscriptions.len()) / SIGNALS;
        Some(all.max(1))
    }
}

impl Deref for Metered {
    type Target = Gossipsub;

    fn deref(&self) -> &Gossipsub {
        &self.inner
    }
}

impl DerefMut for Metered {
    fn deref_mut(&mut self) -> &mut Gossipsub {
        &mut self.inner
    }
}

impl NetworkBehaviour for Metered {
    type ConnectionHandler = <Gossipsub as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, mut event: THandlerOutEvent<Self>) {
        if self.explicit.contains(&peer) {
            self.inner.on_connection_handler_event(peer, id, event);
            self.unpacked.take();
            return;
        }
        let now = Instant::now();
        if let Some(messages) = self.weigh(&mut event) {
            let is_within = self.messages.take_many(peer, messages, now) && self.bytes.has_any(&peer, now);
            if !is_within {
                let has_room = self.floods.len() < EVENTS_MAX;
                match self.floods.back_mut() {
                    Some((last, count)) if *last == peer => *count += messages,
                    _ if has_room => self.floods.push_back((peer, messages)),
                    _ => {}
                }
                return;
            }
        }
        self.inner.on_connection_handler_event(peer, id, event);
        self.bytes.spend(peer, self.unpacked.take(), now);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        if let Some((peer, messages)) = self.floods.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(Event::Flood { peer, messages }));
        }
        self.inner.poll(cx).map(|event| event.map_out(Event::Gossipsub))
    }
}
