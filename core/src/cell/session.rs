//! A session as the rollup hands it out, parsed and checked.

use crate::{
    canary::{Canary, canary},
    cell::{CellSpec, HeightMap, HeightMapError, Mode},
    ids::{BlockHash, CelestiaHeight, RollupId, RollupNumber, SequencerHeight},
    limits::Limits,
    wire::proto::astria::execution::v2 as proto,
};

/// A block of the rollup, as the rollup describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutedBlock {
    metadata: proto::ExecutedBlockMetadata,
}

/// Both heads and where the search for the next firm block begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Commitment {
    pub soft: ExecutedBlock,
    pub firm: ExecutedBlock,
    pub lowest: CelestiaHeight,
}

/// The agreement with a rollup under which blocks are executed (reference §1.2).
#[derive(Clone, Debug)]
pub struct Session {
    pub id: String,
    pub rollup_id: RollupId,
    pub map: HeightMap,
    pub sequencer_chain_id: String,
    pub celestia_chain_id: String,
    pub look_ahead: u64,
    pub commitment: Commitment,
}

/// Why a message of the rollup cannot be worked with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{what} has {actual} bytes, at most {max} are accepted")]
    TooLong { what: &'static str, actual: usize, max: usize },
    #[error("rollup_id has {0} bytes instead of 32")]
    RollupId(usize),
    #[error("firm block {firm} is ahead of soft block {soft}")]
    FirmAheadOfSoft { soft: RollupNumber, firm: RollupNumber },
    #[error("soft and firm are both at block {number} but have the hashes {soft} and {firm}")]
    TwoHashes { number: RollupNumber, soft: String, firm: String },
    #[error("celestia_search_height_max_look_ahead is 0: no block could ever be found on Celestia")]
    NoLookAhead,
    #[error(transparent)]
    Heights(#[from] HeightMapError),
    #[error("the rollup expects the {chain} chain {session:?}, the configuration expects {configured:?}")]
    OtherChain { chain: &'static str, session: String, configured: String },
}

impl ExecutedBlock {
    /// # Errors
    /// If the time is missing or a text is longer than [`Limits::text_bytes`].
    pub fn from_wire(metadata: proto::ExecutedBlockMetadata, limits: &Limits) -> Result<Self, SessionError> {
        bounded("hash", &metadata.hash, limits)?;
        bounded("parent_hash", &metadata.parent_hash, limits)?;
        bounded("sequencer_block_hash", &metadata.sequencer_block_hash, limits)?;
        if metadata.timestamp.is_none() {
            return Err(SessionError::Missing("timestamp"));
        }
        Ok(Self { metadata })
    }

    pub fn number(&self) -> RollupNumber {
        RollupNumber(self.metadata.number)
    }

    /// In the rollup's own text form.
    pub fn hash(&self) -> &str {
        &self.metadata.hash
    }

    pub fn parent_hash(&self) -> &str {
        &self.metadata.parent_hash
    }

    /// Whether the rollup says which sequencer block this one was made from, and whether it is `hash`.
    pub fn is_made_from(&self, hash: BlockHash) -> Option<bool> {
        let text = self.metadata.sequencer_block_hash.trim();
        if text.is_empty() {
            return None;
        }
        let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        Some(text.eq_ignore_ascii_case(&hash.to_string()))
    }

    /// As sent by the rollup.
    pub fn sequencer_block_hash(&self) -> &str {
        &self.metadata.sequencer_block_hash
    }

    pub fn to_wire(&self) -> proto::ExecutedBlockMetadata {
        self.metadata.clone()
    }

    fn is_same_block(&self, other: &Self) -> bool {
        self.number() == other.number() && self.hash() == other.hash() && self.parent_hash() == other.parent_hash()
    }
}

impl Commitment {
    /// # Errors
    /// If a block is missing or malformed, firm is ahead of soft, or one number has two hashes.
    pub fn from_wire(state: proto::CommitmentState, limits: &Limits) -> Result<Self, SessionError> {
        let soft = state.soft_executed_block_metadata.ok_or(SessionError::Missing("soft_executed_block_metadata"))?;
        let firm = state.firm_executed_block_metadata.ok_or(SessionError::Missing("firm_executed_block_metadata"))?;
        let (soft, firm) = (ExecutedBlock::from_wire(soft, limits)?, ExecutedBlock::from_wire(firm, limits)?);
        if firm.number() > soft.number() {
            return Err(SessionError::FirmAheadOfSoft { soft: soft.number(), firm: firm.number() });
        }
        if firm.number() == soft.number() && firm.hash() != soft.hash() {
            let (number, soft, firm) = (soft.number(), soft.metadata.hash, firm.metadata.hash);
            return Err(SessionError::TwoHashes { number, soft, firm });
        }
        Ok(Self { soft, firm, lowest: CelestiaHeight(state.lowest_celestia_search_height) })
    }

    pub fn to_wire(&self) -> proto::CommitmentState {
        proto::CommitmentState {
            soft_executed_block_metadata: Some(self.soft.to_wire()),
            firm_executed_block_metadata: Some(self.firm.to_wire()),
            lowest_celestia_search_height: self.lowest.0,
        }
    }

    /// Whether `echo` speaks of the same blocks and the same search height.
    pub fn is_echoed_by(&self, echo: &Self) -> bool {
        self.soft.is_same_block(&echo.soft) && self.firm.is_same_block(&echo.firm) && self.lowest == echo.lowest
    }
}

impl Session {
    /// # Errors
    /// If the rollup's answer cannot be worked with; nothing of it is kept then.
    pub fn from_wire(session: proto::ExecutionSession, spec: &CellSpec, limits: &Limits) -> Result<Self, SessionError> {
        bounded("session_id", &session.session_id, limits)?;
        let parameters =
            session.execution_session_parameters.ok_or(SessionError::Missing("execution_session_parameters"))?;
        bounded("sequencer_chain_id", &parameters.sequencer_chain_id, limits)?;
        bounded("celestia_chain_id", &parameters.celestia_chain_id, limits)?;
        let rollup_id = parameters.rollup_id.ok_or(SessionError::Missing("rollup_id"))?.inner;
        let rollup_id =
            <[u8; 32]>::try_from(rollup_id.as_ref()).map_err(|_| SessionError::RollupId(rollup_id.len()))?;
        let map = HeightMap::new(
            RollupNumber(parameters.rollup_start_block_number),
            SequencerHeight(parameters.sequencer_start_block_height),
            RollupNumber(parameters.rollup_end_block_number),
        )?;
        let commitment = session.commitment_state.ok_or(SessionError::Missing("commitment_state"))?;
        let commitment = Commitment::from_wire(commitment, limits)?;
        map.next_height(commitment.soft.number())?;
        if spec.mode.follows_firm() {
            map.next_height(commitment.firm.number())?;
            if parameters.celestia_search_height_max_look_ahead == 0 {
                return Err(SessionError::NoLookAhead);
            }
            expect("Celestia", &parameters.celestia_chain_id, spec.expected_celestia_chain_id.as_deref())?;
        }
        expect("sequencer", &parameters.sequencer_chain_id, spec.expected_sequencer_chain_id.as_deref())?;
        Ok(Self {
            id: session.session_id,
            rollup_id: RollupId(rollup_id),
            map,
            sequencer_chain_id: parameters.sequencer_chain_id,
            celestia_chain_id: parameters.celestia_chain_id,
            look_ahead: parameters.celestia_search_height_max_look_ahead,
            commitment,
        })
    }

    /// Sequencer height of the next soft block; checked when the session or the commitment was adopted.
    pub fn next_soft(&self) -> Option<SequencerHeight> {
        self.map.next_height(self.commitment.soft.number()).ok()
    }

    /// Sequencer height of the next firm block.
    pub fn next_firm(&self) -> Option<SequencerHeight> {
        self.map.next_height(self.commitment.firm.number()).ok()
    }

    /// Whether the head that ends a session in this mode has reached the session's last block.
    pub fn is_finished(&self, mode: Mode) -> bool {
        let head = if mode.follows_firm() { &self.commitment.firm } else { &self.commitment.soft };
        let head = if canary(Canary::SoftEndsSession) { &self.commitment.soft } else { head };
        if canary(Canary::SessionEndOneLate) {
            return self.map.end_number().is_some_and(|end| head.number() > end);
        }
        if canary(Canary::NoEndIsEndZero) {
            return self.map.end_number().is_none_or(|end| head.number() >= end);
        }
        self.map.end_number().is_some_and(|end| head.number() >= end)
    }

    /// Whether the session has no room for a block at `height`.
    pub fn ends_before(&self, height: SequencerHeight) -> bool {
        let end = self.map.end_height().map(|end| if canary(Canary::SessionEndOneLate) { end.next() } else { end });
        end.is_some_and(|end| height > end)
    }
}

fn bounded(what: &'static str, text: &str, limits: &Limits) -> Result<(), SessionError> {
    if text.len() > limits.text_bytes {
        return Err(SessionError::TooLong { what, actual: text.len(), max: limits.text_bytes });
    }
    Ok(())
}

fn expect(chain: &'static str, session: &str, configured: Option<&str>) -> Result<(), SessionError> {
    match configured {
        Some(configured) if configured != session => {
            Err(SessionError::OtherChain { chain, session: session.to_owned(), configured: configured.to_owned() })
        }
        _ => Ok(()),
    }
}
