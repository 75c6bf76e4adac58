//! One file: what is written is read again, and what is torn, damaged or foreign is told.

use super::*;

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

/// Recorded once: it must decode for ever.
#[test]
fn a_plain_chunk_of_version_2_still_decodes() {
    let file = fixture_of(2, "plain");
    assert_eq!(kinds_of_chunks(&file), [4, 3]);
    let (entries, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(format!("{entries:?}"), format!("{:?}", [soft_block(0, 1_000)]));
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
