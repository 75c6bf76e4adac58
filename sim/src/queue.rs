//! The event-queue tier: core and model world in one thread, jumping to the next event.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use downbeat_core::{
    Answer, Call, CellId, Command, CommandId, Conductor, Event, Fault, FaultClass, Job, Limits, Node, Outbox, Record,
    Refusal, Report, Seq, SequencerHeight, Stamped, Timestamp,
    cell::{CellSpec, Mode},
    command::Exit,
    job::CelestiaTop,
    light::{RootSetting, SoftTrust, Trust},
    view::Phase,
};
use downbeat_world::{
    CelestiaConfig, Memo, RollupNode, World, WorldConfig,
    relayer::{Packing, RelayerConfig},
    rollup::{self, SessionEnd, SessionPlan},
    sequencer::SequencerConfig,
};

use tendermint::block::Header;

use crate::{
    Scenario, Violation, adversary,
    fault::{Draw, Firing, Injector, Kind, Site, Spot},
    nodes::BadNodes,
    observe::Observations,
    oracle,
    peers::{Peer, peer_of, shifted, site_of, summary},
    probe::Probe,
    remember::remembered,
};

/// More calls in one virtual second than any of these small worlds can need (L8).
const CALLS_PER_SECOND_MAX: u64 = 4_000;

/// How often, in events, the core is asked for what it may have left undone: that takes a copy of its state. Where faults
/// are named one by one, it is asked after every event.
const LEFTOVERS_EVERY: u64 = 257;

/// Rollups with data in every chain, at least: how many of them have a node makes no other chain.
const ROLLUPS: u32 = 5;

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
    /// Cells that may be parked for good, and why.
    excused: BTreeMap<CellId, Kind>,
    /// Heights about which the sequencer's own service told a lie that cannot be told from the truth.
    lies: BTreeSet<SequencerHeight>,
    /// Calls of this life that were made and not answered yet: deadline, site, and whether they have an effect.
    in_flight: BTreeMap<CommandId, (Timestamp, Site, bool)>,
    /// When the conductor was asked to stop.
    stop_asked: Option<Timestamp>,
    restart_at: Option<Timestamp>,
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
    /// Records are durable.
    Durable {
        records: Vec<Record>,
        life: u64,
    },
}

impl Simulation {
    pub fn new(scenario: Scenario) -> Self {
        Self::observed(scenario, None)
    }

