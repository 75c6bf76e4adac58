//! One run: hosts, the schedule of faults, healing, arrival, judgement.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use downbeat::{
    config::Config,
    connector::Network,
    driver::{Driver, Handle, Observer, Options, Workers},
    journal, node,
};
use downbeat_core::{Conductor, Limits, RollupId, SequencerHeight, Timestamp, cell::Mode, command::Exit, view::Phase};
use downbeat_world::{
    RollupNode, World,
    random::Random,
    rollup::{self, Code, Status},
    serve::{Failure, Hooks, Shared, celestia, cometbft, execution, sequencer},
};
use turmoil::{Builder, Sim};

use super::{
    network::{Reach, TurmoilConnector, TurmoilListener},
    panics,
    scenario::{Direction, Fault, Item, Node, Peer, WireScenario},
    task_ids,
    trace::Trace,
};
use crate::{
    Violation, adversary,
    fault::{Draw, Site, Spot},
    oracle::{self, Published},
};

const CONDUCTOR: &str = "conductor";

const SEQUENCER_PORT: u16 = 8080;
const COMETBFT_PORT: u16 = 26657;
const CELESTIA_PORT: u16 = 26658;
const EXECUTION_PORT: u16 = 50051;

/// Segments that a connection takes in before its sender waits, and connections that wait to be accepted. turmoil
/// panics where the latter is exceeded.
const TCP_CAPACITY: usize = 10_000;

/// How long after the request to stop the driver must have ended (L9): what the core waits for calls in flight, and a
/// little. (The driver's own patience is longer; to need it would be a defect.)
const STOP_MAX: Duration = Duration::from_millis(5_100);

/// More calls in one virtual second than any of these small worlds can need (L8).
const CALLS_PER_SECOND_MAX: u64 = 4_000;

/// More connections at once than any of these small worlds can need (L8).
const CONNECTIONS_MAX: u64 = 40;

/// How often it is looked whether the rollups have arrived and cells know what they wait for.
const GLANCE: Duration = Duration::from_millis(200);

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of everything that happened, see [`Trace`]. The same for the same scenario.
    pub chain: String,
    /// Events that the core was handed.
    pub events: u64,
    /// Calls that the core wished for, and failures it was told of.
    pub calls: u64,
    pub failures: u64,
    /// How often the conductor was started.
    pub lives: u64,
    /// Connections that the conductor opened, and the most that were open at once.
    pub connections: (u64, u64),
    /// Virtual time.
    pub took: Duration,
    /// Virtual time from the healing until all rollups had arrived.
    pub arrived_after: Duration,
}

/// Runs a scenario to its end, on this thread. No runtime may be running on it.
///
/// # Errors
/// The first promise that was seen broken. `PANIC` and `DRIVER` stand for defects that no invariant names.
pub fn run(scenario: &WireScenario) -> Result<Outcome, Violation> {
    run_traced(scenario, false, None).0
}

/// As [`run`], with the trace, which keeps its lines if asked to. Each life of the conductor is recorded in `journal`, if
/// given: a thread of its own writes it and has no influence on the run.
pub fn run_traced(
    scenario: &WireScenario,
    keeps_lines: bool,
    journal: Option<&Path>,
) -> (Result<Outcome, Violation>, Trace) {
    let trace = Arc::new(Mutex::new(Trace::new(keeps_lines)));
    let (result, panics) = panics::watch(|| {
        task_ids::aligned(|| {
            let mut run = Run::new(scenario, Arc::clone(&trace), journal)?;
            run.run_to_the_end()
        })
    });
    let result = match panics.first() {
        Some(panic) => Err(Violation::new("PANIC", panic.clone())),
        None => result.unwrap_or_else(|| Err(Violation::new("PANIC", "without a word"))),
    };
    let trace = std::mem::take(&mut *trace.lock().unwrap_or_else(PoisonError::into_inner));
    (result, trace)
}

/// What the conductor's host leaves for the outside to see.
#[derive(Debug, Default)]
struct Desk {
    lives: u64,
    handle: Option<Handle>,
    ended: Option<Result<Exit, String>>,
}

/// State of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Open,
    Held,
    /// No messages to the peer, to the conductor.
    Cut(bool, bool),
}

