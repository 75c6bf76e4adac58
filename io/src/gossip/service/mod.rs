//! The network's thread: one task that owns the swarm and takes events, wishes and time in turn.

mod neighbours;
mod questions;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use downbeat_core::gossip::Space;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, Transport as _,
    core::upgrade,
    futures::StreamExt as _,
    gossipsub::{self, MessageAcceptance, MessageId, PublishError},
    identify,
    identity::Keypair,
    mdns,
    multiaddr::Protocol,
    noise, ping, quic, request_response,
    swarm::SwarmEvent,
    tcp, yamux,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tracing::{debug, info, warn};

use super::{
    Acceptance, ClassCounters, Command, FetchError, Fetched, GossipConfig, GossipCounters, GossipPeer, Options,
    PeerAddress, PeerClass, ReadLabel, Received, StartError, Topic,
    answering::Answering,
    asking::Asking,
    behaviour::{self, Behaviour, BehaviourEvent, labelled, unlabelled},
    conduct::{Conduct, Offence},
    dialing::Backoff,
    history::History,
    metered,
    names::Names,
    peers::PeerStore,
    port,
    rate::Buckets,
    traffic::Traffic,
    undecided::{Full, Inbox, Undecided},
};

const TICK: Duration = Duration::from_secs(1);
const SAVE_PERIOD: Duration = Duration::from_secs(30);

/// A connection on which nothing is spoken is closed after this time.
const IDLE: Duration = Duration::from_mins(2);

/// Streams that one connection may have open.
const STREAMS: usize = 128;

/// The ends of the channels that belong to the network.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) wishes: mpsc::Receiver<Command>,
    pub(super) inbound: mpsc::Sender<Received>,
    pub(super) addresses: watch::Sender<Vec<Multiaddr>>,
    pub(super) counters: watch::Sender<GossipCounters>,
}

/// A connected peer.
#[derive(Debug)]
struct Peer {
    number: GossipPeer,
    connections: usize,
    address: Multiaddr,
    is_inbound: bool,
    class: PeerClass,
    since: Instant,
    agent: Option<String>,
    is_of_our_space: bool,
    latency: Option<Duration>,
    topics: BTreeSet<Topic>,
}

/// A question on its way.
#[derive(Debug)]
struct Question {
    height: u64,
    topics: Vec<Topic>,
    answer: oneshot::Sender<Result<Fetched, FetchError>>,
}

struct Service {
    swarm: Swarm<Behaviour>,
    outside: Outside,
    config: GossipConfig,
    names: Names,
    space: Space,
    read_label: Arc<ReadLabel>,
    inbox: Inbox,
    history: History,
    asking: Asking,
    questions: HashMap<request_response::OutboundRequestId, (PeerClass, Question)>,
    conduct: Conduct,
    /// For questions of others.
    rate: Buckets,
    answering: Answering,
    peers: HashMap<PeerId, Peer>,
    /// Who has which number; also some that are gone.
    numbers: BTreeMap<GossipPeer, PeerId>,
    next_number: u64,
    store: PeerStore,
    saved_at: Instant,
    backoff: Backoff,
    /// Names that are looked up.
    lookups: JoinSet<PeerAddresses>,
    listening: BTreeSet<Multiaddr>,
    followed: BTreeSet<Topic>,
    counters: GossipCounters,
    traffic: Traffic,
}

type PeerAddresses = (PeerId, Vec<Multiaddr>);

/// Begins the thread, and waits until the network listens or cannot.
pub(super) fn spawn(options: Options, keypair: Keypair, outside: Outside) -> Result<(), StartError> {
    let (sender, started) = std_mpsc::sync_channel(1);
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(sender.send(Err(StartError::Setup(error.to_string())))),
        };
        runtime.block_on(async {
            match Service::new(options, keypair, outside) {
                Ok(service) => {
                    drop(sender.send(Ok(())));
                    Box::pin(service.run()).await;
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        });
    };
    let spawned = std::thread::Builder::new().name("downbeat-gossip".to_owned()).spawn(body);
    spawned.map_err(|error| StartError::Setup(error.to_string()))?;
    started.recv().unwrap_or_else(|_| Err(StartError::Setup("its thread ended".to_owned())))
}

