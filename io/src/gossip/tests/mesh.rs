//! Messages and verdicts.

use libp2p::gossipsub;

use super::*;

/// Three nodes of which the outer two never meet.
async fn line(transport: Transport) -> [Node; 3] {
    line_with(transport, |_| {}).await
}

async fn line_with(transport: Transport, change: impl Fn(&mut GossipConfig)) -> [Node; 3] {
    let configured = || {
        let mut config = config(transport);
        change(&mut config);
        config
    };
    let first = Node::start(options(configured())).await;
    let middle = Node::start(options(configured())).await;
    let last = Node::start(options(GossipConfig { deny: [first.id()].into(), ..configured() })).await;
    join(&first, &middle).await;
    join(&last, &middle).await;
    [first, middle, last]
}

#[tokio::test]
async fn a_message_goes_on_only_after_it_was_accepted() {
    for transport in Transport::BOTH {
        let [first, mut middle, mut last] = line(transport).await;
        first.gossip.publish(Topic::Blocks, 1, simple(1));
        first.gossip.publish(ROLLUP, 2, simple(2));
        let (one, two) = (middle.next().await, middle.next().await);
        let (one, two) = if one.topic == Topic::Blocks { (one, two) } else { (two, one) };
        assert_eq!((one.topic, &one.bytes), (Topic::Blocks, &simple(1)));
        assert_eq!((two.topic, &two.bytes), (ROLLUP, &simple(2)));
        assert_eq!(one.peer, two.peer);
        // Were anything forwarded before its verdict, the first one would be at the end by now, too.
        middle.gossip.judge(two.handle, Acceptance::Accept);
        assert_eq!(last.next().await.bytes, simple(2), "{transport:?}");
        middle.gossip.judge(one.handle, Acceptance::Accept);
        assert_eq!(last.next().await.bytes, simple(1), "{transport:?}");
        until("both count", || async { middle.gossip.counters().accepted == 2 }).await;
    }
}

#[tokio::test]
async fn what_is_rejected_goes_no_further_and_costs_score_and_what_is_ignored_costs_none() {
    let [first, mut middle, mut last] = line(Transport::Tcp).await;
    let score = async |middle: &Node| middle.peer(first.id()).await.unwrap().score;
    first.gossip.publish(Topic::Blocks, 1, simple(1));
    let ignored = middle.next().await;
    middle.gossip.judge(ignored.handle, Acceptance::Ignore);
    until("it counts", || async { middle.gossip.counters().ignored == 1 }).await;
    assert!(score(&middle).await >= 0.0);
    first.gossip.publish(Topic::Blocks, 2, simple(2));
    let rejected = middle.next().await;
    middle.gossip.judge(rejected.handle, Acceptance::Reject);
    until("the sender has lost score", || async { score(&middle).await < -5.0 }).await;
    first.gossip.publish(Topic::Blocks, 3, simple(3));
    let accepted = middle.next().await;
    middle.gossip.judge(accepted.handle, Acceptance::Accept);
    assert_eq!(last.next().await.bytes, simple(3), "neither of the others came");
}

#[tokio::test]
async fn one_content_is_handed_over_once_however_it_is_packed_and_whoever_sends_it() {
    let [first, mut middle, last] = line(Transport::Tcp).await;
    first.gossip.publish(Topic::Blocks, 1, message(1, 1, b"same"));
    let only = middle.next().await;
    assert_eq!(only.bytes, message(1, 1, b"same"));
    last.gossip.publish(Topic::Blocks, 1, message(2, 1, b"same"));
    last.gossip.publish(Topic::Blocks, 2, message(2, 2, b"other"));
    assert_eq!(middle.next().await.bytes, message(2, 2, b"other"));
}

#[tokio::test]
async fn what_waits_too_long_for_its_verdict_is_ignored() {
    let [first, mut middle, mut last] =
        line_with(Transport::Tcp, |config| config.bounds.verdict_deadline = Duration::from_millis(100)).await;
    first.gossip.publish(Topic::Blocks, 1, simple(1));
    let late = middle.next().await;
    until("it has expired", || async { middle.gossip.counters().expired == 1 }).await;
    middle.gossip.judge(late.handle, Acceptance::Accept);
    first.gossip.publish(Topic::Blocks, 2, simple(2));
    let next = middle.next().await;
    middle.gossip.judge(next.handle, Acceptance::Accept);
    assert_eq!(last.next().await.bytes, simple(2));
    assert_eq!(middle.gossip.counters().accepted, 1, "the late verdict has no effect");
}

