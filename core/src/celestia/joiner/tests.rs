use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::{
    testing::{Made, ROLLUP, block, block_with_items},
    wire::proto::astria::{
        primitive::v1::{Proof, RollupId as WireRollupId},
        sequencerblock::v1::SubmittedRollupData,
    },
};

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

fn candidates(candidates: impl IntoIterator<Item = UnverifiedMetadata>) -> DecodedBlobs {
    DecodedBlobs { candidates: candidates.into_iter().map(Arc::new).collect(), ..DecodedBlobs::default() }
}

fn bound(made: &Made) -> DecodedBlobs {
    DecodedBlobs { bound: vec![Arc::new(made.bound())], ..DecodedBlobs::default() }
}

fn genuine_record(made: &Made) -> DecodedBlobs {
    with_records([Arc::new(made.record())])
}

/// What is handed out: where it was complete, and its hash.
fn handed_out(joiner: &Joiner) -> Option<(u64, BlockHash)> {
    joiner.block().map(|(celestia, block)| (celestia.0, block.block_hash()))
}

#[test]
fn the_window_ends_where_the_look_ahead_does_and_is_stretched_by_half_of_it_once() {
    let mut joiner = joiner(5, 12);
    assert_eq!(wanted(&mut joiner, 4), [0_u64; 0], "nothing above the head");
    assert_eq!(wanted(&mut joiner, 6), [5, 6]);
    assert_eq!(wanted(&mut joiner, 100), [5, 6, 7, 8]);
    read_nothing(&mut joiner, [6, 8]);
    assert_eq!(wanted(&mut joiner, 100), [5, 7, 9, 10], "what was read out of order is not read again");
    assert_eq!((joiner.lack(), joiner.frontier().0), (Some(Lack::Unread(CelestiaHeight(5))), 5));
    read_nothing(&mut joiner, [5, 7].into_iter().chain(9..=16));
    assert_eq!(wanted(&mut joiner, 100), [17], "the look-ahead is inclusive");
    assert_eq!((joiner.lack(), joiner.frontier().0), (Some(Lack::Unread(CelestiaHeight(17))), 17));
    read_nothing(&mut joiner, [17]);
    assert_eq!(joiner.lack(), Some(Lack::Exhausted { window_end: CelestiaHeight(17) }));
    assert_eq!(wanted(&mut joiner, 100), [18, 19, 20, 21], "once, half a look-ahead more");
    read_nothing(&mut joiner, 18..=23);
    assert_eq!(wanted(&mut joiner, 100), [0_u64; 0]);
    assert_eq!(joiner.lack(), Some(Lack::Exhausted { window_end: CelestiaHeight(23) }));
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
    let trusted = Evidence { header: true, content: false };
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

#[test]
fn a_block_is_made_of_header_metadata_and_data_in_whatever_order_they_come() {
    let made = block(10, &[ROLLUP]);
    let hash = made.trusted().hash();
    let limits = Limits::default();
    let (mut first, mut second, mut third) = (joiner(5, 12), joiner(5, 12), joiner(5, 12));
    // Data, metadata, header.
    read(&mut first, 5, &genuine_record(&made), &limits);
    assert_eq!(first.lack(), Some(Lack::Unread(CelestiaHeight(6))));
    read(&mut first, 6, &candidates([made.candidate()]), &limits);
    assert_eq!(first.lack(), Some(Lack::Header(SequencerHeight(10))));
    assert_eq!(first.wants_headers(&limits).collect::<Vec<_>>(), [SequencerHeight(10)]);
    assert!(!first.header_trusted(&made.trusted(), None, &mut Dropped::new()), "no data items are needed");
    // Metadata with its header, data.
    read(&mut second, 5, &bound(&made), &limits);
    assert_eq!(second.lack(), Some(Lack::RollupData(SequencerHeight(10))));
    assert_eq!((second.wants_headers(&limits).count(), second.bound_without_data().count()), (0, 1));
    read(&mut second, 6, &genuine_record(&made), &limits);
    // Data, metadata with its header.
    read(&mut third, 6, &genuine_record(&made), &limits);
    read(&mut third, 5, &bound(&made), &limits);
    for joiner in [&first, &second, &third] {
        assert_eq!(handed_out(joiner), Some((6, hash)), "where the later part was found");
        assert_eq!((joiner.lack(), joiner.bytes_off(), joiner.bound_without_data().count()), (None, 0, 0));
        assert_eq!(joiner.bytes, joiner.block().map_or(0, |(_, block)| block.size()), "nothing else is held");
    }
}

#[test]
fn a_block_without_data_for_the_rollup_is_empty_and_one_with_data_waits_for_them() {
    let other = block(10, &[RollupId([8; 32])]);
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &bound(&other), &Limits::default());
    assert_eq!(joiner.block().map(|(_, block)| block.transactions().len()), Some(0));
}

