//! Watches a run for the situations that runs must reach. Nothing depends on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use downbeat_core::{
    Answer, Call, CellId, Event, Limits, Node, Record, Refusal, Report, Timestamp,
    cell::Mode,
    command::{Level, Subject},
    job::JobOutcome,
    light::{self, Check, Options},
    sequencer::ValidatorSet,
    view::{Status, Wait},
    wire::proto::astria::{execution::v2::CommitmentState, sequencerblock::v1::rollup_data::Value},
};
use downbeat_world::{RollupNode, World};

use crate::{Scenario, probe::Probe};

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    pub(crate) probes: BTreeSet<Probe>,
    crashed_at: Option<Timestamp>,
    /// Per cell: soft and firm number that were committed last.
    heads: BTreeMap<CellId, (u64, u64)>,
    /// Number that was executed last, and not committed yet.
    executed: BTreeMap<CellId, u64>,
    ever_executed: BTreeMap<CellId, u64>,
    lowest: BTreeMap<CellId, u64>,
    lost_at: BTreeMap<CellId, usize>,
    reports: usize,
    fetched: BTreeSet<u64>,
    life: u64,
    head: u64,
    celestia_head: u64,
    gaps: BTreeSet<CellId>,
    paused: bool,
    /// Headers in a row that were too far away.
    too_far: u64,
    /// The lowest header that was linked last.
    linked_from: Option<u64>,
    /// The CometBFT node that was asked last for what is not asked of witnesses.
    primary: Option<Node>,
    /// Soft blocks that had no header yet.
    unbound: BTreeSet<u64>,
    has_record: bool,
    has_evidence: bool,
    trusting_period: Duration,
}

impl Observations {
    fn hit(&mut self, probe: Probe) {
        self.probes.insert(probe);
    }

    pub(crate) fn hit_if(&mut self, condition: bool, probe: Probe) {
        if condition {
            self.hit(probe);
        }
    }