    /// A run that somebody follows.
    pub fn observed(scenario: Scenario, observer: Option<Box<dyn Observer>>) -> Self {
        let mut injector = Injector::new(scenario.seed, scenario.faults.clone(), scenario.schedule.clone());
        let run = injector.pass(Site::Run);
        // In one run of 64, blobs are compressed as relayers do it, which takes megabytes of memory for each.
        let packing = if scenario.seed.is_multiple_of(64) { Packing::Compressed } else { Packing::Stored };
        let mut relayer = RelayerConfig { packing, ..RelayerConfig::default() };
        if let Some(mut draw) = injector.fires(Kind::LateRelaying, run) {
            relayer.late_blocks = draw.within(1, 5);
        }
        relayer.shuffle = injector.fires(Kind::ShuffledRelaying, run).is_some();
        if let Some(mut draw) = injector.fires(Kind::RepeatedRelaying, run) {
            relayer.duplicate_percent = [10, 25, 40][draw.index(3)];
        }
        if let Some(mut draw) = injector.fires(Kind::MalformedEntry, run) {
            relayer.malformed_percent = [20, 60][draw.index(2)];
        }
        let changes = injector.fires(Kind::ValidatorChanges, run);
        let mut config = WorldConfig {
            memo: Some(Arc::clone(memo())),
            celestia: CelestiaConfig {
                powers: scenario.celestia_chain.powers.clone(),
                change_every: scenario.celestia_chain.change_every,
                signs: scenario.celestia_trust == Trust::Consensus,
                has_squares: scenario.celestia_trust == Trust::Consensus,
                ..CelestiaConfig::default()
            },
            // Few different ones: what worlds are made of is made once for each.
            validator_change_percent: changes.map_or(0, |mut draw| [15, 60][draw.index(2)]),
            sequencer: SequencerConfig {
                validators: scenario.validators.clone(),
                signs_extensions: false,
                ..SequencerConfig::default()
            },
            seed: scenario.world,
            block_time: scenario.pace.block_time(),
            celestia_block_time: scenario.pace.celestia_block_time(),
            da_delay: scenario.pace.da_delay(),
            rollups: scenario.rollups,
            foreign_rollups: ROLLUPS.saturating_sub(scenario.rollups),
            relayer,
            ..WorldConfig::default()
        };
        config.session.look_ahead = scenario.look_ahead;
        let mut world = World::new(config);
        for node in world.rollups.values_mut() {
            split_sessions(node, &scenario);
        }
        let now = world.now();
        if scenario.trust.first_header {
            world.step(now);
        }
        let mut limits = Limits { trust: scenario.trust.settings(&world.sequencer), ..scenario.limits() };
        if scenario.celestia_chain.genesis {
            let genesis = world.celestia.genesis(Timestamp(world.now().0.saturating_sub(1)));
            limits.celestia.root = RootSetting::Genesis(Box::new(genesis));
        }
        // Clocks here are wrong by seconds.
        limits.celestia.clock_drift = limits.trust.clock_drift;
        let bad_nodes = BadNodes::drawn(&mut injector, &scenario, run);
        if scenario.trust.level == Trust::Consensus
            && let Some(mut draw) = injector.fires(Kind::ShortTrust, run)
        {
            limits.trust.trusting_period = Duration::from_secs(draw.within(6, 30) * scenario.pace.stretch());
        }
        if limits.celestia_trust == Trust::Consensus && limits.trust.trusting_period < Duration::from_hours(1) {
            limits.celestia.trusting_period = limits.trust.trusting_period;
        }
        let mut simulation = Self {
            conductor: Conductor::new(limits.clone(), [0; 32], &[]),
            watch: oracle::Watch::new(limits.clone(), scenario.mode),
            limits,
            injector,
            scenario,
            world,
            seq: 0,
            lives: 0,
            now,
            shown: now,
            skew: 0,
            order: 0,
            queue: BTreeMap::new(),
            started: now,
            next_second: now.after(Duration::from_secs(1)),
            last_celestia: 0,
            paused_until: now,
            cut_off: BTreeMap::new(),
            held: BTreeMap::new(),
            relayer_until: now,
            celestia_until: now,
            sequencer_until: now,
            calls: 0,
            busiest_second: 0,
            causes: BTreeMap::new(),
            excused: BTreeMap::new(),
            lies: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            stop_asked: None,
            restart_at: None,
            steps_in_moment: 0,
            told_sequencer: false,
            told_celestia: false,
            broken: None,
            events: 0,
            course: Draw::new(0, 0, run),
            seen: Observations::default(),
            observer,
            reports: Vec::new(),
            exit: None,
            kept: BTreeMap::new(),
            is_persisting: false,
            waiting: VecDeque::new(),
            has_come_back: false,
            bad_nodes,
            fallen: None,
            calls_at: BTreeMap::new(),
            busiest_site: None,
        };
        if simulation.bad_nodes.twin.is_some() {
            for cell in 0..simulation.scenario.rollups {
                simulation.excuse(CellId(cell), Kind::DoubleSigned);
            }
        }
        if simulation.limits.trust.trusting_period < Duration::from_hours(1) {
            for cell in 0..simulation.scenario.rollups {
                simulation.excuse(CellId(cell), Kind::ShortTrust);
            }
        }
        simulation.start_conductor();
        simulation
    }

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
        // A new process reads the clock anew.
        self.shown = shifted(self.now, self.skew);
        let mut seed = Draw::new(self.scenario.seed, self.lives, Spot { site: Site::Run, nth: 0 });
        let records = self.kept.iter().map(|(key, bytes)| Record::decode(key, bytes));
        let records: Vec<Record> = records.map(|record| record.expect("what was kept is whole")).collect();
        self.seen.started(&records, &self.limits);
        self.conductor = Conductor::new(self.limits.clone(), seed.array(), &records);
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

