//! Conformance: generated chains, inputs that must be refused, and data of public networks, all through the functions
//! that production uses. `vectors/index.json` says what each file holds.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use downbeat_core::{
    BlockHash, Limits, RollupId, SequencerHeight, Timestamp, Verified,
    celestia::{self, BlobError, Namespace},
    inspect,
    light::{self, Client, Wish},
    merkle,
    sequencer::{
        self, BoundMetadata, CommitError, LinkError, RollupRecord, SequencedBlock, SoftBlock, SoftBlockRequest,
        TrustedHeader, UnverifiedMetadata, ValidatorSet, price_feed,
    },
    wire::proto::astria::primitive::v1 as primitive,
};
use prost::Message as _;
use serde_json::{Value, json};
use tendermint::{
    block::{Commit, Header, signed_header::SignedHeader},
    crypto::{Sha256 as _, default::Sha256},
    validator,
};

fn read(file: &str) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

fn read_json(file: &str) -> Value {
    serde_json::from_slice(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn unhex(value: &Value) -> Bytes {
    hex::decode(text(value)).expect("hex").into()
}

fn hash(value: &Value) -> [u8; 32] {
    unhex(value).as_ref().try_into().expect("32 bytes")
}

fn limits() -> Limits {
    Limits::default()
}

/// One of the generated chains.
struct Chain {
    name: String,
    value: Value,
}

fn chains() -> Vec<Chain> {
    let index = read_json("index.json");
    let chains = index["chains"].as_object().expect("an object");
    chains.iter().map(|(name, value)| Chain { name: name.clone(), value: value.clone() }).collect()
}

fn chain(name: &str) -> Chain {
    chains().into_iter().find(|chain| chain.name == name).expect("the chain is there")
}

impl Chain {
    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        list(&self.value["blocks"]).iter().map(|value| Block { chain: self, value })
    }

    fn block(&self, height: u64) -> Block<'_> {
        self.blocks().find(|block| block.height().0 == height).expect("the block is there")
    }

    fn id(&self) -> &str {
        text(&self.value["sequencer_chain_id"])
    }

    /// The rollup whose execution the index describes.
    fn rollup(&self) -> RollupId {
        RollupId(hash(&self.value["rollup_id"]))
    }
}

#[derive(Clone, Copy)]
struct Block<'a> {
    chain: &'a Chain,
    value: &'a Value,
}