#[test]
fn metadata_is_kept_up_to_the_last_wanted_height_and_what_lies_beyond_is_read_again_in_its_turn() {
    let limits = Limits { firm_ahead: 1, ..Limits::default() };
    let mut joiner = joiner(5, 12);
    let all = [9, 10, 11, 12, 13].map(|height| block(height, &[ROLLUP]).candidate());
    read(&mut joiner, 5, &candidates(all), &limits);
    assert_eq!(joiner.heights.keys().map(|height| height.0).collect::<Vec<_>>(), [10, 11]);
    assert_eq!(
        joiner.incomplete.get(&CelestiaHeight(5)).and_then(|incomplete| incomplete.ahead),
        Some(SequencerHeight(12))
    );
    assert_eq!(wanted(&mut joiner, 5), [0_u64; 0]);
    joiner.advance(CelestiaHeight(5), CelestiaHeight(5));
    joiner.advance(CelestiaHeight(5), CelestiaHeight(5));
    assert_eq!((joiner.next().0, wanted(&mut joiner, 5)), (12, vec![5]));
}

#[test]
fn what_is_incomplete_is_not_read_again_while_there_is_something_new_to_read() {
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &DecodedBlobs { overflow: true, ..DecodedBlobs::default() }, &Limits::default());
    let trusted = Evidence { header: true, content: false };
    let mut wanted = |head| joiner.wants_to_read(CelestiaHeight(head), trusted, 4, &Limits::default());
    assert_eq!(wanted(7), [CelestiaHeight(6), CelestiaHeight(7)]);
    assert_eq!(wanted(5), [CelestiaHeight(5)], "now there is time");
}

#[test]
fn a_trusted_header_settles_which_candidate_was_genuine() {
    let made = block(10, &[ROLLUP]);
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &candidates([made.forged(), made.candidate(), made.forged()]), &Limits::default());
    assert_eq!(joiner.bytes, made.forged().wire_size() + made.candidate().wire_size(), "equal ones are one");
    let mut dropped = Dropped::new();
    assert!(!joiner.header_trusted(&made.trusted(), None, &mut dropped));
    assert!(dropped.len() == 1 && dropped[0].1.contains("time"), "{dropped:?}");
    assert_eq!((joiner.lack(), joiner.bytes), (Some(Lack::RollupData(SequencerHeight(10))), 0));
}

#[test]
fn when_every_candidate_was_forged_nothing_of_them_is_left() {
    let made = block(10, &[ROLLUP]);
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &candidates([made.forged()]), &Limits::default());
    let mut dropped = Dropped::new();
    assert!(!joiner.header_trusted(&made.trusted(), None, &mut dropped), "data items would tell nothing more");
    assert_eq!((dropped.len(), joiner.heights.len(), joiner.bytes, joiner.bytes_off()), (1, 0, 0, 0));
    assert_eq!(joiner.lack(), Some(Lack::Unread(CelestiaHeight(6))));
    // One that comes after the header is judged at once.
    let headers = BTreeMap::from([(made.height(), made.trusted())]);
    joiner.read(CelestiaHeight(6), &candidates([made.forged()]), &headers, &Limits::default(), &mut dropped);
    assert_eq!((dropped.len(), joiner.heights.len()), (2, 0));
}

