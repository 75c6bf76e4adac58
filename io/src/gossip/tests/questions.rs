//! Messages by height.

use libp2p::{futures::future::join_all, request_response};

use super::{
    exchange::{Entry, Response},
    *,
};

const TOPICS: [Topic; 2] = [Topic::Blocks, ROLLUP];

/// A node that holds heights from 1 on.
async fn holding(heights: u64, config: GossipConfig) -> Node {
    let node = Node::start(options(config)).await;
    for height in 1..=heights {
        for topic in TOPICS {
            node.gossip.publish(topic, height, simple(height));
        }
    }
    until("all is kept", || async { node.gossip.counters().published == 2 * heights }).await;
    node
}

/// Until a peer can be asked.
async fn fetch(node: &Node, height: u64) -> Fetched {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match node.gossip.fetch(height, TOPICS.to_vec()).await {
            Ok(fetched) => return fetched,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn whoever_comes_late_gets_two_hundred_heights() {
    for transport in Transport::BOTH {
        let server = holding(200, config(transport)).await;
        let late = Node::simple(transport).await;
        join(&late, &server).await;
        let first = fetch(&late, 1).await;
        assert_eq!(first.messages, [(Topic::Blocks, simple(1)), (ROLLUP, simple(1))]);
        for start in (2..=200).step_by(40) {
            let heights: Vec<_> = (start..(start + 40).min(201)).collect();
            let fetched = join_all(heights.iter().map(|height| late.gossip.fetch(*height, TOPICS.to_vec()))).await;
            for (height, fetched) in heights.into_iter().zip(fetched) {
                let Fetched { peer, messages } = fetched.unwrap();
                assert_eq!(messages, [(Topic::Blocks, simple(height)), (ROLLUP, simple(height))], "{transport:?}");
                assert_eq!(peer, first.peer);
            }
        }
        assert!(late.gossip.fetch(201, TOPICS.to_vec()).await.unwrap().messages.is_empty(), "not there yet");
        assert_eq!(server.gossip.counters().requests_refused, 0);
    }
}

#[tokio::test]
async fn what_was_accepted_from_one_peer_is_handed_to_others() {
    let source = Node::simple(Transport::Tcp).await;
    let mut middle = Node::simple(Transport::Tcp).await;
    join(&source, &middle).await;
    for (height, acceptance) in [(1, Acceptance::Accept), (2, Acceptance::Ignore), (3, Acceptance::Reject)] {
        source.gossip.publish(Topic::Blocks, height, simple(height));
        let handle = middle.next().await.handle;
        middle.gossip.judge(handle, acceptance);
    }
    let late = Node::start(options(GossipConfig { deny: [source.id()].into(), ..config(Transport::Tcp) })).await;
    join(&late, &middle).await;
    assert_eq!(fetch(&late, 1).await.messages, [(Topic::Blocks, simple(1))]);
    assert!(fetch(&late, 2).await.messages.is_empty());
    assert!(fetch(&late, 3).await.messages.is_empty());
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_come_later() {
    let mut slow = config(Transport::Tcp);
    slow.bounds.requests_per_second = 2;
    let server = holding(1, slow).await;
    let greedy = Node::simple(Transport::Tcp).await;
    join(&greedy, &server).await;
    fetch(&greedy, 1).await;
    let answers = join_all((0..40).map(|_| greedy.gossip.fetch(1, TOPICS.to_vec()))).await;
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    assert!(refused >= 20, "{refused} of 40 were refused");
    assert!(answers.iter().flatten().count() <= 20);
    until("the server has counted it", || async { server.gossip.counters().requests_refused >= 20 }).await;
    fetch(&greedy, 1).await;
}

/// How a puppet answers questions.
#[derive(Clone, Copy, Debug)]
enum Answers {
    Never,
    WithAnotherHeight,
    WithAnotherTopic,
    Twice,
    WithNonsense,
}

fn play(answers: Answers, with: &Node) -> (PeerId, tokio::task::JoinHandle<()>) {
    let puppet = Puppet::new(Transport::Tcp);
    let names = Names(space());
    let entry = move |topic, message| Entry { topic: names.topic(topic).to_string(), message };
    let mut silent = Vec::new();
    let id = puppet.id();
    let playing = puppet.play(with, move |swarm, event| {
        let SwarmEvent::Behaviour(BehaviourEvent::Exchange(request_response::Event::Message {
            message: request_response::Message::Request { request, channel, .. },
            ..
        })) = event
        else {
            return;
        };
        let height = request.height;
        let entries = match answers {
            Answers::Never => return silent.push(channel),
            Answers::WithAnotherHeight => vec![entry(Topic::Blocks, simple(height + 1))],
            Answers::WithAnotherTopic => vec![entry(Topic::Rollup(RollupId([9; 32])), simple(height))],
            Answers::Twice => vec![entry(Topic::Blocks, simple(height)), entry(Topic::Blocks, simple(height))],
            Answers::WithNonsense => vec![entry(Topic::Blocks, Bytes::from_static(b"x"))],
        };
        let response = Response { is_busy: false, lowest: 1, highest: u64::MAX, entries };
        swarm.behaviour_mut().exchange.send_response(channel, response).ok();
    });
    (id, playing)
}

#[tokio::test]
async fn who_answers_with_garbage_or_never_loses_score_and_others_are_asked() {
    let kinds =
        [Answers::WithAnotherHeight, Answers::WithAnotherTopic, Answers::Twice, Answers::WithNonsense, Answers::Never];
    for answers in kinds {
        let mut hasty = config(Transport::Tcp);
        hasty.bounds.request_deadline = Duration::from_millis(300);
        let node = Node::start(options(hasty)).await;
        let (liar, playing) = play(answers, &node);
        until("the liar was asked", || async {
            matches!(node.gossip.fetch(1, TOPICS.to_vec()).await, Err(FetchError::Failed { .. }))
        })
        .await;
        let score = node.peer(liar).await.map_or(-100.0, |info| info.score);
        assert!(score < -4.0, "{answers:?}: {score}");
        let server = holding(3, config(Transport::Tcp)).await;
        join(&node, &server).await;
        until("the honest peer is asked", || async { node.gossip.fetch(1, TOPICS.to_vec()).await.is_ok() }).await;
        for height in 1..=3 {
            let fetched = node.gossip.fetch(height, TOPICS.to_vec()).await;
            assert_eq!(fetched.unwrap().messages.len(), 2, "{answers:?}: the liar is not asked again");
        }
        playing.abort();
    }
}

#[tokio::test]
async fn whose_answers_turn_out_to_be_forged_is_sent_away() {
    let node = Node::simple(Transport::Tcp).await;
    let forger = holding(3, config(Transport::Tcp)).await;
    join(&node, &forger).await;
    for _ in 0..3 {
        let fetched = fetch(&node, 1).await;
        node.gossip.penalize(fetched.peer);
    }
    until("the forger is sent away", || async { node.gossip.counters().banned == 1 }).await;
    until("nobody is left", || async { node.gossip.peers().await.is_empty() }).await;
    assert_eq!(node.gossip.fetch(1, TOPICS.to_vec()).await, Err(FetchError::NoPeer));
}

#[tokio::test]
async fn whoever_asks_for_more_at_once_than_it_reads_is_told_to_come_later_and_others_are_served() {
    const LONG: usize = 900_000;
    let mut narrow = config(Transport::Tcp);
    narrow.bounds.answering_bytes_per_peer = 2 * LONG;
    narrow.bounds.requests_per_second = 1_000_000;
    let server = Node::start(options(narrow)).await;
    for height in 1..=3 {
        server.gossip.publish(Topic::Blocks, height, message(0, height, &vec![7; LONG]));
    }
    let peer = server.id();
    let mut asked = 0_u64;
    let playing = Puppet::new(Transport::Tcp).play(&server, move |swarm, event| {
        let is_over = matches!(
            event,
            SwarmEvent::Behaviour(BehaviourEvent::Exchange(
                request_response::Event::Message { .. } | request_response::Event::OutboundFailure { .. }
            ))
        );
        // Always so many are on their way.
        while swarm.is_connected(&peer) && (asked < 24 || is_over) {
            asked += 1;
            let topics = vec![Names(space()).topic(Topic::Blocks).to_string()];
            let request = exchange::Request { height: 1 + asked % 3, topics };
            swarm.behaviour_mut().exchange.send_request(&peer, request);
            if is_over {
                break;
            }
        }
    });
    until("some were told to come later", || async { server.gossip.counters().requests_refused >= 10 }).await;
    let guest = Node::simple(Transport::Tcp).await;
    join(&guest, &server).await;
    until("others are served", || async {
        guest.gossip.fetch(2, vec![Topic::Blocks]).await.is_ok_and(|fetched| !fetched.messages.is_empty())
    })
    .await;
    playing.abort();
}
