//! What is written comes back, what is damaged is told, and nothing of it holds the driver up.

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
    let reply: serde_json::Value = serde_json::from_str(include_str!("../testdata/commit.json")).unwrap();
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
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
    fs::read(format!("{folder}/journal-v{version}/every-event.journal")).unwrap()
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

/// A journal of so many events in several chunks, with its end.
fn journal(events: u64) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    let kinds = every_event();
    for seq in 0..events {
        let event = kinds[usize::try_from(seq).unwrap() % kinds.len()].clone();
        writer.write(Entry::new(stamped(seq, event), Some(nothing()))).unwrap();
        if seq % 50 == 49 {
            writer.flush().unwrap();
        }
    }
    writer.end("the test ended").unwrap();
    writer.into_inner().unwrap()
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

#[test]
fn a_journal_says_what_the_conductor_was_made_from_and_why_it_ends() {
    let bytes = journal(120);
    let mut reader = Reader::new(bytes.as_slice()).unwrap();
    assert_eq!(*reader.header(), header());
    assert_eq!(reader.end(), None, "not read yet");
    let entries: Vec<Entry> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    assert!(entries.iter().map(|entry| entry.seq.0).eq(0..120));
    assert_eq!(reader.end(), Some("the test ended"));
    let limits: Limits = serde_json::from_str(&reader.header().limits).unwrap();
    assert_eq!(limits, Limits::default());
}

#[test]
fn a_torn_tail_is_recognised_and_what_is_before_it_is_read() {
    let bytes = journal(120);
    let mut counts = Vec::new();
    for length in 12..bytes.len() {
        match Reader::new(&bytes[..length]) {
            Err(ReadError::Torn { .. }) => assert!(counts.is_empty(), "the header is at the start"),
            Err(error) => panic!("cut at {length}: {error}"),
            Ok(_) => {
                let (entries, error) = read(&bytes[..length]);
                assert!(matches!(error, None | Some(ReadError::Torn { .. })), "cut at {length}: {error:?}");
                assert!(entries.iter().map(|entry| entry.seq.0).eq(0..entries.len() as u64));
                counts.push(entries.len());
            }
        }
    }
    counts.dedup();
    assert_eq!(counts, [0, 50, 100, 120]);
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    let mut bytes = journal(50);
    // The end chunk never reached the disk.
    bytes.truncate(bytes.len() - 17 - 16);
    bytes.extend([0; 4_096]);
    let (entries, error) = read(&bytes);
    assert_eq!(entries.len(), 50);
    assert!(matches!(error, Some(ReadError::Torn { .. })), "{error:?}");
}

#[test]
fn a_damaged_chunk_is_named_by_its_place_and_what_is_before_it_is_read() {
    let mut bytes = journal(120);
    let at = bytes.len() * 3 / 4;
    bytes[at] ^= 1;
    let (entries, error) = read(&bytes);
    assert!(entries.len() == 50 || entries.len() == 100, "{}", entries.len());
    let Some(ReadError::Damaged { offset, what: "a wrong checksum" }) = error else { panic!("{error:?}") };
    assert!(offset < at as u64 && offset > 12);
}

/// Nothing that is damaged is taken for a recording, and nothing before the damage is lost.
#[test]
fn every_changed_byte_is_noticed() {
    let good = journal(60);
    let (whole, _) = read(&good);
    let whole: Vec<String> = whole.iter().map(|entry| format!("{entry:?}")).collect();
    for position in (12..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[position] ^= 0x41;
        let Ok(mut reader) = Reader::new(bad.as_slice()) else { continue };
        let read: Vec<Entry> = reader.by_ref().map_while(Result::ok).collect();
        assert!(read.iter().map(|entry| format!("{entry:?}")).eq(whole[..read.len()].iter().cloned()));
        assert!(read.len() < whole.len() || reader.end().is_none(), "byte {position} of {}", bad.len());
    }
}

