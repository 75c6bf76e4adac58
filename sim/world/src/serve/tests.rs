use std::time::Duration;

use bytes::Bytes;
use celestia_types::{
    ExtendedHeader,
    namespace_data::{NamespaceData, NamespaceDataId},
    nmt::Namespace as TheirNamespace,
};
use downbeat_core::{
    CelestiaHeight, SequencerHeight,
    celestia::Namespace,
    wire::proto::astria::{
        execution::v2::{CreateExecutionSessionRequest, ExecutionSession},
        sequencerblock::v1::{FilteredSequencerBlock, GetFilteredSequencerBlockRequest, SequencerBlock},
    },
};
use http::{Request, StatusCode, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::{Value, json};
use tendermint::block::signed_header::SignedHeader;
use tokio::net::{TcpListener, TcpStream};
use tonic::{client::Grpc, transport::Endpoint};

use super::{Devnet, DevnetConfig, DevnetHandle, Failure, Hooks, grpc::RawCodec, preencoded::Preencoded};
use crate::{
    WorldConfig,
    published::wire_id,
    rollup::{Code, Status},
};

/// A devnet that stands still, stepped to `seconds` after its genesis.
async fn standing_still(world: WorldConfig, seconds: u64) -> DevnetHandle {
    let config = DevnetConfig { world, clock: false, starts_now: false, ..DevnetConfig::default() };
    let devnet = Devnet::start(config).await.expect("free ports");
    devnet.world.with(|world| {
        let to = world.now().after(Duration::from_secs(seconds));
        world.step(to);
    });
    devnet
}

async fn post(url: &str, token: Option<&str>, body: String) -> Option<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let mut request = Request::post("/").header("host", "model");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).ok()?).await.ok()?;
    let status = response.status();
    Some((status, response.into_body().collect().await.ok()?.to_bytes()))
}

async fn json_rpc(url: &str, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string();
    let (status, reply) = post(url, None, body).await.expect("a reply");
    assert_eq!(status, StatusCode::OK);
    let reply: Value = serde_json::from_slice(&reply).expect("JSON");
    assert_eq!(reply["id"], 7);
    reply
}

async fn grpc<Q: Message, R: Message + Default>(url: &str, path: &'static str, request: Q) -> Result<R, tonic::Status> {
    let unavailable = |error: tonic::transport::Error| tonic::Status::unavailable(error.to_string());
    let channel = Endpoint::from_shared(url.to_owned()).map_err(unavailable)?.connect().await.map_err(unavailable)?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(unavailable)?;
    let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
    let reply = client.unary(request, PathAndQuery::from_static(path), RawCodec).await?;
    Ok(R::decode(reply.into_inner()).expect("a message"))
}

const FILTERED: &str = "/astria.sequencerblock.v1.SequencerService/GetFilteredSequencerBlock";
const OPEN: &str = "/astria.execution.v2.ExecutionService/CreateExecutionSession";

#[tokio::test]
async fn the_sequencer_serves_the_blocks_of_its_chain() {
    let devnet = standing_still(WorldConfig::default(), 10).await;
    let url = &devnet.urls.sequencer_grpc;
    let id = devnet.world.with(|world| world.node_ids()[0]);
    let request = |height| GetFilteredSequencerBlockRequest { height, rollup_ids: vec![wire_id(&id)] };
    for height in 1..=21 {
        let block: FilteredSequencerBlock = grpc(url, FILTERED, request(height)).await.expect("a block");
        let expected = devnet.world.with(|world| world.sequencer.filtered_block(SequencerHeight(height), &[id]));
        assert_eq!(Some(block), expected);
    }
    let ahead = grpc::<_, FilteredSequencerBlock>(url, FILTERED, request(22)).await;
    assert_eq!(ahead.map_err(|status| status.code()), Err(tonic::Code::InvalidArgument));
    let whole = "/astria.sequencerblock.v1.SequencerService/GetSequencerBlock";
    let block: SequencerBlock = grpc(url, whole, request(5)).await.expect("a block");
    assert_eq!(Some(block), devnet.world.with(|world| world.sequencer.sequencer_block(SequencerHeight(5))));
    let other = "/astria.sequencerblock.v1.SequencerService/GetPendingNonce";
    let other = grpc::<_, SequencerBlock>(url, other, request(5)).await;
    assert_eq!(other.map_err(|status| status.code()), Err(tonic::Code::Unimplemented));
    assert_eq!(devnet.hooks.sequencer.count("GetFilteredSequencerBlock"), 22);
    devnet.shutdown().await;
}

