//! Properties of the verification: no input makes it panic, no change of a proven message goes unnoticed, and each
//! incremental or optimised rule agrees with its plain definition.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use downbeat_core::{
    Limits, RollupId, SequencerHeight,
    celestia::{self, BlobError},
    inspect, merkle,
    sequencer::{
        self, CommitError, RollupRecord, SoftBlockRequest, UnverifiedMetadata, ValidatorSet, header_hash, price_feed,
        quorum,
    },
    wire::{
        proto::astria::{primitive::v1 as primitive, sequencerblock::v1::RollupData},
        scan,
    },
};
use ed25519_consensus::SigningKey;
use proptest::{collection::vec, prelude::*, sample::Index};
use prost::Message as _;
use tendermint::{Hash, Time, account, block, chain, public_key::PublicKey, validator, vote, vote::SignVoteRequest};

/// Reference, appendix A: one block with one rollup, as metadata, rollup data and filtered block.
const METADATA_LIST: &str = "0afb020a20030000000300000003000000030000000300000003000000030000000300000012770a13746573745f73657175\
    656e6365722d3130303010031a04080110012220e06cb9b2aa0d6de0794047ef2a6837e950c76fbce4900a732b43715c31f3\
    599c2a1407070707070707070707070707070707070707073220961c723f70c05dbdbaeabc83037bbeeb478841fdf480ff91\
    61653b0e845a29611a220a202a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a22440a40c2c1\
    afda65be62196fb52fd1872f13fa4e3b01cd2e1c5c3cbca4d722958d364a88165f1e6084c98666aff7435cfff5a3a6cad2e5\
    60a4fc0f0490ad9e6727fc5218052a460a402c8cfc60271ae57645293011fbd9b2cc797bff529c00ab1fb5c718382da7d84e\
    88165f1e6084c98666aff7435cfff5a3a6cad2e560a4fc0f0490ad9e6727fc52100118053a2c0a020a0012260a20fe8bbbdb\
    4da53de56d551a42c85fcc753617dd9456ee33a056b5ad5a9d35cbd410021805";
const METADATA_BLOB: &str = "G30BAGRQDoVTWLgAagCHHLBcKIQAIdWWWDCRCwNMvtPgFwqQQ0NAQDimH8DytvHyNhtQnix37YYOTQiDAIkOSUl+5NzdUoPichQg\
    LvfIaM93rT7p1neWDryYpDyMOV4N8hix4V2FkzyX2FPMfcikv+emLwo6aOBWLl7i71v4/wwLGyHUaEMGC0JKQM7I3yilgfjIcOOO\
    zYAlgVs723IcG9aPqhDkPCuxsXBf2SZlTgqvYjyuGal59HSsbeOnlPH/99KKmZVz87I/aDDp9QV2dH808WEZZYE4c/IfczrCc18Z\
    BnaM3+2WuYCg/5p5ELVk7ZP4/CyVW6rxuGak5tHTpQA6JD6sIDOAAhCYtID8X1Lvrkq5yLmLDqHklNmcDy/efrbuA1eRbnu9YT7P\
    7Bo6FD4s";
const ROLLUP_DATA_LIST: &str = "0a590a20030000000300000003000000030000000300000003000000030000000300000012220a202a2a2a2a2a2a2a2a2a2a\
    2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a1a0d0a0b68656c6c6f5f776f726c6422021801";
const ROLLUP_DATA_BLOB: &str = "G1oAAMTOdmhnimSSiWL79LABByyBJdbOJ4J9MB/HADy5nLMO+h/+cqsl";
const FILTERED_BLOCK: &str = "0a20030000000300000003000000030000000300000003000000030000000300000012770a13746573745f73657175656e63\
    65722d3130303010031a04080110012220e06cb9b2aa0d6de0794047ef2a6837e950c76fbce4900a732b43715c31f3599c2a\
    1407070707070707070707070707070707070707073220961c723f70c05dbdbaeabc83037bbeeb478841fdf480ff9161653b\
    0e845a29611a370a220a202a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a120d0a0b68656c\
    6c6f5f776f726c641a02180122440a40c2c1afda65be62196fb52fd1872f13fa4e3b01cd2e1c5c3cbca4d722958d364a8816\
    5f1e6084c98666aff7435cfff5a3a6cad2e560a4fc0f0490ad9e6727fc5218052a220a202a2a2a2a2a2a2a2a2a2a2a2a2a2a\
    2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a32460a402c8cfc60271ae57645293011fbd9b2cc797bff529c00ab1fb5c71838\
    2da7d84e88165f1e6084c98666aff7435cfff5a3a6cad2e560a4fc0f0490ad9e6727fc5210011805422c0a020a0012260a20\
    fe8bbbdb4da53de56d551a42c85fcc753617dd9456ee33a056b5ad5a9d35cbd410021805";