    fn crash(&mut self) {
        let sites: Vec<Site> = self.in_flight.values().map(|(_, site, _)| *site).collect();
        for site in sites {
            match site {
                Site::Execute(_) => self.hit(Probe::CrashInExecution),
                Site::Commit(_) => self.hit(Probe::CrashInCommit),
                Site::Session(_) => self.hit(Probe::CrashInOpening),
                _ => {}
            }
        }
        self.seen.crashed(self.now, self.world.rollups.values());
        // Of what was being written nobody knows whether it is durable.
        let written = self.queue.values().find_map(|item| match item {
            Item::Durable { records, life } if *life == self.lives => Some(records.clone()),
            _ => None,
        });
        let mut draw = Draw::new(self.scenario.seed, 5, Spot { site: Site::Disk, nth: self.lives });
        if let Some(records) = written.filter(|_| draw.below(2) == 0) {
            self.keep(&records);
        }
        self.start_conductor();
    }

    /// Runs until the scenario's end is reached.
    ///
    /// # Errors
    /// See [`Simulation::run`].
    pub fn finish(&mut self) -> Result<(), Violation> {
        self.run(Self::has_arrived)
    }

    fn has_arrived(&self) -> bool {
        (0..).zip(self.world.node_ids()).all(|(index, id)| {
            let arrived = self.world.rollups.get(id).is_none_or(|node| {
                let head = if self.scenario.mode.follows_firm() { node.firm() } else { node.soft() };
                head.0 >= self.scenario.blocks
            });
            arrived || self.is_excused(CellId(index))
        })
    }

    /// Whether a cell may stay where it is: it is parked, and a peer did what parks a cell.
    fn is_excused(&self, cell: CellId) -> bool {
        let believed = self.scenario.trust.soft == SoftTrust::Sequencer && self.scenario.mode == Mode::SoftAndFirm;
        let lied = !self.lies.is_empty() && believed;
        // With evidence from an earlier life the process ends with the first cell: others are not even installed.
        let is_parked = || match self.conductor.status(self.shown).cells.get(&cell) {
            Some(status) => status.phase == Phase::Parked,
            None => matches!(self.exit, Some(Exit::AllCellsParked { .. })),
        };
        // A clock that is ahead for ever, by more than trust lasts: every header is too old to begin with.
        let lasts = i128::try_from(self.limits.trust.trusting_period.as_nanos()).unwrap_or(i128::MAX);
        let cannot_begin = || self.conductor.status(self.shown).sequencer.trusted.is_none();
        if self.skew >= lasts && self.excused.get(&cell) == Some(&Kind::ShortTrust) && cannot_begin() {
            return true;
        }
        (lied || self.excused.contains_key(&cell)) && is_parked()
    }

    /// Runs until the faults are over and `is_done` holds.
    ///
    /// # Errors
    /// A violation of a safety invariant at any time, or of L1/L2 if the run does not arrive in time.
    pub fn run(&mut self, is_done: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let heal_at = self.started.after(Duration::from_secs(self.scenario.faulty_for_s));
        let end = heal_at.after(Duration::from_secs(self.scenario.healthy_for_s));
        let mut steps = 0_u64;
        while self.now < end && !self.is_over() {
            self.step();
            if let Some(violation) = self.broken.take() {
                return Err(violation);
            }
            steps += 1;
            // To look at every step would cost more than the steps.
            if self.now >= heal_at && steps.is_multiple_of(16) && is_done(self) {
                break;
            }
        }
        let published = oracle::Published::read(&self.world);
        for id in self.world.node_ids() {
            oracle::judge_among_lies(&self.world, &published, *id, &self.lies)?;
        }
        self.count_sessions()?;
        if self.busiest_second > CALLS_PER_SECOND_MAX {
            let detail = format!("{} calls in one second, most at {:?}", self.busiest_second, self.busiest_site);
            return Err(Violation::new("L8", detail));
        }
        if is_done(self) {
            self.seen.arrived(self.scenario.mode, self.world.node_ids().len());
            return self.watch.arrived(self.now.since(heal_at), &self.world, |cell| self.is_excused(cell));
        }
        let exit = self.exit.as_ref();
        let status = self.conductor.status(self.now);
        let last: Vec<&Report> = self.reports.iter().rev().take(8).collect();
        let id = self.watch.stalled(&self.conductor, self.shown, &self.world);
        Err(Violation::new(id, format!("the run did not arrive by {}: {exit:?}\n{status:#?}\n{last:#?}", self.now)))
    }

    fn is_over(&self) -> bool {
        self.exit.is_some() && self.restart_at.is_none()
    }