impl Service {
    fn new(options: Options, keypair: Keypair, outside: Outside) -> Result<Self, StartError> {
        let Options { config, space, directory, read_label } = options;
        let names = Names(space);
        let traffic = Traffic::default();
        let swarm = swarm(&config, names, keypair, &read_label, &traffic)?;
        let store = store(directory.map(|directory| directory.join("peers.json")), space)?;
        let bounds = &config.bounds;
        let mut service = Self {
            inbox: Inbox::new(bounds),
            history: History::new(bounds.history, bounds.history_bytes),
            asking: Asking::default(),
            questions: HashMap::new(),
            conduct: Conduct::default(),
            rate: Buckets::new(bounds.requests_per_second, bounds.requests_per_second.saturating_mul(4)),
            answering: Answering::new(bounds),
            peers: HashMap::new(),
            numbers: BTreeMap::new(),
            next_number: 0,
            store,
            saved_at: Instant::now(),
            backoff: Backoff::default(),
            lookups: JoinSet::new(),
            listening: BTreeSet::new(),
            followed: BTreeSet::new(),
            counters: GossipCounters::default(),
            traffic,
            swarm,
            outside,
            config,
            names,
            space,
            read_label,
        };
        for address in service.config.listen.clone() {
            let listened = is_free(&address)
                .map_err(|error| error.to_string())
                .and_then(|()| service.swarm.listen_on(address.clone()).map_err(|error| error.to_string()));
            listened.map_err(|problem| StartError::Listen { address, problem })?;
        }
        for address in service.config.external_addresses.clone() {
            service.swarm.add_external_address(address);
        }
        info!("gossip in space {} as peer {}", service.space, service.swarm.local_peer_id());
        Ok(service)
    }

