//! Stories of blocks that come from peers.

use super::*;
use crate::{
    gossip::{GossipHandle, Ignored, Refused, Source, verify_block},
    ids::BlockHash,
    light::{Check, RootSetting, TrustedRecord},
    record::Record,
    view::GossipStatus,
};

pub(super) const HONEST: GossipPeer = GossipPeer(1);
pub(super) const LIAR: GossipPeer = GossipPeer(2);

/// Past all blocks, and not by much.
pub(super) const NOW: Timestamp = Timestamp(1_700_000_100_000_000_000);

pub(super) fn settings() -> Limits {
    let mut limits = Limits::default();
    limits.gossip.enabled = true;
    limits
}

/// Of `blocks`, the server has the first `served` and no more.
pub(super) fn desk(blocks: u64, served: u64, limits: Limits) -> Desk {
    let mut desk = Desk::at(NOW, Mode::SoftOnly, blocks, limits);
    desk.server_head = Some(1 + served);
    desk.settle(nothing);
    desk
}

/// No server at all, and trust in the first block.
pub(super) fn alone(blocks: u64, change: impl FnOnce(&mut Limits)) -> Desk {
    let mut limits = settings();
    limits.gossip.sole_source_of = Some(CHAIN.to_owned());
    let hash = block(1, &[ROLLUP]).trusted().hash();
    limits.trust.root = RootSetting::Header { height: 1, hash };
    change(&mut limits);
    Desk::at(NOW, Mode::SoftOnly, blocks, limits)
}

pub(super) fn is_peers(call: &Call) -> bool {
    matches!(call, Call::FetchFromPeers { .. })
}

pub(super) fn is_head(call: &Call) -> bool {
    matches!(call, Call::FetchSequencerHead)
}

fn is_server(call: &Call) -> bool {
    matches!(
        call,
        Call::IdentifySequencer
            | Call::FetchSequencerHead
            | Call::FetchSoftBlock { .. }
            | Call::FetchSignedHeader { .. }
            | Call::FetchHeaders { .. }
            | Call::FetchValidators { .. }
            | Call::FetchBlockTransactions { .. }
    )
}

impl Desk {
    /// The messages about the sequencer block of rollup block `number`: about the block, and about the rollup.
    pub(super) fn messages(&self, number: u64) -> (Message, Message) {
        let mut messages = self.made(number).messages().into_iter();
        (messages.next().expect("a block"), messages.next().expect("a rollup"))
    }

    /// A peer sends bytes. Returns the handle.
    fn send(&mut self, peer: GossipPeer, topic: Topic, bytes: Bytes) -> u64 {
        let handle = self.seq;
        let event = Event::Gossiped { handle: GossipHandle(handle), peer, topic, bytes };
        self.tell(event).expect("never refused");
        handle
    }

    pub(super) fn gossip(&mut self, peer: GossipPeer, message: &Message) -> u64 {
        self.send(peer, message.topic, sealed(message))
    }

    /// A peer sends a message, and everything that follows in this moment happens.
    pub(super) fn hear(&mut self, peer: GossipPeer, message: &Message) -> Option<Verdict> {
        let handle = self.gossip(peer, message);
        self.settle(|call| is_head(call) || is_peers(call));
        self.verdicts.get(&handle).cloned()
    }

    pub(super) fn gossip_status(&self) -> GossipStatus {
        self.conductor.status(self.now).gossip.expect("it is on")
    }

    pub(super) fn won(&self, source: Source) -> u64 {
        self.gossip_status().counts.won.get(&source).copied().unwrap_or(0)
    }
}

#[test]
fn a_block_that_peers_send_is_executed_and_nobody_is_asked_for_it() {
    let mut desk = desk(5, 2, settings());
    assert_eq!((desk.heads().0, desk.won(Source::Server)), (2, 2));
    let (block, data) = desk.messages(3);
    assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Accept));
    assert_eq!(desk.heads().0, 2, "a header alone is no block");
    assert_eq!(desk.hear(LIAR, &data), Some(Verdict::Accept));
    assert_eq!((desk.heads().0, desk.won(Source::Gossip)), (3, 1));
    assert!(!desk.calls.values().any(|(_, call)| is_soft(call)));
    let status = desk.gossip_status();
    assert_eq!((status.newest, status.fresh, status.counts.accepted), (Some(SequencerHeight(4)), true, 2));
}