    /// L7: each session has a cause. A call that is late or lost may cost a session of its own, one that it takes from
    /// the next when it arrives after all, and one that follows.
    fn count_sessions(&self) -> Result<(), Violation> {
        for (index, id) in (0..).zip(self.world.node_ids()) {
            let Some(node) = self.world.rollups.get(id) else { continue };
            let opened = node.trace().filter(|call| matches!(call, rollup::Call::Opened(Ok(_)))).count() as u64;
            let causes = self.causes.get(&CellId(index)).copied().unwrap_or_default() + self.lives - 1;
            if opened > 1 + self.scenario.sessions.len() as u64 + 3 * causes {
                return Err(Violation::new("L7", format!("{opened} sessions were opened for {causes} causes")));
            }
        }
        Ok(())
    }

    fn blame(&mut self, site: Site) {
        if let Some(cell) = site.cell() {
            *self.causes.entry(CellId(cell)).or_default() += 1;
        }
    }

    pub(crate) fn excuse(&mut self, cell: CellId, kind: Kind) {
        self.excused.insert(cell, kind);
    }

    /// The validators of its height signed this header besides the one of the chain.
    pub(crate) fn signed_twice(&mut self, header: &Header) {
        self.watch.signed_twice(header);
    }

    pub(crate) fn lied_about(&mut self, height: SequencerHeight) {
        self.lies.insert(height);
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.now < self.started.after(Duration::from_secs(self.scenario.faulty_for_s))
    }

    /// Whether a fault happens here.
    pub(crate) fn fires(&mut self, kind: Kind, spot: Spot) -> Option<Draw> {
        self.fires_for(kind, spot, |_| Duration::ZERO).map(|(draw, _)| draw)
    }

