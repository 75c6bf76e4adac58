//! What a judge may measure: how much is held against its bound (L8), and the state in which a session begins (S14).

use sha2::{Digest as _, Sha256};

use super::{Conductor, StateHash};
use crate::{cell::Mode, gossip::BEHIND, ids::CellId};

/// Something held that must stay within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    pub name: &'static str,
    pub held: usize,
    pub bound: usize,
}

impl Conductor {
    /// What is held, and how much of it there may be whatever comes in.
    pub fn gauges(&self) -> Vec<Gauge> {
        let (limits, cells) = (&self.limits, self.cells.len());
        let gauge = |name, held, bound| Gauge { name, held, bound };
        let ahead = usize::try_from(limits.soft_ahead.max(1)).unwrap_or(usize::MAX);
        let mut gauges = vec![
            gauge(
                "trusted headers",
                self.headers.all_trusted().len(),
                limits.trusted_headers.max(1).saturating_add(2 * cells),
            ),
            gauge("headers to link others to", self.headers.waypoints().0, self.headers.waypoints().1),
            gauge("validator sets", self.headers.sets(), limits.validator_sets.max(1)),
            gauge("soft blocks", self.follower.slots.len(), ahead.saturating_add(1).saturating_mul(cells)),
        ];
        let (held, bound) = self.false_blocks.bytes();
        gauges.push(gauge("bytes of a refused block", held, bound));
        if self.gossip.is_none() || !limits.gossip.publish {
            let held = self.follower.encoded_bytes();
            gauges.push(gauge("bytes of soft blocks as they came", held, limits.soft_buffer_bytes));
        }
        if let Some(trusting) = &self.headers.trusting {
            let (held, bound) = trusting.witnesses.waiting();
            gauges.push(gauge("headers that wait for a witness", held, bound));
        }
        if let Some(trusting) = &self.celestia {
            let (held, bound) = trusting.held();
            gauges.push(gauge("hashes of Celestia headers", held, bound));
        }
        if let Some(gossip) = &self.gossip {
            let settings = &limits.gossip;
            let each = settings.ahead.saturating_add(1 + BEHIND);
            let heights = usize::try_from(each).unwrap_or(usize::MAX).saturating_mul(cells);
            gauges.push(gauge("heights known from peers", gossip.known.len(), heights));
            gauges.push(gauge("messages without a verdict", gossip.undecided.len(), settings.undecided));
            let bytes = gossip.undecided_bytes();
            gauges.push(gauge("bytes of messages without a verdict", bytes, settings.undecided_bytes));
            gauges.push(gauge("heights that peers have", gossip.spread().0, gossip.spread().1));
            gauges.push(gauge("questions to peers", gossip.asked(), settings.asked_at_once));
        }
        for cell in self.cells.values() {
            let lead = match cell.spec.mode {
                // The memory serves firm's confirmation only.
                Mode::SoftOnly | Mode::FirmOnly => 0,
                Mode::SoftAndFirm => usize::try_from(limits.soft_firm_spread.max(1)).unwrap_or(usize::MAX),
            };
            gauges.push(gauge("remembered soft blocks", cell.remembered(), lead));
            if let Some(joiner) = cell.running().and_then(|running| running.joiner.as_ref()) {
                gauges.push(gauge("bytes counted beside those held", joiner.bytes_off(), 0));
            }
        }
        gauges
    }

    /// Digest of all that a cell knows in its session; none without a session. Right after the session was opened it must
    /// be that of a new process that opened the same one.
    pub fn session_digest(&self, cell: CellId) -> Option<StateHash> {
        let running = self.cells.get(&cell)?.running()?;
        Some(StateHash(Sha256::digest(format!("{running:?}")).into()))
    }
}