#[test]
fn data_that_come_before_their_block_wait_for_it_and_not_for_ever() {
    let mut desk = desk(5, 2, settings());
    let (block, data) = desk.messages(3);
    assert_eq!(desk.hear(HONEST, &data), None, "it cannot be judged yet");
    assert_eq!(desk.gossip_status().undecided, 1);
    let handle = *desk.verdicts.keys().next_back().unwrap_or(&0);
    assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Accept));
    assert_eq!((desk.heads().0, desk.verdicts.len()), (3, 2), "after {handle}");
    let (_, orphan) = desk.messages(5);
    let waiting = desk.gossip(HONEST, &orphan);
    desk.wait(Duration::from_millis(4_999), |call| is_head(call) || is_peers(call));
    assert_eq!(desk.verdicts.get(&waiting), None);
    desk.wait(Duration::from_millis(1), |call| is_head(call) || is_peers(call));
    assert_eq!(desk.verdicts.get(&waiting), Some(&Verdict::Ignore(Ignored::Undecided)));
}

#[test]
fn a_forged_message_does_not_keep_the_genuine_one_out() {
    let mut desk = desk(5, 2, settings());
    let (block, data) = desk.messages(3);
    // Both at once, the forged ones first: nothing is seen before it is verified.
    let mut forged = block.body.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = Message { body: forged.into(), ..block.clone() };
    let (first, second) = (desk.gossip(LIAR, &forged), desk.gossip(HONEST, &block));
    desk.settle(is_head);
    assert!(matches!(desk.verdicts[&first], Verdict::Reject(_)), "{:?}", desk.verdicts[&first]);
    assert_eq!(desk.verdicts[&second], Verdict::Accept);
    let mut other = data.body.to_vec();
    other[5] ^= 1;
    let other = Message { body: other.into(), ..data.clone() };
    let refused = desk.hear(LIAR, &other);
    assert!(matches!(&refused, Some(Verdict::Reject(refused)) if refused.name() == "rollup_data"), "{refused:?}");
    let other = Message { block_hash: BlockHash([1; 32]), ..data.clone() };
    let refused = desk.hear(LIAR, &other);
    assert!(matches!(refused, Some(Verdict::Reject(Refused::OtherBlock { .. }))), "{refused:?}");
    assert_eq!(desk.heads().0, 2);
    assert_eq!(desk.hear(HONEST, &data), Some(Verdict::Accept));
    assert_eq!(desk.heads().0, 3);
    assert_eq!(desk.gossip_status().counts.refused.values().sum::<u64>(), 3);
}

