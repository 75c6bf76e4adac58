//! The protocols that are spoken, and their settings.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::{
    PeerId,
    connection_limits::{self, ConnectionLimits},
    gossipsub::{
        self, CallbackSubscriptionFilter, DataTransform, MaxCountSubscriptionFilter, Message, MessageAuthenticity,
        MessageId, PeerScoreParams, PeerScoreThresholds, RawMessage, TopicHash, TopicScoreParams, ValidationMode,
    },
    identify,
    identity::Keypair,
    kad, mdns, ping, request_response,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use super::{
    Bounds, GossipConfig, Label, ReadLabel, StartError, exchange,
    gate::Gate,
    metered::{Metered, Unpacked},
    names::Names,
};

/// Below this score nothing of a peer is looked at any more, and it is sent away.
pub(super) const GRAYLIST: f64 = -80.0;

const HEARTBEAT: Duration = Duration::from_millis(700);

/// For how long the id of a message is remembered. The same content is judged once within it. Short enough that what was
/// dropped for lack of room can come again, long enough that nothing goes in circles.
const SEEN_FOR: Duration = Duration::from_secs(30);

/// Messages for one peer that wait to be sent, each way of urgency.
const QUEUE: usize = 128;

/// Topics of one peer that are remembered.
const TOPICS_PER_PEER: usize = 256;

/// Bytes around a message: author, signature, number and topic, and what may already stand behind it in the buffer, for
/// gossipsub counts that, too.
const ENVELOPE: usize = 64 << 10;

const ID: usize = 32;

/// Bytes of a label in front of a message: id and height.
const LABEL: usize = ID + 8;

pub(super) type Gossipsub = gossipsub::Behaviour<Labels, OwnTopics>;

/// All protocols of a node. The first two decide who may connect, before anything else is done for a connection.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    pub(super) gate: Gate,
    pub(super) limits: connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<kad::store::MemoryStore>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) gossipsub: Metered,
    pub(super) exchange: exchange::Behaviour,
}

impl Behaviour {
    /// To be made inside a runtime.
    pub(super) fn new(
        config: &GossipConfig,
        names: Names,
        keypair: &Keypair,
        read_label: Arc<ReadLabel>,
    ) -> Result<Self, StartError> {
        let setup = |error: &dyn std::fmt::Display| StartError::Setup(error.to_string());
        let GossipConfig { bounds, allow, deny, explicit_peers, .. } = config;
        let own = keypair.public().to_peer_id();
        let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), own));
        let unpacked = Unpacked::default();
        let mut gossipsub = gossipsub(bounds, names, keypair, read_label, unpacked.clone())?;
        for explicit in explicit_peers {
            gossipsub.add_explicit_peer(&explicit.peer);
        }
        let explicit: BTreeSet<PeerId> = explicit_peers.iter().map(|peer| peer.peer).collect();
        let gossipsub = Metered::new(gossipsub, unpacked, explicit.clone(), bounds);
        let exchange_config = request_response::Config::default()
            .with_request_timeout(bounds.request_deadline)
            .with_max_concurrent_streams(bounds.requests_in_flight.max(16));
        let blocks_by_height = names.blocks_by_height().map_err(|error| setup(&error))?;
        Ok(Self {
            gate: Gate::new(allow.clone(), deny.clone(), explicit, bounds.connections_per_ip),
            limits: connection_limits::Behaviour::new(connection_limits(bounds)),
            identify: identify::Behaviour::new(
                identify::Config::new(names.protocol_version(), keypair.public())
                    .with_agent_version(format!("downbeat/{}", env!("CARGO_PKG_VERSION")))
                    .with_push_listen_addr_updates(true)
                    .with_cache_size(0),
            ),
            ping: ping::Behaviour::default(),
            kad: kad(names.kad().map_err(|error| setup(&error))?, own),
            mdns: mdns.transpose().map_err(StartError::Mdns)?.into(),
            gossipsub,
            exchange: exchange::Behaviour::with_codec(
                exchange::Codec { response_bytes_max: bounds.response_bytes },
                [(blocks_by_height, request_response::ProtocolSupport::Full)],
                exchange_config,
            ),
        })
    }
}

/// Strangers may take two thirds of the places; the rest is for peers that this node chose itself.
fn connection_limits(bounds: &Bounds) -> ConnectionLimits {
    let total = bounds.connections;
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(total))
        .with_max_pending_outgoing(Some(total))
        .with_max_established(Some(total))
        .with_max_established_incoming(Some(total - total / 3))
        .with_max_established_per_peer(Some(bounds.connections_per_peer))
}

