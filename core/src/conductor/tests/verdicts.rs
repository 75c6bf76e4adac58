//! Stories of messages from peers that are of no use, or false.

use super::{
    gossip::{HONEST, LIAR, desk, is_head, is_peers, settings},
    *,
};
use crate::gossip::{Ignored, Refused};

const OTHER: RollupId = RollupId([9; 32]);

#[test]
fn data_of_another_block_or_of_a_rollup_that_it_does_not_list_are_refused_whenever_they_come() {
    let mut desk = desk(2, 2, settings());
    desk.chain.push(block_after(desk.made(2), &[OTHER]));
    let (block, data) = desk.messages(3);
    let of_no_list = Message { topic: Topic::Rollup(ROLLUP), ..data };
    let of_other = Message { block_hash: desk.made(2).trusted().hash(), ..of_no_list.clone() };
    let before = [&of_no_list, &of_other].map(|message| desk.gossip(LIAR, message));
    desk.settle(is_head);
    assert!(before.iter().all(|handle| !desk.verdicts.contains_key(handle)), "they wait for their block");
    let genuine = desk.gossip(HONEST, &block);
    desk.settle(|call| is_head(call) || is_execution(call));
    assert_eq!(desk.verdicts[&genuine], Verdict::Accept);
    let after = [&of_no_list, &of_other].map(|message| {
        let handle = desk.gossip(LIAR, message);
        assert!(desk.jobs.is_empty(), "nothing has to be unpacked for that");
        handle
    });
    for [of_no_list, of_other] in [before, after] {
        assert_eq!(desk.verdicts[&of_no_list], Verdict::Reject(Refused::NotListed(ROLLUP)));
        assert!(matches!(desk.verdicts[&of_other], Verdict::Reject(Refused::OtherBlock { .. })));
    }
}

#[test]
fn a_block_between_the_kept_ones_and_the_newest_shows_nothing_new() {
    let mut limits = settings();
    limits.gossip.ahead = 4;
    let mut desk = desk(30, 2, limits);
    let far = desk.messages(20).0;
    assert_eq!(desk.hear(HONEST, &far), Some(Verdict::Accept));
    let between = desk.messages(19).0;
    assert_eq!(desk.hear(HONEST, &between), Some(Verdict::Ignore(Ignored::Future)));
    let further = desk.messages(21).0;
    assert_eq!(desk.hear(HONEST, &further), Some(Verdict::Accept), "another one may try");
}

#[test]
fn what_is_remembered_of_passed_heights_is_bounded_and_data_for_them_are_stale() {
    let mut desk = desk(40, 40, settings());
    assert_eq!(desk.heads().0, 40);
    // Sixteen below the next one.
    assert_eq!(held(&desk, "heights known from peers"), 16);
    let (_, data) = desk.messages(1);
    let never_seen = Message { height: SequencerHeight(1), ..data };
    assert_eq!(desk.hear(HONEST, &never_seen), Some(Verdict::Ignore(Ignored::Stale)));
}

#[test]
fn when_the_buffer_is_full_only_what_is_needed_next_is_taken() {
    let mut desk = desk(9, 2, settings());
    for number in 4..=5 {
        let (block, data) = desk.messages(number);
        assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Accept));
        assert_eq!(desk.hear(HONEST, &data), Some(Verdict::Accept));
    }
    let bytes = desk.conductor.gossip.as_ref().expect("it is on").bytes();
    assert!(bytes > 0, "these wait for what comes before them");
    Arc::make_mut(&mut desk.conductor.limits).soft_buffer_bytes = bytes;
    let (_, next) = desk.messages(3);
    let (_, later) = desk.messages(6);
    let (later, next) = (desk.gossip(HONEST, &later), desk.gossip(HONEST, &next));
    desk.settle(|call| is_head(call) || is_peers(call));
    assert_eq!(desk.verdicts.get(&later), Some(&Verdict::Ignore(Ignored::Busy)));
    assert_eq!(desk.verdicts.get(&next), None, "it waits for its block");
    assert_eq!(desk.gossip_status().counts.ignored, [(Ignored::Busy, 1)].into());
}

#[test]
fn nodes_bear_witness_to_what_peers_show_where_there_are_several() {
    for (nodes, before, after) in [(1, 0, 0), (2, 1, 2), (3, 2, 3)] {
        let mut limits = settings();
        limits.trust.nodes = nodes;
        let mut desk = desk(5, 2, limits);
        let witnesses = |desk: &mut Desk| {
            let trusting = desk.conductor.headers.trusting.as_mut().expect("with trust in consensus");
            trusting.witnesses.all().count()
        };
        assert_eq!(witnesses(&mut desk), before, "not the one that has shown the first headers");
        assert_eq!(desk.hear(HONEST, &desk.messages(3).0), Some(Verdict::Accept));
        assert_eq!(witnesses(&mut desk), after, "of {nodes}");
    }
}
