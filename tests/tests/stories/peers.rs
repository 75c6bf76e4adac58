//! Conductors that share blocks as peers, over real libp2p on loopback. Only the first one of a story knows the sequencer.

use std::{sync::Arc, time::Duration};

use downbeat::{
    driver::Snapshot,
    gossip::{
        Acceptance, Bounds, Gossip, GossipConfig, Label, Options, PeerAddress, PeerInfo, ReadLabel, Received,
        port::{label_reader, seal},
        start,
    },
    status_line::StatusLine,
};
use downbeat_core::{
    Limits, SequencerHeight,
    cell::Mode,
    gossip::{Message, Source, Space, Topic},
    view::GossipCounts,
};
use downbeat_tests::{Conductor, OFFSET, Stage, in_time, world};
use downbeat_world::serve::{Hooks, sequencer};
use tokio::{net::TcpListener, sync::mpsc};

const STORY: u64 = 40;

/// All conductors of a story run on one machine, and many at once.
fn gossip_settings(bootnode: Option<&PeerAddress>) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("gossip.listen", "/ip4/127.0.0.1/tcp/0".to_owned()),
        ("gossip.connections_per_ip", "100".to_owned()),
        ("gossip.chain_id", world().sequencer.chain_id),
    ];
    settings.extend(bootnode.map(|bootnode| ("gossip.bootnodes", bootnode.to_string())));
    settings
}

/// A stage whose conductor publishes, and the conductor's address. Its sequencer rests until peers are there.
async fn publishing(replicas: usize) -> (Stage, Conductor, PeerAddress) {
    publishing_in(Mode::SoftOnly, replicas).await
}

async fn publishing_in(mode: Mode, replicas: usize) -> (Stage, Conductor, PeerAddress) {
    let mut stage = Stage::open_replicated(world(), 1, replicas, |_| {}).await;
    stage.set("gossip.enabled", "true");
    for (path, value) in gossip_settings(None) {
        stage.set(path, &value);
    }
    let first = stage.conductor(mode);
    let address = first.address().await;
    (stage, first, address)
}

fn join(stage: &Stage, replica: usize, bootnode: &PeerAddress) -> Conductor {
    stage.peer(replica, Mode::SoftOnly, &gossip_settings(Some(bootnode)))
}

fn replica_soft(stage: &Stage, replica: usize) -> u64 {
    let nodes = stage.net.replicas[replica].values();
    nodes.map(|node| node.with(|node| node.soft().0)).min().unwrap_or(0)
}

async fn replica_reaches(stage: &Stage, replica: usize, soft: u64) {
    stage.until(&format!("soft {soft} at replica {replica}"), |_| replica_soft(stage, replica) >= soft).await;
}

async fn until_counted(conductor: &Conductor, what: &str, holds: impl Fn(&GossipCounts) -> bool) {
    conductor.until_shown(what, |shown| shown.status.gossip.as_ref().is_some_and(|gossip| holds(&gossip.counts))).await;
}