#[test]
fn what_is_of_no_use_is_not_even_unpacked() {
    let mut limits = settings();
    limits.gossip.ahead = 4;
    let mut desk = desk(12, 2, limits);
    let ignored = |ignored| Some(Verdict::Ignore(ignored));
    let (block, data) = desk.messages(1);
    // What was published is known; what nobody told anybody is passed.
    assert_eq!(desk.hear(HONEST, &data), ignored(Ignored::Known));
    let never = Message { topic: Topic::Rollup(RollupId([9; 32])), ..data };
    assert_eq!(desk.hear(HONEST, &never), ignored(Ignored::Unfollowed));
    assert_eq!(desk.hear(HONEST, &block), ignored(Ignored::Known));
    let (_, ahead) = desk.messages(8);
    assert_eq!(desk.hear(HONEST, &ahead), ignored(Ignored::Future));
    let genesis = Message { height: SequencerHeight(0), block_hash: BlockHash([3; 32]), ..block };
    assert_eq!(desk.hear(HONEST, &genesis), ignored(Ignored::Stale));
    assert!(desk.jobs.is_empty());
    let refused = |bytes: &'static [u8]| {
        let mut desk = self::desk(2, 2, settings());
        let handle = desk.send(LIAR, Topic::Blocks, Bytes::from_static(bytes));
        match desk.verdicts[&handle].clone() {
            Verdict::Reject(refused) => refused.name(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((refused(b""), refused(b"\x02"), refused(b"\x01short")), ("malformed", "version", "malformed"));
}

#[test]
fn a_block_far_ahead_shows_where_the_head_is_and_one_at_a_time_may_try() {
    let mut limits = settings();
    limits.gossip.ahead = 4;
    let mut desk = desk(30, 2, limits);
    let (far, _) = desk.messages(20);
    let (further, _) = desk.messages(25);
    let (first, second) = (desk.gossip(HONEST, &far), desk.gossip(LIAR, &further));
    assert_eq!(desk.verdicts.get(&second), Some(&Verdict::Ignore(Ignored::Future)));
    desk.settle(|call| is_head(call) || is_peers(call));
    assert_eq!(desk.verdicts[&first], Verdict::Accept);
    assert_eq!(desk.gossip_status().newest, Some(SequencerHeight(21)));
    assert!(desk.calls.values().any(|(_, call)| is_peers(call)), "for what lies between");
    desk.settle(is_head);
    desk.wait(Duration::from_millis(200), is_head);
    assert_eq!((desk.heads().0, desk.won(Source::Peer)), (20, 18));
}

#[test]
fn who_floods_fills_no_place_but_its_own() {
    let mut limits = settings();
    (limits.gossip.undecided_per_peer, limits.gossip.undecided) = (3, 5);
    let mut desk = desk(9, 2, limits);
    let (block, data) = desk.messages(3);
    let noise = |byte: u8| Message { body: vec![byte; 40].into(), ..data.clone() };
    let handles: Vec<u64> = (0..6).map(|byte| desk.gossip(LIAR, &noise(byte))).collect();
    let busy = |desk: &Desk| handles.iter().filter(|handle| desk.verdicts.contains_key(handle)).count();
    assert_eq!(busy(&desk), 3);
    assert_eq!(desk.verdicts[&handles[5]], Verdict::Ignore(Ignored::Busy));
    assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Accept));
    assert_eq!((busy(&desk), held(&desk, "messages without a verdict")), (6, 0));
    assert_eq!(desk.hear(HONEST, &data), Some(Verdict::Accept));
    assert_eq!(desk.heads().0, 3);
}

#[test]
fn servers_are_asked_less_often_while_peers_are_heard_and_at_once_when_they_fall_silent() {
    let mut desk = desk(60, 2, settings());
    let polls = |desk: &mut Desk, for_: Duration| {
        let (until, mut polls) = (desk.now.after(for_), 0);
        while desk.now < until {
            desk.wait(Duration::from_millis(100), is_head);
            let asked: Vec<_> = desk.calls.iter().filter(|(_, (_, call))| is_head(call)).map(|(id, _)| *id).collect();
            for id in asked {
                polls += 1;
                desk.calls.remove(&id);
                let height = SequencerHeight(1 + desk.heads().0);
                desk.tell(Event::Answered { id, answer: Answer::SequencerHeadFetched { height } }).expect("asked");
            }
        }
        polls
    };
    assert_eq!(polls(&mut desk, seconds(10)), 10, "nobody is heard");
    // Blocks are a second apart, and come a little earlier.
    let mut heard = 0;
    for number in 3..=34 {
        let (block, data) = desk.messages(number);
        assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Accept));
        assert_eq!(desk.hear(HONEST, &data), Some(Verdict::Accept));
        heard += polls(&mut desk, Duration::from_millis(900));
    }
    assert_eq!(desk.heads().0, 34);
    assert!((3..=4).contains(&heard), "{heard} polls in 29 seconds: an eighth");
    // The next one was due after a second, and is not awaited for more than another one.
    assert!(desk.gossip_status().fresh);
    let fallen = desk.now;
    assert!(polls(&mut desk, Duration::from_millis(1_200)) >= 1);
    assert!(!desk.gossip_status().fresh && desk.now.since(fallen) < seconds(2));
    assert!(polls(&mut desk, seconds(10)) >= 9);
}

