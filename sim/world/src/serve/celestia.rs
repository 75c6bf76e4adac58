//! A Celestia node's JSON-RPC: `header.NetworkHead`, `header.LocalHead`, `header.GetByHeight`, `blob.GetAll`
//! (reference §3.3), `share.GetNamespaceData`.

use std::{future::Future, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut as _, Bytes, BytesMut};
use downbeat_core::{
    CelestiaHeight,
    celestia::{
        Namespace,
        square::{DataAvailabilityHeader, NamespacedHash, UnverifiedRow},
    },
};
use serde_json::{Value, json};

use super::{
    Hooks, Listener, Shared,
    cometbft::{commit_json, header_json, validator_set_json},
    json_rpc::{self, Error, encode, number, param},
};
use crate::{
    CelestiaChain, World,
    celestia::{Block, PostedBlob},
};

/// Serves the Celestia node's RPC until `shutdown`. With a `token`, requests without it are answered 401.
pub async fn serve<L: Listener>(
    listener: L,
    world: Shared<World>,
    token: Option<String>,
    hooks: Hooks,
    shutdown: impl Future<Output = ()> + Send,
) {
    json_rpc::serve(listener, Celestia { world, token: token.map(Into::into) }, hooks, shutdown).await;
}

#[derive(Clone)]
struct Celestia {
    world: Shared<World>,
    token: Option<Arc<str>>,
}

impl json_rpc::Api for Celestia {
    fn call(&self, method: &str, params: &Value) -> Result<Bytes, Error> {
        self.world.with(|world| call(&world.celestia, method, params))
    }

    fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

/// The result of one call on `chain`.
pub(super) fn call(chain: &CelestiaChain, method: &str, params: &Value) -> Result<Bytes, Error> {
    match method {
        "header.NetworkHead" | "header.LocalHead" => header_result(chain, chain.head()),
        "header.GetByHeight" => header_result(chain, height(params)?),
        "share.GetNamespaceData" => {
            let height = height(params)?;
            let namespace =
                namespace(param(params, "namespace", 1)).ok_or_else(|| Error::invalid_params("no namespace"))?;
            block_at(chain, height)?;
            let square = chain.square(height).ok_or_else(|| Error::new(1, "no square"))?;
            Ok(encode(&square.namespace(namespace).rows.iter().map(row_json).collect()))
        }
        "blob.GetAll" => {
            let height = height(params)?;
            let namespaces = param(params, "namespaces", 1).as_array();
            let namespaces: Vec<_> = namespaces.into_iter().flatten().filter_map(namespace).collect();
            if namespaces.is_empty() {
                return Err(Error::invalid_params("no namespaces"));
            }
            block_at(chain, height)?;
            Ok(chain.blobs(height, &namespaces).map_or_else(no_blobs, blobs_result))
        }
        _ => Err(Error::method_not_found(method)),
    }
}

fn height(params: &Value) -> Result<CelestiaHeight, Error> {
    number(param(params, "height", 0)).map(CelestiaHeight).ok_or_else(|| Error::invalid_params("no height"))
}

fn namespace(value: &Value) -> Option<Namespace> {
    let bytes = BASE64.decode(value.as_str()?).ok()?;
    Some(Namespace::from_bytes(bytes.try_into().ok()?))
}

/// A Celestia node reports every failure as error 1.
fn block_at(chain: &CelestiaChain, height: CelestiaHeight) -> Result<&Block, Error> {
    let error = |message: String| Err(Error::new(1, message));
    if height.0 == 0 {
        return error("header: height is equal to 0".to_owned());
    }
    if height > chain.head() {
        return error(format!(
            "header: given height is from the future: networkHeight: {}, requestedHeight: {height}",
            chain.head()
        ));
    }
    match chain.block(height) {
        Some(block) => Ok(block),
        None => error(format!("requested header ({height}) is below Tail ({})", chain.tail())),
    }
}

/// A block as an extended header.
pub(super) fn header_result(chain: &CelestiaChain, height: CelestiaHeight) -> Result<Bytes, Error> {
    let block = block_at(chain, height)?;
    let square = chain.square(height).ok_or_else(|| Error::new(1, "no square"))?;
    let mut commit = commit_json(&block.signed_header.commit);
    // Unlike CometBFT, a Celestia node writes it as a number.
    commit["height"] = height.0.into();
    Ok(encode(&json!({
        "header": header_json(&block.signed_header.header),
        "validator_set": validator_set_json(block.validators()),
        "commit": commit,
        "dah": availability_json(square.header()),
    })))
}

fn availability_json(header: &DataAvailabilityHeader) -> Value {
    let roots = |roots: &[NamespacedHash]| roots.iter().map(node_json).collect::<Vec<_>>();
    json!({ "row_roots": roots(&header.row_roots), "column_roots": roots(&header.column_roots) })
}

fn node_json(node: &NamespacedHash) -> Value {
    BASE64.encode(node.as_bytes()).into()
}

/// What a namespace has in one row. Lists without elements are `null`.
fn row_json(row: &UnverifiedRow) -> Value {
    let list = |list: Vec<Value>| if list.is_empty() { Value::Null } else { list.into() };
    json!({
        "shares": list(row.shares.iter().map(|share| BASE64.encode(share).into()).collect()),
        "proof": {
            "start": row.proof.start,
            "end": row.proof.end,
            "nodes": list(row.proof.nodes.iter().map(node_json).collect()),
            "leaf_hash": row.proof.absence.as_ref().map(node_json),
            "is_max_namespace_ignored": true,
        },
    })
}

fn no_blobs() -> Bytes {
    Bytes::from_static(b"null")
}

/// Blobs as JSON, written directly: base64 needs no escaping, and the data may be megabytes.
pub(super) fn blobs_result<'a>(blobs: impl Iterator<Item = &'a PostedBlob>) -> Bytes {
    let mut result = BytesMut::new();
    for blob in blobs {
        result.put_u8(if result.is_empty() { b'[' } else { b',' });
        let fields = [
            "{\"namespace\":\"",
            &blob.namespace.to_base64(),
            "\",\"data\":\"",
            &BASE64.encode(&blob.data),
            "\",\"share_version\":0,\"commitment\":\"",
            &BASE64.encode(blob.commitment()),
            "\",\"index\":",
            &blob.index.to_string(),
            "}",
        ];
        for field in fields {
            result.put(field.as_bytes());
        }
    }
    if result.is_empty() {
        return no_blobs();
    }
    result.put_u8(b']');
    result.freeze()
}
