//! Judges what passes through the ports while a run goes on: every event that the conductor was given and every command
//! that it gave, against the model world. Asks the conductor itself for nothing but sizes (L8) and a digest (S14).

mod calls;
mod rollups;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use downbeat_core::{
    Answer, Call, CellId, Command, CommandId, Conductor, Event, FaultClass, Limits, Record, Report, SequencerHeight,
    Stamped, Timestamp,
    cell::Mode,
    event::CelestiaHead,
    light::{RootSetting, SoftTrust},
    sequencer::BlockFalsehood,
};
use downbeat_world::World;
use tendermint::block::{Header, signed_header::SignedHeader};

use crate::{Violation, oracle::Published, peers::encoded_block};

use calls::{Group, beginning, group_of, number_of, rollup_of};
use rollups::{Session, contradiction, names};
use trust::{has_quorum, height_of, parent_of, timestamp};

/// Time without faults after which soft must have led at least once, as a multiple of a fetch's deadline.
const SOFT_LEADS_WITHIN: u32 = 4;

/// Steps between two looks at what is held.
const GAUGE_EVERY: u64 = 128;

/// A call that was made.
#[derive(Clone, Debug)]
struct Open {
    deadline: Timestamp,
    call: Call,
}

/// Sees one run from its beginning to its end, through all lives of the conductor.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    mode: Mode,
    open: BTreeMap<CommandId, Open>,
    /// Jobs whose outcome was not delivered yet.
    working: BTreeSet<CommandId>,
    counts: BTreeMap<Group, usize>,
    answered: BTreeSet<CommandId>,
    /// Heights whose genuine header this life was shown with a commit that proves it, directly or by links.
    proven: BTreeSet<SequencerHeight>,
    /// Headers that validators signed besides those of the chain, by hash.
    twins: BTreeSet<tendermint::Hash>,
    /// What follows by its hash from such a one that this life was shown.
    below_twins: BTreeSet<tendermint::Hash>,
    /// The header that is durable.
    kept: Option<Box<Header>>,
    /// This life has handed out, or began with, a header to go on from.
    has_record: bool,
    /// The same for evidence: nothing is executed any more. And whether some is durable.
    has_evidence: bool,
    keeps_evidence: bool,
    /// Until then something that was shown to this life is in its trusting period.
    trusts_until: Option<Timestamp>,
    /// With trust on first use: it has not begun.
    is_first: bool,
    sessions: BTreeMap<CellId, Session>,
    /// Cells that have a reason to open a session.
    may_open: BTreeSet<CellId>,
    sequencer_id: Option<String>,
    celestia_head: Option<CelestiaHead>,
    /// Soft blocks were served that are not the genuine ones.
    lied: bool,
    /// By group and number: when it failed, if it was not made again since, and how often in a row that was too soon.
    failed: BTreeMap<(Group, u64), (Option<Timestamp>, u32)>,
    exact: u32,
    steps: u64,
    /// This life has ended: it takes everything and does nothing.
    over: bool,
    soft_moves: BTreeMap<CellId, u64>,
    /// What Celestia holds.
    published: Published,
    /// What servers answered as the block of each height, and of what falsehoods evidence is durable or was handed out.
    soft_answers: BTreeMap<u64, BTreeSet<Bytes>>,
    false_blocks: (BTreeSet<BlockFalsehood>, BTreeSet<BlockFalsehood>),
    /// When a call to a rollup node failed last.
    disturbed: BTreeMap<CellId, Timestamp>,
    broken: Option<Violation>,
}

impl Watch {
    pub fn new(limits: Limits, mode: Mode) -> Self {
        Self {
            limits,
            mode,
            open: BTreeMap::new(),
            working: BTreeSet::new(),
            counts: BTreeMap::new(),
            answered: BTreeSet::new(),
            proven: BTreeSet::new(),
            twins: BTreeSet::new(),
            below_twins: BTreeSet::new(),
            kept: None,
            has_record: false,
            has_evidence: false,
            keeps_evidence: false,
            trusts_until: None,
            is_first: false,
            sessions: BTreeMap::new(),
            may_open: BTreeSet::new(),
            sequencer_id: None,
            celestia_head: None,
            lied: false,
            failed: BTreeMap::new(),
            exact: 0,
            steps: 0,
            over: false,
            soft_moves: BTreeMap::new(),
            published: Published::default(),
            soft_answers: BTreeMap::new(),
            false_blocks: Default::default(),
            disturbed: BTreeMap::new(),
            broken: None,
        }
    }