#[test]
fn candidates_that_only_data_items_can_tell_about_wait_for_them() {
    let made = block_with_items(10, &[ROLLUP]);
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &candidates([made.forged(), made.candidate()]), &Limits::default());
    let mut dropped = Dropped::new();
    assert!(joiner.header_trusted(&made.trusted(), None, &mut dropped));
    assert_eq!((dropped.len(), joiner.bytes, joiner.bytes_off()), (1, made.candidate().wire_size(), 0));
    assert_eq!(joiner.lack(), Some(Lack::Header(SequencerHeight(10))));
    assert!(joiner.header_trusted(&made.trusted(), None, &mut dropped), "they are still needed");
    assert!(!joiner.header_trusted(&made.trusted(), Some(&Content::Items(made.items.clone())), &mut dropped));
    assert_eq!(joiner.lack(), Some(Lack::RollupData(SequencerHeight(10))));
}

#[test]
fn data_items_that_clear_no_candidate_end_the_wait() {
    let (made, other) = (block_with_items(10, &[ROLLUP]), block_with_items(11, &[ROLLUP]));
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &candidates([made.candidate()]), &Limits::default());
    let mut dropped = Dropped::new();
    assert!(!joiner.header_trusted(&made.trusted(), Some(&Content::Items(other.items.clone())), &mut dropped));
    assert_eq!((dropped.len(), joiner.bytes, joiner.heights.len()), (1, 0, 0));
}

#[test]
fn a_block_that_another_cell_could_complete_stays_when_its_header_comes() {
    let made = block(10, &[ROLLUP]);
    let complete = made.bound().block_with(&made.record()).expect("genuine data");
    let decoded = DecodedBlobs { blocks: vec![(ROLLUP, complete)], ..DecodedBlobs::default() };
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &decoded, &Limits::default());
    assert!(!joiner.header_trusted(&made.trusted(), None, &mut Dropped::new()));
    read(&mut joiner, 6, &candidates([made.candidate()]), &Limits::default());
    assert_eq!((handed_out(&joiner), joiner.bytes_off()), (Some((5, made.trusted().hash())), 0));
    assert_eq!(joiner.wants_headers(&Limits::default()).count(), 0, "nothing is left to decide");
}

#[test]
fn blocks_and_data_of_other_rollups_are_not_taken() {
    let other = RollupId([8; 32]);
    let made = block(10, &[other]);
    let complete = made.bound().block_with(&made.record()).expect("genuine data");
    let records = vec![Arc::new(made.record())];
    let decoded = DecodedBlobs { blocks: vec![(other, complete)], records, ..DecodedBlobs::default() };
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &decoded, &Limits::default());
    assert_eq!((joiner.block().is_none(), joiner.records.len(), joiner.bytes), (true, 0, 0));
}

#[test]
fn what_was_passed_is_not_taken_again() {
    let made = block(10, &[ROLLUP]);
    let mut joiner = joiner(5, 12);
    joiner.advance(CelestiaHeight(5), CelestiaHeight(5));
    let complete = made.bound().block_with(&made.record()).expect("genuine data");
    let decoded = DecodedBlobs { blocks: vec![(ROLLUP, complete)], ..bound(&made) };
    read(&mut joiner, 6, &decoded, &Limits::default());
    assert_eq!((joiner.heights.len(), joiner.bytes), (0, 0));
}

