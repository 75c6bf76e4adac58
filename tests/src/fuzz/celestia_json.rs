//! What a Celestia node may answer, through the real client.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use downbeat::{
    celestia::{Blobs, Celestia},
    json_rpc::JsonRpcError,
};
use downbeat_core::{
    CelestiaHeight, Limits, RollupId, Timestamp, Verified,
    celestia::{ExpectedBlock, Namespace, prove_block, square::SHARE_LEN},
    event::CelestiaHead,
    light::{self, Check, HeaderId, Options, SignedBlock},
    sequencer::ValidatorSet,
};
use serde_json::Value;

use super::{
    genuine::BLOCKS,
    peer::{Depth, Peer, Script, block_on, check_error, depth, only_result, pieces},
};

/// Bytes of one answer.
const BODY_MAX: usize = 16 << 10;

/// The first byte says what is asked for, the second one how much of the answer comes from the input.
pub fn celestia_json(data: &[u8]) {
    let [method, how, rest @ ..] = data else { return };
    if method & 3 == 2 {
        return whole_namespaces(*how, rest);
    }
    let script = Script { depth: depth(*how), pieces: pieces(rest) };
    let only = only_result(&script);
    let is_too_large = script.depth == Depth::Body && script.pieces[0].len() > BODY_MAX;
    let peer = Peer::new(script);
    let client = Celestia::new(peer.client(BODY_MAX));
    let namespaces = [
        Namespace::of_sequencer(&BLOCKS[0].chain_id),
        Namespace::of_rollup(&BLOCKS[0].rollup),
        Namespace::of_rollup(&RollupId([7; 32])),
    ];
    let result = block_on(async {
        if method & 1 == 0 {
            client
                .blobs(CelestiaHeight(7), &namespaces)
                .await
                .map(|found| judge_blobs(&found, &namespaces, only.as_ref()))
        } else {
            client.head().await.map(|head| judge_head(&head, only.as_ref()))
        }
    });
    assert_eq!(peer.requests(), 1, "a client neither asks again nor keeps silent");
    assert_eq!(is_too_large, matches!(result, Err(JsonRpcError::TooLarge { .. })));
    if let Err(error) = result {
        check_error(&error);
        assert!(!matches!(error, JsonRpcError::Invalid { .. }), "{error:?}");
    }
}

/// Header first, then each namespace: an answer of its own for each request.
fn whole_namespaces(how: u8, rest: &[u8]) {
    let script = Script { depth: depth(how), pieces: pieces(rest) };
    let results: Option<Vec<Value>> = match script.depth {
        Depth::Result => script.pieces.iter().map(|piece| serde_json::from_slice(piece).ok()).collect(),
        _ => None,
    };
    let peer = Peer::new(script);
    let client = Celestia::new(peer.client(BODY_MAX));
    let namespaces = vec![Namespace::of_rollup(&RollupId([1; 32])), Namespace::of_rollup(&RollupId([2; 32]))];
    let result = block_on(client.namespaces(CelestiaHeight(7), &namespaces));
    assert!((1..=3).contains(&peer.requests()), "{} requests", peer.requests());
    let block = match result {
        Ok(block) => block,
        Err(error) => return check_error(&error),
    };
    assert!(block.namespaces.iter().map(|received| &received.namespace).eq(&namespaces));
    if let Some(results) = results {
        for (place, received) in (1..).zip(&block.namespaces) {
            let rows = results.get(place).or(results.last()).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            assert_eq!(received.rows.len(), rows.len());
            for (row, sent) in received.rows.iter().zip(rows) {
                // The client also takes lists of an object's fields.
                let shares = sent["shares"].as_array().map_or(&[][..], Vec::as_slice);
                assert!(!sent.is_object() || row.shares.len() == shares.len(), "{sent}");
            }
        }
    }
    let Some(trusted) = trusted(&block.signed) else { return };
    let expected = ExpectedBlock { header: trusted, namespaces };
    if let Ok(proven) = prove_block(&block, &expected, &Limits::default()) {
        let data_hash = block.signed.signed_header.header.data_hash.unwrap_or_default();
        assert_eq!(block.availability.hash(), data_hash.as_bytes(), "proven against other roots");
        for (proven, received) in proven.namespaces.iter().zip(&block.namespaces) {
            let shares: usize = received.rows.iter().map(|row| row.shares.len()).sum();
            let bytes: usize = proven.blobs.iter().map(Bytes::len).sum();
            assert!(bytes <= shares * SHARE_LEN, "{bytes} bytes out of {shares} shares");
        }
    }
}

/// The header as the first one of a light client, if its own validators committed to it.
fn trusted(block: &SignedBlock) -> Option<Verified<HeaderId>> {
    let SignedBlock { signed_header, validators } = block;
    let header = &signed_header.header;
    let set = Arc::new(ValidatorSet::new(validators.clone(), 100).ok()?);
    let check = Check::FirstUse { chain_id: header.chain_id.to_string() };
    let now = Timestamp(u64::try_from(header.time.unix_timestamp_nanos()).ok()?);
    let trusted = light::verify(&check, header.height.value(), signed_header, &set, &Options::default(), now).ok()?;
    trusted.ids().next()
}

fn judge_blobs(found: &Blobs, namespaces: &[Namespace], only: Option<&Value>) {
    assert!(found.blobs.iter().all(|blob| namespaces.contains(&blob.namespace)));
    let Some(value) = only else { return };
    let elements = value.as_array().map_or(&[][..], Vec::as_slice);
    // The client also takes lists of an object's fields, which says nothing wrong.
    if elements.iter().any(Value::is_array) {
        return;
    }
    // Each element is a blob of ours, one of others, or none at all; an ordinary parser overlooks repeated fields, so
    // what it reads may have been unreadable.
    let mut unreadable = found.unreadable as usize;
    let mut blobs = found.blobs.iter().peekable();
    for element in elements {
        let bytes = |field: &str| element[field].as_str().and_then(|text| STANDARD.decode(text).ok());
        let namespace = bytes("namespace").and_then(|bytes| bytes.try_into().ok()).map(Namespace::from_bytes);
        match (namespace, bytes("data")) {
            (Some(namespace), Some(data)) if namespaces.contains(&namespace) => {
                if blobs.next_if(|blob| blob.namespace == namespace && blob.data == data).is_none() {
                    assert!(unreadable > 0, "{element} was left out");
                    unreadable -= 1;
                }
            }
            (Some(_), Some(_)) => {}
            _ => {
                assert!(unreadable > 0, "{element} is no blob");
                unreadable -= 1;
            }
        }
    }
    assert_eq!(blobs.next(), None, "a blob that nobody sent");
    assert!(found.blobs.len() + found.unreadable as usize <= elements.len());
}

fn judge_head(head: &CelestiaHead, only: Option<&Value>) {
    let Some(header) = only.map(|value| &value["header"]).filter(|header| header.is_object()) else { return };
    assert_eq!(header["chain_id"].as_str(), Some(head.chain_id.as_str()));
    let height = &header["height"];
    assert_eq!(height.as_u64().or_else(|| height.as_str()?.parse().ok()), Some(head.height.0));
    // Nanoseconds since 1970 fit until 2554.
    let year: u64 =
        header["time"].as_str().and_then(|time| time.get(..4)).map_or(0, |year| year.parse().expect("a year"));
    assert!((1969..=2555).contains(&year), "{year}");
    let seconds_in_year = head.time.0 / 1_000_000_000 / 31_556_952 + 1970;
    assert!(seconds_in_year.abs_diff(year) <= 1, "{} in {year}", head.time);
}