    /// A new process begins: what the old one knew is gone.
    pub fn started(&mut self, mode: Mode) {
        self.mode = mode;
        self.open.clear();
        self.working.clear();
        self.counts.clear();
        self.answered.clear();
        let is_twin = |header: &Header| self.twins.contains(&header.hash());
        let kept = self.kept.as_deref();
        self.proven = kept.filter(|header| !is_twin(header)).map(height_of).into_iter().collect();
        self.below_twins = kept.filter(|header| is_twin(header)).and_then(parent_of).into_iter().collect();
        (self.has_record, self.has_evidence) = (self.kept.is_some(), self.keeps_evidence);
        let trust = &self.limits.trust;
        let genesis = match &trust.root {
            RootSetting::Genesis(genesis) => Some(timestamp(genesis.time)),
            RootSetting::Header { .. } | RootSetting::FirstUse => None,
        };
        let begins = self.kept.as_ref().map(|header| timestamp(header.time)).or(genesis);
        self.trusts_until = begins.map(|begins| begins.after(trust.trusting_period));
        self.is_first = begins.is_none();
        self.sessions.clear();
        self.may_open.clear();
        (self.sequencer_id, self.celestia_head, self.over) = (None, None, false);
        self.failed.clear();
        self.false_blocks.1.clone_from(&self.false_blocks.0);
    }

    /// A peer has shown the chain's header of a height, with its commit.
    pub fn shown_by_peer(&mut self, signed: &SignedHeader, now: Timestamp, world: &World) {
        let height = SequencerHeight(signed.header.height.value());
        if has_quorum(signed, height, world) && self.is_in_time(&signed.header, now) {
            self.proven.insert(height);
        }
        self.follows_by_hash(&signed.header, world);
    }

    /// Validators signed this header besides the one of the chain.
    pub fn signed_twice(&mut self, header: &Header) {
        self.twins.insert(header.hash());
    }

