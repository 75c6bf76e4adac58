//! Peers: what honest ones tell each other about the model's blocks, what liars make of it, and what a conductor may say
//! and do about either.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arbitrary::Unstructured;
use bytes::Bytes;
use downbeat_core::{
    Answer, Event, Fault, FaultClass, Job, JobOutcome, Limits, RollupId, SequencerHeight, Timestamp,
    gossip::{GossipHandle, GossipPeer, MakeGossip, Message, MessageId, Topic, Verdict},
    light::{self, Check, Options, RootSetting, SoftTrust, Trust},
    sequencer::{ValidatorSet, header_hash},
};
use downbeat_world::{World, relayer::store};
use prost::Message as _;

use super::{Run, lies::twist_bytes, model::SEQUENCER};

/// Switches peers on, with a server beside them or without.
pub(super) fn switch_on(limits: &mut Limits, world: &World, is_alone: bool) {
    limits.gossip.enabled = true;
    (limits.trust.level, limits.trust.soft) = (Trust::Consensus, SoftTrust::Consensus);
    if is_alone {
        let first = world.sequencer.signed_header(SequencerHeight(1)).expect("the world has blocks");
        limits.trust.root = RootSetting::Header { height: 1, hash: header_hash(&first.header) };
        limits.gossip.sole_source_of = Some(SEQUENCER.to_owned());
    }
}

/// What honest nodes tell each other about each block: about itself first, then about each rollup.
pub(super) fn messages(world: &World) -> BTreeMap<SequencerHeight, Vec<Message>> {
    let heights = world.sequencer.blocks().map(|block| block.published.height());
    heights.filter_map(|height| Some((height, of_block(world, height)?))).collect()
}

fn of_block(world: &World, height: SequencerHeight) -> Option<Vec<Message>> {
    let sequencer = &world.sequencer;
    let (published, signed) = (&sequencer.block(height)?.published, sequencer.signed_header(height)?);
    let ids: Vec<RollupId> = published.rollup_ids().collect();
    let set = Arc::new(ValidatorSet::new(sequencer.validators(height)?.infos(), usize::MAX).ok()?);
    let root = Check::Root { chain_id: sequencer.chain_id().to_owned(), hash: header_hash(&signed.header) };
    let at = Timestamp(u64::try_from(signed.header.time.unix_timestamp_nanos()).ok()?);
    let light = light::verify(&root, height.0, signed, &set, &Options::default(), at).ok()?;
    let job = MakeGossip {
        block: published.filtered(&ids).encode_to_vec().into(),
        light: Box::new(light),
        transactions: sequencer.transactions(height),
        limits: Arc::default(),
    };
    match Job::MakeGossip(Box::new(job)).run() {
        JobOutcome::Messages(messages) => Some(messages),
        _ => None,
    }
}

fn sealed(message: &Message) -> Bytes {
    message.seal(&store(&message.body)).into()
}

/// What an honest peer answers.
pub(super) fn answer(
    messages: &BTreeMap<SequencerHeight, Vec<Message>>,
    height: SequencerHeight,
    rollups: &[RollupId],
) -> Result<Answer, Fault> {
    let held = messages.get(&height).ok_or_else(|| Fault::new(FaultClass::NotYet, "no such height yet"))?;
    let find = |topic| held.iter().find(|message| message.topic == topic).map(sealed);
    let rollups = rollups.iter().filter_map(|id| Some((*id, find(Topic::Rollup(*id))?)));
    Ok(Answer::FetchedFromPeers { peer: GossipPeer(1), block: find(Topic::Blocks), rollups: rollups.collect() })
}

/// What the run knows of messages.
#[derive(Debug, Default)]
pub(super) struct Told {
    next: u64,
    /// Without a verdict so far, and whether each is genuine.
    given: BTreeMap<GossipHandle, bool>,
    published: BTreeSet<MessageId>,
}

impl Run<'_> {
    /// A peer sends something about a block: what is genuine, or nearly.
    pub(super) fn gossip(&mut self, choice: u8, input: &mut Unstructured<'_>) {
        let [place, part]: [u8; 2] = input.arbitrary().unwrap_or_default();
        let count = self.model.messages.len().max(1);
        let Some(messages) = self.model.messages.values().nth(usize::from(place) % count) else { return };
        let Some(genuine) = messages.get(usize::from(part & 15) % messages.len().max(1)) else { return };
        let (mut topic, mut bytes) = (genuine.topic, sealed(genuine));
        match choice & 7 {
            0..=2 => {}
            3 => bytes = twist_bytes(&bytes, input),
            4 => {
                let body = twist_bytes(&genuine.body, input);
                bytes = sealed(&Message { body, ..genuine.clone() });
            }
            // Right in itself, and told of another height, or in another place.
            5 => {
                let height = SequencerHeight(input.arbitrary().unwrap_or_default());
                bytes = sealed(&Message { height, ..genuine.clone() });
            }
            6 => topic = if topic == Topic::Blocks { Topic::Rollup(RollupId([part; 32])) } else { Topic::Blocks },
            _ => bytes = bytes.slice(..bytes.len().min(usize::from(place))),
        }
        let id = Message::open(topic, &bytes, &Limits::default()).ok().map(|message| message.id());
        let handle = GossipHandle(self.told.next);
        self.told.next += 1;
        self.told.given.insert(handle, id == Some(genuine.id()));
        self.deliver(Event::Gossiped { handle, peer: GossipPeer(u64::from(part >> 4)), topic, bytes });
    }

    pub(super) fn check_verdict(&mut self, handle: GossipHandle, verdict: &Verdict) {
        let is_genuine = self.told.given.remove(&handle).expect("a verdict for each message, and one");
        assert!(is_genuine || *verdict != Verdict::Accept, "what nobody signed was accepted (S4)");
        // The first header that a server shows is believed without a root; then what is genuine may not follow from it.
        if let Verdict::Reject(refused) = verdict
            && is_genuine
            && !self.may_be_refused()
        {
            panic!("a genuine message was refused: {refused}");
        }
    }

    pub(super) fn check_publication(&mut self, message: &Message) {
        assert!(self.limits.gossip.publish && self.limits.gossip.enabled, "{message:?}");
        assert!(self.told.published.insert(message.id()), "published twice (S10): {message:?}");
        let genuine = self.model.messages.get(&message.height).expect("a block of the chain (S4)");
        let of_topic =
            genuine.iter().find(|genuine| genuine.topic == message.topic).expect("a topic of the block (S4)");
        assert_eq!(of_topic.block_hash, message.block_hash, "not the block that was signed (S4)");
        if message.topic != Topic::Blocks {
            assert_eq!(of_topic.id(), message.id(), "not the data of the block (S4)");
        }
    }

    pub(super) fn check_penalty(&self, peer: GossipPeer) {
        assert!(self.may_be_refused(), "peer {} is blamed for the truth", peer.0);
    }

    /// Whether the conductor may refuse what is genuine: somebody was believed who lied, or it is too long.
    fn may_be_refused(&self) -> bool {
        self.has_lied || self.is_misled || self.is_narrow
    }

    /// L8, and a verdict in the end.
    pub(super) fn check_told(&self) {
        let waiting = self.told.given.len();
        assert!(waiting <= self.limits.gossip.undecided, "{waiting} messages without a verdict (L8)");
        assert!(waiting == 0 || !self.has_exited, "{waiting} messages without a verdict at the exit (L9)");
        for gauge in self.conductor.gauges().iter().filter(|_| self.limits.gossip.enabled) {
            assert!(gauge.held <= gauge.bound, "{gauge:?} (L8)");
        }
    }
}
