//! Stories of firm without a server, on a chain whose records on Celestia only the blocks can tell from forged ones.

use super::*;
use crate::{
    light::{RootSetting, TrustedRecord},
    record::Record,
    testing::{block_after_with_items, block_with_items},
};

/// Past all blocks, and not by much.
const NOW: Timestamp = Timestamp(1_700_000_100_000_000_000);

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.gossip.enabled = true;
    limits.gossip.sole_source_of = Some(CHAIN.to_owned());
    limits.trust.root = RootSetting::Header { height: 1, hash: block(1, &[ROLLUP]).trusted().hash() };
    limits
}

fn desk(mode: Mode, blocks: usize, limits: Limits) -> Desk {
    let mut desk = Desk::at(NOW, mode, 0, limits);
    while desk.chain.len() <= blocks {
        let next = block_after_with_items(&desk.chain[desk.chain.len() - 1], &[ROLLUP]);
        desk.chain.push(next);
    }
    desk.celestia = 10 + blocks as u64;
    desk
}

/// No peer has a block above.
fn above(last: u64) -> impl Fn(&Call) -> bool {
    move |call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 > last)
}

/// Lets seconds pass, each with all that follows.
fn pass(desk: &mut Desk, count: u64, held: impl Fn(&Call) -> bool) {
    desk.settle(&held);
    for _ in 0..count {
        desk.wait(seconds(1), &held);
        assert!(!asks_a_server(desk));
    }
}

fn asks_a_server(desk: &Desk) -> bool {
    desk.calls.values().any(|(_, call)| {
        matches!(call, Call::FetchBlockTransactions { .. } | Call::FetchSignedHeader { .. } | Call::FetchHeaders { .. })
    })
}

#[test]
fn blocks_of_peers_are_enough_to_bind_what_lies_on_celestia() {
    for mode in [Mode::SoftAndFirm, Mode::FirmOnly] {
        let mut desk = desk(mode, 9, limits());
        pass(&mut desk, 20, above(10));
        assert_eq!(desk.heads(), (9, 9), "{mode:?}: {:?}", desk.waits());
        assert_eq!(desk.penalties.len(), 0);
    }
}

fn is_second(call: &Call) -> bool {
    matches!(call, Call::FetchFromPeers { height, .. } if height.0 == 2)
}

/// A conductor that began again: the header that firm needs next is still trusted, nothing is known of its block, and the
/// question about it is on its way.
fn begun_again() -> Desk {
    let mut desk = desk(Mode::SoftAndFirm, 9, limits());
    desk.celestia = 10;
    pass(&mut desk, 10, above(10));
    assert_eq!(desk.heads(), (9, 0), "nothing lies on Celestia yet");
    let record = Record::SequencerHeader(TrustedRecord::new(&desk.made(1).light()));
    (desk.conductor, desk.seq) = (Conductor::new(limits(), [4; 32], &[record]), 0);
    desk.calls.clear();
    desk.celestia = 19;
    desk.tell(Event::CellInstalled { cell: CELL, spec: spec(Mode::SoftAndFirm) }).expect("a first cell");
    pass(&mut desk, 1, |call| is_second(call) || above(10)(call));
    desk
}

#[test]
fn a_block_whose_header_alone_is_known_is_asked_for_and_status_says_so() {
    let mut desk = begun_again();
    let wait = |attempts| Wait::Content { height: SequencerHeight(2), attempts, from_peers: true };
    assert!(desk.waits().contains(&wait(1)), "{:?}", desk.waits());
    desk.fail(is_second, FaultClass::NotYet);
    assert!(desk.waits().contains(&wait(2)), "{:?}", desk.waits());
    pass(&mut desk, 20, above(10));
    assert_eq!(desk.heads(), (9, 9), "{:?}", desk.waits());
}

