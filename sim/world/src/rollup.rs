//! A rollup node that keeps the execution API v2 to the letter (reference §1.2, §6.10, §12.7), and can be told to lie.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
};

use downbeat_core::{
    RollupId, RollupNumber, SequencerHeight,
    wire::proto::astria::{
        execution::v2::{
            CommitmentState, ExecuteBlockRequest, ExecuteBlockResponse, ExecutedBlockMetadata, ExecutionSession,
            ExecutionSessionParameters, GetExecutedBlockMetadataRequest, UpdateCommitmentStateRequest,
            executed_block_identifier::Identifier,
        },
        sequencerblock::v1::RollupData,
    },
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::published::wire_id;

/// The gRPC codes that a rollup node uses, and those that tests want from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// A refusal as gRPC carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// One session that the node hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPlan {
    pub rollup_start: RollupNumber,
    /// Inclusive; none if unset.
    pub rollup_end: Option<RollupNumber>,
    pub sequencer_chain_id: String,
    pub sequencer_start: SequencerHeight,
    pub celestia_chain_id: String,
    /// In Celestia heights.
    pub look_ahead: u64,
}

impl Default for SessionPlan {
    fn default() -> Self {
        Self {
            rollup_start: RollupNumber(1),
            rollup_end: None,
            sequencer_chain_id: "downbeat-sequencer".to_owned(),
            sequencer_start: SequencerHeight(1),
            celestia_chain_id: "downbeat-celestia".to_owned(),
            look_ahead: 300,
        }
    }
}

/// What the node does with an update that moves neither head. The API demands that one moves; nodes differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepeatedUpdate {
    Accept,
    /// With FAILED_PRECONDITION.
    #[default]
    Refuse,
}

/// How the node gives back the hash of the sequencer block that it executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SequencerHash {
    NotStored,
    #[default]
    Plain,
    /// With `0x` in front.
    Prefixed,
    /// As [`Plain`](Self::Plain), and a request without one is an INVALID_ARGUMENT.
    Required,
}

/// Which head ends a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionEnd {
    Soft,
    #[default]
    Firm,
}

/// How much of what was called the node remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceLimit {
    Off,
    Newest(usize),
    Everything,
}

/// What a node is.
#[derive(Clone, Debug)]
pub struct RollupConfig {
    pub rollup_id: RollupId,
    /// One after the other; past the last one the chain is halted.
    pub sessions: Vec<SessionPlan>,
    pub session_end: SessionEnd,
    /// Of the genesis commitment.
    pub lowest_celestia_search_height: u64,
    pub genesis_time: prost_types::Timestamp,
    pub sequencer_hash: SequencerHash,
    pub repeated_update: RepeatedUpdate,
    /// Refuse a `lowest_celestia_search_height` below the current one, with INVALID_ARGUMENT.
    pub refuse_lower_search_height: bool,
    /// Take a soft head on another branch (and of a lower number) if it descends from an advancing firm head.
    pub can_roll_back: bool,
    pub trace: TraceLimit,
    /// Leave transactions out of block hashes and forget them: for benchmarks.
    pub cheap_hash: bool,
    /// Committed blocks below firm that are kept; all if unset.
    pub keep_blocks: Option<u64>,
}

impl RollupConfig {
    /// A node with one endless session.
    pub fn new(rollup_id: RollupId) -> Self {
        Self {
            rollup_id,
            sessions: vec![SessionPlan::default()],
            session_end: SessionEnd::default(),
            lowest_celestia_search_height: 1,
            genesis_time: prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 },
            sequencer_hash: SequencerHash::default(),
            repeated_update: RepeatedUpdate::default(),
            refuse_lower_search_height: false,
            can_roll_back: false,
            trace: TraceLimit::Everything,
            cheap_hash: false,
            keep_blocks: None,
        }
    }
}

/// The calls of the execution API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    CreateExecutionSession,
    GetExecutedBlockMetadata,
    ExecuteBlock,
    UpdateCommitmentState,
}

/// What can go wrong with a call, on request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Nothing happens and the status is answered.
    Refuse(Status),
    /// The call takes effect and the status is answered nevertheless.
    LoseReply(Status),
    /// The reply lacks its content.
    EmptyReply,
    /// The reply names another block number: this much higher.
    NumberOff(u64),
    OtherHash,
    OtherParentHash,
    OtherTimestamp,
    OtherSequencerHash,
    /// The echo of an update names another soft (hash) than was sent.
    OtherSoft,
    /// The echo of an update names another firm (hash) than was sent.
    OtherFirm,
    /// The echo of an update names another search height.
    OtherSearchHeight,
}

