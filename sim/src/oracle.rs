//! Judges a rollup node's whole history against the model chains. Knows nothing of the conductor's state.

use std::collections::BTreeSet;

use downbeat_core::{
    RollupId, SequencerHeight,
    wire::proto::astria::{
        execution::v2::{ExecuteBlockRequest, ExecutedBlockMetadata},
        sequencerblock::v1::{RollupData, rollup_data::Value},
    },
};
use downbeat_world::{
    RollupNode, World,
    rollup::{Call, Code, Status},
};
use prost::Message as _;

/// What must never happen, with the invariant's id (see `DESIGN.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

impl std::error::Error for Violation {}

impl Violation {
    fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

/// Checks everything that one rollup node was asked to do.
///
/// # Errors
/// The first violation.
pub fn judge(world: &World, rollup_id: RollupId) -> Result<(), Violation> {
    let Some(node) = world.rollups.get(&rollup_id) else { return Ok(()) };
    let mut executed_in_session: BTreeSet<(String, u64)> = BTreeSet::new();
    let mut heads = (0, 0, 0);
    for call in node.trace() {
        match call {
            Call::Executed(request, Ok(metadata)) => {
                if !executed_in_session.insert((request.session_id.clone(), metadata.number)) {
                    let (number, session) = (metadata.number, &request.session_id);
                    return Err(Violation::new("S5", format!("block {number} was executed twice in {session}")));
                }
                is_the_sequencers(world, rollup_id, request, metadata)?;
            }
            Call::Updated(request, Ok(state)) => {
                let number = |block: &Option<ExecutedBlockMetadata>| block.as_ref().map_or(0, |block| block.number);
                let (soft, firm) =
                    (number(&state.soft_executed_block_metadata), number(&state.firm_executed_block_metadata));
                let next = (soft, firm, state.lowest_celestia_search_height);
                if next.0 < heads.0 || next.1 < heads.1 || next.2 < heads.2 || next.1 > next.0 {
                    return Err(Violation::new("S8", format!("{heads:?} became {next:?} in {}", request.session_id)));
                }
                heads = next;
            }
            Call::Executed(_, Err(status)) | Call::Updated(_, Err(status)) if is_illegal(status) => {
                return Err(Violation::new("S6", format!("the node refused a call as illegal: {status}")));
            }
            _ => {}
        }
    }
    is_one_chain(node)
}

/// What no fault explains: a request that the API forbids.
fn is_illegal(status: &Status) -> bool {
    matches!(status.code, Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange)
}

/// S2, S3: what was executed is what the sequencer committed at that height, all of it and nothing else.
fn is_the_sequencers(
    world: &World,
    rollup_id: RollupId,
    request: &ExecuteBlockRequest,
    metadata: &ExecutedBlockMetadata,
) -> Result<(), Violation> {
    let height = world.sequencer_height(downbeat_core::RollupNumber(metadata.number));
    let expected = expected_request(world, rollup_id, height)
        .ok_or_else(|| Violation::new("S2", format!("height {height} was executed and does not exist")))?;
    if request.sequencer_block_hash != expected.sequencer_block_hash || request.timestamp != expected.timestamp {
        return Err(Violation::new("S2", format!("height {height} was executed from another block or time")));
    }
    if without_price_feed(&request.transactions) != without_price_feed(&expected.transactions) {
        return Err(Violation::new("S3", format!("height {height} was executed with other transactions")));
    }
    Ok(())
}

/// The request for one height, less the parent and the price feed, from the model chain.
fn expected_request(world: &World, rollup_id: RollupId, height: SequencerHeight) -> Option<ExecuteBlockRequest> {
    let block = world.sequencer.block(height)?;
    let elements = block.published.data().rollups.get(&rollup_id).cloned().unwrap_or_default();
    Some(ExecuteBlockRequest {
        transactions: elements.iter().filter_map(|element| RollupData::decode(element.clone()).ok()).collect(),
        timestamp: block.published.header().time,
        sequencer_block_hash: block.hash().to_string(),
        ..ExecuteBlockRequest::default()
    })
}

fn without_price_feed(transactions: &[RollupData]) -> &[RollupData] {
    match transactions.first() {
        Some(RollupData { value: Some(Value::PriceFeedData(_)) }) => &transactions[1..],
        _ => transactions,
    }
}

/// Committed blocks follow one another without a gap, each on its parent.
fn is_one_chain(node: &RollupNode) -> Result<(), Violation> {
    let blocks: Vec<_> = node.blocks().map(|block| &block.metadata).collect();
    for pair in blocks.windows(2) {
        if pair[1].number != pair[0].number + 1 || pair[1].parent_hash != pair[0].hash {
            let (first, second) = (pair[0].number, pair[1].number);
            return Err(Violation::new("S5", format!("block {second} does not follow block {first}")));
        }
    }
    Ok(())
}
