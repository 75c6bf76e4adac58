//! A rollup node that keeps the execution API v2 to the letter (reference §1.2, §6.10, §12.7), and can be told to lie.

mod config;
mod misbehave;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use downbeat_core::{
    RollupNumber,
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

pub use config::{Code, RepeatedUpdate, RollupConfig, SequencerHash, SessionEnd, SessionPlan, Status, TraceLimit};
pub use misbehave::{Method, Misbehaviour};

use self::misbehave::{tamper_commitment, tamper_metadata};
use crate::published::wire_id;

/// One call and what came of it. The result is what the node did, not what the caller was told if that was altered.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Opened(Result<ExecutionSession, Status>),
    Fetched(GetExecutedBlockMetadataRequest, Result<ExecutedBlockMetadata, Status>),
    Executed(Arc<ExecuteBlockRequest>, Result<ExecutedBlockMetadata, Status>),
    Updated(Arc<UpdateCommitmentStateRequest>, Result<CommitmentState, Status>),
    /// Not a call: the node was restarted.
    Restarted,
}

/// A block that the node executed.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutedBlock {
    pub metadata: Arc<ExecutedBlockMetadata>,
    /// Not kept if hashes are cheap.
    request: Option<Arc<ExecuteBlockRequest>>,
}

impl ExecutedBlock {
    /// Empty if hashes are cheap.
    pub fn transactions(&self) -> &[RollupData] {
        self.request.as_ref().map_or(&[], |request| &request.transactions)
    }
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
            metadata: Arc::new(ExecutedBlockMetadata {
                number: first.minus(1).0,
                hash: hex::encode(Sha256::new().chain_update(b"genesis").chain_update(config.rollup_id.0).finalize()),
                parent_hash: hex::encode([0; 32]),
                timestamp: Some(config.genesis_time),
                sequencer_block_hash: String::new(),
            }),
            request: None,
        };
        let known = || Some(genesis.metadata.as_ref().clone());
        Self {
            plan: 0,
            session: None,
            sessions_opened: 0,
            halted: false,
            commitment: CommitmentState {
                soft_executed_block_metadata: known(),
                firm_executed_block_metadata: known(),
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
            self.commitment.soft_executed_block_metadata = Some(block.metadata.as_ref().clone());
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
    pub fn execute_block(
        &mut self,
        request: impl Into<Arc<ExecuteBlockRequest>>,
    ) -> Result<ExecuteBlockResponse, Status> {
        let mut empty = false;
        let tamper = |metadata: &mut ExecutedBlockMetadata, misbehaviour: &Misbehaviour| {
            empty = *misbehaviour == Misbehaviour::EmptyReply;
            tamper_metadata(metadata, misbehaviour);
        };
        let metadata = self.call(Method::ExecuteBlock, request.into(), Self::execute, Call::Executed, tamper)?;
        Ok(ExecuteBlockResponse { executed_block_metadata: (!empty).then_some(metadata) })
    }

    /// `UpdateCommitmentState`.
    pub fn update_commitment_state(
        &mut self,
        request: impl Into<Arc<UpdateCommitmentStateRequest>>,
    ) -> Result<CommitmentState, Status> {
        self.call(Method::UpdateCommitmentState, request.into(), Self::update, Call::Updated, tamper_commitment)
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
        Ok(found.metadata.as_ref().clone())
    }

    fn execute(&mut self, request: &Arc<ExecuteBlockRequest>) -> Result<ExecutedBlockMetadata, Status> {
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
        if !self.config.cheap_hash {
            request
                .transactions
                .iter()
                .for_each(|transaction| hash.update(transaction.encode_length_delimited_to_vec()));
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
        let block = ExecutedBlock {
            metadata: Arc::new(metadata.clone()),
            request: (!self.config.cheap_hash).then(|| Arc::clone(request)),
        };
        self.executed.insert(metadata.hash.clone(), block);
        Ok(metadata)
    }

    fn update(&mut self, request: &Arc<UpdateCommitmentStateRequest>) -> Result<CommitmentState, Status> {
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
        let kept = |block: &ExecutedBlock| Some(block.metadata.as_ref().clone());
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
