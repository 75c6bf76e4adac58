//! Stories of a server whose soft blocks contradict signed headers, and of what is kept of them.

use super::*;
use crate::{
    record::Record,
    sequencer::{BlockFalsehood, FalseBlock},
};

/// Past all blocks, and not by much.
const NOW: Timestamp = Timestamp(1_700_000_100_000_000_000);

/// Names of gauges.
const REFUSED: &str = "bytes of a refused block";
const AS_THEY_CAME: &str = "bytes of soft blocks as they came";

fn is_commit(call: &Call) -> bool {
    matches!(call, Call::FetchSignedHeader { .. } | Call::FetchValidators { .. })
}

/// Under the hash of the third block, which is the one about which the server lies.
fn lie(desk: &Desk, reason: BlockFalsehood) -> Answer {
    let mut block = desk.made(2).filtered.clone();
    match reason {
        BlockFalsehood::OtherHash => block.block_hash = vec![9; 32].into(),
        BlockFalsehood::OtherHeader => block.header.as_mut().expect("a header").proposer_address = vec![1; 20].into(),
        BlockFalsehood::FalseProof => block.all_rollup_ids.clear(),
        BlockFalsehood::OtherData => block.upgrade_change_hashes = vec![vec![1; 32].into()],
    }
    Answer::SoftBlockFetched { block: block.encode_to_vec().into() }
}

fn bytes(answer: &Answer) -> usize {
    match answer {
        Answer::SoftBlockFetched { block } => block.len(),
        other => panic!("{other:?}"),
    }
}

/// A conductor that waits for its second soft block.
fn desk(records: &[Record], change: impl FnOnce(&mut Limits)) -> Desk {
    let mut limits = Limits::default();
    change(&mut limits);
    let mut desk = Desk::at(NOW, Mode::SoftOnly, 4, limits.clone());
    desk.conductor = Conductor::new(limits, [3; 32], records);
    desk.seq = 0;
    (desk.calls, desk.jobs) = (BTreeMap::new(), Vec::new());
    desk.tell(Event::CellInstalled { cell: CELL, spec: spec(Mode::SoftOnly) }).expect("a first cell");
    desk.settle(is_third);
    desk
}

fn is_third(call: &Call) -> bool {
    matches!(call, Call::FetchSoftBlock { height, .. } if *height == SequencerHeight(3))
}

fn evidence(desk: &mut Desk) -> Vec<FalseBlock> {
    let reports = std::mem::take(&mut desk.reports).into_iter().filter_map(|report| match report {
        Report::FalseBlock { evidence } => Some(*evidence),
        _ => None,
    });
    reports.collect()
}

/// Lies once more, as soon as the server is asked again.
fn lies_again(desk: &mut Desk, reason: BlockFalsehood, held: impl Fn(&Call) -> bool + Copy) {
    while !desk.calls.values().any(|(_, call)| is_third(call)) {
        desk.wait(Duration::from_millis(50), |call| is_third(call) || held(call));
    }
    desk.answer(is_third, |desk, _| lie(desk, reason));
    desk.settle(|call| is_third(call) || held(call));
}

/// The third block comes as it is, and is not verified yet.
fn tells_the_truth(desk: &mut Desk) {
    while !desk.calls.values().any(|(_, call)| is_third(call)) {
        desk.wait(Duration::from_millis(50), is_third);
    }
    desk.answer(is_third, Desk::honest);
}