/// One call and what came of it. The result is what the node did, not what the caller was told if that was altered.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Opened(Result<ExecutionSession, Status>),
    Fetched(GetExecutedBlockMetadataRequest, Result<ExecutedBlockMetadata, Status>),
    Executed(ExecuteBlockRequest, Result<ExecutedBlockMetadata, Status>),
    Updated(UpdateCommitmentStateRequest, Result<CommitmentState, Status>),
    /// Not a call: the node was restarted.
    Restarted,
}

/// A block that the node executed.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutedBlock {
    pub metadata: ExecutedBlockMetadata,
    /// Empty if hashes are cheap.
    pub transactions: Vec<RollupData>,
}

/// A rollup node.
#[derive(Clone, Debug)]
pub struct RollupNode {
    config: RollupConfig,
    /// Index of the current plan.
    plan: usize,
    session: Option<String>,
    sessions_opened: u64,
    halted: bool,
    commitment: CommitmentState,
    /// Blocks up to the soft head, by number.
    chain: BTreeMap<u64, ExecutedBlock>,
    /// Executed and not committed, by hash.
    executed: BTreeMap<String, ExecutedBlock>,
    trace: VecDeque<Call>,
    misbehaviours: BTreeMap<Method, VecDeque<(Misbehaviour, u32)>>,
}

impl RollupNode {
    pub fn new(config: RollupConfig) -> Self {
        let first = config.sessions.first().map_or(RollupNumber(1), |plan| plan.rollup_start);
        let genesis = ExecutedBlock {
            metadata: ExecutedBlockMetadata {
                number: first.minus(1).0,
                hash: hex::encode(Sha256::new().chain_update(b"genesis").chain_update(config.rollup_id.0).finalize()),
                parent_hash: hex::encode([0; 32]),
                timestamp: Some(config.genesis_time),
                sequencer_block_hash: String::new(),
            },
            transactions: Vec::new(),
        };
        Self {
            plan: 0,
            session: None,
            sessions_opened: 0,
            halted: false,
            commitment: CommitmentState {
                soft_executed_block_metadata: Some(genesis.metadata.clone()),
                firm_executed_block_metadata: Some(genesis.metadata.clone()),
                lowest_celestia_search_height: config.lowest_celestia_search_height,
            },
            chain: BTreeMap::from([(genesis.metadata.number, genesis)]),
            executed: BTreeMap::new(),
            trace: VecDeque::new(),
            misbehaviours: BTreeMap::new(),
            config,
        }
    }

    pub fn config(&self) -> &RollupConfig {
        &self.config
    }

    /// For what an operator may change while the node runs.
    pub fn config_mut(&mut self) -> &mut RollupConfig {
        &mut self.config
    }

    pub fn commitment(&self) -> &CommitmentState {
        &self.commitment
    }

    pub fn soft(&self) -> RollupNumber {
        RollupNumber(self.soft_head().number)
    }

    pub fn firm(&self) -> RollupNumber {
        RollupNumber(self.firm_head().number)
    }

    /// Committed blocks up to the soft head, ascending, from the genesis block on unless some were forgotten.
    pub fn blocks(&self) -> impl Iterator<Item = &ExecutedBlock> {
        self.chain.values()
    }

    pub fn block(&self, number: RollupNumber) -> Option<&ExecutedBlock> {
        self.chain.get(&number.0)
    }

    /// Id of the session that is open.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Blocks above the soft head that were executed in this session, in the order of their hashes.
    pub fn uncommitted(&self) -> impl Iterator<Item = &ExecutedBlock> {
        let soft = self.soft().0;
        self.executed.values().filter(move |block| block.metadata.number > soft)
    }

    /// Calls as they came, the oldest first.
    pub fn trace(&self) -> impl Iterator<Item = &Call> {
        self.trace.iter()
    }

    /// What the next `times` calls of `method` meet, after what was ordered before.
    pub fn misbehave(&mut self, method: Method, misbehaviour: Misbehaviour, times: u32) {
        self.misbehaviours.entry(method).or_default().push_back((misbehaviour, times));
    }

    /// Whether some ordered misbehaviour has not happened yet.
    pub fn still_to_misbehave(&self) -> bool {
        self.misbehaviours.values().any(|queue| !queue.is_empty())
    }

    /// Ends the current session: every call that names it is refused with PERMISSION_DENIED.
    pub fn revoke_session(&mut self) {
        self.session = None;
    }

    /// While halted, no session is opened.
    pub fn halt(&mut self, halted: bool) {
        self.halted = halted;
    }

    /// As if the process had been killed and started: what was committed stays, all else is gone.
    pub fn restart(&mut self) {
        self.session = None;
        self.executed.clear();
        self.remember(|| Call::Restarted);
    }

