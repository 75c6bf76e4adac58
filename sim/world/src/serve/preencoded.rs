//! A world that stands still, with every reply encoded beforehand: measures a client, not its peers.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use bytes::Bytes;
use downbeat_core::{CelestiaHeight, RollupId, celestia::Namespace};
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    Hooks, Listener, celestia, cometbft, grpc,
    json_rpc::{self, Error, encode, number, param},
};
use crate::{
    World,
    rollup::{Code, Status},
};

/// Encoded replies for the heights that a world holds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Preencoded(Arc<Replies>);

#[derive(Debug)]
struct Replies {
    /// `GetFilteredSequencerBlock`, whatever rollup ids are asked for.
    filtered_blocks: BTreeMap<u64, Bytes>,
    /// Results of CometBFT calls that name a height, by method and height. One page holds all validators.
    cometbft: BTreeMap<(&'static str, u64), Bytes>,
    /// Elements of the list in a `blockchain` result, by height.
    block_metas: BTreeMap<u64, Bytes>,
    /// Results of CometBFT calls that do not.
    cometbft_plain: BTreeMap<&'static str, Bytes>,
    /// `blob.GetAll`, whatever namespaces are asked for.
    blobs: BTreeMap<u64, Bytes>,
    celestia_headers: BTreeMap<u64, Bytes>,
    /// `share.GetNamespaceData`, by height and namespace in Base64.
    namespaces: BTreeMap<(u64, String), Bytes>,
}

impl Preencoded {
    /// Encodes what `world` holds, for a client that drives `rollup_ids`.
    pub fn new(world: &World, rollup_ids: &[RollupId]) -> Self {
        let chain = &world.sequencer;
        let (mut filtered_blocks, mut with_height) = (BTreeMap::new(), BTreeMap::new());
        let mut block_metas = BTreeMap::new();
        for block in chain.blocks() {
            let height = block.published.height().0;
            filtered_blocks.insert(height, block.published.filtered(rollup_ids).encode_to_vec().into());
            let only = json!({ "minHeight": height, "maxHeight": height });
            let result = cometbft::call(chain, "blockchain", &only).ok();
            block_metas.extend(result.and_then(|result| Some((height, encode(result.pointer("/block_metas/0")?)))));
            for method in ["commit", "validators", "block"] {
                let params = json!({ "height": height, "per_page": 100 });
                if let Ok(result) = cometbft::call(chain, method, &params) {
                    with_height.insert((method, height), encode(&result));
                }
            }
        }
        let plain = ["genesis", "status", "abci_info"].into_iter();
        let plain = plain.filter_map(|method| {
            cometbft::call(chain, method, &Value::Null).ok().map(|result| (method, encode(&result)))
        });
        let namespaces: Vec<_> = std::iter::once(Namespace::of_sequencer(chain.chain_id()))
            .chain(rollup_ids.iter().map(Namespace::of_rollup))
            .collect();
        let (mut blobs, mut celestia_headers, mut with_proofs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for height in world.celestia.tail().0..=world.celestia.head().0 {
            let Ok(header) = celestia::header_result(&world.celestia, CelestiaHeight(height)) else { continue };
            celestia_headers.insert(height, header);
            for namespace in namespaces.iter().map(|namespace| namespace.to_base64()) {
                let params = json!([height, namespace]);
                let rows = celestia::call(&world.celestia, "share.GetNamespaceData", &params).ok();
                with_proofs.extend(rows.map(|rows| ((height, namespace), rows)));
            }
            let found = world.celestia.blobs(CelestiaHeight(height), &namespaces);
            blobs.extend(found.map(|found| (height, celestia::blobs_result(found))));
        }
        Self(Arc::new(Replies {
            filtered_blocks,
            cometbft: with_height,
            block_metas,
            cometbft_plain: plain.collect(),
            blobs,
            celestia_headers,
            namespaces: with_proofs,
        }))
    }

    /// Serves the sequencer's gRPC until `shutdown`.
    pub async fn serve_sequencer<L: Listener>(
        self,
        listener: L,
        hooks: Hooks,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        grpc::serve(listener, Sequencer(self), hooks, shutdown).await;
    }

    /// Serves the sequencer's CometBFT RPC until `shutdown`.
    pub async fn serve_cometbft<L: Listener>(
        self,
        listener: L,
        hooks: Hooks,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        json_rpc::serve(listener, CometBft(self), hooks, shutdown).await;
    }

    /// Serves the Celestia node's RPC until `shutdown`.
    pub async fn serve_celestia<L: Listener>(
        self,
        listener: L,
        hooks: Hooks,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        json_rpc::serve(listener, Celestia(self), hooks, shutdown).await;
    }
}

impl Replies {
    /// The headers asked for, the highest first, as CometBFT gives them.
    fn blockchain(&self, params: &Value, newest: u64) -> Bytes {
        let last = number(param(params, "maxHeight", 1)).unwrap_or(newest).min(newest);
        let first = number(param(params, "minHeight", 0)).unwrap_or(1).max((last + 1).saturating_sub(20));
        let mut out = format!("{{\"last_height\":\"{newest}\",\"block_metas\":[").into_bytes();
        for (index, (_, meta)) in self.block_metas.range(first..=last.max(first)).rev().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(meta);
        }
        out.extend_from_slice(b"]}");
        out.into()
    }
}

#[derive(Clone)]
struct Sequencer(Preencoded);

/// The part of the request that is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Height {
    #[prost(uint64, tag = "1")]
    height: u64,
}