#[test]
fn each_way_to_be_false_is_kept_once_in_all_lives_and_the_truth_is_taken_afterwards() {
    let mut desk = desk(&[], |_| {});
    let mut kept = Vec::new();
    for reason in BlockFalsehood::ALL {
        lies_again(&mut desk, reason, nothing);
        let found = evidence(&mut desk);
        assert_eq!(found.iter().map(|evidence| evidence.reason).collect::<Vec<_>>(), [reason]);
        assert!(found[0].verify(&Limits::default()).is_ok());
        lies_again(&mut desk, reason, nothing);
        assert!(evidence(&mut desk).is_empty(), "one is enough");
        kept.extend(found.into_iter().map(|evidence| Record::FalseBlock(Box::new(evidence))));
    }
    assert_eq!(desk.node.soft, 1, "nothing of it is believed");
    desk.wait(seconds(30), nothing);
    assert_eq!(desk.node.soft, 4);

    let mut next = super::false_blocks::desk(&kept, |_| {});
    for reason in BlockFalsehood::ALL {
        lies_again(&mut next, reason, is_commit);
        assert!(!next.calls.values().any(|(_, call)| is_commit(call)), "an earlier life has it: nothing is asked for");
    }
    tells_the_truth(&mut next);
    assert_eq!(held(&next, AS_THEY_CAME), 0, "nothing more could be shown");
    next.wait(seconds(30), nothing);
    assert_eq!((next.node.soft, evidence(&mut next).len()), (4, 0));
}

#[test]
fn what_was_shown_once_is_not_proven_again() {
    let mut first = desk(&[], |_| {});
    lies_again(&mut first, BlockFalsehood::FalseProof, nothing);
    let kept: Vec<_> = evidence(&mut first).into_iter().map(|found| Record::FalseBlock(Box::new(found))).collect();
    for mut desk in [first, desk(&kept, |_| {})] {
        lies_again(&mut desk, BlockFalsehood::FalseProof, is_commit);
        assert!(!desk.calls.values().any(|(_, call)| is_commit(call)));
        assert_eq!(held(&desk, REFUSED), 0);
    }
}

#[test]
fn a_block_that_is_held_against_a_header_is_not_given_up_for_another() {
    let mut desk = desk(&[], |_| {});
    let first = bytes(&lie(&desk, BlockFalsehood::FalseProof));
    assert_ne!(first, bytes(&lie(&desk, BlockFalsehood::OtherData)));
    lies_again(&mut desk, BlockFalsehood::FalseProof, is_commit);
    lies_again(&mut desk, BlockFalsehood::OtherData, is_commit);
    assert_eq!(held(&desk, REFUSED), first);
    desk.settle(nothing);
    assert_eq!(evidence(&mut desk).iter().map(|found| found.reason).collect::<Vec<_>>(), [BlockFalsehood::FalseProof]);
}

#[test]
fn a_commit_that_failed_is_asked_for_again_though_nothing_else_is_due() {
    let mut desk = desk(&[], |limits| limits.sequencer_poll = Duration::from_hours(1));
    lies_again(&mut desk, BlockFalsehood::FalseProof, is_commit);
    desk.settle(is_commit);
    desk.wait(seconds(1), is_commit);
    assert_eq!(desk.node.soft, 4);
    desk.fail(is_commit, FaultClass::Transient);
    assert!(!desk.calls.values().any(|(_, call)| is_commit(call)));
    desk.wait(seconds(11), is_commit);
    desk.only(is_commit);
}

#[test]
fn a_commit_that_cannot_be_had_delays_nothing_and_is_given_up() {
    let mut desk = desk(&[], |_| {});
    lies_again(&mut desk, BlockFalsehood::FalseProof, is_commit);
    desk.only(is_commit);
    assert_eq!(held(&desk, REFUSED), bytes(&lie(&desk, BlockFalsehood::FalseProof)));
    // The truth is taken while it is asked for.
    desk.settle(is_commit);
    desk.wait(seconds(1), is_commit);
    assert_eq!(desk.node.soft, 4);
    for _ in 0..6 {
        desk.fail(is_commit, FaultClass::Transient);
        desk.wait(seconds(11), is_commit);
    }
    let failed = desk.failures();
    let named = failed.iter().filter(|(what, ..)| *what == "evidence of a false block").map(|(_, attempt, _)| *attempt);
    assert_eq!(named.collect::<Vec<_>>(), [1, 2, 3, 4, 5], "the sixth is the last: {failed:?}");
    desk.wait(seconds(100), is_commit);
    assert!(!desk.calls.values().any(|(_, call)| is_commit(call)));
    assert_eq!(held(&desk, REFUSED), 0);
}