/// The only rollup of the vectors.
const ROLLUP: RollupId = RollupId([0x2a; 32]);

fn unhex(hex: &str) -> Bytes {
    hex::decode(hex).expect("a constant").into()
}

fn limits() -> Limits {
    Limits::default()
}

fn request() -> SoftBlockRequest {
    SoftBlockRequest {
        height: SequencerHeight(3),
        chain_id: "test_sequencer-1000".to_owned(),
        rollup_ids: vec![ROLLUP],
    }
}

/// The only entry of a list: behind its key and a length of one or two bytes.
fn entry(list: &str) -> Bytes {
    let list = unhex(list);
    let entry = scan::Fields::new(&list).all(1).next().expect("an entry").expect("well formed");
    list.slice_ref(entry)
}

#[test]
fn the_vectors_of_the_reference_are_accepted() {
    let limits = limits();
    let blob = STANDARD.decode(METADATA_BLOB).expect("base64");
    assert_eq!(celestia::unpack(&blob, &limits), Ok(unhex(METADATA_LIST)));
    let metadata = celestia::decode_metadata(&blob, &limits).expect("a list");
    assert_eq!((metadata.entries.len(), metadata.dropped_total), (1, 0), "{:?}", metadata.dropped);
    assert_eq!(metadata.entries[0].rollup_ids(), [ROLLUP]);
    let blob = STANDARD.decode(ROLLUP_DATA_BLOB).expect("base64");
    assert_eq!(celestia::unpack(&blob, &limits), Ok(unhex(ROLLUP_DATA_LIST)));
    let records = celestia::decode_rollup_data(&blob, &[ROLLUP], &limits).expect("a list");
    assert_eq!((records.entries.len(), records.dropped_total, records.foreign), (1, 0, 0));
    let soft = sequencer::verify_filtered_block(&unhex(FILTERED_BLOCK), &request(), &limits).expect("a block");
    let elements: Vec<_> =
        soft.blocks()[&ROLLUP].transactions().iter().map(|element| hex::encode(element.encode_to_vec())).collect();
    // Minimal commit info means an empty price feed in front.
    assert_eq!(elements, ["1a00", "0a0b68656c6c6f5f776f726c64"]);
}

/// Runs every decoder of outside data; what they answer does not matter.
fn decode_everything(bytes: &Bytes) {
    let limits = limits();
    let _ = UnverifiedMetadata::decode(bytes, &limits);
    let _ = RollupRecord::decode(bytes, &limits);
    let _ = sequencer::verify_filtered_block(bytes, &request(), &limits);
    let _ = price_feed::first_transaction(bytes, &limits);
    let _ = celestia::decode_metadata(bytes, &limits);
    let _ = celestia::decode_rollup_data(bytes, &[ROLLUP], &limits);
    let _ = inspect::inspect_blob(bytes, &limits);
    let _ = inspect::inspect_block(bytes).map(|report| serde_json::to_string(&report).expect("JSON"));
}

/// A change of a valid message.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    Repeat(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => any::<Index>().prop_map(Mutation::Truncate),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ]
}

fn mutated(valid: &Bytes, mutations: &[Mutation]) -> Bytes {
    let mut bytes = valid.to_vec();
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        match mutation {
            Mutation::Replace(at, byte) => *at.get_mut(&mut bytes) = *byte,
            Mutation::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Mutation::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Mutation::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Mutation::Repeat(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                bytes.extend_from_within(from.min(to)..from.max(to));
            }
        }
    }
    bytes.into()
}