    /// As [`restart`](Self::restart), after a loss: the soft blocks above firm are gone, as far back as the session goes.
    /// Returns how many those were.
    pub fn restart_at_firm(&mut self) -> usize {
        let start = self.config.sessions.get(self.plan).map_or(0, |plan| plan.rollup_start.minus(1).0);
        let last = self.firm_head().number.max(start).min(self.soft_head().number);
        let lost = self.chain.split_off(&last.saturating_add(1)).len();
        if let Some((_, block)) = self.chain.last_key_value() {
            self.commitment.soft_executed_block_metadata = Some(block.metadata.clone());
        }
        self.restart();
        lost
    }

    /// `CreateExecutionSession`.
    pub fn create_execution_session(&mut self) -> Result<ExecutionSession, Status> {
        let tamper = |session: &mut ExecutionSession, misbehaviour: &Misbehaviour| {
            if *misbehaviour == Misbehaviour::EmptyReply {
                session.commitment_state = None;
                session.execution_session_parameters = None;
            }
            if let Some(state) = &mut session.commitment_state {
                tamper_commitment(state, misbehaviour);
            }
        };
        let record = |(), result| Call::Opened(result);
        self.call(Method::CreateExecutionSession, (), |node, ()| node.open(), record, tamper)
    }

    /// `GetExecutedBlockMetadata`.
    pub fn get_executed_block_metadata(
        &mut self,
        request: GetExecutedBlockMetadataRequest,
    ) -> Result<ExecutedBlockMetadata, Status> {
        self.call(Method::GetExecutedBlockMetadata, request, |node, it| node.fetch(it), Call::Fetched, tamper_metadata)
    }

    /// `ExecuteBlock`.
    pub fn execute_block(&mut self, request: ExecuteBlockRequest) -> Result<ExecuteBlockResponse, Status> {
        let mut empty = false;
        let tamper = |metadata: &mut ExecutedBlockMetadata, misbehaviour: &Misbehaviour| {
            empty = *misbehaviour == Misbehaviour::EmptyReply;
            tamper_metadata(metadata, misbehaviour);
        };
        let metadata = self.call(Method::ExecuteBlock, request, Self::execute, Call::Executed, tamper)?;
        Ok(ExecuteBlockResponse { executed_block_metadata: (!empty).then_some(metadata) })
    }

    /// `UpdateCommitmentState`.
    pub fn update_commitment_state(
        &mut self,
        request: UpdateCommitmentStateRequest,
    ) -> Result<CommitmentState, Status> {
        self.call(Method::UpdateCommitmentState, request, Self::update, Call::Updated, tamper_commitment)
    }

    /// Lets a call meet what was ordered for it, and remembers it.
    fn call<Q, R: Clone>(
        &mut self,
        method: Method,
        request: Q,
        perform: impl FnOnce(&mut Self, &Q) -> Result<R, Status>,
        record: impl FnOnce(Q, Result<R, Status>) -> Call,
        tamper: impl FnOnce(&mut R, &Misbehaviour),
    ) -> Result<R, Status> {
        let ordered = self.take_misbehaviour(method);
        if let Some(Misbehaviour::Refuse(status)) = ordered {
            self.remember(|| record(request, Err(status.clone())));
            return Err(status);
        }
        let result = perform(self, &request);
        self.remember(|| record(request, result.clone()));
        let mut reply = result?;
        match ordered {
            Some(Misbehaviour::LoseReply(status)) => return Err(status),
            Some(misbehaviour) => tamper(&mut reply, &misbehaviour),
            None => {}
        }
        Ok(reply)
    }

    fn take_misbehaviour(&mut self, method: Method) -> Option<Misbehaviour> {
        let queue = self.misbehaviours.get_mut(&method)?;
        while queue.front().is_some_and(|(_, times)| *times == 0) {
            queue.pop_front();
        }
        let (misbehaviour, times) = queue.front_mut()?;
        *times -= 1;
        let taken = misbehaviour.clone();
        if *times == 0 {
            queue.pop_front();
        }
        if queue.is_empty() {
            self.misbehaviours.remove(&method);
        }
        Some(taken)
    }

    fn remember(&mut self, call: impl FnOnce() -> Call) {
        let keep = match self.config.trace {
            TraceLimit::Off => return,
            TraceLimit::Newest(keep) => keep,
            TraceLimit::Everything => usize::MAX,
        };
        self.trace.push_back(call());
        while self.trace.len() > keep {
            self.trace.pop_front();
        }
    }