#[tokio::test]
async fn cometbft_pages_its_validators_and_bounds_what_it_answers() {
    let mut world = WorldConfig::default();
    world.sequencer.validators = (0..130).map(|number| 10 + number % 7).collect();
    let devnet = standing_still(world, 15).await;
    let url = &devnet.urls.cometbft;
    let mut addresses = Vec::new();
    for (params, count) in [
        (json!({ "height": "5" }), 30),
        (json!({ "height": "5", "page": null, "per_page": null }), 30),
        (json!({ "height": "5", "per_page": "1000" }), 100),
        (json!({ "height": "5", "per_page": "100", "page": "2" }), 30),
    ] {
        let reply = json_rpc(url, "validators", params.clone()).await;
        let result = &reply["result"];
        let validators: Vec<tendermint::validator::Info> =
            serde_json::from_value(result["validators"].clone()).expect("validators");
        assert_eq!((validators.len(), &result["count"]), (count, &json!(count.to_string())), "{params}");
        assert_eq!(result["total"], "130");
        if params["per_page"].is_string() {
            addresses.extend(validators.into_iter().map(|validator| validator.address));
        }
    }
    let expected = devnet.world.with(|world| {
        let set = world.sequencer.validators(SequencerHeight(5)).expect("a set");
        set.members().iter().map(|member| member.address).collect::<Vec<_>>()
    });
    assert_eq!(addresses, expected);
    let reply = json_rpc(url, "validators", json!({ "height": "5", "page": "6" })).await;
    assert_eq!(reply["error"]["data"], "page should be within [1, 5] range, given 6");

    let reply = json_rpc(url, "commit", json!({ "height": "32" })).await;
    assert_eq!(reply["error"]["code"], -32603);
    assert_eq!(reply["error"]["data"], "height 32 must be less than or equal to the current blockchain height 31");
    let reply = json_rpc(url, "blockchain", json!({ "minHeight": "3", "maxHeight": "30" })).await;
    let heights: Vec<_> = reply["result"]["block_metas"].as_array().into_iter().flatten().collect();
    assert_eq!(heights.len(), 20);
    assert_eq!(heights[0]["header"]["height"], "30");
    let reply = json_rpc(url, "tx_search", Value::Null).await;
    assert_eq!(reply["error"]["code"], -32601);
    devnet.shutdown().await;
}

