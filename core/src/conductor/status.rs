//! What an operator sees.

use crate::{
    celestia::{Joiner, Lack},
    cell::{Cell, State, Work},
    command::Level,
    ids::{CelestiaHeight, SequencerHeight},
    retry::Attempt,
    sequencer::SPAN,
    time::Timestamp,
    view::{CelestiaStatus, CellStatus, GossipStatus, Head, Phase, SequencerStatus, Status, Wait},
};

use super::Conductor;

impl Conductor {
    /// A copy of what an operator may want to know.
    pub fn status(&self, now: Timestamp) -> Status {
        Status {
            sequencer: SequencerStatus {
                chain_id: self.follower.chain_id.clone(),
                head: self.follower.head,
                trust: self.limits.trust.level,
                soft_trust: self.limits.trust.soft,
                trusted: self
                    .headers
                    .trusting
                    .as_ref()
                    .and_then(|it| it.newest())
                    .map(|it| SequencerHeight(it.height())),
            },
            celestia: CelestiaStatus {
                chain_id: self.scanner.chain_id().map(str::to_owned),
                head: self.scanner.head(),
                trust: self.limits.celestia_trust,
                trusted: self.celestia.as_ref().and_then(|it| it.client.newest()).map(|it| CelestiaHeight(it.height())),
                block_time: self.scanner.block_time(),
            },
            cells: self.cells.iter().map(|(id, cell)| (*id, self.cell_status(cell, now))).collect(),
            dropped: self.dropped.clone(),
            gossip: self.gossip.as_ref().map(|gossip| GossipStatus {
                newest: gossip.newest(),
                fresh: gossip.is_fresh(now),
                alone: self.asks_peers_only(),
                undecided: gossip.undecided.len(),
                asking: gossip.asked(),
                counts: gossip.counts.clone(),
            }),
        }
    }

    fn cell_status(&self, cell: &Cell, now: Timestamp) -> CellStatus {
        let running = cell.running();
        let head = |level: Level| {
            let session = &running?.session;
            let block = match level {
                Level::Soft => &session.commitment.soft,
                Level::Firm => &session.commitment.firm,
            };
            let height = session.map.to_sequencer(block.number()).ok();
            Some(Head { number: block.number(), hash: block.hash().to_owned(), height })
        };
        CellStatus {
            mode: cell.spec.mode,
            phase: match cell.state {
                State::Opening => Phase::Opening,
                State::Running(_) => Phase::Running,
                State::Parked(_) => Phase::Parked,
                State::Stopped => Phase::Stopped,
            },
            soft: head(Level::Soft),
            firm: head(Level::Firm),
            lowest_celestia_search_height: running.map(|running| running.session.commitment.lowest),
            celestia_read_below: running.and_then(|running| Some(running.joiner.as_ref()?.frontier())),
            waiting_for: self.waits(cell, now),
            executed: cell.executed,
            sessions: cell.sessions,
        }
    }

    /// Everything that keeps a cell from advancing (L3); never empty.
    fn waits(&self, cell: &Cell, now: Timestamp) -> Vec<Wait> {
        let running = match &cell.state {
            State::Parked(reason) => return vec![Wait::Parked { reason: reason.clone() }],
            State::Stopped => return vec![Wait::Stopped],
            State::Opening => {
                let wait = match cell.opening.due() {
                    Some(at) if cell.opening.failures() == 0 && at > now => {
                        Wait::SessionDelay { left_ms: u64::try_from(at.since(now).as_millis()).unwrap_or(u64::MAX) }
                    }
                    _ => Wait::Session { attempts: cell.opening.number() },
                };
                return vec![wait];
            }
            State::Running(running) => running,
        };
        let mut waits = Vec::new();
        if self.follower.chain_id.is_none() {
            waits.push(Wait::SequencerIdentity { attempts: self.follower.identify.number() });
        }
        if cell.spec.mode.follows_firm() && self.scanner.chain_id().is_none() {
            waits.push(Wait::CelestiaIdentity { attempts: self.scanner.head_poll.number() });
        }
        if let Some(step) = &running.step {
            waits.push(match &step.work {
                Work::Execute { number, .. } => Wait::Execution { number: *number },
                Work::Commit { moved, .. } => Wait::Commitment { number: moved.number },
                Work::LookUp { number, .. } => Wait::ExecutedBlock { number: *number },
            });
        }
        if cell.spec.mode.follows_soft() {
            waits.extend(self.soft_wait(cell));
        }
        waits.extend(running.joiner.as_ref().and_then(|joiner| self.firm_wait(joiner)));
        if waits.is_empty() {
            waits.push(Wait::NextStep);
        }
        waits
    }

