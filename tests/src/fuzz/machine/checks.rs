//! What must hold after each event.

use std::collections::BTreeMap;

use downbeat_core::{
    Call, CellId, CommandId, Conductor, Job, Outbox, RollupNumber, Timestamp,
    cell::Mode,
    view::{CellStatus, Phase},
    wire::proto::astria::execution::v2::{ExecuteBlockRequest, UpdateCommitmentStateRequest},
};

use super::{Run, Wish};

/// Where the heads of a session were seen last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heads {
    sessions: u64,
    soft: RollupNumber,
    firm: RollupNumber,
}

impl Heads {
    #[cfg(test)]
    pub(super) fn numbers(self) -> (u64, u64) {
        (self.soft.0, self.firm.0)
    }
}

/// The whole state but the number of the next event.
pub(super) fn without_seq(conductor: &Conductor, seq: u64) -> String {
    format!("{conductor:?}").replacen(&format!("next_seq: Seq({seq})"), "", 1)
}

impl Run<'_> {
    /// Ids are never used twice.
    pub(super) fn check_id(&mut self, id: CommandId) {
        if let Some((incarnation, next)) = self.ids {
            assert_eq!(id.incarnation, incarnation);
            assert!(id.ordinal >= next, "{id:?} was used before");
        }
        self.ids = Some((id.incarnation, id.ordinal + 1));
    }

    /// What is asked of a peer.
    pub(super) fn check_call(&mut self, call: &Call, deadline: Timestamp) {
        assert!(deadline > self.now, "a deadline that is over");
        match call {
            Call::ExecuteBlock { cell, request } => self.check_execution(*cell, request),
            Call::UpdateCommitment { cell, request } => self.check_commitment(*cell, request),
            Call::FetchSoftBlock { rollup_ids, .. } => {
                assert!(rollup_ids.is_sorted_by(|one, next| one < next), "ids ascend: {rollup_ids:?}");
            }
            Call::FetchHeaders { first, last } => {
                let count = last.0.checked_sub(first.0).map(|more| more + 1);
                assert!(count.is_some_and(|count| count <= downbeat_core::command::HEADERS_MAX), "{first} to {last}");
            }
            _ => {}
        }
    }

    fn cell(&self, cell: CellId) -> CellStatus {
        self.conductor.status(self.now).cells.remove(&cell).expect("a cell that was installed")
    }

    fn check_execution(&mut self, cell: CellId, request: &ExecuteBlockRequest) {
        let mode = self.specs_of(cell);
        assert!(self.told_sequencer && (self.told_celestia || !mode.follows_firm()), "executed before identity (S18)");
        assert_eq!(Some(&request.session_id), self.sessions.get(&cell), "of another session (S18)");
        let status = self.cell(cell);
        let (soft, firm) = (status.soft.expect("a head"), status.firm.expect("a head"));
        let parents = if mode.follows_soft() { vec![&soft.hash, &firm.hash] } else { vec![&firm.hash] };
        assert!(parents.contains(&&request.parent_hash), "the parent is no head (S6): {request:?}");
        // Whatever liars do, what comes from Celestia is what the validators signed.
        if mode == Mode::FirmOnly {
            self.check_genuine(cell, request);
        }
        self.executing.insert(cell, request.clone());
    }

    fn check_genuine(&self, cell: CellId, request: &ExecuteBlockRequest) {
        let key = (self.rollup(cell), request.sequencer_block_hash.clone());
        let is_of_the_chain = self.model.genuine.keys().any(|(_, hash)| *hash == key.1);
        assert!(is_of_the_chain, "no block of the chain (S2): {request:?}");
        if self.is_misled {
            // The session may name another rollup.
            return;
        }
        let genuine = self.model.genuine.get(&key).expect("of the chain");
        assert_eq!((request.timestamp, &request.transactions), (Some(genuine.time), &genuine.transactions), "S2, S3");
    }

    fn check_commitment(&self, cell: CellId, request: &UpdateCommitmentStateRequest) {
        assert_eq!(Some(&request.session_id), self.sessions.get(&cell), "of another session (S18)");
        let status = self.cell(cell);
        let (soft, firm) = (status.soft.as_ref().expect("a head"), status.firm.as_ref().expect("a head"));
        let state = request.commitment_state.as_ref().expect("a state");
        let next_soft = state.soft_executed_block_metadata.as_ref().expect("a head");
        let next_firm = state.firm_executed_block_metadata.as_ref().expect("a head");
        let soft_moves = next_soft.number.checked_sub(soft.number.0).expect("soft goes back (S8)");
        let firm_moves = next_firm.number.checked_sub(firm.number.0).expect("firm goes back (S8)");
        assert!(soft_moves <= 1 && firm_moves <= 1 && soft_moves + firm_moves >= 1, "{status:?} to {state:?}");
        assert!(next_firm.number <= next_soft.number, "firm passes soft (S8)");
        let lowest = status.lowest_celestia_search_height.expect("a search height");
        assert!(state.lowest_celestia_search_height >= lowest.0, "the search goes back");
        // S9: what becomes firm was executed from a block of the chain, as far as we saw it executed. Known gap: of a
        // block whose commitment is only known from a later session, the content is not compared.
        if firm_moves == 1
            && (status.sessions == 1 || !self.has_lied_softly)
            && let Some(executed) = self.executed.get(&(cell, next_firm.hash.clone()))
        {
            self.check_genuine(cell, executed);
        }
    }

    fn specs_of(&self, cell: CellId) -> Mode {
        self.cell(cell).mode
    }

    /// The state as a whole.
    pub(super) fn check(&mut self) {
        let conductor = &self.conductor;
        assert_eq!(conductor.in_flight(), self.pending.len(), "{:?}", self.pending);
        self.check_told();
        if self.has_exited {
            assert!(self.pending.is_empty(), "left in flight at the exit (L9): {:?}", self.pending);
            assert_eq!(conductor.next_deadline(), None);
            return;
        }
        let status = conductor.status(self.now);
        let deadline = conductor.next_deadline();
        if let Some((at, timer)) = deadline {
            assert!(at > self.now, "{timer:?} is due and nothing happens");
        }
        let is_active = |cell: &CellStatus| !matches!(cell.phase, Phase::Parked | Phase::Stopped);
        if status.cells.values().any(is_active) {
            let waits = deadline.is_some() || !self.pending.is_empty();
            assert!(waits, "nothing is in flight and nothing is due (L3): {:?}", status.cells);
        }
        for wish in self.pending.values() {
            if let Wish::Call { deadline: due, .. } = wish {
                assert!(*due > self.now, "a call is waited for past its deadline");
                assert!(deadline.is_some_and(|(at, _)| at <= *due), "a call without its deadline");
            }
        }
        for (id, cell) in &status.cells {
            assert!(!cell.waiting_for.is_empty(), "{id} waits for nothing (L3)");
            let (Some(soft), Some(firm)) = (&cell.soft, &cell.firm) else { continue };
            assert!(firm.number <= soft.number, "firm passed soft (S8)");
            let heads = Heads { sessions: cell.sessions, soft: soft.number, firm: firm.number };
            if let Some(before) = self.heads.insert(*id, heads)
                && before.sessions == heads.sessions
            {
                assert!(before.soft <= heads.soft && before.firm <= heads.firm, "{before:?} to {heads:?} (S8)");
            }
        }
        self.check_bounds();
    }

    /// L8: what is in flight stays below the limits.
    fn check_bounds(&self) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for wish in self.pending.values() {
            let kind = match wish {
                Wish::Job(Job::VerifySoftBlock { .. }) | Wish::Call { call: Call::FetchSoftBlock { .. }, .. } => "soft",
                Wish::Job(Job::DecodeBlobs(_)) => "decoding",
                Wish::Job(Job::VerifyCelestiaHeaders(_)) => "celestia commits",
                Wish::Call { call: Call::FetchCelestiaHeader { .. }, .. } => "celestia headers",
                Wish::Call { call: Call::FetchCelestiaHeaders { .. }, .. } => "celestia links",
                Wish::Call { call: Call::FetchBlobs { .. } | Call::FetchNamespaces { .. }, .. } => "blobs",
                Wish::Job(Job::VerifyLinks { .. }) | Wish::Call { call: Call::FetchHeaders { .. }, .. } => "links",
                Wish::Job(Job::VerifyTransactions { .. })
                | Wish::Call { call: Call::FetchBlockTransactions { .. }, .. } => "transactions",
                Wish::Job(Job::VerifyHeader { .. } | Job::CompareWitness { .. })
                | Wish::Call { call: Call::FetchSignedHeader { .. } | Call::FetchValidators { .. }, .. } => "headers",
                Wish::Call { call: Call::IdentifySequencer, .. } => "identity",
                Wish::Call { call: Call::FetchSequencerHead, .. } => "sequencer head",
                Wish::Call { call: Call::FetchCelestiaHead, .. } => "celestia head",
                Wish::Job(Job::ProveFalseBlock(_)) => "false blocks",
                Wish::Job(Job::MakeGossip(_)) => "messages",
                Wish::Job(Job::VerifyGossip(_)) => "gossip",
                Wish::Call { call: Call::FetchFromPeers { .. }, .. } => "peers",
                Wish::Call { .. } => "rollup",
            };
            *counts.entry(kind).or_default() += 1;
        }
        let (limits, cells) = (&self.limits, self.nodes.len() + 3);
        for (kind, count) in counts {
            let most = match kind {
                "soft" => limits.soft_in_flight,
                "blobs" | "celestia headers" | "celestia links" => limits.celestia_in_flight.max(1),
                // What waited for one header may go on for every cell at once; one commit is checked at a time.
                "decoding" | "celestia commits" => limits.celestia_in_flight.max(1).saturating_mul(cells),
                "links" | "transactions" => limits.headers_in_flight,
                // The height that a cell needs next always has a place, and what was asked for stays for a while.
                "headers" => limits.headers_in_flight.saturating_add(cells * 4),
                "rollup" => cells,
                "gossip" => limits.gossip.undecided.saturating_add(limits.gossip.asked_at_once),
                "peers" => limits.gossip.asked_at_once,
                // One for each block that a server gave.
                "messages" => usize::try_from(limits.gossip.ahead).unwrap_or(usize::MAX).saturating_mul(cells),
                _ => 1,
            };
            assert!(count <= most, "{count} {kind} in flight, {most} are permitted (L8)");
        }
    }

    /// S17: the same events give the same state.
    pub(super) fn check_replay(&self) {
        let mut conductor = Conductor::new(self.limits.clone(), self.seed, &[]);
        let mut out = Outbox::new();
        for stamped in &self.history {
            // Refused then, refused now.
            let _ = conductor.handle(stamped, &mut out);
        }
        assert_eq!(conductor.state_hash(), self.conductor.state_hash(), "a replay differs (S17)");
    }
}
