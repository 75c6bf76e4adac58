//! What a CometBFT node may answer, through the real client.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use downbeat::{cometbft::CometBft, json_rpc::JsonRpcError};
use downbeat_core::{
    SequencerHeight,
    sequencer::{ValidatorSet, header_hash},
};
use serde_json::Value;
use tendermint::block::{Header, signed_header::SignedHeader};

use super::peer::{Peer, Script, block_on, check_error, depth, only_result, pieces};

/// Bytes of one answer.
const BODY_MAX: usize = 16 << 10;

/// Validators in one set.
const VALIDATORS_MAX: usize = 150;

/// The first byte says what is asked for, the second one how much of the answer comes from the input and, for single
/// heights, which one is asked for.
pub fn cometbft_json(data: &[u8]) {
    let [method, how, rest @ ..] = data else { return };
    let script = Script { depth: depth(*how), pieces: pieces(rest) };
    let height = SequencerHeight(u64::from(how >> 3));
    let only = only_result(&script).filter(is_by_name);
    let peer = Peer::new(script);
    let client = CometBft::new(peer.client(BODY_MAX), VALIDATORS_MAX, None);
    let result = block_on(async {
        match method % 6 {
            0 => client.chain_id().await.map(|chain_id| judge_chain_id(&chain_id, only.as_ref())),
            1 => client.head().await.map(|head| judge_head(head, only.as_ref())),
            2 => client.signed_header(height).await.map(|signed| judge_signed_header(&signed, height, only.as_ref())),
            3 => {
                let last = height.plus(5);
                client.headers(height, last).await.map(|headers| judge_headers(&headers, height, last, only.as_ref()))
            }
            4 => client.validators(height).await.map(|set| {
                let length = set.len();
                assert!((1..=VALIDATORS_MAX).contains(&length), "{length} validators");
                assert!(peer.requests() <= length, "{} requests for {length} validators", peer.requests());
                if let Ok(set) = ValidatorSet::new(set, VALIDATORS_MAX) {
                    assert_ne!(set.hash(), [0; 32]);
                }
            }),
            _ => client.block_transactions(height).await.map(|items| {
                let Some(value) = &only else { return };
                let expected = value["block"]["data"]["txs"].as_array().cloned().unwrap_or_default();
                let expected =
                    expected.iter().map(|item| STANDARD.decode(item.as_str().expect("text")).expect("base64"));
                assert!(items.into_iter().map(Vec::from).eq(expected));
                assert_eq!(number(&value["block"]["header"]["height"]), Some(height.0));
            }),
        }
    });
    assert!(peer.requests() <= VALIDATORS_MAX + 1, "{} requests", peer.requests());
    if let Err(error) = result {
        check_error(&error);
        let may_have_status = !matches!(error, JsonRpcError::Invalid { .. }) || method % 6 >= 2;
        assert!(may_have_status, "nothing was asked for that could be answered wrongly: {error:?}");
    }
}

/// Whether what is looked at stands in objects. The client also takes lists of their fields, which says nothing wrong.
fn is_by_name(value: &Value) -> bool {
    let outer = ["genesis", "node_info", "sync_info", "response", "signed_header", "block"];
    let inner = ["header", "commit", "data"];
    let is_list = |name: &&str| value[name].is_array() || inner.iter().any(|inner| value[name][inner].is_array());
    value.is_object() && !outer.iter().any(is_list)
}

/// A number, or its digits as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn judge_chain_id(chain_id: &str, only: Option<&Value>) {
    if let Some(value) = only {
        let sources = [&value["genesis"]["chain_id"], &value["node_info"]["network"]];
        assert!(sources.iter().any(|source| source.as_str() == Some(chain_id)), "{chain_id:?} of {value}");
    }
}

fn judge_head(head: SequencerHeight, only: Option<&Value>) {
    if let Some(value) = only {
        let height = &value["response"]["last_block_height"];
        let sources = [height, &value["sync_info"]["latest_block_height"]];
        let is_absent = height.is_null() && head.0 == 0;
        assert!(is_absent || sources.iter().any(|source| number(source) == Some(head.0)), "{head} of {value}");
    }
}

fn judge_signed_header(signed: &SignedHeader, height: SequencerHeight, only: Option<&Value>) {
    assert_eq!((signed.header.height.value(), signed.commit.height.value()), (height.0, height.0));
    judge_header(&signed.header);
    if let Some(value) = only {
        assert_eq!(number(&value["signed_header"]["header"]["height"]), Some(height.0));
        let votes = value["signed_header"]["commit"]["signatures"].as_array().map(Vec::len);
        assert_eq!(votes.unwrap_or_default(), signed.commit.signatures.len());
    }
}

fn judge_headers(headers: &[Header], first: SequencerHeight, last: SequencerHeight, only: Option<&Value>) {
    for header in headers {
        assert!((first.0..=last.0).contains(&header.height.value()));
        judge_header(header);
    }
    if let Some(value) = only {
        let metas = value["block_metas"].as_array().map_or(0, Vec::len);
        assert!(headers.len() <= metas, "{} headers out of {metas}", headers.len());
    }
}

/// What was read is written and read again without loss, and has the hash that tendermint gives it.
fn judge_header(header: &Header) {
    let written = serde_json::to_value(header).expect("JSON");
    let again: Header = serde_json::from_value(written).expect("what was written can be read");
    assert_eq!(&again, header);
    assert_eq!(header_hash(header).0.as_slice(), header.hash().as_bytes());
}
