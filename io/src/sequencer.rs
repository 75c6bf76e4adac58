//! Client of the sequencer node (gRPC): filtered blocks, handed on as the bytes that were received.

use bytes::{Buf as _, Bytes};
use downbeat_core::{
    RollupId, SequencerHeight,
    wire::proto::astria::{primitive::v1 as primitive, sequencerblock::v1::GetFilteredSequencerBlockRequest},
};
use http::{Uri, uri::PathAndQuery};
use prost::Message as _;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{connector::Network, endpoint::Endpoint, h2_channel::H2Channel};

const GET_FILTERED_BLOCK: &str = "/astria.sequencerblock.v1.SequencerService/GetFilteredSequencerBlock";

/// Translates calls to a sequencer node; decides nothing.
#[derive(Clone, Debug)]
pub struct Sequencer {
    grpc: Grpc<H2Channel>,
    endpoint: Endpoint,
}

impl Sequencer {
    /// Connects at the first call. `block_max` bounds an encoded block, in bytes.
    ///
    /// # Errors
    /// When the endpoint's host cannot stand in a request.
    pub fn new(network: Network, endpoint: Endpoint, block_max: usize) -> Result<Self, http::uri::InvalidUri> {
        let origin: Uri = endpoint.origin().parse()?;
        let grpc = Grpc::with_origin(H2Channel::new(network, &endpoint), origin).max_decoding_message_size(block_max);
        Ok(Self { grpc, endpoint })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The encoded `FilteredSequencerBlock` of `height` with the data of `rollup_ids`.
    ///
    /// # Errors
    /// The node's status, or one that says why there is none.
    pub async fn filtered_block(&self, height: SequencerHeight, rollup_ids: &[RollupId]) -> Result<Bytes, Status> {
        let request = GetFilteredSequencerBlockRequest {
            height: height.0,
            rollup_ids: rollup_ids
                .iter()
                .map(|id| primitive::RollupId { inner: Bytes::copy_from_slice(&id.0) })
                .collect(),
        };
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(Status::from_error)?;
        let path = PathAndQuery::from_static(GET_FILTERED_BLOCK);
        Ok(grpc.unary(Request::new(request), path, RawReply).await?.into_inner())
    }
}

/// Whether a status was made here because a reply exceeds its bound: the library has no other sign of it.
pub(crate) fn is_too_large(status: &Status) -> bool {
    status.code() == tonic::Code::OutOfRange && status.message().contains("decoded message length too large")
}

/// Encodes the request and leaves the reply as it is, for decoding is work for the verifier.
#[derive(Clone, Copy, Debug)]
struct RawReply;

impl Codec for RawReply {
    type Encode = GetFilteredSequencerBlockRequest;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawReply {
    type Item = GetFilteredSequencerBlockRequest;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for RawReply {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use downbeat_core::wire::proto::astria::sequencerblock::v1::FilteredSequencerBlock;
    use downbeat_world::serve::{Devnet, DevnetConfig};

    use super::*;
    use crate::connector::TcpConnector;

    #[tokio::test]
    async fn a_filtered_block_arrives_as_its_bytes_if_it_is_not_too_large() {
        let devnet = Devnet::start(DevnetConfig { clock: false, ..DevnetConfig::default() }).await.unwrap();
        devnet.world.with(|world| world.step(world.now().after(Duration::from_secs(5))));
        let endpoint: Endpoint = devnet.urls.sequencer_grpc.parse().unwrap();
        let rollup_id = devnet.world.with(|world| world.node_ids()[0]);
        let client = |max| Sequencer::new(Network::plain(TcpConnector), endpoint.clone(), max).unwrap();

        let bytes = client(1 << 20).filtered_block(SequencerHeight(2), &[rollup_id]).await.unwrap();
        let block = FilteredSequencerBlock::decode(bytes.clone()).unwrap();
        assert_eq!(block.header.unwrap().height, 2);

        let status = client(bytes.len() - 1).filtered_block(SequencerHeight(2), &[rollup_id]).await.unwrap_err();
        assert!(is_too_large(&status), "{status:?}");
        let status = client(bytes.len()).filtered_block(SequencerHeight(1_000), &[rollup_id]).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
        devnet.shutdown().await;
    }
}
