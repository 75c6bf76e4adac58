//! What passes between the conductor and its peers.

use std::time::Duration;

use downbeat_core::{
    Answer, Call, Command, CommandId, Event, Fault, FaultClass, Job, Node, Outbox, Record, Refusal, Report, Seq,
    Stamped, Timestamp, command::Exit, job::CelestiaTop,
};

use crate::{
    Violation,
    fault::{Kind, Site, Spot},
    peers::{Peer, peer_of, shifted, site_of, summary},
    probe::Probe,
    remember::remembered,
};

use super::{Item, Simulation};

/// How often, in events, the core is asked for what it may have left undone: that takes a copy of its state. Where faults
/// are named one by one, it is asked after every event.
const LEFTOVERS_EVERY: u64 = 257;

impl Simulation {
    pub(super) fn take(&mut self, item: Item) {
        match item {
            Item::Reply { event, kills } => {
                self.deliver(*event);
                if kills {
                    self.crash();
                }
            }
            Item::Parcel(parcel) => self.take_parcel(parcel),
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
    pub(super) fn request(
        &mut self,
        id: CommandId,
        deadline: Timestamp,
        (call, node): (Call, Node),
        spot: Spot,
        life: u64,
    ) {
        let peer = peer_of(spot.site);
        let is_rollup = spot.site.cell().is_some();
        if self.cut_off.get(&peer).is_some_and(|until| self.now < *until) {
            return self.blame(spot.site);
        }
        let is_down = self.fallen.is_some_and(|(fallen, until)| fallen == node && self.now < until);
        if peer == Peer::CometBft && (is_down || self.bad_nodes.silent == Some(node)) {
            return;
        }
        if peer == Peer::Others && !self.are_peers_there() {
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
        self.due = self.conductor.next_deadline().map(|(at, _)| at);
        if let Err(Refusal::OutOfSequence { .. } | Refusal::CellExists(_) | Refusal::TooManyCells(_)) = &result {
            self.broken = Some(Violation::new("L3", format!("{result:?} for {:?}", stamped.event)));
        }
        self.seen.event(&stamped.event, result.as_ref().err(), self.lives);
        let commands: Vec<Command> = out.drain().collect();
        self.watch.step(&stamped, result.is_err(), &commands, &self.conductor, self.due, &self.world);
        self.look_at_verdicts(&stamped.event, &commands);
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
            self.look_at_cancelling(&command);
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

    /// L9: a stop leaves its time to what has an effect; evidence parks at once. Looked at when it is decided, for what is
    /// being persisted may hold it up until somebody stops.
    fn look_at_cancelling(&mut self, command: &Command) {
        let Command::Cancel { id } = command else { return };
        let is_early = self.stop_asked.is_some_and(|asked| self.shown < asked.after(self.limits.stop_grace));
        let has_effect = self.in_flight.get(id).is_some_and(|(deadline, _, effect)| *effect && self.shown < *deadline);
        if is_early && has_effect && !self.watch.has_evidence() {
            self.broken = Some(Violation::new("L9", "a stop gave up a call that has an effect"));
        }
    }

    /// L3: what can be wished for after an event is wished for at once, and does not wait for another event.
    pub(super) fn look_for_leftovers(&mut self) {
        if self.exit.is_some() || self.is_persisting || self.due.is_some_and(|at| at <= self.shown) {
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

    pub(super) fn command(&mut self, command: Command) {
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
                if let Some((deadline, site, _)) = self.in_flight.remove(&id)
                    && self.shown >= deadline
                {
                    self.seen.overdue();
                    self.blame(site);
                }
            }
            Command::Report(report) => {
                if let Report::Dropped { what, .. } = &report {
                    self.course.fold(1 << 32 | what.name().len() as u64);
                }
                self.seen.report(&report, &self.world);
                self.reports.push(report);
            }
            Command::JudgeGossip { .. } | Command::PublishGossip { .. } | Command::PenalizePeer { .. } => {}
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
    pub(super) fn persist(&mut self, records: Vec<Record>) {
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

    pub(super) fn keep(&mut self, records: &[Record]) {
        self.kept.extend(records.iter().map(|record| (record.key(), record.encode())));
        self.watch.keeps(records);
    }
}
