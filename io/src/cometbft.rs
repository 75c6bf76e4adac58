//! Client of the sequencer's CometBFT node (JSON-RPC). Reads only the fields that the conductor needs.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use downbeat_core::SequencerHeight;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tendermint::{
    block::{Header, signed_header::SignedHeader},
    validator,
};
use tokio::time::Instant;

use crate::{
    json_rpc::{JsonRpcClient, JsonRpcError},
    lenient::{self, Guarded},
};

/// The most that a node puts on one page.
const PER_PAGE: usize = 100;

/// Translates calls to a CometBFT node; decides nothing.
#[derive(Debug)]
pub struct CometBft {
    client: JsonRpcClient,
    validators_max: usize,
    pace: Option<Pace>,
}

#[derive(Deserialize)]
struct GenesisReply {
    genesis: Genesis,
}

#[derive(Deserialize)]
struct Genesis {
    chain_id: String,
}

#[derive(Deserialize)]
struct StatusReply {
    node_info: NodeInfo,
    sync_info: SyncInfo,
}

#[derive(Deserialize)]
struct NodeInfo {
    network: String,
}

#[derive(Deserialize)]
struct SyncInfo {
    #[serde(deserialize_with = "lenient::number")]
    latest_block_height: u64,
}

#[derive(Deserialize)]
struct AbciInfoReply {
    response: AbciInfo,
}

#[derive(Deserialize)]
struct AbciInfo {
    /// Left out by nodes that have no block yet.
    #[serde(default, deserialize_with = "lenient::number")]
    last_block_height: u64,
}

#[derive(Deserialize)]
struct CommitReply {
    signed_header: Guarded<SignedHeader>,
}

#[derive(Deserialize)]
struct ValidatorsReply {
    #[serde(deserialize_with = "lenient::number")]
    block_height: u64,
    #[serde(deserialize_with = "lenient::list")]
    validators: Vec<Guarded<validator::Info>>,
    #[serde(deserialize_with = "lenient::number")]
    count: u64,
    #[serde(deserialize_with = "lenient::number")]
    total: u64,
}

#[derive(Deserialize)]
struct BlockReply {
    block: Block,
}

#[derive(Deserialize)]
struct Block {
    header: BlockHeader,
    data: BlockData,
}

#[derive(Deserialize)]
struct BlockHeader {
    #[serde(deserialize_with = "lenient::number")]
    height: u64,
}

#[derive(Deserialize)]
struct BlockData {
    #[serde(default, deserialize_with = "lenient::list")]
    txs: Vec<Base64>,
}

#[derive(Deserialize)]
struct BlockchainReply {
    #[serde(default, deserialize_with = "lenient::list")]
    block_metas: Vec<BlockMeta>,
}

#[derive(Deserialize)]
struct BlockMeta {
    header: Header,
}

struct Base64(Bytes);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::base64(deserializer).map(Self)
    }
}

impl CometBft {
    /// `requests_per_second` limits `commit` and `validators`.
    pub fn new(client: JsonRpcClient, validators_max: usize, requests_per_second: Option<u32>) -> Self {
        Self { client, validators_max, pace: requests_per_second.map(Pace::new) }
    }

    /// Chain id in the genesis. A genesis that is too large for one answer is left alone: the status says the same.
    pub async fn chain_id(&self) -> Result<String, JsonRpcError> {
        match self.client.call::<GenesisReply>("genesis", json!({})).await {
            Ok(reply) => Ok(reply.genesis.chain_id),
            Err(JsonRpcError::Rpc { .. } | JsonRpcError::TooLarge { .. } | JsonRpcError::Undecodable { .. }) => {
                Ok(self.status().await?.node_info.network)
            }
            Err(error) => Err(error),
        }
    }

