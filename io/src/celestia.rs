//! Client of the Celestia node (JSON-RPC, reference §3.3). One odd blob never spoils a reply.

use bytes::Bytes;
use downbeat_core::{
    CelestiaHeight, Timestamp,
    celestia::{
        Namespace,
        square::{DataAvailabilityHeader, NamespacedHash, RowProof, UnverifiedNamespace, UnverifiedRow},
    },
    event::{Blob, CelestiaBlock, CelestiaHead},
    fault::{CelestiaError, celestia_error},
    light::SignedBlock,
};
use futures_util::future;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};
use tendermint::{
    block::{Commit, Header as BlockHeader, signed_header::SignedHeader},
    validator,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    json_rpc::{JsonRpcClient, JsonRpcError},
    lenient::{self, Guarded, Readable},
};

const NAMESPACE_DATA: &str = "share.GetNamespaceData";
/// Code of JSON-RPC for a method that the server does not have.
const NO_SUCH_METHOD: i64 = -32601;

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

#[derive(Deserialize)]
struct ExtendedHeaderReply {
    header: tendermint::block::Header,
    commit: CommitReply,
    validator_set: ValidatorSetReply,
    dah: AvailabilityReply,
}

/// Unlike CometBFT, a Celestia node writes the height as a number, which the tendermint crate does not read.
struct CommitReply(Commit);

impl<'de> Deserialize<'de> for CommitReply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::<String, Value>::deserialize(deserializer)?;
        if let Some(height) = fields.get_mut("height")
            && let Some(number) = height.as_u64()
        {
            *height = number.to_string().into();
        }
        let text = serde_json::to_string(&fields).map_err(D::Error::custom)?;
        let Guarded(commit) = serde_json::from_str(&text).map_err(D::Error::custom)?;
        Ok(Self(commit))
    }
}

#[derive(Deserialize)]
struct ValidatorSetReply {
    #[serde(default, deserialize_with = "lenient::list")]
    validators: Vec<Guarded<validator::Info>>,
}

/// The same, of which only the header is wanted.
#[derive(Deserialize)]
struct HeaderReply {
    header: tendermint::block::Header,
}

#[derive(Deserialize)]
struct AvailabilityReply {
    #[serde(default, deserialize_with = "lenient::list")]
    row_roots: Vec<Node>,
    #[serde(default, deserialize_with = "lenient::list")]
    column_roots: Vec<Node>,
}

/// Go writes lists without elements as `null`.
#[derive(Deserialize)]
struct RowReply {
    #[serde(default, deserialize_with = "lenient::list")]
    shares: Vec<Base64>,
    proof: ProofReply,
}

/// That parity shares are left out of the ranges of nodes is not looked at: with Celestia it is always so.
#[derive(Deserialize)]
struct ProofReply {
    #[serde(default, deserialize_with = "lenient::number")]
    start: u64,
    #[serde(default, deserialize_with = "lenient::number")]
    end: u64,
    #[serde(default, deserialize_with = "lenient::list")]
    nodes: Vec<Node>,
    #[serde(default)]
    leaf_hash: Option<Leaf>,
}

#[derive(Deserialize)]
struct Base64(#[serde(deserialize_with = "lenient::base64")] Bytes);

/// A node of a namespaced Merkle tree.
struct Node(NamespacedHash);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Base64(bytes) = Base64::deserialize(deserializer)?;
        let bytes = bytes.as_ref().try_into().map_err(|_| D::Error::invalid_length(bytes.len(), &"90 bytes"))?;
        Ok(Self(NamespacedHash::from_bytes(bytes)))
    }
}

/// The same, or nothing as an empty text.
struct Leaf(Option<NamespacedHash>);

impl<'de> Deserialize<'de> for Leaf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Base64(bytes) = Base64::deserialize(deserializer)?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        let bytes =
            bytes.as_ref().try_into().map_err(|_| D::Error::invalid_length(bytes.len(), &"90 bytes or none"))?;
        Ok(Self(Some(NamespacedHash::from_bytes(bytes))))
    }
}

impl RowReply {
    fn into_row(self) -> Option<UnverifiedRow> {
        let ProofReply { start, end, nodes, leaf_hash } = self.proof;
        Some(UnverifiedRow {
            shares: self.shares.into_iter().map(|Base64(share)| share).collect(),
            proof: RowProof {
                start: u32::try_from(start).ok()?,
                end: u32::try_from(end).ok()?,
                nodes: nodes.into_iter().map(|Node(node)| node).collect(),
                absence: leaf_hash.and_then(|Leaf(leaf)| leaf),
            },
        })
    }
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