#[tokio::test]
async fn what_is_too_long_does_not_come() {
    for transport in Transport::BOTH {
        let mut narrow = config(transport);
        narrow.bounds.message_bytes = 10_000;
        let mut narrow = Node::start(options(narrow)).await;
        let (mut wide, sender) = (Node::simple(transport).await, Node::simple(transport).await);
        join(&wide, &sender).await;
        join(&narrow, &sender).await;
        join(&narrow, &wide).await;
        let long = message(0, 1, &vec![7; 200_000]);
        sender.gossip.publish(Topic::Blocks, 1, long.clone());
        assert_eq!(wide.next().await.bytes, long);
        wide.gossip.publish(Topic::Blocks, 2, simple(2));
        assert_eq!(narrow.next().await.bytes, simple(2), "{transport:?}");
        until("one came", || async { narrow.gossip.counters().received == 1 }).await;
    }
}

#[tokio::test]
async fn bytes_are_counted_where_they_are_sent_and_where_they_come() {
    const LENGTH: u64 = 200_000;
    for transport in Transport::BOTH {
        let sender = Node::simple(transport).await;
        let mut receiver = Node::simple(transport).await;
        join(&sender, &receiver).await;
        let before = [sender.gossip.counters().bytes_received, receiver.gossip.counters().bytes_sent];
        sender.gossip.publish(Topic::Blocks, 1, message(0, 1, &vec![7; 200_000]));
        receiver.next().await;
        until("both count", || async {
            sender.gossip.counters().bytes_sent >= LENGTH && receiver.gossip.counters().bytes_received >= LENGTH
        })
        .await;
        let (sent, received) = (sender.gossip.counters(), receiver.gossip.counters());
        assert!(sent.bytes_sent < 2 * LENGTH && received.bytes_received < 2 * LENGTH, "{transport:?}: once only");
        let back = [sent.bytes_received - before[0], received.bytes_sent - before[1]];
        assert!(back.iter().all(|bytes| *bytes < LENGTH / 4), "{transport:?}: nothing of it went back, {back:?}");
    }
}

#[tokio::test]
async fn what_has_no_label_is_not_handed_over_and_costs_score() {
    let mut node = Node::simple(Transport::Tcp).await;
    let puppet = Puppet::new(Transport::Tcp);
    let bad = puppet.id();
    let mut count = 0_u8;
    let topic = Names(space()).topic(Topic::Blocks);
    let playing = puppet.play(&node, move |swarm, _| {
        // The label is not sent, so nothing that can be read is left.
        let data = behaviour::labelled(Label { id: [count; 32], height: 1, unpacked: 5 }, b"short");
        if count < 2 && swarm.behaviour_mut().gossipsub.publish(topic.clone(), data).is_ok() {
            count += 1;
        }
    });
    until("its score is low", || async { node.peer(bad).await.is_some_and(|info| info.score <= -30.0) }).await;
    assert_eq!(node.gossip.counters().received, 0);
    assert!(node.received.try_recv().is_err());
    playing.abort();
}

/// A peer that sends what is new and good for nothing, as fast as it can.
fn flood(node: &Node) -> (PeerId, tokio::task::JoinHandle<()>) {
    let puppet = Puppet::new(Transport::Tcp);
    let flooder = puppet.id();
    let mut height = 1_000;
    let topic = Names(space()).topic(Topic::Blocks);
    let playing = puppet.play(node, move |swarm, _| {
        let bytes = simple(height);
        let label = read_label(Topic::Blocks, &bytes).unwrap();
        let gossipsub: &mut gossipsub::Behaviour<_, _> = &mut swarm.behaviour_mut().gossipsub;
        if gossipsub.publish(topic.clone(), behaviour::labelled(label, &bytes)).is_ok() {
            height += 1;
        }
    });
    (flooder, playing)
}