    fn soft_wait(&self, cell: &Cell) -> Option<Wait> {
        let next = cell.running()?.session.next_soft()?;
        if cell.running()?.session.ends_before(next) {
            return None;
        }
        let Some((next, _)) = cell.soft_bound(&self.limits) else {
            return cell.running()?.identified.then_some(Wait::Spread { limit: self.limits.soft_firm_spread });
        };
        if self.follower.peek(cell.id, next).is_some() {
            return None;
        }
        if self.follower.head.is_none_or(|head| head < next) {
            return Some(Wait::SequencerBlock { height: next });
        }
        if self.follower.is_unbound(next) {
            return Some(self.header_wait(next));
        }
        let slot = self.follower.slots.get(&next);
        let ask = self.gossip.as_ref().and_then(|gossip| gossip.asks.get(&next));
        if let Some(ask) = ask.filter(|ask| self.asks_peers_only() || ask.attempt.failures() > 0 || slot.is_none()) {
            let asks_server = self.asks_server_for(next);
            return Some(Wait::Peers { height: next, attempts: ask.attempt.number(), asks_server });
        }
        Some(Wait::SoftBlock { height: next, attempts: slot.map_or(1, |slot| slot.attempt.number()) })
    }

    /// The way to a header may lead through a lower one, which is what is waited for then.
    fn header_wait(&self, height: SequencerHeight) -> Wait {
        if self.headers.trusted(height).is_some() && self.headers.lacks_content(height) {
            return self.content_wait(height);
        }
        let trusting = self.headers.trusting.as_ref();
        if trusting.is_some_and(|trusting| trusting.begins_at_head && trusting.newest().is_none()) {
            return Wait::FirstHeader;
        }
        let want = self.headers.wanted.range(..=height.plus(SPAN)).next_back();
        Wait::Header { height, attempts: want.map_or(1, |(_, want)| want.attempt.number()) }
    }

    fn content_wait(&self, height: SequencerHeight) -> Wait {
        let from_peers = self.asks_peers_only();
        let of_node = self.headers.transactions.get(&height).map(|pending| &pending.attempt);
        let of_peers = self.gossip.as_ref().and_then(|gossip| Some(&gossip.asks.get(&height)?.attempt));
        let attempt = if from_peers { of_peers } else { of_node };
        Wait::Content { height, attempts: attempt.map_or(1, Attempt::number), from_peers }
    }

    fn firm_wait(&self, joiner: &Joiner) -> Option<Wait> {
        Some(match joiner.lack()? {
            Lack::Unread(height) if self.scanner.head().is_none_or(|head| head < height) => {
                Wait::CelestiaBlock { height }
            }
            Lack::Unread(height) => {
                let read = self.scanner.reads.get(&height);
                let attempts = read.map_or(1, |read| read.attempt.number());
                if let Some(reason) = read.and_then(|read| read.unproven.clone()) {
                    return Some(Wait::CelestiaProof { height, attempts, reason });
                }
                let waits = read.is_some_and(|read| read.held.is_some());
                match self.celestia.as_ref().filter(|_| waits).and_then(|trusting| trusting.problem()) {
                    Some((attempts, reason)) => Wait::CelestiaProof { height, attempts, reason: reason.to_owned() },
                    None => Wait::Blobs { height, attempts },
                }
            }
            Lack::Header(height) => self.header_wait(height),
            Lack::RollupData(height) => Wait::RollupData { height },
            Lack::Exhausted { window_end } => Wait::Gap { height: joiner.next(), window_end },
        })
    }
}