async fn until_peers(conductor: &Conductor, what: &str, holds: impl Fn(&[PeerInfo]) -> bool) {
    let hold = async {
        while !holds(&conductor.gossip().peers().await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(what, hold).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_conductors_follow_over_one_connection_to_the_sequencer() {
    let (stage, first, address) = publishing_in(Mode::SoftAndFirm, 7).await;
    let settings = gossip_settings(Some(&address));
    let peers: Vec<_> = (0..7).map(|replica| stage.peer(replica, Mode::SoftAndFirm, &settings)).collect();
    for replica in 0..peers.len() {
        replica_reaches(&stage, replica, 1).await;
    }
    stage.go_on_to(STORY);
    first.reaches(STORY, STORY).await;
    for (replica, peer) in peers.into_iter().enumerate() {
        replica_reaches(&stage, replica, STORY).await;
        let firm =
            |shown: &Snapshot| shown.status.cells.values().filter_map(|cell| Some(cell.firm.as_ref()?.number.0)).min();
        peer.until_shown("all blocks firm", |shown| firm(shown) >= Some(STORY)).await;
        let has_all = |counts: &GossipCounts| counts.won.values().sum::<u64>() >= STORY;
        until_counted(&peer, "every block", has_all).await;
        let is_told = |counts: &GossipCounts| counts.won.get(&Source::Gossip).is_some_and(|won| *won > 0);
        until_counted(&peer, "blocks without asking", is_told).await;
        until_counted(&peer, "no server", |counts| !counts.won.contains_key(&Source::Server)).await;
        peer.stop().await;
        stage.assert_replica(replica, STORY);
    }
    first.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_and_every_one_has_the_sequencers_chain() {
    let (stage, first, address) = publishing(7).await;
    let mut peers: Vec<_> = (0..7).map(|replica| Some(join(&stage, replica, &address))).collect();
    for (round, leaving) in [(0, 0..3), (1, 3..5), (2, 5..7)] {
        stage.go_on_to((round + 1) * 12);
        replica_reaches(&stage, 6, round * 12 + 4).await;
        for replica in leaving.clone() {
            peers[replica].take().expect("it is there").stop().await;
        }
        stage.go_on_to((round + 1) * 12 + 6);
        first.reaches((round + 1) * 12 + 6, 0).await;
        for replica in leaving {
            peers[replica] = Some(join(&stage, replica, &address));
        }
    }
    for (replica, peer) in peers.into_iter().enumerate() {
        replica_reaches(&stage, replica, 42).await;
        peer.expect("it is there").stop().await;
        stage.assert_replica(replica, 42);
    }
    first.stop().await;
    stage.assert_each_block_executed_once(42, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_late_gets_two_hundred_blocks_from_peers() {
    const MANY: u64 = 200;
    let (stage, first, address) = publishing(2).await;
    let peer = join(&stage, 0, &address);
    stage.go_on_to(MANY);
    replica_reaches(&stage, 0, MANY).await;
    first.reaches(MANY, 0).await;
    let late = join(&stage, 1, &address);
    replica_reaches(&stage, 1, MANY).await;
    let is_answered = |counts: &GossipCounts| counts.won.get(&Source::Peer).is_some_and(|won| *won >= MANY - 10);
    until_counted(&late, "answers of peers", is_answered).await;
    for conductor in [late, peer, first] {
        conductor.stop().await;
    }
    stage.assert_replica(1, MANY);
}

/// A node of the network that is no conductor.
fn stranger(read_anything: bool) -> (Gossip, mpsc::Receiver<Received>) {
    let bounds = Bounds { connections_per_ip: 100, ..Bounds::default() };
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")];
    let honest = label_reader(Limits::default());
    let read_label: Arc<ReadLabel> = if read_anything {
        Arc::new(move |topic, bytes| {
            let made_up = || {
                let mut id = [0; 32];
                bytes.iter().take(40).enumerate().for_each(|(index, byte)| id[index % 32] ^= byte);
                Label { id, height: u64::from(bytes.len() > 9), unpacked: bytes.len() }
            };
            Some(honest(topic, bytes).unwrap_or_else(made_up))
        })
    } else {
        honest
    };
    let config = GossipConfig { listen, bounds, ..GossipConfig::default() };
    let space = Space::new(&world().sequencer.chain_id, &[0; 32]);
    let started = start(Options { config, space, directory: None, read_label });
    let (gossip, received) = started.expect("loopback can be listened on");
    gossip.follow(vec![Topic::Blocks]);
    (gossip, received)
}

/// The same message with another content, as a liar would change it.
fn forged(message: &Message, changed: usize) -> Message {
    let mut body = message.body.to_vec();
    let at = body.len().saturating_sub(1 + changed % body.len().max(1));
    if let Some(byte) = body.get_mut(at) {
        *byte ^= 1;
    }
    Message { body: body.into(), ..message.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_and_a_flooder_mislead_and_stall_nobody() {
    let (stage, first, address) = publishing(6).await;
    let peers: Vec<_> = (0..6).map(|replica| join(&stage, replica, &address)).collect();
    let (liar, mut heard) = stranger(true);
    let (flooder, _unheard) = stranger(true);
    let ids: Vec<_> = stage.with(|world| world.node_ids().to_vec());
    for gossip in [&liar, &flooder] {
        gossip.follow(ids.iter().map(|id| Topic::Rollup(*id)).collect());
        for peer in &peers {
            gossip.dial(peer.address().await);
        }
        gossip.dial(address.clone());
    }
    // Forges all that it hears, and passes nothing on.
    let lying = tokio::spawn({
        let liar = liar.clone();
        async move {
            let mut lies = 0;
            while let Some(Received { handle, topic, bytes, .. }) = heard.recv().await {
                liar.judge(handle, Acceptance::Ignore);
                let Ok(message) = Message::open(topic, &bytes, &Limits::default()) else { continue };
                for changed in [0, 40, 400] {
                    let forged = forged(&message, changed);
                    liar.publish(topic, forged.height.0, seal(&forged).into());
                    lies += 1;
                }
            }
            lies
        }
    });
    let flooding = tokio::spawn({
        let flooder = flooder.clone();
        async move {
            for number in 0_u32.. {
                let body = number.to_be_bytes().repeat(64);
                let height = SequencerHeight(10 + u64::from(number % 50));
                let block_hash = downbeat_core::BlockHash([7; 32]);
                let message = Message { topic: Topic::Blocks, height, block_hash, body: body.into() };
                flooder.publish(Topic::Blocks, height.0, seal(&message).into());
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    });
    for step in (STORY / 8..=STORY).step_by(5) {
        stage.go_on_to(step);
        first.reaches(step, 0).await;
    }
    for replica in 0..6 {
        replica_reaches(&stage, replica, STORY).await;
    }
    let mut refused = 0;
    for (replica, peer) in peers.into_iter().enumerate() {
        let counters = peer.gossip().counters();
        refused += counters.rejected + counters.overflowed + counters.banned;
        peer.stop().await;
        stage.assert_replica(replica, STORY);
    }
    assert!(refused > 0, "nobody saw a lie");
    flooding.abort();
    in_time("the liar", async {
        liar.end().await;
        flooder.end().await;
    })
    .await;
    drop(liar);
    lying.abort();
    first.stop().await;
    stage.assert_each_block_executed_once(STORY, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_peers_fall_silent_the_servers_are_asked_again() {
    let (mut stage, first, address) = publishing(0).await;
    // The second one knows both; it drives the same node, after the first has gone.
    stage.set("gossip.bootnodes", &address.to_string());
    stage.go_on_to(STORY / 2);
    first.reaches(STORY / 2, 0).await;
    first.stop().await;
    let second = stage.conductor(Mode::SoftOnly);
    stage.go_on_to(STORY);
    second.reaches(STORY, 0).await;
    let is_silent = |shown: &Snapshot| shown.status.gossip.as_ref().is_some_and(|it| !it.fresh);
    second.until_shown("that peers are silent", is_silent).await;
    second.stop().await;
    stage.assert_each_block_executed_once(STORY, 0);
    assert!(stage.with(|world| world.sequencer.head().0) >= STORY + OFFSET);
}

/// The others have a server, too, which they ask seldom while peers are heard. It is far away, for one that has each block
/// from its server first publishes it itself and hears nothing new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_one_who_reads_for_all_is_gone_the_others_turn_to_their_server() {
    let (stage, first, address) = publishing(3).await;
    let (far, far_url) = another_sequencer(&stage).await;
    far.delay(None, Duration::from_millis(500));
    let settings = [("gossip.bootnodes", address.to_string()), ("sequencer.grpc_url", far_url)];
    let others: Vec<_> = (0..3).map(|replica| stage.follower(replica, Mode::SoftOnly, &settings)).collect();
    for (replica, other) in others.iter().enumerate() {
        replica_reaches(&stage, replica, 1).await;
        until_peers(other, "a peer that sends blocks", |peers| peers.iter().any(|peer| peer.is_in_mesh)).await;
    }
    stage.go_on_to(STORY / 2);
    first.reaches(STORY / 2, 0).await;
    for (replica, other) in others.iter().enumerate() {
        replica_reaches(&stage, replica, STORY / 2).await;
        until_counted(other, "that something was heard", |counts| counts.accepted > 0).await;
    }
    first.kill().await;
    far.heal();
    // How long nobody may stand still at most is said in virtual time, by the core's tests and the simulator.
    stage.go_on_to(STORY);
    let mut served = 0;
    for (replica, other) in others.into_iter().enumerate() {
        replica_reaches(&stage, replica, STORY).await;
        let gossip = other.snapshot().await.status.gossip.expect("gossip is on");
        served += gossip.counts.won.get(&Source::Server).copied().unwrap_or(0);
        other.stop().await;
        stage.assert_replica(replica, STORY);
    }
    // Whoever has a block of the server tells the others.
    assert!(served >= STORY / 2, "nobody but a server had the last {} blocks, and it gave {served}", STORY / 2);
}

/// Another server of the same sequencer, with faults of its own.
async fn another_sequencer(stage: &Stage) -> (Hooks, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let hooks = Hooks::default();
    tokio::spawn(sequencer::serve(listener, stage.net.world.clone(), hooks.clone(), std::future::pending()));
    (hooks, url)
}

/// Forges whatever it hears for as long as it lives, about the heights that come next as well, and keeps its forgeries for
/// whoever asks.
fn liar() -> (Gossip, tokio::task::JoinHandle<()>) {
    let (gossip, mut heard) = stranger(false);
    let lying = tokio::spawn({
        let gossip = gossip.clone();
        async move {
            let mut last = None;
            loop {
                match tokio::time::timeout(Duration::from_millis(20), heard.recv()).await {
                    Ok(Some(Received { handle, topic, bytes, .. })) => {
                        gossip.judge(handle, Acceptance::Ignore);
                        last = Message::open(topic, &bytes, &Limits::default()).ok().or(last);
                    }
                    Ok(None) => return,
                    Err(_) => {}
                }
                let Some(message) = &mut last else { continue };
                for (ahead, changed) in [(0, 1), (1, 60), (2, 120), (3, 200)] {
                    let mut lie = forged(message, changed);
                    lie.height = SequencerHeight(message.height.0 + ahead);
                    gossip.publish(lie.topic, lie.height.0, seal(&lie).into());
                    // Another one the next time.
                    message.body = lie.body;
                }
            }
        }
    });
    (gossip, lying)
}

/// Once the honest peer is gone the node has none but liars.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_liars_only_a_node_turns_to_its_server_and_says_so() {
    let (stage, first, address) = publishing(1).await;
    let victim = stage.follower(0, Mode::SoftOnly, &[("gossip.bootnodes", address.to_string())]);
    replica_reaches(&stage, 0, 1).await;
    let ids: Vec<_> = stage.with(|world| world.node_ids().to_vec());
    let liars: Vec<_> = (0..4).map(|_| liar()).collect();
    let (at_victim, at_first) = (victim.address().await, address);
    for (liar, _) in &liars {
        liar.follow(ids.iter().map(|id| Topic::Rollup(*id)).collect());
        liar.dial(at_victim.clone());
        liar.dial(at_first.clone());
    }
    let honest = at_first.peer.to_base58();
    let a_liar_is_heard = |peers: &[PeerInfo]| peers.iter().any(|peer| peer.peer != honest && peer.is_in_mesh);
    until_peers(&victim, "a liar that is listened to", a_liar_is_heard).await;
    stage.go_on_to(STORY / 2);
    first.reaches(STORY / 2, 0).await;
    replica_reaches(&stage, 0, STORY / 2).await;
    first.kill().await;
    let is_lied_to = |counts: &GossipCounts| counts.refused.values().sum::<u64>() > 0;
    until_counted(&victim, "that somebody lied", is_lied_to).await;
    until_peers(&victim, "none but liars", |peers| peers.iter().all(|peer| peer.peer != honest)).await;
    stage.go_on_to(STORY);
    replica_reaches(&stage, 0, STORY).await;
    let says_so = |shown: &Snapshot| {
        let line = StatusLine(&shown.status).to_string();
        shown.status.gossip.as_ref().is_some_and(|it| !it.fresh) && line.contains("peers are silent, servers are asked")
    };
    victim.until_shown("that servers are asked, for peers are silent", says_so).await;
    until_counted(&victim, "blocks of the server", |counts| counts.won.contains_key(&Source::Server)).await;
    victim.stop().await;
    stage.assert_replica(0, STORY);
    for (_, lying) in liars {
        lying.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_only_connection_to_the_sequencer_peers_say_that_it_is_silent_and_go_on_when_it_is_back() {
    let (stage, first, address) = publishing(3).await;
    let peers: Vec<_> = (0..3).map(|replica| join(&stage, replica, &address)).collect();
    for replica in 0..3 {
        replica_reaches(&stage, replica, 1).await;
    }
    stage.go_on_to(STORY / 2);
    for replica in 0..3 {
        replica_reaches(&stage, replica, STORY / 2).await;
    }
    let servers = [&stage.net.hooks.sequencer, &stage.net.hooks.cometbft];
    for hooks in servers {
        hooks.set_down(true);
    }
    stage.go_on_to(STORY);
    stage.until("blocks that nobody has", |world| world.sequencer.head().0 >= STORY + OFFSET).await;
    for peer in &peers {
        let is_silent = |shown: &Snapshot| shown.status.gossip.as_ref().is_some_and(|it| !it.fresh);
        peer.until_shown("that peers are silent", is_silent).await;
    }
    for hooks in servers {
        hooks.set_down(false);
    }
    first.reaches(STORY, 0).await;
    for (replica, peer) in peers.into_iter().enumerate() {
        replica_reaches(&stage, replica, STORY).await;
        peer.stop().await;
        stage.assert_replica(replica, STORY);
    }
    first.stop().await;
    stage.assert_each_block_executed_once(STORY, 0);
}