#[test]
fn forged_data_is_dropped_and_the_genuine_data_completes_the_block() {
    let made = block(10, &[ROLLUP]);
    let BlockHash(hash) = made.trusted().hash();
    let wire = SubmittedRollupData { sequencer_block_hash: hash.to_vec().into(), ..made.records[0].clone() };
    let forged = SubmittedRollupData { transactions: vec![Bytes::new()], ..wire };
    let forged = RollupRecord::decode(&forged.encode_to_vec().into(), &Limits::default()).expect("readable");
    for is_bound_first in [true, false] {
        let mut joiner = joiner(5, 12);
        let mut dropped = Dropped::new();
        let parts = [bound(&made), with_records([Arc::new(forged.clone()), Arc::new(made.record())])];
        let order = if is_bound_first { [0, 1] } else { [1, 0] };
        for (height, part) in (5..).zip(order) {
            joiner.read(CelestiaHeight(height), &parts[part], &BTreeMap::new(), &Limits::default(), &mut dropped);
        }
        assert_eq!(handed_out(&joiner), Some((6, made.trusted().hash())));
        assert!(dropped.len() == 1 && dropped[0].0 == Subject::RollupData, "{dropped:?}");
        assert_eq!(joiner.bytes_off(), 0);
    }
}

#[test]
fn every_height_that_named_a_bound_block_is_read_again_when_it_has_to_go() {
    let next = block(10, &[ROLLUP]);
    let far = block(11, &[ROLLUP]);
    let limits = Limits { firm_buffer_bytes: next.candidate().wire_size() / 2, ..Limits::default() };
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &bound(&far), &limits);
    // A copy of it, a forgery that names it, and metadata of another block at this height.
    read(&mut joiner, 6, &candidates([far.candidate()]), &limits);
    read(&mut joiner, 7, &candidates([far.forged()]), &limits);
    read(&mut joiner, 8, &candidates([block_with_items(11, &[ROLLUP]).candidate()]), &limits);
    read(&mut joiner, 9, &candidates([next.candidate(), next.forged()]), &limits);
    let missing = joiner.incomplete.iter().filter(|(_, incomplete)| incomplete.missing);
    assert_eq!(missing.map(|(height, _)| height.0).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(joiner.heights.keys().map(|height| height.0).collect::<Vec<_>>(), [10], "the next one stays");
}

#[test]
fn a_block_is_not_handed_out_while_a_height_far_below_may_hold_it() {
    let made = block(10, &[ROLLUP]);
    let overflow = DecodedBlobs { overflow: true, ..DecodedBlobs::default() };
    // Half a look-ahead below the block there is nothing that its search height would pass.
    for (lies_at, waits) in [(15, true), (8, false)] {
        let mut joiner = joiner(5, 12);
        read(&mut joiner, 5, &overflow, &Limits::default());
        read_nothing(&mut joiner, 6..lies_at);
        read(&mut joiner, lies_at, &bound(&made), &Limits::default());
        read(&mut joiner, lies_at + 1, &genuine_record(&made), &Limits::default());
        assert_eq!(joiner.block().is_none(), waits, "at {lies_at}");
        assert_eq!(joiner.lack(), waits.then_some(Lack::Unread(CelestiaHeight(5))));
        let headers = joiner.wants_headers(&Limits::default()).collect::<Vec<_>>();
        assert_eq!(headers, if waits { vec![SequencerHeight(10)] } else { vec![] });
        assert_eq!(wanted(&mut joiner, 5), [0_u64; 0], "nothing more is known");
        let trusted = Evidence { header: true, content: false };
        let again = joiner.wants_to_read(CelestiaHeight(100), trusted, 4, &Limits::default());
        assert_eq!(again.first() == Some(&CelestiaHeight(5)), waits);
        // Read with the header, it is known not to hold the block.
        joiner.decoding(CelestiaHeight(5), trusted);
        joiner.read(CelestiaHeight(5), &overflow, &BTreeMap::new(), &Limits::default(), &mut Dropped::new());
        assert_eq!(handed_out(&joiner), Some((lies_at + 1, made.trusted().hash())));
    }
}

