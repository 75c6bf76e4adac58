//! One situation, what can happen in it, and what follows.

use std::{fmt, rc::Rc};

use downbeat_core::{
    Answer, Call, CellId, Command, CommandId, Conductor, Event, Fault, Job, JobOutcome, Outbox, Report, Seq, Stamped,
    Timestamp,
    cell::CellSpec,
    command::{Level, Subject},
    fault,
    view::Wait,
    wire::proto::astria::execution::v2::{
        ExecutedBlockIdentifier, GetExecutedBlockMetadataRequest, executed_block_identifier::Identifier,
    },
};
use downbeat_world::{RollupNode, rollup::Status};

use super::{
    Planted, Scope,
    canonical::{self, Digest, Frame},
    peers::Heads,
    probes::{Probe, Probes},
    rollup::{digest_of_node, execute, update},
    setting::{STEP, Setting},
    words::{what_call, what_job, what_result},
};
use crate::Violation;

/// Kinds of faults, each of which happens at most once in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Lost = 1,
    ReplyLost = 2,
    Refused = 4,
    Late = 8,
    Revoked = 16,
    Restarted = 32,
    Hostile = 64,
}

/// Something on its way.
#[derive(Clone, Debug)]
struct Item {
    id: CommandId,
    /// What it is, in words.
    what: Rc<str>,
    body: Body,
    /// For calls to the rollup: the session that they name, or were answered with.
    session: Option<Rc<str>>,
    /// The conductor does not wait for it any more, and it may have an effect nevertheless.
    stale: bool,
    digest: Digest,
}

#[derive(Clone, Debug)]
enum Body {
    Request(Rc<Call>),
    Reply(Rc<Answer>),
    Done(Rc<JobOutcome>),
}

/// More commands than the limits below leave room for (L8): identity, both heads, a soft block, a header, a stretch of
/// headers, data items, a Celestia height, and a call to the rollup.
const IN_FLIGHT_MAX: usize = 9;

/// A situation.
#[derive(Clone, Debug)]
pub(super) struct State {
    core: Rc<Core>,
    node: Rc<RollupNode>,
    items: Vec<Item>,
    heads: Heads,
    now: Timestamp,
    /// Faults that may still happen, and kinds that have.
    faults: u8,
    used: u8,
    crashes: u8,
    lives: u8,
    /// Celestia heights that were read, a bit each: what lies there is settled by now.
    read: u8,
    core_digest: Digest,
    node_digest: Digest,
}

#[derive(Clone, Debug)]
struct Core {
    conductor: Conductor,
    seq: u64,
}

/// What may happen next. Numbers are places in the list of what is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Arrive(u8),
    /// At its deadline: time passes by it.
    ArriveLate(u8),
    Lose(u8),
    Refuse(u8),
    LoseReply(u8),
    Time,
    SequencerBlock,
    CelestiaBlock,
    /// At this height.
    Hostile(u8),
    Crash,
    Revoke,
    RestartNode,
}

/// What a step leaves beside the next situation.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) probes: Probes,
    /// In words, if wanted.
    pub(super) notes: Option<Vec<String>>,
}

impl Log {
    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(text());
        }
    }
}

impl State {
    /// The situation right after the conductor was started.
    pub(super) fn first(setting: &Setting, log: &mut Log) -> Result<Self, Violation> {
        let scope = &setting.scope;
        let (sequencer, celestia) = if scope.growing { (1, 1) } else { setting.peers.blocks() };
        let mut state = Self {
            core: Rc::new(Core { conductor: Conductor::new(setting.limits.clone(), [0; 32], &[]), seq: 0 }),
            node: Rc::new(setting.peers.node().clone()),
            items: Vec::new(),
            heads: Heads { sequencer, celestia, hostile: 0 },
            now: setting.peers.begin(),
            faults: scope.faults,
            used: 0,
            crashes: scope.crashes,
            lives: 0,
            read: 0,
            core_digest: 0,
            node_digest: 0,
        };
        state.start_conductor(setting, log)?;
        state.core_digest = state.digest_of(&state.core.conductor);
        state.node_digest = digest_of_node(&state.node);
        Ok(state)
    }