#[test]
fn a_forged_record_that_comes_first_does_not_keep_the_genuine_one_out() {
    let mut desk = desk(Mode::FirmOnly, 4, limits());
    // Data of another block, with an upgrade that would make them those of the committed one.
    let mut forged = block_with_items(2, &[RollupId([9; 32])]).metadata;
    forged.block_hash = desk.made(1).metadata.block_hash.clone();
    forged.upgrade_change_hashes.push(vec![1; 32].into());
    let is_first = |call: &Call| matches!(call, Call::FetchBlobs { height, .. } if height.0 == 11);
    desk.settle(|call| is_first(call) || above(5)(call));
    desk.answer(is_first, |desk, call| {
        let Answer::BlobsFetched { mut blobs, .. } = desk.honest(call) else { panic!("blobs were asked for") };
        blobs.insert(0, metadata_blob([forged]));
        Answer::BlobsFetched { blobs, unreadable: 0 }
    });
    pass(&mut desk, 10, above(5));
    assert_eq!(desk.heads(), (4, 4), "{:?}", desk.waits());
    let dropped = desk.reports.iter().find_map(|report| match report {
        Report::Dropped { what: Subject::Metadata, reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(dropped.expect("it is named").contains("another record was bound"));
}

#[test]
fn the_root_is_known_by_its_hash_when_its_block_is_needed_after_the_trusting_period() {
    let mut limits = limits();
    let root = desk(Mode::SoftAndFirm, 1, limits.clone()).made(1).light();
    let age = NOW.0 - u64::try_from(root.header().time.unix_timestamp_nanos()).expect("after 1970");
    limits.trust.root = RootSetting::Header { height: root.height(), hash: root.hash() };
    limits.trust.trusting_period = Duration::from_nanos(age) + seconds(2);
    let mut desk = desk(Mode::SoftAndFirm, 9, limits);
    pass(&mut desk, 4, above(10));
    assert_eq!(desk.heads(), (9, 9), "{:?}", desk.waits());
    // The node comes back without its blocks.
    let next = block_after_with_items(&desk.chain[9], &[ROLLUP]);
    desk.chain.push(next);
    desk.celestia += 1;
    let is_execute = |call: &Call| matches!(call, Call::ExecuteBlock { .. });
    pass(&mut desk, 1, |call| is_execute(call) || above(11)(call));
    (desk.node.soft, desk.node.firm, desk.node.lowest) = (0, 0, 11);
    desk.fail(is_execute, FaultClass::SessionLost);
    pass(&mut desk, 3, above(11));
    assert_eq!(desk.heads(), (10, 10), "{:?}", desk.waits());
}

#[test]
fn after_an_answer_that_cannot_be_taken_time_passes_before_the_next_one() {
    let mut desk = begun_again();
    // The header is trusted, but of its content the peer tells nothing true.
    let before = desk.conductor.status(desk.now).gossip.expect("it is on").counts.asked;
    desk.answer(is_second, |desk, _| {
        let other = desk.made(2).messages().iter().find(|message| message.topic == Topic::Blocks).map(sealed);
        Answer::FetchedFromPeers { peer: GossipPeer(2), block: other, rollups: Vec::new() }
    });
    desk.settle(|call: &Call| is_second(call) || above(10)(call));
    let asked = desk.conductor.status(desk.now).gossip.expect("it is on").counts.asked - before;
    assert_eq!((asked, desk.calls.values().filter(|(_, call)| is_second(call)).count()), (0, 0), "{:?}", desk.waits());
    pass(&mut desk, 20, above(10));
    assert_eq!(desk.heads(), (9, 9), "{:?}", desk.waits());
}

#[test]
fn a_root_that_is_too_old_when_peers_show_it_parks_and_says_what_to_do() {
    let mut limits = limits();
    limits.trust.trusting_period = seconds(50);
    let mut desk = desk(Mode::SoftAndFirm, 9, limits);
    let is_peers = |call: &Call| matches!(call, Call::FetchFromPeers { .. });
    desk.settle(is_peers);
    // What only looks old proves nothing.
    desk.answer(is_peers, |desk, _| {
        let old = block(1, &[RollupId([9; 32])]).messages().iter().find(|it| it.topic == Topic::Blocks).map(sealed);
        assert_ne!(old, desk.made(0).messages().iter().find(|it| it.topic == Topic::Blocks).map(sealed));
        Answer::FetchedFromPeers { peer: GossipPeer(2), block: old, rollups: Vec::new() }
    });
    desk.settle(is_peers);
    assert_eq!((desk.phase(), desk.penalties.len()), (Phase::Running, 1), "{:?}", desk.waits());
    desk.wait(seconds(2), nothing);
    assert_eq!(desk.phase(), Phase::Parked);
    let [Wait::Parked { reason }] = &desk.waits()[..] else { panic!("{:?}", desk.waits()) };
    assert!(reason.contains("the trusting period is over") && reason.contains("sequencer.trust_root"), "{reason}");
}