/// A proof whose fields are near the edges more often than not.
fn any_proof() -> impl Strategy<Value = primitive::Proof> {
    let number = || prop_oneof![0..20_u64, any::<u64>(), Just(u64::MAX), Just(1 << 63), Just((1 << 63) - 1)];
    (vec(any::<u8>(), 0..260), number(), number()).prop_map(|(path, leaf_index, tree_size)| primitive::Proof {
        audit_path: path.into(),
        leaf_index,
        tree_size,
    })
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..600)) {
        decode_everything(&bytes.into());
    }

    #[test]
    fn no_changed_message_makes_a_decoder_panic(
        which in 0..7_usize,
        mutations in vec(mutation(), 1..6),
    ) {
        let valid = [
            unhex(METADATA_LIST),
            unhex(ROLLUP_DATA_LIST),
            unhex(FILTERED_BLOCK),
            entry(METADATA_LIST),
            entry(ROLLUP_DATA_LIST),
            STANDARD.decode(METADATA_BLOB).expect("base64").into(),
            STANDARD.decode(ROLLUP_DATA_BLOB).expect("base64").into(),
        ];
        decode_everything(&mutated(&valid[which], &mutations));
    }

    #[test]
    fn no_single_change_of_a_filtered_block_changes_what_is_executed(at in any::<Index>(), byte in any::<u8>()) {
        let valid = unhex(FILTERED_BLOCK);
        let changed = mutated(&valid, &[Mutation::Replace(at, byte)]);
        let genuine = sequencer::verify_filtered_block(&valid, &request(), &limits()).expect("valid");
        if let Ok(soft) = sequencer::verify_filtered_block(&changed, &request(), &limits()) {
            // What nothing covers before the commit is known may differ: block hash, time, proposer, and whether there
            // is commit info. The rollup's own elements may not.
            let (soft, genuine) = (&soft.blocks()[&ROLLUP], &genuine.blocks()[&ROLLUP]);
            prop_assert_eq!(soft.transactions().last(), genuine.transactions().last());
            prop_assert!(soft.transactions().len() <= genuine.transactions().len());
        }
    }

    #[test]
    fn no_proof_makes_the_verifier_panic(wire in any_proof(), leaf in vec(any::<u8>(), 0..40)) {
        if let Ok(proof) = merkle::Proof::from_wire(&wire) {
            prop_assert_eq!(proof.to_wire(), wire);
            prop_assert!(proof.siblings().len() <= 63);
            let root = proof.root_from_leaf(&leaf);
            prop_assert_eq!(proof.verify(&leaf, &root), Ok(()));
        }
    }

    #[test]
    fn no_message_makes_the_scanner_panic(bytes in vec(any::<u8>(), 0..300), path in vec(1..8_u32, 0..4)) {
        let fields = scan::Fields::new(&bytes).count();
        prop_assert!(fields <= bytes.len());
        let _ = scan::at_most(&bytes, &path, 10, "elements");
    }

    #[test]
    fn what_prost_takes_the_scanner_takes(data in vec(vec(any::<u8>(), 0..20), 0..20)) {
        let mut list = Vec::new();
        for data in &data {
            prost::encoding::bytes::encode(1, data, &mut list);
        }
        let found: Vec<_> = scan::Fields::new(&list).all(1).map(|value| value.expect("well formed").to_vec()).collect();
        prop_assert_eq!(found, data);
    }

    #[test]
    fn streamed_roots_are_those_of_whole_trees(count in 0..1_500_u32) {
        let leaves: Vec<_> = (0..count).map(u32::to_be_bytes).collect();
        prop_assert_eq!(merkle::root_of(&leaves), merkle::Tree::new(&leaves).root());
    }

    #[test]
    fn unpacking_stays_within_its_bounds(bytes in vec(any::<u8>(), 0..400), max in 1..300_usize) {
        let limits = Limits { blob_unpacked_bytes: max, ..limits() };
        if let Ok(unpacked) = celestia::unpack(&bytes, &limits) {
            prop_assert!(unpacked.len() <= max);
        }
    }

    #[test]
    fn every_cut_of_a_blob_is_an_error(at in any::<Index>(), tail in vec(any::<u8>(), 1..4)) {
        let blob = STANDARD.decode(METADATA_BLOB).expect("base64");
        prop_assert!(celestia::unpack(&blob[..at.index(blob.len())], &limits()).is_err());
        let longer = [&blob[..], &tail].concat();
        prop_assert_eq!(celestia::unpack(&longer, &limits()), Err(BlobError::TrailingBytes(tail.len())));
    }

    #[test]
    fn a_quorum_is_more_than_two_thirds(counted in any::<u64>(), total in any::<u64>()) {
        let (counted, total) = (u128::from(counted), u128::from(total));
        prop_assert_eq!(quorum(counted, total), 3 * counted > 2 * total);
        // Around the edge, where it matters.
        for counted in [total * 2 / 3, total * 2 / 3 + 1] {
            prop_assert_eq!(quorum(counted, total), 3 * counted > 2 * total);
        }
    }

    #[test]
    fn headers_hash_as_another_implementation_hashes_them(header in any_header()) {
        prop_assert_eq!(Hash::Sha256(header_hash(&header).0), header.hash());
    }
}

