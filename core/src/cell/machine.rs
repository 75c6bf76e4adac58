//! The soft/firm machine of one cell.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use crate::{
    calls::{Calls, Purpose},
    canary::{Canary, canary},
    celestia::Joiner,
    cell::{CellSpec, Commitment, ExecutedBlock, Session},
    command::{Call, Level, Outbox, Report},
    fault::{Fault, FaultClass},
    ids::{BlockHash, CelestiaHeight, CellId, RollupNumber, SequencerHeight},
    limits::Limits,
    retry::{Attempt, backoff},
    sequencer::{ContentHash, SequencedBlock},
    time::Timestamp,
    verified::Verified,
    wire::proto::astria::execution::v2 as proto,
};

/// How often a rollup may deny that a block exists which it has committed, before the session is given up.
const LOOKUPS_MAX: u32 = 5;

/// What every step of the machine needs.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    pub(crate) limits: &'a Limits,
    pub(crate) calls: &'a mut Calls,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) out: &'a mut Outbox,
}

#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) id: CellId,
    pub(crate) spec: CellSpec,
    pub(crate) state: State,
    /// The call that opens the next session.
    pub(crate) opening: Attempt,
    /// Sessions lost, or found finished, shortly after one another.
    losses: u32,
    last_loss: Timestamp,
    /// What this process executed softly and firm has not confirmed yet. Outlives sessions: see `adopt_remembered`.
    remembered: BTreeMap<RollupNumber, Remembered>,
    pub(crate) executed: u64,
    pub(crate) sessions: u64,
    #[cfg(feature = "canaries")]
    joiner_left: Option<Joiner>,
    /// The gap that was reported last.
    reported_gap: Option<(SequencerHeight, CelestiaHeight)>,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    Opening,
    Running(Box<Running>),
    Parked(String),
    Stopped,
}

/// A cell with a session.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) session: Session,
    /// Only in modes that follow firm.
    pub(crate) joiner: Option<Joiner>,
    /// Both chains are known to be the expected ones.
    pub(crate) identified: bool,
    /// A head moved in this session.
    has_moved: bool,
    pub(crate) step: Option<Step>,
}

/// A block that was executed softly.
#[derive(Clone, Debug)]
struct Remembered {
    executed: ExecutedBlock,
    height: SequencerHeight,
    block_hash: BlockHash,
    content: ContentHash,
}

/// The one thing that is being done with the rollup.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) attempt: Attempt,
    pub(crate) work: Work,
}

#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Execute the next block. `firm` is the Celestia height of a firm block.
    Execute { block: Verified<SequencedBlock>, number: RollupNumber, firm: Option<CelestiaHeight> },
    /// Move the commitment to `next`.
    Commit { next: Box<Commitment>, moved: Moved },
    /// Ask what the rollup has at a number that firm wants to confirm.
    LookUp { number: RollupNumber, block: Verified<SequencedBlock>, celestia: CelestiaHeight },
}

/// What a commitment changes.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) level: Level,
    pub(crate) number: RollupNumber,
    height: SequencerHeight,
    block_hash: BlockHash,
    content: ContentHash,
    celestia: Option<CelestiaHeight>,
}

impl Cell {
    pub(crate) fn new(id: CellId, spec: CellSpec) -> Self {
        Self {
            id,
            spec,
            state: State::Opening,
            opening: Attempt::default(),
            losses: 0,
            last_loss: Timestamp::ZERO,
            remembered: BTreeMap::new(),
            executed: 0,
            sessions: 0,
            #[cfg(feature = "canaries")]
            joiner_left: None,
            reported_gap: None,
        }
    }

    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    /// How many soft blocks are remembered until firm confirms them.
    pub(crate) fn remembered(&self) -> usize {
        self.remembered.len()
    }

    pub(crate) fn joiner_mut(&mut self) -> Option<&mut Joiner> {
        self.running_mut()?.joiner.as_mut()
    }

