//! Sessions of rollups and what is executed and committed in them.

use downbeat_core::{
    Answer, Call, CellId, Command, Conductor, Event, Outbox, RollupNumber, Seq, Stamped, Timestamp,
    cell::{CellSpec, Mode},
    light::{SoftTrust, Trust},
    view::{Phase, Wait},
    wire::proto::astria::execution::v2::{CommitmentState, ExecutedBlockMetadata, ExecutionSession},
};
use downbeat_world::World;

use super::{Watch, calls::beginning};

/// What a rollup has said about its session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) end: u64,
    pub(super) soft: ExecutedBlockMetadata,
    pub(super) firm: ExecutedBlockMetadata,
    /// A reply in it was wrong: nothing may be built on it.
    pub(super) wrong: Option<String>,
    /// A call in it may or may not have taken effect.
    pub(super) unknown: Option<String>,
}

impl Session {
    pub(super) fn of(session: &ExecutionSession) -> Option<Self> {
        let state = session.commitment_state.as_ref()?;
        Some(Self {
            id: session.session_id.clone(),
            end: session.execution_session_parameters.as_ref()?.rollup_end_block_number,
            soft: state.soft_executed_block_metadata.clone()?,
            firm: state.firm_executed_block_metadata.clone()?,
            wrong: None,
            unknown: None,
        })
    }
}

impl Watch {
    /// S19, S20: a session is opened for a reason.
    pub(super) fn opens(&mut self, cell: CellId) {
        if self.may_open.contains(&cell) {
            return;
        }
        let Some(session) = self.sessions.get(&cell) else { return };
        let (invariant, end) =
            if session.end == 0 { ("S20", "no end".to_owned()) } else { ("S19", session.end.to_string()) };
        let (soft, firm) = (session.soft.number, session.firm.number);
        let detail = format!("{} with {end} was given up at soft {soft}, firm {firm}, for no reason", session.id);
        self.broken(invariant, detail);
    }

    /// S11, S13, S18, S19: a call names the current session, in which all is well, and a block inside of it.
    pub(super) fn uses(&mut self, cell: CellId, id: &str, number: u64, call: &Call) {
        let Some(session) = self.sessions.get(&cell) else { return };
        // Written only when it is needed: a call can be long.
        let what = || beginning(call, 40);
        if session.id != id {
            let detail = format!("{} names {id:?}, the session is {:?}", what(), session.id);
            self.broken("S18", detail);
        } else if let Some(wrong) = &session.wrong {
            let detail = format!("{} builds upon a wrong reply in {id}: {wrong}", what());
            self.broken("S13", detail);
        } else if let Some(unknown) = &session.unknown {
            let detail = format!("{} in {id}, in which the outcome of a call is unknown: {unknown}", what());
            self.broken("S11", detail);
        } else if session.end > 0 && number > session.end {
            let detail = format!("{} for block {number}, {id} ends with {}", what(), session.end);
            self.broken("S19", detail);
        }
    }

    pub(super) fn commits(&mut self, cell: CellId, state: &CommitmentState, world: &World) {
        let Some(session) = self.sessions.get(&cell) else { return };
        let ((soft, _), (firm, _), _) = names(state);
        let (soft_moves, firm_moves) = (soft > session.soft.number, firm > session.firm.number);
        if firm_moves {
            // S1: with a quorum of the model's own validators, seen by this life.
            let height = world.sequencer_height(RollupNumber(firm));
            if !self.proven.contains(&height) {
                self.broken(
                    "S1",
                    format!("block {firm} of height {height} was made firm and no commit for it was seen"),
                );
            }
            // S15: not from a branch that was only shown.
            if self.limits.celestia_trust == Trust::Consensus {
                self.published.read_on(world);
                let rollup = usize::try_from(cell.0).ok().and_then(|index| world.node_ids().get(index));
                if rollup.is_some_and(|id| !self.published.is_whole(world, *id, height)) {
                    self.broken("S15", format!("block {firm} of height {height} became firm and is not on Celestia"));
                }
            }
        } else if soft_moves && self.limits.trust.soft == SoftTrust::Consensus {
            let height = world.sequencer_height(RollupNumber(soft));
            if !self.proven.contains(&height) {
                self.broken("S1", format!("block {soft} of height {height} became soft and no commit for it was seen"));
            }
        }
        if !firm_moves && soft_moves && self.mode.follows_firm() {
            *self.soft_moves.entry(cell).or_default() += 1;
            let lead = soft.saturating_sub(firm);
            if lead > self.limits.soft_firm_spread.max(1) {
                self.broken(
                    "L8",
                    format!("soft is {lead} blocks ahead of firm, {} are permitted", self.limits.soft_firm_spread),
                );
            }
        }
    }