    /// The same for a fault that lasts.
    fn fires_for(
        &mut self,
        kind: Kind,
        spot: Spot,
        lasts: impl FnOnce(&mut Draw) -> Duration,
    ) -> Option<(Draw, Timestamp)> {
        // What a schedule names happens, whenever that is.
        if !self.is_faulty() && !self.injector.is_explicit() {
            return None;
        }
        let mut draw = self.injector.fires(kind, spot)?;
        let until = self.now.after(lasts(&mut draw));
        if let Some(observer) = &mut self.observer {
            observer.fault(Firing { kind, at: spot.site, nth: spot.nth }, self.now, until);
        }
        self.blame(spot.site);
        Some((draw, until))
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
        let Some((deadline, _)) = self.conductor.next_deadline() else { return Timestamp::MAX };
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

    fn end_second(&mut self) {
        let calls_at = std::mem::take(&mut self.calls_at);
        if self.calls > self.busiest_second {
            self.busiest_site = calls_at.into_iter().max_by_key(|(_, calls)| *calls);
        }
        self.busiest_second = self.busiest_second.max(std::mem::take(&mut self.calls));
        if self.exit.is_none() && !self.is_persisting {
            let status = self.conductor.status(self.shown);
            if status.cells.values().any(|cell| cell.waiting_for.is_empty()) {
                self.broken = Some(Violation::new("L3", "a cell waits for nothing"));
            }
            self.seen.status(&status);
        }
        if self.restart_at.is_some_and(|at| at <= self.now) {
            self.start_conductor();
        }
        if let Some(asked) = self.stop_asked
            && self.exit.is_none()
            && !self.is_persisting
            && self.shown > asked.after(self.limits.stop_grace + Duration::from_secs(2))
            && self.now > self.paused_until
        {
            self.broken = Some(Violation::new("L9", "a requested stop takes longer than its grace"));
        }
        let healed = !self.is_faulty();
        if healed || self.relayer_until <= self.now {
            self.world.relayer.pause(false);
        }
        if healed || self.celestia_until <= self.now {
            self.world.celestia_stalled = false;
        }
        if healed || self.sequencer_until <= self.now {
            self.world.sequencer_stalled = false;
        }
        if healed && self.scenario.trust.level == Trust::Consensus {
            // A clock that is too slow for ever is no fault that passes: its node takes every header for one of the future.
            self.skew = self.skew.max(0);
        }
        if healed {
            self.cut_off.clear();
            self.held.clear();
            self.fallen = None;
        }
        let is_turn = self.elapsed().as_secs().is_multiple_of(self.scenario.pace.stretch());
        if is_turn && (!healed || self.injector.is_explicit()) {
            self.disturb();
        }
    }

    fn disturb(&mut self) {
        let stretch = self.scenario.pace.stretch();
        let seconds = |most: u64| move |draw: &mut Draw| Duration::from_secs(draw.within(1, most) * stretch);
        for (index, id) in (0..).zip(self.world.node_ids().to_vec()) {
            let spot = self.injector.pass(Site::Node(index));
            let restarts = self.fires(Kind::NodeRestart, spot).is_some();
            let forgets = self.fires(Kind::NodeAmnesia, spot).is_some();
            let revokes = self.fires(Kind::Revoked, spot).is_some();
            if restarts || forgets || revokes {
                *self.causes.entry(CellId(index)).or_default() += 1;
            }
            let Some(node) = self.world.rollups.get_mut(&id) else { continue };
            if restarts {
                node.restart();
            }
            let forgot = if forgets { node.restart_at_firm() } else { 0 };
            if revokes {
                node.revoke_session();
            }
            if forgot > 0 {
                self.hit(Probe::NodeForgotSoft);
            }
        }
        let spot = self.injector.pass(Site::Second);
        if let Some((mut draw, until)) = self.fires_for(Kind::Partition, spot, seconds(8)) {
            let peer = self.any_peer(&mut draw);
            self.cut_off.insert(peer, until);
        }
        if let Some((mut draw, until)) = self.fires_for(Kind::Held, spot, seconds(6)) {
            let peer = self.any_peer(&mut draw);
            self.held.insert(peer, until);
        }
        let nodes = self.scenario.trust.nodes;
        if nodes > 1
            && let Some((mut draw, until)) = self.fires_for(Kind::FallenNode, spot, seconds(20))
        {
            self.fallen = Some((Node(u32::try_from(draw.below(nodes.into())).unwrap_or(0)), until));
        }
        if let Some((_, until)) = self.fires_for(Kind::RelayerPause, spot, seconds(8)) {
            self.world.relayer.pause(true);
            self.relayer_until = until;
        }
        if let Some(mut draw) = self.fires(Kind::RelayerAmnesia, spot) {
            let first = self.world.sequencer.tail();
            let next = self.world.relayer.next().minus(draw.within(1, 8)).max(first);
            self.world.relayer.restart_from(next);
        }
        if let Some((_, until)) = self.fires_for(Kind::CelestiaStall, spot, seconds(8)) {
            self.world.celestia_stalled = true;
            self.celestia_until = until;
        }
        if let Some((_, until)) = self.fires_for(Kind::SequencerStall, spot, seconds(8)) {
            self.world.sequencer_stalled = true;
            self.sequencer_until = until;
        }
        if let Some(mut draw) = self.fires(Kind::ClockAhead, spot) {
            self.skew += i128::from(draw.within(1, 60)) * 1_000_000_000;
            self.blame_all();
        }
        if let Some(mut draw) = self.fires(Kind::ClockBack, spot) {
            self.skew -= i128::from(draw.within(1, 10)) * 1_000_000_000;
        }
        if let Some((_, until)) = self.fires_for(Kind::Pause, spot, seconds(8)) {
            self.pause(until);
        }
        if self.fires(Kind::Stop, spot).is_some() && self.exit.is_none() && self.stop_asked.is_none() {
            if self.in_flight.values().any(|(_, _, has_effect)| *has_effect) {
                self.hit(Probe::StopWaitedForCall);
            }
            self.deliver(Event::StopRequested);
        }
        if self.fires(Kind::Crash, spot).is_some() {
            self.crash();
        }
    }

    fn any_peer(&self, draw: &mut Draw) -> Peer {
        match draw.below(3 + self.world.node_ids().len() as u64) {
            0 => Peer::Sequencer,
            1 => Peer::CometBft,
            2 => Peer::Celestia,
            other => Peer::Node(u32::try_from(other - 3).unwrap_or(0)),
        }
    }

    /// The conductor stands still: what comes meanwhile comes all at once then.
    fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(until);
        self.seen.paused();
        let early: Vec<_> = self.queue.range(..(until, 0)).map(|(key, _)| *key).collect();
        for key in early {
            if let Some(item) = self.queue.remove(&key) {
                let at = if matches!(item, Item::Request { .. }) { key.0 } else { until };
                self.queue.insert((at, key.1), item);
            }
        }
        self.blame_all();
    }