    fn open(&mut self) -> Result<ExecutionSession, Status> {
        let halted = || Status::new(Code::FailedPrecondition, "the chain is halted");
        if self.halted {
            return Err(halted());
        }
        let reached = match self.config.session_end {
            SessionEnd::Soft => self.soft(),
            SessionEnd::Firm => self.firm(),
        };
        let over = |plan: &SessionPlan| plan.rollup_end.is_some_and(|end| reached >= end);
        while self.config.sessions.get(self.plan).is_some_and(over) {
            self.plan += 1;
        }
        let plan = self.config.sessions.get(self.plan).ok_or_else(halted)?;
        let parameters = ExecutionSessionParameters {
            rollup_id: Some(wire_id(&self.config.rollup_id)),
            rollup_start_block_number: plan.rollup_start.0,
            rollup_end_block_number: plan.rollup_end.map_or(0, |end| end.0),
            sequencer_chain_id: plan.sequencer_chain_id.clone(),
            sequencer_start_block_height: plan.sequencer_start.0,
            celestia_chain_id: plan.celestia_chain_id.clone(),
            celestia_search_height_max_look_ahead: plan.look_ahead,
        };
        self.sessions_opened += 1;
        self.executed.clear();
        let session_id = format!("session-{}", self.sessions_opened);
        self.session = Some(session_id.clone());
        Ok(ExecutionSession {
            session_id,
            execution_session_parameters: Some(parameters),
            commitment_state: Some(self.commitment.clone()),
        })
    }

    fn fetch(&self, request: &GetExecutedBlockMetadataRequest) -> Result<ExecutedBlockMetadata, Status> {
        let identifier = request.identifier.as_ref().and_then(|identifier| identifier.identifier.as_ref());
        let found = match identifier {
            Some(Identifier::Number(number)) => self.chain.get(number),
            Some(Identifier::Hash(hash)) => self.find(hash),
            None => return Err(Status::new(Code::InvalidArgument, "the request identifies no block")),
        };
        let found = found.ok_or_else(|| Status::new(Code::NotFound, format!("no block {identifier:?}")))?;
        Ok(found.metadata.clone())
    }

    fn execute(&mut self, request: &ExecuteBlockRequest) -> Result<ExecutedBlockMetadata, Status> {
        self.check_session(&request.session_id)?;
        let timestamp =
            request.timestamp.ok_or_else(|| Status::new(Code::InvalidArgument, "the request has no timestamp"))?;
        if self.config.sequencer_hash == SequencerHash::Required && request.sequencer_block_hash.is_empty() {
            return Err(Status::new(Code::InvalidArgument, "the request has no sequencer block hash"));
        }
        let heads = [self.soft_head(), self.firm_head()];
        let parent = heads.into_iter().find(|head| head.hash == request.parent_hash).ok_or_else(|| {
            let message = format!("{} is neither the soft nor the firm block", request.parent_hash);
            Status::new(Code::FailedPrecondition, message)
        })?;
        let number = parent.number.saturating_add(1);
        self.check_bounds(number, "block")?;

        let mut hash = Sha256::new();
        hash.update(&request.parent_hash);
        hash.update(number.to_be_bytes());
        hash.update(timestamp.seconds.to_be_bytes());
        hash.update(timestamp.nanos.to_be_bytes());
        hash.update(&request.sequencer_block_hash);
        let mut transactions = Vec::new();
        if !self.config.cheap_hash {
            request
                .transactions
                .iter()
                .for_each(|transaction| hash.update(transaction.encode_length_delimited_to_vec()));
            transactions.clone_from(&request.transactions);
        }
        let sequencer_block_hash = match self.config.sequencer_hash {
            SequencerHash::NotStored => String::new(),
            SequencerHash::Plain | SequencerHash::Required => request.sequencer_block_hash.clone(),
            SequencerHash::Prefixed => format!("0x{}", request.sequencer_block_hash),
        };
        let metadata = ExecutedBlockMetadata {
            number,
            hash: hex::encode(hash.finalize()),
            parent_hash: request.parent_hash.clone(),
            timestamp: Some(timestamp),
            sequencer_block_hash,
        };
        self.executed.insert(metadata.hash.clone(), ExecutedBlock { metadata: metadata.clone(), transactions });
        Ok(metadata)
    }

