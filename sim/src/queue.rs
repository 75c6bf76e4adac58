//! The event-queue tier: core and model world in one thread, jumping to the next event.

use std::{collections::BTreeMap, time::Duration};

use downbeat_core::{
    Answer, Call, CellId, Command, CommandId, Conductor, Event, Fault, FaultClass, Job, Limits, Outbox, RollupId, Seq,
    Stamped, Timestamp,
    cell::{CellSpec, Mode},
    command::{Exit, Report},
    event::{Blob, CelestiaHead},
    fault,
    wire::proto::astria::execution::v2::{
        ExecutedBlockIdentifier, GetExecutedBlockMetadataRequest, executed_block_identifier::Identifier,
    },
};
use downbeat_world::{
    RollupNode, World, WorldConfig,
    random::Random,
    rollup::{self, SessionEnd, SessionPlan, Status},
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{Violation, adversary, oracle};

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Feeds every choice of the run; the world has its own.
    pub seed: u64,
    pub world: WorldConfig,
    pub limits: Limits,
    pub mode: Mode,
    /// Lengths of the rollups' first sessions, in blocks; an endless one follows.
    pub sessions: Vec<u64>,
    pub faults: Faults,
    /// Virtual time during which faults happen; after it the world is healed.
    pub faulty_for: Duration,
    /// Virtual time after the healing within which the run must arrive.
    pub healthy_for: Duration,
}

/// How often what happens while faults happen. Chances in percent, per call unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Longest delay of a request and of a reply, each drawn on its own: this is what reorders.
    pub delay_ms: u64,
    /// The call has no effect and fails.
    pub refused: u8,
    /// The request disappears: neither effect nor answer.
    pub lost: u8,
    /// The call takes effect and the answer is a failure.
    pub reply_lost: u8,
    /// The answer comes twice.
    pub repeated: u8,
    /// The conductor is killed and started, per second.
    pub conductor_restarts: u8,
    /// The rollup node is killed and started, per second.
    pub node_restarts: u8,
    /// The session is revoked, per second.
    pub revocations: u8,
    /// Strangers post to the namespaces, per Celestia block.
    pub hostile_posts: u8,
}

/// More calls in one virtual second than any of these small worlds can need (L8).
const CALLS_PER_SECOND_MAX: u64 = 4_000;

/// More events in one moment than any of these small worlds can need (L8).
const STEPS_IN_MOMENT_MAX: u64 = 10_000;

/// A run.
#[derive(Debug)]
pub struct Simulation {
    plan: Plan,
    pub world: World,
    conductor: Conductor,
    seq: u64,
    lives: u64,
    now: Timestamp,
    order: u64,
    queue: BTreeMap<(Timestamp, u64), Item>,
    random: Random,
    started: Timestamp,
    next_second: Timestamp,
    last_celestia: u64,
    /// Calls in the current second.
    calls: u64,
    /// Most calls in one second so far.
    pub busiest_second: u64,
    /// Per cell: what went wrong with its rollup, each of which may cost a session (L7).
    causes: BTreeMap<CellId, u64>,
    /// Calls to rollups that were made and not answered yet: deadline, and whether they have an effect.
    rollup_calls: BTreeMap<CommandId, (Timestamp, CellId, bool)>,
    /// When the conductor was asked to stop.
    stop_asked: Option<Timestamp>,
    /// Steps since time moved.
    steps_in_moment: u64,
    /// Chain ids that this life of the conductor was told.
    told_sequencer: bool,
    told_celestia: bool,
    /// The first promise that was seen broken while running.
    broken: Option<Violation>,
    pub reports: Vec<Report>,
    pub exit: Option<Exit>,
}

#[derive(Debug)]
enum Item {
    Request { id: CommandId, call: Call },
    Reply(Box<Event>),
    Work { id: CommandId, job: Box<Job> },
}