    /// Every call to a rollup that is in flight may become overdue.
    fn blame_all(&mut self) {
        let sites: Vec<Site> = self.in_flight.values().map(|(_, site, _)| *site).collect();
        for site in sites {
            self.blame(site);
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Reply { event, kills } => {
                self.deliver(*event);
                if kills {
                    self.crash();
                }
            }
            Item::Work { id, job } => {
                let outcome = job.run_with(remembered());
                self.seen.verified(&outcome, self.shown);
                self.deliver(Event::JobFinished { id, outcome });
            }
            Item::Durable { records, life } => {
                if life == self.lives {
                    self.keep(&records);
                    self.is_persisting = false;
                    while self.lives == life
                        && !self.is_persisting
                        && let Some(command) = self.waiting.pop_front()
                    {
                        if matches!(command, Command::Call { call: Call::ExecuteBlock { .. }, .. }) {
                            self.hit(Probe::ActedAfterDisk);
                        }
                        self.command(command);
                    }
                }
            }
            Item::Request { id, deadline, call, node, spot, life } => {
                self.request(id, deadline, (call, node), spot, life);
            }
        }
    }

    /// A request arrives at its peer, or does not.
    fn request(&mut self, id: CommandId, deadline: Timestamp, (call, node): (Call, Node), spot: Spot, life: u64) {
        let peer = peer_of(spot.site);
        let is_rollup = spot.site.cell().is_some();
        if self.cut_off.get(&peer).is_some_and(|until| self.now < *until) {
            return self.blame(spot.site);
        }
        let is_down = self.fallen.is_some_and(|(fallen, until)| fallen == node && self.now < until);
        if peer == Peer::CometBft && (is_down || self.bad_nodes.silent == Some(node)) {
            return;
        }
        if is_rollup && life == self.lives && self.fires(Kind::CrashBefore, spot).is_some() {
            return self.crash();
        }
        if self.fires(Kind::Lost, spot).is_some() {
            return;
        }
        if let Some(observer) = &mut self.observer {
            observer.arrived(id, self.now);
        }
        let result = if self.fires(Kind::Refused, spot).is_some() {
            Err(Fault::transient("refused by the simulation"))
        } else {
            self.perform(call, node, spot)
        };
        if is_rollup && life == self.lives && self.fires(Kind::CrashBetween, spot).is_some() {
            return self.crash();
        }
        if self.fires(Kind::ReplyLost, spot).is_some() {
            return;
        }
        let result = if self.fires(Kind::ReplyFailed, spot).is_some() {
            Err(Fault::transient("the reply was lost"))
        } else {
            result
        };
        if result.as_ref().is_err_and(|fault| fault.class == FaultClass::SessionLost) {
            self.blame(spot.site);
        }
        let mut event = match result {
            Ok(answer) => Event::Answered { id, answer },
            Err(fault) => Event::Failed { id, fault },
        };
        if matches!(spot.site, Site::SoftBlock | Site::Header | Site::Headers | Site::Validators | Site::BlockData)
            && let Some(mut draw) = self.fires(Kind::Misdirected, spot)
        {
            let others: Vec<CommandId> = self.in_flight.keys().copied().filter(|other| *other != id).collect();
            if let (Event::Answered { id, .. }, Some(other)) = (&mut event, others.get(draw.index(others.len())))
                && self.in_flight.get(other).is_some_and(|(_, site, _)| site.cell().is_none() && *site != Site::Blobs)
            {
                *id = *other;
            }
        }
        let mut delay = self.latency(spot, 2);
        if let Some(mut draw) = self.fires(Kind::Slow, spot) {
            delay += Duration::from_millis(draw.within(1, self.scenario.delay_ms.max(1)));
        }
        if self.fires(Kind::Late, spot).is_some() {
            delay = delay.max(shifted(deadline, -self.skew).since(self.now) + Duration::from_millis(300));
        }
        if let Some(until) = self.held.get(&peer) {
            delay = delay.max(until.since(self.now));
        }
        if let Some(mut draw) = self.fires(Kind::Repeated, spot) {
            let later = delay + Duration::from_millis(draw.within(0, 500));
            self.schedule(later, Item::Reply { event: Box::new(event.clone()), kills: false });
        }
        let kills = is_rollup && life == self.lives && self.fires(Kind::CrashAfter, spot).is_some();
        self.schedule(delay, Item::Reply { event: Box::new(event), kills });
    }