#[test]
fn peers_are_asked_for_data_that_do_not_come_and_then_the_server() {
    let mut desk = desk(5, 2, settings());
    let (block, _) = desk.messages(3);
    assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Accept));
    let height = SequencerHeight(4);
    assert!(!desk.calls.values().any(|(_, call)| is_peers(call) || is_soft(call)), "they may be on their way");
    assert_eq!(desk.waits(), [Wait::Peers { height, attempts: 1, asks_server: false }]);
    desk.wait(Duration::from_millis(200), |call| is_head(call) || is_peers(call) || is_soft(call));
    let (_, call) = desk.only(is_peers);
    assert!(matches!(call, Call::FetchFromPeers { rollups, .. } if rollups == [ROLLUP]));
    assert!(!desk.calls.values().any(|(_, call)| is_soft(call)));
    desk.fail(is_peers, FaultClass::Transient);
    desk.only(is_soft);
    assert_eq!(desk.waits(), [Wait::Peers { height, attempts: 2, asks_server: true }]);
    desk.settle(is_head);
    assert_eq!((desk.heads().0, desk.won(Source::Server)), (3, 3));
    assert_eq!(desk.gossip_status().counts.unanswered, 1);
}

#[test]
fn what_a_peer_answers_is_verified_and_who_answers_with_garbage_is_named() {
    let mut desk = alone(4, |_| {});
    // The root of trust comes first.
    let is_of = |call: &Call, of: u64| matches!(call, Call::FetchFromPeers { height, .. } if height.0 == of);
    desk.settle(|call| is_of(call, 2));
    for garbage in 0..3 {
        let ((block, data), other) = (desk.messages(1), desk.messages(2));
        while !desk.calls.values().any(|(_, call)| is_of(call, 2)) {
            desk.wait(Duration::from_millis(100), is_peers);
        }
        let before = desk.penalties.len();
        desk.answer(
            |call| is_of(call, 2),
            |_, _| {
                let (block, data) = match garbage {
                    0 => (Some(Bytes::from_static(b"garbage")), sealed(&data)),
                    1 => (Some(sealed(&other.0)), sealed(&data)),
                    _ => (Some(sealed(&block)), sealed(&other.1)),
                };
                Answer::FetchedFromPeers { peer: LIAR, block, rollups: vec![(ROLLUP, data)] }
            },
        );
        desk.settle(is_peers);
        assert_eq!(desk.penalties.len(), before + 1, "garbage {garbage}");
        assert_eq!((desk.penalties[before].0, desk.heads().0), (LIAR.0, 0));
    }
    let is_missing = |call: &Call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 > 5);
    desk.wait(seconds(20), is_missing);
    assert_eq!(desk.heads().0, 4);
}

#[test]
fn without_a_server_peers_are_enough() {
    let mut desk = alone(40, |_| {});
    let (block, data) = desk.messages(40);
    // Nothing is known yet but the hash of the first block.
    assert_eq!(desk.gossip_status().newest, None);
    let is_missing = |call: &Call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 > 3);
    desk.settle(is_missing);
    desk.wait(seconds(1), is_missing);
    assert_eq!(desk.heads().0, 2, "peers are asked although none has been heard");
    desk.hear(HONEST, &block);
    desk.hear(HONEST, &data);
    let is_missing = |call: &Call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 > 41);
    desk.settle(is_missing);
    desk.wait(seconds(5), is_missing);
    assert_eq!(desk.heads().0, 40);
    assert_eq!((desk.won(Source::Server), desk.won(Source::Gossip) + desk.won(Source::Peer)), (0, 40));
    // Old blocks are no news to anybody.
    assert!(desk.published.iter().all(|message| message.height.0 <= 3 || message.height.0 >= 41 - 16));
}