#[tokio::test]
async fn a_flooder_whose_messages_are_merely_of_no_use_is_sent_away_too() {
    let mut slow = config(Transport::Tcp);
    slow.bounds.messages_per_second = 5;
    let mut node = Node::start(options(slow)).await;
    let (flooder, playing) = flood(&node);
    let gossip = node.gossip.clone();
    let judging = tokio::spawn(async move {
        let mut judged = 0;
        while let Some(received) = node.received.recv().await {
            node.gossip.judge(received.handle, Acceptance::Ignore);
            judged += 1;
        }
        judged
    });
    until("the flooder is sent away", || async { gossip.counters().banned > 0 }).await;
    until("it is gone", || async { gossip.peers().await.iter().all(|info| info.peer != flooder.to_base58()) }).await;
    let counters = gossip.counters();
    assert!(counters.overflowed >= 80 && counters.ignored >= 1, "{counters:?}");
    assert_eq!(counters.banned, 1, "once, however much came on the last connection");
    playing.abort();
    judging.abort();
}

#[tokio::test]
async fn a_flooder_gets_its_share_and_is_sent_away_and_others_are_heard() {
    let mut bounded = config(Transport::Tcp);
    bounded.bounds.undecided_per_peer = 8;
    let mut node = Node::start(options(bounded)).await;
    let honest = Node::simple(Transport::Tcp).await;
    join(&honest, &node).await;
    let (flooder, playing) = flood(&node);
    until("the flooder is sent away", || async { node.gossip.counters().banned > 0 }).await;
    until("it is gone", || async { node.peer(flooder).await.is_none() }).await;
    honest.gossip.publish(Topic::Blocks, 1, simple(1));
    let mut of_flooder = 0;
    while node.next().await.bytes != simple(1) {
        of_flooder += 1;
    }
    // Nothing was judged, so its share was never free again before the deadline.
    let counters = node.gossip.counters();
    assert!(of_flooder <= 8 + counters.expired, "{of_flooder} of the flooder, {counters:?}");
    assert!(counters.overflowed >= 80, "{counters:?}");
    playing.abort();
}

#[tokio::test]
async fn who_sends_the_same_again_and_again_is_sent_away() {
    let mut slow = config(Transport::Tcp);
    slow.bounds.messages_per_second = 5;
    let mut node = Node::start(options(slow)).await;
    let puppet = Puppet::new(Transport::Tcp);
    let flooder = puppet.id();
    let mut count = 0_u32;
    let topic = Names(space()).topic(Topic::Blocks);
    let playing = puppet.play(&node, move |swarm, _| {
        // Another message for the puppet itself, and for everybody else the same.
        count += 1;
        let mut id = [0; 32];
        id[..4].copy_from_slice(&count.to_be_bytes());
        let data = behaviour::labelled(Label { id, height: 1, unpacked: 0 }, &simple(1));
        // Nobody listens before it is connected.
        drop(swarm.behaviour_mut().gossipsub.publish(topic.clone(), data));
    });
    let only = node.next().await;
    node.gossip.judge(only.handle, Acceptance::Accept);
    until("the flooder is sent away", || async { node.gossip.counters().banned > 0 }).await;
    until("it is gone", || async { node.peer(flooder).await.is_none() }).await;
    let counters = node.gossip.counters();
    assert_eq!(
        (counters.received, counters.accepted, counters.rejected),
        (1, 1, 0),
        "none but the first was looked at"
    );
    assert!(counters.overflowed >= 80 && counters.classes.inbound.overflowed == counters.overflowed, "{counters:?}");
    assert_eq!((counters.classes.inbound.banned, counters.classes.inbound.accepted), (1, 1));
    playing.abort();
}

#[tokio::test]
async fn who_makes_a_node_unpack_too_much_is_sent_away() {
    let mut slow = config(Transport::Tcp);
    // In the tests a message unpacks to as many bytes as it has.
    slow.bounds.unpacked_per_second = 1_000;
    let mut node = Node::start(options(slow)).await;
    let puppet = Puppet::new(Transport::Tcp);
    let mut height = 0_u64;
    let topic = Names(space()).topic(Topic::Blocks);
    let playing = puppet.play(&node, move |swarm, _| {
        let bytes = message(0, height, &[7; 4_000]);
        let label = read_label(Topic::Blocks, &bytes).unwrap();
        if swarm.behaviour_mut().gossipsub.publish(topic.clone(), behaviour::labelled(label, &bytes)).is_ok() {
            height += 1;
        }
    });
    for _ in 0..2 {
        let received = node.next().await;
        node.gossip.judge(received.handle, Acceptance::Ignore);
    }
    until("it is sent away", || async { node.gossip.counters().banned > 0 }).await;
    assert!(node.gossip.counters().received < 10, "{:?}", node.gossip.counters());
    playing.abort();
}