#[test]
fn what_is_no_journal_or_of_another_version_is_refused_by_name() {
    assert!(matches!(Reader::new(&b"{\"seq\": 0}"[..]), Err(ReadError::NotAJournal)));
    assert!(matches!(Reader::new(&b""[..]), Err(ReadError::NotAJournal)));
    let mut bytes = journal(1);
    for version in [0, 3] {
        bytes[8] = version;
        let error = Reader::new(bytes.as_slice()).unwrap_err();
        assert!(matches!(error, ReadError::UnknownVersion(found) if found == u32::from(version)), "{error}");
        assert!(error.to_string().contains("reads versions 1 to 2"), "{error}");
    }
}

#[test]
fn a_chunk_that_claims_to_be_huge_takes_no_memory() {
    for (stored, unpacked) in [(u32::MAX, 1), (1, u32::MAX), (63 << 20, 63 << 20), (10, 1 << 20)] {
        let mut bytes = Writer::new(Vec::new(), &header()).unwrap().into_inner().unwrap();
        bytes.push(2);
        bytes.extend(u32::to_le_bytes(stored));
        bytes.extend(u32::to_le_bytes(unpacked));
        bytes.extend([7; 40]);
        let (entries, error) = read(&bytes);
        assert!(entries.is_empty());
        assert!(matches!(error, Some(ReadError::Damaged { .. } | ReadError::Torn { .. })), "{error:?}");
    }
}

/// Kinds of the chunks after the header.
fn kinds_of_chunks(mut file: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    file = &file[12..];
    while let Some((frame, rest)) = file.split_first_chunk::<17>() {
        let stored = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
        kinds.push(frame[0]);
        file = &rest[usize::try_from(stored).unwrap()..];
    }
    kinds.split_off(1)
}