    /// Height of the newest block that the application has executed.
    pub async fn head(&self) -> Result<SequencerHeight, JsonRpcError> {
        match self.client.call::<AbciInfoReply>("abci_info", json!({})).await {
            Ok(reply) => Ok(SequencerHeight(reply.response.last_block_height)),
            Err(JsonRpcError::Rpc { .. } | JsonRpcError::Undecodable { .. }) => {
                Ok(SequencerHeight(self.status().await?.sync_info.latest_block_height))
            }
            Err(error) => Err(error),
        }
    }

    async fn status(&self) -> Result<StatusReply, JsonRpcError> {
        self.client.call("status", json!({})).await
    }

    /// Header and commit of `height`.
    pub async fn signed_header(&self, height: SequencerHeight) -> Result<SignedHeader, JsonRpcError> {
        self.paced().await;
        let reply: CommitReply = self.client.call("commit", json!({"height": height.to_string()})).await?;
        let Guarded(signed_header) = reply.signed_header;
        let (header, commit) = (signed_header.header.height.value(), signed_header.commit.height.value());
        if (header, commit) != (height.0, height.0) {
            let detail = format!("asked for commit {height}, got header {header} and commit {commit}");
            return Err(self.client.invalid(&detail));
        }
        Ok(signed_header)
    }

    /// The headers from `first` to `last` that the node returns, at most 20 of them.
    pub async fn headers(&self, first: SequencerHeight, last: SequencerHeight) -> Result<Vec<Header>, JsonRpcError> {
        let params = json!({"minHeight": first.to_string(), "maxHeight": last.to_string()});
        let reply: BlockchainReply = self.client.call("blockchain", params).await?;
        let headers = reply.block_metas.into_iter().map(|meta| meta.header);
        Ok(headers.filter(|header| (first.0..=last.0).contains(&header.height.value())).collect())
    }

    /// The whole validator set of `height`, page by page, in the node's order.
    pub async fn validators(&self, height: SequencerHeight) -> Result<Vec<validator::Info>, JsonRpcError> {
        let mut validators: Vec<validator::Info> = Vec::new();
        let mut expected = None;
        for page in 1_u32.. {
            self.paced().await;
            let params =
                json!({"height": height.to_string(), "page": page.to_string(), "per_page": PER_PAGE.to_string()});
            let reply: ValidatorsReply = self.client.call("validators", params).await?;
            let wrong = |what: &str, got: u64| {
                Err(self.client.invalid(&format!("validators of block {height}, page {page}: {what} {got}")))
            };
            if reply.block_height != height.0 {
                return wrong("they are of block", reply.block_height);
            }
            let count = u64::try_from(reply.validators.len()).unwrap_or(u64::MAX);
            if reply.count != count {
                return wrong(&format!("there are {count}, but their count says"), reply.count);
            }
            let total = *expected.get_or_insert(reply.total);
            if reply.total != total {
                return wrong(&format!("the total was {total} and is now"), reply.total);
            }
            let total = usize::try_from(total).unwrap_or(usize::MAX);
            if total > self.validators_max {
                return wrong(&format!("more than the permitted {}:", self.validators_max), reply.total);
            }
            let missing = total.saturating_sub(validators.len());
            if reply.validators.is_empty() || reply.validators.len() > missing {
                return wrong(&format!("{missing} are missing of {total}, and the page has"), count);
            }
            validators.extend(reply.validators.into_iter().map(|Guarded(validator)| validator));
            if validators.len() == total {
                break;
            }
        }
        Ok(validators)
    }

    /// The data items of block `height`.
    pub async fn block_transactions(&self, height: SequencerHeight) -> Result<Vec<Bytes>, JsonRpcError> {
        let reply: BlockReply = self.client.call("block", json!({"height": height.to_string()})).await?;
        let got = reply.block.header.height;
        if got != height.0 {
            return Err(self.client.invalid(&format!("asked for block {height}, got {got}")));
        }
        Ok(reply.block.data.txs.into_iter().map(|item| item.0).collect())
    }

    async fn paced(&self) {
        if let Some(pace) = &self.pace {
            tokio::time::sleep_until(pace.reserve(Instant::now())).await;
        }
    }
}

