//! A rollup node's gRPC service, the execution API v2 (reference §1.2).

use std::future::Future;

use bytes::Bytes;
use downbeat_core::{
    RollupId,
    wire::proto::astria::execution::v2::{
        CreateExecutionSessionRequest, ExecuteBlockRequest, UpdateCommitmentStateRequest,
    },
};
use prost::Message as _;

use super::{Hooks, Listener, Shared, grpc};
use crate::{
    World,
    rollup::{Code, RollupNode, Status},
};

/// Serves `astria.execution.v2.ExecutionService` for the world's node of `rollup_id` until `shutdown`.
pub async fn serve<L: Listener>(
    listener: L,
    world: Shared<World>,
    rollup_id: RollupId,
    hooks: Hooks,
    shutdown: impl Future<Output = ()> + Send,
) {
    let node = move |use_it: &mut dyn FnMut(&mut RollupNode) -> Result<Bytes, Status>| {
        world.with(|world| match world.rollups.get_mut(&rollup_id) {
            Some(node) => use_it(node),
            None => Err(Status::new(Code::Unavailable, format!("no node for rollup {rollup_id}"))),
        })
    };
    grpc::serve(listener, Execution(node), hooks, shutdown).await;
}

/// Serves a node that stands alone.
pub async fn serve_node<L: Listener>(
    listener: L,
    node: Shared<RollupNode>,
    hooks: Hooks,
    shutdown: impl Future<Output = ()> + Send,
) {
    let node = move |use_it: &mut dyn FnMut(&mut RollupNode) -> Result<Bytes, Status>| node.with(|node| use_it(node));
    grpc::serve(listener, Execution(node), hooks, shutdown).await;
}

/// Around a function that gives access to the node.
#[derive(Clone)]
struct Execution<F>(F);

impl<F> grpc::Api for Execution<F>
where
    F: Fn(&mut dyn FnMut(&mut RollupNode) -> Result<Bytes, Status>) -> Result<Bytes, Status>
        + Clone
        + Send
        + Sync
        + 'static,
{
    const SERVICE: &'static str = "astria.execution.v2.ExecutionService";

    fn call(&self, method: &str, request: Bytes) -> Result<Bytes, Status> {
        match method {
            "CreateExecutionSession" => {
                let CreateExecutionSessionRequest {} = grpc::decode(request)?;
                self.0(&mut |node| Ok(node.create_execution_session()?.encode_to_vec().into()))
            }
            "GetExecutedBlockMetadata" => self.decoded(request, RollupNode::get_executed_block_metadata),
            "ExecuteBlock" => self.decoded(request, |node, it: ExecuteBlockRequest| node.execute_block(it)),
            "UpdateCommitmentState" => {
                self.decoded(request, |node, it: UpdateCommitmentStateRequest| node.update_commitment_state(it))
            }
            _ => Err(Status::new(Code::Unimplemented, format!("{method} is not served"))),
        }
    }
}

impl<F> Execution<F>
where
    F: Fn(&mut dyn FnMut(&mut RollupNode) -> Result<Bytes, Status>) -> Result<Bytes, Status>,
{
    fn decoded<Q, R>(
        &self,
        request: Bytes,
        call: impl Fn(&mut RollupNode, Q) -> Result<R, Status>,
    ) -> Result<Bytes, Status>
    where
        Q: prost::Message + Default,
        R: prost::Message,
    {
        let mut request = Some(grpc::decode::<Q>(request)?);
        self.0(&mut |node| Ok(call(node, request.take().unwrap_or_default())?.encode_to_vec().into()))
    }
}
