//! Messages from peers: whatever comes, what is taken is what the validators committed to.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use downbeat_core::{
    Limits,
    gossip::{BlockMessage, Message, RollupMessage, Topic, identify, verify_block, verify_rollup},
    light::Check,
};
use downbeat_world::relayer::store;

use super::{
    genuine::{BLOCKS, GenuineBlock},
    tiny_limits,
};

/// The first two bytes choose a genuine block and how the others are meant: as a message on its way, or as changes to the
/// content of a genuine one.
pub fn gossip(data: &[u8]) {
    let Some(([way, index], rest)) = data.split_first_chunk().map(|(head, rest)| (*head, rest)) else { return };
    let block = &BLOCKS[usize::from(index) % BLOCKS.len()];
    let limits = if way & 2 == 0 { Limits::default() } else { Limits { gossip: small(), ..tiny_limits() } };
    let topics = [Topic::Blocks, Topic::Rollup(block.rollup)];
    if way & 1 == 0 {
        for topic in topics {
            on_its_way(topic, rest, block, &limits);
        }
    } else if let Ok(changes) = <Vec<Change>>::arbitrary_take_rest(Unstructured::new(rest)) {
        for message in &block.messages {
            let mut body = message.body.to_vec();
            for change in changes.iter().take(8) {
                change.make(&mut body);
            }
            judge(&Message { body: body.into(), ..message.clone() }, block, &limits);
        }
    }
}

fn small() -> downbeat_core::gossip::GossipSettings {
    downbeat_core::gossip::GossipSettings { message_bytes: 2_048, body_bytes: 1_024, ..Default::default() }
}

#[derive(Debug, Arbitrary)]
enum Change {
    Set(u16, u8),
    Insert(u16, u8),
    Remove(u16),
    Append(Vec<u8>),
    Repeat(u16, u8),
}

impl Change {
    fn make(&self, body: &mut Vec<u8>) {
        let at = |place: u16, length: usize| usize::from(place) % length.max(1);
        match self {
            Self::Set(place, byte) => {
                let place = at(*place, body.len());
                body.get_mut(place).into_iter().for_each(|old| *old = *byte);
            }
            Self::Insert(place, byte) => body.insert(at(*place, body.len()), *byte),
            Self::Remove(place) if !body.is_empty() => drop(body.remove(at(*place, body.len()))),
            Self::Remove(_) => {}
            Self::Append(more) => body.extend_from_slice(more),
            Self::Repeat(place, count) => {
                let from = at(*place, body.len());
                let again: Vec<u8> = body.iter().skip(from).take(usize::from(*count)).copied().collect();
                body.extend(again);
            }
        }
    }
}

fn on_its_way(topic: Topic, wire: &[u8], block: &GenuineBlock, limits: &Limits) {
    let opened = Message::open(topic, wire, limits);
    assert_eq!(identify(topic, wire, limits), opened.as_ref().ok().map(Message::id));
    let Ok(message) = opened else { return };
    assert!(wire.len() <= limits.gossip.message_bytes && message.body.len() <= limits.gossip.body_bytes);
    // However it travels, it is the same message.
    let again = message.seal(&store(&message.body));
    if again.len() <= limits.gossip.message_bytes {
        assert_eq!(Message::open(topic, &again, limits).as_ref(), Ok(&message));
    }
    judge(&message, block, limits);
}

/// What is taken is what was committed, and is written as it was read.
fn judge(message: &Message, block: &GenuineBlock, limits: &Limits) {
    match message.topic {
        Topic::Blocks => {
            let decoded = BlockMessage::decode(message, limits);
            if let Ok(decoded) = &decoded {
                assert_eq!(&decoded.encode(), message, "there is one form");
            }
            let root = Check::Root { chain_id: block.chain_id.clone(), hash: block.header.hash() };
            let Ok(genuine) = verify_block(message, &root, block.at, limits) else { return };
            assert!(decoded.is_ok());
            assert_eq!((genuine.light.hash(), message.block_hash), (block.header.hash(), block.header.hash()));
            assert_eq!(genuine.bound.lists(&block.rollup), block.rollup_data.is_some(), "the list of ids (S3)");
            // Whatever else it says: what follows from it is the block as Celestia has it.
            let data = block.messages.iter().find(|message| message.topic == Topic::Rollup(block.rollup));
            let follows = match data {
                Some(data) => verify_rollup(data, &genuine.bound, limits).ok(),
                None => genuine.bound.empty_block(&block.rollup),
            };
            if *limits == Limits::default() {
                assert_eq!(follows.as_ref(), Some(&block.block), "soft and firm are the same block (S9)");
            }
        }
        Topic::Rollup(rollup) => {
            if let Ok(decoded) = RollupMessage::decode(message, limits) {
                assert_eq!(&decoded.encode(rollup, message.height, message.block_hash), message, "there is one form");
            }
            let root = Check::Root { chain_id: block.chain_id.clone(), hash: block.header.hash() };
            let own = block.messages.first().expect("about the block");
            let bound = verify_block(own, &root, block.at, &Limits::default()).expect("genuine").bound;
            if let Ok(taken) = verify_rollup(message, &bound, limits) {
                assert_eq!(taken, block.block, "what is taken is what was committed (S2)");
            }
        }
    }
}

/// Genuine messages of a block as they travel.
pub(super) fn sealed(block: &GenuineBlock) -> impl Iterator<Item = (Topic, Bytes)> + '_ {
    block.messages.iter().map(|message| (message.topic, message.seal(&store(&message.body)).into()))
}