/// Spaces requests evenly after a small burst.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    burst: Duration,
    /// When the next request would be due if all were spaced evenly.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        // A tenth of a second's worth at once: timers are no finer than a millisecond.
        let burst = Duration::from_millis(100).saturating_sub(interval);
        Self { interval, burst, next: Mutex::new(None) }
    }

    /// Moment at which the next request may leave.
    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let due = next.map_or(now, |next| next.max(now));
        *next = Some(due + self.interval);
        due.checked_sub(self.burst).map_or(now, |early| early.max(now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        connector::{Network, TcpConnector},
        testing::HttpServer,
    };

    fn client(server: &HttpServer, validators_max: usize, per_second: Option<u32>) -> CometBft {
        let network = Network::plain(TcpConnector);
        let client = JsonRpcClient::new(network, server.url().parse().unwrap(), None, 1 << 20).unwrap();
        CometBft::new(client, validators_max, per_second)
    }

    fn result(request: &Value, result: &Value) -> (u16, String) {
        (200, json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string())
    }

    fn error(request: &Value, data: &str) -> (u16, String) {
        let error = json!({"code": -32603, "message": "Internal error", "data": data});
        (200, json!({"jsonrpc": "2.0", "id": request["id"], "error": error}).to_string())
    }

    /// `total` validators of block 9, of which `page` holds some.
    fn page(request: &Value, total: usize) -> Value {
        let number: usize = request["params"]["page"].as_str().unwrap().parse().unwrap();
        assert_eq!(request["params"]["per_page"], "100");
        let validator = json!({
            "address": "F1F83230835AA69A1AD6EA68C6D894A4106B8E53",
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "yvrJ+hVxB/nh6sKTG+rrrpzyJgr4bxZ5KXM6VEw3t8w="},
            "voting_power": "5000", "proposer_priority": "-3", "of tomorrow": {},
        });
        let here = total.saturating_sub((number - 1) * 100).min(100);
        json!({"block_height": "9", "validators": vec![validator; here], "count": here.to_string(), "total": total.to_string()})
    }

    #[tokio::test]
    async fn all_pages_of_a_validator_set_are_fetched() {
        for (total, pages) in [(1, 1), (100, 1), (101, 2), (250, 3)] {
            let server = HttpServer::start(move |request| result(request, &page(request, total))).await;
            let validators = client(&server, 250, None).validators(SequencerHeight(9)).await.unwrap();
            assert_eq!((validators.len(), server.requests()), (total, pages));
            assert_eq!(validators[0].power.value(), 5_000);
        }
    }

    #[tokio::test]
    async fn a_validator_set_that_contradicts_itself_is_refused() {
        type Change = fn(&mut Value, bool);
        let cases: [(&str, usize, Change); 6] = [
            ("another height", 3, |reply, _| reply["block_height"] = "8".into()),
            ("a wrong count", 3, |reply, _| reply["count"] = "4".into()),
            ("a total that changes", 150, |reply, first| {
                if !first {
                    reply["total"] = "151".into();
                }
            }),
            ("pages that never end", 150, |reply, first| {
                if !first {
                    reply["validators"] = json!([]);
                    reply["count"] = "0".into();
                }
            }),
            ("more than announced", 3, |reply, _| reply["total"] = "2".into()),
            ("too many", 251, |_, _| ()),
        ];
        for (name, total, change) in cases {
            let server = HttpServer::start(move |request| {
                let mut reply = page(request, total);
                change(&mut reply, request["params"]["page"] == "1");
                result(request, &reply)
            })
            .await;
            let error = client(&server, 250, None).validators(SequencerHeight(9)).await.unwrap_err();
            assert!(matches!(error, JsonRpcError::Invalid { .. }), "{name}: {error:?}");
        }
    }

    #[tokio::test]
    async fn the_chain_id_comes_from_the_genesis_or_from_the_status_when_that_is_too_large() {
        let server = HttpServer::start(|request| match request["method"].as_str() {
            Some("genesis") => result(request, &json!({"genesis": {"chain_id": "from-genesis", "app_state": {}}})),
            _ => error(request, "not asked for"),
        })
        .await;
        assert_eq!(client(&server, 9, None).chain_id().await.unwrap(), "from-genesis");

        let server = HttpServer::start(|request| match request["method"].as_str() {
            Some("genesis") => error(request, "genesis response is large, please use the genesis_chunked API instead"),
            _ => result(
                request,
                &json!({"node_info": {"network": "from-status"}, "sync_info": {"latest_block_height": "5"}}),
            ),
        })
        .await;
        let client = client(&server, 9, None);
        assert_eq!(client.chain_id().await.unwrap(), "from-status");
        assert_eq!(client.head().await.unwrap(), SequencerHeight(5), "abci_info fails, so the status is asked");
    }

    #[tokio::test]
    async fn a_block_of_another_height_is_refused() {
        let server = HttpServer::start(|request| {
            result(request, &json!({"block": {"header": {"height": "9"}, "data": {"txs": ["AQI=", ""]}}}))
        })
        .await;
        let client = client(&server, 9, None);
        let items = client.block_transactions(SequencerHeight(9)).await.unwrap();
        assert_eq!(items, [Bytes::from_static(&[1, 2]), Bytes::new()]);
        let error = client.block_transactions(SequencerHeight(8)).await.unwrap_err();
        assert!(matches!(error, JsonRpcError::Invalid { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn padding_in_place_of_a_signature_or_a_key_is_refused() {
        let mut reply: Value = serde_json::from_str(include_str!("testdata/commit.json")).unwrap();
        let height: u64 = reply["signed_header"]["header"]["height"].as_str().unwrap().parse().unwrap();
        for signature in ["====", "AQ=C"] {
            reply["signed_header"]["commit"]["signatures"][0]["signature"] = signature.into();
            let reply = reply.clone();
            let server = HttpServer::start(move |request| result(request, &reply)).await;
            let error = client(&server, 9, None).signed_header(SequencerHeight(height)).await.unwrap_err();
            assert!(matches!(error, JsonRpcError::Undecodable { .. }), "{signature}: {error:?}");
        }

        let server = HttpServer::start(|request| {
            let mut reply = page(request, 1);
            reply["validators"][0]["pub_key"]["value"] = "yvrJ=".into();
            result(request, &reply)
        })
        .await;
        let error = client(&server, 9, None).validators(SequencerHeight(9)).await.unwrap_err();
        assert!(matches!(error, JsonRpcError::Undecodable { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_real_signed_header_is_read_and_one_of_another_height_refused() {
        let text = include_str!("testdata/commit.json");
        let reply: Value = serde_json::from_str(text).unwrap();
        let height: u64 = reply["signed_header"]["header"]["height"].as_str().unwrap().parse().unwrap();
        let server = HttpServer::start(move |request| result(request, &reply)).await;
        let client = client(&server, 9, Some(1_000));
        let signed_header = client.signed_header(SequencerHeight(height)).await.unwrap();
        assert_eq!(signed_header.header.height.value(), height);
        let error = client.signed_header(SequencerHeight(height + 1)).await.unwrap_err();
        assert!(matches!(error, JsonRpcError::Invalid { .. }), "{error:?}");
    }

    #[test]
    fn requests_are_spaced_after_a_small_burst() {
        let pace = Pace::new(100);
        let start = Instant::now();
        let delays: Vec<_> = (0..20).map(|_| pace.reserve(start).duration_since(start).as_millis()).collect();
        assert_eq!(&delays[..10], &[0; 10]);
        assert_eq!(&delays[10..], &[10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        let later = start + Duration::from_secs(5);
        assert_eq!(pace.reserve(later), later, "time that passed unused is not saved up");
    }
}