fn any_hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash::Sha256)
}

fn any_optional_hash() -> impl Strategy<Value = Option<Hash>> {
    proptest::option::of(prop_oneof![4 => any_hash(), 1 => Just(Hash::None)])
}

fn any_time() -> impl Strategy<Value = Time> {
    (-62_135_596_800..253_402_300_800_i64, 0..1_000_000_000_u32)
        .prop_map(|(seconds, nanos)| Time::from_unix_timestamp(seconds, nanos).expect("within the years 1 to 9999"))
}

fn any_block_id() -> impl Strategy<Value = block::Id> {
    (any_hash(), any_hash(), 1..9_u32).prop_map(|(hash, parts, total)| block::Id {
        hash,
        part_set_header: block::parts::Header::new(total, parts).expect("not zero"),
    })
}

fn any_header() -> impl Strategy<Value = block::Header> {
    let hashes = (any_hash(), any_hash(), any_hash());
    let optional = (any_optional_hash(), any_optional_hash(), any_optional_hash(), any_optional_hash());
    let chain_id = "[a-z]{1,20}-[0-9]{1,4}";
    let rest = (any::<[u8; 20]>(), vec(any::<u8>(), 0..40), proptest::option::of(any_block_id()));
    let numbers = (any::<u64>(), any::<u64>(), 0..i64::MAX.unsigned_abs());
    (hashes, optional, chain_id, any_time(), rest, numbers).prop_map(
        |(hashes, optional, chain_id, time, (proposer, app_hash, last_block_id), (block, app, height))| block::Header {
            version: block::header::Version { block, app },
            chain_id: chain_id.parse().expect("a chain id"),
            height: height.try_into().expect("63 bits"),
            time,
            last_block_id,
            last_commit_hash: optional.0,
            data_hash: optional.1,
            validators_hash: hashes.0,
            next_validators_hash: hashes.1,
            consensus_hash: hashes.2,
            app_hash: app_hash.try_into().expect("any bytes"),
            last_results_hash: optional.2,
            evidence_hash: optional.3,
            proposer_address: account::Id::new(proposer),
        },
    )
}

/// What one position of a commit holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Vote {
    Absent,
    Nil,
    Block,
    /// The vote of the validator with this number once more.
    CopyOf(usize),
}

fn any_vote() -> impl Strategy<Value = Vote> {
    prop_oneof![
        1 => Just(Vote::Absent),
        1 => Just(Vote::Nil),
        6 => Just(Vote::Block),
        1 => (0..8_usize).prop_map(Vote::CopyOf),
    ]
}

fn key(index: usize) -> SigningKey {
    SigningKey::from([u8::try_from(index).expect("few") + 1; 32])
}