#[tokio::test]
async fn tendermint_reads_headers_commits_and_blocks_back_unchanged() {
    let devnet = standing_still(WorldConfig::default(), 3).await;
    let url = &devnet.urls.cometbft;
    devnet.world.with(|world| {
        let mut input = crate::BlockInput::default();
        input.votes.insert(0, crate::cometbft::Vote::Absent);
        input.votes.insert(1, crate::cometbft::Vote::Nil);
        let now = world.now();
        world.sequencer.make_block(now, input);
        world.make_sequencer_block(now);
    });
    let head = devnet.world.with(|world| world.sequencer.head());
    for height in 1..=head.0 {
        let reply = json_rpc(url, "commit", json!({ "height": height.to_string() })).await;
        let signed: SignedHeader =
            serde_json::from_value(reply["result"]["signed_header"].clone()).expect("a signed header");
        let expected = devnet.world.with(|world| world.sequencer.signed_header(SequencerHeight(height)).cloned());
        assert_eq!(Some(signed), expected);
        let reply = json_rpc(url, "block", json!({ "height": height.to_string() })).await;
        let block: tendermint::Block = serde_json::from_value(reply["result"]["block"].clone()).expect("a block");
        let expected = devnet.world.with(|world| world.sequencer.transactions(SequencerHeight(height)));
        assert_eq!(block.data, expected.expect("transactions"));
    }
    assert_eq!(json_rpc(url, "genesis", Value::Null).await["result"]["genesis"]["chain_id"], "downbeat-sequencer");
    let info = json_rpc(url, "abci_info", Value::Null).await;
    assert_eq!(info["result"]["response"]["last_block_height"], head.to_string());
    let status = json_rpc(url, "status", json!([])).await;
    assert_eq!(status["result"]["sync_info"]["latest_block_height"], head.to_string());

    let batch = json!([
        { "jsonrpc": "2.0", "id": "a", "method": "commit", "params": { "height": "1" } },
        { "jsonrpc": "2.0", "id": "b", "method": "validators", "params": { "height": "1" } },
        { "jsonrpc": "2.0", "id": "c", "method": "none" },
    ]);
    let (_, reply) = post(url, None, batch.to_string()).await.expect("a reply");
    let replies: Vec<Value> = serde_json::from_slice(&reply).expect("an array");
    assert_eq!(replies.iter().map(|reply| &reply["id"]).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(replies[0]["result"]["signed_header"]["header"]["height"], "1");
    assert_eq!(replies[1]["result"]["total"], "4");
    assert_eq!(replies[2]["error"]["code"], -32601);
    devnet.shutdown().await;
}

#[tokio::test]
async fn celestia_serves_valid_headers_and_blobs_of_several_namespaces() {
    let devnet = standing_still(WorldConfig { rollups: 2, ..WorldConfig::default() }, 12).await;
    let url = &devnet.urls.celestia;
    let namespaces = devnet.world.with(|world| {
        let rollups = world.node_ids().iter().map(Namespace::of_rollup);
        std::iter::once(Namespace::of_sequencer(world.sequencer.chain_id())).chain(rollups).collect::<Vec<_>>()
    });
    let encoded: Vec<_> = namespaces.iter().map(|namespace| namespace.to_base64()).collect();
    let mut previous: Option<ExtendedHeader> = None;
    let (mut found, mut proven) = (0, 0);
    for height in 1..=12_u64 {
        let reply = json_rpc(url, "header.GetByHeight", json!([height])).await;
        let header: ExtendedHeader = serde_json::from_value(reply["result"].clone()).expect("an extended header");
        header.validate().expect("a valid header");
        if let Some(previous) = &previous {
            previous.verify_adjacent(&header).expect("the next header");
        }
        for (namespace, encoded) in namespaces.iter().zip(&encoded) {
            let reply = json_rpc(url, "share.GetNamespaceData", json!([height, encoded])).await;
            let data: NamespaceData = serde_json::from_value(reply["result"].clone()).expect("namespace data");
            let id = TheirNamespace::from_raw(namespace.as_bytes()).and_then(|id| NamespaceDataId::new(id, height));
            data.verify(id.expect("an id"), &header.dah).expect("all of the namespace");
            proven += data.rows().iter().filter(|row| !row.shares.is_empty()).count();
        }
        previous = Some(header);
        let reply = json_rpc(url, "blob.GetAll", json!([height, encoded])).await;
        let blobs: Option<Vec<celestia_types::Blob>> = serde_json::from_value(reply["result"].clone()).expect("blobs");
        assert_eq!(blobs.is_none(), height < 2, "nothing is published before the delay");
        let blobs = blobs.unwrap_or_default();
        for blob in &blobs {
            blob.validate().expect("a valid commitment");
        }
        let expected = devnet.world.with(|world| {
            let blobs = world.celestia.blobs(CelestiaHeight(height), &namespaces);
            blobs.map(|blobs| blobs.map(|blob| blob.data.to_vec()).collect::<Vec<_>>())
        });
        assert_eq!(Some(blobs.iter().map(|blob| blob.data.clone()).collect::<Vec<_>>()), expected);
        found += blobs.len();
    }
    assert!(found > 20, "{found} blobs");
    assert!(proven >= found, "{proven} rows with shares");
    let head = json_rpc(url, "header.NetworkHead", Value::Null).await;
    assert_eq!(head["result"]["header"]["height"], "12");
    let ahead = json_rpc(url, "blob.GetAll", json!([13, encoded])).await;
    assert_eq!(ahead["error"]["code"], 1);
    assert!(ahead["error"]["message"].as_str().is_some_and(|text| text.contains("from the future")));
    devnet.world.with(|world| world.celestia.prune(3));
    let gone = json_rpc(url, "header.GetByHeight", json!([2])).await;
    assert_eq!(gone["error"]["message"], "requested header (2) is below Tail (10)");
    devnet.shutdown().await;
}

#[tokio::test]
async fn celestia_wants_its_token() {
    let config = DevnetConfig { clock: false, celestia_token: Some("secret".to_owned()), ..DevnetConfig::default() };
    let devnet = Devnet::start(config).await.expect("free ports");
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "header.NetworkHead" }).to_string();
    for (token, status) in [(None, 401), (Some("other"), 401), (Some("secret"), 200)] {
        let (got, _) = post(&devnet.urls.celestia, token, body.clone()).await.expect("a reply");
        assert_eq!(got, status, "{token:?}");
    }
    devnet.shutdown().await;
}