    /// Records are durable.
    pub fn keeps(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::SequencerHeader(record) => self.kept = Some(Box::new(record.header().clone())),
                Record::SequencerConflict(_) => self.keeps_evidence = true,
                Record::FalseBlock(evidence) => drop(self.false_blocks.0.insert(evidence.reason)),
                Record::CelestiaHeader(_) | Record::FalseNamespaces(_) => {}
            }
        }
    }

    /// Evidence was handed out.
    pub fn has_evidence(&self) -> bool {
        self.has_evidence
    }

    /// The first promise that was broken, once.
    pub fn take(&mut self) -> Option<Violation> {
        self.broken.take()
    }

    fn broken(&mut self, invariant: &'static str, detail: impl Into<String>) {
        self.broken.get_or_insert_with(|| Violation::new(invariant, detail));
    }

    /// The conductor has taken `input`, or refused it, wishes for `commands`, and wants to be woken at `due`.
    pub fn step(
        &mut self,
        input: &Stamped,
        refused: bool,
        commands: &[Command],
        conductor: &Conductor,
        due: Option<Timestamp>,
        world: &World,
    ) {
        let asked = self.event(input, refused, world);
        for command in commands {
            match command {
                Command::Call { id, deadline, call, .. } => self.call(*id, *deadline, call, input.at, world),
                Command::Cancel { id } => {
                    self.working.remove(id);
                    if let Some(open) = self.close(*id)
                        && let Some(cell) = rollup_of(&open.call)
                    {
                        self.may_open.insert(cell);
                        self.disturbed.insert(cell, input.at);
                        if input.at >= open.deadline {
                            self.outcome_unknown(cell, &open.call);
                        }
                    }
                }
                Command::Report(report) => self.report(report, input, asked.as_ref(), world),
                Command::Exit(_) => self.over = true,
                Command::Persist { records } => self.persists(records, input.at, world),
                Command::JudgeGossip { .. } | Command::PublishGossip { .. } | Command::PenalizePeer { .. } => {}
                Command::Verify { id, .. } => drop(self.working.insert(*id)),
            }
        }
        self.looks_at_waiting(conductor, due);
        if let (Event::Answered { answer: Answer::SessionOpened { session }, .. }, Some(Call::OpenSession { cell })) =
            (&input.event, &asked)
            && !self.over
            // With blocks from peers the first one may be at hand, in a cache that all cells share; or nothing can be
            // trusted any more.
            && !commands.iter().any(|command| executes(command, *cell) || parks(command, *cell))
        {
            self.begins_fresh(*cell, session, input.at, conductor);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(GAUGE_EVERY) {
            self.looks_at_spread(conductor, input.at);
            for gauge in conductor.gauges() {
                if gauge.held > gauge.bound {
                    self.broken("L8", format!("{}: {} of at most {}", gauge.name, gauge.held, gauge.bound));
                }
            }
        }
    }

    /// L3: everything that was asked for is waited for, and every call at most until its deadline.
    fn looks_at_waiting(&mut self, conductor: &Conductor, next: Option<Timestamp>) {
        if self.over {
            return;
        }
        let (waits, asked) = (conductor.in_flight(), self.open.len() + self.working.len());
        if waits != asked {
            self.broken("L3", format!("{asked} commands have no answer yet, {waits} are waited for"));
        }
        let first = self.open.values().map(|open| open.deadline).min();
        if first.is_some_and(|first| next.is_none_or(|next| next > first)) {
            self.broken("L3", format!("a call has until {first:?}, the next deadline is {next:?}"));
        }
    }

    fn close(&mut self, id: CommandId) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&group_of(&open.call)) {
            *count = count.saturating_sub(1);
        }
        Some(open)
    }

    /// Takes in what the conductor was told. Returns the call that it answers.
    fn event(&mut self, input: &Stamped, refused: bool, world: &World) -> Option<Call> {
        let (id, answer, fault) = match &input.event {
            Event::Answered { id, answer } => (*id, Some(answer), None),
            Event::Failed { id, fault } => (*id, None, Some(fault)),
            Event::CellInstalled { cell, .. } => {
                self.may_open.insert(*cell);
                return None;
            }
            Event::JobFinished { id, .. } => {
                if !refused {
                    self.working.remove(id);
                }
                return None;
            }
            _ => return None,
        };
        let fits = self.open.get(&id).is_some_and(|open| answer.is_none_or(|answer| open.call.is_answered_by(answer)));
        if !fits {
            // S10, S18: repeated, late, foreign and misdirected answers are refused. Commands may follow nevertheless,
            // since time has passed.
            if !refused && !self.over {
                let invariant = if self.answered.contains(&id) { "S10" } else { "S18" };
                let event: String = format!("{:?}", input.event).chars().take(80).collect();
                self.broken(invariant, format!("an answer that nobody waited for was taken: {event}"));
            }
            return None;
        }
        let Open { call, .. } = self.close(id)?;
        self.answered.insert(id);
        if let Some(fault) = fault {
            if let Some(cell) = rollup_of(&call) {
                self.may_open.insert(cell);
                self.disturbed.insert(cell, input.at);
                if fault.class == FaultClass::Transient {
                    self.outcome_unknown(cell, &call);
                }
            }
            let key = (group_of(&call), number_of(&call));
            self.failed.entry(key).or_default().0 = Some(input.at);
        }
        if let Some(answer) = answer {
            self.answer(&call, answer, input.at, world);
        }
        Some(call)
    }

    fn answer(&mut self, call: &Call, answer: &Answer, now: Timestamp, world: &World) {
        if let (Call::FetchSoftBlock { height, .. }, Answer::SoftBlockFetched { block }) = (call, answer) {
            self.soft_answers.entry(height.0).or_default().insert(block.clone());
        }
        match (call, answer) {
            (_, Answer::SequencerIdentified { chain_id }) => self.sequencer_id = Some(chain_id.clone()),
            (_, Answer::CelestiaHeadFetched { head }) => {
                self.celestia_head.get_or_insert_with(|| head.clone());
            }
            (Call::FetchSoftBlock { height, rollup_ids }, Answer::SoftBlockFetched { block })
                if !self.lied && self.limits.trust.soft == SoftTrust::Sequencer =>
            {
                self.lied = encoded_block(world, *height, rollup_ids).is_none_or(|genuine| genuine != *block);
            }
            (_, Answer::SignedHeaderFetched { signed_header }) => {
                let height = SequencerHeight(signed_header.header.height.value());
                let is_genuine = has_quorum(signed_header, height, world);
                let is_signed = is_genuine || self.twins.contains(&signed_header.header.hash());
                // S12: nothing follows from what is too old, whoever signed it.
                if is_signed && self.is_in_time(&signed_header.header, now) {
                    if is_genuine {
                        self.proven.insert(height);
                    } else {
                        self.below_twins.extend(parent_of(&signed_header.header));
                    }
                }
                self.follows_by_hash(&signed_header.header, world);
            }
            (_, Answer::HeadersFetched { headers }) => {
                let mut headers: Vec<_> = headers.iter().collect();
                headers.sort_by_key(|header| std::cmp::Reverse(header.height));
                for header in headers {
                    self.follows_by_hash(header, world);
                }
            }
            (Call::OpenSession { cell }, Answer::SessionOpened { session }) => {
                match Session::of(session) {
                    Some(session) => drop(self.sessions.insert(*cell, session)),
                    None => drop(self.sessions.remove(cell)),
                }
                self.may_open.remove(cell);
            }
            (Call::ExecuteBlock { cell, request }, Answer::BlockExecuted { response }) => {
                let Some(session) = self.sessions.get_mut(cell).filter(|session| session.id == request.session_id)
                else {
                    return;
                };
                let (next, parent) = (session.soft.number + 1, &request.parent_hash);
                session.wrong = match &response.executed_block_metadata {
                    None => Some("a reply without a block".to_owned()),
                    Some(block) => contradiction(block, next, Some(parent), &request.sequencer_block_hash),
                };
            }
            (Call::UpdateCommitment { cell, request }, Answer::CommitmentUpdated { commitment }) => {
                let Some(session) = self.sessions.get_mut(cell).filter(|session| session.id == request.session_id)
                else {
                    return;
                };
                let Some((told, echo)) = request.commitment_state.as_ref().map(names).zip(Some(names(commitment)))
                else {
                    return;
                };
                if told != echo {
                    session.wrong = Some(format!("told {told:?} it repeats {echo:?}"));
                    return;
                }
                session.soft = commitment.soft_executed_block_metadata.clone().unwrap_or_default();
                session.firm = commitment.firm_executed_block_metadata.clone().unwrap_or_default();
                let head = if self.mode.follows_firm() { &session.firm } else { &session.soft };
                if session.end > 0 && head.number >= session.end {
                    self.may_open.insert(*cell);
                }
            }
            (Call::FetchExecutedBlock { cell, number }, Answer::ExecutedBlockFetched { metadata }) => {
                let Some(session) = self.sessions.get_mut(cell) else { return };
                // What it was made from is compared with the block that the validators committed to.
                let genuine =
                    world.sequencer.block(world.sequencer_height(*number)).map(|block| block.hash().to_string());
                let firm = session.firm.hash.clone();
                session.wrong = contradiction(metadata, number.0, Some(&firm), &genuine.unwrap_or_default());
                if number.0 == session.soft.number && metadata.hash != session.soft.hash {
                    session.wrong = Some("another hash than that of its soft block".to_owned());
                }
            }
            _ => {}
        }
    }

    fn outcome_unknown(&mut self, cell: CellId, call: &Call) {
        let of = match call {
            Call::ExecuteBlock { request, .. } => &request.session_id,
            Call::UpdateCommitment { request, .. } => &request.session_id,
            _ => return,
        };
        if let Some(session) = self.sessions.get_mut(&cell).filter(|session| session.id == *of) {
            session.unknown = Some(beginning(call, 60));
        }
    }

    /// L4, L5: a cell is parked only by what cannot pass.
    fn report(&mut self, report: &Report, input: &Stamped, asked: Option<&Call>, world: &World) {
        if let Report::TrustedOnFirstUse { height, .. } = report {
            if self.kept.is_some() {
                self.broken("S16", format!("trust began anew with header {height}, and a record was kept"));
            }
            self.is_first = false;
        }
        let Report::Parked { cell, reason } = report else { return };
        let chains = (world.sequencer.chain_id(), world.celestia.chain_id());
        let is_explained = match &input.event {
            Event::Failed { fault, .. } => {
                asked.and_then(rollup_of) == Some(*cell)
                    && matches!(fault.class, FaultClass::Fatal | FaultClass::Invalid | FaultClass::Gone)
            }
            Event::Answered { answer: Answer::SessionOpened { session }, .. } => Session::of(session).is_none(),
            Event::Answered { answer: Answer::SequencerIdentified { chain_id }, .. } => chain_id != chains.0,
            Event::Answered { answer: Answer::CelestiaHeadFetched { head }, .. } => head.chain_id != chains.1,
            Event::Answered { .. } => {
                let wrong = self.sessions.get(cell).is_some_and(|session| session.wrong.is_some());
                asked.and_then(rollup_of) == Some(*cell) && wrong
            }
            _ => false,
        };
        let is_expired = reason.contains("the trusting period is over");
        let is_conflict = self.has_evidence && reason.contains("signed two headers");
        let is_explained =
            is_explained || is_conflict || is_expired && self.limits.trust.trusting_period < Duration::from_hours(1);
        // S9: once the soft source has lied, any event may be the one that shows the conflict.
        if !is_explained && !self.lied {
            let invariant = if matches!(input.event, Event::JobFinished { .. }) { "L4" } else { "L5" };
            self.broken(invariant, format!("{cell} was parked for what passes: {reason}"));
        }
    }

    /// What explains that a run did not arrive: the invariant to name.
    pub fn stalled(&self, conductor: &Conductor, now: Timestamp, world: &World) -> &'static str {
        let status = conductor.status(now);
        let follows_firm = self.mode.follows_firm();
        let of_rollup = self.open.values().filter(|open| rollup_of(&open.call).is_some());
        let overdue = of_rollup.filter(|open| open.deadline < now).count();
        let sequencer = status.sequencer.head.is_none_or(|head| head.plus(10) < world.sequencer.head());
        let celestia = status.celestia.head.is_none_or(|head| head.plus(10) < world.celestia.head());
        if status.sequencer.chain_id.is_none() || (follows_firm && status.celestia.chain_id.is_none()) {
            "L10"
        } else if overdue > 0 {
            "L3"
        } else if sequencer || (follows_firm && celestia) {
            "L6"
        } else if follows_firm {
            "L1"
        } else {
            "L2"
        }
    }

    /// L2 where firm is followed as well: a rollup that follows new blocks without faults for so long has led with soft.
    /// What lies on Celestia by then may be caught up with before that. `healthy` is how long the world has had no faults,
    /// `now` what the conductor's clock shows.
    pub fn arrived(
        &self,
        healthy: Duration,
        now: Timestamp,
        world: &World,
        excused: impl Fn(CellId) -> bool,
    ) -> Result<(), Violation> {
        let long = self.limits.fetch_deadline * SOFT_LEADS_WITHIN;
        if self.mode != Mode::SoftAndFirm || healthy < long {
            return Ok(());
        }
        for (index, id) in (0..).zip(world.node_ids()) {
            let cell = CellId(index);
            let undisturbed = self.disturbed.get(&cell).is_none_or(|at| now.since(*at) >= long);
            if undisturbed && !self.soft_moves.contains_key(&cell) && !excused(cell) {
                return Err(Violation::new("L2", format!("rollup {id} never had a soft block before its firm one")));
            }
        }
        Ok(())
    }
}

fn parks(command: &Command, of: CellId) -> bool {
    matches!(command, Command::Report(Report::Parked { cell, .. }) if *cell == of)
}

fn executes(command: &Command, of: CellId) -> bool {
    matches!(command, Command::Call { call: Call::ExecuteBlock { cell, .. }, .. } if *cell == of)
}
