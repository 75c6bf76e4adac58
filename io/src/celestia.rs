//! Client of the Celestia node (JSON-RPC, reference §3.3). One odd blob never spoils a reply.

use bytes::Bytes;
use downbeat_core::{
    CelestiaHeight, Timestamp,
    celestia::Namespace,
    event::{Blob, CelestiaHead},
    fault::{CelestiaError, celestia_error},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    json_rpc::{JsonRpcClient, JsonRpcError},
    lenient::{self, Readable},
};

/// Translates calls to a Celestia node; decides nothing.
#[derive(Debug)]
pub struct Celestia {
    client: JsonRpcClient,
}

/// The blobs of one height.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blobs {
    /// In the node's order, of the requested namespaces only.
    pub blobs: Vec<Blob>,
    /// Elements that were not blobs at all.
    pub unreadable: u32,
}

#[derive(Deserialize)]
struct HeadReply {
    header: Header,
}

#[derive(Deserialize)]
struct Header {
    chain_id: String,
    #[serde(deserialize_with = "lenient::number")]
    height: u64,
    #[serde(deserialize_with = "rfc3339")]
    time: Timestamp,
}

#[derive(Deserialize)]
struct BlobElement {
    #[serde(deserialize_with = "lenient::base64")]
    namespace: Bytes,
    #[serde(deserialize_with = "lenient::base64")]
    data: Bytes,
}

fn rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(D::Error::custom)?;
    u64::try_from(time.unix_timestamp_nanos()).map(Timestamp).map_err(D::Error::custom)
}

impl Celestia {
    pub fn new(client: JsonRpcClient) -> Self {
        Self { client }
    }

    /// The newest header that the node knows of the network.
    pub async fn head(&self) -> Result<CelestiaHead, JsonRpcError> {
        let HeadReply { header } = self.client.call("header.NetworkHead", [(); 0]).await?;
        Ok(CelestiaHead { chain_id: header.chain_id, height: CelestiaHeight(header.height), time: header.time })
    }

    /// All blobs of `height` in `namespaces`.
    pub async fn blobs(&self, height: CelestiaHeight, namespaces: &[Namespace]) -> Result<Blobs, JsonRpcError> {
        let wanted: Vec<String> = namespaces.iter().map(|namespace| namespace.to_base64()).collect();
        let reply: Readable<BlobElement> = match self.client.call("blob.GetAll", (height, wanted)).await {
            Err(JsonRpcError::Rpc { code, message, .. })
                if celestia_error(code, &message) == CelestiaError::NoBlobs =>
            {
                return Ok(Blobs::default());
            }
            reply => reply?,
        };
        let mut found = Blobs { blobs: Vec::with_capacity(reply.elements.len()), unreadable: reply.unreadable };
        for element in reply.elements {
            match <[u8; Namespace::LEN]>::try_from(element.namespace.as_ref()).map(Namespace::from_bytes) {
                Ok(namespace) if namespaces.contains(&namespace) => {
                    found.blobs.push(Blob { namespace, data: element.data });
                }
                Ok(_) => {}
                Err(_) => found.unreadable = found.unreadable.saturating_add(1),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use downbeat_core::RollupId;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        connector::{Network, TcpConnector},
        testing::HttpServer,
    };

    async fn server(result: Value) -> (HttpServer, Celestia) {
        let server = HttpServer::start(move |request| {
            let mut reply = json!({"jsonrpc": "2.0", "id": request["id"]});
            let field = if result.get("code").is_some() { "error" } else { "result" };
            reply[field] = result.clone();
            (200, reply.to_string())
        })
        .await;
        let client = JsonRpcClient::new(Network::plain(TcpConnector), server.url().parse().unwrap(), None, 1 << 20);
        let client = Celestia::new(client.unwrap());
        (server, client)
    }

    #[tokio::test]
    async fn the_head_is_read_whether_its_height_is_text_or_number() {
        for height in [json!("12"), json!(12)] {
            let header = json!({"chain_id": "mocha-4", "height": height, "time": "2023-06-23T10:40:48.410305119Z"});
            let (_server, client) = server(json!({"header": header, "dah": null})).await;
            let head = client.head().await.unwrap();
            assert_eq!(head.height, CelestiaHeight(12));
            assert_eq!(head.chain_id, "mocha-4");
            assert_eq!(head.time, Timestamp(1_687_516_848_410_305_119));
        }
    }

    #[tokio::test]
    async fn one_odd_blob_does_not_spoil_a_reply() {
        let ours = Namespace::of_sequencer("ours");
        let rollup = Namespace::of_rollup(&RollupId([7; 32]));
        let other = Namespace::of_sequencer("other");
        let (_server, client) = server(json!([
            {"namespace": ours.to_base64(), "data": "AQ==", "share_version": 9, "signer": 5},
            {"namespace": ours.to_base64(), "data": "not base64!"},
            null,
            {"namespace": STANDARD.encode([0; 28]), "data": "AQ=="},
            {"namespace": other.to_base64(), "data": "Ag=="},
            {"namespace": rollup.to_base64(), "data": "Aw==", "commitment": "", "index": -1},
        ]))
        .await;
        let found = client.blobs(CelestiaHeight(1), &[ours, rollup]).await.unwrap();
        let expected = [
            Blob { namespace: ours, data: Bytes::from_static(&[1]) },
            Blob { namespace: rollup, data: Bytes::from_static(&[3]) },
        ];
        assert_eq!(found, Blobs { blobs: expected.into(), unreadable: 3 });
    }

    #[tokio::test]
    async fn no_blobs_are_said_in_three_ways() {
        for answer in [json!(null), json!([]), json!({"code": 1, "message": "blob: not found"})] {
            let (_server, client) = server(answer.clone()).await;
            let found = client.blobs(CelestiaHeight(1), &[Namespace::of_sequencer("x")]).await.unwrap();
            assert_eq!(found, Blobs::default(), "{answer}");
        }
    }

    #[tokio::test]
    async fn all_namespaces_go_into_one_request() {
        let server = HttpServer::start(|request| {
            let params = request["params"].as_array().unwrap();
            assert_eq!((request["method"].as_str(), params[0].as_u64()), (Some("blob.GetAll"), Some(5)));
            assert_eq!(params[1].as_array().unwrap().len(), 2);
            (200, json!({"jsonrpc": "2.0", "id": request["id"], "result": []}).to_string())
        })
        .await;
        let client = JsonRpcClient::new(Network::plain(TcpConnector), server.url().parse().unwrap(), None, 1 << 20);
        let namespaces = [Namespace::of_sequencer("x"), Namespace::of_sequencer("y")];
        Celestia::new(client.unwrap()).blobs(CelestiaHeight(5), &namespaces).await.unwrap();
        assert_eq!(server.requests(), 1);
    }
}
