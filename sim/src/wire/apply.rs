//! Lets the faults of a schedule begin and end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use downbeat_core::RollupId;
use downbeat_world::{
    World,
    rollup::{self, Code, Status},
    serve::Failure,
};

use super::{
    hosts::CONDUCTOR,
    network::Reach,
    run::Run,
    scenario::{Direction, Fault, Item, Node, Peer, WireScenario},
};
use crate::{
    Violation, adversary,
    fault::{Draw, Site, Spot},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    Begin,
    End,
}

/// Beginnings and ends of all items, the first one last. Nothing outlasts the healing.
pub(super) fn schedule(scenario: &WireScenario) -> Vec<(Duration, Moment, usize)> {
    let healed_at = Duration::from_secs(scenario.faulty_for_s);
    let mut moments = Vec::new();
    for (index, item) in scenario.items.iter().enumerate() {
        let begin = Duration::from_millis(item.at_ms).min(healed_at);
        let end = Duration::from_millis(item.at_ms.saturating_add(item.for_ms)).min(healed_at);
        moments.extend([(begin, Moment::Begin, index), (end, Moment::End, index)]);
    }
    // Of one moment the beginnings come first, so that an item without length begins before it ends.
    moments.sort_unstable_by_key(|moment| std::cmp::Reverse(*moment));
    moments
}

/// State of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Open,
    Held,
    /// No messages to the peer, to the conductor.
    Cut(bool, bool),
}