impl Block<'_> {
    fn name(&self) -> String {
        format!("{} block {}", self.chain.name, self.height())
    }

    fn height(&self) -> SequencerHeight {
        SequencerHeight(number(&self.value["height"]))
    }

    fn hash(&self) -> BlockHash {
        BlockHash(hash(&self.value["block_hash"]))
    }

    fn file(&self, kind: &str) -> Bytes {
        read(text(&self.value["files"][kind]))
    }

    fn header(&self) -> Verified<TrustedHeader> {
        let signed = signed_header(&read_json(text(&self.value["files"]["commit"])));
        let set = validator_set(&read_json(text(&self.value["files"]["validators"])));
        sequencer::verify_signed_header(&signed, &set, self.chain.id(), self.height())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    fn transactions(&self) -> Vec<Bytes> {
        let block = read_json(text(&self.value["files"]["block"]));
        let transactions = list(&block["block"]["data"]["txs"]);
        transactions.iter().map(|item| STANDARD.decode(text(item)).expect("base64").into()).collect()
    }

    fn metadata(&self) -> UnverifiedMetadata {
        UnverifiedMetadata::decode(&self.file("submitted_metadata"), &limits())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    /// As a node binds it: with the block's data items only if there is no other way.
    fn bound(&self) -> Verified<BoundMetadata> {
        let header = self.header();
        let metadata = self.metadata();
        metadata
            .bind(&header, None)
            .or_else(|refusal| {
                assert!(refusal.needs_transactions(), "{}: {refusal}", self.name());
                metadata.bind(&header, Some(&self.transactions()))
            })
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    fn request(&self, rollups: &[RollupId]) -> SoftBlockRequest {
        SoftBlockRequest { height: self.height(), chain_id: self.chain.id().to_owned(), rollup_ids: rollups.to_vec() }
    }

    fn soft(&self) -> SoftBlock {
        let request = self.request(&[self.chain.rollup()]);
        sequencer::verify_filtered_block(&self.file("filtered_block"), &request, &limits())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    /// The block of our rollup out of what Celestia holds.
    fn firm(&self) -> Verified<SequencedBlock> {
        let (bound, rollup) = (self.bound(), self.chain.rollup());
        let block = if bound.lists(&rollup) {
            let record = RollupRecord::decode_for(&self.file("submitted_rollup_data"), &[rollup], &limits())
                .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
                .expect("our rollup's");
            bound.block_with(&record)
        } else {
            bound.empty_block(&rollup)
        };
        block.unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    fn assert_executes(&self, block: &SequencedBlock, path: &str) {
        let name = format!("{} {path}", self.name());
        let transactions: Vec<_> =
            block.transactions().iter().map(|transaction| hex::encode(transaction.encode_to_vec())).collect();
        let expected: Vec<_> = list(&self.value["execution_transactions"]).iter().map(text).collect();
        assert_eq!(transactions, expected, "{name}");
        assert_eq!((block.height(), block.block_hash()), (self.height(), self.hash()), "{name}");
        let time = &self.value["time"];
        assert_eq!(
            (block.time().seconds, i64::from(block.time().nanos)),
            (time["seconds"].as_i64().expect("seconds"), time["nanos"].as_i64().expect("nanos")),
            "{name}"
        );
    }
}

/// Header and commit out of a CometBFT `commit` reply or a Celestia header.
fn signed_header(value: &Value) -> SignedHeader {
    let value = value.get("signed_header").unwrap_or(value);
    parse_signed_header(&value["header"], &value["commit"]).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn parse_signed_header(header: &Value, commit: &Value) -> Result<SignedHeader, String> {
    let mut commit = commit.clone();
    if let Some(height) = commit["height"].as_u64() {
        // A number in Celestia's headers.
        commit["height"] = Value::String(height.to_string());
    }
    let header: Header = serde_json::from_value(header.clone()).map_err(|error| error.to_string())?;
    let commit: Commit = serde_json::from_value(commit).map_err(|error| error.to_string())?;
    SignedHeader::new(header, commit).map_err(|error| error.to_string())
}

fn validator_set(value: &Value) -> ValidatorSet {
    let validators: Vec<validator::Info> = serde_json::from_value(value["validators"].clone()).expect("validators");
    ValidatorSet::new(validators, limits().validators).expect("a validator set")
}

fn proof(value: &Value) -> primitive::Proof {
    let path: Vec<u8> = list(&value["audit_path"]).iter().flat_map(unhex).collect();
    primitive::Proof {
        audit_path: path.into(),
        leaf_index: number(&value["leaf_index"]),
        tree_size: number(&value["tree_size_on_the_wire"]),
    }
}

#[test]
fn every_header_is_hashed_and_committed() {
    for chain in chains() {
        for block in chain.blocks() {
            let header = block.header();
            assert_eq!((header.hash(), header.height()), (block.hash(), block.height()), "{}", block.name());
            let expected = &block.value["cometbft_data_hash"];
            assert_eq!(header.header().data_hash.expect("data").as_bytes(), hash(expected), "{}", block.name());
            let set = validator_set(&read_json(text(&block.value["files"]["validators"])));
            assert_eq!(set.hash(), hash(&block.value["validators_hash"]), "{}", block.name());
        }
    }
}

#[test]
fn every_proof_and_root_follows() {
    for chain in chains() {
        for block in chain.blocks() {
            let name = block.name();
            let mut proofs = vec![&block.value["rollup_transactions_proof"], &block.value["rollup_ids_proof"]];
            proofs.extend(Some(&block.value["extended_commit_info_proof"]).filter(|value| !value.is_null()));
            let mut leaves = Vec::new();
            for rollup in list(&block.value["rollups"]) {
                let root = merkle::root_of(list(&rollup["transactions"]).iter().map(unhex));
                assert_eq!(root, hash(&rollup["transactions_root"]), "{name}");
                leaves.push([hash(&rollup["rollup_id"]), root].concat());
                proofs.push(&rollup["proof"]);
            }
            assert_eq!(merkle::root_of(&leaves), hash(&block.value["rollup_transactions_root"]), "{name}");
            let tree = merkle::Tree::new(&leaves);
            for (index, rollup) in list(&block.value["rollups"]).iter().enumerate() {
                assert_eq!(tree.proof(index).map(|made| made.to_wire()), Some(proof(&rollup["proof"])), "{name}");
            }
            let ids = list(&block.value["rollup_ids"]);
            assert_eq!(merkle::root_of(ids.iter().map(unhex)), hash(&block.value["rollup_ids_root"]), "{name}");
            for value in proofs {
                let decoded = merkle::Proof::from_wire(&proof(value)).unwrap_or_else(|e| panic!("{name}: {e}"));
                let leaf = unhex(&value["leaf_preimage"]);
                assert_eq!(decoded.leaf_count(), number(&value["leaves"]), "{name}");
                assert_eq!(merkle::leaf_hash(&leaf), hash(&value["leaf_hash"]), "{name}");
                assert_eq!(decoded.verify(&leaf, &hash(&value["leads_to"])), Ok(()), "{name}");
            }
        }
    }
}

#[test]
fn soft_and_firm_paths_give_what_is_to_be_executed() {
    for chain in chains() {
        for block in chain.blocks() {
            let soft = block.soft();
            assert_eq!((soft.height(), soft.block_hash()), (block.height(), block.hash()), "{}", block.name());
            let soft = &soft.blocks()[&chain.rollup()];
            block.assert_executes(soft, "soft");
            let firm = block.firm();
            block.assert_executes(&firm, "firm");
            assert_eq!(soft.content(), firm.content(), "{}", block.name());
        }
    }
}

#[test]
fn transactions_are_needed_only_where_the_record_cannot_tell() {
    for chain in chains() {
        for block in chain.blocks() {
            let needed = block.metadata().bind(&block.header(), None).is_err();
            let upgrade = !list(&block.value["upgrade_change_hashes"]).is_empty();
            // Today's format without commit info: it might have been left out.
            let unsure = block.value["extended_commit_info"].is_null()
                && block.value["astria_data_hash"] != block.value["cometbft_data_hash"];
            assert_eq!(needed, upgrade || unsure, "{}", block.name());
            let with = block.metadata().bind(&block.header(), Some(&block.transactions()));
            assert!(with.is_ok(), "{}: {with:?}", block.name());
        }
    }
}

#[test]
fn records_bind_to_no_other_block() {
    for chain in chains() {
        for block in chain.blocks() {
            for other in chain.blocks().filter(|other| other.height() != block.height()) {
                let refusal = block.metadata().bind(&other.header(), None).expect_err("another block");
                assert!(!refusal.needs_transactions(), "{} to {}: {refusal}", block.name(), other.name());
            }
        }
    }
}

#[test]
fn commit_info_cannot_be_left_out_by_moving_its_hash_into_the_proofs() {
    use downbeat_core::wire::proto::astria::sequencerblock::v1::SubmittedMetadata;
    // Given a block with commit info as its third item,
    let chain = chain("current");
    let block = chain.block(5);
    let transactions = block.transactions();
    let mut forged = SubmittedMetadata::decode(block.file("submitted_metadata")).expect("metadata");
    // when somebody drops the info and proves the roots in a tree made of the committed items,
    let header = forged.header.as_mut().expect("a header");
    let ids: Vec<_> = forged.rollup_ids.iter().map(|id| &id.inner).collect();
    let items = [header.rollup_transactions_root.clone(), Bytes::copy_from_slice(&merkle::root_of(ids))];
    let tree = merkle::Tree::new(items.iter().chain(&transactions[2..]).map(Sha256::digest));
    header.data_hash = Bytes::copy_from_slice(&tree.root());
    forged.rollup_transactions_proof = tree.proof(0).map(|proof| proof.to_wire());
    forged.rollup_ids_proof = tree.proof(1).map(|proof| proof.to_wire());
    forged.extended_commit_info_with_proof = None;
    // then the record is consistent in itself, but it does not bind, with or without the block's items.
    let forged = UnverifiedMetadata::decode(&forged.encode_to_vec().into(), &limits()).expect("consistent");
    let refusal = forged.bind(&block.header(), None).expect_err("nothing covers the third item");
    assert!(refusal.needs_transactions(), "{refusal}");
    let refusal = forged.bind(&block.header(), Some(&transactions)).expect_err("the info is in the block");
    assert_eq!(refusal.to_string(), "the committed block has extended commit info, the record has none");
}

#[test]
fn a_listed_rollup_must_come_with_its_data() {
    for chain in chains() {
        let rollup = chain.rollup();
        for block in chain.blocks() {
            let listed = block.metadata().lists(&rollup);
            let request = block.request(&[rollup]);
            let verified = sequencer::verify_filtered_block(&block.file("filtered_block_no_ids"), &request, &limits());
            assert_eq!(verified.is_err(), listed, "{}: {verified:?}", block.name());
            // A rollup that nobody has heard of has an empty block.
            let stranger = RollupId([0xee; 32]);
            let request = block.request(&[stranger, rollup]);
            let soft = sequencer::verify_filtered_block(&block.file("filtered_block"), &request, &limits());
            let soft = soft.unwrap_or_else(|error| panic!("{}: {error}", block.name()));
            assert_eq!(soft.blocks().len(), 2, "{}", block.name());
            let empty = block.bound().empty_block(&stranger).expect("not listed");
            assert_eq!(soft.blocks()[&stranger], empty, "{}", block.name());
        }
    }
}

#[test]
fn a_filtered_block_answers_only_what_was_asked() {
    let chain = chain("current");
    let (block, limits) = (chain.block(5), limits());
    let bytes = block.file("filtered_block");
    let request = block.request(&[chain.rollup()]);
    let other_height = SoftBlockRequest { height: SequencerHeight(6), ..request.clone() };
    let other_chain = SoftBlockRequest { chain_id: "another".to_owned(), ..request.clone() };
    for wrong in [other_height, other_chain] {
        assert!(sequencer::verify_filtered_block(&bytes, &wrong, &limits).is_err(), "{wrong:?}");
    }
    let small = Limits { soft_block_bytes: bytes.len() - 1, ..limits };
    assert!(sequencer::verify_filtered_block(&bytes, &request, &small).is_err());
}

#[test]
fn every_submission_decodes() {
    for chain in chains() {
        assert_eq!(Namespace::of_sequencer(chain.id()).to_string(), text(&chain.value["sequencer_namespace"]));
        assert_eq!(Namespace::of_rollup(&chain.rollup()).to_string(), text(&chain.value["rollup_namespace"]));
        let mut ours = BTreeMap::new();
        for submission in list(&chain.value["submissions"]) {
            for blob in list(&submission["blobs"]) {
                let name = text(&blob["brotli"]);
                let data = read(name);
                assert_eq!(celestia::unpack(&data, &limits()), Ok(read(text(&blob["raw"]))), "{name}");
                if text(&blob["message"]) == "SubmittedMetadataList" {
                    let decoded = celestia::decode_metadata(&data, &limits()).expect(name);
                    assert_eq!((decoded.dropped_total, decoded.foreign), (0, 0), "{name}: {:?}", decoded.dropped);
                    let heights: Vec<_> = decoded.entries.iter().map(|entry| entry.height().0).collect();
                    let expected: Vec<_> = list(&submission["sequencer_heights"]).iter().map(number).collect();
                    assert_eq!(heights, expected, "{name}");
                    for entry in decoded.entries {
                        assert_eq!(entry, chain.block(entry.height().0).metadata(), "{name}");
                    }
                } else {
                    let decoded = celestia::decode_rollup_data(&data, &[chain.rollup()], &limits()).expect(name);
                    assert_eq!(decoded.dropped_total, 0, "{name}: {:?}", decoded.dropped);
                    let is_ours = blob["namespace"] == chain.value["rollup_namespace"];
                    assert_eq!(decoded.foreign == 0, is_ours, "{name}");
                    ours.extend(decoded.entries.into_iter().map(|entry| (entry.block_hash(), entry)));
                }
            }
        }
        for block in chain.blocks().filter(|block| block.metadata().lists(&chain.rollup())) {
            let record = RollupRecord::decode(&block.file("submitted_rollup_data"), &limits()).expect("a record");
            assert_eq!(ours.get(&block.hash()), Some(&record), "{}", block.name());
        }
    }
}

#[test]
fn one_bad_entry_drops_only_itself() {
    let chain = chain("current");
    let good = chain.block(5).file("submitted_metadata");
    let bad = read("refuse/SubmittedMetadata-wrong-root.bin");
    let list = primitive_list(&[&good, &bad, &good]);
    let decoded = celestia::decode_metadata(&pack(&list), &limits()).expect("a list");
    assert_eq!((decoded.entries.len(), decoded.dropped_total), (2, 1));
    assert_eq!(decoded.dropped[0].0, 1);
    let good = chain.block(5).file("submitted_rollup_data");
    let bad = read("refuse/SubmittedRollupData-no-proof.bin");
    let decoded = celestia::decode_rollup_data(&pack(&primitive_list(&[&bad, &good])), &[chain.rollup()], &limits());
    let decoded = decoded.expect("a list");
    assert_eq!((decoded.entries.len(), decoded.dropped_total), (1, 1));
}

/// Entries as field 1 of a list.
fn primitive_list(entries: &[&Bytes]) -> Vec<u8> {
    let mut list = Vec::new();
    for entry in entries {
        prost::encoding::bytes::encode(1, *entry, &mut list);
    }
    list
}

/// A brotli stream of one uncompressed meta-block, so that no compressor is needed: window of 16 bits, one byte less
/// than the length in 16 bits, no compression, and an empty last meta-block.
fn pack(data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() - 1).expect("short");
    assert!(length < 1 << 16, "one meta-block");
    // Bits from the lowest: window 0, last 0, nibbles 00, length 16 bits, uncompressed 1.
    let header = length << 4 | 1 << 20;
    let mut stream = header.to_le_bytes()[..3].to_vec();
    stream.extend(data);
    stream.push(3);
    stream
}

#[test]
fn what_must_be_refused_is_refused_where_it_can_be_seen() {
    let index = read_json("index.json");
    let chain = chain("current");
    let (ours, limits) = ([chain.rollup()], limits());
    for case in list(&index["refuse"]) {
        let name = format!("{} {}: {}", text(&case["message"]), text(&case["name"]), text(&case["refuse_because"]));
        let bytes = read(text(&case["file"]));
        let block = chain.block(number(&case["height"]));
        match (text(&case["message"]), text(&case["stage"])) {
            ("FilteredSequencerBlock", "the message alone") => {
                let verified = sequencer::verify_filtered_block(&bytes, &block.request(&ours), &limits);
                assert!(verified.is_err(), "{name}");
            }
            ("SubmittedMetadata", "the message alone") => {
                assert!(UnverifiedMetadata::decode(&bytes, &limits).is_err(), "{name}");
            }
            ("SubmittedMetadata", "comparison with the committed block") => {
                let metadata = UnverifiedMetadata::decode(&bytes, &limits).unwrap_or_else(|e| panic!("{name}: {e}"));
                let header = block.header();
                assert!(metadata.bind(&header, None).is_err(), "{name}");
                assert!(metadata.bind(&header, Some(&block.transactions())).is_err(), "{name}");
                if metadata.height() != block.height() {
                    let header = chain.block(metadata.height().0).header();
                    assert!(metadata.bind(&header, None).is_err(), "{name}");
                }
            }
            ("SubmittedRollupData", "the message alone") => {
                assert!(RollupRecord::decode(&bytes, &limits).is_err(), "{name}");
            }
            ("SubmittedRollupData", "comparison with the block's metadata") => {
                let bound = block.bound();
                let accepted = RollupRecord::decode(&bytes, &limits).and_then(|record| bound.block_with(&record));
                assert!(accepted.is_err(), "{name}");
            }
            ("SubmittedRollupData", "the rollup id") => {
                assert_eq!(RollupRecord::decode_for(&bytes, &ours, &limits), Ok(None), "{name}");
                assert!(RollupRecord::decode(&bytes, &limits).is_ok(), "{name}");
            }
            ("blob", "the message alone") => {
                assert!(celestia::decode_metadata(&bytes, &limits).is_err(), "{name}");
                assert!(celestia::decode_rollup_data(&bytes, &ours, &limits).is_err(), "{name}");
            }
            (message, stage) => panic!("{name}: nothing tests {message} at {stage}"),
        }
    }
}

#[test]
fn blobs_stop_at_the_limit_that_they_break() {
    let limits = limits();
    let refuse = |file: &str| celestia::unpack(&read(&format!("refuse/{file}.bin")), &limits);
    // 405 bytes may unpack to a mebibyte, not to 256 of them.
    assert_eq!(refuse("blob-bomb"), Err(BlobError::Bomb { packed: 405, max: limits.blob_ratio_floor_bytes }));
    assert_eq!(refuse("blob-cut-brotli"), Err(BlobError::Truncated));
    assert_eq!(refuse("blob-not-brotli"), Err(BlobError::NotBrotli));
    let crowd = Limits { blob_ratio_floor_bytes: 16 << 20, ..limits.clone() };
    let refusal = celestia::decode_metadata(&read("refuse/blob-crowd.bin"), &crowd).expect_err("a crowd");
    assert_eq!(refusal.to_string(), "more than 16384 entries");
    let small = Limits { blob_bytes: 404, ..limits.clone() };
    let refusal = celestia::unpack(&read("refuse/blob-bomb.bin"), &small);
    assert_eq!(refusal, Err(BlobError::TooLarge { actual: 405, max: 404 }));
    let data = vec![7; 50_000];
    assert_eq!(celestia::unpack(&pack(&data), &limits).as_deref(), Ok(&data[..]));
    let tight = Limits { blob_unpacked_bytes: data.len() - 1, ..limits };
    assert!(matches!(celestia::unpack(&pack(&data), &tight), Err(BlobError::Bomb { .. })));
}

#[test]
fn commits_are_accepted_exactly_when_they_should_be() {
    for case in list(&read_json("index.json")["commits"]) {
        let name = format!("{}: {}", text(&case["name"]), text(&case["why"]));
        let signed = signed_header(&read_json(text(&case["commit"])));
        let set = validator_set(&read_json(text(&case["validators"])));
        let height = SequencerHeight(signed.header.height.value());
        let verified = sequencer::verify_signed_header(&signed, &set, text(&case["chain_id"]), height);
        assert_eq!(Value::Bool(verified.is_ok()), case["accept"], "{name}: {verified:?}");
    }
}

#[test]
fn a_commit_with_a_stranger_is_refused_although_the_others_are_a_quorum() {
    let index = read_json("index.json");
    let case = list(&index["commits"]).iter().find(|case| case["name"] == "stranger").expect("the case");
    let mut reply = read_json(text(&case["commit"]));
    let set = validator_set(&read_json(text(&case["validators"])));
    let (chain_id, height) = (text(&case["chain_id"]), signed_header(&reply).header.height.value());
    let refused = sequencer::verify_signed_header(&signed_header(&reply), &set, chain_id, SequencerHeight(height));
    assert!(matches!(refused, Err(CommitError::Stranger(_))), "{refused:?}");
    // Without the stranger's vote nothing is wrong with the commit.
    reply["signed_header"]["commit"]["signatures"][0] =
        json!({"block_id_flag": 1, "validator_address": "", "timestamp": "0001-01-01T00:00:00Z", "signature": ""});
    let accepted = sequencer::verify_signed_header(&signed_header(&reply), &set, chain_id, SequencerHeight(height));
    assert!(accepted.is_ok(), "{accepted:?}");
}

#[test]
fn price_feeds_give_the_expected_first_transaction() {
    let index = read_json("index.json");
    let mut cases: Vec<(String, Value, Value)> = list(&index["price_feed"])
        .iter()
        .map(|case| {
            let name = text(&case["name"]).to_owned();
            (name, case["extended_commit_info"].clone(), case["first_transaction"].clone())
        })
        .collect();
    for chain in chains() {
        cases.extend(chain.blocks().filter(|block| !block.value["extended_commit_info"].is_null()).map(|block| {
            (block.name(), block.value["extended_commit_info"].clone(), block.value["price_feed_item"].clone())
        }));
    }
    for (name, info, expected) in cases {
        let element = price_feed::first_transaction(&unhex(&info), &limits())
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .map(|element| hex::encode(element.encode_to_vec()));
        assert_eq!(element.as_deref(), expected.as_str(), "{name}");
    }
}

/// The real headers of one network, with the validators that signed them.
fn real_headers(file: &str) -> Vec<Value> {
    match read_json(&format!("cometbft-headers/{file}.json")) {
        Value::Array(headers) => headers,
        header => vec![header],
    }
}

fn verify_real(value: &Value) -> Result<Verified<TrustedHeader>, String> {
    let signed = parse_signed_header(&value["header"], &value["commit"])?;
    let set: Vec<validator::Info> =
        serde_json::from_value(value["validator_set"]["validators"].clone()).map_err(|error| error.to_string())?;
    let set = ValidatorSet::new(set, limits().validators).map_err(|error| error.to_string())?;
    let (chain_id, height) = (signed.header.chain_id.to_string(), SequencerHeight(signed.header.height.value()));
    sequencer::verify_signed_header(&signed, &set, &chain_id, height).map_err(|error: CommitError| error.to_string())
}

#[test]
fn real_headers_of_three_networks_are_hashed_and_committed() {
    for file in [
        "chain1-extended_header_block_1",
        "chain1-extended_header_block_27",
        "chain2-extended_header_block_27",
        "chain2-extended_header_block_28",
        "chain2-extended_header_block_35",
        "chain3-extended_header_block_1_to_256",
    ] {
        let headers = real_headers(file);
        let mut previous = None;
        for (index, value) in headers.iter().enumerate() {
            let header = verify_real(value).unwrap_or_else(|error| panic!("{file} {index}: {error}"));
            let parent = header.header().last_block_id.map(|id| id.hash.as_bytes().to_vec());
            if let Some(previous) = previous.replace(header.hash().0.to_vec()) {
                assert_eq!(parent, Some(previous), "{file} {index}");
            }
        }
        assert!(file != "chain3-extended_header_block_1_to_256" || headers.len() == 256, "{file}");
    }
}

#[test]
fn one_commit_proves_the_headers_that_its_own_leads_to() {
    let headers = real_headers("chain3-extended_header_block_1_to_256");
    let anchor = verify_real(&headers[255]).expect("the last header is committed");
    let below: Vec<Header> = headers[..255]
        .iter()
        .map(|value| parse_signed_header(&value["header"], &value["commit"]).expect("a header").header)
        .collect();
    let linked = sequencer::verify_links(&anchor, SequencerHeight(1), below.clone()).expect("all are linked");
    for (index, header) in linked.iter().enumerate() {
        assert_eq!(header.hash(), verify_real(&headers[index]).expect("committed").hash(), "height {}", index + 1);
    }

    let mut changed = below.clone();
    changed[100].app_hash = changed[99].app_hash.clone();
    changed[100].time = changed[99].time;
    let refusal = sequencer::verify_links(&anchor, SequencerHeight(1), changed).unwrap_err();
    assert!(matches!(refusal, LinkError::OtherHash { height: SequencerHeight(101), .. }), "{refusal}");

    let mut short = below;
    short.remove(30);
    let refusal = sequencer::verify_links(&anchor, SequencerHeight(1), short.clone()).unwrap_err();
    assert_eq!(refusal, LinkError::Missing(SequencerHeight(31)));
    assert_eq!(sequencer::verify_links(&anchor, SequencerHeight(32), short).map(|linked| linked.len()), Ok(224));
}

#[test]
fn from_a_root_at_height_1_every_real_header_is_reached_by_signatures_and_by_links() {
    let headers = real_headers("chain3-extended_header_block_1_to_256");
    let parsed: Vec<(SignedHeader, Arc<ValidatorSet>)> = headers
        .iter()
        .map(|value| {
            let signed = parse_signed_header(&value["header"], &value["commit"]).expect("a header");
            (signed, Arc::new(validator_set(&value["validator_set"])))
        })
        .collect();
    let (chain_id, last) = ("private", &parsed[255].0.header);
    let now = Timestamp(u64::try_from(last.time.unix_timestamp_nanos()).expect("positive"));
    let hash = sequencer::header_hash(&parsed[0].0.header);
    let check = |client: &Client, height: u64| {
        let (signed, set) = &parsed[usize::try_from(height).expect("small") - 1];
        light::verify(&client.check(height, chain_id, now), height, signed, set, client.options(), now)
    };

    // Given nothing but the hash of the first header: upwards height by height,
    let mut step_by_step = Client::new(light::Options::default(), light::Root::Header { height: 1, hash });
    for height in 1..=256 {
        assert_eq!(step_by_step.wish(height, now), Wish::Block(height));
        step_by_step.accept(&check(&step_by_step, height).unwrap_or_else(|error| panic!("{height}: {error}")));
    }
    // in one leap,
    let mut leaping = Client::new(light::Options::default(), light::Root::Header { height: 1, hash });
    assert_eq!(leaping.wish(256, now), Wish::Block(1), "the root comes first");
    leaping.accept(&check(&leaping, 1).expect("the root"));
    assert_eq!(leaping.wish(256, now), Wish::Block(256));
    leaping.accept(&check(&leaping, 256).expect("signed by those who signed the first"));

    // and backwards from the last by links, twenty at a time.
    let mut trusted = verify_real(&headers[255]).expect("committed");
    while trusted.height() > SequencerHeight(1) {
        let first = trusted.height().minus(20).max(SequencerHeight(1));
        let range =
            usize::try_from(first.0).expect("small") - 1..usize::try_from(trusted.height().0).expect("small") - 1;
        let below = parsed[range].iter().map(|(signed, _)| signed.header.clone()).collect();
        trusted = sequencer::verify_links(&trusted, first, below).expect("linked").swap_remove(0);
    }
    assert_eq!(trusted.hash(), hash);

    // A root of another hash lets nothing through.
    let other = light::Root::Header { height: 1, hash: BlockHash([1; 32]) };
    let refusal = check(&Client::new(light::Options::default(), other), 1).expect_err("another root");
    assert!(matches!(refusal, light::Refusal::Root { .. }), "{refusal}");
}

#[test]
fn no_field_of_a_header_can_be_changed() {
    let headers = real_headers("chain3-extended_header_block_1_to_256");
    let genuine = &headers[40];
    assert!(verify_real(genuine).is_ok());
    let mut fields = Vec::new();
    leaves(&genuine["header"], "/header".to_owned(), &mut fields);
    assert!(fields.len() >= 17, "{fields:?}");
    for field in fields {
        let mut changed = genuine.clone();
        let value = changed.pointer_mut(&field).expect("the field is there");
        *value = other(value);
        assert!(verify_real(&changed).is_err(), "{field} changed");
        // Nor taken away, where it may be absent.
        let mut absent = genuine.clone();
        *absent.pointer_mut(&field).expect("the field is there") = Value::Null;
        assert!(verify_real(&absent).is_err(), "{field} taken away");
    }
}

/// Pointers to all single values below `value`.
fn leaves(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, format!("{at}/{name}"), found);
            }
        }
        _ => found.push(at),
    }
}

