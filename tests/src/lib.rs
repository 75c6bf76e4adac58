//! The stage for stories: the model world on loopback sockets, conductors that follow it through the real adapters, and
//! an exact comparison of what the rollup nodes were made to do with the chains of the model.
//!
//! A stage's sequencer makes blocks up to a given one and then rests until it is told to go on: a story knows the exact
//! numbers at each of its turns, however busy the machine is. Rollup block `n` comes from sequencer height `n + 2`:
//! whoever mixes heights up is caught.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use downbeat::{
    config::Config,
    connector::{Network, TcpConnector},
    driver::{DriverError, Handle, Snapshot, Workers},
    gossip::{Gossip, PeerAddress},
    journal::{Header, Reader, Replay, Stepped, Writer},
    node,
    status_line::StatusLine,
    store::Store,
};
use downbeat_core::{
    RollupId, RollupNumber, SequencerHeight, Timestamp,
    cell::Mode,
    command::Exit,
    light::RootSetting,
    wire::proto::astria::sequencerblock::v1::{RollupData, rollup_data::Value},
};
use downbeat_sim::{
    Violation,
    oracle::{self, Published},
};
use downbeat_world::{
    RollupNode, World, WorldConfig,
    rollup::{Call, SessionEnd, SessionPlan},
    serve::{Devnet, DevnetConfig, DevnetHandle, Hooks, Shared},
};
use tokio::task::JoinHandle;

pub mod fuzz;
pub mod latency;

/// No wait of a story lasts longer. Far above what is needed on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Sequencer height of rollup block 0.
pub const OFFSET: u64 = 2;

/// All modes.
pub const MODES: [Mode; 3] = [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm];

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// Everything that polls or waits does so fast enough for a world of this pace.
const SETTINGS: [(&str, &str); 9] = [
    ("limits.sequencer_poll", "10ms"),
    ("limits.celestia_poll", "10ms"),
    ("limits.celestia_poll_min", "10ms"),
    ("limits.backoff_first", "5ms"),
    ("limits.backoff_last", "50ms"),
    ("limits.session_delay_first", "10ms"),
    ("limits.session_delay_last", "100ms"),
    ("limits.fetch_deadline", "5s"),
    ("limits.execution_deadline", "5s"),
];

/// A quick world: a sequencer block every 20 ms, on Celestia about 100 ms later.
pub fn world() -> WorldConfig {
    let mut world = WorldConfig {
        seed: 1,
        block_time: Duration::from_millis(20),
        celestia_block_time: Duration::from_millis(50),
        da_delay: Duration::from_millis(60),
        ..WorldConfig::default()
    };
    world.session.sequencer_start = SequencerHeight(OFFSET + 1);
    world.session.look_ahead = 10_000;
    world
}

/// A world on sockets.
#[derive(Debug)]
pub struct Stage {
    pub net: DevnetHandle,
    /// Number of the last rollup block that the sequencer makes. Changed only with the world locked.
    last: Arc<AtomicU64>,
    settings: Vec<(String, String)>,
    clock: JoinHandle<()>,
}

impl Stage {
    /// A world whose sequencer rests after the height of rollup block `last`.
    pub async fn open(world: WorldConfig, last: u64) -> Self {
        Self::open_with(world, last, |_| {}).await
    }

    /// As [`open`](Self::open); `before_celestia` may change the world before each of Celestia's blocks.
    pub async fn open_with(
        world: WorldConfig,
        last: u64,
        before_celestia: impl FnMut(&mut World) + Send + 'static,
    ) -> Self {
        Self::open_replicated(world, last, 0, before_celestia).await
    }

    /// As [`open_with`](Self::open_with), with so many further nodes of each rollup, which [`peer`](Self::peer)s drive.
    pub async fn open_replicated(
        world: WorldConfig,
        last: u64,
        replicas: usize,
        before_celestia: impl FnMut(&mut World) + Send + 'static,
    ) -> Self {
        let config = DevnetConfig { world, replicas, clock: false, ..DevnetConfig::default() };
        let net = Devnet::start(config).await.expect("loopback addresses can be bound");
        let last = Arc::new(AtomicU64::new(last));
        let clock = tokio::spawn(run_clock(net.world.clone(), last.clone(), before_celestia));
        let settings = SETTINGS.map(|(path, value)| (path.to_owned(), value.to_owned())).into();
        Self { net, last, settings, clock }
    }

