//! What is written comes back, what is damaged is told, and nothing of it holds the driver up.

mod files;
mod recording;
mod replaying;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use downbeat_core::{
    Answer, Call, CelestiaHeight, CellId, Command, CommandId, Event, Fault, FaultClass, JobOutcome, Limits, Node,
    Outbox, RollupId, Seq, SequencerHeight, Stamped, Timestamp,
    celestia::{
        Namespace,
        square::{DataAvailabilityHeader, NamespacedHash, RowProof, UnverifiedNamespace, UnverifiedRow},
    },
    cell::{CellSpec, Mode},
    event::{Blob, CelestiaBlock, CelestiaHead},
    gossip::{GossipHandle, GossipPeer, Topic},
    light::{RootSetting, SignedBlock},
    wire::proto::astria::{
        execution::v2::{
            CommitmentState, ExecuteBlockRequest, ExecuteBlockResponse, ExecutedBlockMetadata, ExecutionSession,
            ExecutionSessionParameters,
        },
        sequencerblock::v1::{Deposit, RollupData, rollup_data},
    },
};
use proptest::prelude::*;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tendermint::{
    block::{Header as CometHeader, signed_header::SignedHeader},
    validator,
};
use tendermint_proto::v0_37::types as comet;
use twox_hash::xxhash3_128;

use super::{
    directory::Segments,
    file::{Batch, EVENT_MAX},
    recorder::Destination,
    *,
};

/// No wait lasts longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn id(ordinal: u64) -> CommandId {
    CommandId { incarnation: u64::MAX - 5, ordinal }
}

fn answered(answer: Answer) -> Event {
    Event::Answered { id: id(7), answer }
}

fn stamped(seq: u64, event: Event) -> Stamped {
    Stamped { seq: Seq(seq), at: Timestamp(1_700_000_000_000_000_000 + seq), event }
}

fn header() -> Header {
    Header::new(&Limits::default(), [3; 32], Timestamp(1_700_000_000_000_000_000))
}

fn nothing() -> OutboxDigest {
    OutboxDigest::of(&Outbox::new())
}

fn signed_header() -> SignedHeader {
    let reply: serde_json::Value = serde_json::from_str(include_str!("../../testdata/commit.json")).unwrap();
    serde_json::from_value(reply["signed_header"].clone()).unwrap()
}

fn validators() -> Vec<validator::Info> {
    // The address is not the key's: a node may lie, and what it said is what is recorded.
    let text = r#"[
        {"address": "F1F83230835AA69A1AD6EA68C6D894A4106B8E53",
         "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "yvrJ+hVxB/nh6sKTG+rrrpzyJgr4bxZ5KXM6VEw3t8w="},
         "voting_power": "5000", "proposer_priority": "-3"},
        {"address": "0000000000000000000000000000000000000000",
         "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "yvrJ+hVxB/nh6sKTG+rrrpzyJgr4bxZ5KXM6VEw3t8w="},
         "voting_power": "0", "name": "nobody"}]"#;
    serde_json::from_str(text).unwrap()
}

fn metadata(number: u64) -> ExecutedBlockMetadata {
    ExecutedBlockMetadata {
        number,
        hash: "aa".to_owned(),
        parent_hash: "bb".to_owned(),
        timestamp: Some(prost_types::Timestamp { seconds: -5, nanos: 7 }),
        sequencer_block_hash: String::new(),
    }
}

fn commitment() -> CommitmentState {
    CommitmentState {
        soft_executed_block_metadata: Some(metadata(9)),
        firm_executed_block_metadata: Some(metadata(3)),
        lowest_celestia_search_height: 5,
    }
}