#[test]
fn what_is_wanted_of_headers_is_the_same_one_by_one() {
    let limits = Limits { headers_ahead: 2, candidates_per_height: 3, ..Limits::default() };
    let made: Vec<Made> = (10..=14).map(|height| block(height, &[ROLLUP])).collect();
    let flood = with_records((0..100).map(|path| record(1, path)));
    let later = candidates(made[1..].iter().map(Made::candidate));
    let all = candidates(made.iter().map(Made::candidate));
    let found: [&[&DecodedBlobs]; 6] =
        [&[], &[&flood], &[&later], &[&flood, &later], &[&all], &[&bound(&made[0]), &all]];
    let mut wanted_of = Vec::new();
    for found in found {
        let mut joiner = joiner(5, 12);
        for (height, decoded) in (5..).zip(found) {
            read(&mut joiner, height, decoded, &limits);
        }
        let wanted: Vec<_> = joiner.wants_headers(&limits).collect();
        for height in (9..=15).map(SequencerHeight) {
            assert_eq!(joiner.wants_header(height, &limits), wanted.contains(&height), "{height} of {wanted:?}");
        }
        wanted_of.push(wanted.into_iter().map(|height| height.0).collect::<Vec<_>>());
    }
    let expected: [&[u64]; 6] = [&[], &[10], &[11, 12], &[10, 11, 12], &[10, 11, 12], &[11, 12]];
    assert_eq!(wanted_of, expected);
}

#[test]
fn nothing_of_a_block_that_has_become_firm_is_kept() {
    let mut joiner = joiner(5, 8);
    let later = SequencerHeight(12);
    read_nothing(&mut joiner, 5..=14);
    for (celestia, height) in [(5, 12), (14, 11), (15, 12)] {
        joiner.refused.note(CelestiaHeight(celestia), SequencerHeight(height));
    }
    assert_eq!(joiner.refused.above(SequencerHeight(11)), Some(CelestiaHeight(5)));
    assert_eq!(joiner.refused.above(later), None);
    read(&mut joiner, 15, &candidates([10, 12].map(|height| block(height, &[ROLLUP]).candidate())), &Limits::default());
    joiner.advance(CelestiaHeight(15), CelestiaHeight(6));
    assert_eq!(joiner.next(), SequencerHeight(11));
    let refused: Vec<_> = joiner.refused.0.iter().map(|(celestia, height)| (celestia.0, height.0)).collect();
    assert_eq!(refused, [(15, 12)], "5 is too far back, and block 11 at 14 is the next itself");
    assert_eq!(joiner.heights.keys().copied().collect::<Vec<_>>(), [later]);
    assert_eq!(joiner.bytes_off(), 0);
}

#[test]
fn a_wrong_count_of_what_is_held_is_told() {
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &with_records([record(1, 1)]), &Limits::default());
    assert_eq!(joiner.bytes_off(), 0);
    joiner.bytes += 3;
    assert_eq!(joiner.bytes_off(), 3);
}

#[test]
fn the_search_does_not_pass_what_a_later_block_needs() {
    let (next, later) = (block(10, &[ROLLUP]), block(11, &[ROLLUP]));
    let limits = Limits::default();
    for (metadata_at, data_at, lowest) in [(6, 9, 6), (9, 7, 7), (9, 10, 8), (5, 9, 5)] {
        let mut joiner = joiner(5, 12);
        for height in 5..=10 {
            let mut decoded = DecodedBlobs::default();
            if height == metadata_at {
                decoded.bound.extend(bound(&later).bound);
            }
            if height == data_at {
                decoded.records.push(Arc::new(later.record()));
            }
            if height == 8 {
                decoded.bound.extend(bound(&next).bound);
                decoded.records.push(Arc::new(next.record()));
            }
            read(&mut joiner, height, &decoded, &limits);
        }
        assert_eq!(handed_out(&joiner).map(|(celestia, _)| celestia), Some(8));
        let after = joiner.lowest_after(CelestiaHeight(8));
        assert_eq!(after, CelestiaHeight(lowest), "metadata at {metadata_at}, data at {data_at}");
        joiner.advance(CelestiaHeight(8), after);
        assert_eq!(joiner.block().map(|(_, block)| block.height()), Some(SequencerHeight(11)));
    }
}

