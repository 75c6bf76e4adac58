//! The sequencer node's gRPC service (reference §1.6).

use std::future::Future;

use bytes::Bytes;
use downbeat_core::{
    RollupId, SequencerHeight,
    wire::proto::astria::sequencerblock::v1::{GetFilteredSequencerBlockRequest, GetSequencerBlockRequest},
};
use prost::Message as _;

use super::{Hooks, Listener, Shared, grpc};
use crate::{
    World,
    published::PublishedBlock,
    rollup::{Code, Status},
};

/// Serves `astria.sequencerblock.v1.SequencerService` until `shutdown`.
pub async fn serve<L: Listener>(
    listener: L,
    world: Shared<World>,
    hooks: Hooks,
    shutdown: impl Future<Output = ()> + Send,
) {
    grpc::serve(listener, Sequencer(world), hooks, shutdown).await;
}

/// Name of the service.
pub(super) const SERVICE: &str = "astria.sequencerblock.v1.SequencerService";

#[derive(Clone)]
struct Sequencer(Shared<World>);

impl grpc::Api for Sequencer {
    const SERVICE: &'static str = SERVICE;

    fn call(&self, method: &str, request: Bytes) -> Result<Bytes, Status> {
        match method {
            "GetFilteredSequencerBlock" => {
                let request: GetFilteredSequencerBlockRequest = grpc::decode(request)?;
                let mut ids = Vec::new();
                for id in request.rollup_ids {
                    let id = <[u8; 32]>::try_from(&id.inner[..]).map_err(|_| {
                        Status::new(Code::InvalidArgument, format!("a rollup id of {} bytes", id.inner.len()))
                    })?;
                    ids.push(RollupId(id));
                }
                self.with_block(request.height, |block| block.filtered(&ids).encode_to_vec())
            }
            "GetSequencerBlock" => {
                let request: GetSequencerBlockRequest = grpc::decode(request)?;
                self.with_block(request.height, |block| block.sequencer_block().encode_to_vec())
            }
            _ => Err(Status::new(Code::Unimplemented, format!("{method} is not served"))),
        }
    }
}

impl Sequencer {
    fn with_block(&self, height: u64, encode: impl FnOnce(&PublishedBlock) -> Vec<u8>) -> Result<Bytes, Status> {
        self.0.with(|world| {
            let head = world.sequencer.head();
            if height > head.0 {
                let message = format!("requested height {height} is above the current height {head}");
                return Err(Status::new(Code::InvalidArgument, message));
            }
            let block = world.sequencer.served(SequencerHeight(height));
            let block = block.ok_or_else(|| Status::new(Code::Internal, format!("no block at height {height}")))?;
            Ok(encode(&block).into())
        })
    }
}