/// At least one of every kind, and the odd forms of each.
fn every_event() -> Vec<Event> {
    use FaultClass::{Fatal, Gone, Invalid, NotYet, SessionLost, Transient};
    let spec = |mode, chain: Option<&str>| CellSpec {
        mode,
        expected_sequencer_chain_id: chain.map(str::to_owned),
        expected_celestia_chain_id: chain.map(|chain| format!("{chain}-da")),
    };
    let mut first_header = signed_header().header;
    first_header.last_block_id = None;
    first_header.data_hash = None;
    let mut signed = signed_header();
    signed.commit.signatures.push(tendermint::block::CommitSig::BlockIdFlagAbsent);
    let mut events = vec![
        Event::CellInstalled { cell: CellId(0), spec: spec(Mode::SoftOnly, None) },
        Event::CellInstalled { cell: CellId(u32::MAX), spec: spec(Mode::FirmOnly, Some("")) },
        Event::CellInstalled { cell: CellId(1), spec: spec(Mode::SoftAndFirm, Some("astria")) },
        Event::DeadlineReached,
        Event::StopRequested,
        answered(Answer::SequencerIdentified { chain_id: "größer".to_owned() }),
        answered(Answer::SequencerHeadFetched { height: SequencerHeight(u64::MAX) }),
        answered(Answer::SequencerHeadFetched { height: SequencerHeight(0) }),
        answered(Answer::SoftBlockFetched { block: Bytes::from_static(b"not a block") }),
        answered(Answer::SoftBlockFetched { block: Bytes::new() }),
        answered(Answer::SignedHeaderFetched { signed_header: Box::new(signed) }),
        answered(Answer::HeadersFetched { headers: vec![signed_header().header, first_header] }),
        answered(Answer::HeadersFetched { headers: Vec::new() }),
        answered(Answer::ValidatorsFetched { validators: validators() }),
        answered(Answer::ValidatorsFetched { validators: Vec::new() }),
        answered(Answer::BlockTransactionsFetched { transactions: vec![Bytes::new(), Bytes::from_static(&[0, 255])] }),
        answered(Answer::CelestiaHeadFetched {
            head: CelestiaHead { chain_id: "da".to_owned(), height: CelestiaHeight(8), time: Timestamp::MAX },
        }),
        answered(Answer::BlobsFetched {
            blobs: vec![
                Blob { namespace: Namespace::from_bytes([255; 29]), data: Bytes::from_static(b"x") },
                Blob { namespace: Namespace::of_sequencer("astria"), data: Bytes::new() },
            ],
            unreadable: u32::MAX,
        }),
        answered(Answer::SessionOpened {
            session: Box::new(ExecutionSession {
                session_id: "session".to_owned(),
                execution_session_parameters: Some(ExecutionSessionParameters::default()),
                commitment_state: Some(commitment()),
            }),
        }),
        answered(Answer::BlockExecuted {
            response: Box::new(ExecuteBlockResponse { executed_block_metadata: Some(metadata(1)) }),
        }),
        answered(Answer::BlockExecuted { response: Box::new(ExecuteBlockResponse { executed_block_metadata: None }) }),
        answered(Answer::CommitmentUpdated { commitment: Box::new(commitment()) }),
        answered(Answer::ExecutedBlockFetched { metadata: Box::new(metadata(u64::MAX)) }),
    ];
    for class in [Transient, NotYet, Gone, Invalid, SessionLost, Fatal] {
        events.push(Event::Failed { id: id(u64::MAX), fault: Fault::new(class, format!("because {class:?}")) });
    }
    // Since the first version:
    let node = |byte| NamespacedHash::from_bytes([byte; NamespacedHash::LEN]);
    let row = |shares: &[&'static [u8]], absence| UnverifiedRow {
        shares: shares.iter().map(|share| Bytes::from_static(share)).collect(),
        proof: RowProof { start: 3, end: u32::MAX, nodes: vec![node(4), node(5)], absence },
    };
    let namespaces = vec![
        UnverifiedNamespace { namespace: Namespace::of_sequencer("astria"), rows: vec![row(&[b"x", b""], None)] },
        UnverifiedNamespace { namespace: Namespace::PARITY, rows: vec![row(&[], Some(node(6))), row(&[], None)] },
        UnverifiedNamespace { namespace: Namespace::of_sequencer(""), rows: Vec::new() },
    ];
    let availability = DataAvailabilityHeader { row_roots: vec![node(1), node(2)], column_roots: vec![node(3)] };
    let signed = SignedBlock { signed_header: signed_header(), validators: validators() };
    let block = CelestiaBlock { signed: signed.clone(), availability, namespaces };
    events.push(answered(Answer::NamespacesFetched { block: Box::new(block) }));
    events.push(answered(Answer::CelestiaHeaderFetched { header: Box::new(signed) }));
    events.push(answered(Answer::CelestiaHeadersFetched { headers: vec![signed_header().header] }));
    events.extend([
        Event::Gossiped {
            handle: GossipHandle(7),
            peer: GossipPeer(u64::MAX),
            topic: Topic::Blocks,
            bytes: Bytes::from_static(b"anything"),
        },
        Event::Gossiped {
            handle: GossipHandle(8),
            peer: GossipPeer(0),
            topic: Topic::Rollup(RollupId([7; 32])),
            bytes: Bytes::new(),
        },
        answered(Answer::FetchedFromPeers { peer: GossipPeer(1), block: None, rollups: Vec::new() }),
        answered(Answer::FetchedFromPeers {
            peer: GossipPeer(1),
            block: Some(Bytes::new()),
            rollups: vec![(RollupId([7; 32]), Bytes::from_static(b"data"))],
        }),
    ]);
    events
}