    pub(crate) fn crashed<'a>(&mut self, now: Timestamp, nodes: impl Iterator<Item = &'a RollupNode>) {
        let twice = self.crashed_at.is_some_and(|last| now.since(last).as_millis() <= 1_000);
        self.hit_if(twice, Probe::CrashTwiceInASecond);
        self.crashed_at = Some(now);
        for node in nodes {
            self.hit_if(node.soft() > node.firm(), Probe::RestartedWithSoftAhead);
        }
    }

    pub(crate) fn arrived(&mut self, mode: Mode, cells: usize) {
        match mode {
            Mode::SoftOnly => self.hit(Probe::SoftOnlyArrived),
            Mode::FirmOnly => self.hit(Probe::FirmOnlyArrived),
            Mode::SoftAndFirm => {}
        }
        self.hit_if(cells >= 3, Probe::ThreeCellsArrived);
    }

    /// A new life begins with these.
    pub(crate) fn started(&mut self, records: &[Record], limits: &Limits) {
        self.has_record = records.iter().any(|record| matches!(record, Record::SequencerHeader(_)));
        self.has_evidence = records.iter().any(|record| matches!(record, Record::SequencerConflict(_)));
        self.trusting_period = limits.trust.trusting_period;
        (self.too_far, self.linked_from, self.primary) = (0, None, None);
        self.unbound.clear();
    }

    /// A job has ended.
    pub(crate) fn verified(&mut self, outcome: &JobOutcome, now: Timestamp) {
        match outcome {
            JobOutcome::SoftBlock(Ok(block)) => drop(self.unbound.insert(block.height().0)),
            JobOutcome::Header(Err(refusal)) => {
                let is_too_far = matches!(refusal.light, Some(light::Refusal::TooFar { .. }));
                self.too_far = if is_too_far { self.too_far + 1 } else { self.too_far };
                self.hit_if(self.too_far >= 2, Probe::TooFarTwice);
            }
            JobOutcome::Header(Ok(signed)) => {
                self.too_far = 0;
                let had_soft = self.unbound.remove(&signed.header.height().0);
                self.hit_if(had_soft, Probe::SoftWaitedForHeader);
                let Some((Check::From(trusted), block)) = signed.light.as_deref() else { return };
                let had_record = std::mem::take(&mut self.has_record);
                self.hit_if(had_record, Probe::ContinuedFromRecord);
                let power = |set: &ValidatorSet| -> BTreeMap<_, u64> {
                    set.infos().iter().map(|info| (info.address, info.power())).collect()
                };
                let (before, after) = (power(trusted.validators()), power(block.validators()));
                let kept = before.iter().map(|(id, power)| u128::from(after.get(id).copied().unwrap_or(0).min(*power)));
                let total = trusted.validators().total_power();
                self.hit_if(3 * kept.sum::<u128>() < 2 * total, Probe::SetChangedByThird);
                let options = Options { trusting_period: self.trusting_period / 3, ..Options::default() };
                self.hit_if(trusted.is_expired(&options, now), Probe::HeadRefreshed);
            }
            _ => {}
        }
    }

    pub(crate) fn event(&mut self, event: &Event, refusal: Option<&Refusal>, life: u64) {
        if self.life != life {
            self.life = life;
            self.fetched.clear();
            self.executed.clear();
        }
        match event {
            Event::Answered { answer, .. } => {
                match refusal {
                    Some(Refusal::UnknownCommand(_)) => self.hit(Probe::LateAnswerRefused),
                    Some(Refusal::WrongAnswer(_)) => self.hit(Probe::ForeignAnswerRefused),
                    _ => {}
                }
                self.answer(answer, refusal.is_some());
            }
            Event::Failed { .. } => {
                self.hit_if(matches!(refusal, Some(Refusal::UnknownCommand(_))), Probe::RepeatedAnswerRefused);
            }
            _ => {}
        }
    }

    fn answer(&mut self, answer: &Answer, refused: bool) {
        match answer {
            Answer::SequencerHeadFetched { height } if !refused => {
                self.hit_if(height.0 < self.head, Probe::SequencerHeadWentBack);
                self.head = height.0;
            }
            Answer::CelestiaHeadFetched { head } if !refused => {
                self.hit_if(head.height.0 < self.celestia_head, Probe::CelestiaHeadWentBack);
                self.celestia_head = head.height.0;
            }
            Answer::BlobsFetched { blobs, .. } if !refused => {
                self.hit_if(blobs.is_empty(), Probe::EmptyCelestiaHeight);
            }
            Answer::NamespacesFetched { block } if !refused => {
                let rows = || block.namespaces.iter().flat_map(|namespace| &namespace.rows);
                self.hit_if(rows().next().is_none(), Probe::NamespaceOutsideOfEveryRow);
                self.hit_if(rows().any(|row| row.proof.absence.is_some()), Probe::AbsenceProven);
                self.hit_if(block.namespaces.iter().any(|namespace| namespace.rows.len() > 1), Probe::ManyRowsProven);
            }
            _ => {}
        }
    }

    pub(crate) fn call(&mut self, call: &Call, node: Node, world: &World, scenario: &Scenario) {
        if matches!(call, Call::FetchHeaders { .. } | Call::FetchBlockTransactions { .. }) {
            let before = self.primary.replace(node);
            self.hit_if(before.is_some_and(|before| before != node), Probe::PrimaryReplaced);
        }
        match call {
            Call::FetchBlobs { height, .. } | Call::FetchNamespaces { height, .. } => {
                let again = !self.fetched.insert(height.0);
                self.hit_if(again, Probe::HeightReadAgain);
            }
            Call::FetchCelestiaHeader { height } => {
                self.hit(Probe::CelestiaHeaderOnTheWay);
                let is_root = scenario.celestia_chain.root == Some(height.0);
                let is_above = self.fetched.iter().all(|read| *read < height.0);
                self.hit_if(is_root && is_above, Probe::CelestiaRootAbove);
            }
            Call::FetchHeaders { first, last } => {
                self.hit(Probe::HeadersLinked);
                let before = self.linked_from.replace(first.0);
                self.hit_if(before == Some(last.0 + 1), Probe::LinkedFurtherDown);
                self.hit_if(last.0 - first.0 >= 9, Probe::ManyHeadersLinked);
            }
            Call::ExecuteBlock { cell, request } => {
                self.hit_if(request.transactions.is_empty(), Probe::EmptyBlockExecuted);
                self.hit_if(request.transactions.len() >= 5, Probe::FullBlockExecuted);
                let first = request.transactions.first().and_then(|first| first.value.as_ref());
                self.hit_if(matches!(first, Some(Value::PriceFeedData(_))), Probe::PriceFeedExecuted);
                let node = node_of(world, *cell);
                let number = node.map_or(0, |node| node.soft().0 + 1);
                let before = self.ever_executed.get(cell).copied().unwrap_or(0);
                self.hit_if(number <= before, Probe::ExecutedAgainInNewSession);
                self.ever_executed.insert(*cell, before.max(number));
                self.executed.insert(*cell, number);
            }
            Call::UpdateCommitment { cell, request } => {
                let (soft, firm) = request.commitment_state.as_ref().map_or((0, 0), numbers);
                let lowest = request.commitment_state.as_ref().map_or(0, |state| state.lowest_celestia_search_height);
                let (soft_before, firm_before) = self.heads.get(cell).copied().unwrap_or((soft, firm));
                self.executed.remove(cell);
                if soft > soft_before && firm > firm_before {
                    self.hit(Probe::FirmAndSoftTogether);
                    if scenario.mode == Mode::SoftAndFirm {
                        self.hit(Probe::FirmOvertookSoft);
                        self.hit_if(scenario.tiny.soft_firm_spread.is_some(), Probe::FirmOvertookSoftAtSpread);
                    }
                } else if firm > firm_before {
                    self.hit(Probe::FirmConfirmedSoft);
                }
                self.hit_if(soft >= firm + 10, Probe::SoftFarAhead);
                if let Some(before) = self.lowest.insert(*cell, lowest) {
                    self.hit_if(lowest >= before + 5, Probe::SearchHeightMovedFar);
                    self.hit_if(firm > firm_before && lowest == before && lowest > 1, Probe::SearchHeightHeldBack);
                }
                let was_gap = firm > firm_before && self.gaps.remove(cell);
                self.hit_if(was_gap, Probe::GapClosed);
                self.heads.insert(*cell, (soft, firm));
                let firms = self.heads.values().map(|(_, firm)| *firm);
                let apart = firms.clone().max().unwrap_or(0) - firms.min().unwrap_or(0);
                self.hit_if(apart >= 20, Probe::CellsFarApart);
            }
            _ => {}
        }
    }

    pub(crate) fn report(&mut self, report: &Report, world: &World) {
        self.reports += 1;
        match report {
            Report::SessionFinished { cell, .. } => {
                self.hit(Probe::SessionFinished);
                let lengths = node_of(world, *cell).map(|node| node.config().sessions.clone()).unwrap_or_default();
                let is_short = lengths.iter().any(|plan| plan.rollup_end == Some(plan.rollup_start));
                self.hit_if(is_short, Probe::SessionOfOneBlock);
            }
            Report::SessionLost { cell, reason, .. } => {
                let reason = reason.to_ascii_lowercase();
                self.hit_if(reason.contains("execut"), Probe::SessionLostInExecution);
                self.hit_if(reason.contains("commit"), Probe::SessionLostInCommit);
                let was_executed = self.executed.remove(cell).is_some();
                self.hit_if(was_executed, Probe::ExecutedAndNotCommitted);
                self.lost_at.insert(*cell, self.reports);
                let recently = self.lost_at.values().filter(|at| self.reports - **at < 20).count();
                self.hit_if(recently >= 2, Probe::SessionsOfTwoCellsLost);
            }
            Report::Dropped { what, .. } => self.hit(match what {
                Subject::Blob => Probe::BlobRefused,
                Subject::Metadata => Probe::MetadataRefused,
                Subject::RollupData => Probe::RollupDataRefused,
                Subject::SoftBlock => Probe::SoftBlockRefused,
                Subject::SignedHeader => Probe::CommitRefused,
                Subject::Validators => Probe::ValidatorsRefused,
                Subject::BlockTransactions => Probe::DataItemsRefused,
                Subject::CelestiaBlock => Probe::CelestiaBlockRefused,
                Subject::Witness => Probe::WitnessRefused,
                Subject::Gossip => Probe::GossipRefused,
            }),
            Report::CallFailed { attempt, .. } => self.hit_if(*attempt >= 5, Probe::DeepBackOff),
            Report::Gap { cell, .. } => {
                self.hit(Probe::GapReported);
                self.gaps.insert(*cell);
            }
            Report::TrustedOnFirstUse { .. } => self.hit(Probe::TrustedOnFirstUse),
            Report::Conflict { .. } => self.hit(Probe::ConflictProven),
            Report::FalseNamespaces { .. } => self.hit(Probe::FalseAnswerProven),
            Report::FalseBlock { .. } => self.hit(Probe::FalseBlockProven),
            Report::CelestiaTrustedOnFirstUse { .. } => self.hit(Probe::CelestiaTrustedOnFirstUse),
            Report::Parked { reason, .. } => {
                self.hit(Probe::Parked);
                self.hit_if(self.has_evidence && reason.contains("signed two headers"), Probe::ParkedByEvidence);
                self.hit_if(reason.contains("the trusting period is over"), Probe::TrustExpired);
                let is_conflict = reason.contains("firm") && reason.contains("soft");
                self.hit_if(is_conflict, Probe::ParkedByConflict);
            }
            Report::HeadMoved { level: Level::Firm, .. } => {
                let held = world.celestia.block(world.celestia.head()).map_or(0, |block| block.blobs().len());
                self.hit_if(held >= 8, Probe::ManyBlocksInOneHeight);
            }
            _ => {}
        }
    }

    pub(crate) fn status(&mut self, status: &Status) {
        let waits = status.cells.values().flat_map(|cell| &cell.waiting_for);
        if waits.clone().any(|wait| matches!(wait, Wait::Spread { .. })) {
            self.hit(Probe::SpreadLimitHeldSoft);
        }
    }

    /// The conductor has stood still.
    pub(crate) fn paused(&mut self) {
        self.paused = true;
    }

    /// A call was given up.
    pub(crate) fn overdue(&mut self) {
        self.hit(Probe::CallOverdue);
        if std::mem::take(&mut self.paused) {
            self.hit(Probe::OverdueAfterPause);
        }
    }
}

fn numbers(state: &CommitmentState) -> (u64, u64) {
    let soft = state.soft_executed_block_metadata.as_ref().map_or(0, |block| block.number);
    let firm = state.firm_executed_block_metadata.as_ref().map_or(0, |block| block.number);
    (soft, firm)
}

fn node_of(world: &World, cell: CellId) -> Option<&RollupNode> {
    let id = world.node_ids().get(usize::try_from(cell.0).ok()?)?;
    world.rollups.get(id)
}
