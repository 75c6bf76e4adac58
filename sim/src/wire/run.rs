//! One run: hosts, the schedule of faults, healing, arrival, judgement.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use downbeat::driver::Handle;
use downbeat_core::{SequencerHeight, Timestamp, command::Exit, view::Phase};
use downbeat_world::{
    RollupNode, World, rollup,
    serve::{Hooks, Shared},
};
use turmoil::{Builder, Sim};

use super::{
    apply::{Link, Moment, schedule},
    hosts::{Desk, Plan, TCP_CAPACITY, add_conductor, add_peers, config},
    network::TurmoilConnector,
    panics,
    scenario::{Node, Peer, WireScenario},
    task_ids,
    trace::Trace,
};
use crate::{
    Violation,
    oracle::{self, Published},
};

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

pub(super) struct Run<'a> {
    pub(super) scenario: &'a WireScenario,
    pub(super) sim: Sim<'a>,
    pub(super) world: Shared<World>,
    pub(super) genesis: Timestamp,
    pub(super) hooks: BTreeMap<Peer, Vec<Hooks>>,
    pub(super) connector: TurmoilConnector,
    pub(super) desk: Rc<RefCell<Desk>>,
    pub(super) trace: Arc<Mutex<Trace>>,
    /// Beginnings and ends that are still to come, the next one last.
    pub(super) to_come: Vec<(Duration, Moment, usize)>,
    pub(super) active: BTreeSet<usize>,
    pub(super) links: BTreeMap<Peer, Link>,
    pub(super) latencies: BTreeMap<Peer, u64>,
    pub(super) delays: BTreeMap<Peer, u64>,
    pub(super) down: BTreeSet<Node>,
    pub(super) stop_asked: Option<Duration>,
    /// Calls with an effect that the rollup nodes had seen when the conductor had stopped.
    pub(super) effects_at_stop: Option<usize>,
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
        let data = tempfile::tempdir().map_err(|error| Violation::new("DRIVER", error.to_string()))?;
        let journal = journal.map(Path::to_owned);
        let plan = Plan { seed: scenario.seed, genesis, config: config(scenario)?, journal, data };
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

    pub(super) fn note(&self, at: Duration, what: std::fmt::Arguments<'_>) {
        lock(&self.trace).note(at, what);
    }
}

pub(super) fn lock(trace: &Mutex<Trace>) -> std::sync::MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}