#[test]
fn another_header_or_one_that_nobody_signed_is_not_shown() {
    let mut desk = desk(&[], |_| {});
    lies_again(&mut desk, BlockFalsehood::OtherData, is_commit);
    desk.answer(is_commit, |desk, _| Answer::SignedHeaderFetched {
        signed_header: Box::new(desk.made(1).signed.clone()),
    });
    let mut unsigned = desk.made(2).signed.clone();
    unsigned.commit.signatures.clear();
    desk.wait(seconds(11), is_commit);
    desk.answer(is_commit, |_, _| Answer::SignedHeaderFetched { signed_header: Box::new(unsigned) });
    desk.wait(seconds(11), is_commit);
    assert!(evidence(&mut desk).is_empty());
    desk.settle(nothing);
    assert_eq!(evidence(&mut desk).len(), 1, "the genuine one is");
}

#[test]
fn what_proves_nothing_costs_no_call() {
    let mut desk = desk(&[], |_| {});
    let commits = |desk: &Desk| desk.calls.values().any(|(_, call)| is_commit(call));
    let answers: [fn(&Desk) -> Bytes; 3] = [
        |_| Bytes::from_static(b"garbage"),
        |desk| desk.made(3).filtered.encode_to_vec().into(),
        |desk| {
            let mut block = desk.made(2).filtered.clone();
            block.rollup_transactions.clear();
            block.encode_to_vec().into()
        },
    ];
    for answer in answers {
        while !desk.calls.values().any(|(_, call)| is_third(call)) {
            desk.wait(Duration::from_millis(50), |call| is_third(call) || is_commit(call));
        }
        desk.answer(is_third, |desk, _| Answer::SoftBlockFetched { block: answer(desk) });
        desk.settle(|call| is_third(call) || is_commit(call));
        assert!(!commits(&desk));
        assert_eq!(held(&desk, REFUSED), 0);
    }
    assert!(evidence(&mut desk).is_empty());
}

#[test]
fn without_trust_in_consensus_nothing_is_kept() {
    let mut desk = desk(&[], |limits| limits.trust = TrustSettings::endpoint());
    lies_again(&mut desk, BlockFalsehood::FalseProof, nothing);
    assert!(evidence(&mut desk).is_empty());
    assert_eq!(held(&desk, REFUSED), 0);
    tells_the_truth(&mut desk);
    assert_eq!(held(&desk, AS_THEY_CAME), 0);
}

#[test]
fn blocks_are_kept_as_they_came_until_their_headers_come_and_only_as_long_as_there_is_room() {
    let mut desk = Desk::at(NOW, Mode::SoftOnly, 4, Limits::default());
    desk.settle(is_commit);
    let all = (1..=4).map(|number| desk.made(number).filtered.encoded_len()).sum::<usize>();
    assert_eq!(held(&desk, AS_THEY_CAME), all);
    desk.settle(nothing);
    assert_eq!((held(&desk, AS_THEY_CAME), desk.node.soft), (0, 4));
    for (missing, kept) in [(0, 1), (1, 0)] {
        let room = bytes(&lie(&desk, BlockFalsehood::OtherData)) - missing;
        let mut desk = super::false_blocks::desk(&[], |limits| limits.soft_buffer_bytes = room);
        lies_again(&mut desk, BlockFalsehood::OtherData, nothing);
        assert_eq!(evidence(&mut desk).len(), kept, "{missing} bytes are missing");
        desk.wait(seconds(30), nothing);
        assert_eq!(desk.node.soft, 4, "it is refused all the same");
    }
}
