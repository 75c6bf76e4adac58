//! The attackers: nodes that speak the protocols of the network, and break their rules on purpose.

use std::{collections::HashMap, fmt, io, net::SocketAddr, ops::ControlFlow, str::FromStr, time::Duration};

use bytes::Bytes;
use clap::ValueEnum;
use downbeat::gossip::{PeerAddress, port::seal};
use downbeat_core::{
    BlockHash, Limits, RollupId, SequencerHeight,
    gossip::{Message, Space, Topic},
};
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder,
    futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, StreamExt as _},
    gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode},
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, request_response,
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use prost::Message as _;
use tokio::{net::TcpStream, time::sleep};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Messages of random bytes
    Malformed,
    /// Messages of 6 MB
    Oversized,
    /// Messages with a right head and another content
    Forged,
    /// One genuine message again and again
    Replayed,
    /// Small messages that unpack to 8 MB, about a height that is not here yet
    Bombs,
    /// Questions about blocks, as fast as they are answered
    Questions,
    /// Questions whose answers are not read
    Unread,
    /// Answers of garbage
    Garbage,
    /// No answers
    Silence,
    /// A thousand connections
    Connections,
    /// Always a new name
    Names,
}

/// The victim.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: PeerAddress,
    pub(crate) chain_id: String,
    pub(crate) rollup: RollupId,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.address, self.chain_id, hex::encode(self.rollup.0))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(',').collect();
        let [address, chain_id, rollup] = parts.as_slice() else { return Err("not three parts".to_owned()) };
        let mut id = [0; 32];
        hex::decode_to_slice(rollup, &mut id).map_err(|error| error.to_string())?;
        Ok(Self { address: address.parse()?, chain_id: (*chain_id).to_owned(), rollup: RollupId(id) })
    }
}

impl Target {
    fn space(&self) -> Space {
        Space::new(&self.chain_id, &[0; 32])
    }

    fn topics(&self) -> [Topic; 2] {
        [Topic::Blocks, Topic::Rollup(self.rollup)]
    }
}

/// Until the process is killed.
pub(crate) async fn run(attack: Attack, target: &Target, count: u32) {
    if attack == Attack::Connections {
        return connect(target).await;
    }
    let attackers = (0..count).map(|_| {
        let target = target.clone();
        tokio::spawn(async move {
            loop {
                let swarm = swarm(&target).expect("valid settings");
                Attacker::new(swarm, target.clone()).play(attack).await;
                sleep(Duration::from_millis(5)).await;
            }
        })
    });
    for attacker in attackers.collect::<Vec<_>>() {
        drop(attacker.await);
    }
}

/// A thousand connections at the same time; one that is closed is opened again.
async fn connect(target: &Target) {
    let mut parts = target.address.address.iter();
    let (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else {
        panic!("the victim listens on TCP")
    };
    let address = SocketAddr::from((ip, port));
    let connections = (0..1_000).map(|_| {
        tokio::spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    let mut nothing = [0; 256];
                    while matches!(tokio::io::AsyncReadExt::read(&mut stream, &mut nothing).await, Ok(1..)) {}
                }
                sleep(Duration::from_millis(100)).await;
            }
        })
    });
    for connection in connections.collect::<Vec<_>>() {
        drop(connection.await);
    }
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct Behaviour {
    identify: identify::Behaviour,
    gossipsub: gossipsub::Behaviour,
    exchange: request_response::Behaviour<Raw>,
}