    /// Header and roots of `height`, and all that `namespaces` hold there, with proofs. Nothing of it is checked here.
    pub async fn namespaces(
        &self,
        height: CelestiaHeight,
        namespaces: &[Namespace],
    ) -> Result<CelestiaBlock, JsonRpcError> {
        let (reply, namespaces) = future::try_join(
            self.extended_header(height),
            future::try_join_all(namespaces.iter().map(|namespace| self.namespace(height, *namespace))),
        )
        .await?;
        let (signed, dah) = reply;
        let roots = |nodes: Vec<Node>| nodes.into_iter().map(|Node(node)| node).collect();
        let availability =
            DataAvailabilityHeader { row_roots: roots(dah.row_roots), column_roots: roots(dah.column_roots) };
        Ok(CelestiaBlock { signed, availability, namespaces })
    }

    /// Header, commit and validators of `height`. Nothing of it is checked here.
    pub async fn signed_header(&self, height: CelestiaHeight) -> Result<SignedBlock, JsonRpcError> {
        Ok(self.extended_header(height).await?.0)
    }

    /// The headers from `first` to `last`. Nothing of them is checked here.
    pub async fn headers(&self, first: CelestiaHeight, last: CelestiaHeight) -> Result<Vec<BlockHeader>, JsonRpcError> {
        // A node's own call for a range wants a whole header to begin with, and answers with whole headers as well.
        let calls = (first.0..=last.0).map(|height| self.client.call("header.GetByHeight", [height]));
        let replies: Vec<HeaderReply> = future::try_join_all(calls).await?;
        Ok(replies.into_iter().map(|reply| reply.header).collect())
    }

    async fn extended_header(&self, height: CelestiaHeight) -> Result<(SignedBlock, AvailabilityReply), JsonRpcError> {
        let ExtendedHeaderReply { header, commit: CommitReply(commit), validator_set, dah } =
            self.client.call("header.GetByHeight", [height]).await?;
        let signed_header = SignedHeader::new(header, commit)
            .map_err(|error| self.client.invalid(&format!("header and commit do not belong together: {error}")))?;
        let validators = validator_set.validators.into_iter().map(|Guarded(validator)| validator).collect();
        Ok((SignedBlock { signed_header, validators }, dah))
    }