    /// Whether the cell will never do anything again.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Parked(_) | State::Stopped)
    }

    /// Highest height that soft may execute now, given the spread limit and the session's end.
    pub(crate) fn soft_bound(&self, limits: &Limits) -> Option<(SequencerHeight, SequencerHeight)> {
        let running = self.running()?;
        if !self.spec.mode.follows_soft() || !running.identified {
            return None;
        }
        let next = running.session.next_soft()?;
        let mut last = running.session.map.end_height().unwrap_or(SequencerHeight(u64::MAX));
        if canary(Canary::SessionEndOneLate) && last.0 < u64::MAX {
            last = last.next();
        }
        if self.spec.mode.follows_firm() && !canary(Canary::SpreadIgnored) {
            // Soft may be at most `soft_firm_spread` heights ahead of firm (L2: at least one, or it could never move).
            last = last.min(running.session.next_firm()?.plus(limits.soft_firm_spread.max(1) - 1));
        }
        if self.spec.mode.follows_firm() && canary(Canary::SpreadOneTooSmall) {
            last = last.minus(1);
        }
        (next <= last).then_some((next, last))
    }

    /// Opens a session when it is time.
    pub(crate) fn open_session(&mut self, ctx: &mut Context<'_>) {
        if matches!(self.state, State::Opening) && self.opening.is_due(ctx.now) {
            let deadline = ctx.now.after(ctx.limits.execution_deadline);
            let id = ctx.calls.call(Purpose::Session(self.id), deadline, Call::OpenSession { cell: self.id }, ctx.out);
            self.opening.started(id);
        }
    }

    pub(crate) fn session_opened(&mut self, session: proto::ExecutionSession, ctx: &mut Context<'_>) {
        let session = match Session::from_wire(session, &self.spec, ctx.limits) {
            Ok(session) => session,
            Err(error) => return self.park(format!("the rollup's session cannot be used: {error}"), ctx),
        };
        self.sessions = self.sessions.saturating_add(1);
        self.adopt_remembered(&session);
        ctx.out.report(Report::SessionOpened {
            cell: self.id,
            session_id: session.id.clone(),
            rollup_id: session.rollup_id,
            soft: session.commitment.soft.number(),
            firm: session.commitment.firm.number(),
        });
        self.opening.succeeded(ctx.now);
        if session.is_finished(self.spec.mode) {
            return self.session_finished(session.commitment.firm.number(), ctx);
        }
        let joiner = match (self.spec.mode.follows_firm(), session.next_firm()) {
            (true, Some(next)) => {
                Some(Joiner::new(session.rollup_id, next, session.commitment.lowest, session.look_ahead))
            }
            _ => None,
        };
        #[cfg(feature = "canaries")]
        let joiner = match self.joiner_left.take() {
            Some(left) if canary(Canary::JoinerSurvivesSession) && joiner.is_some() => Some(left),
            _ => joiner,
        };
        self.reported_gap = None;
        self.state =
            State::Running(Box::new(Running { session, joiner, identified: false, has_moved: false, step: None }));
    }

    /// Keeps what was executed before this session where the rollup's soft head proves that it is still on that chain.
    fn adopt_remembered(&mut self, session: &Session) {
        let mut hash = session.commitment.soft.hash().to_owned();
        let mut linked = BTreeMap::new();
        while let Some((number, remembered)) = self.remembered.pop_last() {
            let is_mapped = session.map.to_sequencer(number) == Ok(remembered.height);
            if number > session.commitment.soft.number() {
                continue;
            }
            if !is_mapped || remembered.executed.hash() != hash || number <= session.commitment.firm.number() {
                break;
            }
            remembered.executed.parent_hash().clone_into(&mut hash);
            linked.insert(number, remembered);
        }
        self.remembered = linked;
    }

    /// Checks the chain ids once both that the mode needs are known.
    pub(crate) fn identify(&mut self, sequencer: Option<&str>, celestia: Option<&str>, ctx: &mut Context<'_>) {
        let follows_firm = self.spec.mode.follows_firm();
        let Some(running) = self.running_mut() else { return };
        if running.identified {
            return;
        }
        let session = &running.session;
        let mut expected = vec![("sequencer", &session.sequencer_chain_id, sequencer)];
        if follows_firm && !canary(Canary::CelestiaIdentitySkipped) {
            expected.push(("Celestia", &session.celestia_chain_id, celestia));
        }
        let wrong = expected.iter().find_map(|(chain, expected, actual)| match actual {
            Some(actual) if actual != expected => {
                Some(format!("the {chain} endpoint serves chain {actual:?}, the rollup expects {expected:?}"))
            }
            _ => None,
        });
        if let Some(reason) = wrong {
            return self.park(reason, ctx);
        }
        if expected.iter().all(|(_, _, actual)| actual.is_some()) {
            running.identified = true;
        }
    }

    /// Starts the next step if there is none, and makes its call when it is time.
    /// `soft` is the verified soft block of the next soft height, if it is there.
    pub(crate) fn advance(&mut self, soft: Option<&Verified<SequencedBlock>>, stopping: bool, ctx: &mut Context<'_>) {
        let Some(running) = self.running() else { return };
        if running.identified && running.step.is_none() && !stopping {
            match self.next_work(soft, ctx.limits) {
                Ok(Some(work)) => {
                    if let Some(running) = self.running_mut() {
                        running.step = Some(Step { attempt: Attempt::default(), work });
                    }
                }
                Ok(None) => {}
                Err(reason) => return self.park(reason, ctx),
            }
        }
        self.call_rollup(ctx);
    }

    fn next_work(&self, soft: Option<&Verified<SequencedBlock>>, limits: &Limits) -> Result<Option<Work>, String> {
        let Some(running) = self.running() else { return Ok(None) };
        let (session, commitment) = (&running.session, &running.session.commitment);
        if let Some((celestia, block)) = running.joiner.as_ref().and_then(Joiner::block) {
            // S6: firm executes only when there is nothing soft ahead of it; otherwise it confirms.
            let number = session.map.to_rollup(block.height()).map_err(|error| error.to_string())?;
            if session.ends_before(block.height()) {
                return Ok(None);
            }
            if commitment.firm.number() == commitment.soft.number()
                || (canary(Canary::FirmExecutesAgain) && !self.remembered.contains_key(&number))
            {
                return Ok(Some(Work::Execute { block: block.clone(), number, firm: Some(celestia) }));
            }
            return match self.remembered.get(&number) {
                Some(remembered) => {
                    if let Some(conflict) = remembered.conflict_with(block, number) {
                        return Err(conflict);
                    }
                    Ok(Some(running.confirm(remembered.executed.clone(), block, celestia)))
                }
                None => Ok(Some(Work::LookUp { number, block: block.clone(), celestia })),
            };
        }
        match (self.soft_bound(limits), soft) {
            (Some((next, _)), Some(block)) if block.height() == next || canary(Canary::SoftHeightSkipped) => {
                let number = session.map.to_rollup(next).map_err(|error| error.to_string())?;
                Ok(Some(Work::Execute { block: block.clone(), number, firm: None }))
            }
            _ => Ok(None),
        }
    }

    fn call_rollup(&mut self, ctx: &mut Context<'_>) {
        let cell = self.id;
        let Some(running) = self.running_mut() else { return };
        let Some(step) = running.step.as_mut() else { return };
        if !step.attempt.is_due(ctx.now) {
            return;
        }
        let session_id = running.session.id.clone();
        let commitment = &running.session.commitment;
        let (purpose, call) = match &step.work {
            Work::Execute { block, firm, .. } => {
                let is_on_firm = firm.is_some() || canary(Canary::SoftOnFirmParent);
                let parent = if is_on_firm { &commitment.firm } else { &commitment.soft };
                let request = Box::new(proto::ExecuteBlockRequest {
                    session_id,
                    parent_hash: parent.hash().to_owned(),
                    transactions: block.transactions().to_vec(),
                    timestamp: Some(block.time()),
                    sequencer_block_hash: block.block_hash().to_string(),
                });
                (Purpose::Execute(cell), Call::ExecuteBlock { cell, request })
            }
            Work::Commit { next, .. } => {
                let request = Box::new(proto::UpdateCommitmentStateRequest {
                    session_id,
                    commitment_state: Some(next.to_wire()),
                });
                (Purpose::Commit(cell), Call::UpdateCommitment { cell, request })
            }
            Work::LookUp { number, .. } => {
                (Purpose::ExecutedBlock(cell), Call::FetchExecutedBlock { cell, number: *number })
            }
        };
        let id = ctx.calls.call(purpose, ctx.now.after(ctx.limits.execution_deadline), call, ctx.out);
        step.attempt.started(id);
    }

    /// The rollup executed a block: checks what it says and goes on to commit it.
    pub(crate) fn block_executed(&mut self, response: proto::ExecuteBlockResponse, ctx: &mut Context<'_>) {
        let Some(running) = self.running_mut() else { return };
        let Some(Step { work: Work::Execute { block, number, firm }, .. }) = running.step.take() else { return };
        let parent = if firm.is_some() { &running.session.commitment.firm } else { &running.session.commitment.soft };
        let executed = match checked_execution(response, number, parent.hash(), &block, ctx.limits) {
            Ok(executed) => executed,
            Err(reason) => {
                return self.park(format!("the rollup answered wrongly to ExecuteBlock {number}: {reason}"), ctx);
            }
        };
        let mut next = running.session.commitment.clone();
        next.soft = executed.clone();
        if let Some(celestia) = firm {
            next.firm = executed;
            next.lowest = running.joiner.as_ref().map_or(next.lowest, |joiner| joiner.lowest_after(celestia));
        }
        let moved = Moved {
            level: if firm.is_some() { Level::Firm } else { Level::Soft },
            number,
            height: block.height(),
            block_hash: block.block_hash(),
            content: block.content(),
            celestia: firm,
        };
        running.step = Some(Step { attempt: Attempt::default(), work: Work::Commit { next: Box::new(next), moved } });
        self.executed = self.executed.saturating_add(1);
        self.call_rollup(ctx);
    }

    /// The rollup told what it has at a number that firm wants to confirm.
    pub(crate) fn block_looked_up(&mut self, metadata: proto::ExecutedBlockMetadata, ctx: &mut Context<'_>) {
        let Some(running) = self.running_mut() else { return };
        let Some(Step { work: Work::LookUp { number, block, celestia }, .. }) = running.step.take() else { return };
        match checked_look_up(metadata, number, &running.session.commitment, &block, ctx.limits) {
            Ok(executed) => {
                let work = running.confirm(executed, &block, celestia);
                running.step = Some(Step { attempt: Attempt::default(), work });
                self.call_rollup(ctx);
            }
            Err(reason) => self.park(reason, ctx),
        }
    }

    /// The rollup took a commitment.
    pub(crate) fn commitment_updated(&mut self, echo: proto::CommitmentState, ctx: &mut Context<'_>) {
        let mode = self.spec.mode;
        let cell = self.id;
        let Some(running) = self.running_mut() else { return };
        let Some(Step { work: Work::Commit { mut next, moved }, .. }) = running.step.take() else { return };
        let wrong = match Commitment::from_wire(echo, ctx.limits) {
            Ok(echo) if canary(Canary::EchoNotCompared) => {
                *next = echo;
                None
            }
            Ok(echo) if next.is_echoed_by(&echo) => None,
            Ok(echo) => Some(format!(
                "it was told soft {} firm {} search height {}, it reports soft {} firm {} search height {}",
                describe(&next.soft),
                describe(&next.firm),
                next.lowest,
                describe(&echo.soft),
                describe(&echo.firm),
                echo.lowest,
            )),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = wrong {
            return self.park(format!("the rollup answered wrongly to UpdateCommitmentState: {reason}"), ctx);
        }
        let before = &running.session.commitment;
        // S8, and S5 by numbers: each commitment moves exactly one head by exactly one block, and none back.
        assert!(next.firm.number() <= next.soft.number(), "firm passed soft");
        assert!(next.soft.number() >= before.soft.number(), "soft went back");
        assert!(next.firm.number() >= before.firm.number(), "firm went back");
        assert!(next.lowest >= before.lowest, "the Celestia search height went back");
        running.session.commitment = *next;
        let commitment = &running.session.commitment;
        let (executed, hash) = match moved.level {
            Level::Soft => (Some(commitment.soft.clone()), commitment.soft.hash().to_owned()),
            Level::Firm => (None, commitment.firm.hash().to_owned()),
        };
        if let (Some(joiner), Some(celestia)) = (running.joiner.as_mut(), moved.celestia) {
            joiner.advance(celestia, commitment.lowest);
        }
        let finished = running.session.is_finished(mode).then_some(moved.number);
        running.has_moved = true;
        ctx.out.report(Report::HeadMoved {
            cell,
            level: moved.level,
            number: moved.number,
            hash,
            block_hash: moved.block_hash,
            height: moved.height,
        });
        match (moved.level, executed) {
            (Level::Soft, Some(executed)) if mode.follows_firm() || canary(Canary::PendingNeverRemoved) => {
                let Moved { height, block_hash, content, number, .. } = moved;
                self.remembered.insert(number, Remembered { executed, height, block_hash, content });
            }
            _ => {
                self.remembered.remove(&moved.number);
            }
        }
        if let Some(last) = finished {
            self.session_finished(last, ctx);
        }
    }

    /// A call to the rollup failed.
    pub(crate) fn rollup_failed(&mut self, purpose: Purpose, fault: &Fault, ctx: &mut Context<'_>) {
        let limits = ctx.limits;
        match (purpose, fault.class) {
            (Purpose::Session(_) | Purpose::ExecutedBlock(_), FaultClass::Transient)
                if canary(Canary::TransientParks) =>
            {
                self.park(format!("the {} failed: {}", purpose.name(), fault.detail), ctx);
            }
            (Purpose::Execute(_), FaultClass::Transient) if canary(Canary::UnknownOutcomeRepeated) => {
                if let Some(step) = self.running_mut().and_then(|running| running.step.as_mut()) {
                    step.attempt.failed(ctx.now, limits.backoff_first);
                }
            }
            (Purpose::Session(_), FaultClass::SessionLost) => self.lose_session(&fault.detail, ctx),
            (Purpose::Session(_), FaultClass::Transient | FaultClass::NotYet) => {
                let failures = self.opening.failures().saturating_add(1);
                let delay = backoff(failures, limits.backoff_first, limits.backoff_last, ctx.rng);
                self.opening.failed(ctx.now, delay);
                report_failure(purpose, self.opening.failures(), delay, fault, ctx.out);
            }
            (Purpose::Execute(_) | Purpose::Commit(_) | Purpose::ExecutedBlock(_), FaultClass::SessionLost) => {
                self.lose_session(&fault.detail, ctx);
            }
            (Purpose::Execute(_) | Purpose::Commit(_), FaultClass::Transient) => {
                // S11: whether the call took effect is unknown. A new session refuses the old one's late calls and
                // tells where the rollup stands.
                self.lose_session(&format!("the outcome of the {} is unknown: {}", purpose.name(), fault.detail), ctx);
            }
            (_, FaultClass::Transient | FaultClass::NotYet) => {
                let is_look_up = matches!(purpose, Purpose::ExecutedBlock(_));
                let Some(step) = self.running_mut().and_then(|running| running.step.as_mut()) else { return };
                let failures = step.attempt.failures().saturating_add(1);
                if is_look_up && fault.class == FaultClass::NotYet && failures >= LOOKUPS_MAX {
                    return self.lose_session(
                        &format!("the rollup does not know a block that it committed: {}", fault.detail),
                        ctx,
                    );
                }
                let delay = backoff(failures, limits.backoff_first, limits.backoff_last, ctx.rng);
                step.attempt.failed(ctx.now, delay);
                report_failure(purpose, failures, delay, fault, ctx.out);
            }
            (_, FaultClass::Fatal | FaultClass::Invalid | FaultClass::Gone | FaultClass::SessionLost) => {
                self.park(format!("the rollup refused the {}: {}", purpose.name(), fault.detail), ctx);
            }
        }
    }

    /// The session no longer holds: another one is opened after a delay that grows with each loss
    /// until there was none for a while.
    fn lose_session(&mut self, reason: &str, ctx: &mut Context<'_>) {
        let delay = self.next_session_delay(ctx);
        self.reopen(delay, ctx);
        ctx.out.report(Report::SessionLost {
            cell: self.id,
            reason: reason.to_owned(),
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// S19: the session's last block is reached, exactly one new session follows. It comes at once if this one made
    /// progress; if the rollup keeps handing out finished sessions, the delay grows.
    fn session_finished(&mut self, last: RollupNumber, ctx: &mut Context<'_>) {
        ctx.out.report(Report::SessionFinished { cell: self.id, last });
        let has_moved = self.running().is_some_and(|running| running.has_moved);
        let delay = if has_moved { std::time::Duration::ZERO } else { self.next_session_delay(ctx) };
        self.reopen(delay, ctx);
    }

    fn next_session_delay(&mut self, ctx: &mut Context<'_>) -> std::time::Duration {
        // Progress is not enough to forget: two processes that take the session from each other both make some.
        let quiet_for = ctx.now.since(self.last_loss);
        if quiet_for > ctx.limits.session_delay_last.saturating_mul(2) {
            self.losses = 0;
        }
        self.last_loss = ctx.now;
        self.losses = self.losses.saturating_add(1);
        backoff(self.losses, ctx.limits.session_delay_first, ctx.limits.session_delay_last, ctx.rng)
    }

    fn reopen(&mut self, delay: std::time::Duration, ctx: &mut Context<'_>) {
        self.cancel_calls(ctx);
        #[cfg(feature = "canaries")]
        {
            self.joiner_left = self.joiner_mut().filter(|_| canary(Canary::JoinerSurvivesSession)).cloned();
        }
        self.state = State::Opening;
        self.opening = Attempt::due_at(ctx.now.after(delay));
    }

    pub(crate) fn park(&mut self, reason: String, ctx: &mut Context<'_>) {
        self.cancel_calls(ctx);
        self.remembered.clear();
        ctx.out.report(Report::Parked { cell: self.id, reason: reason.clone() });
        self.state = State::Parked(reason);
    }

    /// Ends the cell. What is in flight to the rollup is given up.
    pub(crate) fn stop(&mut self, ctx: &mut Context<'_>) {
        self.cancel_calls(ctx);
        if !matches!(self.state, State::Parked(_)) {
            self.state = State::Stopped;
        }
    }

    /// Whether stopping now would leave a call with an effect in flight.
    pub(crate) fn has_effect_in_flight(&self) -> bool {
        if canary(Canary::StopIgnoresInFlight) {
            return false;
        }
        self.running().and_then(|running| running.step.as_ref()).is_some_and(|step| {
            step.attempt.is_in_flight() && matches!(step.work, Work::Execute { .. } | Work::Commit { .. })
        })
    }

    fn cancel_calls(&mut self, ctx: &mut Context<'_>) {
        let cell = self.id;
        let own = ctx.calls.matching(|purpose| {
            matches!(purpose, Purpose::Session(id) | Purpose::Execute(id) | Purpose::Commit(id) | Purpose::ExecutedBlock(id)
                if id == cell)
        });
        for id in own {
            ctx.calls.cancel(id, ctx.out);
        }
    }

    /// Reports a gap, once per missing height and window.
    pub(crate) fn report_gap(&mut self, missing: SequencerHeight, reason: &str, out: &mut Outbox) {
        let Some((from, to)) = self.running().and_then(|running| running.joiner.as_ref()).map(Joiner::window) else {
            return;
        };
        if self.reported_gap != Some((missing, to)) {
            self.reported_gap = Some((missing, to));
            out.report(Report::Gap { cell: self.id, missing, from, to, reason: reason.to_owned() });
        }
    }
}

impl Running {
    /// The commitment that makes `executed` firm.
    fn confirm(&self, executed: ExecutedBlock, block: &SequencedBlock, celestia: CelestiaHeight) -> Work {
        let number = executed.number();
        let mut next = self.session.commitment.clone();
        next.firm = executed;
        if canary(Canary::FirmPullsSoftBack) {
            next.soft = next.firm.clone();
        }
        next.lowest = self.joiner.as_ref().map_or(next.lowest, |joiner| joiner.lowest_after(celestia));
        Work::Commit {
            next: Box::new(next),
            moved: Moved {
                level: Level::Firm,
                number,
                height: block.height(),
                block_hash: block.block_hash(),
                content: block.content(),
                celestia: Some(celestia),
            },
        }
    }
}

impl Remembered {
    /// S9: firm confirms what was executed, or nothing.
    fn conflict_with(&self, firm: &SequencedBlock, number: RollupNumber) -> Option<String> {
        if (self.block_hash == firm.block_hash() && self.content == firm.content())
            || canary(Canary::FirmConfirmsByNumber)
        {
            return None;
        }
        Some(format!(
            "soft and firm disagree at rollup block {number} (sequencer height {}): executed from sequencer block {} \
             with content {}, Celestia has sequencer block {} with content {}",
            self.height,
            self.block_hash,
            hex::encode(self.content.0),
            firm.block_hash(),
            hex::encode(firm.content().0),
        ))
    }
}

fn describe(block: &ExecutedBlock) -> String {
    format!("{} ({:?})", block.number(), block.hash())
}

fn checked_execution(
    response: proto::ExecuteBlockResponse,
    number: RollupNumber,
    parent_hash: &str,
    block: &SequencedBlock,
    limits: &Limits,
) -> Result<ExecutedBlock, String> {
    let metadata = response.executed_block_metadata.ok_or("executed_block_metadata is missing")?;
    let executed = ExecutedBlock::from_wire(metadata, limits).map_err(|error| error.to_string())?;
    if executed.number() != number && !canary(Canary::ReplyNumberNotChecked) {
        return Err(format!("it executed block {}, expected was {number}", executed.number()));
    }
    if executed.parent_hash() != parent_hash && !canary(Canary::ReplyParentNotChecked) {
        return Err(format!("its parent is {:?}, expected was {parent_hash:?}", executed.parent_hash()));
    }
    if executed.is_made_from(block.block_hash()) == Some(false) {
        return Err(format!(
            "it names sequencer block {:?}, expected was {}",
            executed.sequencer_block_hash(),
            block.block_hash()
        ));
    }
    Ok(executed)
}

/// What the rollup has at `number`, checked against everything that is known about it.
fn checked_look_up(
    metadata: proto::ExecutedBlockMetadata,
    number: RollupNumber,
    commitment: &Commitment,
    block: &SequencedBlock,
    limits: &Limits,
) -> Result<ExecutedBlock, String> {
    let wrong = |reason: String| format!("the rollup answered wrongly to GetExecutedBlockMetadata {number}: {reason}");
    let executed = ExecutedBlock::from_wire(metadata, limits).map_err(|error| wrong(error.to_string()))?;
    if executed.number() != number {
        return Err(wrong(format!("it sent block {}", executed.number())));
    }
    if canary(Canary::LookUpNotCompared) {
        return Ok(executed);
    }
    if executed.parent_hash() != commitment.firm.hash() {
        let (actual, expected) = (executed.parent_hash(), commitment.firm.hash());
        return Err(wrong(format!("its parent is {actual:?}, its firm block is {expected:?}")));
    }
    if number == commitment.soft.number() && executed.hash() != commitment.soft.hash() {
        let (actual, expected) = (executed.hash(), commitment.soft.hash());
        return Err(wrong(format!("its hash is {actual:?}, its soft block is {expected:?}")));
    }
    if executed.is_made_from(block.block_hash()) == Some(false) {
        return Err(format!(
            "soft and firm disagree at rollup block {number} (sequencer height {}): the rollup executed sequencer block \
             {:?}, Celestia has sequencer block {}",
            block.height(),
            executed.sequencer_block_hash(),
            block.block_hash(),
        ));
    }
    Ok(executed)
}

pub(crate) fn report_failure(
    purpose: Purpose,
    attempt: u32,
    delay: std::time::Duration,
    fault: &Fault,
    out: &mut Outbox,
) {
    // Asking for what does not exist yet is part of following a chain; worth a line only when it goes on.
    if fault.class == FaultClass::NotYet && attempt < 5 {
        return;
    }
    out.report(Report::CallFailed {
        what: purpose.name(),
        attempt,
        retry_in_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        reason: fault.detail.clone(),
    });
}