    /// Equal for situations that have the same future.
    pub(super) fn digest(&self) -> Digest {
        let mut items: Vec<Digest> = self.items.iter().map(|item| self.digest_of_item(item)).collect();
        items.sort_unstable();
        let mut bytes = Vec::with_capacity(16 * (items.len() + 3));
        bytes.extend([self.heads.sequencer, self.heads.celestia, self.heads.hostile]);
        let read = if self.may(Kind::Hostile) { self.read } else { 0 };
        bytes.extend([self.faults, self.used, self.crashes, read]);
        for digest in [self.core_digest, self.node_digest].iter().chain(&items) {
            bytes.extend(digest.to_be_bytes());
        }
        canonical::of_bytes(&bytes)
    }

    /// Whether every block that the scope has is where it belongs.
    pub(super) fn has_arrived(&self, setting: &Setting) -> bool {
        let Scope { mode, soft, firm, spread, .. } = setting.scope;
        let (mut soft, firm) = (u64::from(soft), u64::from(firm));
        if mode.follows_firm() {
            soft = soft.min(firm + spread.max(1));
        }
        (!mode.follows_soft() || self.node.soft().0 >= soft) && (!mode.follows_firm() || self.node.firm().0 >= firm)
    }

    /// Everything that may happen, the ordinary first: whoever always takes the first one has a run without faults in
    /// which everything is delivered in the order in which it was sent.
    pub(super) fn choices(&self, setting: &Setting, choices: &mut Vec<Choice>) {
        choices.clear();
        let indexes = (0..self.items.len()).filter_map(|index| u8::try_from(index).ok());
        choices.extend(indexes.clone().map(Choice::Arrive));
        let (sequencer, celestia) = setting.peers.blocks();
        if self.heads.sequencer < sequencer {
            choices.push(Choice::SequencerBlock);
        }
        let can_publish = self.heads.celestia < celestia
            && setting.peers.made_of(self.heads.celestia.saturating_add(1)) <= self.heads.sequencer;
        if can_publish {
            choices.push(Choice::CelestiaBlock);
        }
        let is_quiet = self.is_quiet();
        if is_quiet || self.may(Kind::Late) {
            choices.push(Choice::Time);
        }
        if self.crashes > 0 {
            choices.push(Choice::Crash);
        }
        if self.faults == 0 {
            return;
        }
        for (index, item) in indexes.zip(&self.items) {
            match &item.body {
                Body::Request(call) if !item.stale => {
                    if self.may(Kind::Lost) {
                        choices.push(Choice::Lose(index));
                    }
                    if self.may(Kind::Refused) {
                        choices.push(Choice::Refuse(index));
                    }
                }
                Body::Reply(_) if !item.stale && self.may(Kind::ReplyLost) => choices.push(Choice::LoseReply(index)),
                _ => {}
            }
            let is_event = match &item.body {
                Body::Request(call) => is_answered_at_once(call, &setting.scope),
                Body::Reply(_) | Body::Done(_) => true,
            };
            if is_event && !item.stale && self.may(Kind::Late) {
                choices.push(Choice::ArriveLate(index));
            }
        }
        if self.may(Kind::Revoked) && self.node.session().is_some() {
            choices.push(Choice::Revoke);
        }
        if self.may(Kind::Restarted) && self.node.session().is_some() {
            choices.push(Choice::RestartNode);
        }
        if self.may(Kind::Hostile) {
            choices
                .extend((1..=self.heads.celestia).filter(|height| self.read & bit(*height) == 0).map(Choice::Hostile));
        }
    }

    fn may(&self, kind: Kind) -> bool {
        self.faults > 0 && self.used & kind as u8 == 0
    }

    fn spend(&mut self, kind: Kind) {
        self.faults -= 1;
        self.used |= kind as u8;
    }

    /// Whether the conductor waits for nothing but time and new blocks.
    fn is_quiet(&self) -> bool {
        self.items.iter().all(|item| item.stale)
    }