/// Only finds peers: records of others are neither stored nor handed on.
fn kad(protocol: libp2p::StreamProtocol, own: PeerId) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(protocol);
    config
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_query_timeout(Duration::from_secs(30));
    let mut kad = kad::Behaviour::with_config(own, kad::store::MemoryStore::new(own), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn gossipsub(
    bounds: &Bounds,
    names: Names,
    keypair: &Keypair,
    read_label: Arc<ReadLabel>,
    unpacked: Unpacked,
) -> Result<Gossipsub, StartError> {
    let setup = |error: &dyn std::fmt::Display| StartError::Setup(error.to_string());
    // What waits for its verdict must still be there when it comes.
    let heartbeats = bounds.verdict_deadline.as_millis() / HEARTBEAT.as_millis() + 3;
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(names.meshsub())
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(bounds.message_bytes.saturating_add(ENVELOPE))
        .max_publish_messages(32)
        .connection_handler_queue_len(QUEUE)
        .heartbeat_interval(HEARTBEAT)
        .heartbeat_initial_delay(HEARTBEAT)
        .history_length(usize::try_from(heartbeats).unwrap_or(usize::MAX))
        .history_gossip(3)
        .duplicate_cache_time(SEEN_FOR)
        .check_explicit_peers_ticks(10)
        .flood_publish(false)
        // A node that restarts may be sent what it published before; whoever sends that is not to blame.
        .allow_self_origin(true)
        .build()
        .map_err(|error| setup(&error))?;
    let labels = Labels { names, read_label, unpacked };
    let topics = own_topics(names);
    let mut gossipsub = gossipsub::Behaviour::new_with_subscription_filter_and_transform(
        MessageAuthenticity::Signed(keypair.clone()),
        config,
        topics,
        labels,
    )
    .map_err(|error| setup(&error))?;
    gossipsub.with_peer_score(score(bounds), thresholds()).map_err(|error| setup(&error))?;
    Ok(gossipsub)
}

/// Counters fade by this much each second, so that nothing is left after so many.
fn fading(seconds: u64) -> f64 {
    gossipsub::score_parameter_decay_with_base(Duration::from_secs(seconds), Duration::from_secs(1), 0.01)
}

fn score(bounds: &Bounds) -> PeerScoreParams {
    PeerScoreParams {
        topic_score_cap: 30.0,
        // Our own account of a peer ([`super::conduct`]) is in points of score.
        app_specific_weight: 1.0,
        // More connections from one address than this are refused anyway; dialled ones count here.
        ip_colocation_factor_weight: -5.0,
        ip_colocation_factor_threshold: f64::from(u32::try_from(bounds.connections_per_ip).unwrap_or(u32::MAX)),
        behaviour_penalty_weight: -5.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: fading(600),
        decay_interval: Duration::from_secs(1),
        decay_to_zero: 0.01,
        retain_score: bounds.ban,
        ..PeerScoreParams::default()
    }
}

/// What counts in each topic: being first with what is genuine, a little; what is not genuine, much. One such message
/// costs 10 points, two 40, three 90. How many messages a peer *should* have sent is not counted: a topic may be quiet.
pub(super) fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.5,
        first_message_deliveries_decay: fading(300),
        first_message_deliveries_cap: 20.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: fading(1_800),
        ..TopicScoreParams::default()
    }
}

fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -20.0,
        publish_threshold: -40.0,
        graylist_threshold: GRAYLIST,
        accept_px_threshold: 1_000.0,
        opportunistic_graft_threshold: 1.0,
    }
}

/// Content and its label travel together inside this node: the label stands in front. What has no label is refused before
/// it counts as seen, and whoever sent it loses score.
#[derive(Clone)]
pub(super) struct Labels {
    names: Names,
    read_label: Arc<ReadLabel>,
    unpacked: Unpacked,
}

impl DataTransform for Labels {
    fn inbound_transform(&self, raw: RawMessage) -> Result<Message, io::Error> {
        let refused = || io::Error::from(io::ErrorKind::InvalidData);
        let topic = self.names.parse(&raw.topic).ok_or_else(refused)?;
        let label = (self.read_label)(topic, &raw.data).ok_or_else(refused)?;
        self.unpacked.add(label.unpacked);
        let data = labelled(label, &raw.data);
        Ok(Message { source: raw.source, data, sequence_number: raw.sequence_number, topic: raw.topic })
    }

    fn outbound_transform(&self, _: &TopicHash, mut data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        data.drain(..LABEL.min(data.len()));
        Ok(data)
    }
}

/// What [`Labels`] makes of a message, and what is published.
pub(super) fn labelled(label: Label, bytes: &[u8]) -> Vec<u8> {
    [label.id.as_slice(), &label.height.to_be_bytes(), bytes].concat()
}

/// The height on the label, and the message without it.
pub(super) fn unlabelled(data: Vec<u8>) -> Option<(u64, Bytes)> {
    let mut data = Bytes::from(data);
    let height = data.get(ID..LABEL)?.try_into().ok()?;
    Some((u64::from_be_bytes(height), data.split_off(LABEL)))
}

fn message_id(message: &Message) -> MessageId {
    MessageId::new(message.data.get(..ID).unwrap_or_default())
}

/// Subscriptions of peers that are remembered: topics of this space, and not too many.
type OwnTopics = MaxCountSubscriptionFilter<CallbackSubscriptionFilter<Box<dyn FnMut(&TopicHash) -> bool + Send>>>;

fn own_topics(names: Names) -> OwnTopics {
    MaxCountSubscriptionFilter {
        filter: CallbackSubscriptionFilter(Box::new(move |topic| names.parse(topic).is_some())),
        max_subscribed_topics: TOPICS_PER_PEER,
        max_subscriptions_per_request: TOPICS_PER_PEER,
    }
}
