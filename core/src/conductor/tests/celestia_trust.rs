//! Stories of trust in Celestia's headers, on a chain whose blocks hold nothing for anybody.

use super::*;
use crate::{
    celestia::square::{DataAvailabilityHeader, NamespacedHash, UnverifiedNamespace},
    event::CelestiaBlock,
    light::{RootSetting, Trust},
    sequencer::header_hash,
    testing::headers,
};

/// Celestia's head. Its blocks are a second apart, and the session begins at height 11.
const HEAD: u64 = 20;
/// When the block of a height was made.
fn time(height: u64) -> Timestamp {
    Timestamp((1_700_000_000 + height) * 1_000_000_000)
}

/// The smallest square, in which no rollup has anything.
fn roots() -> DataAvailabilityHeader {
    let root = NamespacedHash::from_bytes([0; NamespacedHash::LEN]);
    DataAvailabilityHeader { row_roots: vec![root; 2], column_roots: vec![root; 2] }
}

pub(super) fn empty_block(desk: &Desk, height: CelestiaHeight, namespaces: &[Namespace]) -> Answer {
    let empty = |namespace: &Namespace| UnverifiedNamespace { namespace: *namespace, rows: Vec::new() };
    let block = CelestiaBlock {
        signed: desk.celestia_block(height.0).clone(),
        availability: roots(),
        namespaces: namespaces.iter().map(empty).collect(),
    };
    Answer::NamespacesFetched { block: Box::new(block) }
}

/// At the moment of the block at `now`, with headers that are trusted for so many seconds.
fn desk(mode: Mode, now: u64, period: Duration, root: Option<u64>) -> Desk {
    let chain = headers(CELESTIA, HEAD, roots().hash());
    let root = root.map_or(RootSetting::FirstUse, |height| {
        let header = &chain[usize::try_from(height).expect("few") - 1].signed_header.header;
        RootSetting::Header { height, hash: header_hash(header) }
    });
    let mut limits = Limits { trust: TrustSettings::endpoint(), celestia_trust: Trust::Consensus, ..Limits::default() };
    (limits.celestia.root, limits.celestia.trusting_period) = (root, period);
    let mut desk = Desk::at(time(now), mode, 0, limits);
    (desk.celestia_chain, desk.celestia) = (chain, HEAD);
    desk
}

fn is_header(call: &Call) -> bool {
    matches!(call, Call::FetchCelestiaHeader { .. })
}

fn is_links(call: &Call) -> bool {
    matches!(call, Call::FetchCelestiaHeaders { .. })
}

fn is_namespaces(call: &Call) -> bool {
    matches!(call, Call::FetchNamespaces { .. })
}

/// Lets everything happen, and time pass for blocks that wait for others.
fn pass(desk: &mut Desk, held: impl Fn(&Call) -> bool) {
    desk.settle(&held);
    desk.wait(Duration::from_millis(200), held);
}

fn has_read_all(desk: &Desk) -> bool {
    desk.waits() == [Wait::CelestiaBlock { height: CelestiaHeight(HEAD + 1) }]
}

fn trusted(desk: &Desk) -> Vec<u64> {
    desk.conductor.celestia.as_ref().expect("with trust in consensus").client.heights_from(0).collect()
}

/// Heights of Celestia's headers that were persisted, in order.
fn persisted(desk: &Desk) -> Vec<u64> {
    let heights = desk.persisted.iter().filter_map(|record| match record {
        Record::CelestiaHeader(record) => Some(record.height()),
        _ => None,
    });
    heights.collect()
}

const DAY: Duration = Duration::from_hours(24);

#[test]
fn without_a_root_the_first_blocks_are_believed_and_their_header_is_kept_for_the_next_life() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, None);
    pass(&mut desk, nothing);
    assert!(has_read_all(&desk), "{:?}", desk.waits());
    let first = trusted(&desk)[0];
    assert_eq!(persisted(&desk), [first]);
    let told = desk.reports.iter().filter(|report| matches!(report, Report::CelestiaTrustedOnFirstUse { .. })).count();
    assert_eq!(told, 1);
    desk.persisted.clear();
    desk.tell(Event::StopRequested).expect("never refused");
    assert!(persisted(&desk).iter().all(|height| *height > first), "what is kept is not kept again");
}

