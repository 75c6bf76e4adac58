use super::*;
use crate::testing::{CHAIN, Made, ROLLUP, block, block_with_items, metadata_blob, rollup_blob};

fn job(blobs: Vec<Blob>) -> DecodeBlobs {
    DecodeBlobs {
        found: Found::Blobs(blobs),
        sequencer: Namespace::of_sequencer(CHAIN),
        rollups: BTreeSet::from([ROLLUP]),
        wanted: (SequencerHeight(4), SequencerHeight(5)),
        headers: BTreeMap::new(),
        contents: BTreeMap::new(),
        bound: Vec::new(),
        limits: Arc::new(Limits { candidates_per_height: 2, ..Limits::default() }),
    }
}

fn run(job: DecodeBlobs) -> DecodedBlobs {
    let JobOutcome::Blobs(decoded) = Job::DecodeBlobs(Box::new(job)).run() else { panic!("an outcome of blobs") };
    *decoded.expect("blobs that need no proof")
}

fn knowing(blobs: Vec<Blob>, made: &Made) -> DecodeBlobs {
    DecodeBlobs { headers: BTreeMap::from([(made.height(), made.trusted())]), ..job(blobs) }
}

#[test]
fn metadata_from_the_first_to_the_last_wanted_height_is_kept_and_the_lowest_beyond_is_named() {
    let all = metadata_blob((3..=7).rev().map(|height| block(height, &[ROLLUP]).metadata));
    let decoded = run(job(vec![all]));
    let mut kept: Vec<u64> = decoded.candidates.iter().map(|metadata| metadata.height().0).collect();
    kept.sort_unstable();
    assert_eq!((kept, decoded.ahead), (vec![4, 5], Some(SequencerHeight(6))));
    assert!(!decoded.overflow && decoded.dropped.is_empty());
}

#[test]
fn a_block_is_complete_when_header_metadata_and_data_meet() {
    let made = block(4, &[ROLLUP]);
    let data = rollup_blob(&ROLLUP, made.records.clone());
    let decoded = run(knowing(vec![data.clone(), metadata_blob([made.metadata.clone()])], &made));
    let (rollup, complete) = &decoded.blocks[0];
    assert_eq!((*rollup, complete.block_hash(), complete.height()), (ROLLUP, made.trusted().hash(), made.height()));
    assert!(decoded.bound.len() == 1 && decoded.records.is_empty());
    // The same without the header: nothing is proven, both parts are kept.
    let decoded = run(job(vec![data, metadata_blob([made.metadata])]));
    assert_eq!((decoded.candidates.len(), decoded.records.len(), decoded.blocks.len()), (1, 1, 0));
}

#[test]
fn metadata_that_another_cell_has_bound_is_passed_on_once_however_often_it_was_posted() {
    let made = block(4, &[ROLLUP]);
    let bound = Arc::new(made.bound());
    let copies = metadata_blob([made.metadata.clone(), made.metadata]);
    let decoded = run(DecodeBlobs { bound: vec![Arc::clone(&bound)], ..job(vec![copies]) });
    assert_eq!(decoded.bound, [bound]);
    assert!(decoded.candidates.is_empty());
}

#[test]
fn metadata_that_contradicts_the_committed_header_is_dropped_and_not_kept() {
    let made = block(4, &[ROLLUP]);
    let mut forged = made.metadata.clone();
    forged.header.as_mut().expect("a header").proposer_address = Bytes::from_static(&[9; 20]);
    let decoded = run(knowing(vec![metadata_blob([forged])], &made));
    assert!(decoded.candidates.is_empty() && decoded.bound.is_empty());
    assert_eq!((decoded.dropped[0].0, decoded.refused), (Subject::Metadata, Some(SequencerHeight(4))));
    assert!(decoded.dropped[0].1.contains("height 4: proposer"), "{:?}", decoded.dropped);
}

#[test]
fn metadata_that_only_data_items_can_tell_about_waits_for_them_in_bounds() {
    let made = block_with_items(4, &[ROLLUP]);
    let copies = || vec![metadata_blob([made.metadata.clone(), made.metadata.clone(), made.metadata.clone()])];
    let two = || vec![metadata_blob([made.metadata.clone(), made.metadata.clone()])];
    let waiting = run(knowing(two(), &made));
    assert_eq!((waiting.candidates.len(), waiting.overflow), (2, false), "as many as may be kept");
    let waiting = run(knowing(copies(), &made));
    assert_eq!((waiting.candidates.len(), waiting.overflow), (2, true), "and the height is read again");
    let contents = BTreeMap::from([(made.height(), Content::Items(made.items.clone()))]);
    let decoded = run(DecodeBlobs { contents, ..knowing(copies(), &made) });
    assert_eq!((decoded.bound.len(), decoded.candidates.len(), decoded.overflow), (1, 0, false));
}

#[test]
fn a_flood_of_bad_blobs_is_counted_in_full_and_listed_in_part() {
    let bad = Blob { namespace: Namespace::of_sequencer(CHAIN), data: Bytes::from_static(b"not brotli") };
    let decoded = run(job(vec![bad; 20]));
    assert_eq!((decoded.dropped.len(), decoded.dropped_more), (16, 4));
    assert!(decoded.dropped.iter().all(|(subject, reason)| *subject == Subject::Blob && !reason.is_empty()));
}

#[test]
fn a_buffer_without_room_leaves_out_what_is_unproven_and_says_so() {
    let made = block(4, &[ROLLUP]);
    let blobs = vec![metadata_blob([made.metadata.clone()]), rollup_blob(&ROLLUP, made.records.clone())];
    let limits = Arc::new(Limits { firm_buffer_bytes: made.record().wire_size(), ..Limits::default() });
    let decoded = run(DecodeBlobs { limits, ..job(blobs) });
    assert_eq!((decoded.candidates.len(), decoded.records.len(), decoded.overflow), (0, 1, true));
}

#[test]
fn data_items_of_another_block_are_refused() {
    let (made, other) = (block_with_items(4, &[ROLLUP]), block_with_items(5, &[ROLLUP]));
    let verify = |transactions| {
        let JobOutcome::Transactions(result) =
            (Job::VerifyTransactions { header: Box::new(made.trusted()), transactions }).run()
        else {
            panic!("an outcome of transactions")
        };
        result
    };
    assert_eq!(verify(made.items.clone()).as_ref(), Ok(&made.items));
    assert!(verify(other.items).is_err() && verify(Vec::new()).is_err());
}