fn signed_vote(index: usize, header: &block::Header, id: block::Id, nil: bool) -> block::CommitSig {
    let key = key(index);
    let time = header.time;
    let public = PublicKey::from(key.verification_key());
    let vote = vote::Vote {
        vote_type: vote::Type::Precommit,
        height: header.height,
        round: block::Round::from(1_u8),
        block_id: (!nil).then_some(id),
        timestamp: Some(time),
        validator_address: account::Id::from(public),
        validator_index: u32::try_from(index).expect("few").try_into().expect("an index"),
        signature: None,
        extension: Vec::new(),
        extension_signature: None,
    };
    let bytes = SignVoteRequest { vote, chain_id: header.chain_id.clone() }.into_signable_vec();
    let signature = tendermint::Signature::new(key.sign(&bytes).to_bytes()).expect("64 bytes");
    let validator_address = account::Id::from(public);
    if nil {
        block::CommitSig::BlockIdFlagNil { validator_address, timestamp: time, signature }
    } else {
        block::CommitSig::BlockIdFlagCommit { validator_address, timestamp: time, signature }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn commits_are_counted_as_the_plain_rule_says(
        validators in vec((1..6_u32, any_vote()), 1..8),
        mut header in any_header(),
        parts in any_hash(),
        spoilt in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        // Given a header that names these validators, and a commit with these votes,
        let infos: Vec<_> = validators
            .iter()
            .enumerate()
            .map(|(index, (power, _))| validator::Info::new(key(index).verification_key().into(), (*power).into()))
            .collect();
        let set = ValidatorSet::new(infos, 10).expect("distinct keys");
        header.validators_hash = Hash::Sha256(set.hash());
        let id = block::Id {
            hash: Hash::Sha256(header_hash(&header).0),
            part_set_header: block::parts::Header::new(1, parts).expect("not zero"),
        };
        let mut signatures = Vec::new();
        let mut signers = BTreeMap::new();
        let mut is_repeated = false;
        for (index, (_, vote)) in validators.iter().enumerate() {
            let signer = match *vote {
                Vote::CopyOf(other) => other % validators.len(),
                _ => index,
            };
            signatures.push(match vote {
                Vote::Absent => block::CommitSig::BlockIdFlagAbsent,
                Vote::Nil => signed_vote(index, &header, id, true),
                Vote::Block | Vote::CopyOf(_) => {
                    is_repeated |= signers.insert(signer, validators[signer].0).is_some();
                    signed_vote(signer, &header, id, false)
                }
            });
        }
        // one of which may be spoilt,
        let mut is_spoilt = false;
        if let Some(spoilt) = spoilt
            && let block::CommitSig::BlockIdFlagCommit { timestamp, .. } = spoilt.get_mut(&mut signatures)
        {
            let other = if timestamp.unix_timestamp() > 0 { -1 } else { 1 };
            *timestamp = Time::from_unix_timestamp(other, 0).expect("in range");
            is_spoilt = true;
        }
        let commit = block::Commit { height: header.height, round: block::Round::from(1_u8), block_id: id, signatures };
        let signed = block::signed_header::SignedHeader::new(header.clone(), commit).expect("one height");
        // then the header is trusted exactly if nobody signed twice and the signers have more than two thirds of the power.
        let total: u32 = validators.iter().map(|(power, _)| power).sum();
        let counted: u32 = signers.values().sum();
        let height = SequencerHeight(header.height.value());
        let chain_id: &chain::Id = &header.chain_id;
        let verified = sequencer::verify_signed_header(&signed, &set, chain_id.as_str(), height);
        match verified {
            Ok(trusted) => {
                prop_assert!(!is_spoilt && !is_repeated && 3 * counted > 2 * total);
                prop_assert_eq!(trusted.header(), &header);
            }
            Err(CommitError::Repeated(_)) => prop_assert!(is_repeated),
            Err(CommitError::Signature(_)) => prop_assert!(is_spoilt && !is_repeated),
            Err(CommitError::NoQuorum { counted: power, .. }) => {
                prop_assert!(3 * counted <= 2 * total);
                prop_assert_eq!(power, u128::from(counted));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

#[test]
fn a_crowd_of_empty_transactions_is_refused_before_it_is_decoded() {
    // Given a genuine record with more empty transactions than one block may have: two bytes each on the wire.
    let mut record = entry(ROLLUP_DATA_LIST).to_vec();
    for _ in 0..limits().transactions {
        prost::encoding::bytes::encode(3, &Bytes::new(), &mut record);
    }
    let refusal = RollupRecord::decode(&record.into(), &limits()).expect_err("a crowd");
    assert_eq!(refusal.to_string(), "more than 65536 transactions");
    // An element without a value is readable, though: the sequencer's data decide, not we.
    assert_eq!(RollupData::decode(Bytes::new()), Ok(RollupData { value: None }));
}