impl Run<'_> {
    /// Lets a fault begin or end.
    pub(super) fn turn(&mut self, now: Duration, moment: Moment, index: usize) -> Result<(), Violation> {
        let Some(Item { at_ms, fault, .. }) = self.scenario.items.get(index).copied() else { return Ok(()) };
        self.note(now, format_args!("{moment:?} {fault:?}"));
        match moment {
            Moment::Begin => self.active.insert(index),
            Moment::End => self.active.remove(&index),
        };
        self.apply_links();
        self.apply_reach();
        self.apply_hosts()?;
        self.apply_delays();
        self.apply_stalls();
        if moment == Moment::End {
            return Ok(());
        }
        match fault {
            Fault::Refuse { peer, requests } => {
                let failure = match peer {
                    Peer::Celestia => Failure::Http(503),
                    _ => Failure::Grpc(Status::new(Code::Unavailable, "not now")),
                };
                for hooks in self.hooks.get(&peer).into_iter().flatten() {
                    hooks.fail(None, requests, failure.clone());
                }
            }
            Fault::Garbage { peer, replies } => {
                for hooks in self.hooks.get(&peer).into_iter().flatten() {
                    hooks.fail(None, replies, Failure::Garbage(b"\"what is this?\"".to_vec()));
                }
            }
            Fault::Revoke { rollup } => self.world.with(|world| {
                if let Some(node) = node_id(world, rollup).and_then(|id| world.rollups.get_mut(&id)) {
                    node.revoke_session();
                }
            }),
            Fault::HostilePost { kind } => {
                let draw = Draw::new(self.scenario.seed, at_ms, Spot { site: Site::CelestiaBlock, nth: 0 });
                self.world.with(|world| adversary::post(world, kind, draw));
            }
            Fault::Stop => {
                let desk = self.desk.borrow();
                if let Some(handle) = desk.handle.as_ref().filter(|_| desk.ended.is_none()) {
                    handle.stop();
                    self.stop_asked.get_or_insert(now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn active(&self) -> impl Iterator<Item = Fault> + '_ {
        self.active.iter().filter_map(|index| self.scenario.items.get(*index)).map(|item| item.fault)
    }

    /// Brings every link into the state that the active faults ask for; a cut goes before a hold.
    fn apply_links(&mut self) {
        let mut wanted: BTreeMap<Peer, Link> = BTreeMap::new();
        let mut latencies: BTreeMap<Peer, u64> = BTreeMap::new();
        let mut cut = |peer, to_peer, to_conductor| {
            let link = wanted.entry(peer).or_default();
            let (before_peer, before_conductor) = if let Link::Cut(a, b) = *link { (a, b) } else { (false, false) };
            *link = Link::Cut(before_peer || to_peer, before_conductor || to_conductor);
        };
        for fault in self.active() {
            match fault {
                Fault::Cut { peer, direction } => {
                    cut(peer, direction != Direction::ToConductor, direction != Direction::ToPeer);
                }
                Fault::PowerLoss { node: Node::Peer(peer) } => cut(peer, true, true),
                Fault::PowerLoss { node: Node::Conductor } => {
                    self.scenario.peers().for_each(|peer| cut(peer, true, true));
                }
                Fault::Latency { peer, max_ms } => {
                    let latency = latencies.entry(peer).or_default();
                    *latency = max_ms.max(*latency);
                }
                _ => {}
            }
        }
        for fault in self.active() {
            if let Fault::Hold { peer } = fault {
                wanted.entry(peer).or_insert(Link::Held);
            }
        }
        for peer in self.scenario.peers() {
            let (before, after) = (self.links.get(&peer).copied().unwrap_or_default(), wanted.get(&peer));
            let after = after.copied().unwrap_or_default();
            let name = peer.to_string();
            if before != after {
                match before {
                    Link::Open => {}
                    Link::Held => self.sim.release(CONDUCTOR, name.as_str()),
                    Link::Cut(..) => self.sim.repair(CONDUCTOR, name.as_str()),
                }
                match after {
                    Link::Open => {}
                    Link::Held => self.sim.hold(CONDUCTOR, name.as_str()),
                    Link::Cut(true, true) => self.sim.partition(CONDUCTOR, name.as_str()),
                    Link::Cut(to_peer, to_conductor) => {
                        if to_peer {
                            self.sim.partition_oneway(CONDUCTOR, name.as_str());
                        }
                        if to_conductor {
                            self.sim.partition_oneway(name.as_str(), CONDUCTOR);
                        }
                    }
                }
                self.links.insert(peer, after);
            }
            let latency = latencies.get(&peer).copied().unwrap_or(self.scenario.latency_ms);
            if self.latencies.insert(peer, latency).unwrap_or(self.scenario.latency_ms) != latency {
                self.sim.set_link_max_message_latency(CONDUCTOR, name.as_str(), Duration::from_millis(latency));
            }
        }
    }

    /// Tells the connector what a real network would do with a handshake.
    fn apply_reach(&self) {
        let mut reach = BTreeMap::new();
        for peer in self.scenario.peers() {
            let is_down = |lost_power| {
                let node = Node::Peer(peer);
                let wanted = if lost_power { Fault::PowerLoss { node } } else { Fault::Crash { node } };
                self.active().any(|fault| fault == wanted)
            };
            if is_down(true) || matches!(self.links.get(&peer), Some(Link::Cut(..))) {
                reach.insert(peer.to_string(), Reach::Silent);
            } else if is_down(false) {
                reach.insert(peer.to_string(), Reach::Refused);
            }
        }
        self.connector.set_reach(reach);
    }

    /// Kills and starts hosts.
    fn apply_hosts(&mut self) -> Result<(), Violation> {
        let down: BTreeSet<Node> = self
            .active()
            .filter_map(|fault| match fault {
                Fault::Crash { node } | Fault::PowerLoss { node } => Some(node),
                _ => None,
            })
            .collect();
        let before = std::mem::replace(&mut self.down, down.clone());
        for node in before.symmetric_difference(&down) {
            let name = match node {
                Node::Conductor => CONDUCTOR.to_owned(),
                Node::Peer(peer) => peer.to_string(),
            };
            if before.contains(node) {
                self.sim.bounce(name.as_str());
                continue;
            }
            self.sim.crash(name.as_str());
            match node {
                Node::Conductor => {
                    (self.stop_asked, self.effects_at_stop) = (None, None);
                    let mut desk = self.desk.borrow_mut();
                    (desk.handle, desk.ended) = (None, None);
                }
                Node::Peer(Peer::Rollup(index)) => self.world.with(|world| {
                    if let Some(node) = node_id(world, *index).and_then(|id| world.rollups.get_mut(&id)) {
                        node.restart();
                    }
                }),
                Node::Peer(_) => {}
            }
        }
        self.start_again_after_a_stop()
    }

    /// A conductor that has stopped stays away until no stop is active any more.
    pub(super) fn start_again_after_a_stop(&mut self) -> Result<(), Violation> {
        let has_stopped = self.desk.borrow().ended.is_some();
        let stays = self.active().any(|fault| fault == Fault::Stop) || self.down.contains(&Node::Conductor);
        if has_stopped && !stays {
            let (before, after) = (self.effects_at_stop.take(), self.effects());
            if before.is_some_and(|before| before != after) {
                let detail = format!("{before:?} calls had an effect when the conductor had stopped, then {after}");
                return Err(Violation::new("L9", detail));
            }
            self.desk.borrow_mut().ended = None;
            self.sim.bounce(CONDUCTOR);
        }
        Ok(())
    }

    /// Calls to rollup nodes that changed something.
    pub(super) fn effects(&self) -> usize {
        let has_effect = |call: &&rollup::Call| {
            matches!(
                call,
                rollup::Call::Opened(Ok(_)) | rollup::Call::Executed(_, Ok(_)) | rollup::Call::Updated(_, Ok(_))
            )
        };
        self.world.with(|world| world.rollups.values().map(|node| node.trace().filter(has_effect).count()).sum())
    }

    /// Whether a call may have its effect long after its deadline, as far as this run's faults go.
    pub(super) fn may_come_late(&self) -> bool {
        self.scenario.items.iter().any(|item| {
            matches!(
                item.fault,
                Fault::Hold { peer: Peer::Rollup(_) }
                    | Fault::Slow { peer: Peer::Rollup(_), .. }
                    | Fault::Latency { peer: Peer::Rollup(_), .. }
            )
        })
    }

    fn apply_delays(&mut self) {
        for peer in self.scenario.peers() {
            let delays = self.active().filter_map(|fault| match fault {
                Fault::Slow { peer: slow, delay_ms } if slow == peer => Some(delay_ms),
                _ => None,
            });
            let delay = delays.max().unwrap_or(0);
            if self.delays.insert(peer, delay).unwrap_or(0) != delay {
                for hooks in self.hooks.get(&peer).into_iter().flatten() {
                    hooks.delay(None, Duration::from_millis(delay));
                }
            }
        }
    }

    fn apply_stalls(&mut self) {
        let is_active = |wanted: Fault| self.active().any(|fault| fault == wanted);
        let sequencer = is_active(Fault::SequencerStalls);
        let (celestia, relayer) = (is_active(Fault::CelestiaStalls), is_active(Fault::RelayerPauses));
        self.world.with(|world| {
            world.sequencer_stalled = sequencer;
            world.celestia_stalled = celestia;
            world.relayer.pause(relayer);
        });
    }
}

fn node_id(world: &World, index: u32) -> Option<RollupId> {
    world.node_ids().get(usize::try_from(index).ok()?).copied()
}