/// If validators signed two chains, the trusted header may be that of the wrong one, and what was refused be needed again.
#[test]
fn metadata_of_a_later_block_that_its_trusted_header_refuses_holds_the_search_back_within_bounds() {
    let (next, later, limits) = (block(10, &[]), block(11, &[]), Limits::default());
    let other = block_with_items(11, &[]);
    let forged = || candidates([other.candidate()]);
    let read_with_header = |joiner: &mut Joiner, decoded: &DecodedBlobs| {
        let headers = BTreeMap::from([(later.height(), later.trusted())]);
        joiner.read(CelestiaHeight(6), decoded, &headers, &limits, &mut Dropped::new());
    };
    let ways: [&dyn Fn(&mut Joiner); 5] = [
        // The header comes afterwards, comes first, was known to the job; the genuine metadata comes afterwards, comes first.
        &|joiner| {
            read(joiner, 6, &forged(), &limits);
            joiner.header_trusted(&later.trusted(), None, &mut Dropped::new());
        },
        &|joiner| read_with_header(joiner, &forged()),
        &|joiner| read(joiner, 6, &DecodedBlobs { refused: Some(later.height()), ..DecodedBlobs::default() }, &limits),
        &|joiner| {
            read(joiner, 6, &forged(), &limits);
            read(joiner, 9, &bound(&later), &limits);
        },
        &|joiner| {
            read(joiner, 9, &bound(&later), &limits);
            read(joiner, 6, &forged(), &limits);
        },
    ];
    for (way, refuse) in ways.into_iter().enumerate() {
        for (look_ahead, lowest) in [(12, 6), (4, 7)] {
            let mut joiner = joiner(5, look_ahead);
            read_nothing(&mut joiner, [5, 7]);
            refuse(&mut joiner);
            read(&mut joiner, 8, &bound(&next), &limits);
            read(&mut joiner, 9, &bound(&later), &limits);
            let after = joiner.lowest_after(CelestiaHeight(8));
            assert_eq!(after.0, lowest, "way {way}, look-ahead {look_ahead}");
            joiner.advance(CelestiaHeight(8), after);
            assert_eq!(joiner.lowest_after(CelestiaHeight(9)).0, 9, "way {way}: it concerns no block that is to come");
            joiner.advance(CelestiaHeight(9), CelestiaHeight(9));
            assert!(joiner.refused.0.is_empty());
        }
    }
}

#[test]
fn a_first_block_at_the_beginning_of_the_search_fixes_the_window() {
    let mut joiner = joiner(5, 12);
    joiner.advance(CelestiaHeight(5), CelestiaHeight(5));
    read_nothing(&mut joiner, 5..=17);
    assert_eq!(wanted(&mut joiner, 100), [0_u64; 0], "it is not stretched: the search has begun where it should");
    assert_eq!(joiner.window(), (CelestiaHeight(5), CelestiaHeight(17)));
}

#[test]
fn what_was_left_out_far_below_the_block_is_forgotten_with_it() {
    let mut joiner = joiner(5, 12);
    let overflow = DecodedBlobs { overflow: true, ..DecodedBlobs::default() };
    let trusted = Evidence { header: true, content: false };
    for height in [6, 12, 13] {
        joiner.decoding(CelestiaHeight(height), trusted);
        joiner.read(CelestiaHeight(height), &overflow, &BTreeMap::new(), &Limits::default(), &mut Dropped::new());
    }
    read_nothing(&mut joiner, (5..=15).filter(|height| ![6, 12, 13].contains(height)));
    joiner.advance(CelestiaHeight(15), CelestiaHeight(12));
    let left: Vec<u64> = joiner.incomplete.keys().map(|height| height.0).collect();
    assert_eq!(left, [12, 13], "a quarter of the look-ahead below, records of later blocks may still lie");
}