    /// Gives the conductor an event and performs what it wishes.
    pub fn deliver(&mut self, mut event: Event) {
        // Any event may be named as the last one before a crash.
        if self.injector.is_explicit() {
            let spot = self.injector.pass(Site::Event);
            if self.injector.has(Kind::Crash) && self.fires(Kind::Crash, spot).is_some() {
                return self.crash();
            }
        }
        match &mut event {
            Event::Answered { answer: Answer::SequencerIdentified { .. }, .. } => self.told_sequencer = true,
            Event::Answered { answer: Answer::CelestiaHeadFetched { head }, .. } => {
                self.told_celestia = true;
                // The first one names the chain, and a wrong name ends the cell by design.
                if self.conductor.status(self.shown).celestia.chain_id.is_none() {
                    self.world.celestia.chain_id().clone_into(&mut head.chain_id);
                }
            }
            Event::StopRequested => self.stop_asked = Some(shifted(self.now, self.skew).max(self.shown)),
            _ => {}
        }
        let clock = shifted(self.now, self.skew);
        if clock < self.shown {
            self.hit(Probe::ClockHeld);
        }
        self.shown = self.shown.max(clock);
        if let Event::Answered { id, .. } | Event::Failed { id, .. } = &event
            && let Some((deadline, site, _)) = self.in_flight.remove(id)
            && deadline <= self.shown
        {
            self.blame(site);
        }
        let stamped = Stamped { seq: Seq(self.seq), at: self.shown, event };
        self.seq += 1;
        self.events += 1;
        let mut out = Outbox::new();
        let result = self.conductor.handle(&stamped, &mut out);
        if let Err(Refusal::OutOfSequence { .. } | Refusal::CellExists(_) | Refusal::TooManyCells(_)) = &result {
            self.broken = Some(Violation::new("L3", format!("{result:?} for {:?}", stamped.event)));
        }
        self.seen.event(&stamped.event, result.as_ref().err(), self.lives);
        let commands: Vec<Command> = out.drain().collect();
        self.watch.step(&stamped, result.is_err(), &commands, &self.conductor, &self.world);
        self.broken = self.broken.take().or_else(|| self.watch.take());
        if self.injector.is_explicit() || self.events.is_multiple_of(LEFTOVERS_EVERY) {
            self.look_for_leftovers();
        }
        if let Some(observer) = &mut self.observer {
            observer.step(&stamped, &result, &commands, &self.conductor);
        }
        let life = self.lives;
        for command in commands {
            // A life that is over does nothing any more.
            if self.lives != life {
                return;
            }
            // Persist, then act.
            if self.is_persisting {
                self.waiting.push_back(command);
            } else {
                self.command(command);
            }
        }
        if self.reports.len() > 4_096 {
            self.reports.drain(..2_048);
        }
        if self.in_flight.len() >= 20 {
            self.hit(Probe::ManyCallsInFlight);
        }
    }