    /// A choice in words that name it among the choices of this situation.
    pub(super) fn describe(&self, choice: Choice, scope: &Scope) -> String {
        let item = |index: u8| {
            let index = usize::from(index);
            let Some(item) = self.items.get(index) else { return "nothing".to_owned() };
            let same = |other: &&Item| {
                other.what == item.what && std::mem::discriminant(&other.body) == std::mem::discriminant(&item.body)
            };
            match self.items.iter().take(index).filter(same).count() {
                0 => item.what.to_string(),
                before => format!("{} ({})", item.what, before + 1),
            }
        };
        match choice {
            Choice::Arrive(index) => match self.items.get(usize::from(index)).map(|item| &item.body) {
                Some(Body::Request(call)) if !is_answered_at_once(call, scope) => format!("request: {}", item(index)),
                Some(Body::Done(_)) => format!("done: {}", item(index)),
                _ => format!("answer: {}", item(index)),
            },
            Choice::ArriveLate(index) => format!("at its deadline: {}", item(index)),
            Choice::Lose(index) => format!("lost: {}", item(index)),
            Choice::Refuse(index) => format!("refused: {}", item(index)),
            Choice::LoseReply(index) => format!("reply lost: {}", item(index)),
            Choice::Time if self.is_quiet() => "time passes".to_owned(),
            Choice::Time => "time passes, what is in flight is late".to_owned(),
            Choice::SequencerBlock => "the sequencer makes a block".to_owned(),
            Choice::CelestiaBlock => "Celestia makes a block".to_owned(),
            Choice::Hostile(height) => format!("a stranger's copies lie at Celestia height {height}"),
            Choice::Crash => "the conductor crashes and starts".to_owned(),
            Choice::Revoke => "the session is revoked".to_owned(),
            Choice::RestartNode => "the rollup node restarts".to_owned(),
        }
    }