    /// Until nobody has wishes any more.
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                wish = self.outside.wishes.recv() => match wish {
                    Some(Command::End { ended }) => {
                        self.save();
                        // An error means that nobody waits any more.
                        ended.send(()).ok();
                        return;
                    }
                    Some(wish) => self.on_wish(wish),
                    None => break,
                },
                Some(found) = self.lookups.join_next(), if !self.lookups.is_empty() => {
                    if let Ok((peer, addresses)) = found {
                        self.dial_at(peer, addresses);
                    }
                }
                _ = tick.tick() => self.on_tick(),
            }
            self.counters.connections_refused = self.swarm.behaviour().gate.refused;
            self.counters.bytes_sent = self.traffic.sent();
            self.counters.bytes_received = self.traffic.received();
            let counters = self.counters;
            self.outside.counters.send_if_modified(|shown| {
                let is_new = *shown != counters;
                *shown = counters;
                is_new
            });
        }
        self.save();
    }

    fn on_wish(&mut self, wish: Command) {
        match wish {
            Command::Judge { handle, acceptance } => {
                if let Some(undecided) = self.inbox.take(handle) {
                    self.judge(undecided, acceptance);
                }
            }
            Command::Publish { topic, height, bytes } => self.publish(topic, height, bytes),
            Command::PublishMessage(message) => {
                self.publish(message.topic, message.height.0, port::seal(&message).into());
            }
            Command::KeepMessage(message) => {
                self.history.keep(message.height.0, message.topic, port::seal(&message).into());
            }
            Command::Follow { topics } => topics.into_iter().for_each(|topic| self.follow(topic)),
            Command::Fetch { height, topics, answer } => self.ask(Question { height, topics, answer }),
            Command::Penalize { peer } => {
                if let Some(peer) = self.numbers.get(&peer).copied() {
                    self.asking.was_garbage(&peer);
                    self.blame(peer, Offence::Garbage);
                }
            }
            // Who asked may be gone.
            Command::Peers { answer } => drop(answer.send(self.peer_infos())),
            Command::Dial(PeerAddress { peer, address }) => self.dial(peer, vec![address]),
            // Taken where the loop ends.
            Command::End { ended } => drop(ended),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(metered::Event::Gossipsub(event))) => {
                self.on_gossipsub(event);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(metered::Event::Flood { peer, messages })) => {
                let count = u64::try_from(messages).unwrap_or(u64::MAX);
                self.counters.overflowed += count;
                self.of_class(&peer).overflowed += count;
                self.blame(peer, Offence::Flood(messages));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Exchange(event)) => self.on_exchange(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.identified(peer_id, info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, result: Ok(latency), .. })) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.latency = Some(latency);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found {
                    self.dial(peer, vec![without_peer(address)]);
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => self.connected(peer_id, &endpoint),
            SwarmEvent::ConnectionClosed { peer_id, .. } => self.disconnected(&peer_id),
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.counters.dials_failed += 1;
                debug!("peer {peer} cannot be reached: {error}");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                info!("gossip listens on {address}");
                self.listening.insert(address);
                self.outside.addresses.send_replace(self.listening.iter().cloned().collect());
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.remove(&address);
                self.outside.addresses.send_replace(self.listening.iter().cloned().collect());
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                warn!("gossip no longer listens on {addresses:?}: {error}");
            }
            _ => {}
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        for undecided in self.inbox.take_expired(now) {
            self.counters.expired += 1;
            self.report(&undecided.id, &undecided.peer, MessageAcceptance::Ignore);
        }
        for (peer, penalty) in self.conduct.decay() {
            self.swarm.behaviour_mut().gossipsub.set_application_score(&peer, -penalty);
        }
        self.send_away();
        self.look_for_peers(now);
        if now >= self.saved_at + SAVE_PERIOD {
            self.saved_at = now;
            self.save();
        }
    }

    fn on_gossipsub(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.received(propagation_source, &message_id, message);
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                if let Some((peer, topic)) = self.peers.get_mut(&peer_id).zip(self.names.parse(&topic)) {
                    peer.topics.insert(topic);
                }
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                if let Some((peer, topic)) = self.peers.get_mut(&peer_id).zip(self.names.parse(&topic)) {
                    peer.topics.remove(&topic);
                }
            }
            gossipsub::Event::GossipsubNotSupported { .. } | gossipsub::Event::SlowPeer { .. } => {}
        }
    }

    fn received(&mut self, peer: PeerId, id: &MessageId, message: gossipsub::Message) {
        self.counters.received += 1;
        let topic = self.names.parse(&message.topic);
        let from = self.peers.get(&peer).map(|peer| (peer.number, peer.class));
        let (Some(topic), Some((from, class)), Some((height, bytes))) = (topic, from, unlabelled(message.data)) else {
            return self.report(id, &peer, MessageAcceptance::Ignore);
        };
        let undecided = Undecided { id: id.clone(), peer, class, topic, height, bytes: bytes.clone() };
        match self.inbox.add(undecided, Instant::now()) {
            Ok(handle) => {
                let received = Received { handle, peer: from, topic, bytes };
                if self.outside.inbound.try_send(received).is_err() {
                    self.counters.overflowed += 1;
                    self.inbox.take(handle);
                    self.report(id, &peer, MessageAcceptance::Ignore);
                }
            }
            Err(full) => {
                self.counters.overflowed += 1;
                self.of_class(&peer).overflowed += 1;
                self.report(id, &peer, MessageAcceptance::Ignore);
                // Who fills what everybody shares cannot be told.
                if full == Full::Peer {
                    self.blame(peer, Offence::Flood(1));
                }
            }
        }
    }

    fn judge(&mut self, undecided: Undecided, acceptance: Acceptance) {
        let Undecided { id, peer, class, topic, height, bytes } = undecided;
        let counts = self.counters.classes.of_mut(class);
        let acceptance = match acceptance {
            Acceptance::Accept => {
                self.counters.accepted += 1;
                counts.accepted += 1;
                self.history.keep(height, topic, bytes);
                MessageAcceptance::Accept
            }
            Acceptance::Ignore => {
                self.counters.ignored += 1;
                counts.ignored += 1;
                MessageAcceptance::Ignore
            }
            Acceptance::Reject => {
                self.counters.rejected += 1;
                counts.rejected += 1;
                MessageAcceptance::Reject
            }
        };
        self.report(&id, &peer, acceptance);
    }

    /// What is counted of peers like this one.
    fn of_class(&mut self, peer: &PeerId) -> &mut ClassCounters {
        let class = self.peers.get(peer).map_or(PeerClass::Inbound, |peer| peer.class);
        self.counters.classes.of_mut(class)
    }

    fn report(&mut self, id: &MessageId, peer: &PeerId, acceptance: MessageAcceptance) {
        self.swarm.behaviour_mut().gossipsub.report_message_validation_result(id, peer, acceptance);
    }

    fn publish(&mut self, topic: Topic, height: u64, bytes: Bytes) {
        let Some(label) = (self.read_label)(topic, &bytes).filter(|label| label.height == height) else {
            return warn!("a message about height {height} is not published: it cannot be read here");
        };
        let data = labelled(label, &bytes);
        self.history.keep(height, topic, bytes);
        self.counters.published += 1;
        let name = self.names.topic(topic);
        match self.swarm.behaviour_mut().gossipsub.publish(name, data) {
            Ok(_) | Err(PublishError::Duplicate | PublishError::NoPeersSubscribedToTopic) => {}
            Err(error) => debug!("height {height} was not published: {error}"),
        }
    }

    fn follow(&mut self, topic: Topic) {
        if !self.followed.insert(topic) {
            return;
        }
        let name = self.names.topic(topic);
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        if let Err(error) = gossipsub.set_topic_params(name.clone(), behaviour::topic_score()) {
            warn!("peers have no score in topic {name}: {error}");
        }
        if let Err(error) = gossipsub.subscribe(&name) {
            warn!("topic {name} cannot be followed: {error}");
        }
    }
}

