//! What goes wrong in a run, and to whom it is put down.

use std::time::Duration;

use downbeat_core::{CellId, Event, Node, SequencerHeight, Timestamp, light::Trust};
use tendermint::block::Header;

use crate::{
    Violation,
    fault::{Draw, Firing, Kind, Site, Spot},
    peers::{Peer, shifted},
    probe::Probe,
};

use super::{Item, Simulation};

impl Simulation {
    pub(super) fn crash(&mut self) {
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

    pub(super) fn blame(&mut self, site: Site) {
        if let Some(cell) = site.cell() {
            *self.causes.entry(CellId(cell)).or_default() += 1;
        }
    }

    pub(crate) fn excuse(&mut self, cell: CellId) {
        self.excused.insert(cell);
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
    pub(super) fn fires_for(
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
        self.healed_at = self.healed_at.max(until);
        if let Some(observer) = &mut self.observer {
            observer.fault(Firing { kind, at: spot.site, nth: spot.nth }, self.now, until);
        }
        self.blame(spot.site);
        Some((draw, until))
    }

    pub(super) fn end_second(&mut self) {
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
            self.look_at_peers(&status);
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
            self.net.silent_until = self.net.silent_until.min(self.now);
        }
        let is_turn = self.elapsed().as_secs().is_multiple_of(self.scenario.pace.stretch());
        if is_turn && (!healed || self.injector.is_explicit()) {
            self.disturb();
        }
    }

    pub(super) fn disturb(&mut self) {
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
        if self.scenario.gossip.enabled {
            if let Some((_, until)) = self.fires_for(Kind::PeersSilent, spot, seconds(12)) {
                self.net.silent_until = until;
            }
            let is_alone = self.scenario.gossip.alone;
            self.net.are_gone |= !is_alone && self.fires(Kind::PeersGone, spot).is_some();
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
            // The conductor's clock stands still until this one shows as much again, and no time passes for it till then.
            let stands = self.shown.since(shifted(self.now, self.skew));
            self.healed_at = self.healed_at.max(self.now.after(stands));
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

    pub(super) fn any_peer(&self, draw: &mut Draw) -> Peer {
        match draw.below(3 + self.world.node_ids().len() as u64) {
            0 => Peer::Sequencer,
            1 => Peer::CometBft,
            2 => Peer::Celestia,
            other => Peer::Node(u32::try_from(other - 3).unwrap_or(0)),
        }
    }

    /// The conductor stands still: what comes meanwhile comes all at once then.
    pub(super) fn pause(&mut self, until: Timestamp) {
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
    pub(super) fn blame_all(&mut self) {
        let sites: Vec<Site> = self.in_flight.values().map(|(_, site, _)| *site).collect();
        for site in sites {
            self.blame(site);
        }
    }
}