    /// What follows from a choice.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub(super) fn after(&self, choice: Choice, setting: &Setting, log: &mut Log) -> Result<Self, Violation> {
        let mut next = self.clone();
        let session = self.node.session();
        match choice {
            Choice::Arrive(index) => next.arrive(index, setting, log)?,
            Choice::ArriveLate(index) => {
                next.spend(Kind::Late);
                next.now = self.now.after(STEP);
                next.arrive(index, setting, log)?;
                next.check_deadlines()?;
            }
            Choice::Lose(index) => {
                next.spend(Kind::Lost);
                next.items.remove(index.into());
            }
            Choice::Refuse(index) => {
                next.spend(Kind::Refused);
                let item = next.items.remove(index.into());
                let fault = Fault::transient("refused by the search");
                next.deliver(Event::Failed { id: item.id, fault }, setting, log)?;
            }
            Choice::LoseReply(index) => {
                next.spend(Kind::ReplyLost);
                let item = next.items.remove(index.into());
                let fault = Fault::transient("the reply was lost");
                next.deliver(Event::Failed { id: item.id, fault }, setting, log)?;
            }
            Choice::Time => {
                if !self.is_quiet() {
                    next.spend(Kind::Late);
                }
                if self.items.iter().any(|item| matches!(item.body, Body::Done(_))) {
                    log.probes.hit(Probe::WorkOverdue);
                }
                next.now = self.now.after(STEP);
                let noticed_otherwise = next.after_refused_event()?;
                next.deliver(Event::DeadlineReached, setting, log)?;
                next.check_deadlines()?;
                // Work that is done at once has made a further step by now.
                if setting.scope.work_takes_time && next.digest_of(&next.core.conductor) != noticed_otherwise {
                    return Err(Violation::new("L3", "what falls due together with a refused event is overlooked"));
                }
            }
            Choice::SequencerBlock => next.heads.sequencer += 1,
            Choice::CelestiaBlock => next.heads.celestia += 1,
            Choice::Hostile(height) => {
                next.spend(Kind::Hostile);
                next.heads.hostile |= bit(height);
            }
            Choice::Crash => {
                next.crashes -= 1;
                next.crash(log);
                next.start_conductor(setting, log)?;
            }
            Choice::Revoke => {
                next.spend(Kind::Revoked);
                if self.items.iter().any(|item| item.session.is_some() && !item.stale) {
                    log.probes.hit(Probe::LostInFlight);
                }
                Rc::make_mut(&mut next.node).revoke_session();
            }
            Choice::RestartNode => {
                next.spend(Kind::Restarted);
                if self.node.uncommitted().next().is_some() {
                    log.probes.hit(Probe::RestartAfterExecute);
                }
                Rc::make_mut(&mut next.node).restart();
            }
        }
        if !Rc::ptr_eq(&self.core, &next.core) || session != next.node.session() {
            next.core_digest = next.digest_after(self.core_digest, self.action(choice), setting)?;
        }
        if !Rc::ptr_eq(&self.node, &next.node) {
            next.node_digest = digest_of_node(&next.node);
        }
        Ok(next)
    }

    /// Names what a choice does to the conductor.
    fn action(&self, choice: Choice) -> Digest {
        let (kind, item) = match choice {
            Choice::Arrive(index) => (0, Some(index)),
            Choice::Lose(index) => (1, Some(index)),
            Choice::Refuse(index) => (2, Some(index)),
            Choice::LoseReply(index) => (3, Some(index)),
            Choice::Time => (4, None),
            Choice::Crash => (5, None),
            Choice::Revoke => (6, None),
            Choice::RestartNode => (7, None),
            Choice::SequencerBlock | Choice::CelestiaBlock | Choice::Hostile(_) => (8, None),
            Choice::ArriveLate(index) => (9, Some(index)),
        };
        let mut bytes = vec![kind];
        if let Some(item) = item.and_then(|index| self.items.get(usize::from(index))) {
            bytes.extend(self.digest_of_item(item).to_be_bytes());
            if matches!(item.body, Body::Request(_)) {
                // What is answered follows from how far the peers are.
                bytes.extend([self.heads.sequencer, self.heads.celestia, self.heads.hostile]);
                bytes.extend(self.node_digest.to_be_bytes());
            }
        }
        canonical::of_bytes(&bytes)
    }

    fn digest_after(&self, before: Digest, action: Digest, setting: &Setting) -> Result<Digest, Violation> {
        let mut steps = setting.steps.borrow_mut();
        let is_checked = (before ^ action).is_multiple_of(128);
        match steps.get(&(before, action)) {
            Some(known) if is_checked && *known != self.digest_of(&self.core.conductor) => {
                Err(Violation::new("search", "equal situations have different futures: the digest leaves out too much"))
            }
            Some(known) => Ok(*known),
            None => {
                let digest = self.digest_of(&self.core.conductor);
                steps.insert((before, action), digest);
                Ok(digest)
            }
        }
    }

    fn digest_of_item(&self, item: &Item) -> Digest {
        let is_current = item.session.as_deref().is_some_and(|session| self.node.session() == Some(session));
        item.digest.wrapping_add(Digest::from(item.stale) * 2 + Digest::from(is_current))
    }

    fn digest_of(&self, conductor: &Conductor) -> Digest {
        canonical::of_state(conductor, self.frame())
    }

    fn frame(&self) -> Frame<'_> {
        let step = u64::try_from(STEP.as_nanos()).unwrap_or(u64::MAX);
        Frame { now: self.now.0, step, session: self.node.session() }
    }

    /// Checks what needs to be checked once per situation.
    pub(super) fn check(&self, setting: &Setting, log: &mut Log) -> Result<(), Violation> {
        let live = self.items.iter().filter(|item| !item.stale).count();
        if live > IN_FLIGHT_MAX {
            return Err(Violation::new("L8", format!("{live} commands are in flight")));
        }
        let to_rollup = |item: &&Item| {
            !item.stale && (item.session.is_some() || matches!(&item.body, Body::Request(call) if has_effect(call)))
        };
        if self.items.iter().filter(to_rollup).count() > 1 {
            return Err(Violation::new("S5", "the rollup is asked for two things at the same time"));
        }
        if live == 0 {
            if self.core.conductor.next_deadline().is_none() {
                return Err(Violation::new("L3", "nothing is in flight and nothing is due"));
            }
            let status = self.core.conductor.status(self.now);
            for cell in status.cells.values() {
                if cell.waiting_for.is_empty() {
                    return Err(Violation::new("L3", "the cell waits for nothing"));
                }
                if cell.waiting_for.iter().any(|wait| matches!(wait, Wait::Spread { .. })) {
                    log.probes.hit(Probe::SpreadLimit);
                }
            }
        }
        if self.has_arrived(setting) {
            log.probes.hit(Probe::Arrived);
        }
        Ok(())
    }

    fn start_conductor(&mut self, setting: &Setting, log: &mut Log) -> Result<(), Violation> {
        self.lives += 1;
        let conductor = Conductor::new(setting.limits.clone(), [self.lives; 32], &[]);
        self.core = Rc::new(Core { conductor, seq: 0 });
        let mode = setting.scope.mode;
        let spec = CellSpec { mode, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
        self.deliver(Event::CellInstalled { cell: CellId(0), spec }, setting, log)
    }

    /// Only what is on its way to the rollup node outlives the conductor.
    fn crash(&mut self, log: &mut Log) {
        if self.node.uncommitted().next().is_some() {
            log.probes.hit(Probe::CrashAfterExecute);
        }
        for item in &self.items {
            match &item.body {
                Body::Reply(answer) if matches!(**answer, Answer::CommitmentUpdated { .. }) => {
                    log.probes.hit(Probe::CrashWithCommit);
                }
                Body::Request(call) if !item.stale && has_effect(call) => log.probes.hit(Probe::CrashWithRequest),
                _ => {}
            }
        }
        self.items.retain_mut(|item| {
            item.stale = true;
            matches!(&item.body, Body::Request(call) if has_effect(call))
        });
    }

    fn arrive(&mut self, index: u8, setting: &Setting, log: &mut Log) -> Result<(), Violation> {
        let item = self.items.remove(index.into());
        let event = match item.body {
            Body::Reply(answer) => Event::Answered { id: item.id, answer: (*answer).clone() },
            Body::Done(outcome) => Event::JobFinished { id: item.id, outcome: (*outcome).clone() },
            Body::Request(call) => {
                let result = self.perform(&call, item.stale, setting, log)?;
                if item.stale {
                    log.note(|| format!("nobody waits for the answer: {}", what_result(&result)));
                    return Ok(());
                }
                match result {
                    Err(fault) => Event::Failed { id: item.id, fault },
                    Ok(answer) if is_answered_at_once(&call, &setting.scope) => Event::Answered { id: item.id, answer },
                    Ok(answer) => {
                        let session = match &answer {
                            Answer::SessionOpened { session } => Some(Rc::from(session.session_id.as_str())),
                            _ => item.session,
                        };
                        let text = format!("{answer:?}");
                        let text = session.as_deref().map_or(text.clone(), |session| text.replace(session, ""));
                        let digest = canonical::of_bytes(format!("reply {} {text}", item.what).as_bytes());
                        let body = Body::Reply(Rc::new(answer));
                        self.items.push(Item { id: item.id, what: item.what, body, session, stale: false, digest });
                        return Ok(());
                    }
                }
            }
        };
        self.deliver(event, setting, log)
    }

    fn check_deadlines(&self) -> Result<(), Violation> {
        if self.core.conductor.next_deadline().is_some_and(|(at, _)| at <= self.now) {
            return Err(Violation::new("L8", "a deadline that has come is due again without end"));
        }
        Ok(())
    }

    /// What becomes of the conductor if it notices that time has passed by an answer that nobody waits for.
    fn after_refused_event(&self) -> Result<Digest, Violation> {
        let mut core = (*self.core).clone();
        let id = CommandId { incarnation: 0, ordinal: u64::MAX };
        let event = Event::Failed { id, fault: Fault::transient("not asked for") };
        let stamped = Stamped { seq: Seq(core.seq), at: self.now, event };
        if core.conductor.handle(&stamped, &mut Outbox::new()).is_ok() {
            return Err(Violation::new("S10", "an answer that was not asked for is taken"));
        }
        Ok(self.digest_of(&core.conductor))
    }

    /// Gives the conductor an event, twice if it is an answer, and takes in what it wishes.
    fn deliver(&mut self, event: Event, setting: &Setting, log: &mut Log) -> Result<(), Violation> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut out = Outbox::new();
            let at = self.now;
            let core = Rc::make_mut(&mut self.core);
            let is_answer = !matches!(event, Event::DeadlineReached | Event::CellInstalled { .. });
            let stamped = Stamped { seq: Seq(core.seq), at, event };
            core.seq += 1;
            if let Err(refusal) = core.conductor.handle(&stamped, &mut out) {
                let detail = format!("an event that was waited for is refused: {refusal}");
                return Err(Violation::new("S10", detail));
            }
            // S10: the same answer once more.
            if is_answer {
                let mut none = Outbox::new();
                let again = Stamped { seq: Seq(core.seq), ..stamped };
                core.seq += 1;
                if core.conductor.handle(&again, &mut none).is_ok() || !none.is_empty() {
                    return Err(Violation::new("S10", "a repeated answer is taken"));
                }
            }
            for command in out.drain() {
                self.take(command, &mut events, setting, log)?;
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        command: Command,
        events: &mut Vec<Event>,
        setting: &Setting,
        log: &mut Log,
    ) -> Result<(), Violation> {
        match command {
            Command::Call { id, call, .. } => {
                let what = what_call(&call, &setting.peers);
                log.note(|| format!("asks: {what}"));
                let session = match &call {
                    Call::ExecuteBlock { request, .. } => Some(Rc::from(request.session_id.as_str())),
                    Call::UpdateCommitment { request, .. } => Some(Rc::from(request.session_id.as_str())),
                    _ => None,
                };
                match &call {
                    Call::FetchExecutedBlock { .. } => log.probes.hit(Probe::FirmLooksUp),
                    Call::FetchHeaders { .. } => log.probes.hit(Probe::Linked),
                    _ => {}
                }
                // Words for people name the session, the digest does not.
                let named = session.as_deref().map_or(what.clone(), |session: &str| format!("{what} in {session}"));
                let digest = canonical::of_bytes(format!("request {what}").as_bytes());
                let body = Body::Request(Rc::new(call));
                self.items.push(Item { id, what: named.into(), body, session, stale: false, digest });
            }
            Command::Persist { .. }
            | Command::JudgeGossip { .. }
            | Command::PublishGossip { .. }
            | Command::PenalizePeer { .. } => {}
            Command::Verify { id, job } => {
                let what = what_job(&job);
                if let Job::DecodeBlobs(job) = &job {
                    log.probes.hit(if job.headers.is_empty() { Probe::BlobsFirst } else { Probe::HeaderFirst });
                }
                let (outcome, digest) = setting.run(job);
                log.note(|| format!("works: {what}"));
                if setting.scope.work_takes_time {
                    let body = Body::Done(outcome);
                    self.items.push(Item { id, what: what.into(), body, session: None, stale: false, digest });
                } else {
                    events.push(Event::JobFinished { id, outcome: (*outcome).clone() });
                }
            }
            Command::Cancel { id } => self.cancel(id, log)?,
            Command::Report(report) => self.report(report, setting, log)?,
            Command::Exit(exit) => return Err(Violation::new("L1", format!("the conductor ends: {exit:?}"))),
        }
        Ok(())
    }

    /// Nobody waits for an answer any more. If it is there already, the conductor must refuse it and stay as it is.
    fn cancel(&mut self, id: CommandId, log: &mut Log) -> Result<(), Violation> {
        let Some(index) = self.items.iter().position(|item| item.id == id) else { return Ok(()) };
        let item = self.items.remove(index);
        let event = match item.body {
            Body::Request(call) if has_effect(&call) => {
                let body = Body::Request(call);
                self.items.insert(index, Item { stale: true, body, ..item });
                return Ok(());
            }
            Body::Request(_) => return Ok(()),
            Body::Reply(answer) => Event::Answered { id, answer: (*answer).clone() },
            Body::Done(outcome) => Event::JobFinished { id, outcome: (*outcome).clone() },
        };
        log.probes.hit(Probe::StaleAnswer);
        let mut core = (*self.core).clone();
        let mut out = Outbox::new();
        let result = core.conductor.handle(&Stamped { seq: Seq(core.seq), at: self.now, event }, &mut out);
        if result.is_ok() || self.digest_of(&core.conductor) != self.digest_of(&self.core.conductor) {
            return Err(Violation::new("S10", format!("an answer that nobody waits for is taken: {}", item.what)));
        }
        Ok(())
    }

    fn report(&mut self, report: Report, setting: &Setting, log: &mut Log) -> Result<(), Violation> {
        log.note(|| format!("reports: {report:?}"));
        match report {
            Report::Parked { reason, .. } => {
                return Err(Violation::new("L1", format!("the cell is parked and no peer lied: {reason}")));
            }
            Report::SessionLost { reason, .. }
                if self.faults == setting.scope.faults && self.crashes == setting.scope.crashes =>
            {
                return Err(Violation::new("L7", format!("a session is lost without a cause: {reason}")));
            }
            Report::SessionFinished { .. } => log.probes.hit(Probe::SessionEnds),
            Report::Dropped { what: Subject::Metadata, .. } => log.probes.hit(Probe::HostileDropped),
            Report::HeadMoved { level: Level::Firm, .. } if self.node.firm() == self.node.soft() => {
                log.probes.hit(Probe::FirmCatchesUp);
            }
            _ => {}
        }
        Ok(())
    }

    /// What a peer makes of a call.
    fn perform(
        &mut self,
        call: &Call,
        stale: bool,
        setting: &Setting,
        log: &mut Log,
    ) -> Result<Result<Answer, Fault>, Violation> {
        let planted = setting.scope.planted;
        let current = self.node.session().map(str::to_owned);
        let accepts = |session_id: &str| current.as_deref() == Some(session_id);
        let node = Rc::make_mut(&mut self.node);
        Ok(match call {
            Call::OpenSession { .. } => {
                if stale && current.is_some() && self.lives > 1 {
                    log.probes.hit(Probe::CrashTwiceOpened);
                }
                let opened = node.create_execution_session().map_err(|status| rollup_fault(&status));
                opened.map(|session| {
                    log.note(|| format!("the rollup opens {}", session.session_id));
                    Answer::SessionOpened { session: Box::new(session) }
                })
            }
            Call::ExecuteBlock { request, .. } => {
                let mut request = (**request).clone();
                if planted == Some(Planted::TakesOldSessions) {
                    request.session_id = current.clone().unwrap_or_default();
                }
                if stale {
                    log.probes.hit(if accepts(&request.session_id) {
                        Probe::LateExecute
                    } else {
                        Probe::FencedExecute
                    });
                }
                if planted == Some(Planted::ExecutesTwice) {
                    let _ = execute(node, &request, &setting.peers, log)?;
                }
                let executed = execute(node, &request, &setting.peers, log)?.map_err(|status| rollup_fault(&status));
                executed.map(|response| Answer::BlockExecuted { response: Box::new(response) })
            }
            Call::UpdateCommitment { request, .. } => {
                let mut request = (**request).clone();
                if planted == Some(Planted::TakesOldSessions) {
                    request.session_id = current.clone().unwrap_or_default();
                }
                if stale {
                    log.probes.hit(if accepts(&request.session_id) { Probe::LateCommit } else { Probe::FencedCommit });
                }
                let updated = update(node, request, &setting.peers, log)?.map_err(|status| rollup_fault(&status));
                updated.map(|commitment| Answer::CommitmentUpdated { commitment: Box::new(commitment) })
            }
            Call::FetchExecutedBlock { number, .. } => {
                let identifier = ExecutedBlockIdentifier { identifier: Some(Identifier::Number(number.0)) };
                let request = GetExecutedBlockMetadataRequest { identifier: Some(identifier) };
                let found = node.get_executed_block_metadata(request).map_err(|status| rollup_fault(&status));
                found.map(|metadata| Answer::ExecutedBlockFetched { metadata: Box::new(metadata) })
            }
            Call::FetchBlobs { height, .. } | Call::FetchNamespaces { height, .. } => {
                self.read |= u8::try_from(height.0).map_or(0, bit);
                setting.peers.answer(call, self.heads)
            }
            _ => setting.peers.answer(call, self.heads),
        })
    }
}

/// The bit of a height in a set.
fn bit(height: u8) -> u8 {
    1_u8.checked_shl(u32::from(height.saturating_sub(1))).unwrap_or(0)
}

fn has_effect(call: &Call) -> bool {
    matches!(call, Call::OpenSession { .. } | Call::ExecuteBlock { .. } | Call::UpdateCommitment { .. })
}

/// Whether the answer is the same whenever the request arrives: blocks that exist stay as they are. Heads move as long
/// as blocks are made, and calls to the rollup have effects.
fn is_answered_at_once(call: &Call, scope: &Scope) -> bool {
    let is_head = matches!(call, Call::FetchSequencerHead | Call::FetchCelestiaHead);
    !has_effect(call) && (!is_head || !scope.growing)
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "soft {} firm {}; on the way:", self.node.soft(), self.node.firm())?;
        for item in &self.items {
            write!(f, " [{}{}]", item.what, if item.stale { ", nobody waits" } else { "" })?;
        }
        Ok(())
    }
}

fn rollup_fault(status: &Status) -> Fault {
    Fault::new(fault::execution_status(status.code as i32), status.to_string())
}