    fn update(&mut self, request: &UpdateCommitmentStateRequest) -> Result<CommitmentState, Status> {
        self.check_session(&request.session_id)?;
        let missing = |what| Status::new(Code::InvalidArgument, format!("the request has no {what}"));
        let refuse = |message: String| Err(Status::new(Code::FailedPrecondition, message));
        let state = request.commitment_state.as_ref().ok_or_else(|| missing("commitment state"))?;
        let soft = state.soft_executed_block_metadata.as_ref().ok_or_else(|| missing("soft block"))?;
        let firm = state.firm_executed_block_metadata.as_ref().ok_or_else(|| missing("firm block"))?;
        let (old_soft, old_firm) = (self.soft_head(), self.firm_head());
        let (soft_moves, firm_moves) = (soft.hash != old_soft.hash, firm.hash != old_firm.hash);

        if firm.number > soft.number {
            return refuse(format!("firm {} is above soft {}", firm.number, soft.number));
        }
        let rolls_back = self.config.can_roll_back && firm.number > old_firm.number;
        if firm.number < old_firm.number || (soft.number < old_soft.number && !rolls_back) {
            return refuse(format!(
                "soft {} to {} and firm {} to {} would go back",
                old_soft.number, soft.number, old_firm.number, firm.number
            ));
        }
        if !soft_moves && !firm_moves && self.config.repeated_update == RepeatedUpdate::Refuse {
            return refuse(format!("neither soft {} nor firm {} advances", soft.number, firm.number));
        }
        let search_height = self.commitment.lowest_celestia_search_height;
        if self.config.refuse_lower_search_height && state.lowest_celestia_search_height < search_height {
            let message = format!("the search height is {search_height} already");
            return Err(Status::new(Code::InvalidArgument, message));
        }
        if soft_moves {
            self.check_bounds(soft.number, "soft block")?;
        }
        if firm_moves {
            self.check_bounds(firm.number, "firm block")?;
        }

        // The blocks from the new soft head down to one that is committed.
        let mut branch = Vec::new();
        let mut at = soft;
        while self.chain.get(&at.number).is_none_or(|block| block.metadata.hash != at.hash) {
            let Some(block) = self.executed.get(&at.hash).filter(|block| block.metadata.number == at.number) else {
                return refuse(format!("block {} with hash {} was never executed", at.number, at.hash));
            };
            branch.push(block.clone());
            let parent = block.metadata.number.checked_sub(1).and_then(|number| {
                let committed =
                    self.chain.get(&number).filter(|parent| parent.metadata.hash == block.metadata.parent_hash);
                committed.or_else(|| self.executed.get(&block.metadata.parent_hash))
            });
            match parent {
                Some(parent) if parent.metadata.number < at.number => at = &parent.metadata,
                _ => return refuse(format!("the parent of block {} is unknown", block.metadata.number)),
            }
        }
        if at.number < if rolls_back { old_firm.number } else { old_soft.number } {
            return refuse(format!("soft block {} does not descend from the current one", soft.number));
        }
        let confirmed = branch
            .iter()
            .find(|block| block.metadata.number == firm.number)
            .or_else(|| self.chain.get(&firm.number).filter(|_| firm.number <= at.number));
        if confirmed.is_none_or(|block| block.metadata.hash != firm.hash) {
            return refuse(format!("firm block {} with hash {} is not on the soft chain", firm.number, firm.hash));
        }

        let (soft_number, firm_number, fork) = (soft.number, firm.number, at.number);
        if soft_moves {
            self.chain.split_off(&fork.saturating_add(1));
        }
        self.chain.extend(branch.into_iter().map(|block| (block.metadata.number, block)));
        let kept = |block: &ExecutedBlock| Some(block.metadata.clone());
        self.commitment = CommitmentState {
            soft_executed_block_metadata: self.chain.get(&soft_number).and_then(kept),
            firm_executed_block_metadata: self.chain.get(&firm_number).and_then(kept),
            lowest_celestia_search_height: state.lowest_celestia_search_height,
        };
        self.executed.retain(|_, block| block.metadata.number > firm_number);
        if let Some(keep) = self.config.keep_blocks {
            self.chain = self.chain.split_off(&firm_number.saturating_sub(keep));
        }
        Ok(self.commitment.clone())
    }

    fn check_session(&self, session_id: &str) -> Result<(), Status> {
        if self.session.as_deref() == Some(session_id) {
            return Ok(());
        }
        Err(Status::new(Code::PermissionDenied, format!("session {session_id:?} is not the current one")))
    }

    fn check_bounds(&self, number: u64, what: &str) -> Result<(), Status> {
        let inside = self
            .config
            .sessions
            .get(self.plan)
            .is_some_and(|plan| number >= plan.rollup_start.0 && plan.rollup_end.is_none_or(|end| number <= end.0));
        if inside {
            return Ok(());
        }
        Err(Status::new(Code::OutOfRange, format!("{what} {number} is outside of the session")))
    }

    fn find(&self, hash: &str) -> Option<&ExecutedBlock> {
        self.executed.get(hash).or_else(|| self.chain.values().rev().find(|block| block.metadata.hash == hash))
    }

    fn soft_head(&self) -> &ExecutedBlockMetadata {
        self.commitment.soft_executed_block_metadata.as_ref().expect("the node always has a soft head")
    }