pub(super) fn swarm(
    config: &GossipConfig,
    names: Names,
    keypair: Keypair,
    read_label: &Arc<ReadLabel>,
    traffic: &Traffic,
) -> Result<Swarm<Behaviour>, StartError> {
    let setup = |error: &dyn std::fmt::Display| StartError::Setup(error.to_string());
    let behaviour = Behaviour::new(config, names, &keypair, Arc::clone(read_label))?;
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(STREAMS);
    let mut quic = quic::Config::new(&keypair);
    quic.max_concurrent_stream_limit = u32::try_from(STREAMS).unwrap_or(u32::MAX);
    let (of_tcp, of_quic) = (traffic.clone(), traffic.clone());
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |socket, _| of_tcp.count(socket))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise::Config::new(&keypair).map_err(|error| setup(&error))?)
        .multiplex(muxer);
    let quic = quic::tokio::Transport::new(quic).map(move |(peer, connection), _| (peer, of_quic.count(connection)));
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|_| tcp)
        .map_err(|error| setup(&error))?
        .with_other_transport(|_| quic)
        .map_err(|error| setup(&error))?
        .with_behaviour(|_| behaviour)
        .map_err(|error| setup(&error))?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE))
        .build();
    Ok(swarm)
}

fn store(path: Option<PathBuf>, space: Space) -> Result<PeerStore, StartError> {
    match path {
        Some(path) => PeerStore::open(&path, &space.to_string()).map_err(|error| StartError::Peers { path, error }),
        None => Ok(PeerStore::in_memory()),
    }
}

/// libp2p shares a TCP port with whoever of the same user listens there already: two nodes would each get half of the
/// connections.
fn is_free(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback() || ip.is_unspecified(),
        _ => false,
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