#[track_caller]
fn assert_comes_back(input: &Stamped) {
    let digest = |hash| Some(OutboxDigest { hash, kinds: vec![1, 250] });
    let hashes = [OutboxHash::Sha256([9; 16]), OutboxHash::Xxh3(u128::MAX - 7), OutboxHash::Xxh3(0)];
    for outbox in [None].into_iter().chain(hashes.map(digest)) {
        let entry = decode(&encode(input, outbox.as_ref())).unwrap();
        assert_eq!(entry.outbox, outbox);
        let same = Entry::new(input.clone(), outbox);
        assert_eq!(format!("{:?}", entry.event), format!("{:?}", same.event));
        let back = entry.into_stamped_without_outcome();
        // Every field shows in the debug form, for all of these types derive it.
        assert_eq!(format!("{back:?}"), format!("{input:?}"));
    }
}

#[test]
fn every_kind_of_event_comes_back_as_it_was() {
    for (seq, event) in (0..).zip(every_event()) {
        assert_comes_back(&stamped(seq, event));
    }
}

#[test]
fn padding_in_place_of_a_validators_key_cannot_be_read() {
    let event = answered(Answer::ValidatorsFetched { validators: validators() });
    let mut record = encode(&stamped(1, event), Some(&nothing()));
    let end = record.windows(2).position(|window| window == b"=\"").expect("keys end with padding");
    record[end - 3..=end].fill(b'=');
    let error = decode(&record).unwrap_err();
    assert!(matches!(error, DecodeError::Unreadable { what: "validator set", .. }), "{error}");
}

fn fixture(version: u32) -> Vec<u8> {
    fixture_of(version, "every-event")
}

fn fixture_of(version: u32, name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
    fs::read(format!("{folder}/journal-v{version}/{name}.journal")).unwrap()
}

/// What an outbox without commands is recorded as in version 1: the SHA-256 of nothing.
fn nothing_in_version_1() -> OutboxDigest {
    let hash = [0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24];
    OutboxDigest { hash: OutboxHash::Sha256(hash), kinds: Vec::new() }
}

/// Each was recorded once, by the version it is of, and never again: it must decode for ever. What was added to
/// [`every_event`] since then is not in it.
#[test]
fn journals_of_every_version_still_decode() {
    for (version, events, outbox) in [(1, 29, nothing_in_version_1()), (2, 36, nothing())] {
        let (entries, error) = read(&fixture(version));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(entries.len(), events);
        for (entry, event) in entries.into_iter().zip(every_event()) {
            let expected = stamped(entry.seq.0, event);
            assert_eq!(entry.outbox.as_ref(), Some(&outbox));
            assert_eq!(format!("{:?}", entry.into_stamped_without_outcome()), format!("{expected:?}"));
        }
    }
}