#[test]
fn what_an_earlier_life_trusted_leads_down_to_the_block_that_the_rollup_needs() {
    let mut limits = settings();
    limits.gossip.sole_source_of = Some(CHAIN.to_owned());
    let hash = block(1, &[ROLLUP]).trusted().hash();
    limits.trust.root = RootSetting::Header { height: 1, hash };
    let mut desk = Desk::at(NOW, Mode::SoftOnly, 9, limits.clone());
    let record = Record::SequencerHeader(TrustedRecord::new(&desk.made(7).light()));
    (desk.conductor, desk.seq) = (Conductor::new(limits, [4; 32], &[record]), 0);
    desk.calls.clear();
    desk.tell(Event::CellInstalled { cell: CELL, spec: spec(Mode::SoftOnly) }).expect("a first cell");
    let is_missing = |call: &Call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 > 10);
    desk.settle(is_missing);
    desk.wait(seconds(10), is_missing);
    assert_eq!((desk.heads().0, desk.penalties.len()), (9, 0));
    // What is not the block that the hashes lead to is refused.
    let other = block_after_with(desk.made(2), &[ROLLUP], "another content").messages().remove(0);
    let check = Check::Known { chain_id: CHAIN.to_owned(), hash: desk.made(3).trusted().hash() };
    let refusal = verify_block(&other, &check, NOW, &Limits::default()).expect_err("another block");
    assert!(matches!(refusal.verdict, Verdict::Reject(_)), "{refusal:?}");
    let genuine = desk.messages(3).0;
    let years = NOW.after(Duration::from_hours(24 * 365));
    assert!(verify_block(&genuine, &check, years, &Limits::default()).is_ok(), "however old it is");
}

#[test]
fn without_a_server_none_is_ever_asked_and_silence_is_noticed() {
    let mut desk = alone(3, |_| {});
    let next_is_missing = |call: &Call| matches!(call, Call::FetchFromPeers { height, .. } if height.0 > 4);
    desk.settle(next_is_missing);
    for _ in 0..20 {
        desk.wait(seconds(1), next_is_missing);
        assert!(!desk.calls.values().any(|(_, call)| is_server(call)));
    }
    assert_eq!(desk.heads().0, 3);
    desk.fail(is_peers, FaultClass::NotYet);
    assert!(desk.conductor.next_deadline().is_some(), "the next block is asked for again");
    assert_eq!(desk.waits(), [Wait::SequencerBlock { height: SequencerHeight(5) }]);
}

#[test]
fn what_a_server_gave_long_after_it_was_made_is_kept_for_peers_that_have_no_other_way_to_it() {
    let mut desk = desk(40, 2, settings());
    desk.published.clear();
    desk.server_head = Some(41);
    for _ in 0..20 {
        desk.wait(seconds(1), is_peers);
    }
    assert_eq!(desk.heads().0, 40);
    let heights = |messages: &[Message]| messages.iter().map(|message| message.height.0).collect::<BTreeSet<_>>();
    let (kept, sent) = (heights(&desk.kept), heights(&desk.published));
    assert_eq!(kept.union(&sent).copied().collect::<Vec<_>>(), (4..=41).collect::<Vec<_>>(), "none is left out");
    assert!(kept.iter().all(|height| *height < 41 - 16) && sent.iter().all(|height| *height >= 41 - 16), "{kept:?}");
}

#[test]
fn what_a_server_gave_is_published_once_and_what_peers_have_sent_is_not() {
    let mut desk = desk(4, 2, settings());
    let topics = |desk: &mut Desk| {
        let published = std::mem::take(&mut desk.published);
        published.into_iter().map(|message| (message.height.0, message.topic)).collect::<Vec<_>>()
    };
    let both = |height| [(height, Topic::Blocks), (height, Topic::Rollup(ROLLUP))];
    assert_eq!(topics(&mut desk), [both(2), both(3)].concat());
    // Of the next one, peers have sent the header already.
    let (block, _) = desk.messages(3);
    assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Accept));
    desk.server_head = Some(5);
    desk.wait(seconds(10), is_peers);
    assert_eq!(desk.heads().0, 4);
    assert_eq!(topics(&mut desk), [&both(4)[1..], &both(5)].concat());
    // What was published is genuine for others.
    let mut other = self::desk(4, 2, settings());
    other.published.clear();
    for message in [desk.messages(3), desk.messages(4)].into_iter().flat_map(|(block, data)| [block, data]) {
        assert_eq!(other.hear(HONEST, &message), Some(Verdict::Accept));
    }
    assert_eq!((other.heads().0, other.published.len()), (4, 0));
    let mut limits = settings();
    limits.gossip.publish = false;
    assert!(self::desk(4, 2, limits).published.is_empty());
}

