//! The bound: clients that fetch, execute and commit, and believe everything.

use std::{collections::BTreeMap, io::Read as _};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use downbeat::{
    connector::{Network, TcpConnector},
    json_rpc::JsonRpcClient,
};
use downbeat_core::{
    Limits,
    celestia::Namespace,
    wire::proto::astria::{
        execution::v2::{
            CommitmentState, CreateExecutionSessionRequest, ExecuteBlockRequest, ExecuteBlockResponse,
            ExecutedBlockMetadata, ExecutionSession, UpdateCommitmentStateRequest,
        },
        primitive::v1::RollupId as WireId,
        sequencerblock::v1::{
            FilteredSequencerBlock, GetFilteredSequencerBlockRequest, RollupData, SubmittedMetadataList,
            SubmittedRollupDataList,
        },
    },
};
use futures_util::{StreamExt as _, stream};
use prost::Message;
use serde::Deserialize;
use std::sync::Arc;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    Error,
    client::{Arguments, Kind},
};

/// Most bytes of a JSON answer.
const BODY_MAX: usize = 64 << 20;

/// Catches up as `arguments` say.
pub(crate) async fn catch_up(arguments: &Arguments) -> Result<(), Error> {
    let limits = Limits::default();
    let mut rollup = Rollup::open(&arguments.execution).await?;
    if arguments.kind == Kind::BareSoft {
        let sequencer = Endpoint::from_shared(arguments.sequencer.clone())?.connect().await?;
        let fetch = |height| tokio::spawn(soft_block(Grpc::new(sequencer.clone()), height, arguments.rollup_id.0));
        let mut blocks = stream::iter(1..=arguments.blocks).map(fetch).buffered(limits.soft_in_flight);
        while let Some(block) = blocks.next().await {
            rollup.execute(block??, false, 0).await?;
        }
        return Ok(());
    }
    let network = Network::plain(TcpConnector);
    let celestia = Arc::new(JsonRpcClient::new(network, arguments.celestia.parse()?, None, BODY_MAX)?);
    let metadata = Namespace::of_sequencer(&arguments.chain_id).to_base64();
    let rollup_data = Namespace::of_rollup(&arguments.rollup_id).to_base64();
    let fetch = |height| tokio::spawn(firm_blocks(celestia.clone(), height, [metadata.clone(), rollup_data.clone()]));
    let mut heights = stream::iter(1..=arguments.celestia_head).map(fetch).buffered(limits.celestia_in_flight);
    let mut height = 0;
    while let Some(blocks) = heights.next().await {
        height += 1;
        for block in blocks?? {
            rollup.execute(block, true, height).await?;
        }
    }
    Ok(())
}

/// What goes to the rollup.
struct Block {
    hash: Bytes,
    time: Option<prost_types::Timestamp>,
    transactions: Vec<RollupData>,
}

async fn soft_block(grpc: Grpc<Channel>, height: u64, rollup_id: [u8; 32]) -> Result<Block, Error> {
    let mut grpc = grpc.max_decoding_message_size(BODY_MAX);
    let rollup_ids = vec![WireId { inner: Bytes::copy_from_slice(&rollup_id) }];
    let request = GetFilteredSequencerBlockRequest { height, rollup_ids };
    let path = "/astria.sequencerblock.v1.SequencerService/GetFilteredSequencerBlock";
    let block: FilteredSequencerBlock = unary(&mut grpc, path, request).await?;
    let encoded = block.rollup_transactions.into_iter().flat_map(|rollup| rollup.transactions);
    let transactions = encoded.map(RollupData::decode).collect::<Result<_, _>>()?;
    Ok(Block { hash: block.block_hash, time: block.header.and_then(|header| header.time), transactions })
}

#[derive(Deserialize)]
struct Blob {
    namespace: String,
    data: String,
}

async fn firm_blocks(celestia: Arc<JsonRpcClient>, height: u64, namespaces: [String; 2]) -> Result<Vec<Block>, Error> {
    let blobs: Vec<Blob> = celestia.call("blob.GetAll", (height, &namespaces)).await?;
    let (mut metadata, mut rollup_data) = (Vec::new(), BTreeMap::new());
    for blob in blobs {
        let mut list = Vec::new();
        brotli_decompressor::Decompressor::new(&BASE64.decode(blob.data)?[..], 64 << 10).read_to_end(&mut list)?;
        let list = Bytes::from(list);
        if blob.namespace == namespaces[0] {
            metadata.extend(SubmittedMetadataList::decode(list)?.entries);
        } else {
            let entries = SubmittedRollupDataList::decode(list)?.entries;
            rollup_data.extend(entries.into_iter().map(|entry| (entry.sequencer_block_hash, entry.transactions)));
        }
    }
    metadata.sort_by_key(|metadata| metadata.header.as_ref().map(|header| header.height));
    let mut blocks = Vec::new();
    for metadata in metadata {
        let encoded = rollup_data.remove(&metadata.block_hash).unwrap_or_default();
        let transactions = encoded.into_iter().map(RollupData::decode).collect::<Result<_, _>>()?;
        blocks.push(Block { hash: metadata.block_hash, time: metadata.header.and_then(|h| h.time), transactions });
    }
    Ok(blocks)
}

/// A rollup with its session.
struct Rollup {
    grpc: Grpc<Channel>,
    session_id: String,
    commitment: CommitmentState,
}

impl Rollup {
    async fn open(url: &str) -> Result<Self, Error> {
        let mut grpc = Grpc::new(Endpoint::from_shared(url.to_owned())?.connect().await?);
        let path = "/astria.execution.v2.ExecutionService/CreateExecutionSession";
        let session: ExecutionSession = unary(&mut grpc, path, CreateExecutionSessionRequest {}).await?;
        let commitment = session.commitment_state.ok_or("a session without a commitment")?;
        Ok(Self { grpc, session_id: session.session_id, commitment })
    }

    /// Executes a block and commits it, as soft, or as soft and firm at once.
    async fn execute(&mut self, block: Block, firm: bool, celestia: u64) -> Result<(), Error> {
        let parent = self.commitment.soft_executed_block_metadata.as_ref().ok_or("no soft head")?;
        let request = ExecuteBlockRequest {
            session_id: self.session_id.clone(),
            parent_hash: parent.hash.clone(),
            transactions: block.transactions,
            timestamp: block.time,
            sequencer_block_hash: hex::encode(block.hash),
        };
        let path = "/astria.execution.v2.ExecutionService/ExecuteBlock";
        let executed: ExecuteBlockResponse = unary(&mut self.grpc, path, request).await?;
        let head: Option<ExecutedBlockMetadata> = executed.executed_block_metadata;
        let mut next = self.commitment.clone();
        if firm {
            next.firm_executed_block_metadata.clone_from(&head);
            next.lowest_celestia_search_height = celestia;
        }
        next.soft_executed_block_metadata = head;
        let request =
            UpdateCommitmentStateRequest { session_id: self.session_id.clone(), commitment_state: Some(next) };
        let path = "/astria.execution.v2.ExecutionService/UpdateCommitmentState";
        self.commitment = unary(&mut self.grpc, path, request).await?;
        Ok(())
    }
}

async fn unary<Q, R>(grpc: &mut Grpc<Channel>, path: &'static str, request: Q) -> Result<R, Error>
where
    Q: Message + 'static,
    R: Message + Default + 'static,
{
    grpc.ready().await?;
    let codec = ProstCodec::<Q, R>::default();
    Ok(grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
}
