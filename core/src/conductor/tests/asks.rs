//! Stories of questions to peers: who is asked when, for how much, and until when.

use super::{
    gossip::{HONEST, NOW, alone, desk, is_head, is_peers, settings},
    *,
};
use crate::gossip::Source;

fn asked(desk: &Desk) -> usize {
    desk.calls.values().filter(|(_, call)| is_peers(call)).count()
}

#[test]
fn no_more_is_asked_at_once_than_is_permitted() {
    let mut desk = alone(20, |limits| limits.gossip.asked_at_once = 3);
    let is_missing = |call: &Call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 > 3);
    desk.settle(is_missing);
    let head = desk.messages(20).0;
    desk.hear(HONEST, &head);
    desk.wait(seconds(1), is_peers);
    assert_eq!((asked(&desk), held(&desk, "questions to peers")), (3, 3));
    let before = desk.gossip_status().counts.asked;
    let (id, call) = desk
        .calls
        .iter()
        .find(|(_, (_, call))| is_peers(call))
        .map(|(id, (_, call))| (*id, call.clone()))
        .expect("asked");
    desk.calls.remove(&id);
    let answer = desk.honest(&call);
    desk.tell(Event::Answered { id, answer }).expect("it was asked for");
    desk.settle(is_peers);
    assert_eq!((asked(&desk), desk.gossip_status().counts.asked), (3, before + 1), "one more for the one that came");
}

#[test]
fn while_a_server_does_what_it_says_peers_are_not_asked_and_when_it_fails_they_are_until_it_answers() {
    let holds = |call: &Call| is_soft(call) || is_peers(call);
    let mut desk = Desk::at(NOW, Mode::SoftOnly, 1, settings());
    desk.settle(holds);
    let block = desk.messages(1).0;
    let handle = desk.gossip(HONEST, &block);
    desk.settle(holds);
    assert_eq!(desk.verdicts[&handle], Verdict::Accept);
    desk.wait(seconds(1), holds);
    assert_eq!(asked(&desk), 0, "the server says to have it");
    desk.fail(is_soft, FaultClass::Transient);
    desk.wait(seconds(1), holds);
    assert_eq!(asked(&desk), 1);
    desk.settle(is_peers);
    assert_eq!((desk.heads().0, asked(&desk)), (1, 0), "nobody needs it any more");
    assert_eq!(held(&desk, "questions to peers"), 0);
}

#[test]
fn that_nobody_had_it_is_remembered_across_sessions() {
    let mut desk = desk(5, 2, settings());
    let is_held = |call: &Call| is_head(call) || is_soft(call) || is_peers(call) || is_execution(call);
    let ((block, data), (next, _)) = (desk.messages(3), desk.messages(4));
    for message in [block, data, next] {
        desk.gossip(HONEST, &message);
    }
    desk.settle(is_held);
    desk.wait(seconds(1), is_held);
    assert_eq!(asked(&desk), 1, "for the data of the fourth");
    let wait_until = |desk: &mut Desk, is_done: fn(&Desk) -> bool| {
        for _ in 0..500 {
            if !is_done(desk) {
                desk.wait(Duration::from_millis(10), is_held);
            }
        }
        assert!(is_done(desk));
    };
    for _ in 0..4 {
        desk.fail(is_peers, FaultClass::NotYet);
        wait_until(&mut desk, |desk| asked(desk) == 1);
    }
    desk.fail(is_peers, FaultClass::NotYet);
    desk.fail(is_execution, FaultClass::Transient);
    wait_until(&mut desk, |desk| desk.node.sessions == 2);
    desk.only(is_execution);
    assert_eq!(asked(&desk), 0, "wanted again, and not asked for at once");
    let asks = &desk.conductor.gossip.as_ref().expect("it is on").asks;
    assert_eq!(asks.values().map(|ask| ask.attempt.failures()).collect::<Vec<_>>(), [5]);
    desk.wait(seconds(11), is_held);
    assert_eq!(asked(&desk), 1);
}

#[test]
fn a_block_of_which_a_part_was_asked_for_is_the_answer_of_a_peer() {
    for of_gossip in [0, 1] {
        let mut desk = desk(5, 2, settings());
        let messages = desk.messages(3);
        let message = if of_gossip == 0 { messages.0 } else { messages.1 };
        let is_held = |call: &Call| is_head(call) || is_soft(call) || is_peers(call);
        desk.gossip(HONEST, &message);
        desk.settle(is_held);
        if of_gossip == 1 {
            // Something has to show that there is a block.
            let head = desk.messages(4).0;
            desk.gossip(HONEST, &head);
            desk.settle(is_held);
        }
        desk.wait(seconds(1), |call| is_head(call) || is_soft(call));
        assert_eq!((desk.won(Source::Peer), desk.won(Source::Gossip)), (1 + of_gossip, 0));
    }
}