    fn firm_head(&self) -> &ExecutedBlockMetadata {
        self.commitment.firm_executed_block_metadata.as_ref().expect("the node always has a firm head")
    }
}

/// Another text of the same length.
fn altered(text: &mut String) {
    let last = text.pop().unwrap_or('0');
    let _ = write!(text, "{}", if last == '1' { '2' } else { '1' });
}

fn tamper_metadata(metadata: &mut ExecutedBlockMetadata, misbehaviour: &Misbehaviour) {
    match misbehaviour {
        Misbehaviour::NumberOff(by) => metadata.number = metadata.number.wrapping_add(*by),
        Misbehaviour::OtherHash => altered(&mut metadata.hash),
        Misbehaviour::OtherParentHash => altered(&mut metadata.parent_hash),
        Misbehaviour::OtherTimestamp => metadata.timestamp.get_or_insert_default().seconds += 1,
        Misbehaviour::OtherSequencerHash => altered(&mut metadata.sequencer_block_hash),
        Misbehaviour::EmptyReply => *metadata = ExecutedBlockMetadata::default(),
        _ => {}
    }
}

fn tamper_commitment(state: &mut CommitmentState, misbehaviour: &Misbehaviour) {
    match misbehaviour {
        Misbehaviour::OtherSoft => altered(&mut state.soft_executed_block_metadata.get_or_insert_default().hash),
        Misbehaviour::OtherFirm => altered(&mut state.firm_executed_block_metadata.get_or_insert_default().hash),
        Misbehaviour::OtherSearchHeight => state.lowest_celestia_search_height += 1,
        Misbehaviour::EmptyReply => *state = CommitmentState::default(),
        Misbehaviour::NumberOff(by) => {
            let soft = state.soft_executed_block_metadata.get_or_insert_default();
            soft.number = soft.number.wrapping_add(*by);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(change: impl FnOnce(&mut RollupConfig)) -> (RollupNode, ExecutionSession) {
        let mut config = RollupConfig::new(RollupId([1; 32]));
        change(&mut config);
        let mut node = RollupNode::new(config);
        let session = node.create_execution_session().expect("a session");
        (node, session)
    }

    fn request(session: &str, parent: &ExecutedBlockMetadata, second: i64) -> ExecuteBlockRequest {
        ExecuteBlockRequest {
            session_id: session.to_owned(),
            parent_hash: parent.hash.clone(),
            transactions: Vec::new(),
            timestamp: Some(prost_types::Timestamp { seconds: second, nanos: 0 }),
            sequencer_block_hash: "ab".repeat(32),
        }
    }

    fn execute(node: &mut RollupNode, session: &str, parent: &ExecutedBlockMetadata) -> ExecutedBlockMetadata {
        let response = node.execute_block(request(session, parent, 1)).expect("executed");
        response.executed_block_metadata.expect("metadata")
    }

    fn update(
        node: &mut RollupNode,
        session: &str,
        soft: &ExecutedBlockMetadata,
        firm: &ExecutedBlockMetadata,
    ) -> Result<CommitmentState, Status> {
        node.update_commitment_state(UpdateCommitmentStateRequest {
            session_id: session.to_owned(),
            commitment_state: Some(CommitmentState {
                soft_executed_block_metadata: Some(soft.clone()),
                firm_executed_block_metadata: Some(firm.clone()),
                lowest_celestia_search_height: 1,
            }),
        })
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
        result.expect_err("a refusal").code
    }

    /// Executes and commits `count` soft blocks; the heads before and after each, genesis first.
    fn soft_blocks(node: &mut RollupNode, session: &str, count: usize) -> Vec<ExecutedBlockMetadata> {
        let mut blocks = vec![node.soft_head().clone()];
        for _ in 0..count {
            let firm = node.firm_head().clone();
            let block = execute(node, session, &blocks[blocks.len() - 1]);
            update(node, session, &block, &firm).expect("committed");
            blocks.push(block);
        }
        blocks
    }

    #[test]
    fn soft_runs_ahead_and_firm_confirms_with_soft_unchanged() {
        let (mut node, session) = node(|_| {});
        let blocks = soft_blocks(&mut node, &session.session_id, 3);
        update(&mut node, &session.session_id, &blocks[3], &blocks[2]).expect("soft may stay when firm advances");
        assert_eq!((node.soft(), node.firm()), (RollupNumber(3), RollupNumber(2)));
        assert_eq!(node.blocks().count(), 4);
        let calls = node.trace().filter(|call| matches!(call, Call::Executed(_, Ok(_)))).count();
        assert_eq!(calls, 3);
    }

    #[test]
    fn executing_changes_no_commitment() {
        let (mut node, session) = node(|_| {});
        let before = node.commitment().clone();
        let head = node.soft_head().clone();
        execute(&mut node, &session.session_id, &head);
        assert_eq!(*node.commitment(), before);
    }

    #[test]
    fn each_breach_of_the_contract_has_its_status() {
        let (mut node, session) = node(|config| {
            config.sessions[0].rollup_end = Some(RollupNumber(3));
            config.sequencer_hash = SequencerHash::Required;
            config.refuse_lower_search_height = true;
            config.lowest_celestia_search_height = 1;
        });
        let id = &session.session_id;
        let blocks = soft_blocks(&mut node, id, 3);
        let [genesis, first, second, third] = &blocks[..] else { panic!("four blocks") };

        assert_eq!(code(node.execute_block(request("", third, 1))), Code::PermissionDenied);
        assert_eq!(code(update(&mut node, "session-0", third, first)), Code::PermissionDenied);
        assert_eq!(code(node.execute_block(request(id, third, 1))), Code::OutOfRange, "above the end");
        assert_eq!(code(node.execute_block(request(id, second, 1))), Code::FailedPrecondition, "not a head");
        let mut without = request(id, genesis, 1);
        without.sequencer_block_hash.clear();
        assert_eq!(code(node.execute_block(without)), Code::InvalidArgument);
        let mut without = request(id, genesis, 1);
        without.timestamp = None;
        assert_eq!(code(node.execute_block(without)), Code::InvalidArgument);

        assert_eq!(code(update(&mut node, id, second, first)), Code::FailedPrecondition, "soft goes back");
        assert_eq!(code(update(&mut node, id, third, genesis)), Code::FailedPrecondition, "nothing advances");
        let unknown = ExecutedBlockMetadata { hash: "ff".repeat(32), ..second.clone() };
        assert_eq!(code(update(&mut node, id, third, &unknown)), Code::FailedPrecondition, "unknown firm");
        let beyond = ExecutedBlockMetadata { number: 4, ..third.clone() };
        assert_eq!(code(update(&mut node, id, third, &beyond)), Code::FailedPrecondition, "firm above soft");
        assert_eq!(code(update(&mut node, id, &beyond, genesis)), Code::FailedPrecondition, "never executed");
        let nothing = UpdateCommitmentStateRequest { session_id: id.clone(), commitment_state: None };
        assert_eq!(code(node.update_commitment_state(nothing)), Code::InvalidArgument);
        let lower = UpdateCommitmentStateRequest {
            session_id: id.clone(),
            commitment_state: Some(CommitmentState {
                soft_executed_block_metadata: Some(third.clone()),
                firm_executed_block_metadata: Some(first.clone()),
                lowest_celestia_search_height: 0,
            }),
        };
        assert_eq!(code(node.update_commitment_state(lower)), Code::InvalidArgument);
        assert_eq!((node.soft(), node.firm()), (RollupNumber(3), RollupNumber(0)), "refusals change nothing");
    }

    #[test]
    fn a_committed_block_is_found_and_an_executed_one_is_not() {
        let (mut node, session) = node(|_| {});
        let blocks = soft_blocks(&mut node, &session.session_id, 1);
        let executed = execute(&mut node, &session.session_id, &blocks[1]);
        let fetch = |node: &mut RollupNode, identifier| {
            let identifier = downbeat_core::wire::proto::astria::execution::v2::ExecutedBlockIdentifier {
                identifier: Some(identifier),
            };
            node.get_executed_block_metadata(GetExecutedBlockMetadataRequest { identifier: Some(identifier) })
        };
        assert_eq!(fetch(&mut node, Identifier::Number(1)).as_ref(), Ok(&blocks[1]));
        assert_eq!(fetch(&mut node, Identifier::Hash(executed.hash.clone())), Ok(executed));
        assert_eq!(code(fetch(&mut node, Identifier::Number(2))), Code::NotFound);
    }

    #[test]
    fn a_new_session_and_a_restart_end_the_old_one() {
        let (mut node, first) = node(|_| {});
        let blocks = soft_blocks(&mut node, &first.session_id, 2);
        let second = node.create_execution_session().expect("a session");
        assert_ne!(first.session_id, second.session_id);
        assert_eq!(code(node.execute_block(request(&first.session_id, &blocks[2], 1))), Code::PermissionDenied);

        let uncommitted = execute(&mut node, &second.session_id, &blocks[2]);
        node.restart();
        assert_eq!(code(node.execute_block(request(&second.session_id, &blocks[2], 1))), Code::PermissionDenied);
        let third = node.create_execution_session().expect("a session");
        assert_eq!(third.commitment_state.as_ref(), Some(node.commitment()));
        assert_eq!(node.soft(), RollupNumber(2));
        assert_eq!(
            code(update(&mut node, &third.session_id, &uncommitted, &blocks[0])),
            Code::FailedPrecondition,
            "what was not committed is gone"
        );
        assert_eq!(execute(&mut node, &third.session_id, &blocks[2]), uncommitted, "executing again gives the same");
    }

    #[test]
    fn a_session_that_reached_its_end_is_followed_by_the_next_and_then_by_a_halt() {
        let (mut node, session) = node(|config| {
            config.sessions[0].rollup_end = Some(RollupNumber(1));
            let next = SessionPlan {
                rollup_start: RollupNumber(2),
                rollup_end: Some(RollupNumber(2)),
                sequencer_start: SequencerHeight(40),
                ..SessionPlan::default()
            };
            config.sessions.push(next);
        });
        let id = session.session_id;
        let blocks = soft_blocks(&mut node, &id, 1);
        let again = node.create_execution_session().expect("firm is not there yet");
        assert_eq!(again.execution_session_parameters, session.execution_session_parameters);
        update(&mut node, &again.session_id, &blocks[1], &blocks[1]).expect("confirmed");
        let next = node.create_execution_session().expect("the next session");
        assert_eq!(next.execution_session_parameters.map(|it| it.sequencer_start_block_height), Some(40));
        let last = execute(&mut node, &next.session_id, &blocks[1]);
        update(&mut node, &next.session_id, &last, &last).expect("both at once");
        assert_eq!(code(node.create_execution_session()), Code::FailedPrecondition);
    }

    #[test]
    fn a_repeated_update_is_treated_as_configured() {
        for (repeated_update, accepted) in [(RepeatedUpdate::Accept, true), (RepeatedUpdate::Refuse, false)] {
            let (mut node, session) = node(|config| config.repeated_update = repeated_update);
            let blocks = soft_blocks(&mut node, &session.session_id, 1);
            let repeated = update(&mut node, &session.session_id, &blocks[1], &blocks[0]);
            assert_eq!(repeated.is_ok(), accepted, "{repeated_update:?}");
        }
    }

    #[test]
    fn only_a_node_that_can_roll_back_lets_firm_replace_soft() {
        for can_roll_back in [false, true] {
            let (mut node, session) = node(|config| config.can_roll_back = can_roll_back);
            let id = &session.session_id;
            let blocks = soft_blocks(&mut node, id, 3);
            let other = node.execute_block(request(id, &blocks[0], 77)).expect("executed on firm");
            let other = other.executed_block_metadata.expect("metadata");
            let result = update(&mut node, id, &other, &other);
            if can_roll_back {
                result.expect("rolled back");
                assert_eq!((node.soft(), node.firm()), (RollupNumber(1), RollupNumber(1)));
                assert_eq!(node.block(RollupNumber(1)).map(|block| &block.metadata), Some(&other));
                assert_eq!(node.blocks().count(), 2);
            } else {
                assert_eq!(code(result), Code::FailedPrecondition);
            }
        }
    }

    #[test]
    fn ordered_misbehaviour_happens_as_often_as_ordered() {
        let (mut node, session) = node(|_| {});
        let (id, genesis) = (session.session_id, node.soft_head().clone());
        let lost = Status::new(Code::Unavailable, "lost");
        node.misbehave(Method::ExecuteBlock, Misbehaviour::Refuse(Status::new(Code::Aborted, "later")), 2);
        node.misbehave(Method::ExecuteBlock, Misbehaviour::NumberOff(1), 1);
        node.misbehave(Method::UpdateCommitmentState, Misbehaviour::LoseReply(lost.clone()), 1);
        assert_eq!(code(node.execute_block(request(&id, &genesis, 1))), Code::Aborted);
        assert_eq!(code(node.execute_block(request(&id, &genesis, 1))), Code::Aborted);
        assert_eq!(execute(&mut node, &id, &genesis).number, 2);
        let block = execute(&mut node, &id, &genesis);
        assert_eq!(block.number, 1);
        assert_eq!(update(&mut node, &id, &block, &genesis), Err(lost));
        assert_eq!(node.soft(), RollupNumber(1), "the update took effect");
        assert!(!node.still_to_misbehave());
        node.restart();
        node.halt(true);
        assert_eq!(code(node.create_execution_session()), Code::FailedPrecondition);
    }

    #[test]
    fn old_blocks_are_forgotten_on_request() {
        let (mut node, session) = node(|config| config.keep_blocks = Some(2));
        let blocks = soft_blocks(&mut node, &session.session_id, 6);
        update(&mut node, &session.session_id, &blocks[6], &blocks[5]).expect("confirmed");
        let numbers: Vec<_> = node.blocks().map(|block| block.metadata.number).collect();
        assert_eq!(numbers, [3, 4, 5, 6]);
    }
}
