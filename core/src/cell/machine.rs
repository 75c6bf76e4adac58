//! The state of one cell and its sessions: what opens one, what ends it, and what is remembered across them.

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
pub(super) const LOOKUPS_MAX: u32 = 5;

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
    pub(super) losses: u32,
    pub(super) last_loss: Timestamp,
    /// What this process executed softly and firm has not confirmed yet. Outlives sessions: see `adopt_remembered`.
    pub(super) remembered: BTreeMap<RollupNumber, Remembered>,
    pub(crate) executed: u64,
    pub(crate) sessions: u64,
    #[cfg(feature = "canaries")]
    joiner_left: Option<Joiner>,
    /// The gap that was reported last.
    pub(super) reported_gap: Option<(SequencerHeight, CelestiaHeight)>,
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
    pub(super) has_moved: bool,
    pub(crate) step: Option<Step>,
}

/// A block that was executed softly.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) executed: ExecutedBlock,
    pub(super) height: SequencerHeight,
    pub(super) block_hash: BlockHash,
    pub(super) content: ContentHash,
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
    pub(super) height: SequencerHeight,
    pub(super) block_hash: BlockHash,
    pub(super) content: ContentHash,
    pub(super) celestia: Option<CelestiaHeight>,
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
    pub(super) fn adopt_remembered(&mut self, session: &Session) {
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

    /// The session no longer holds: another one is opened after a delay that grows with each loss
    /// until there was none for a while.
    pub(super) fn lose_session(&mut self, reason: &str, ctx: &mut Context<'_>) {
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
    pub(super) fn session_finished(&mut self, last: RollupNumber, ctx: &mut Context<'_>) {
        ctx.out.report(Report::SessionFinished { cell: self.id, last });
        let has_moved = self.running().is_some_and(|running| running.has_moved);
        let delay = if has_moved { std::time::Duration::ZERO } else { self.next_session_delay(ctx) };
        self.reopen(delay, ctx);
    }

    pub(super) fn next_session_delay(&mut self, ctx: &mut Context<'_>) -> std::time::Duration {
        // Progress is not enough to forget: two processes that take the session from each other both make some.
        let quiet_for = ctx.now.since(self.last_loss);
        if quiet_for > ctx.limits.session_delay_last.saturating_mul(2) {
            self.losses = 0;
        }
        self.last_loss = ctx.now;
        self.losses = self.losses.saturating_add(1);
        backoff(self.losses, ctx.limits.session_delay_first, ctx.limits.session_delay_last, ctx.rng)
    }

    pub(super) fn reopen(&mut self, delay: std::time::Duration, ctx: &mut Context<'_>) {
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

    pub(super) fn cancel_calls(&mut self, ctx: &mut Context<'_>) {
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
