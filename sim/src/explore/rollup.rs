//! The rollup node: what it is asked to do is judged at once, from the model chain alone.

use downbeat_core::wire::proto::astria::execution::v2::{
    CommitmentState, ExecuteBlockRequest, ExecuteBlockResponse, UpdateCommitmentStateRequest,
};
use downbeat_world::{
    RollupNode,
    rollup::{Code, Status},
};

use super::{
    canonical::{self, Digest},
    peers::Peers,
    probes::Probe,
    state::Log,
};
use crate::Violation;

/// Of what a rollup node will do.
pub(super) fn digest_of_node(node: &RollupNode) -> Digest {
    let state = node.commitment();
    let heads = [&state.soft_executed_block_metadata, &state.firm_executed_block_metadata];
    let mut text = format!("{} {}", state.lowest_celestia_search_height, node.session().is_some());
    for block in heads.into_iter().flatten().chain(node.uncommitted().map(|block| block.metadata.as_ref())) {
        text.push(' ');
        text.push_str(&block.hash);
    }
    canonical::of_bytes(text.as_bytes())
}

/// S2, S3, S5, S6 on one execution.
pub(super) fn execute(
    node: &mut RollupNode,
    request: &ExecuteBlockRequest,
    peers: &Peers,
    log: &mut Log,
) -> Result<Result<ExecuteBlockResponse, Status>, Violation> {
    let (soft, firm) = (node.soft().0, node.firm().0);
    let before = node.uncommitted().count();
    let response = match node.execute_block(request.clone()) {
        Ok(response) => response,
        Err(status) => return legal(status).map(Err),
    };
    let number = response.executed_block_metadata.as_ref().map_or(0, |metadata| metadata.number);
    log.note(|| format!("the rollup executes block {number}"));
    if number <= soft {
        return Err(Violation::new("S6", format!("block {number} is executed with soft {soft} and firm {firm}")));
    }
    if before > 0 {
        return Err(Violation::new("S5", format!("block {number} is executed twice in {}", request.session_id)));
    }
    peers.check_content(number, request)?;
    Ok(Ok(response))
}

/// S5, S8 and L1 on one commitment.
pub(super) fn update(
    node: &mut RollupNode,
    request: UpdateCommitmentStateRequest,
    peers: &Peers,
    log: &mut Log,
) -> Result<Result<CommitmentState, Status>, Violation> {
    let numbers = |node: &RollupNode| (node.soft().0, node.firm().0, node.commitment().lowest_celestia_search_height);
    let before = numbers(node);
    let commitment = match node.update_commitment_state(request) {
        Ok(commitment) => commitment,
        Err(status) => return legal(status).map(Err),
    };
    let after = numbers(node);
    log.note(|| format!("the rollup has soft {} and firm {}, to be searched from {}", after.0, after.1, after.2));
    if after.0 < before.0 || after.1 < before.1 || after.2 < before.2 || after.1 > after.0 {
        return Err(Violation::new("S8", format!("{before:?} becomes {after:?}")));
    }
    if after.0 > before.0 + 1 || after.1 > before.1 + 1 {
        return Err(Violation::new("S5", format!("{before:?} jumps to {after:?}")));
    }
    if after.1 > before.1 {
        log.probes.hit(if after.0 > before.0 { Probe::FirmExecutes } else { Probe::FirmConfirms });
    }
    peers.check_search_height(after.1, after.2)?;
    Ok(Ok(commitment))
}

/// Refusals that follow from a lost session are part of the game; those of calls that the API forbids are not.
fn legal(status: Status) -> Result<Status, Violation> {
    match status.code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            Err(Violation::new("S6", format!("the node refuses a call as illegal: {status}")))
        }
        _ => Ok(status),
    }
}