impl Simulation {
    pub fn new(plan: Plan) -> Self {
        let mut world = World::new(plan.world.clone());
        for node in world.rollups.values_mut() {
            split_sessions(node, &plan);
        }
        let now = world.now();
        let mut simulation = Self {
            conductor: Conductor::new(plan.limits.clone(), [0; 32]),
            random: Random::new(plan.seed, "simulation"),
            plan,
            world,
            seq: 0,
            lives: 0,
            now,
            order: 0,
            queue: BTreeMap::new(),
            started: now,
            next_second: now,
            last_celestia: 0,
            calls: 0,
            busiest_second: 0,
            causes: BTreeMap::new(),
            rollup_calls: BTreeMap::new(),
            stop_asked: None,
            steps_in_moment: 0,
            told_sequencer: false,
            told_celestia: false,
            broken: None,
            reports: Vec::new(),
            exit: None,
        };
        simulation.start_conductor();
        simulation
    }

    /// Moment in the run.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A promise that was seen broken since [`Simulation::run`] looked last.
    pub fn broken(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    pub fn conductor(&self) -> &Conductor {
        &self.conductor
    }

    /// Kills the conductor and starts it with another mode.
    pub fn restart_as(&mut self, mode: Mode) {
        self.plan.mode = mode;
        self.start_conductor();
    }

    fn start_conductor(&mut self) {
        self.lives += 1;
        self.seq = 0;
        self.exit = None;
        (self.told_sequencer, self.told_celestia, self.stop_asked) = (false, false, None);
        self.conductor = Conductor::new(self.plan.limits.clone(), self.random.array());
        for index in 0..self.world.node_ids().len() {
            let cell = CellId(u32::try_from(index).unwrap_or(u32::MAX));
            let spec =
                CellSpec { mode: self.plan.mode, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
            self.deliver(Event::CellInstalled { cell, spec });
        }
    }

    /// Runs until the faults are over and `is_done` holds.
    ///
    /// # Errors
    /// A violation of a safety invariant at any time, or of L1/L2 if the run does not arrive in time.
    pub fn run(&mut self, is_done: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let heal_at = self.started.after(self.plan.faulty_for);
        let end = heal_at.after(self.plan.healthy_for);
        while self.now < end && self.exit.is_none() {
            self.step();
            if let Some(violation) = self.broken.take() {
                return Err(violation);
            }
            if self.now >= heal_at && is_done(self) {
                break;
            }
        }
        let published = oracle::Published::read(&self.world);
        for id in self.world.node_ids() {
            oracle::judge(&self.world, &published, *id)?;
        }
        self.count_sessions()?;
        if self.busiest_second > CALLS_PER_SECOND_MAX {
            let detail = format!("{} calls in one second", self.busiest_second);
            return Err(Violation { invariant: "L8", detail });
        }
        if is_done(self) {
            return Ok(());
        }
        let exit = self.exit.as_ref();
        let status = self.conductor.status(self.now);
        let last: Vec<&Report> = self.reports.iter().rev().take(8).collect();
        Err(Violation {
            invariant: "L1",
            detail: format!("the run did not arrive by {}: {exit:?}\n{status:#?}\n{last:#?}", self.now),
        })
    }

    /// L7: each session has a cause. A call that is late or lost may cost a session of its own, one that it takes from
    /// the next when it arrives after all, and one that follows.
    fn count_sessions(&self) -> Result<(), Violation> {
        for (index, id) in (0..).zip(self.world.node_ids()) {
            let Some(node) = self.world.rollups.get(id) else { continue };
            let opened = node.trace().filter(|call| matches!(call, rollup::Call::Opened(Ok(_)))).count() as u64;
            let causes = self.causes.get(&CellId(index)).copied().unwrap_or_default() + self.lives - 1;
            if opened > 1 + self.plan.sessions.len() as u64 + 3 * causes {
                return Err(Violation::new("L7", format!("{opened} sessions were opened for {causes} causes")));
            }
        }
        Ok(())
    }

    fn blame(&mut self, cell: impl Into<Option<CellId>>) {
        if let Some(cell) = cell.into() {
            *self.causes.entry(cell).or_default() += 1;
        }
    }

    fn is_faulty(&self) -> bool {
        self.now < self.started.after(self.plan.faulty_for)
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.is_faulty() && percent > 0 && self.random.chance(percent)
    }

    fn delay(&mut self) -> Duration {
        let most = if self.is_faulty() { self.plan.faults.delay_ms } else { 2 };
        Duration::from_micros(self.random.within(50, most.max(1) * 1_000))
    }

    fn schedule(&mut self, delay: Duration, item: Item) {
        self.order += 1;
        self.queue.insert((self.now.after(delay), self.order), item);
    }

    /// Takes the next event, whatever it is.
    pub fn step(&mut self) {
        let item_at = self.queue.first_key_value().map_or(Timestamp::MAX, |((at, _), _)| *at);
        let deadline = self.conductor.next_deadline().map_or(Timestamp::MAX, |(at, _)| at);
        if deadline == Timestamp::MAX && self.conductor.in_flight() == 0 && self.exit.is_none() {
            self.broken = Some(Violation::new("L3", "nothing is in flight and nothing is due"));
        }
        let next = item_at.min(deadline).min(self.world.next_event()).min(self.next_second);
        self.steps_in_moment = if next > self.now { 0 } else { self.steps_in_moment + 1 };
        if self.steps_in_moment > STEPS_IN_MOMENT_MAX {
            self.broken = Some(Violation::new("L8", "the conductor is busy and time does not move"));
        }
        self.now = self.now.max(next);
        self.world.step(self.now);
        if self.world.celestia.head().0 > self.last_celestia {
            self.last_celestia = self.world.celestia.head().0;
            if self.chance(self.plan.faults.hostile_posts) {
                adversary::post(&mut self.world, &mut self.random);
            }
        }
        if self.now >= self.next_second {
            self.next_second = self.now.after(Duration::from_secs(1));
            self.busiest_second = self.busiest_second.max(std::mem::take(&mut self.calls));
            if self.conductor.status(self.now).cells.values().any(|cell| cell.waiting_for.is_empty()) {
                self.broken = Some(Violation::new("L3", "a cell waits for nothing"));
            }
            self.disturb();
        }
        if item_at <= self.now {
            if let Some((_, item)) = self.queue.pop_first() {
                self.take(item);
            }
        } else if deadline <= self.now {
            self.deliver(Event::DeadlineReached);
        }
    }

    fn disturb(&mut self) {
        let faults = self.plan.faults;
        for (index, id) in (0..).zip(self.world.node_ids().to_vec()) {
            let (restart, revoke) = (self.chance(faults.node_restarts), self.chance(faults.revocations));
            if restart || revoke {
                self.blame(CellId(index));
            }
            if let Some(node) = self.world.rollups.get_mut(&id) {
                if restart {
                    node.restart();
                }
                if revoke {
                    node.revoke_session();
                }
            }
        }
        if self.chance(faults.conductor_restarts) {
            self.start_conductor();
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Reply(event) => self.deliver(*event),
            Item::Work { id, job } => {
                let outcome = job.run();
                self.deliver(Event::JobFinished { id, outcome });
            }
            Item::Request { id, call } => {
                let faults = self.plan.faults;
                let cell = rollup_of(&call);
                if self.chance(faults.lost) {
                    self.blame(cell);
                    return;
                }
                let result = if self.chance(faults.refused) {
                    self.blame(cell);
                    Err(Fault::transient("refused by the simulation"))
                } else {
                    let result = self.perform(call);
                    if self.chance(faults.reply_lost) {
                        self.blame(cell);
                        Err(Fault::transient("the reply was lost"))
                    } else {
                        result
                    }
                };
                let event = match result {
                    Ok(answer) => Event::Answered { id, answer },
                    Err(fault) => Event::Failed { id, fault },
                };
                if self.chance(faults.repeated) {
                    let delay = self.delay();
                    self.schedule(delay, Item::Reply(Box::new(event.clone())));
                }
                let delay = self.delay();
                self.schedule(delay, Item::Reply(Box::new(event)));
            }
        }
    }

    /// Gives the conductor an event and performs what it wishes.
    pub fn deliver(&mut self, event: Event) {
        let mut out = Outbox::new();
        match &event {
            Event::Answered { answer: Answer::SequencerIdentified { .. }, .. } => self.told_sequencer = true,
            Event::Answered { answer: Answer::CelestiaHeadFetched { .. }, .. } => self.told_celestia = true,
            Event::StopRequested => self.stop_asked = Some(self.now),
            _ => {}
        }
        if let Event::Answered { id, .. } | Event::Failed { id, .. } = &event
            && let Some((deadline, cell, _)) = self.rollup_calls.remove(id)
            && deadline <= self.now
        {
            self.blame(cell);
        }
        let stamped = Stamped { seq: Seq(self.seq), at: self.now, event };
        self.seq += 1;
        // Refusals of late and repeated answers are what is wanted here.
        let _ = self.conductor.handle(&stamped, &mut out);
        for command in out.drain() {
            match command {
                Command::Call { id, deadline, call } => {
                    self.calls += 1;
                    let is_identified = self.told_sequencer && (self.told_celestia || !self.plan.mode.follows_firm());
                    if matches!(call, Call::ExecuteBlock { .. }) && !is_identified {
                        self.broken = Some(Violation::new("S18", "a block was executed before the chains were known"));
                    }
                    if self.exit.is_some() {
                        self.broken = Some(Violation::new("L9", format!("a call after the exit: {call:?}")));
                    }
                    if let Some(cell) = rollup_of(&call) {
                        let has_effect = matches!(call, Call::ExecuteBlock { .. } | Call::UpdateCommitment { .. });
                        self.rollup_calls.insert(id, (deadline, cell, has_effect));
                    }
                    let delay = self.delay();
                    self.schedule(delay, Item::Request { id, call });
                }
                Command::Verify { id, job } => {
                    let delay = self.delay() / 10;
                    self.schedule(delay, Item::Work { id, job: Box::new(job) });
                }
                // The request may be on its way already, and the answer is refused.
                Command::Cancel { id } => {
                    let is_early =
                        self.stop_asked.is_some_and(|asked| self.now < asked.after(self.plan.limits.stop_grace));
                    if let Some((deadline, _, true)) = self.rollup_calls.remove(&id)
                        && is_early
                        && self.now < deadline
                    {
                        self.broken = Some(Violation::new("L9", "a stop gave up a call that has an effect"));
                    }
                }
                Command::Report(report) => self.reports.push(report),
                Command::Exit(exit) => self.exit = Some(exit),
            }
        }
        if self.reports.len() > 4_096 {
            self.reports.drain(..2_048);
        }
    }

    fn node_id(&self, cell: CellId) -> RollupId {
        let index = usize::try_from(cell.0).unwrap_or(usize::MAX);
        self.world.node_ids().get(index).copied().unwrap_or(RollupId([0; 32]))
    }

    /// The peer's side of a call.
    fn perform(&mut self, call: Call) -> Result<Answer, Fault> {
        let not_yet = || Fault::new(FaultClass::NotYet, "no such height yet");
        let sequencer = &self.world.sequencer;
        Ok(match call {
            Call::IdentifySequencer => Answer::SequencerIdentified { chain_id: sequencer.chain_id().to_owned() },
            Call::FetchSequencerHead => Answer::SequencerHeadFetched { height: sequencer.head() },
            Call::FetchSoftBlock { height, rollup_ids } => {
                let block = sequencer.filtered_block(height, &rollup_ids).ok_or_else(not_yet)?;
                Answer::SoftBlockFetched { block: block.encode_to_vec().into() }
            }
            Call::FetchSignedHeader { height } => {
                let signed_header = sequencer.signed_header(height).ok_or_else(not_yet)?;
                Answer::SignedHeaderFetched { signed_header: Box::new(signed_header.clone()) }
            }
            Call::FetchHeaders { first, last } => {
                let heights = (first.0..=last.0).map(downbeat_core::SequencerHeight);
                let headers = heights.filter_map(|height| sequencer.signed_header(height));
                Answer::HeadersFetched { headers: headers.map(|signed| signed.header.clone()).collect() }
            }
            Call::FetchValidators { height } => {
                Answer::ValidatorsFetched { validators: sequencer.validators(height).ok_or_else(not_yet)?.infos() }
            }
            Call::FetchBlockTransactions { height } => {
                Answer::BlockTransactionsFetched { transactions: sequencer.transactions(height).ok_or_else(not_yet)? }
            }
            Call::FetchCelestiaHead => {
                let celestia = &self.world.celestia;
                let block = celestia.block(celestia.head()).ok_or_else(not_yet)?;
                let chain_id = celestia.chain_id().to_owned();
                let head = CelestiaHead { chain_id, height: celestia.head(), time: block.time() };
                Answer::CelestiaHeadFetched { head }
            }
            Call::FetchBlobs { height, namespaces } => {
                let block = self.world.celestia.block(height).ok_or_else(not_yet)?;
                let wanted = block.blobs().iter().filter(|blob| namespaces.contains(&blob.namespace));
                let blobs = wanted.map(|blob| Blob { namespace: blob.namespace, data: blob.data.clone() }).collect();
                Answer::BlobsFetched { blobs, unreadable: 0 }
            }
            Call::OpenSession { cell } => {
                let session = self.node(cell)?.create_execution_session().map_err(|status| rollup_fault(&status))?;
                Answer::SessionOpened { session: Box::new(session) }
            }
            Call::ExecuteBlock { cell, request } => {
                let response = self.node(cell)?.execute_block(*request).map_err(|status| rollup_fault(&status))?;
                Answer::BlockExecuted { response: Box::new(response) }
            }
            Call::UpdateCommitment { cell, request } => {
                let commitment =
                    self.node(cell)?.update_commitment_state(*request).map_err(|status| rollup_fault(&status))?;
                Answer::CommitmentUpdated { commitment: Box::new(commitment) }
            }
            Call::FetchExecutedBlock { cell, number } => {
                let identifier = ExecutedBlockIdentifier { identifier: Some(Identifier::Number(number.0)) };
                let request = GetExecutedBlockMetadataRequest { identifier: Some(identifier) };
                let metadata =
                    self.node(cell)?.get_executed_block_metadata(request).map_err(|status| rollup_fault(&status))?;
                Answer::ExecutedBlockFetched { metadata: Box::new(metadata) }
            }
        })
    }

    fn node(&mut self, cell: CellId) -> Result<&mut RollupNode, Fault> {
        let id = self.node_id(cell);
        self.world.rollups.get_mut(&id).ok_or_else(|| Fault::transient("no such node"))
    }
}

/// The cell whose rollup is called.
fn rollup_of(call: &Call) -> Option<CellId> {
    match call {
        Call::OpenSession { cell }
        | Call::ExecuteBlock { cell, .. }
        | Call::UpdateCommitment { cell, .. }
        | Call::FetchExecutedBlock { cell, .. } => Some(*cell),
        _ => None,
    }
}

/// Cuts the node's one endless session into several.
fn split_sessions(node: &mut RollupNode, plan: &Plan) {
    let Some(endless) = node.config().sessions.first().cloned() else { return };
    let mut next = endless.clone();
    let mut sessions = Vec::new();
    for length in &plan.sessions {
        let end = next.rollup_start.plus(length.saturating_sub(1));
        sessions.push(SessionPlan { rollup_end: Some(end), ..next.clone() });
        next.rollup_start = end.next();
        next.sequencer_start = next.sequencer_start.plus(*length);
    }
    sessions.push(next);
    let config = node.config_mut();
    config.sessions = sessions;
    config.session_end = if plan.mode.follows_firm() { SessionEnd::Firm } else { SessionEnd::Soft };
}

fn rollup_fault(status: &Status) -> Fault {
    Fault::new(fault::execution_status(status.code as i32), status.to_string())
}
