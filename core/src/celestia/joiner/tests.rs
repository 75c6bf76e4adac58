use prost::Message as _;

use super::*;
use crate::wire::proto::astria::{
    primitive::v1::{Proof, RollupId as WireRollupId},
    sequencerblock::v1::SubmittedRollupData,
};

const ROLLUP: RollupId = RollupId([7; 32]);

fn joiner(lowest: u64, look_ahead: u64) -> Joiner {
    Joiner::new(ROLLUP, SequencerHeight(10), CelestiaHeight(lowest), look_ahead)
}

fn wanted(joiner: &mut Joiner, head: u64) -> Vec<u64> {
    let heights = joiner.wants_to_read(CelestiaHeight(head), Evidence::default(), 4, &Limits::default());
    heights.into_iter().map(|height| height.0).collect()
}

fn read(joiner: &mut Joiner, height: u64, decoded: &DecodedBlobs, limits: &Limits) {
    joiner.decoding(CelestiaHeight(height), Evidence::default());
    joiner.read(CelestiaHeight(height), decoded, &BTreeMap::new(), limits, &mut Dropped::new());
}

fn read_nothing(joiner: &mut Joiner, heights: impl IntoIterator<Item = u64>) {
    for height in heights {
        read(joiner, height, &DecodedBlobs::default(), &Limits::default());
    }
}

/// Rollup data that claims a block and belongs to none.
fn record(block: u8, path: u8) -> Arc<RollupRecord> {
    let wire = SubmittedRollupData {
        sequencer_block_hash: Bytes::from(vec![block; 32]),
        rollup_id: Some(WireRollupId { inner: Bytes::copy_from_slice(&ROLLUP.0) }),
        transactions: Vec::new(),
        proof: Some(Proof { audit_path: Bytes::from(vec![path; 32]), leaf_index: 0, tree_size: 3 }),
    };
    let bytes = Bytes::from(wire.encode_to_vec());
    Arc::new(RollupRecord::decode(&bytes, &Limits::default()).expect("a readable record"))
}

fn with_records(records: impl IntoIterator<Item = Arc<RollupRecord>>) -> DecodedBlobs {
    DecodedBlobs { records: records.into_iter().collect(), ..DecodedBlobs::default() }
}

#[test]
fn the_window_ends_where_the_look_ahead_does_and_is_stretched_by_half_of_it_once() {
    let mut joiner = joiner(5, 8);
    assert_eq!(wanted(&mut joiner, 4), [0_u64; 0], "nothing above the head");
    assert_eq!(wanted(&mut joiner, 6), [5, 6]);
    assert_eq!(wanted(&mut joiner, 100), [5, 6, 7, 8]);
    read_nothing(&mut joiner, [6, 8]);
    assert_eq!(wanted(&mut joiner, 100), [5, 7, 9, 10], "what was read out of order is not read again");
    assert_eq!(joiner.lack(), Some(Lack::Unread(CelestiaHeight(5))));
    read_nothing(&mut joiner, [5, 7, 9, 10, 11, 12]);
    assert_eq!(wanted(&mut joiner, 100), [13], "the look-ahead is inclusive");
    read_nothing(&mut joiner, [13]);
    assert_eq!(wanted(&mut joiner, 100), [14, 15, 16, 17], "once, half a look-ahead more");
    read_nothing(&mut joiner, [14, 15, 16, 17]);
    assert_eq!(wanted(&mut joiner, 100), [0_u64; 0]);
    assert_eq!(joiner.lack(), Some(Lack::Exhausted { window_end: CelestiaHeight(17) }));
}

#[test]
fn a_firm_block_moves_the_window_and_nothing_moves_it_back() {
    let mut joiner = joiner(5, 6);
    read_nothing(&mut joiner, 5..=9);
    assert_eq!(joiner.lowest_after(CelestiaHeight(8)), CelestiaHeight(8));
    joiner.advance(CelestiaHeight(8), CelestiaHeight(8));
    assert_eq!(joiner.next(), SequencerHeight(11));
    assert_eq!(joiner.window(), (CelestiaHeight(8), CelestiaHeight(14)));
    joiner.advance(CelestiaHeight(6), CelestiaHeight(8));
    assert_eq!(joiner.window(), (CelestiaHeight(8), CelestiaHeight(14)));
    assert_eq!(joiner.lowest_after(CelestiaHeight(6)), CelestiaHeight(8), "the search height does not go back");
}