    /// L3: what can be wished for after an event is wished for at once, and does not wait for another event.
    fn look_for_leftovers(&mut self) {
        if self.exit.is_some()
            || self.is_persisting
            || self.conductor.next_deadline().is_some_and(|(at, _)| at <= self.shown)
        {
            return;
        }
        let again = Stamped { seq: Seq(self.seq), at: self.shown, event: Event::DeadlineReached };
        let mut out = Outbox::new();
        let _ = self.conductor.clone().handle(&again, &mut out);
        let is_wish = |command: &&Command| !matches!(command, Command::Report(_));
        if let Some(left) = out.iter().find(is_wish) {
            let detail = format!("what could have been wished for waits for another event: {left:?}");
            self.broken = Some(Violation::new("L3", detail.chars().take(400).collect::<String>()));
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Persist { records } => self.persist(records),
            Command::Call { id, deadline, call, node } => {
                self.calls += 1;
                let is_identified = self.told_sequencer && (self.told_celestia || !self.scenario.mode.follows_firm());
                if matches!(call, Call::ExecuteBlock { .. }) && !is_identified {
                    self.broken = Some(Violation::new("S18", "a block was executed before the chains were known"));
                }
                if self.exit.is_some() {
                    self.broken = Some(Violation::new("L9", format!("a call after the exit: {call:?}")));
                }
                let (site, number) = summary(&call);
                *self.calls_at.entry(site).or_default() += 1;
                self.course.fold(number);
                let spot = self.injector.pass(site);
                self.course.fold(u64::from(site.cell().unwrap_or(0)));
                let has_effect = matches!(call, Call::ExecuteBlock { .. } | Call::UpdateCommitment { .. });
                self.in_flight.insert(id, (deadline, site_of(&call), has_effect));
                self.seen.call(&call, node, &self.world, &self.scenario);
                let mut delay = self.latency(spot, 1);
                if let Some(mut draw) = self.fires(Kind::Slow, spot) {
                    delay += Duration::from_millis(draw.within(1, self.scenario.delay_ms.max(1)));
                }
                self.schedule(delay, Item::Request { id, deadline, call, node, spot, life: self.lives });
            }
            Command::Verify { id, job } => {
                if let Job::VerifyCelestiaHeaders(job) = &job {
                    let is_signed = matches!(job.top, CelestiaTop::Signed { .. });
                    self.seen.hit_if(is_signed && job.headers.len() >= 2, Probe::CelestiaBlocksLinked);
                }
                let spot = Spot { site: Site::Event, nth: self.events };
                let delay = self.latency(spot, 3) / 10;
                self.schedule(delay, Item::Work { id, job: Box::new(job) });
            }
            // The request may be on its way already, and the answer is refused.
            Command::Cancel { id } => {
                let is_early = self.stop_asked.is_some_and(|asked| self.shown < asked.after(self.limits.stop_grace));
                if let Some((deadline, site, has_effect)) = self.in_flight.remove(&id) {
                    if self.shown >= deadline {
                        self.seen.overdue();
                        self.blame(site);
                    } else if has_effect && is_early {
                        self.broken = Some(Violation::new("L9", "a stop gave up a call that has an effect"));
                    }
                }
            }
            Command::Report(report) => {
                if let Report::Dropped { what, .. } = &report {
                    self.course.fold(1 << 32 | what.name().len() as u64);
                }
                self.seen.report(&report, &self.world);
                self.reports.push(report);
            }
            Command::Exit(exit) => {
                if exit == Exit::Stopped {
                    self.hit(Probe::StoppedGracefully);
                    self.restart_at = Some(self.now.after(Duration::from_secs(1)));
                }
                // Whoever looks after the process starts it again: evidence is not forgotten by that.
                if matches!(exit, Exit::AllCellsParked { .. }) && self.watch.has_evidence() && !self.has_come_back {
                    self.has_come_back = true;
                    self.restart_at = Some(self.now.after(Duration::from_secs(1)));
                }
                self.in_flight.clear();
                self.exit = Some(exit);
            }
        }
    }

    /// Records take their time until they are durable, and what stands behind them waits.
    fn persist(&mut self, records: Vec<Record>) {
        let spot = self.injector.pass(Site::Disk);
        if self.fires(Kind::DiskFailed, spot).is_some() {
            self.crash();
            return;
        }
        let mut delay = self.latency(spot, 4) / 10;
        if let Some(mut draw) = self.fires(Kind::SlowDisk, spot) {
            delay += Duration::from_millis(draw.within(1, self.scenario.delay_ms.clamp(1, 1_500)));
        }
        self.is_persisting = true;
        self.schedule(delay, Item::Durable { records, life: self.lives });
    }

    fn keep(&mut self, records: &[Record]) {
        self.kept.extend(records.iter().map(|record| (record.key(), record.encode())));
        self.watch.keeps(records);
    }
}

/// Shared by all runs of the process: their worlds have few seeds.
fn memo() -> &'static Arc<Memo> {
    static MEMO: OnceLock<Arc<Memo>> = OnceLock::new();
    MEMO.get_or_init(Arc::default)
}

/// Cuts the node's one endless session into several.
fn split_sessions(node: &mut RollupNode, scenario: &Scenario) {
    let Some(endless) = node.config().sessions.first().cloned() else { return };
    let mut next = endless.clone();
    let mut sessions = Vec::new();
    for length in &scenario.sessions {
        let end = next.rollup_start.plus(length.saturating_sub(1));
        sessions.push(SessionPlan { rollup_end: Some(end), ..next.clone() });
        next.rollup_start = end.next();
        next.sequencer_start = next.sequencer_start.plus(*length);
    }
    sessions.push(next);
    let config = node.config_mut();
    config.sessions = sessions;
    config.session_end = if scenario.mode.follows_firm() { SessionEnd::Firm } else { SessionEnd::Soft };
}