    /// Lets the sequencer go on up to the height of rollup block `last`.
    pub fn go_on_to(&self, last: u64) {
        self.with(|world| {
            self.last.store(last, Ordering::SeqCst);
            world.sequencer_stalled = world.sequencer.head().0 >= last + OFFSET;
        });
    }

    /// A setting of every conductor from now on.
    pub fn set(&mut self, path: &str, value: &str) {
        self.settings.push((path.to_owned(), value.to_owned()));
    }

    /// Cuts each node's endless session into sessions of these lengths, after which the chain is halted.
    pub fn limit_sessions(&self, mode: Mode, lengths: &[u64]) {
        self.net.world.with(|world| {
            for node in world.rollups.values_mut() {
                let config = node.config_mut();
                let Some(endless) = config.sessions.first().cloned() else { continue };
                let mut next = endless.rollup_start;
                config.sessions = lengths.iter().map(|length| plan(&endless, &mut next, *length)).collect();
                config.session_end = if mode.follows_firm() { SessionEnd::Firm } else { SessionEnd::Soft };
            }
        });
    }

    /// Starts a conductor for all rollups.
    pub fn conductor(&self, mode: Mode) -> Conductor {
        self.start(&self.net.urls.executions, mode, &self.servers(), |_| {})
    }

    /// The same for the nodes of a replica.
    pub fn follower(&self, replica: usize, mode: Mode, settings: &[(&str, String)]) -> Conductor {
        self.start(&self.net.urls.replicas[replica], mode, &[&self.servers(), settings].concat(), |_| {})
    }

