//! Who may come in, and who is found.

use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn nodes_of_different_spaces_never_meet() {
    for transport in Transport::BOTH {
        let ours = Node::simple(transport).await;
        let others =
            Node::start(Options { space: Space::new("another", &[0; 32]), ..options(config(transport)) }).await;
        others.gossip.dial(ours.address.clone());
        until("they have parted", || async { ours.gossip.counters().foreign + others.gossip.counters().foreign > 0 })
            .await;
        until("neither has a peer", || async {
            ours.gossip.peers().await.is_empty() && others.gossip.peers().await.is_empty()
        })
        .await;
        others.gossip.publish(Topic::Blocks, 1, simple(1));
        // They remain strangers.
        let friend = Node::simple(transport).await;
        join(&friend, &ours).await;
        assert_eq!(ours.gossip.peers().await.len(), 1);
        assert_eq!(ours.gossip.counters().received, 0);
    }
}

#[tokio::test]
async fn lists_say_who_may_connect() {
    let (denied, guest) = (Node::simple(Transport::Tcp).await, Node::simple(Transport::Tcp).await);
    let deny = GossipConfig { deny: [denied.id()].into(), ..config(Transport::Tcp) };
    let allow = GossipConfig { allow: [guest.id()].into(), ..config(Transport::Tcp) };
    for node in [Node::start(options(deny)).await, Node::start(options(allow)).await] {
        denied.gossip.dial(node.address.clone());
        until("it was refused", || async { node.gossip.counters().connections_refused > 0 }).await;
        join(&guest, &node).await;
        assert!(node.peer(denied.id()).await.is_none());
        // Nor is it dialled.
        node.gossip.dial(denied.address.clone());
        let before = node.gossip.counters().connections_refused;
        denied.gossip.dial(node.address.clone());
        until("it was refused again", || async { node.gossip.counters().connections_refused > before }).await;
        assert!(node.peer(denied.id()).await.is_none());
    }
}

#[tokio::test]
async fn connections_from_one_address_are_bounded() {
    let mut narrow = config(Transport::Tcp);
    narrow.bounds.connections_per_ip = 4;
    let node = Node::start(options(narrow)).await;
    let port = node.address.address.iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let mut streams = Vec::new();
    for _ in 0..300 {
        streams.push(TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap());
    }
    until("most were refused", || async { node.gossip.counters().connections_refused >= 200 }).await;
    until("those are closed", || async {
        let closed = |stream: &&TcpStream| matches!(stream.try_read(&mut [0; 1]), Ok(0) | Err(_)) && is_closed(stream);
        streams.iter().filter(closed).count() >= 200
    })
    .await;
    drop(streams);
    // Once they are gone there is room again.
    let guest = Node::simple(Transport::Tcp).await;
    until("a guest is in", || async {
        guest.gossip.dial(node.address.clone());
        node.peer(guest.id()).await.is_some()
    })
    .await;
}

/// Nothing more will come.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

#[tokio::test]
async fn who_knows_one_node_finds_the_others() {
    let boot = Node::simple(Transport::Quic).await;
    let knowing = || GossipConfig { bootnodes: vec![boot.address.clone()], ..config(Transport::Quic) };
    let (one, other) = (Node::start(options(knowing())).await, Node::start(options(knowing())).await);
    until("they have met", || async { one.is_in_mesh_with(&other).await && other.is_in_mesh_with(&one).await }).await;
}

#[tokio::test]
async fn key_and_peers_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Node::simple(Transport::Tcp).await;
    let node = Node::start(with_directory(options(config(Transport::Tcp)), directory.path())).await;
    let id = node.id();
    join(&node, &server).await;
    let info = node.peer(server.id()).await.unwrap();
    assert_eq!((info.space, info.is_inbound), (Some(space().to_string()), false));
    assert!(info.agent.unwrap().starts_with("downbeat/"));
    let Node { gossip, received, .. } = node;
    drop((gossip, received));
    until("the peers are written", || async { directory.path().join("peers.json").exists() }).await;
    until("it is gone", || async { server.gossip.peers().await.is_empty() }).await;
    let node = Node::start(with_directory(options(config(Transport::Tcp)), directory.path())).await;
    assert_eq!(node.id(), id);
    until("they meet again", || async { node.is_in_mesh_with(&server).await }).await;
}

#[tokio::test]
async fn an_explicit_peer_is_connected_without_anybody_asking_and_by_its_name() {
    let friend = Node::simple(Transport::Tcp).await;
    let port: Multiaddr = friend.address.address.iter().skip(1).collect();
    let address: Multiaddr = format!("/dns4/localhost{port}").parse().unwrap();
    let explicit_peers = vec![PeerAddress { peer: friend.id(), address }];
    let node = Node::start(options(GossipConfig { explicit_peers, ..config(Transport::Tcp) })).await;
    until("it is connected", || async { node.peer(friend.id()).await.is_some_and(|info| info.is_explicit) }).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let node = Node::simple(Transport::Tcp).await;
    let taken = GossipConfig { listen: vec![node.address.address.clone()], ..config(Transport::Tcp) };
    let error = start(options(taken)).unwrap_err().to_string();
    assert!(error.contains(&node.address.address.to_string()), "{error}");
}