#[test]
fn what_does_not_shrink_is_written_plain_for_a_while() {
    let zeros = |seq| {
        let event = answered(Answer::SoftBlockFetched { block: vec![0; 300_000].into() });
        Entry::new(stamped(seq, event), Some(nothing()))
    };
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.write(soft_block(0, 1_000)).unwrap();
    writer.flush().unwrap();
    writer.write(zeros(1)).unwrap();
    writer.write(soft_block(2, 300_000)).unwrap();
    for seq in 3..20 {
        writer.write(zeros(seq)).unwrap();
    }
    let file = writer.into_inner().unwrap();
    // A small chunk says nothing about those after it, a full one about 15.
    assert_eq!(kinds_of_chunks(&file), [[4, 2, 4].as_slice(), &[4; 15], &[2, 2]].concat());
    let (entries, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    let written = [soft_block(0, 1_000), zeros(1), soft_block(2, 300_000)].into_iter().chain((3..20).map(zeros));
    assert!(entries.iter().map(|entry| format!("{entry:?}")).eq(written.map(|entry| format!("{entry:?}"))));
}

#[test]
fn a_plain_chunk_of_another_length_than_it_says_is_damaged() {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    let start = writer.written();
    writer.write(soft_block(0, 1_000)).unwrap();
    let mut file = writer.into_inner().unwrap();
    let unpacked = usize::try_from(start).unwrap() + 5;
    for byte in [file[unpacked] - 1, file[unpacked] + 1] {
        file[unpacked] = byte;
        let (entries, error) = read(&file);
        assert!(entries.is_empty());
        assert!(matches!(error, Some(ReadError::Damaged { offset, what: "an impossible length" }) if offset == start));
    }
}

/// A disk with so much room.
#[derive(Debug)]
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() {
    let mut recorder = Recorder::start(Writer::new(Full(500_000), &header()).unwrap()).unwrap();
    let began = Instant::now();
    for seq in 0.. {
        recorder.record(soft_block(seq, 10_000));
        if !recorder.is_recording() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the failure is never noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Taken without a word from now on.
    recorder.record(soft_block(0, 10_000));
    drop(recorder);
    assert!(began.elapsed() < PATIENCE);
}

/// A disk that stands still until it is let go.
struct Stuck(mpsc::Receiver<()>, mpsc::Sender<String>);

impl Destination for Stuck {
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if batch.first_seq == 0 {
            let _ = self.0.recv();
        }
        Ok(())
    }

    fn end(&mut self, reason: &str) -> io::Result<()> {
        self.1.send(reason.to_owned()).map_err(io::Error::other)
    }
}

#[test]
fn a_disk_that_stands_still_ends_the_recording_and_never_holds_the_driver_up() {
    let (go, stuck) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let mut recorder = Recorder::start(Stuck(stuck, ended)).unwrap();
    let mut taken = 0;
    while recorder.is_recording() {
        recorder.record(soft_block(taken, 100_000));
        taken += 1;
        assert!(taken < 10_000, "the queue has no bound");
    }
    assert!(taken > 300, "{taken} events of 100 kB");
    go.send(()).unwrap();
    assert_eq!(end.recv_timeout(PATIENCE).unwrap(), "the disk was too slow");
}

#[test]
fn what_was_recorded_is_written_when_the_recorder_goes() {
    let (go, stuck) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let mut recorder = Recorder::start(Stuck(stuck, ended)).unwrap();
    go.send(()).unwrap();
    recorder.record(soft_block(0, 8));
    drop(recorder);
    assert_eq!(end.try_recv().unwrap(), "the driver ended");
}

fn bytes_in(directory: &std::path::Path) -> u64 {
    let files = fs::read_dir(directory).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_life_goes_on_over_several_files() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut recorder = open(directory.path(), BYTES_MIN, header()).unwrap();
    for seq in 0..60 {
        recorder.record(soft_block(seq, 10_000));
    }
    drop(recorder);
    let lives = lives(directory.path()).unwrap();
    assert_eq!(lives.len(), 1);
    assert!(lives[0].has_its_beginning() && lives[0].files.len() > 2, "{lives:?}");
    let mut entries = lives[0].entries().unwrap();
    let read: Vec<Entry> = entries.by_ref().collect::<Result<_, _>>().unwrap();
    assert!(read.iter().map(|entry| entry.seq.0).eq(0..60));
    assert_eq!(entries.end(), Some("the driver ended"));
}

#[test]
fn files_stay_below_the_bound_however_many_events_are_written_at_once() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut segments = Segments::open(directory.path(), BYTES_MIN, header()).unwrap();
    for size in [1, 3, 6].into_iter().cycle().take(300) {
        let mut batch = Batch::default();
        for seq in 0..size {
            batch.push(soft_block(seq, 10_000)).unwrap();
        }
        segments.write(&batch).unwrap();
        let bytes = bytes_in(directory.path());
        assert!(bytes <= BYTES_MIN, "{bytes} bytes");
    }
}

#[test]
fn all_files_together_stay_below_the_bound_and_the_oldest_go_first() {
    let directory = tempfile::TempDir::new().unwrap();
    // A short life first, then a long one.
    for events in [20, 400_u64] {
        let mut recorder = open(directory.path(), BYTES_MIN, header()).unwrap();
        for seq in 0..events {
            recorder.record(soft_block(seq, 10_000));
        }
    }
    let bytes = bytes_in(directory.path());
    assert!(bytes <= BYTES_MIN && bytes > BYTES_MIN / 2, "{bytes} bytes");
    let kept = lives(directory.path()).unwrap();
    assert_eq!(kept.iter().map(|life| life.number).collect::<Vec<_>>(), [2], "the short one is gone");
    assert!(!kept[0].has_its_beginning());
    let mut entries = kept[0].entries().unwrap();
    let error = Replay::new(entries.header()).unwrap_err();
    assert!(matches!(error, ReplayError::NoBeginning(seq) if seq == entries.header().first_seq), "{error}");
    let read: Vec<Entry> = entries.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(read.last().unwrap().seq.0, 399, "the newest are there");

    // The next life is whole again.
    drop(open(directory.path(), BYTES_MIN, header()).unwrap());
    let kept = lives(directory.path()).unwrap();
    assert_eq!((kept[1].number, kept[1].has_its_beginning()), (3, true));
}