    fn servers(&self) -> [(&'static str, String); 2] {
        let urls = &self.net.urls;
        [("sequencer.grpc_url", urls.sequencer_grpc.clone()), ("sequencer.cometbft_url", urls.cometbft.clone())]
    }

    /// Starts a conductor for the nodes of a replica, which knows no sequencer: blocks come from the peers that
    /// `settings` name, and trust begins with the genesis.
    pub fn peer(&self, replica: usize, mode: Mode, settings: &[(&str, String)]) -> Conductor {
        const NOWHERE: &str = "http://127.0.0.1:1";
        let alone = [
            ("sequencer.grpc_url", NOWHERE.to_owned()),
            ("sequencer.cometbft_url", NOWHERE.to_owned()),
            ("gossip.enabled", "true".to_owned()),
            ("gossip.sole_source", "true".to_owned()),
        ];
        let genesis = self.with(|world| world.sequencer.genesis());
        self.start(&self.net.urls.replicas[replica], mode, &[&alone, settings].concat(), |config| {
            config.limits.trust.root = RootSetting::Genesis(Box::new(genesis));
        })
    }

    fn start(
        &self,
        executions: &[String],
        mode: Mode,
        others: &[(&str, String)],
        change: impl FnOnce(&mut Config),
    ) -> Conductor {
        static LIVES: AtomicU8 = AtomicU8::new(0);
        let mut settings = vec![("celestia.url".to_owned(), self.net.urls.celestia.clone())];
        for (index, url) in executions.iter().enumerate() {
            settings.push((format!("cell.{index}.execution_url"), url.clone()));
            settings.push((format!("cell.{index}.mode"), format!("{mode:?}")));
        }
        settings.extend(others.iter().map(|(path, value)| ((*path).to_owned(), value.clone())));
        settings.extend(self.settings.clone());
        let mut config = Config::load(None, [], &settings).expect("the settings of a story are valid");
        change(&mut config);
        let seed = [LIVES.fetch_add(1, Ordering::Relaxed); 32];
        let network = Network::plain(TcpConnector);
        // Closed again at once: the driver opens it.
        let kept = config.data_dir.as_deref().map(|directory| Store::open(directory).expect("a free data directory"));
        let records = kept.map(|store| node::records(&store).expect("sound records")).unwrap_or_default();
        let (mut driver, handle) =
            node::build(&config, &network, seed, Workers::Threads).expect("endpoints of a story");
        let limits = node::limits(&config).expect("built with them");
        let header = Header::new(&limits, seed, Timestamp::ZERO).with_records(&records);
        let journal = Arc::new(Mutex::new(Writer::new(Vec::new(), &header).expect("memory")));
        driver.record_to(Arc::clone(&journal));
        Conductor { world: self.net.world.clone(), handle, journal, driving: tokio::spawn(driver.run()) }
    }

    /// The nodes of a replica have the same blocks as the sequencer made, up to this number at least.
    #[track_caller]
    pub fn assert_replica(&self, replica: usize, soft: u64) {
        self.with(|world| {
            for (id, node) in &self.net.replicas[replica] {
                let node = node.with(|node| node.clone());
                assert!(node.soft().0 >= soft, "replica {replica} of rollup {id} is at {}", node.soft());
                for number in 1..=node.soft().0 {
                    assert_is_the_sequencers(world, &node, *id, number);
                }
                let executed = executed(&node);
                assert_eq!(executed, (1..=node.soft().0).collect::<Vec<_>>(), "each block once, in order");
            }
        });
    }

    pub fn with<R>(&self, look: impl FnOnce(&mut World) -> R) -> R {
        self.net.world.with(look)
    }

    /// The first rollup's node.
    pub fn node<R>(&self, look: impl FnOnce(&mut RollupNode) -> R) -> R {
        self.with(|world| look(node(world, 0)))
    }

    /// Hooks of the first rollup's node.
    pub fn execution(&self) -> &Hooks {
        &self.net.hooks.executions[0]
    }

    /// Everything the first rollup's node did.
    pub fn trace(&self) -> Vec<Call> {
        self.node(|node| node.trace().cloned().collect())
    }

    /// Numbers of the blocks that the first rollup's node executed, in order.
    pub fn executed(&self) -> Vec<u64> {
        self.with(|world| executed(node(world, 0)))
    }

    /// Sessions that the first rollup's node opened.
    pub fn sessions(&self) -> usize {
        self.node(|node| node.trace().filter(|call| matches!(call, Call::Opened(Ok(_)))).count())
    }

    /// Every rollup has exactly the sequencer's blocks, up to these numbers, and nothing that any of them was asked for
    /// was wrong.
    #[track_caller]
    pub fn assert_chain(&self, soft: u64, firm: u64) {
        if let Err(violation) = self.judge() {
            panic!("{}: {}", violation.invariant, violation.detail);
        }
        self.with(|world| {
            for (index, id) in world.node_ids().iter().enumerate() {
                let node = &world.rollups[id];
                assert_eq!((node.soft().0, node.firm().0), (soft, firm), "soft and firm of rollup {index}");
                let numbers: Vec<u64> = node.blocks().map(|block| block.metadata.number).collect();
                assert_eq!(numbers, (0..=soft).collect::<Vec<_>>(), "committed blocks of rollup {index}");
                for number in 1..=soft {
                    assert_is_the_sequencers(world, node, *id, number);
                }
            }
        });
    }

    /// As [`assert_chain`](Self::assert_chain) for all blocks of the stage; and each was executed exactly once, in order.
    #[track_caller]
    pub fn assert_each_block_executed_once(&self, soft: u64, firm: u64) {
        self.assert_chain(soft, firm);
        self.with(|world| {
            for id in world.node_ids() {
                let executed = executed(&world.rollups[id]);
                assert_eq!(executed, (1..=soft).collect::<Vec<_>>(), "blocks executed by rollup {id}");
            }
        });
    }

    /// Each block that was executed was executed once, and all but the last one were committed.
    #[track_caller]
    pub fn assert_all_but_the_last_were_committed(&self) {
        let (soft, firm) = self.node(|node| (node.soft().0, node.firm().0));
        self.assert_chain(soft, firm);
        assert_eq!(self.executed(), (1..=soft + 1).collect::<Vec<_>>());
    }

    /// The oracle's word on every rollup.
    ///
    /// # Errors
    /// The first violation.
    pub fn judge(&self) -> Result<(), Violation> {
        self.with(|world| {
            let published = Published::read(world);
            world.node_ids().iter().try_for_each(|id| oracle::judge(world, &published, *id))
        })
    }

    /// Number of the last rollup block of the stage.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Waits for a condition on the world, whatever conductors do.
    pub async fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        until(what, || self.with(|world| condition(world)), || self.with(|world| heads(world))).await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

/// A conductor at work.
#[derive(Debug)]
pub struct Conductor {
    world: Shared<World>,
    handle: Handle,
    journal: Arc<Mutex<Writer<Vec<u8>>>>,
    driving: JoinHandle<Result<Exit, DriverError>>,
}

impl Conductor {
    /// Waits for a condition on the world while the conductor works.
    pub async fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        let met = || {
            let met = self.world.with(|world| condition(world));
            assert!(met || !self.driving.is_finished(), "the conductor ended before {what}: {}", self.describe());
            met
        };
        until(what, met, || self.describe()).await;
    }

    /// Waits until every rollup has these heads at least.
    pub async fn reaches(&self, soft: u64, firm: u64) {
        let there = |node: &RollupNode| node.soft().0 >= soft && node.firm().0 >= firm;
        self.until(&format!("soft {soft}, firm {firm}"), |world| world.rollups.values().all(there)).await;
    }

    /// Waits for a condition on what the conductor shows of itself.
    pub async fn until_shown(&self, what: &str, condition: impl Fn(&Snapshot) -> bool) {
        until(what, || self.handle.snapshot().is_some_and(|snapshot| condition(&snapshot)), || self.describe()).await;
    }

    /// The newest snapshot.
    pub async fn snapshot(&self) -> Snapshot {
        let mut snapshots = self.handle.snapshots();
        let newest = in_time("the first snapshot", snapshots.wait_for(Option::is_some)).await;
        let newest = newest.expect("the driver shows itself before it ends").clone();
        newest.map(|snapshot| Snapshot::clone(&snapshot)).expect("waited for")
    }

    /// Its network of peers.
    ///
    /// # Panics
    /// If it has none.
    pub fn gossip(&self) -> &Gossip {
        self.handle.gossip().expect("the story switched gossip on")
    }

    /// Where others reach it, once it listens.
    pub async fn address(&self) -> PeerAddress {
        let mut addresses = self.gossip().addresses();
        let addresses = in_time("to listen", addresses.wait_for(|addresses| !addresses.is_empty())).await;
        let address = addresses.expect("the network runs").first().cloned().expect("waited for");
        PeerAddress { peer: self.gossip().peer_id(), address }
    }

    /// Asks the conductor to stop, and waits until it has.
    pub async fn stop(self) {
        self.handle.stop();
        assert_eq!(self.exit().await, Exit::Stopped);
    }

    /// Drops the driver wherever it is, without a word to anybody.
    pub async fn kill(self) {
        self.driving.abort();
        // Cancelled, or ended before that; either way it is gone now.
        drop(self.driving.await);
        // It may be gone before its first event.
        let _ = assert_replays(&self.journal);
    }

    /// Waits until the conductor has ended of its own accord.
    pub async fn exit(mut self) -> Exit {
        let ended = tokio::time::timeout(PATIENCE, &mut self.driving).await;
        let ended = ended.unwrap_or_else(|_| panic!("the conductor did not end: {}", self.describe()));
        let exit = ended.expect("the driver does not panic").expect("the driver has no defect");
        assert!(assert_replays(&self.journal) > 0, "nothing was recorded");
        exit
    }

    /// Waits until the conductor has ended because nothing is left to do, and tells its reason.
    pub async fn parked(self) -> String {
        match self.exit().await {
            Exit::AllCellsParked { reason } => reason,
            Exit::Stopped => panic!("nobody asked it to stop"),
        }
    }

    fn describe(&self) -> String {
        let shown = self.handle.snapshot();
        let shown = shown.map(|snapshot| format!("{}; {:?}", StatusLine(&snapshot.status), snapshot.counters));
        let gossip = self.handle.gossip().map(|gossip| format!("; {:?}", gossip.counters()));
        let (shown, gossip) = (shown.unwrap_or_default(), gossip.unwrap_or_default());
        format!("{}; the conductor: {shown}{gossip}", self.world.with(|world| heads(world)))
    }
}

/// The node of the rollup of this index.
pub fn node(world: &mut World, index: usize) -> &mut RollupNode {
    let id = world.node_ids()[index];
    world.rollups.get_mut(&id).expect("a node for each id")
}

/// Numbers of the blocks that a node executed, in order.
pub fn executed(node: &RollupNode) -> Vec<u64> {
    let number = |call: &Call| match call {
        Call::Executed(_, Ok(metadata)) => Some(metadata.number),
        _ => None,
    };
    node.trace().filter_map(number).collect()
}

/// Steps the world block by block, in real time where the machine keeps up: the servers always get a turn in between.
async fn run_clock(
    world: Shared<World>,
    last: Arc<AtomicU64>,
    mut before_celestia: impl FnMut(&mut World) + Send + 'static,
) {
    let mut due = Instant::now();
    let mut celestia = None;
    loop {
        let pause = world.with(|world| {
            if celestia.replace(world.celestia.head()) != Some(world.celestia.head()) {
                before_celestia(world);
            }
            world.step(world.next_event());
            world.sequencer_stalled |= world.sequencer.head().0 >= last.load(Ordering::SeqCst) + OFFSET;
            world.next_event().since(world.now())
        });
        due = (due + pause).max(Instant::now() + pause / 2);
        tokio::time::sleep_until(due.into()).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool, describe: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain for {what}: {}", describe());
        tokio::time::sleep(GLANCE).await;
    }
}

/// Whatever a conductor went through can be gone through again, and the same follows. How many events that were.
#[track_caller]
fn assert_replays(journal: &Mutex<Writer<Vec<u8>>>) -> u64 {
    let mut journal = journal.lock().expect("the driver does not panic");
    journal.flush().expect("memory");
    let reader = Reader::new(journal.get_ref().as_slice()).expect("a journal");
    let mut replay = Replay::new(reader.header()).expect("limits of this version");
    for entry in reader {
        match replay.step(entry.expect("whole"), &mut |_, _, _, _| {}) {
            Ok(stepped) => assert_eq!(stepped, Stepped::Equal),
            Err(difference) => panic!("{difference}"),
        }
    }
    replay.equal()
}

/// Runs a part of a story that must end in time.
pub async fn in_time<T>(what: &str, part: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(PATIENCE, part).await;
    ended.unwrap_or_else(|_| panic!("{what} did not end in {} s", PATIENCE.as_secs()))
}

fn plan(endless: &SessionPlan, next: &mut RollupNumber, length: u64) -> SessionPlan {
    let start = *next;
    let skipped = start.0 - endless.rollup_start.0;
    *next = start.plus(length);
    SessionPlan {
        rollup_start: start,
        rollup_end: Some(next.minus(1)),
        sequencer_start: endless.sequencer_start.plus(skipped),
        ..endless.clone()
    }
}

#[track_caller]
fn assert_is_the_sequencers(world: &World, node: &RollupNode, id: RollupId, number: u64) {
    use prost::Message as _;
    let block = node.block(RollupNumber(number)).expect("checked before");
    let made = world.sequencer.block(SequencerHeight(number + OFFSET)).expect("the sequencer has made it");
    let shown = block.metadata.sequencer_block_hash.trim_start_matches("0x");
    if !shown.is_empty() {
        assert_eq!(shown, made.hash().to_string(), "sequencer block of rollup block {number}");
    }
    assert_eq!(block.metadata.timestamp, made.published.header().time, "time of rollup block {number}");
    let (price_feed, transactions) = match block.transactions().split_first() {
        Some((RollupData { value: Some(Value::PriceFeedData(_)) }, rest)) => (true, rest),
        _ => (false, block.transactions()),
    };
    let has_prices = made.published.data().extended_commit_info.is_some();
    assert_eq!(price_feed, has_prices, "price feed of rollup block {number}");
    let encoded: Vec<Bytes> = transactions.iter().map(|transaction| transaction.encode_to_vec().into()).collect();
    let expected = made.published.data().rollups.get(&id).cloned().unwrap_or_default();
    assert_eq!(encoded, expected, "transactions of rollup block {number}");
}

fn heads(world: &World) -> String {
    let rollup = |node: &RollupNode| format!("soft {} firm {} in the node", node.soft(), node.firm());
    let rollups: Vec<_> = world.rollups.values().map(rollup).collect();
    format!(
        "sequencer {}, Celestia {}, published below {}, {}",
        world.sequencer.head(),
        world.celestia.head(),
        world.relayer.next(),
        rollups.join(", ")
    )
}