#[test]
fn a_changed_byte_is_noticed_in_every_version() {
    for version in [1, 2] {
        let mut file = fixture(version);
        let last = file.len() - 1;
        file[last] ^= 1;
        let (_, error) = read(&file);
        assert!(matches!(error, Some(ReadError::Damaged { what: "a wrong checksum", .. })), "{version}: {error:?}");
    }
}

/// The hashes of XXH3 are part of the schema: another one of the same name would not do.
#[test]
fn an_outbox_has_the_hash_that_its_version_says() {
    let none = std::iter::empty;
    let mut digester = Digester::default();
    assert_eq!(digester.digest_like(&nothing_in_version_1(), none()), nothing_in_version_1());
    assert_eq!(digester.digest(none()).to_string(), "99aa06d3014798d86001c324468d497f []");
    assert_eq!(nothing_in_version_1().to_string(), "e3b0c44298fc1c149afbf4c8996fb924 []");
}

/// Whether transactions are copied to be hashed is no part of the schema.
#[test]
fn an_execution_is_hashed_as_the_message_that_travels() {
    let data = |length: usize| Some(rollup_data::Value::SequencedData(vec![7; length].into()));
    let deposit = Some(rollup_data::Value::Deposit(Deposit { asset: "x".repeat(600), ..Deposit::default() }));
    let lengths = [None, Some(0), Some(1), Some(511), Some(512), Some(70_000), Some(3)];
    let values = lengths.map(|length| length.and_then(data)).into_iter().chain([deposit, data(600)]);
    let long: Vec<RollupData> = values.map(|value| RollupData { value }).collect();
    let short = vec![RollupData { value: data(10) }];
    for transactions in [Vec::new(), short, long] {
        for (hash, timestamp) in [("bb", Some(prost_types::Timestamp { seconds: -5, nanos: 7 })), ("", None)] {
            let request = ExecuteBlockRequest {
                session_id: "session".to_owned(),
                parent_hash: "aa".to_owned(),
                transactions: transactions.clone(),
                timestamp,
                sequencer_block_hash: hash.to_owned(),
            };
            let message = request.encode_to_vec();
            let call = Call::ExecuteBlock { cell: CellId(4), request: Arc::new(request) };
            let command = Command::Call { id: id(3), deadline: Timestamp(9), call, node: Node(2) };
            let numbers = [id(3).incarnation, 3, 9, 2, 4, u64::try_from(message.len()).unwrap()];
            let mut bytes = vec![11];
            bytes.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
            bytes.extend(message);
            // Of each twice, one after the other: nothing of the first may be left.
            let (twice, commands) = ([bytes.clone(), bytes].concat(), [&command, &command]);
            let mut digester = Digester::default();
            for _ in 0..2 {
                let digest = digester.digest(commands.into_iter());
                assert_eq!(digest.hash, OutboxHash::Xxh3(xxhash3_128::Hasher::oneshot(&twice)));
                let digest = digester.digest_like(&nothing_in_version_1(), commands.into_iter());
                assert_eq!(digest.hash.to_string(), hex::encode(&Sha256::digest(&twice)[..16]));
            }
        }
    }
}

#[test]
fn neither_or_both_hashes_of_an_outbox_cannot_be_read() {
    for (sha256, xxh3) in [(16, Some(1)), (15, None), (0, None)] {
        let outbox = proto::Outbox {
            sha256: vec![1; sha256].into(),
            xxh3_low: xxh3,
            xxh3_high: xxh3,
            ..proto::Outbox::default()
        };
        let event = Some(proto::record::Event::StopRequested(proto::StopRequested {}));
        let record = proto::Record { seq: 0, at: 0, event, outbox: Some(outbox) };
        let error = decode(&record.encode_to_vec()).unwrap_err();
        assert!(matches!(error, DecodeError::Unknown("outbox hash")), "{error}");
    }
}