#[test]
fn a_file_that_is_missing_between_two_is_noticed() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut recorder = open(directory.path(), BYTES_MIN, header()).unwrap();
    for seq in 0..60 {
        recorder.record(soft_block(seq, 10_000));
    }
    drop(recorder);
    let files = lives(directory.path()).unwrap()[0].files.clone();
    fs::remove_file(&files[1]).unwrap();
    let result: Result<Vec<Entry>, SourceError> = lives(directory.path()).unwrap()[0].entries().unwrap().collect();
    let error = result.unwrap_err();
    assert!(matches!(&error, SourceError::Missing(path) if *path == files[2]), "{error}");
}

#[test]
fn a_directory_has_one_writer_at_a_time() {
    let directory = tempfile::TempDir::new().unwrap();
    let first = open(directory.path(), BYTES_MIN, header()).unwrap();
    let error = open(directory.path(), BYTES_MIN, header()).unwrap_err();
    assert!(matches!(&error, OpenError::InUse(path) if path == directory.path()), "{error}");
    drop(first);
    open(directory.path(), BYTES_MIN, header()).unwrap();
    let file = directory.path().join("lock");
    let error = open(&file, BYTES_MIN, header()).unwrap_err();
    assert!(matches!(&error, OpenError::Io { .. }) && error.to_string().contains("lock"), "{error}");
    assert!(matches!(lives(&PathBuf::from("/nowhere")), Err(SourceError::File { .. })));
}

/// A conductor that is given a few events, recorded on the way.
fn recorded() -> Vec<Entry> {
    let mut conductor = downbeat_core::Conductor::new(Limits::default(), [3; 32], &[]);
    let spec =
        CellSpec { mode: Mode::SoftAndFirm, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
    let first = Event::CellInstalled { cell: CellId(0), spec };
    let mut entries = Vec::new();
    let mut asked = None;
    for seq in 0..5 {
        let event = match asked {
            None => first.clone(),
            Some(id) if seq < 3 => Event::Failed { id, fault: Fault::transient("away") },
            Some(_) => Event::DeadlineReached,
        };
        let input = stamped(seq * 1_000_000_000, event);
        let input = Stamped { seq: Seq(seq), ..input };
        let mut out = Outbox::new();
        let _ = conductor.handle(&input, &mut out);
        asked = out.iter().find_map(|command| match command {
            downbeat_core::Command::Call { id, .. } => Some(*id),
            _ => asked,
        });
        entries.push(Entry::new(input, Some(OutboxDigest::of(&out))));
    }
    entries
}

#[test]
fn a_recorded_run_replays_and_each_step_can_be_watched() {
    let mut replay = Replay::new(&header()).unwrap();
    let mut commands_seen = 0;
    for entry in recorded() {
        let seq = entry.seq;
        let stepped = replay.step(entry, &mut |input, _, commands, _| {
            assert_eq!(input.seq, seq);
            commands_seen += commands.len();
        });
        assert_eq!(stepped.unwrap(), Stepped::Equal);
    }
    assert_eq!(replay.equal(), 5);
    assert!(commands_seen > 4, "{commands_seen}");
}

#[test]
fn a_run_that_version_1_recorded_replays() {
    let mut conductor = Replay::new(&header()).unwrap();
    let mut digester = Digester::default();
    // As version 1 would have recorded it.
    let mut entries = recorded();
    for entry in &mut entries {
        let mut of_version_1 = None;
        let visit: Visit<'_> = &mut |_, _, commands, _| {
            of_version_1 = Some(digester.digest_like(&nothing_in_version_1(), commands.iter()));
        };
        conductor.step(entry.clone(), visit).unwrap();
        entry.outbox = of_version_1;
    }
    let mut replay = Replay::new(&header()).unwrap();
    for entry in entries.clone() {
        assert_eq!(replay.step(entry, &mut |_, _, _, _| {}).unwrap(), Stepped::Equal);
    }
    // The commands are hashed, and not just their number.
    let Some(OutboxDigest { hash: OutboxHash::Sha256(hash), .. }) = &mut entries[1].outbox else { panic!("a digest") };
    hash[15] ^= 1;
    let mut replay = Replay::new(&header()).unwrap();
    let differs = |entry| replay.step(entry, &mut |_, _, _, _| {}).is_err();
    assert_eq!(entries.into_iter().position(differs), Some(1));
}

