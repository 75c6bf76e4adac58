//! The event-queue tier: core and model world in one thread, jumping to the next event.

mod build;
mod gossip;
mod judge;
mod ports;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use downbeat_core::{
    Call, CellId, Command, CommandId, Conductor, Event, Job, Limits, Node, Record, Refusal, Report, SequencerHeight,
    Stamped, Timestamp,
    cell::{CellSpec, Mode},
    command::Exit,
};
use downbeat_world::World;

use crate::{
    Scenario, Violation, adversary,
    fault::{Draw, Firing, Injector, Site, Spot},
    nodes::BadNodes,
    observe::Observations,
    oracle,
    peers::{Peer, shifted},
    probe::Probe,
};

use gossip::{Parcel, PeerNet};

/// More events in one moment than any of these small worlds can need (L8).
const STEPS_IN_MOMENT_MAX: u64 = 10_000;

/// Follows what the core is given and what it wishes for.
pub trait Observer {
    /// The core has taken an event in, or refused it.
    fn step(&mut self, input: &Stamped, result: &Result<(), Refusal>, commands: &[Command], conductor: &Conductor);

    /// A request has reached its peer.
    fn arrived(&mut self, id: CommandId, at: Timestamp) {
        let _ = (id, at);
    }

    /// A fault happened at `at` and lasts until `until`.
    fn fault(&mut self, firing: Firing, at: Timestamp, until: Timestamp) {
        let _ = (firing, at, until);
    }

    /// A new life of the conductor begins.
    fn started(&mut self, conductor: &Conductor, at: Timestamp) {
        let _ = (conductor, at);
    }

    /// Time has moved on: the world may have.
    fn world(&mut self, world: &World, at: Timestamp) {
        let _ = (world, at);
    }
}

/// A run.
pub struct Simulation {
    scenario: Scenario,
    limits: Limits,
    pub world: World,
    conductor: Conductor,
    /// When the conductor wants to be woken: asked once after each event.
    due: Option<Timestamp>,
    pub(crate) injector: Injector,
    seq: u64,
    lives: u64,
    now: Timestamp,
    /// What the conductor's clock showed last, and by how much it differs, in nanoseconds.
    shown: Timestamp,
    skew: i128,
    order: u64,
    queue: BTreeMap<(Timestamp, u64), Item>,
    started: Timestamp,
    next_second: Timestamp,
    last_celestia: u64,
    /// The conductor stands still until then.
    paused_until: Timestamp,
    /// Peers that nothing reaches until then.
    cut_off: BTreeMap<Peer, Timestamp>,
    /// Peers whose answers come no sooner than that.
    held: BTreeMap<Peer, Timestamp>,
    /// When what stands still goes on.
    relayer_until: Timestamp,
    celestia_until: Timestamp,
    sequencer_until: Timestamp,
    /// Calls in the current second.
    calls: u64,
    /// Most calls in one second so far.
    pub busiest_second: u64,
    /// Per cell: what went wrong with its rollup, each of which may cost a session (L7).
    causes: BTreeMap<CellId, u64>,
    /// Cells that may be parked for good.
    excused: BTreeSet<CellId>,
    /// Heights about which the sequencer's own service told a lie that cannot be told from the truth.
    lies: BTreeSet<SequencerHeight>,
    /// Calls of this life that were made and not answered yet: deadline, site, and whether they have an effect.
    in_flight: BTreeMap<CommandId, (Timestamp, Site, bool)>,
    /// When the conductor was asked to stop.
    stop_asked: Option<Timestamp>,
    restart_at: Option<Timestamp>,
    /// When the last fault that happened was over.
    healed_at: Timestamp,
    /// Steps since time moved.
    steps_in_moment: u64,
    /// Chain ids that this life of the conductor was told.
    told_sequencer: bool,
    told_celestia: bool,
    /// Judges what passes through the ports.
    watch: oracle::Watch,
    /// The first promise that was seen broken while running.
    broken: Option<Violation>,
    /// Events that the core took in or refused.
    pub events: u64,
    /// What the conductor did, without times: two runs with the same course did the same.
    course: Draw,
    pub(crate) seen: Observations,
    observer: Option<Box<dyn Observer>>,
    pub reports: Vec<Report>,
    pub exit: Option<Exit>,
    /// What is durable of what the conductor persisted, by key; outlives it.
    kept: BTreeMap<String, Vec<u8>>,
    /// Records are being written: what follows them waits.
    is_persisting: bool,
    waiting: VecDeque<Command>,
    /// A conductor that ended because of evidence was started again.
    has_come_back: bool,
    pub(crate) bad_nodes: BadNodes,
    /// The CometBFT node that answers nothing until then.
    fallen: Option<(Node, Timestamp)>,
    /// Other conductors.
    pub(crate) net: PeerNet,
    /// Calls of the current second by site.
    calls_at: BTreeMap<Site, u64>,
    /// Where most of the calls in the busiest second went.
    busiest_site: Option<(Site, u64)>,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("scenario", &self.scenario).field("now", &self.now).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Item {
    Request {
        id: CommandId,
        deadline: Timestamp,
        call: Call,
        node: Node,
        spot: Spot,
        life: u64,
    },
    /// Whether the conductor is killed right after it.
    Reply {
        event: Box<Event>,
        kills: bool,
    },
    Work {
        id: CommandId,
        job: Box<Job>,
    },
    /// A message of a peer.
    Parcel(Parcel),
    /// Records are durable.
    Durable {
        records: Vec<Record>,
        life: u64,
    },
}

impl Simulation {
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Moment in the run.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now.since(self.started)
    }