#[test]
fn of_a_finished_job_only_the_id_is_kept() {
    let outcome = JobOutcome::SoftBlock(Err("x".repeat(10_000)));
    let input = stamped(5, Event::JobFinished { id: id(3), outcome });
    let bytes = encode(&input, None);
    assert!(bytes.len() < 64, "{} bytes", bytes.len());
    let entry = decode(&bytes).unwrap();
    assert!(matches!(entry.event, Recorded::JobFinished(job) if job == id(3)));
    let again = entry.into_stamped(|job| {
        assert_eq!(job, id(3));
        JobOutcome::Blobs(Ok(Box::default()))
    });
    assert!(matches!(again.event, Event::JobFinished { outcome: JobOutcome::Blobs(_), .. }));
}

prop_compose! {
    fn comet_header()(
        hashes in prop::collection::vec(prop::option::of(any::<[u8; 32]>()), 7),
        app_hash in prop::collection::vec(any::<u8>(), 0..40),
        address in any::<[u8; 20]>(),
        height in 2..=i64::MAX,
        seconds in -62_135_596_800_i64..=253_402_300_799,
        nanos in 0..1_000_000_000_i32,
        chain_id in "[a-zA-Z0-9._-]{1,50}",
        version in any::<(u64, u64)>(),
        parts in prop::option::of(any::<(u32, [u8; 32])>()),
    ) -> comet::Header {
        let hash = |index: usize| hashes[index].map(Vec::from).unwrap_or_default();
        comet::Header {
            version: Some(tendermint_proto::v0_37::version::Consensus { block: version.0, app: version.1 }),
            chain_id,
            height,
            time: Some(tendermint_proto::google::protobuf::Timestamp { seconds, nanos }),
            last_block_id: parts.map(|(total, part)| comet::BlockId {
                hash: part.to_vec(),
                part_set_header: Some(comet::PartSetHeader { total, hash: part.to_vec() }),
            }),
            last_commit_hash: hash(0),
            data_hash: hash(1),
            validators_hash: hash(2),
            next_validators_hash: hash(3),
            consensus_hash: hash(4),
            app_hash,
            last_results_hash: hash(5),
            evidence_hash: hash(6),
            proposer_address: address.to_vec(),
        }
    }
}

proptest! {
    /// Whatever CometBFT's JSON could be read as.
    #[test]
    fn headers_with_any_fields_come_back(raw in prop::collection::vec(comet_header(), 1..4)) {
        let headers: Vec<CometHeader> = raw.into_iter().filter_map(|raw| raw.try_into().ok()).collect();
        assert_comes_back(&stamped(1, answered(Answer::HeadersFetched { headers })));
    }

    #[test]
    fn blobs_with_any_bytes_come_back(
        blobs in prop::collection::vec((any::<[u8; 29]>(), prop::collection::vec(any::<u8>(), 0..200)), 0..5),
        unreadable: u32, seq: u64, at: u64, ordinal: u64, incarnation: u64,
    ) {
        let blobs = blobs.into_iter().map(|(namespace, data)| Blob {
            namespace: Namespace::from_bytes(namespace), data: data.into(),
        });
        let answer = Answer::BlobsFetched { blobs: blobs.collect(), unreadable };
        let event = Event::Answered { id: CommandId { incarnation, ordinal }, answer };
        assert_comes_back(&Stamped { seq: Seq(seq), at: Timestamp(at), event });
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let start = Writer::new(Vec::new(), &header()).unwrap().into_inner().unwrap();
        for bytes in [bytes.clone(), [&start[..12], &bytes].concat(), [&start[..], &bytes].concat()] {
            if let Ok(reader) = Reader::new(bytes.as_slice()) {
                for entry in reader {
                    let _ = entry;
                }
            }
        }
    }
}

/// What can be read, and what stopped it.
fn read(bytes: &[u8]) -> (Vec<Entry>, Option<ReadError>) {
    let mut reader = Reader::new(bytes).unwrap();
    let mut entries = Vec::new();
    for entry in reader.by_ref() {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(error) => return (entries, Some(error)),
        }
    }
    (entries, None)
}

fn soft_block(seq: u64, length: usize) -> Entry {
    let mut random = seq.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let block: Vec<u8> = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()[3]
    })
    .take(length)
    .collect();
    Entry::new(stamped(seq, answered(Answer::SoftBlockFetched { block: block.into() })), Some(nothing()))
}