impl grpc::Api for Sequencer {
    const SERVICE: &'static str = super::sequencer::SERVICE;

    fn call(&self, method: &str, request: Bytes) -> Result<Bytes, Status> {
        if method != "GetFilteredSequencerBlock" {
            return Err(Status::new(Code::Unimplemented, format!("{method} is not served")));
        }
        let Height { height } = grpc::decode(request)?;
        let reply = self.0.0.filtered_blocks.get(&height).cloned();
        reply.ok_or_else(|| Status::new(Code::InvalidArgument, format!("no block at height {height}")))
    }
}

#[derive(Clone)]
struct CometBft(Preencoded);

impl json_rpc::Api for CometBft {
    fn call(&self, method: &str, params: &Value) -> Result<Bytes, Error> {
        let replies = &self.0.0;
        if let Some(plain) = replies.cometbft_plain.get(method) {
            return Ok(plain.clone());
        }
        let newest = replies.filtered_blocks.last_key_value().map_or(0, |(height, _)| *height);
        if method == "blockchain" {
            return Ok(replies.blockchain(params, newest));
        }
        let height = number(param(params, "height", 0)).unwrap_or(newest);
        let Some(method) = ["commit", "validators", "block"].into_iter().find(|known| *known == method) else {
            return Err(Error::method_not_found(method));
        };
        replies.cometbft.get(&(method, height)).cloned().ok_or_else(|| {
            let data = format!("height {height} must be less than or equal to the current blockchain height {newest}");
            Error { data: Some(data), ..Error::new(-32603, "Internal error") }
        })
    }
}

#[derive(Clone)]
struct Celestia(Preencoded);

impl json_rpc::Api for Celestia {
    fn call(&self, method: &str, params: &Value) -> Result<Bytes, Error> {
        let replies = &self.0.0;
        let height = number(param(params, "height", 0));
        let found = match method {
            "header.NetworkHead" | "header.LocalHead" => {
                replies.celestia_headers.last_key_value().map(|(_, header)| header)
            }
            "header.GetByHeight" => height.and_then(|height| replies.celestia_headers.get(&height)),
            "blob.GetAll" => height.and_then(|height| replies.blobs.get(&height)),
            "share.GetNamespaceData" => height.and_then(|height| {
                let namespace = param(params, "namespace", 1).as_str()?.to_owned();
                replies.namespaces.get(&(height, namespace))
            }),
            _ => return Err(Error::method_not_found(method)),
        };
        found.cloned().ok_or_else(|| Error::new(1, "header: given height is from the future"))
    }
}