fn swarm(target: &Target) -> Result<Swarm<Behaviour>, Box<dyn std::error::Error>> {
    let (keypair, space) = (Keypair::generate_ed25519(), target.space());
    // By its number, so that one content can be sent many times.
    let by_number =
        |message: &gossipsub::Message| MessageId::new(&message.sequence_number.unwrap_or_default().to_be_bytes());
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(space.protocol("meshsub"))
        .validation_mode(ValidationMode::Strict)
        .message_id_fn(by_number)
        .max_transmit_size(64 << 20)
        .connection_handler_queue_len(1_024)
        .flood_publish(true)
        .build()?;
    let mut gossipsub = gossipsub::Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), config)?;
    for topic in target.topics() {
        gossipsub.subscribe(&IdentTopic::new(topic.name(&space)))?;
    }
    let blocks = StreamProtocol::try_from_owned(space.protocol("blocks-by-height"))?;
    let behaviour = Behaviour {
        identify: identify::Behaviour::new(identify::Config::new(space.protocol("node"), keypair.public())),
        gossipsub,
        exchange: request_response::Behaviour::new(
            [(blocks, request_response::ProtocolSupport::Full)],
            request_response::Config::default().with_max_concurrent_streams(10_000),
        ),
    };
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| behaviour)?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(Duration::from_mins(10)))
        .build();
    Ok(swarm)
}

struct Attacker {
    swarm: Swarm<Behaviour>,
    target: Target,
    /// The last message that was heard in each topic.
    genuine: HashMap<Topic, (Bytes, Message)>,
    bomb: Vec<u8>,
    is_subscribed: bool,
    counter: u64,
    asked: usize,
}

impl Attacker {
    fn new(swarm: Swarm<Behaviour>, target: Target) -> Self {
        // Packed once; its head is made anew each time.
        let body = vec![0; 8 << 20].into();
        let empty = Message { topic: Topic::Blocks, height: SequencerHeight(1), block_hash: BlockHash([0; 32]), body };
        let bomb = seal(&empty);
        Self { swarm, target, genuine: HashMap::new(), bomb, is_subscribed: false, counter: 0, asked: 0 }
    }

    /// Under one name, until it is sent away.
    async fn play(mut self, attack: Attack) {
        let PeerAddress { peer, address } = self.target.address.clone();
        if self.swarm.dial(DialOpts::peer_id(peer).addresses(vec![address]).build()).is_err() {
            return;
        }
        loop {
            let next = tokio::time::timeout(Duration::from_millis(1), self.swarm.select_next_some()).await;
            if let Ok(event) = next
                && self.on_event(attack, event).is_break()
            {
                return;
            }
            while let Some(event) = self.swarm.select_next_some().now_or_never() {
                if self.on_event(attack, event).is_break() {
                    return;
                }
            }
            if self.is_subscribed && self.act(attack).await.is_break() {
                return;
            }
        }
    }