#[test]
fn a_root_below_is_fetched_first_and_nothing_is_read_before_it_was_seen() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(3));
    pass(&mut desk, is_header);
    let (_, call) = desk.only(is_header);
    assert!(matches!(call, Call::FetchCelestiaHeader { height: CelestiaHeight(3) }));
    assert_eq!((trusted(&desk), has_read_all(&desk)), (Vec::new(), false));
    pass(&mut desk, nothing);
    assert_eq!((trusted(&desk)[0], has_read_all(&desk)), (3, true));
    assert!(!desk.reports.iter().any(|report| matches!(report, Report::CelestiaTrustedOnFirstUse { .. })));
}

#[test]
fn a_root_above_leads_down_by_hashes() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(18));
    // The root is not among what is read first.
    Arc::make_mut(&mut desk.conductor.limits).celestia_in_flight = 2;
    pass(&mut desk, is_links);
    let (_, call) = desk.only(is_links);
    assert!(matches!(call, Call::FetchCelestiaHeaders { last: CelestiaHeight(17), .. }), "the root names it: {call:?}");
    assert!(!has_read_all(&desk));
    // Headers of another chain do not fit.
    let other = headers("another", 18, [1; 32]).into_iter().map(|block| block.signed_header.header);
    desk.answer(is_links, |_, _| Answer::CelestiaHeadersFetched { headers: other.collect() });
    desk.settle(is_links);
    assert_eq!(desk.failures().len(), 1);
    for _ in 0..5 {
        desk.wait(seconds(1), nothing);
    }
    assert!(has_read_all(&desk), "{:?}", desk.waits());
}

#[test]
fn a_header_that_does_not_come_or_is_another_one_is_asked_for_again_and_the_reason_is_told() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(3));
    pass(&mut desk, is_header);
    desk.failures();
    desk.fail(is_header, FaultClass::Transient);
    desk.wait(seconds(1), is_header);
    let mut other = headers(CELESTIA, 3, [1; 32]);
    let other = other.pop().expect("the third");
    desk.answer(is_header, |_, _| Answer::CelestiaHeaderFetched { header: Box::new(other) });
    desk.settle(is_header);
    let failures: Vec<_> = desk.failures().into_iter().map(|(what, attempt, _)| (what, attempt)).collect();
    assert_eq!(failures, [("celestia header", 1), ("celestia header", 2)]);
    assert!(trusted(&desk).is_empty() && !has_read_all(&desk));
    for _ in 0..3 {
        desk.wait(seconds(1), nothing);
    }
    assert!(has_read_all(&desk), "{:?}", desk.waits());
}

#[test]
fn a_block_without_a_commit_is_not_believed_and_read_again() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(18));
    desk.celestia_chain[19].signed_header.commit.signatures.clear();
    pass(&mut desk, nothing);
    assert!(!has_read_all(&desk));
    assert!(desk.failures().iter().any(|(what, ..)| *what == "celestia blobs"));
    desk.celestia_chain = headers(CELESTIA, HEAD, roots().hash());
    for _ in 0..20 {
        desk.wait(seconds(1), nothing);
    }
    assert!(has_read_all(&desk), "{:?}", desk.waits());
}

#[test]
fn without_a_root_what_is_too_old_to_begin_with_is_reached_from_the_head() {
    let mut desk = desk(Mode::FirmOnly, 30, seconds(15), None);
    pass(&mut desk, is_header);
    let (_, call) = desk.only(is_header);
    assert!(matches!(call, Call::FetchCelestiaHeader { height: CelestiaHeight(HEAD) }), "{call:?}");
    pass(&mut desk, nothing);
    assert_eq!((trusted(&desk), has_read_all(&desk)), (vec![HEAD], true));
}

#[test]
fn without_a_root_a_head_that_is_too_old_is_asked_for_again_later_and_parks_nobody() {
    let mut desk = desk(Mode::FirmOnly, 60, seconds(15), None);
    for _ in 0..10 {
        pass(&mut desk, nothing);
    }
    assert_eq!((trusted(&desk), desk.phase()), (Vec::new(), Phase::Running));
    let failed = desk.failures().iter().filter(|(what, ..)| *what == "celestia header").count();
    assert!((2..=5).contains(&failed), "with pauses that grow: {failed}");
}