#[test]
fn validators_that_sign_another_block_are_convicted_by_a_peer() {
    let mut desk = desk(4, 2, settings());
    let other = block_after_with(desk.made(1), &[ROLLUP], "another content");
    let message = other.messages().remove(0);
    assert_ne!(message.block_hash, desk.made(2).trusted().hash());
    let verdict = desk.hear(LIAR, &message);
    assert_eq!(verdict, Some(Verdict::Ignore(Ignored::Conflict)));
    assert_eq!(desk.phase(), Phase::Parked);
    let evidence = desk.reports.iter().find_map(|report| match report {
        Report::Conflict { evidence, .. } => Some(evidence.clone()),
        _ => None,
    });
    assert!(evidence.expect("it is shown").verify(10).is_ok());
}

#[test]
fn gossip_is_off_where_strangers_could_make_up_what_is_executed() {
    let mut limits = settings();
    limits.trust = TrustSettings::endpoint();
    let mut desk = Desk::at(NOW, Mode::SoftOnly, 4, limits);
    desk.settle(nothing);
    let (block, _) = desk.messages(4);
    assert_eq!(desk.hear(HONEST, &block), Some(Verdict::Ignore(Ignored::Off)));
    assert!(desk.conductor.status(desk.now).gossip.is_none());
    let mut off = Desk::at(NOW, Mode::SoftOnly, 4, Limits::default());
    let handle = off.send(HONEST, Topic::Blocks, Bytes::new());
    assert_eq!(off.verdicts[&handle], Verdict::Ignore(Ignored::Off));
}

#[test]
fn nothing_is_taken_before_something_is_trusted_and_nothing_stays_undecided_after_a_stop() {
    let mut fresh = Desk::at(NOW, Mode::SoftOnly, 4, settings());
    let (block, _) = fresh.messages(1);
    assert_eq!(fresh.hear(HONEST, &block), Some(Verdict::Ignore(Ignored::NotReady)));
    let mut desk = desk(5, 2, settings());
    let (_, waiting) = desk.messages(4);
    let handle = desk.gossip(HONEST, &waiting);
    desk.tell(Event::StopRequested).expect("never refused");
    assert_eq!(desk.verdicts[&handle], Verdict::Ignore(Ignored::Off));
    assert_eq!(desk.exit, Some(Exit::Stopped));
}

#[test]
fn nothing_stays_undecided_when_the_last_cell_parks() {
    let mut desk = Desk::at(NOW, Mode::SoftOnly, 5, settings());
    desk.server_head = Some(3);
    desk.settle(is_execution);
    let (block, data) = desk.messages(4);
    // One is being verified, the other waits for it.
    let handles = [&block, &data].map(|message| desk.gossip(HONEST, message));
    assert_eq!(handles.map(|handle| desk.verdicts.get(&handle)), [None; 2]);
    desk.answer(is_execution, |_, _| {
        let response = Box::new(proto::ExecuteBlockResponse { executed_block_metadata: None });
        Answer::BlockExecuted { response }
    });
    assert!(matches!(desk.exit, Some(Exit::AllCellsParked { .. })), "{:?}", desk.exit);
    for handle in handles {
        assert_eq!(desk.verdicts.get(&handle), Some(&Verdict::Ignore(Ignored::Off)));
    }
    assert!(desk.jobs.is_empty() && desk.calls.is_empty(), "nothing is waited for any more");
}