    fn on_event(&mut self, attack: Attack, event: SwarmEvent<BehaviourEvent>) -> ControlFlow<()> {
        use request_response::{Event, Message as Exchanged};
        match event {
            SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => {
                return ControlFlow::Break(());
            }
            SwarmEvent::ConnectionEstablished { .. } if attack == Attack::Names => return ControlFlow::Break(()),
            SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(gossipsub::Event::Subscribed { .. })) => {
                self.is_subscribed = true;
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(gossipsub::Event::Message { message, .. })) => {
                let topic = Topic::parse(message.topic.as_str(), &self.target.space());
                let opened = topic.and_then(|topic| Message::open(topic, &message.data, &Limits::default()).ok());
                if let Some(opened) = opened {
                    self.genuine.insert(opened.topic, (message.data.into(), opened));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Exchange(Event::Message { message, .. })) => match message {
                Exchanged::Request { channel, .. } if attack == Attack::Garbage => {
                    drop(self.swarm.behaviour_mut().exchange.send_response(channel, vec![0xff; 1 << 20]));
                }
                // Kept open, without an answer.
                Exchanged::Request { channel, .. } => std::mem::forget(channel),
                Exchanged::Response { .. } => self.asked = self.asked.saturating_sub(1),
            },
            SwarmEvent::Behaviour(BehaviourEvent::Exchange(Event::OutboundFailure { .. })) => {
                self.asked = self.asked.saturating_sub(1);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    async fn act(&mut self, attack: Attack) -> ControlFlow<()> {
        const AT_ONCE: usize = 32;
        let newest = self.genuine.get(&Topic::Blocks).map(|(_, message)| message.height.0);
        match attack {
            Attack::Malformed => {
                self.send(AT_ONCE, |_, counter| Some((Topic::Blocks, counter.to_be_bytes().repeat(32))));
            }
            Attack::Oversized => {
                self.send(1, |_, counter| Some((Topic::Blocks, vec![counter.to_le_bytes()[0]; 6 << 20])));
                // What comes after it on this connection would not be read.
                return if self.counter > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
            Attack::Forged => self.send(AT_ONCE, |attacker, counter| {
                let topic = attacker.target.topics()[usize::from(counter % 2 == 0)];
                let (_, message) = attacker.genuine.get(&topic)?;
                let mut forged = message.clone();
                let mut body = message.body.to_vec();
                let at = usize::try_from(counter.wrapping_mul(7_919)).unwrap_or_default() % body.len().max(1);
                *body.get_mut(at)? ^= 1;
                forged.body = body.into();
                forged.height = SequencerHeight(message.height.0 + counter % 8);
                Some((topic, seal(&forged)))
            }),
            Attack::Replayed => self.send(AT_ONCE, |attacker, _| {
                let (bytes, message) = attacker.genuine.get(&Topic::Rollup(attacker.target.rollup))?;
                Some((message.topic, bytes.to_vec()))
            }),
            Attack::Bombs => self.send(AT_ONCE, |attacker, counter| {
                Some((Topic::Rollup(attacker.target.rollup), attacker.bomb_at(newest? + 70, counter)))
            }),
            Attack::Questions => self.ask(256, newest),
            Attack::Unread => {
                self.ask(512, newest);
                if self.asked > 0 {
                    // The questions go out, and then nothing is read any more.
                    let _ = tokio::time::timeout(Duration::from_millis(20), async {
                        loop {
                            self.swarm.select_next_some().await;
                        }
                    })
                    .await;
                    sleep(Duration::from_secs(4)).await;
                }
            }
            Attack::Garbage | Attack::Silence | Attack::Connections | Attack::Names => {}
        }
        ControlFlow::Continue(())
    }

    fn bomb_at(&self, height: u64, counter: u64) -> Vec<u8> {
        let mut bomb = self.bomb.clone();
        bomb[1..9].copy_from_slice(&height.to_be_bytes());
        bomb[9..17].copy_from_slice(&counter.to_be_bytes());
        bomb
    }

    fn send(&mut self, count: usize, make: impl Fn(&Self, u64) -> Option<(Topic, Vec<u8>)>) {
        for _ in 0..count {
            self.counter += 1;
            let Some((topic, bytes)) = make(self, self.counter) else { return };
            let name = IdentTopic::new(topic.name(&self.target.space()));
            if self.swarm.behaviour_mut().gossipsub.publish(name, bytes).is_err() {
                return;
            }
        }
    }

    fn ask(&mut self, at_once: usize, newest: Option<u64>) {
        let Some(newest) = newest else { return };
        let peer = self.target.address.peer;
        let topics = self.target.topics().map(|topic| topic.name(&self.target.space()));
        while self.asked < at_once {
            self.asked += 1;
            let request = Request { height: newest - self.counter % 3, topics: topics.to_vec() };
            self.counter += 1;
            self.swarm.behaviour_mut().exchange.send_request(&peer, request.encode_to_vec());
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(uint64, tag = "1")]
    height: u64,
    #[prost(string, repeated, tag = "2")]
    topics: Vec<String>,
}

/// Bytes behind their length, whatever they are.
#[derive(Clone, Debug, Default)]
struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &bytes).await
    }
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let mut bytes = Vec::new();
    io.take(u64::from(u32::from_be_bytes(length))).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_: std::num::TryFromIntError| io::ErrorKind::InvalidInput)?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(bytes).await?;
    io.close().await
}
