//! What a cell does next with its rollup, and what the rollup's answers mean.

use std::sync::Arc;

use super::{
    Commitment, ExecutedBlock,
    checks::{checked_execution, checked_look_up, describe},
    machine::{Cell, Context, LOOKUPS_MAX, Moved, Remembered, Running, Step, Work, report_failure},
};
use crate::{
    calls::Purpose,
    canary::{Canary, canary},
    celestia::Joiner,
    command::{Call, Level, Report},
    fault::{Fault, FaultClass},
    ids::CelestiaHeight,
    limits::Limits,
    retry::{Attempt, backoff},
    sequencer::SequencedBlock,
    verified::Verified,
    wire::proto::astria::execution::v2 as proto,
};

impl Cell {
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
                let request = Arc::new(proto::ExecuteBlockRequest {
                    session_id,
                    parent_hash: parent.hash().to_owned(),
                    transactions: block.transactions().to_vec(),
                    timestamp: Some(block.time()),
                    sequencer_block_hash: block.block_hash().to_string(),
                });
                (Purpose::Execute(cell), Call::ExecuteBlock { cell, request })
            }
            Work::Commit { next, .. } => {
                let request = Arc::new(proto::UpdateCommitmentStateRequest {
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
