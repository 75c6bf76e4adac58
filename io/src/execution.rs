//! Client of a rollup node (Astria execution API v2, reference §1.2).

use downbeat_core::{
    RollupNumber,
    wire::proto::astria::execution::v2::{
        CommitmentState, CreateExecutionSessionRequest, ExecuteBlockRequest, ExecuteBlockResponse,
        ExecutedBlockIdentifier, ExecutedBlockMetadata, ExecutionSession, GetExecutedBlockMetadataRequest,
        UpdateCommitmentStateRequest, executed_block_identifier::Identifier,
    },
};
use http::Uri;
use tonic::Status;

use self::generated::execution_service_client::ExecutionServiceClient;
use crate::{connector::Network, endpoint::Endpoint, h2_channel::H2Channel};

mod generated {
    #![allow(clippy::pedantic, clippy::all, missing_debug_implementations, unreachable_pub, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/astria.execution.v2.rs"));
}

/// Translates calls to one rollup node; decides nothing.
#[derive(Debug)]
pub struct Execution {
    client: ExecutionServiceClient<H2Channel>,
    endpoint: Endpoint,
}

impl Execution {
    /// Connects at the first call.
    ///
    /// # Errors
    /// When the endpoint's host cannot stand in a request.
    pub fn new(network: Network, endpoint: Endpoint) -> Result<Self, http::uri::InvalidUri> {
        let origin: Uri = endpoint.origin().parse()?;
        let client = ExecutionServiceClient::with_origin(H2Channel::new(network, &endpoint), origin);
        Ok(Self { client, endpoint })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `CreateExecutionSession`: ends all earlier sessions of this rollup.
    pub async fn open_session(&self) -> Result<ExecutionSession, Status> {
        Ok(self.client.clone().create_execution_session(CreateExecutionSessionRequest {}).await?.into_inner())
    }

    /// `ExecuteBlock`.
    pub async fn execute_block(&self, request: ExecuteBlockRequest) -> Result<ExecuteBlockResponse, Status> {
        Ok(self.client.clone().execute_block(request).await?.into_inner())
    }

    /// `UpdateCommitmentState`.
    pub async fn update_commitment(&self, request: UpdateCommitmentStateRequest) -> Result<CommitmentState, Status> {
        Ok(self.client.clone().update_commitment_state(request).await?.into_inner())
    }

    /// `GetExecutedBlockMetadata` by number.
    pub async fn executed_block(&self, number: RollupNumber) -> Result<ExecutedBlockMetadata, Status> {
        let identifier = Some(ExecutedBlockIdentifier { identifier: Some(Identifier::Number(number.0)) });
        let request = GetExecutedBlockMetadataRequest { identifier };
        Ok(self.client.clone().get_executed_block_metadata(request).await?.into_inner())
    }
}
