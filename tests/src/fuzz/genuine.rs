//! Genuine blocks out of the conformance vectors: what a forgery is to be compared with, and what seeds are made of.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use downbeat_core::{
    Job, JobOutcome, Limits, RollupId, SequencerHeight, Timestamp, Verified,
    gossip::{MakeGossip, Message},
    light::{self, Check, Options},
    sequencer::{
        BoundMetadata, RollupRecord, SequencedBlock, TrustedHeader, UnverifiedMetadata, ValidatorSet,
        verify_signed_header,
    },
};
use serde_json::Value;
use tendermint::{
    block::{Commit, Header, signed_header::SignedHeader},
    validator,
};

/// A file of the vectors.
pub(super) fn read(file: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn read_json(file: &str) -> Value {
    serde_json::from_slice(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The names of the vectors' files in one directory, in order.
pub(super) fn files(directory: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(directory);
    let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("a readable directory").file_name().to_string_lossy().into_owned())
        .map(|name| format!("{directory}/{name}"))
        .collect();
    names.sort();
    names
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn hash(value: &Value) -> [u8; 32] {
    hex::decode(text(value)).expect("hex").try_into().expect("32 bytes")
}

/// A block that the vectors' validators committed.
#[derive(Debug)]
pub(super) struct GenuineBlock {
    pub(super) chain_id: String,
    pub(super) rollup: RollupId,
    pub(super) header: Verified<TrustedHeader>,
    pub(super) transactions: Vec<Bytes>,
    pub(super) filtered: Bytes,
    pub(super) metadata: Bytes,
    pub(super) rollup_data: Option<Bytes>,
    pub(super) bound: Verified<BoundMetadata>,
    /// The block of `rollup`, as Celestia gives it.
    pub(super) block: Verified<SequencedBlock>,
    /// What peers tell each other about it, and the moment of the block.
    pub(super) messages: Vec<Message>,
    pub(super) at: Timestamp,
}

/// All blocks of the vectors' chains.
pub(super) static BLOCKS: LazyLock<Vec<GenuineBlock>> = LazyLock::new(|| {
    let index = read_json("index.json");
    let chains = index["chains"].as_object().expect("an object");
    let blocks = |chain: &Value| chain["blocks"].as_array().expect("a list").clone();
    chains.values().flat_map(|chain| blocks(chain).into_iter().map(|block| GenuineBlock::load(chain, &block))).collect()
});

impl GenuineBlock {
    fn load(chain: &Value, block: &Value) -> Self {
        let limits = Limits::default();
        let chain_id = text(&chain["sequencer_chain_id"]).to_owned();
        let rollup = RollupId(hash(&chain["rollup_id"]));
        let name = |kind: &str| block["files"][kind].as_str();
        let file = |kind: &str| Bytes::from(read(name(kind).expect("a file")));
        let json = |kind: &str| read_json(name(kind).expect("a file"));
        let height = SequencerHeight(block["height"].as_u64().expect("a height"));

        let commit = json("commit");
        let header: Header = serde_json::from_value(commit["signed_header"]["header"].clone()).expect("a header");
        let commit: Commit = serde_json::from_value(commit["signed_header"]["commit"].clone()).expect("a commit");
        let signed = SignedHeader::new(header, commit).expect("a signed header");
        let set: Vec<validator::Info> =
            serde_json::from_value(json("validators")["validators"].clone()).expect("validators");
        let set = ValidatorSet::new(set, limits.validators).expect("a set");
        let header = verify_signed_header(&signed, &set, &chain_id, height).expect("a committed header");

        let items = json("block")["block"]["data"]["txs"].as_array().expect("a list").clone();
        let transactions: Vec<Bytes> =
            items.iter().map(|item| STANDARD.decode(text(item)).expect("base64").into()).collect();
        let metadata = file("submitted_metadata");
        let bound = UnverifiedMetadata::decode(&metadata, &limits)
            .expect("metadata")
            .bind(&header, Some(&transactions))
            .expect("genuine metadata");
        let rollup_data = name("submitted_rollup_data").map(|name| Bytes::from(read(name)));
        let block = match &rollup_data {
            Some(data) => bound.block_with(&RollupRecord::decode(data, &limits).expect("a record")),
            None => bound.empty_block(&rollup),
        };
        let block = block.expect("a block");
        let filtered = file("filtered_block");
        let at = Timestamp(u64::try_from(signed.header.time.unix_timestamp_nanos()).expect("after 1970"));
        let root = Check::Root { chain_id: chain_id.clone(), hash: header.hash() };
        let light = light::verify(&root, height.0, &signed, &Arc::new(set), &Options::default(), at);
        let job = MakeGossip {
            block: filtered.clone(),
            light: Box::new(light.expect("a committed header")),
            transactions: Some(transactions.clone()),
            limits: Arc::default(),
        };
        let JobOutcome::Messages(messages) = Job::MakeGossip(Box::new(job)).run() else { panic!("no messages") };
        Self { chain_id, rollup, header, transactions, filtered, metadata, rollup_data, bound, block, messages, at }
    }
}