    /// Virtual time since faults are over; none while they are not.
    pub fn healthy(&self) -> Duration {
        self.elapsed().saturating_sub(Duration::from_secs(self.scenario.faulty_for_s))
    }

    /// A promise that was seen broken since [`Simulation::run`] looked last.
    pub fn broken(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    pub fn conductor(&self) -> &Conductor {
        &self.conductor
    }

    /// Faults that happened, in order.
    pub fn fired(&self) -> &[Firing] {
        self.injector.fired()
    }

    /// Situations that were reached.
    pub fn probes(&self) -> &BTreeSet<Probe> {
        &self.seen.probes
    }

    /// What the conductor did, without times: its calls and what it refused, in order, and the rollups' heads and what it
    /// counted in the end.
    pub fn course(&self) -> u64 {
        let heads = self.world.rollups.values().map(|node| node.soft().0.wrapping_mul(31).wrapping_add(node.firm().0));
        let counted = self.conductor.status(self.shown).dropped.into_values();
        heads.chain(counted).fold(self.course.value(), |course, number| course.wrapping_mul(1_000_003) ^ number)
    }

    pub(crate) fn hit(&mut self, probe: Probe) {
        self.seen.probes.insert(probe);
    }

    /// Kills the conductor and starts it with another mode.
    pub fn restart_as(&mut self, mode: Mode) {
        self.scenario.mode = mode;
        self.start_conductor();
    }

    fn start_conductor(&mut self) {
        self.lives += 1;
        self.seq = 0;
        self.exit = None;
        (self.told_sequencer, self.told_celestia, self.stop_asked, self.restart_at) = (false, false, None, None);
        self.in_flight.clear();
        self.waiting.clear();
        self.is_persisting = false;
        self.forget_peers();
        // Without a server, the operator has named the chain.
        self.told_sequencer = self.limits.gossip.sole_source_of.is_some();
        // A new process reads the clock anew.
        self.shown = shifted(self.now, self.skew);
        let mut seed = Draw::new(self.scenario.seed, self.lives, Spot { site: Site::Run, nth: 0 });
        let records = self.kept.iter().map(|(key, bytes)| Record::decode(key, bytes));
        let records: Vec<Record> = records.map(|record| record.expect("what was kept is whole")).collect();
        self.seen.started(&records, &self.limits);
        self.conductor = Conductor::new(self.limits.clone(), seed.array(), &records);
        self.due = self.conductor.next_deadline().map(|(at, _)| at);
        self.watch.started(self.scenario.mode);
        if let Some(observer) = &mut self.observer {
            observer.started(&self.conductor, self.now);
        }
        let life = self.lives;
        for index in 0..self.world.node_ids().len() {
            // A crash at one of these events has installed everything in the next life.
            if self.lives != life {
                return;
            }
            let cell = CellId(u32::try_from(index).unwrap_or(u32::MAX));
            let spec = CellSpec {
                mode: self.scenario.mode,
                expected_sequencer_chain_id: None,
                expected_celestia_chain_id: None,
            };
            self.deliver(Event::CellInstalled { cell, spec });
        }
    }

    /// An ordinary time on the way.
    fn latency(&self, spot: Spot, leg: u64) -> Duration {
        let most = if self.is_faulty() { self.scenario.latency_ms } else { 2 };
        let mut draw = Draw::new(self.scenario.seed, leg, spot);
        Duration::from_micros(draw.within(50, most.max(1) * 1_000))
    }

    fn schedule(&mut self, delay: Duration, item: Item) {
        self.order += 1;
        let mut at = self.now.after(delay);
        if !matches!(item, Item::Request { .. }) {
            at = at.max(self.paused_until);
        }
        self.queue.insert((at, self.order), item);
    }

    /// When the conductor's deadline comes, in the world's time.
    fn deadline(&self) -> Timestamp {
        let Some(deadline) = self.due else { return Timestamp::MAX };
        let at = if deadline <= self.shown { self.now } else { shifted(deadline, -self.skew) };
        at.max(self.paused_until)
    }

    /// Takes the next event, whatever it is.
    pub fn step(&mut self) {
        let item_at = self.queue.first_key_value().map_or(Timestamp::MAX, |((at, _), _)| *at);
        let deadline = self.deadline();
        if self.exit.is_none() && !self.is_persisting && self.conductor.in_flight() == 0 {
            if deadline == Timestamp::MAX {
                let status = self.conductor.status(self.shown);
                self.broken =
                    Some(Violation::new("L3", format!("nothing is in flight and nothing is due: {status:?}")));
            } else if deadline.since(self.now) >= Duration::from_secs(1) {
                self.hit(Probe::NothingButDeadlines);
            }
        }
        let next = item_at.min(deadline).min(self.world.next_event()).min(self.next_second);
        self.steps_in_moment = if next > self.now { 0 } else { self.steps_in_moment + 1 };
        if self.steps_in_moment > STEPS_IN_MOMENT_MAX {
            self.broken = Some(Violation::new("L8", "the conductor is busy and time does not move"));
        }
        self.now = self.now.max(next);
        if self.world.next_event() <= self.now {
            self.world.step(self.now);
            if let Some(observer) = &mut self.observer {
                observer.world(&self.world, self.now);
            }
        }
        self.tell_of_blocks();
        if self.world.celestia.head().0 > self.last_celestia {
            self.last_celestia = self.world.celestia.head().0;
            let spot = self.injector.pass(Site::CelestiaBlock);
            for kind in adversary::KINDS {
                if let Some(draw) = self.fires(*kind, spot) {
                    adversary::post(&mut self.world, *kind, draw);
                }
            }
        }
        if self.now >= self.next_second {
            self.next_second = self.next_second.after(Duration::from_secs(1));
            self.end_second();
        }
        if item_at <= self.now {
            if let Some((_, item)) = self.queue.pop_first() {
                self.take(item);
            }
        } else if deadline <= self.now && self.exit.is_none() {
            self.deliver(Event::DeadlineReached);
        }
    }
}