#[tokio::test]
async fn ordered_faults_happen_and_end() {
    let devnet = standing_still(WorldConfig::default(), 2).await;
    let (execution, cometbft) = (&devnet.urls.executions[0], &devnet.urls.cometbft);
    let open = || grpc::<_, ExecutionSession>(execution, OPEN, CreateExecutionSessionRequest {});
    let denied = Failure::Grpc(Status::new(Code::PermissionDenied, "no"));
    devnet.hooks.executions[0].fail(Some("CreateExecutionSession"), 1, denied);
    devnet.hooks.executions[0].fail(None, 1, Failure::Http(502));
    assert_eq!(open().await.map_err(|status| status.code()), Err(tonic::Code::PermissionDenied));
    assert!(open().await.is_err());
    assert_eq!(open().await.expect("a session").session_id, "session-1");

    devnet.hooks.cometbft.fail(Some("status"), 1, Failure::Http(500));
    devnet.hooks.cometbft.fail(Some("commit"), 1, Failure::JsonRpc { code: -1, message: "busy".to_owned() });
    assert_eq!(json_rpc(cometbft, "commit", json!({})).await["error"]["message"], "busy");
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "status" }).to_string();
    let (status, _) = post(cometbft, None, body.clone()).await.expect("a reply");
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    devnet.hooks.cometbft.set_down(true);
    assert!(post(cometbft, None, body.clone()).await.is_none(), "the connection is closed");
    devnet.hooks.cometbft.heal();
    assert!(post(cometbft, None, body).await.is_some());
    assert_eq!(devnet.hooks.cometbft.count("status"), 2);
    devnet.shutdown().await;
}

#[tokio::test]
async fn going_down_cuts_what_is_connected() {
    let devnet = standing_still(WorldConfig::default(), 2).await;
    devnet.hooks.sequencer.delay(None, Duration::from_hours(1));
    let url = devnet.urls.sequencer_grpc.clone();
    let waiting = tokio::spawn(async move {
        let request = GetFilteredSequencerBlockRequest { height: 1, rollup_ids: Vec::new() };
        grpc::<_, FilteredSequencerBlock>(&url, FILTERED, request).await
    });
    while devnet.hooks.sequencer.count("GetFilteredSequencerBlock") == 0 {
        tokio::task::yield_now().await;
    }
    devnet.hooks.sequencer.set_down(true);
    assert!(waiting.await.expect("no panic").is_err());
    devnet.shutdown().await;
}

#[tokio::test]
async fn a_devnet_moves_by_itself_and_leaves_its_ports_behind() {
    let world = WorldConfig {
        block_time: Duration::from_millis(5),
        celestia_block_time: Duration::from_millis(10),
        da_delay: Duration::from_millis(10),
        ..WorldConfig::default()
    };
    let devnet = Devnet::start(DevnetConfig { world, ..DevnetConfig::default() }).await.expect("free ports");
    let published = || devnet.world.with(|world| world.relayer.next() > SequencerHeight(10));
    tokio::time::timeout(Duration::from_secs(30), async {
        while !published() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("ten blocks are published in time");
    let address = devnet.urls.celestia.trim_start_matches("http://").to_owned();
    devnet.shutdown().await;
    TcpListener::bind(&address).await.expect("the port is free again");
}

#[tokio::test]
async fn preencoded_replies_are_those_of_the_models() {
    let devnet = standing_still(WorldConfig::default(), 8).await;
    let (preencoded, id) = devnet.world.with(|world| {
        let id = world.node_ids()[0];
        (Preencoded::new(world, &[id]), id)
    });
    let mut urls = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        urls.push(format!("http://{}", listener.local_addr().expect("bound")));
        let (it, never) = (preencoded.clone(), std::future::pending());
        match urls.len() {
            1 => drop(tokio::spawn(it.serve_sequencer(listener, Hooks::default(), never))),
            2 => drop(tokio::spawn(it.serve_cometbft(listener, Hooks::default(), never))),
            _ => drop(tokio::spawn(it.serve_celestia(listener, Hooks::default(), never))),
        }
    }
    for height in 1..=devnet.world.with(|world| world.sequencer.head().0) {
        let request = || GetFilteredSequencerBlockRequest { height, rollup_ids: vec![wire_id(&id)] };
        let live: FilteredSequencerBlock = grpc(&devnet.urls.sequencer_grpc, FILTERED, request()).await.expect("live");
        assert_eq!(grpc::<_, FilteredSequencerBlock>(&urls[0], FILTERED, request()).await.ok(), Some(live));
        for method in ["commit", "validators", "block"] {
            let params = json!({ "height": height.to_string() });
            let live = json_rpc(&devnet.urls.cometbft, method, params.clone()).await;
            assert_eq!(json_rpc(&urls[1], method, params).await, live);
        }
    }
    let namespaces = devnet.world.with(|world| {
        [Namespace::of_sequencer(world.sequencer.chain_id()), Namespace::of_rollup(&id)].map(Namespace::to_base64)
    });
    for height in 1..=8 {
        let params = json!([height, namespaces]);
        let live = json_rpc(&devnet.urls.celestia, "blob.GetAll", params.clone()).await;
        assert_eq!(json_rpc(&urls[2], "blob.GetAll", params).await, live);
    }
    let live = json_rpc(&devnet.urls.celestia, "header.NetworkHead", Value::Null).await;
    assert_eq!(json_rpc(&urls[2], "header.NetworkHead", Value::Null).await, live);
    devnet.shutdown().await;
}
