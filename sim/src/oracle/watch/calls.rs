//! How often and how fast calls are made (L8).

use downbeat_core::{Call, CellId, CommandId, Timestamp};
use downbeat_world::World;

use super::{Open, Watch, rollups::names};

/// Retries in a row that come too soon before that counts as hammering.
const HASTY_MAX: u32 = 6;

/// Retries after exactly the full back-off before that counts as missing jitter.
const EXACT_MAX: u32 = 6;

/// Calls that share a limit, and what tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Identity,
    Head,
    Soft,
    Header,
    Links,
    Validators,
    BlockData,
    CelestiaHead,
    Blobs,
    CelestiaHeader,
    CelestiaLinks,
    Peers,
    Rollup(CellId),
}

impl Watch {
    pub(super) fn call(&mut self, id: CommandId, deadline: Timestamp, call: &Call, now: Timestamp, world: &World) {
        let group = group_of(call);
        self.open.insert(id, Open { deadline, call: call.clone() });
        let count = self.counts.entry(group).or_default();
        *count += 1;
        let (count, cells) = (*count, world.node_ids().len());
        // Of what peers show each node is a witness, else each but the one that showed it.
        let nodes = usize::try_from(self.limits.trust.nodes).unwrap_or(usize::MAX);
        let witnesses = nodes.saturating_sub(usize::from(!self.limits.gossip.enabled)).max(1);
        let most = match group {
            Group::Identity | Group::Head | Group::CelestiaHead | Group::Rollup(_) => 1,
            Group::Soft => self.limits.soft_in_flight,
            Group::Peers => self.limits.gossip.asked_at_once,
            Group::Blobs | Group::CelestiaHeader | Group::CelestiaLinks => self.limits.celestia_in_flight.max(1),
            Group::Links | Group::BlockData => self.limits.headers_in_flight,
            // What soft and firm need next always has a place and so has the head, witnesses are asked beside, and a node
            // that does not serve several headers at once is asked for each of those that are to be linked.
            // One more is asked for to show others that a soft block was false.
            Group::Header => 2 * self.limits.headers_in_flight + 2 * cells + 1 + witnesses + 1,
            Group::Validators => self.limits.headers_in_flight + 2 * cells + 1 + witnesses + 1,
        };
        if count > most {
            self.broken("L8", format!("{count} calls of the kind {group:?} in flight, {most} are permitted"));
        }
        self.paces(group, number_of(call), now);
        match call {
            Call::OpenSession { cell } => self.opens(*cell),
            Call::ExecuteBlock { cell, request } => {
                self.acts_on_record(call);
                let next = self.sessions.get(cell).map_or(0, |session| session.soft.number + 1);
                self.uses(*cell, &request.session_id, next, call);
            }
            Call::UpdateCommitment { cell, request } => {
                if self.has_evidence {
                    self.broken("S9", "a commitment after validators were found to have signed twice");
                }
                let number = request.commitment_state.as_ref().map_or(0, |state| names(state).0.0);
                self.uses(*cell, &request.session_id, number, call);
                if let Some(state) = &request.commitment_state {
                    self.commits(*cell, state, world);
                }
            }
            _ => {}
        }
    }

    /// L8: a call that failed is made again only after a pause, of which a part is random.
    pub(super) fn paces(&mut self, group: Group, number: u64, now: Timestamp) {
        let Some((failed, hasty)) = self.failed.get_mut(&(group, number)) else { return };
        let Some(at) = failed.take() else {
            *hasty = 0;
            return;
        };
        let (pause, first) = (now.since(at), self.limits.backoff_first);
        *hasty = if pause < first / 2 { *hasty + 1 } else { 0 };
        if *hasty >= HASTY_MAX {
            self.broken(
                "L8",
                format!("{group:?} {number} failed and was called again at once, {HASTY_MAX} times in a row"),
            );
        }
        if pause == first && !matches!(group, Group::Rollup(_)) {
            self.exact += 1;
            if self.exact >= EXACT_MAX {
                self.broken("L8", format!("{} retries came after exactly {first:?}: no jitter", self.exact));
            }
        }
    }
}

/// The first characters of what a call looks like.
pub(super) fn beginning(call: &Call, length: usize) -> String {
    format!("{call:?}").chars().take(length).collect()
}

pub(super) fn rollup_of(call: &Call) -> Option<CellId> {
    match group_of(call) {
        Group::Rollup(cell) => Some(cell),
        _ => None,
    }
}

pub(super) fn group_of(call: &Call) -> Group {
    match call {
        Call::IdentifySequencer => Group::Identity,
        Call::FetchSequencerHead => Group::Head,
        Call::FetchSoftBlock { .. } => Group::Soft,
        Call::FetchSignedHeader { .. } => Group::Header,
        Call::FetchHeaders { .. } => Group::Links,
        Call::FetchValidators { .. } => Group::Validators,
        Call::FetchBlockTransactions { .. } => Group::BlockData,
        Call::FetchCelestiaHead => Group::CelestiaHead,
        Call::FetchBlobs { .. } | Call::FetchNamespaces { .. } => Group::Blobs,
        Call::FetchCelestiaHeader { .. } => Group::CelestiaHeader,
        Call::FetchCelestiaHeaders { .. } => Group::CelestiaLinks,
        Call::FetchFromPeers { .. } => Group::Peers,
        Call::OpenSession { cell }
        | Call::ExecuteBlock { cell, .. }
        | Call::UpdateCommitment { cell, .. }
        | Call::FetchExecutedBlock { cell, .. } => Group::Rollup(*cell),
    }
}

/// The height or number that a call names.
pub(super) fn number_of(call: &Call) -> u64 {
    match call {
        Call::FetchSoftBlock { height, .. }
        | Call::FetchSignedHeader { height }
        | Call::FetchValidators { height }
        | Call::FetchBlockTransactions { height }
        | Call::FetchFromPeers { height, .. }
        | Call::FetchHeaders { last: height, .. } => height.0,
        Call::FetchBlobs { height, .. }
        | Call::FetchNamespaces { height, .. }
        | Call::FetchCelestiaHeader { height }
        | Call::FetchCelestiaHeaders { last: height, .. } => height.0,
        Call::FetchExecutedBlock { number, .. } => number.0,
        _ => 0,
    }
}
