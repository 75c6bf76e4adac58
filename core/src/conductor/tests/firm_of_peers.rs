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

#[test]
fn a_block_whose_header_alone_is_known_is_asked_for_and_status_says_so() {
    let mut desk = desk(Mode::SoftAndFirm, 9, limits());
    desk.celestia = 10;
    pass(&mut desk, 10, above(10));
    assert_eq!(desk.heads(), (9, 0), "nothing lies on Celestia yet");
    // After a restart the header that firm needs next is still trusted, and nothing is known of its block.
    let record = Record::SequencerHeader(TrustedRecord::new(&desk.made(1).light()));
    (desk.conductor, desk.seq) = (Conductor::new(limits(), [4; 32], &[record]), 0);
    desk.calls.clear();
    desk.celestia = 19;
    desk.tell(Event::CellInstalled { cell: CELL, spec: spec(Mode::SoftAndFirm) }).expect("a first cell");
    let is_second = |call: &Call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 == 2);
    let held = |call: &Call| is_second(call) || above(10)(call);
    pass(&mut desk, 1, held);
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