#[test]
fn the_first_event_after_which_something_else_follows_is_named_with_both_outboxes() {
    let mut entries = recorded();
    entries[2].outbox = Some(OutboxDigest { hash: OutboxHash::Xxh3(1), kinds: vec![11, 200] });
    let mut replay = Replay::new(&header()).unwrap();
    let mut results = entries.into_iter().map(|entry| replay.step(entry, &mut |_, _, _, _| {}));
    assert!(results.by_ref().take(2).all(|result| result.is_ok()));
    let difference = results.next().unwrap().unwrap_err();
    assert_eq!(difference.seq, Seq(2));
    let text = difference.to_string();
    assert!(text.contains("ExecuteBlock, a command of another version") && text.contains("away"), "{text}");
    assert_eq!(difference.commands.len(), text.lines().count() - 3, "{text}");
}

#[test]
fn another_seed_a_missing_event_and_a_panic_that_does_not_come_again_are_differences() {
    let run = |header: &Header, entries: Vec<Entry>| {
        let mut replay = Replay::new(header).unwrap();
        entries.into_iter().find_map(|entry| replay.step(entry, &mut |_, _, _, _| {}).err())
    };
    assert!(run(&header(), recorded()).is_none());
    let other = Header { seed: [4; 32], ..header() };
    assert_eq!(run(&other, recorded()).unwrap().seq, Seq(0), "command ids differ");
    let mut gap = recorded();
    gap.remove(2);
    let difference = run(&header(), gap).unwrap();
    assert_eq!(difference.found.to_string(), "event 2 is due");
    let mut panicked = recorded();
    panicked[4].outbox = None;
    assert_eq!(run(&header(), panicked).unwrap().expected.to_string(), "a panic");
    let unreadable = Header { limits: r#"{"limit_of_tomorrow": 1}"#.to_owned(), ..header() };
    assert!(matches!(Replay::new(&unreadable), Err(ReplayError::Limits { .. })));
    // A decoder would panic at this key of a trusted genesis.
    let genesis = r#"{"genesis_time": "2026-01-01T00:00:00Z", "chain_id": "private", "validators": [{"power": "5",
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": "B5pejcSXafZMJItPewOx4gOZrUqFiJffHxZ5n8Gwvug="}}]}"#;
    let mut limits = Limits::default();
    limits.trust.root = RootSetting::Genesis(Box::new(crate::genesis::parse(genesis).unwrap()));
    let limits = serde_json::to_string(&limits).unwrap();
    assert!(Replay::new(&Header { limits: limits.clone(), ..header() }).is_ok());
    let limits = limits.replace("vug=\"", "vug=====\"");
    assert!(matches!(Replay::new(&Header { limits, ..header() }), Err(ReplayError::Limits { .. })));
}

#[test]
fn an_event_that_is_too_large_is_refused_and_leaves_nothing_behind() {
    let of = |seq, bytes| {
        let event = answered(Answer::SoftBlockFetched { block: vec![0; bytes].into() });
        Entry::new(stamped(seq, event), Some(OutboxDigest::of(&Outbox::new())))
    };
    let mut batch = Batch::default();
    batch.push(of(0, 10)).expect("a small one");
    let before = batch.bytes();
    let refused = batch.push(of(1, EVENT_MAX)).expect_err("with what belongs to it, it is longer");
    assert_eq!((refused.kind(), batch.bytes()), (io::ErrorKind::FileTooLarge, before));
    batch.push(of(1, EVENT_MAX - 200)).expect("as large as may be");
    assert!(batch.bytes() - before > EVENT_MAX - 200);
}