/// Another value of the same kind.
fn other(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_u64().expect("small") + 1),
        Value::String(text) if text.contains('T') && text.ends_with('Z') => {
            Value::from(text.replacen("2023", "2022", 1))
        }
        Value::String(text) => {
            let last = if text.ends_with('1') { "2" } else { "1" };
            Value::from(format!("{}{last}", &text[..text.len() - 1]))
        }
        value => panic!("no other value for {value}"),
    }
}

/// What `downbeat inspect blob` prints, and what an independent decoder found.
fn inspected_dusk_5(name: &str) -> (Value, Value) {
    let report = inspect::inspect_blob(&read(&format!("dusk-5/{name}.base64.txt")), &limits()).expect(name);
    let report = serde_json::to_value(report).expect(name);
    let expected = read_json(&format!("dusk-5/{name}.expected.json"));
    for size in ["number_of_entries", "compressed_size_bytes", "decompressed_size_bytes", "compression_ratio"] {
        let (actual, expected) = (report[size].as_f64().expect(size), expected[size].as_f64().expect(size));
        assert!((actual - expected).abs() < 1e-6, "{name} {size}: {actual} {expected}");
    }
    (report, expected)
}

/// Asserts that everything in `expected` is in `actual` as well.
fn assert_holds(actual: &Value, expected: &Value, at: &str) {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            for (name, expected) in expected {
                assert_holds(&actual[name], expected, &format!("{at}/{name}"));
            }
        }
        (Value::Array(actual), Value::Array(expected)) => {
            assert_eq!(actual.len(), expected.len(), "{at}");
            for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                assert_holds(actual, expected, &format!("{at}/{index}"));
            }
        }
        (actual, expected) => assert_eq!(actual, expected, "{at}"),
    }
}