#[test]
fn a_root_that_is_too_old_parks_those_that_need_celestia_and_no_other() {
    let mut desk = desk(Mode::FirmOnly, 20 + 5 * 86_400, 3 * DAY, Some(3));
    let soft = CellId(1);
    desk.tell(Event::CellInstalled { cell: soft, spec: spec(Mode::SoftOnly) }).expect("a second cell");
    pass(&mut desk, nothing);
    assert_eq!(desk.phase(), Phase::Parked);
    let reasons = desk.reports.iter().filter_map(|report| match report {
        Report::Parked { cell, reason } => Some((*cell, reason.as_str())),
        _ => None,
    });
    let [(CELL, reason)] = reasons.collect::<Vec<_>>()[..] else { panic!("one cell is parked") };
    assert!(reason.contains("3 days are permitted") && reason.contains("celestia.trust_root"), "{reason}");
    assert!(!desk.calls.values().any(|(_, call)| is_namespaces(call)), "nothing more is read for it");
}

#[test]
fn what_was_asked_for_with_proofs_is_not_taken_without_and_the_other_way_round() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(3));
    desk.settle(is_namespaces);
    let ids: Vec<_> = desk.calls.iter().filter(|(_, (_, call))| is_namespaces(call)).map(|(id, _)| *id).collect();
    let blobs = Answer::BlobsFetched { blobs: Vec::new(), unreadable: 0 };
    let refused = desk.tell(Event::Answered { id: ids[0], answer: blobs.clone() });
    assert_eq!(refused, Err(Refusal::WrongAnswer(ids[0])));
    let proven = empty_block(&desk, CelestiaHeight(11), &[]);
    let mut desk = Desk::new(Mode::FirmOnly, 1, Limits::default());
    desk.settle(is_blobs);
    let (id, _) = desk.only(is_blobs);
    assert_eq!(desk.tell(Event::Answered { id, answer: proven }), Err(Refusal::WrongAnswer(id)));
    desk.tell(Event::Answered { id, answer: blobs }).expect("as it was asked for");
}

#[test]
fn what_a_node_cannot_prove_is_told_apart_from_what_is_late() {
    for (class, is_unproven) in [(FaultClass::Invalid, true), (FaultClass::Transient, false)] {
        let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(3));
        Arc::make_mut(&mut desk.conductor.limits).celestia_in_flight = 1;
        desk.settle(is_namespaces);
        desk.fail(is_namespaces, class);
        let waits = desk.waits();
        assert_eq!(matches!(waits[..], [Wait::CelestiaProof { .. }]), is_unproven, "{waits:?}");
    }
}

fn is_block(height: u64) -> impl Fn(&Call) -> bool {
    move |call| matches!(call, Call::FetchNamespaces { height: CelestiaHeight(at), .. } if *at == height)
}

/// The block of a height comes, and no other.
fn comes(desk: &mut Desk, height: u64) {
    desk.answer(is_block(height), Desk::honest);
    desk.settle(is_namespaces);
}

#[test]
fn blocks_with_one_between_them_that_has_not_come_are_checked_by_commits_of_their_own() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(3));
    Arc::make_mut(&mut desk.conductor.limits).celestia_in_flight = 8;
    desk.settle(is_namespaces);
    comes(&mut desk, 12);
    comes(&mut desk, 14);
    assert!(trusted(&desk).is_empty(), "the commits at 13 and 15 may do for them as well");
    desk.wait(Duration::from_millis(200), is_namespaces);
    assert_eq!(trusted(&desk), [3, 12, 14]);
}

#[test]
fn a_block_is_not_checked_later_for_one_above_it_that_failed_before() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(3));
    desk.settle(is_namespaces);
    desk.fail(is_block(13), FaultClass::Transient);
    desk.wait(seconds(1), is_namespaces);
    desk.only(is_block(13));
    comes(&mut desk, 12);
    assert_eq!(trusted(&desk), [3, 12]);
}

#[test]
fn one_commit_is_checked_for_blocks_that_lie_one_above_the_other() {
    let mut desk = desk(Mode::FirmOnly, 30, DAY, Some(3));
    pass(&mut desk, nothing);
    assert!(has_read_all(&desk));
    assert_eq!(desk.conductor.limits.celestia_in_flight, 4, "as many are read at the same time");
    assert_eq!(trusted(&desk), [3, 14, 18, HEAD]);
}