    async fn namespace(
        &self,
        height: CelestiaHeight,
        namespace: Namespace,
    ) -> Result<UnverifiedNamespace, JsonRpcError> {
        let params = (height, namespace.to_base64());
        let rows: Option<Vec<RowReply>> =
            self.client.call(NAMESPACE_DATA, params).await.map_err(|error| match error {
                JsonRpcError::Rpc { code: NO_SUCH_METHOD, .. } => self.client.invalid(
                    "it does not offer share.GetNamespaceData, so it cannot prove what lies on Celestia: use a newer \
                 celestia-node, or set celestia_trust = \"endpoint\" to believe it without proof",
                ),
                error => error,
            })?;
        let rows: Option<Vec<_>> = rows.unwrap_or_default().into_iter().map(RowReply::into_row).collect();
        let rows = rows.ok_or_else(|| self.client.invalid("a proof is for columns that no row has"))?;
        Ok(UnverifiedNamespace { namespace, rows })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use downbeat_core::RollupId;
    use serde_json::json;

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

    fn namespace_json(start: &Value, leaf_hash: &Value) -> Value {
        let node = STANDARD.encode([7; 90]);
        json!([{"shares": ["AQ=="], "proof": {"start": start, "end": "3", "nodes": [node, node], "leaf_hash": leaf_hash,
            "is_max_namespace_ignored": true, "new": {}}, "more": 1}, {"shares": null, "proof": {"nodes": null}}])
    }

    fn header_json(roots: &Value) -> Value {
        let hash = "0".repeat(64);
        json!({
            "header": {
                "version": {"block": "11", "app": "4"}, "chain_id": "mocha-4", "height": "5",
                "time": "2023-06-23T10:40:48.410305119Z", "last_block_id": {"hash": "", "parts": {"total": 0, "hash": ""}},
                "last_commit_hash": hash, "data_hash": hash, "validators_hash": hash, "next_validators_hash": hash,
                "consensus_hash": hash, "app_hash": hash, "last_results_hash": hash, "evidence_hash": hash,
                "proposer_address": "0".repeat(40),
            },
            "commit": {
                "height": 5, "round": 0, "block_id": {"hash": hash, "parts": {"total": 1, "hash": hash}}, "signatures": [{
                    "block_id_flag": 2, "validator_address": "0".repeat(40), "timestamp": "2023-06-23T10:40:49Z",
                    "signature": STANDARD.encode([3; 64]),
                }],
            },
            "validator_set": {"proposer": {}, "validators": [{
                "address": "0".repeat(40), "voting_power": "5000", "proposer_priority": "-7",
                "pub_key": {"type": "tendermint/PubKeyEd25519", "value": STANDARD.encode([4; 32])},
            }]},
            "dah": {"row_roots": roots, "column_roots": null},
        })
    }

    async fn block_server(namespace: Value, header: Value) -> (HttpServer, Celestia) {
        let server = HttpServer::start(move |request| {
            let result = match request["method"].as_str() {
                Some("header.GetByHeight") => &header,
                Some("share.GetNamespaceData") => &namespace,
                method => panic!("{method:?}"),
            };
            assert_eq!(request["params"][0].as_u64(), Some(5));
            (200, json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string())
        })
        .await;
        let client = JsonRpcClient::new(Network::plain(TcpConnector), server.url().parse().unwrap(), None, 1 << 20);
        (server, Celestia::new(client.unwrap()))
    }

    #[tokio::test]
    async fn whole_namespaces_are_read_as_nodes_write_them() {
        let roots = json!([STANDARD.encode([1; 90]), STANDARD.encode([2; 90])]);
        let namespaces = [Namespace::of_sequencer("x"), Namespace::of_sequencer("y")];
        let node = |byte| NamespacedHash::from_bytes([byte; 90]);
        for (leaf_hash, absence) in
            [(json!(null), None), (json!(""), None), (json!(STANDARD.encode([9; 90])), Some(node(9)))]
        {
            let (server, client) = block_server(namespace_json(&json!(2), &leaf_hash), header_json(&roots)).await;
            let block = client.namespaces(CelestiaHeight(5), &namespaces).await.unwrap();
            let SignedBlock { signed_header, validators } = &block.signed;
            assert_eq!(signed_header.header.chain_id.as_str(), "mocha-4");
            assert_eq!((signed_header.commit.signatures.len(), validators.len(), validators[0].power()), (1, 1, 5000));
            assert_eq!(block.availability.row_roots, [node(1), node(2)]);
            assert_eq!(block.availability.column_roots, []);
            let proof = RowProof { start: 2, end: 3, nodes: vec![node(7); 2], absence };
            let rows = [
                UnverifiedRow { shares: vec![Bytes::from_static(&[1])], proof },
                UnverifiedRow { shares: Vec::new(), proof: RowProof::default() },
            ];
            let expected = namespaces.map(|namespace| UnverifiedNamespace { namespace, rows: rows.clone().into() });
            assert_eq!(block.namespaces, expected);
            assert_eq!(server.requests(), 3);
        }
        let (_server, client) = block_server(Value::Null, header_json(&roots)).await;
        let block = client.namespaces(CelestiaHeight(5), &namespaces).await.unwrap();
        assert_eq!(block.namespaces, namespaces.map(|namespace| UnverifiedNamespace { namespace, rows: Vec::new() }));
    }

    #[tokio::test]
    async fn headers_alone_are_read_one_by_one() {
        let roots = json!([STANDARD.encode([1; 90])]);
        let (server, client) = block_server(Value::Null, header_json(&roots)).await;
        let signed = client.signed_header(CelestiaHeight(5)).await.unwrap();
        assert_eq!((signed.signed_header.header.height.value(), signed.validators.len()), (5, 1));
        let headers = client.headers(CelestiaHeight(5), CelestiaHeight(5)).await.unwrap();
        assert_eq!((headers, server.requests()), (vec![signed.signed_header.header], 2));
    }

    #[tokio::test]
    async fn what_the_node_does_not_offer_is_said_with_the_setting_to_change() {
        let (_server, client) = server(json!({"code": -32601, "message": "method not found"})).await;
        let error = client.namespace(CelestiaHeight(5), Namespace::of_sequencer("x")).await.unwrap_err();
        assert!(matches!(error, JsonRpcError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("celestia_trust = \"endpoint\""), "{error}");
    }

    #[tokio::test]
    async fn what_can_be_no_namespace_is_refused_as_a_whole() {
        let roots = json!([STANDARD.encode([1; 90])]);
        let short = json!([STANDARD.encode([1; 89])]);
        let good = namespace_json(&json!(2), &json!(null));
        let mut other_commit = header_json(&roots);
        other_commit["commit"]["height"] = json!(6);
        let table = [
            (good.clone(), other_commit),
            (json!([{"shares": []}]), header_json(&roots)),
            (json!([{"shares": ["not base64!"], "proof": {}}]), header_json(&roots)),
            (namespace_json(&json!(-1), &json!(null)), header_json(&roots)),
            (namespace_json(&json!(1_u64 << 32), &json!(null)), header_json(&roots)),
            (namespace_json(&json!(2), &json!("AQ==")), header_json(&roots)),
            (good.clone(), header_json(&short)),
            (good.clone(), json!({"dah": {"row_roots": roots, "column_roots": roots}})),
            (good, Value::Null),
        ];
        for (namespace, header) in table {
            let (_server, client) = block_server(namespace.clone(), header.clone()).await;
            let error = client.namespaces(CelestiaHeight(5), &[Namespace::of_sequencer("x")]).await.unwrap_err();
            let is_refusal = matches!(error, JsonRpcError::Undecodable { .. } | JsonRpcError::Invalid { .. });
            assert!(is_refusal, "{namespace} {header}: {error}");
        }
    }
}