#[test]
fn metadata_of_a_public_network_decode_and_all_proofs_hold() {
    let (report, expected) = inspected_dusk_5("batched_metadata");
    assert_holds(&report["sequencer_metadata_list"], &expected["sequencer_metadata_list"], "metadata");
    for record in list(&report["sequencer_metadata_list"]) {
        assert_eq!(record["proofs"], json!({"rollup_transactions": true, "rollup_ids": true}), "{record}");
        assert_eq!(record["accepted"], true, "{record}");
    }
    let blob = STANDARD.decode(read("dusk-5/batched_metadata.base64.txt").trim_ascii()).expect("base64");
    let decoded = celestia::decode_metadata(&blob, &limits()).expect("a list");
    let heights: Vec<_> = decoded.entries.iter().map(|entry| entry.height().0).collect();
    assert_eq!((heights, decoded.dropped_total), ((597_420..=597_424).collect(), 0));
}

#[test]
fn rollup_data_of_a_public_network_decode() {
    let (report, mut expected) = inspected_dusk_5("batched_rollup_data");
    for record in expected["rollup_data_list"].as_array_mut().expect("a list") {
        // Interpreted as Ethereum's there; the number of elements stays.
        record.as_object_mut().expect("a record").remove("transactions_and_deposits");
    }
    assert_holds(&report["rollup_data_list"], &expected["rollup_data_list"], "rollup data");
    let blob = STANDARD.decode(read("dusk-5/batched_rollup_data.base64.txt").trim_ascii()).expect("base64");
    let rollup = STANDARD.decode(text(&expected["rollup_data_list"][0]["rollup_id"])).expect("base64");
    let rollup = RollupId(rollup.try_into().expect("32 bytes"));
    let decoded = celestia::decode_rollup_data(&blob, &[rollup], &limits()).expect("a list");
    assert_eq!((decoded.entries.len(), decoded.dropped_total, decoded.foreign), (5, 0, 0));
    for (record, report) in decoded.entries.iter().zip(list(&report["rollup_data_list"])) {
        assert_eq!(record.block_hash().to_string(), text(&report["block_hash"]));
        assert_eq!(report["accepted"], true, "{report}");
        assert!(report["transactions_and_deposits"][0]["sequenced_data"].is_string(), "{report}");
    }
}