#[test]
fn a_buffer_at_its_bound_gives_up_nothing_and_one_above_it_as_little_as_it_can() {
    let made = block(10, &[ROLLUP]);
    let claimed = |path| {
        let wire = SubmittedRollupData {
            proof: Some(Proof { audit_path: vec![path; 32].into(), leaf_index: 0, tree_size: 3 }),
            ..made.records[0].clone()
        };
        Arc::new(RollupRecord::decode(&wire.encode_to_vec().into(), &Limits::default()).expect("readable"))
    };
    // Two records for a block that a candidate for the next height claims, and one for another block.
    let held = made.candidate().wire_size() + 2 * claimed(1).wire_size();
    let size = record(1, 1).wire_size();
    let all = DecodedBlobs { records: vec![claimed(1), claimed(2), record(1, 1)], ..candidates([made.candidate()]) };
    for (bound, left) in
        [(held + size, held + size), (held + size - 2, held), (held - 2, held - 2 * claimed(1).wire_size())]
    {
        let limits = Limits { firm_buffer_bytes: bound.div_ceil(2), ..Limits::default() };
        let mut joiner = joiner(5, 12);
        read(&mut joiner, 5, &all, &limits);
        assert_eq!((joiner.bytes, joiner.bytes_off()), (left, 0), "at most {bound}");
        assert_eq!(joiner.lack(), Some(Lack::Header(SequencerHeight(10))), "the next candidate stays");
    }
}

#[test]
fn a_block_lies_where_it_was_named_first_by_whomever() {
    let (made, other) = (block(10, &[ROLLUP]), block_with_items(10, &[ROLLUP]));
    let mut joiner = joiner(5, 12);
    for (height, candidate) in (5..).zip([other.candidate(), made.forged(), made.candidate()]) {
        read(&mut joiner, height, &candidates([candidate]), &Limits::default());
    }
    joiner.header_trusted(&made.trusted(), None, &mut Dropped::new());
    assert_eq!(joiner.position(), Some(CelestiaHeight(6)), "the forgery may hide that the block lies there");
}

#[test]
fn a_candidate_that_comes_after_its_header_waits_for_data_items_where_they_are_needed() {
    let made = block_with_items(10, &[ROLLUP]);
    let headers = BTreeMap::from([(made.height(), made.trusted())]);
    let mut joiner = joiner(5, 12);
    let mut dropped = Dropped::new();
    let decoded = candidates([made.candidate()]);
    joiner.read(CelestiaHeight(5), &decoded, &headers, &Limits::default(), &mut dropped);
    assert_eq!((dropped.len(), joiner.lack()), (0, Some(Lack::Header(SequencerHeight(10)))));
    assert!(!joiner.header_trusted(&made.trusted(), Some(&Content::Items(made.items.clone())), &mut dropped));
    assert_eq!(joiner.lack(), Some(Lack::RollupData(SequencerHeight(10))));
}

#[test]
fn a_block_bound_for_another_rollup_lies_where_its_metadata_was_a_candidate() {
    let (first, made) = (block(10, &[ROLLUP]), block(11, &[ROLLUP]));
    let complete = made.bound().block_with(&made.record()).expect("genuine data");
    let decoded = DecodedBlobs { blocks: vec![(ROLLUP, complete)], ..DecodedBlobs::default() };
    let mut joiner = joiner(5, 12);
    read(&mut joiner, 5, &candidates([made.candidate()]), &Limits::default());
    read(&mut joiner, 6, &bound(&first), &Limits::default());
    read(&mut joiner, 6, &genuine_record(&first), &Limits::default());
    read(&mut joiner, 7, &decoded, &Limits::default());
    assert_eq!(joiner.lowest_after(CelestiaHeight(6)), CelestiaHeight(5), "the next search has to find the metadata");
    assert_eq!(joiner.bytes_off(), 0);
}

#[test]
fn a_block_far_above_a_height_that_could_not_be_read_waits_for_that() {
    let made = block(10, &[]);
    let mut joiner = joiner(5, 12);
    read_nothing(&mut joiner, 6..9);
    read(&mut joiner, 9, &bound(&made), &Limits::default());
    assert_eq!((handed_out(&joiner), joiner.lack()), (None, Some(Lack::Unread(CelestiaHeight(5)))));
    assert_eq!(wanted(&mut joiner, 100), [5], "the next search would begin there, too far below the next block");
    read_nothing(&mut joiner, [5]);
    assert_eq!(handed_out(&joiner), Some((9, made.trusted().hash())));
}