#[test]
fn a_window_at_the_end_of_all_numbers_does_not_loop_or_wrap() {
    let mut joiner = joiner(u64::MAX - 1, u64::MAX);
    assert!(wanted(&mut joiner, u64::MAX).len() <= 4);
    read_nothing(&mut joiner, [u64::MAX - 1, u64::MAX]);
    assert!(wanted(&mut joiner, u64::MAX).len() <= 4);
    assert_eq!(joiner.lowest_after(CelestiaHeight(u64::MAX)), CelestiaHeight(u64::MAX));
}

#[test]
fn rollup_data_that_nothing_vouches_for_holds_the_search_back_by_a_quarter_of_the_look_ahead_at_most() {
    let mut joiner = joiner(5, 8);
    read(&mut joiner, 5, &with_records([record(1, 1)]), &Limits::default());
    read_nothing(&mut joiner, 6..=14);
    assert_eq!(joiner.lowest_after(CelestiaHeight(7)), CelestiaHeight(5));
    assert_eq!(joiner.lowest_after(CelestiaHeight(10)), CelestiaHeight(8));
    joiner.advance(CelestiaHeight(13), CelestiaHeight(11));
    assert!(!joiner.records.is_empty(), "as wide as the window is, it may still be needed");
    joiner.advance(CelestiaHeight(14), CelestiaHeight(12));
    assert!(joiner.records.is_empty() && joiner.bytes == 0, "it lies farther back than the window is wide");
}

#[test]
fn a_flood_of_rollup_data_for_one_block_is_cut_and_its_height_read_again_with_more_knowledge() {
    let limits = Limits { candidates_per_height: 3, ..Limits::default() };
    let mut joiner = joiner(5, 6);
    read(&mut joiner, 5, &with_records((0..100).chain(0..100).map(|path| record(1, path))), &limits);
    assert_eq!(joiner.records.values().map(Vec::len).sum::<usize>(), 3);
    assert_eq!(joiner.wants_headers(&limits).collect::<Vec<_>>(), [SequencerHeight(10)]);
    assert_eq!(wanted(&mut joiner, 5), [0_u64; 0], "nothing more is known");
    let trusted = Evidence { header: true, transactions: false };
    assert_eq!(joiner.wants_to_read(CelestiaHeight(5), trusted, 4, &limits), [CelestiaHeight(5)]);
}

#[test]
fn what_is_too_far_ahead_is_read_again_when_its_turn_has_come() {
    let mut joiner = joiner(5, 8);
    let decoded = DecodedBlobs { ahead: Some(SequencerHeight(11)), ..DecodedBlobs::default() };
    read(&mut joiner, 5, &decoded, &Limits::default());
    assert_eq!(joiner.wants_headers(&Limits::default()).count(), 0, "the next block cannot be among it");
    assert_eq!(wanted(&mut joiner, 5), [0_u64; 0]);
    assert_eq!(joiner.lowest_after(CelestiaHeight(5)), CelestiaHeight(5));
    joiner.advance(CelestiaHeight(5), CelestiaHeight(5));
    assert_eq!(wanted(&mut joiner, 5), [5]);
}

#[test]
fn a_full_buffer_gives_up_what_no_candidate_claims_and_remembers_from_where() {
    let size = record(0, 0).wire_size();
    let limits = Limits { firm_buffer_bytes: size, ..Limits::default() };
    let mut joiner = joiner(5, 6);
    for height in 5..=9_u8 {
        read(&mut joiner, height.into(), &with_records([record(height, 0)]), &limits);
    }
    read_nothing(&mut joiner, [10]);
    assert_eq!((joiner.records.len(), joiner.bytes), (2, 2 * size));
    let missing = joiner.incomplete.iter().filter(|(_, incomplete)| incomplete.missing);
    assert_eq!(missing.map(|(height, _)| height.0).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(joiner.lowest_after(CelestiaHeight(8)), CelestiaHeight(5), "they may be needed by a later block");
}