#[test]
fn inspection_tells_the_messages_apart_and_accepts_the_genuine_ones() {
    for chain in chains() {
        for block in chain.blocks() {
            for (file, message) in [
                ("filtered_block", "FilteredSequencerBlock"),
                ("filtered_block_no_ids", "FilteredSequencerBlock"),
                ("sequencer_block", "SequencerBlock"),
                ("submitted_metadata", "SubmittedMetadata"),
                ("submitted_rollup_data", "SubmittedRollupData"),
            ] {
                if block.value["files"][file].is_null() {
                    continue;
                }
                let name = format!("{} {file}", block.name());
                let report = inspect::inspect_block(&block.file(file)).unwrap_or_else(|e| panic!("{name}: {e}"));
                let report = serde_json::to_value(report).expect("JSON");
                assert_eq!(report["message"], message, "{name}");
                assert_eq!(report["block_hash"], block.value["block_hash"], "{name}");
                assert_eq!(report["accepted"], true, "{name}: {report}");
                if message == "SubmittedRollupData" {
                    assert_eq!(report["proof_leads_to"], block.value["rollup_transactions_root"], "{name}");
                } else {
                    assert_eq!(report["sequencer_block_header"]["time"], block.value["time"]["rfc3339"], "{name}");
                    let covered = &report["proofs"];
                    assert_eq!(covered["rollup_transactions"], true, "{name}");
                    assert_eq!(covered["rollup_ids"], true, "{name}");
                }
                let base64 = STANDARD.encode(block.file(file));
                let again = inspect::inspect_block(base64.as_bytes()).expect("base64 as well");
                assert_eq!(serde_json::to_value(again).expect("JSON"), report, "{name}");
            }
        }
    }
}

#[test]
fn inspection_shows_refused_records_and_why() {
    let index = read_json("index.json");
    for case in list(&index["refuse"]) {
        let name = format!("{} {}", text(&case["message"]), text(&case["name"]));
        let bytes = read(text(&case["file"]));
        if case["message"] == "blob" {
            assert!(inspect::inspect_blob(&bytes, &limits()).is_err(), "{name}");
            continue;
        }
        let report = inspect::inspect_block(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let report = serde_json::to_value(report).expect("JSON");
        assert_eq!(report["message"], case["message"], "{name}");
        if case["stage"] == "the message alone" {
            assert_eq!(report["accepted"], false, "{name}");
            assert!(report["refused_because"].is_string(), "{name}");
        }
    }
    let report = inspect::inspect_block(&read("refuse/SubmittedMetadata-wrong-root.bin")).expect("metadata");
    let report = serde_json::to_value(report).expect("JSON");
    assert_eq!(report["proofs"]["rollup_transactions"], false);
    assert_eq!(report["proofs"]["rollup_ids"], true);
}
