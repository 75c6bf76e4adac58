//! A session as the rollup hands it out, parsed and checked.

use std::sync::Arc;

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
    metadata: Arc<proto::ExecutedBlockMetadata>,
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
        Ok(Self { metadata: Arc::new(metadata) })
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
        self.metadata.as_ref().clone()
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
            let (number, soft, firm) = (soft.number(), soft.hash().to_owned(), firm.hash().to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::astria::primitive::v1 as primitive;

    fn block(number: u64, hash: &str) -> proto::ExecutedBlockMetadata {
        proto::ExecutedBlockMetadata {
            number,
            hash: hash.to_owned(),
            parent_hash: format!("parent of {hash}"),
            timestamp: Some(prost_types::Timestamp::default()),
            sequencer_block_hash: String::new(),
        }
    }

    fn state(soft: proto::ExecutedBlockMetadata, firm: proto::ExecutedBlockMetadata) -> proto::CommitmentState {
        proto::CommitmentState {
            soft_executed_block_metadata: Some(soft),
            firm_executed_block_metadata: Some(firm),
            lowest_celestia_search_height: 7,
        }
    }

    /// Blocks 1 to 5, of which 3 was executed softly and 2 is firm.
    fn session() -> proto::ExecutionSession {
        proto::ExecutionSession {
            session_id: "session".to_owned(),
            execution_session_parameters: Some(proto::ExecutionSessionParameters {
                rollup_id: Some(primitive::RollupId { inner: vec![7; 32].into() }),
                rollup_start_block_number: 1,
                rollup_end_block_number: 5,
                sequencer_chain_id: "sequencer".to_owned(),
                sequencer_start_block_height: 10,
                celestia_chain_id: "celestia".to_owned(),
                celestia_search_height_max_look_ahead: 8,
            }),
            commitment_state: Some(state(block(3, "three"), block(2, "two"))),
        }
    }

    fn spec(mode: Mode) -> CellSpec {
        CellSpec { mode, expected_sequencer_chain_id: None, expected_celestia_chain_id: None }
    }

    fn opened(session: proto::ExecutionSession, mode: Mode) -> Result<Session, SessionError> {
        Session::from_wire(session, &spec(mode), &Limits { text_bytes: 16, ..Limits::default() })
    }

    fn with(change: impl FnOnce(&mut proto::ExecutionSessionParameters)) -> proto::ExecutionSession {
        let mut session = session();
        change(session.execution_session_parameters.as_mut().expect("parameters"));
        session
    }

    #[test]
    fn a_session_says_what_comes_next_and_when_it_ends() {
        let session = opened(session(), Mode::SoftAndFirm).expect("a session");
        assert_eq!((session.next_soft(), session.next_firm()), (Some(SequencerHeight(13)), Some(SequencerHeight(12))));
        assert!(!session.ends_before(SequencerHeight(14)) && session.ends_before(SequencerHeight(15)));
        let finished = |soft, firm, mode| {
            let commitment = state(block(soft, "soft"), block(firm, if soft == firm { "soft" } else { "firm" }));
            let commitment = Commitment::from_wire(commitment, &Limits::default()).expect("a commitment");
            Session { commitment, ..session.clone() }.is_finished(mode)
        };
        assert!(!finished(4, 4, Mode::SoftOnly) && finished(5, 0, Mode::SoftOnly) && finished(6, 0, Mode::SoftOnly));
        assert!(
            !finished(5, 4, Mode::SoftAndFirm) && finished(5, 5, Mode::SoftAndFirm) && finished(5, 5, Mode::FirmOnly)
        );
        let endless = opened(with(|parameters| parameters.rollup_end_block_number = 0), Mode::SoftOnly);
        assert!(!endless.expect("a session").ends_before(SequencerHeight(u64::MAX)), "0 is no end");
    }

    #[test]
    fn texts_from_a_rollup_are_bounded() {
        let long = || "x".repeat(17);
        assert!(opened(proto::ExecutionSession { session_id: "x".repeat(16), ..session() }, Mode::SoftOnly).is_ok());
        let refused = [
            proto::ExecutionSession { session_id: long(), ..session() },
            with(|parameters| parameters.sequencer_chain_id = long()),
            with(|parameters| parameters.celestia_chain_id = long()),
            proto::ExecutionSession { commitment_state: Some(state(block(3, &long()), block(2, "two"))), ..session() },
        ];
        for session in refused {
            let error = opened(session, Mode::SoftOnly).expect_err("too long");
            assert!(matches!(error, SessionError::TooLong { actual: 17, max: 16, .. }), "{error}");
        }
    }

    #[test]
    fn what_the_operator_insists_on_must_be_what_the_rollup_expects() {
        let refusal = |sequencer: Option<&str>, celestia: Option<&str>, mode| {
            let spec = CellSpec {
                expected_sequencer_chain_id: sequencer.map(str::to_owned),
                expected_celestia_chain_id: celestia.map(str::to_owned),
                mode,
            };
            match Session::from_wire(session(), &spec, &Limits::default()) {
                Err(SessionError::OtherChain { chain, .. }) => Some(chain),
                Err(error) => panic!("{error}"),
                Ok(_) => None,
            }
        };
        assert_eq!(refusal(Some("sequencer"), Some("celestia"), Mode::SoftAndFirm), None);
        assert_eq!(refusal(Some("other"), None, Mode::SoftOnly), Some("sequencer"));
        assert_eq!(refusal(None, Some("other"), Mode::FirmOnly), Some("Celestia"));
        assert_eq!(refusal(None, Some("other"), Mode::SoftOnly), None, "Celestia is not looked at");
    }

    #[test]
    fn a_session_that_cannot_be_worked_with_is_refused() {
        let refusals: [(proto::ExecutionSession, &str); 8] = [
            (with(|parameters| parameters.celestia_search_height_max_look_ahead = 0), "look_ahead is 0"),
            (with(|parameters| parameters.rollup_id = None), "rollup_id is missing"),
            (
                with(|parameters| parameters.rollup_id = Some(primitive::RollupId { inner: vec![7; 31].into() })),
                "31 bytes",
            ),
            (proto::ExecutionSession { execution_session_parameters: None, ..session() }, "parameters is missing"),
            (proto::ExecutionSession { commitment_state: None, ..session() }, "commitment_state is missing"),
            (
                proto::ExecutionSession { commitment_state: Some(state(block(2, "2"), block(3, "3"))), ..session() },
                "ahead of soft",
            ),
            (
                proto::ExecutionSession { commitment_state: Some(state(block(2, "a"), block(2, "b"))), ..session() },
                "have the hashes a and b",
            ),
            (with(|parameters| parameters.rollup_start_block_number = 4), "one below"),
        ];
        for (session, reason) in refusals {
            let error = opened(session, Mode::SoftAndFirm).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(
            opened(with(|parameters| parameters.rollup_start_block_number = 4), Mode::SoftOnly).is_ok(),
            "firm is far"
        );
    }

    #[test]
    fn an_echo_speaks_of_the_same_blocks_and_the_same_search_height() {
        let commitment = |state| Commitment::from_wire(state, &Limits::default()).expect("a commitment");
        let told = commitment(state(block(3, "three"), block(2, "two")));
        let later = prost_types::Timestamp { seconds: 1, nanos: 0 };
        let same = proto::ExecutedBlockMetadata { timestamp: Some(later), ..block(3, "three") };
        assert!(told.is_echoed_by(&commitment(state(same, block(2, "two")))), "the time is the rollup's own");
        let parent = |number, hash| proto::ExecutedBlockMetadata { parent_hash: "x".to_owned(), ..block(number, hash) };
        let number = |number, hash: &str| proto::ExecutedBlockMetadata {
            parent_hash: format!("parent of {hash}"),
            ..block(number, hash)
        };
        let others = [
            state(number(4, "three"), block(2, "two")),
            state(block(3, "other"), block(2, "two")),
            state(parent(3, "three"), block(2, "two")),
            state(block(3, "three"), number(1, "two")),
            state(block(3, "three"), block(2, "other")),
            state(block(3, "three"), parent(2, "two")),
            proto::CommitmentState { lowest_celestia_search_height: 8, ..state(block(3, "three"), block(2, "two")) },
        ];
        for other in others {
            assert!(!told.is_echoed_by(&commitment(other.clone())), "{other:?}");
        }
        assert_eq!(commitment(told.to_wire()), told);
    }

    #[test]
    fn a_rollup_may_say_which_sequencer_block_it_executed_in_any_usual_form() {
        let hash = BlockHash([0xab; 32]);
        let says = |text: &str| {
            let metadata = proto::ExecutedBlockMetadata { sequencer_block_hash: text.to_owned(), ..block(1, "one") };
            let block = ExecutedBlock::from_wire(metadata, &Limits::default()).expect("a block");
            assert_eq!(block.sequencer_block_hash(), text);
            block.is_made_from(hash)
        };
        assert_eq!((says(""), says(" ")), (None, None), "it need not");
        for text in [hash.to_string(), format!("0x{hash}"), format!(" 0X{} ", hash.to_string().to_uppercase())] {
            assert_eq!(says(&text), Some(true), "{text}");
        }
        assert_eq!((says("0x"), says(&"ac".repeat(32))), (Some(false), Some(false)));
    }
}
