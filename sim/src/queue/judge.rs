//! When a run is over, and what has to hold then.

use std::time::Duration;

use downbeat_core::{CellId, Report, cell::Mode, command::Exit, light::SoftTrust, view::Phase};
use downbeat_world::rollup::{self};

use crate::{Violation, oracle, probe::Probe};

use super::Simulation;

/// More calls in one virtual second than any of these small worlds can need (L8).
const CALLS_PER_SECOND_MAX: u64 = 4_000;

impl Simulation {
    /// Runs until the scenario's end is reached.
    ///
    /// # Errors
    /// See [`Simulation::run`].
    pub fn finish(&mut self) -> Result<(), Violation> {
        self.run(Self::has_arrived)
    }

    pub(super) fn has_arrived(&self) -> bool {
        (0..).zip(self.world.node_ids()).all(|(index, id)| {
            let arrived = self.world.rollups.get(id).is_none_or(|node| {
                let head = if self.scenario.mode.follows_firm() { node.firm() } else { node.soft() };
                head.0 >= self.scenario.blocks
            });
            arrived || self.is_excused(CellId(index))
        })
    }

    /// Whether a cell may stay where it is: it is parked, and a peer did what parks a cell.
    pub(super) fn is_excused(&self, cell: CellId) -> bool {
        let believed = self.scenario.trust.soft == SoftTrust::Sequencer && self.scenario.mode == Mode::SoftAndFirm;
        let lied = !self.lies.is_empty() && believed;
        // With evidence from an earlier life the process ends with the first cell: others are not even installed.
        let is_parked = || match self.conductor.status(self.shown).cells.get(&cell) {
            Some(status) => status.phase == Phase::Parked,
            None => matches!(self.exit, Some(Exit::AllCellsParked { .. })),
        };
        // A clock that is ahead for ever, by more than trust lasts: every header is too old to begin with, the newest as
        // well when it has been found out and fetched.
        let fetched_within = self.limits.sequencer_poll + self.limits.fetch_deadline;
        let lasts = self.limits.trust.trusting_period.saturating_sub(fetched_within);
        let lasts = i128::try_from(lasts.as_nanos()).unwrap_or(i128::MAX);
        let cannot_begin = || self.conductor.status(self.shown).sequencer.trusted.is_none();
        if self.skew >= lasts && self.is_trust_short() && cannot_begin() {
            return true;
        }
        (lied || self.excused.contains(&cell)) && is_parked()
    }

    /// Whether the sequencer's headers are trusted for seconds, not weeks.
    pub(super) fn is_trust_short(&self) -> bool {
        self.limits.trust.trusting_period < Duration::from_hours(1)
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
            if self.scenario.gossip.alone {
                self.hit(Probe::PeersOnlyArrived);
            }
            let healthy = self.now.since(heal_at.max(self.healed_at));
            return self.watch.arrived(healthy, self.shown, &self.world, |cell| self.is_excused(cell));
        }
        let exit = self.exit.as_ref();
        let status = self.conductor.status(self.now);
        let last: Vec<&Report> = self.reports.iter().rev().take(8).collect();
        let id = self.watch.stalled(&self.conductor, self.shown, &self.world);
        Err(Violation::new(id, format!("the run did not arrive by {}: {exit:?}\n{status:#?}\n{last:#?}", self.now)))
    }

    pub(super) fn is_over(&self) -> bool {
        self.exit.is_some() && self.restart_at.is_none()
    }

    /// L7: each session has a cause. A call that is late or lost may cost a session of its own, one that it takes from
    /// the next when it arrives after all, and one that follows.
    pub(super) fn count_sessions(&self) -> Result<(), Violation> {
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
}