struct Run<'a> {
    scenario: &'a WireScenario,
    sim: Sim<'a>,
    world: Shared<World>,
    genesis: Timestamp,
    hooks: BTreeMap<Peer, Vec<Hooks>>,
    connector: TurmoilConnector,
    desk: Rc<RefCell<Desk>>,
    trace: Arc<Mutex<Trace>>,
    /// Beginnings and ends that are still to come, the next one last.
    to_come: Vec<(Duration, Moment, usize)>,
    active: BTreeSet<usize>,
    links: BTreeMap<Peer, Link>,
    latencies: BTreeMap<Peer, u64>,
    delays: BTreeMap<Peer, u64>,
    down: BTreeSet<Node>,
    stop_asked: Option<Duration>,
    /// Calls with an effect that the rollup nodes had seen when the conductor had stopped.
    effects_at_stop: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begin,
    End,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a WireScenario, trace: Arc<Mutex<Trace>>, journal: Option<&Path>) -> Result<Self, Violation> {
        let world = World::new(scenario.world());
        let genesis = world.now();
        let ids = world.node_ids().to_vec();
        let world = Shared::new(world);
        let mut builder = Builder::new();
        builder
            .rng_seed(scenario.seed)
            .epoch(SystemTime::UNIX_EPOCH + genesis.since(Timestamp::ZERO))
            .simulation_duration(Duration::from_hours(24))
            .tick_duration(Duration::from_millis(scenario.tick_ms.max(1)))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(Duration::from_millis(scenario.latency_ms))
            .tcp_capacity(TCP_CAPACITY);
        if scenario.random_order {
            builder.enable_random_order();
        }
        let mut sim = builder.build();
        let desk = Rc::new(RefCell::new(Desk::default()));
        let connector = TurmoilConnector::default();
        // Always in this order: each host takes randomness from the simulation.
        let plan =
            Plan { seed: scenario.seed, genesis, config: config(scenario)?, journal: journal.map(Path::to_owned) };
        add_conductor(&mut sim, Rc::new(plan), &connector, &desk, &trace);
        let hooks = add_peers(&mut sim, &world, &ids);
        Ok(Self {
            scenario,
            sim,
            world,
            genesis,
            hooks,
            connector,
            desk,
            trace,
            to_come: schedule(scenario),
            active: BTreeSet::new(),
            links: BTreeMap::new(),
            latencies: BTreeMap::new(),
            delays: BTreeMap::new(),
            down: BTreeSet::new(),
            stop_asked: None,
            effects_at_stop: None,
        })
    }

    fn run_to_the_end(&mut self) -> Result<Outcome, Violation> {
        let healed_at = Duration::from_secs(self.scenario.faulty_for_s);
        let mut target = None;
        let mut look_at = Duration::ZERO;
        let arrived_after = loop {
            let now = self.sim.elapsed();
            while let Some((_, moment, index)) = self.to_come.pop_if(|(at, ..)| *at <= now) {
                self.turn(now, moment, index)?;
            }
            if now >= healed_at && target.is_none() {
                self.hooks.values().flatten().for_each(Hooks::heal);
                let made = self.world.with(|world| world.sequencer.head());
                target = Some(made.plus(self.scenario.blocks_after));
            }
            if now >= look_at {
                look_at = now + GLANCE;
                self.look()?;
                if let Some(target) = target {
                    if self.have_arrived(target) {
                        break now.saturating_sub(healed_at);
                    }
                    if now > healed_at + Duration::from_secs(self.scenario.arrive_within_s) {
                        self.judge()?;
                        return Err(self.late(target));
                    }
                }
            }
            self.world.with(|world| world.step(self.genesis.after(now)));
            self.sim.step().map_err(|error| Violation::new("DRIVER", format!("a host failed: {error}")))?;
            self.look_at_the_driver()?;
            if panics::any() {
                return Err(Violation::new("PANIC", "in a host"));
            }
        };
        self.judge()?;
        self.count_sessions()?;
        Ok(self.outcome(arrived_after))
    }

    /// Lets a fault begin or end.
    fn turn(&mut self, now: Duration, moment: Moment, index: usize) -> Result<(), Violation> {
        let Some(Item { at_ms, fault, .. }) = self.scenario.items.get(index).copied() else { return Ok(()) };
        self.note(now, format_args!("{moment:?} {fault:?}"));
        match moment {
            Moment::Begin => self.active.insert(index),
            Moment::End => self.active.remove(&index),
        };
        self.apply_links();
        self.apply_reach();
        self.apply_hosts()?;
        self.apply_delays();
        self.apply_stalls();
        if moment == Moment::End {
            return Ok(());
        }
        match fault {
            Fault::Refuse { peer, requests } => {
                let failure = match peer {
                    Peer::Celestia => Failure::Http(503),
                    _ => Failure::Grpc(Status::new(Code::Unavailable, "not now")),
                };
                for hooks in self.hooks.get(&peer).into_iter().flatten() {
                    hooks.fail(None, requests, failure.clone());
                }
            }
            Fault::Garbage { peer, replies } => {
                for hooks in self.hooks.get(&peer).into_iter().flatten() {
                    hooks.fail(None, replies, Failure::Garbage(b"\"what is this?\"".to_vec()));
                }
            }
            Fault::Revoke { rollup } => self.world.with(|world| {
                if let Some(node) = node_id(world, rollup).and_then(|id| world.rollups.get_mut(&id)) {
                    node.revoke_session();
                }
            }),
            Fault::HostilePost { kind } => {
                let draw = Draw::new(self.scenario.seed, at_ms, Spot { site: Site::CelestiaBlock, nth: 0 });
                self.world.with(|world| adversary::post(world, kind, draw));
            }
            Fault::Stop => {
                let desk = self.desk.borrow();
                if let Some(handle) = desk.handle.as_ref().filter(|_| desk.ended.is_none()) {
                    handle.stop();
                    self.stop_asked.get_or_insert(now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn active(&self) -> impl Iterator<Item = Fault> + '_ {
        self.active.iter().filter_map(|index| self.scenario.items.get(*index)).map(|item| item.fault)
    }

    /// Brings every link into the state that the active faults ask for; a cut goes before a hold.
    fn apply_links(&mut self) {
        let mut wanted: BTreeMap<Peer, Link> = BTreeMap::new();
        let mut latencies: BTreeMap<Peer, u64> = BTreeMap::new();
        let mut cut = |peer, to_peer, to_conductor| {
            let link = wanted.entry(peer).or_default();
            let (before_peer, before_conductor) = if let Link::Cut(a, b) = *link { (a, b) } else { (false, false) };
            *link = Link::Cut(before_peer || to_peer, before_conductor || to_conductor);
        };
        for fault in self.active() {
            match fault {
                Fault::Cut { peer, direction } => {
                    cut(peer, direction != Direction::ToConductor, direction != Direction::ToPeer);
                }
                Fault::PowerLoss { node: Node::Peer(peer) } => cut(peer, true, true),
                Fault::PowerLoss { node: Node::Conductor } => {
                    self.scenario.peers().for_each(|peer| cut(peer, true, true));
                }
                Fault::Latency { peer, max_ms } => {
                    let latency = latencies.entry(peer).or_default();
                    *latency = max_ms.max(*latency);
                }
                _ => {}
            }
        }
        for fault in self.active() {
            if let Fault::Hold { peer } = fault {
                wanted.entry(peer).or_insert(Link::Held);
            }
        }
        for peer in self.scenario.peers() {
            let (before, after) = (self.links.get(&peer).copied().unwrap_or_default(), wanted.get(&peer));
            let after = after.copied().unwrap_or_default();
            let name = peer.to_string();
            if before != after {
                match before {
                    Link::Open => {}
                    Link::Held => self.sim.release(CONDUCTOR, name.as_str()),
                    Link::Cut(..) => self.sim.repair(CONDUCTOR, name.as_str()),
                }
                match after {
                    Link::Open => {}
                    Link::Held => self.sim.hold(CONDUCTOR, name.as_str()),
                    Link::Cut(true, true) => self.sim.partition(CONDUCTOR, name.as_str()),
                    Link::Cut(to_peer, to_conductor) => {
                        if to_peer {
                            self.sim.partition_oneway(CONDUCTOR, name.as_str());
                        }
                        if to_conductor {
                            self.sim.partition_oneway(name.as_str(), CONDUCTOR);
                        }
                    }
                }
                self.links.insert(peer, after);
            }
            let latency = latencies.get(&peer).copied().unwrap_or(self.scenario.latency_ms);
            if self.latencies.insert(peer, latency).unwrap_or(self.scenario.latency_ms) != latency {
                self.sim.set_link_max_message_latency(CONDUCTOR, name.as_str(), Duration::from_millis(latency));
            }
        }
    }

    /// Tells the connector what a real network would do with a handshake.
    fn apply_reach(&self) {
        let mut reach = BTreeMap::new();
        for peer in self.scenario.peers() {
            let is_down = |lost_power| {
                let node = Node::Peer(peer);
                let wanted = if lost_power { Fault::PowerLoss { node } } else { Fault::Crash { node } };
                self.active().any(|fault| fault == wanted)
            };
            if is_down(true) || matches!(self.links.get(&peer), Some(Link::Cut(..))) {
                reach.insert(peer.to_string(), Reach::Silent);
            } else if is_down(false) {
                reach.insert(peer.to_string(), Reach::Refused);
            }
        }
        self.connector.set_reach(reach);
    }

    /// Kills and starts hosts.
    fn apply_hosts(&mut self) -> Result<(), Violation> {
        let down: BTreeSet<Node> = self
            .active()
            .filter_map(|fault| match fault {
                Fault::Crash { node } | Fault::PowerLoss { node } => Some(node),
                _ => None,
            })
            .collect();
        let before = std::mem::replace(&mut self.down, down.clone());
        for node in before.symmetric_difference(&down) {
            let name = match node {
                Node::Conductor => CONDUCTOR.to_owned(),
                Node::Peer(peer) => peer.to_string(),
            };
            if before.contains(node) {
                self.sim.bounce(name.as_str());
                continue;
            }
            self.sim.crash(name.as_str());
            match node {
                Node::Conductor => {
                    (self.stop_asked, self.effects_at_stop) = (None, None);
                    let mut desk = self.desk.borrow_mut();
                    (desk.handle, desk.ended) = (None, None);
                }
                Node::Peer(Peer::Rollup(index)) => self.world.with(|world| {
                    if let Some(node) = node_id(world, *index).and_then(|id| world.rollups.get_mut(&id)) {
                        node.restart();
                    }
                }),
                Node::Peer(_) => {}
            }
        }
        self.start_again_after_a_stop()
    }

    /// A conductor that has stopped stays away until no stop is active any more.
    fn start_again_after_a_stop(&mut self) -> Result<(), Violation> {
        let has_stopped = self.desk.borrow().ended.is_some();
        let stays = self.active().any(|fault| fault == Fault::Stop) || self.down.contains(&Node::Conductor);
        if has_stopped && !stays {
            let (before, after) = (self.effects_at_stop.take(), self.effects());
            if before.is_some_and(|before| before != after) {
                let detail = format!("{before:?} calls had an effect when the conductor had stopped, then {after}");
                return Err(Violation::new("L9", detail));
            }
            self.desk.borrow_mut().ended = None;
            self.sim.bounce(CONDUCTOR);
        }
        Ok(())
    }

    /// Calls to rollup nodes that changed something.
    fn effects(&self) -> usize {
        let has_effect = |call: &&rollup::Call| {
            matches!(
                call,
                rollup::Call::Opened(Ok(_)) | rollup::Call::Executed(_, Ok(_)) | rollup::Call::Updated(_, Ok(_))
            )
        };
        self.world.with(|world| world.rollups.values().map(|node| node.trace().filter(has_effect).count()).sum())
    }

    /// Whether a call may have its effect long after its deadline, as far as this run's faults go.
    fn may_come_late(&self) -> bool {
        self.scenario.items.iter().any(|item| {
            matches!(
                item.fault,
                Fault::Hold { peer: Peer::Rollup(_) }
                    | Fault::Slow { peer: Peer::Rollup(_), .. }
                    | Fault::Latency { peer: Peer::Rollup(_), .. }
            )
        })
    }

    fn apply_delays(&mut self) {
        for peer in self.scenario.peers() {
            let delays = self.active().filter_map(|fault| match fault {
                Fault::Slow { peer: slow, delay_ms } if slow == peer => Some(delay_ms),
                _ => None,
            });
            let delay = delays.max().unwrap_or(0);
            if self.delays.insert(peer, delay).unwrap_or(0) != delay {
                for hooks in self.hooks.get(&peer).into_iter().flatten() {
                    hooks.delay(None, Duration::from_millis(delay));
                }
            }
        }
    }

    fn apply_stalls(&mut self) {
        let is_active = |wanted: Fault| self.active().any(|fault| fault == wanted);
        let sequencer = is_active(Fault::SequencerStalls);
        let (celestia, relayer) = (is_active(Fault::CelestiaStalls), is_active(Fault::RelayerPauses));
        self.world.with(|world| {
            world.sequencer_stalled = sequencer;
            world.celestia_stalled = celestia;
            world.relayer.pause(relayer);
        });
    }

    /// L9, and that the driver never ends by itself.
    fn look_at_the_driver(&mut self) -> Result<(), Violation> {
        let ended = match &self.desk.borrow().ended {
            Some(Ok(Exit::Stopped)) => self.stop_asked.is_some(),
            Some(Ok(Exit::AllCellsParked { reason })) => return Err(Violation::new("L1", format!("parked: {reason}"))),
            Some(Err(error)) => return Err(Violation::new("DRIVER", error.clone())),
            None => false,
        };
        if ended {
            self.stop_asked = None;
            self.note(self.sim.elapsed(), format_args!("the conductor has stopped"));
            self.effects_at_stop = (!self.may_come_late()).then(|| self.effects());
            self.start_again_after_a_stop()?;
        }
        match self.stop_asked {
            Some(asked) if self.sim.elapsed() > asked + STOP_MAX => {
                Err(Violation::new("L9", format!("the stop asked for at {asked:?} has not ended")))
            }
            _ => Ok(()),
        }
    }

    /// L3 and L8.
    fn look(&mut self) -> Result<(), Violation> {
        let snapshot = self.desk.borrow().handle.as_ref().and_then(Handle::snapshot);
        for (cell, status) in snapshot.iter().flat_map(|snapshot| &snapshot.status.cells) {
            if status.waiting_for.is_empty() {
                return Err(Violation::new("L3", format!("{cell} waits for nothing")));
            }
            if status.phase == Phase::Parked {
                return Err(Violation::new("L1", format!("{cell} is parked: {:?}", status.waiting_for)));
            }
        }
        let connections = self.connector.open();
        if connections > CONNECTIONS_MAX {
            return Err(Violation::new("L8", format!("{connections} connections are open")));
        }
        let busiest = lock(&self.trace).busiest_second;
        if busiest > CALLS_PER_SECOND_MAX {
            return Err(Violation::new("L8", format!("{busiest} calls in one second")));
        }
        Ok(())
    }

    /// L7: each session has a cause. While something is wrong, one may be lost about every second.
    fn count_sessions(&self) -> Result<(), Violation> {
        let lives = self.desk.borrow().lives;
        self.world.with(|world| {
            for (index, id) in (0..).zip(world.node_ids()) {
                let causes = self.scenario.items.iter().map(|item| item.sessions_lost(index)).sum::<u64>();
                let opened = world.rollups.get(id).into_iter().flat_map(RollupNode::trace);
                let opened = opened.filter(|call| matches!(call, rollup::Call::Opened(Ok(_)))).count() as u64;
                if opened > lives + causes {
                    let detail =
                        format!("rollup {index} opened {opened} sessions in {lives} lives with {causes} causes");
                    return Err(Violation::new("L7", detail));
                }
            }
            Ok(())
        })
    }

    fn have_arrived(&self, target: SequencerHeight) -> bool {
        let follows_firm = self.scenario.mode.follows_firm();
        self.world.with(|world| {
            let head = |node: &RollupNode| if follows_firm { node.firm() } else { node.soft() };
            world.rollups.values().all(|node| world.sequencer_height(head(node)) >= target)
        })
    }

    fn late(&self, target: SequencerHeight) -> Violation {
        let heads = self.world.with(|world| {
            let heads: Vec<_> = world.rollups.values().map(|node| (node.soft().0, node.firm().0)).collect();
            let (sequencer, celestia) = (world.sequencer.head(), world.celestia.head());
            format!("soft and firm {heads:?}, sequencer at {sequencer}, Celestia at {celestia}")
        });
        let snapshot = self.desk.borrow().handle.as_ref().and_then(Handle::snapshot);
        let shown = snapshot.map(|snapshot| format!("{:#?}\n{:?}", snapshot.status, snapshot.counters));
        let detail = format!(
            "block {target} did not arrive within {} s: {heads}\n{}",
            self.scenario.arrive_within_s,
            shown.unwrap_or_default()
        );
        Violation::new("L1", detail)
    }

    fn judge(&self) -> Result<(), Violation> {
        self.world.with(|world| {
            let published = Published::read(world);
            world.node_ids().iter().try_for_each(|id| oracle::judge(world, &published, *id))
        })
    }

    /// Ends the trace with what the models saw.
    fn outcome(&self, arrived_after: Duration) -> Outcome {
        let now = self.sim.elapsed();
        for (peer, hooks) in &self.hooks {
            for hooks in hooks {
                self.note(now, format_args!("{peer} was asked {:?}", hooks.counts()));
            }
        }
        self.world.with(|world| {
            for (id, node) in &world.rollups {
                for call in node.trace() {
                    self.note(now, format_args!("rollup {id}: {call:?}"));
                }
            }
        });
        let trace = lock(&self.trace);
        Outcome {
            chain: trace.chain(),
            events: trace.events,
            calls: trace.calls,
            failures: trace.failures,
            lives: self.desk.borrow().lives,
            connections: self.connector.counts(),
            took: now,
            arrived_after,
        }
    }

    fn note(&self, at: Duration, what: std::fmt::Arguments<'_>) {
        lock(&self.trace).note(at, what);
    }
}

fn lock(trace: &Mutex<Trace>) -> std::sync::MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}

fn node_id(world: &World, index: u32) -> Option<RollupId> {
    world.node_ids().get(usize::try_from(index).ok()?).copied()
}

/// Beginnings and ends of all items, the first one last. Nothing outlasts the healing.
fn schedule(scenario: &WireScenario) -> Vec<(Duration, Moment, usize)> {
    let healed_at = Duration::from_secs(scenario.faulty_for_s);
    let mut moments = Vec::new();
    for (index, item) in scenario.items.iter().enumerate() {
        let begin = Duration::from_millis(item.at_ms).min(healed_at);
        let end = Duration::from_millis(item.at_ms.saturating_add(item.for_ms)).min(healed_at);
        moments.extend([(begin, Moment::Begin, index), (end, Moment::End, index)]);
    }
    // Of one moment the beginnings come first, so that an item without length begins before it ends.
    moments.sort_unstable_by_key(|moment| std::cmp::Reverse(*moment));
    moments
}

fn config(scenario: &WireScenario) -> Result<Config, Violation> {
    let mode = match scenario.mode {
        Mode::SoftOnly => "SoftOnly",
        Mode::FirmOnly => "FirmOnly",
        Mode::SoftAndFirm => "SoftAndFirm",
    };
    let mut flags = vec![
        ("sequencer.grpc_url".to_owned(), format!("http://{}:{SEQUENCER_PORT}", Peer::Sequencer)),
        ("sequencer.cometbft_url".to_owned(), format!("http://{}:{COMETBFT_PORT}", Peer::Sequencer)),
        ("celestia.url".to_owned(), format!("http://{}:{CELESTIA_PORT}", Peer::Celestia)),
    ];
    for index in 0..scenario.rollups {
        let url = format!("http://{}:{EXECUTION_PORT}", Peer::Rollup(index));
        flags.extend([(format!("cell.{index}.execution_url"), url), (format!("cell.{index}.mode"), mode.to_owned())]);
    }
    let config = Config::load(None, [], &flags).map_err(|error| Violation::new("DRIVER", error.to_string()))?;
    Ok(Config { limits: scenario.limits.clone(), ..config })
}

/// What every life of the conductor begins with.
struct Plan {
    seed: u64,
    genesis: Timestamp,
    config: Config,
    journal: Option<PathBuf>,
}

/// The host of the real driver. Its state lasts as long as one life; a new one starts with nothing.
fn add_conductor(
    sim: &mut Sim<'_>,
    plan: Rc<Plan>,
    connector: &TurmoilConnector,
    desk: &Rc<RefCell<Desk>>,
    trace: &Arc<Mutex<Trace>>,
) {
    let (desk, trace, connector) = (Rc::clone(desk), Arc::clone(trace), connector.clone());
    let lives = Cell::new(0);
    sim.host(CONDUCTOR, move || {
        let life = lives.replace(lives.get() + 1) + 1;
        let (plan, desk, trace) = (Rc::clone(&plan), Rc::clone(&desk), Arc::clone(&trace));
        let network = Network::plain(connector.clone());
        async move {
            let Plan { config, .. } = &*plan;
            let adapters = node::adapters(config, &network)?;
            let seed = Random::new(plan.seed, &format!("conductor, life {life}")).array();
            let conductor = Conductor::new(Limits::clone(&config.limits), seed);
            let cells = config.cells.iter().map(|(id, cell)| (*id, cell.spec.clone())).collect();
            let started_at = plan.genesis.after(turmoil::sim_elapsed().unwrap_or_default());
            let options = Options {
                cells,
                workers: Workers::Inline,
                trust: config.trust,
                started_at,
                observer: Some(Observer::new(move |input, outbox| lock(&trace).observe(life, input, outbox))),
            };
            let (mut driver, handle) = Driver::new(conductor, adapters, options);
            if let Some(directory) = &plan.journal {
                let header = journal::Header::new(&config.limits, seed, started_at);
                driver.record_to(journal::open(directory, journal::BYTES_MAX, header)?);
            }
            *desk.borrow_mut() = Desk { lives: life, handle: Some(handle), ended: None };
            let ended = driver.run().await;
            desk.borrow_mut().ended = Some(ended.map_err(|error| error.to_string()));
            Ok(())
        }
    });
}

/// The hosts of the model servers. The models live outside: they survive their servers.
fn add_peers(sim: &mut Sim<'_>, world: &Shared<World>, ids: &[RollupId]) -> BTreeMap<Peer, Vec<Hooks>> {
    let mut all = BTreeMap::new();
    let never = std::future::pending::<()>;
    let (hooks, cometbft_hooks, served) = (Hooks::default(), Hooks::default(), world.clone());
    all.insert(Peer::Sequencer, vec![hooks.clone(), cometbft_hooks.clone()]);
    sim.host(Peer::Sequencer.to_string(), move || {
        let (hooks, cometbft_hooks, world) = (hooks.clone(), cometbft_hooks.clone(), served.clone());
        async move {
            let listener = TurmoilListener::bind(SEQUENCER_PORT).await?;
            let cometbft_listener = TurmoilListener::bind(COMETBFT_PORT).await?;
            tokio::join!(
                biased;
                sequencer::serve(listener, world.clone(), hooks, never()),
                cometbft::serve(cometbft_listener, world.clone(), cometbft_hooks, never()),
            );
            Ok(())
        }
    });
    let (hooks, served) = (Hooks::default(), world.clone());
    all.insert(Peer::Celestia, vec![hooks.clone()]);
    sim.host(Peer::Celestia.to_string(), move || {
        let (hooks, world) = (hooks.clone(), served.clone());
        async move {
            let listener = TurmoilListener::bind(CELESTIA_PORT).await?;
            celestia::serve(listener, world, None, hooks, never()).await;
            Ok(())
        }
    });
    for (index, id) in (0..).zip(ids.iter().copied()) {
        let (hooks, served) = (Hooks::default(), world.clone());
        all.insert(Peer::Rollup(index), vec![hooks.clone()]);
        sim.host(Peer::Rollup(index).to_string(), move || {
            let (hooks, world) = (hooks.clone(), served.clone());
            async move {
                let listener = TurmoilListener::bind(EXECUTION_PORT).await?;
                execution::serve(listener, world, id, hooks, never()).await;
                Ok(())
            }
        });
    }
    all
}