    /// S14: a new session begins as that of a new process, which is started here and told the same.
    pub(super) fn begins_fresh(
        &mut self,
        cell: CellId,
        session: &ExecutionSession,
        at: Timestamp,
        conductor: &Conductor,
    ) {
        let mut fresh = Conductor::new(self.limits.clone(), [0; 32], &[]);
        let spec = CellSpec { mode: self.mode, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
        let mut seq = 0;
        let mut tell = |fresh: &mut Conductor, event| {
            let mut out = Outbox::new();
            // A refusal shows in the digest.
            let _ = fresh.handle(&Stamped { seq: Seq(seq), at, event }, &mut out);
            seq += 1;
            out.drain().collect::<Vec<Command>>()
        };
        for command in tell(&mut fresh, Event::CellInstalled { cell, spec }) {
            let Command::Call { id, call, .. } = command else { continue };
            let answer = match call {
                Call::IdentifySequencer => {
                    self.sequencer_id.clone().map(|chain_id| Answer::SequencerIdentified { chain_id })
                }
                Call::FetchCelestiaHead => self.celestia_head.clone().map(|head| Answer::CelestiaHeadFetched { head }),
                Call::OpenSession { .. } => Some(Answer::SessionOpened { session: Box::new(session.clone()) }),
                _ => None,
            };
            if let Some(answer) = answer {
                tell(&mut fresh, Event::Answered { id, answer });
            }
        }
        // With the genesis alone, of which nothing follows any more, a process without a server would give up.
        let is_too_old = fresh.status(at).cells.get(&cell).is_some_and(|cell| cell.phase == Phase::Parked);
        if !is_too_old && fresh.session_digest(cell) != conductor.session_digest(cell) {
            let detail = format!("{} began in {cell} in another state than in a new process", session.session_id);
            self.broken("S14", detail);
        }
    }

    /// L2: soft waits for firm only when it has the whole lead that it may have.
    pub(super) fn looks_at_spread(&mut self, conductor: &Conductor, now: Timestamp) {
        if self.mode != Mode::SoftAndFirm {
            return;
        }
        for (cell, status) in conductor.status(now).cells {
            let lead = self.sessions.get(&cell).map(|session| session.soft.number.saturating_sub(session.firm.number));
            let waits = status.waiting_for.iter().any(|wait| matches!(wait, Wait::Spread { .. }));
            if let Some(lead) = lead.filter(|lead| waits && *lead < self.limits.soft_firm_spread.max(1)) {
                let most = self.limits.soft_firm_spread;
                self.broken("L2", format!("{cell} waits for firm with a lead of {lead} blocks, {most} are permitted"));
            }
        }
    }
}

type Names<'a> = ((u64, &'a str), (u64, &'a str), u64);

/// Numbers and hashes of both heads, and the search height.
pub(super) fn names(state: &CommitmentState) -> Names<'_> {
    fn name(block: Option<&ExecutedBlockMetadata>) -> (u64, &str) {
        block.map_or((0, ""), |block| (block.number, &block.hash))
    }
    let (soft, firm) = (state.soft_executed_block_metadata.as_ref(), state.firm_executed_block_metadata.as_ref());
    (name(soft), name(firm), state.lowest_celestia_search_height)
}

/// What a rollup says of a block against what it must be.
pub(super) fn contradiction(
    block: &ExecutedBlockMetadata,
    number: u64,
    parent: Option<&str>,
    made_from: &str,
) -> Option<String> {
    let says = block.sequencer_block_hash.trim_start_matches("0x");
    if block.number != number {
        Some(format!("block {} instead of {number}", block.number))
    } else if block.timestamp.is_none() {
        Some("no time".to_owned())
    } else if parent.is_some_and(|parent| parent != block.parent_hash) {
        Some(format!("parent {:?} instead of {parent:?}", block.parent_hash))
    } else if !says.is_empty() && !says.eq_ignore_ascii_case(made_from) {
        Some(format!("made from {says}, not from {made_from}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_held_against_what_was_asked() {
        let block = ExecutedBlockMetadata {
            number: 7,
            parent_hash: "p".to_owned(),
            timestamp: Some(downbeat_world::cometbft::wire_time(Timestamp(1))),
            sequencer_block_hash: "0xAB".to_owned(),
            ..ExecutedBlockMetadata::default()
        };
        assert_eq!(contradiction(&block, 7, Some("p"), "ab"), None);
        assert!(contradiction(&block, 8, Some("p"), "ab").is_some());
        assert!(contradiction(&block, 7, Some("q"), "ab").is_some());
        assert!(contradiction(&block, 7, Some("p"), "ac").is_some());
        let silent = ExecutedBlockMetadata { sequencer_block_hash: String::new(), ..block };
        assert_eq!(contradiction(&silent, 7, None, "ac"), None, "a node need not keep the sequencer's hash");
    }
}
