//! The other conductors of a run, and the adapter between them and this one: what they send, what they answer, how they
//! lie, and what may become of it.
//!
//! Messages are genuine if they are what a node that verified the block would publish. Whatever else is sent must be
//! refused or ignored; what is genuine must never be blamed on anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use downbeat_core::{
    Answer, BlockHash, Command, Event, Fault, Job, JobOutcome, Limits, RollupId, SequencerHeight, Timestamp,
    gossip::{GossipHandle, GossipPeer, Ignored, MakeGossip, Message, MessageId, Source, Topic, Verdict},
    light::{self, Check, Options, RootSetting},
    sequencer::{self, header_hash},
    view::{Status, Wait},
    wire::proto::astria::primitive::v1 as primitive,
};
use downbeat_world::{
    World,
    memo::{Fingerprint, Generations},
    relayer::store,
    sequencer::Block,
    validators::ValidatorSet,
};
use prost::Message as _;
use tendermint::{
    block::{CommitSig, signed_header::SignedHeader},
    validator,
};
use tendermint_proto::{Protobuf, v0_37::types as comet};

use crate::{
    Violation,
    fault::{Draw, Kind, Site, Spot},
    peers::{not_yet, shifted, signed_by_strangers, strangers},
    probe::Probe,
};

use super::{Item, Simulation};

/// The peers, as far as one life of the conductor knows them.
#[derive(Debug, Default)]
pub(crate) struct PeerNet {
    /// Blocks up to here were told.
    told: SequencerHeight,
    next_handle: u64,
    /// Messages that have no verdict yet.
    given: BTreeMap<GossipHandle, Given>,
    /// What the adapter passes on no more.
    seen: BTreeSet<MessageId>,
    /// What was accepted or published.
    spread: BTreeSet<(SequencerHeight, Topic)>,
    published: BTreeSet<MessageId>,
    /// Nobody is there until then.
    pub(crate) silent_until: Timestamp,
    /// Nobody is there any more.
    pub(crate) are_gone: bool,
}

/// A message on its way to the conductor.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    peer: GossipPeer,
    topic: Topic,
    bytes: Bytes,
    /// Passed on although it was before.
    again: bool,
}

#[derive(Debug)]
struct Given {
    topic: Topic,
    height: SequencerHeight,
    is_genuine: bool,
    /// Whether it was of a height that was long passed.
    is_stale: bool,
    /// Whether its block was not there when it came.
    is_early: bool,
    at: Timestamp,
}

/// A message about a block, as the protocol says.
#[derive(Clone, PartialEq, prost::Message)]
struct BlockBody {
    #[prost(bytes = "bytes", tag = "1")]
    signed_header: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    validators: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "4")]
    data_hash: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    rollup_transactions_root: Bytes,
    #[prost(message, optional, tag = "6")]
    rollup_transactions_proof: Option<primitive::Proof>,
    #[prost(message, repeated, tag = "7")]
    rollup_ids: Vec<primitive::RollupId>,
    #[prost(bytes = "bytes", tag = "8")]
    rollup_ids_proof: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    upgrade_change_hashes: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    commit_info: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    items: Option<Bytes>,
}

/// A message about a rollup's data.
#[derive(Clone, PartialEq, prost::Message)]
struct RollupBody {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    transactions: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    proof: Option<primitive::Proof>,
}

fn sealed(message: &Message) -> Bytes {
    message.seal(&store(&message.body)).into()
}

/// Blocks whose messages are kept: runs share their worlds.
const BLOCKS_KEPT: usize = 8_192;

/// A message of an honest node.
struct Genuine {
    message: Message,
    id: MessageId,
    /// As it is sent.
    sealed: Bytes,
}

/// What honest nodes tell each other about a block: about itself first, then about each rollup.
fn genuine(world: &World, height: SequencerHeight) -> Option<Arc<Vec<Genuine>>> {
    static KEPT: Mutex<Generations<Fingerprint, Arc<Vec<Genuine>>>> = Mutex::new(Generations::new(BLOCKS_KEPT));
    let hash = world.sequencer.block(height)?.hash();
    let signed = world.sequencer.signed_header(height)?;
    // A signature stands for all of its vote.
    let votes = signed.commit.signatures.iter().map(|vote| match vote {
        CommitSig::BlockIdFlagCommit { signature: Some(signature), .. } => signature.as_bytes(),
        _ => &[],
    });
    let key = Fingerprint::of([&hash.0[..]].into_iter().chain(votes));
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().get(&key) {
        return Some(known);
    }
    let with_id = |message: Message| Genuine { id: message.id(), sealed: sealed(&message), message };
    let made = Arc::new(make(world, height, signed)?.into_iter().map(with_id).collect());
    kept().insert(key, Arc::clone(&made));
    Some(made)
}

fn make(world: &World, height: SequencerHeight, signed: &SignedHeader) -> Option<Vec<Message>> {
    static LIMITS: OnceLock<Arc<Limits>> = OnceLock::new();
    let published = &world.sequencer.block(height)?.published;
    let ids: Vec<RollupId> = published.rollup_ids().collect();
    let set = Arc::new(sequencer::ValidatorSet::new(world.sequencer.validators(height)?.infos(), usize::MAX).ok()?);
    let check = Check::Root { chain_id: world.sequencer.chain_id().to_owned(), hash: header_hash(&signed.header) };
    let at = Timestamp(u64::try_from(signed.header.time.unix_timestamp_nanos()).ok()?);
    let light = light::verify(&check, height.0, signed, &set, &Options::default(), at).ok()?;
    let job = MakeGossip {
        block: published.filtered(&ids).encode_to_vec().into(),
        light: Box::new(light),
        transactions: world.sequencer.transactions(height),
        limits: Arc::clone(LIMITS.get_or_init(Arc::default)),
    };
    match Job::MakeGossip(Box::new(job)).run() {
        JobOutcome::Messages(messages) => Some(messages),
        _ => None,
    }
}

/// Something that looks like a message about this block, and is none.
fn forged(world: &World, height: SequencerHeight, draw: &mut Draw) -> Option<(Topic, Bytes)> {
    let messages = genuine(world, height)?;
    let block = &messages.first()?.message;
    let rollups = messages.get(1..).unwrap_or_default();
    let data = rollups.get(draw.index(rollups.len())).map(|data| &data.message);
    let with = |message: &Message, body: Vec<u8>| {
        let forged = Message { body: body.into(), ..message.clone() };
        (forged.topic, sealed(&forged))
    };
    Some(match (draw.below(9), data) {
        (0, Some(data)) => {
            let mut body = RollupBody::decode(data.body.clone()).ok()?;
            body.transactions.push(Bytes::from_static(b"\x0a\x05never"));
            with(data, body.encode_to_vec())
        }
        (1, Some(data)) => {
            let mut body = RollupBody::decode(data.body.clone()).ok()?;
            body.transactions.pop();
            with(data, body.encode_to_vec())
        }
        (2, Some(data)) => {
            // Genuine data, of another rollup.
            let other = rollups.iter().map(|other| &other.message).find(|other| other.topic != data.topic)?;
            with(data, other.body.to_vec())
        }
        (3, Some(data)) => {
            let other = Message { block_hash: BlockHash(draw.array()), ..data.clone() };
            (other.topic, sealed(&other))
        }
        (4, _) => {
            let (topic, bytes) = (block.topic, sealed(block));
            let mut bytes = bytes.to_vec();
            let at = draw.index(bytes.len());
            *bytes.get_mut(at)? ^= 1 << draw.below(8);
            (topic, bytes.into())
        }
        (5, _) => {
            let mut body = BlockBody::decode(block.body.clone()).ok()?;
            body.rollup_ids.pop();
            with(block, body.encode_to_vec())
        }
        (way, _) => {
            let mut body = BlockBody::decode(block.body.clone()).ok()?;
            let mut signed = <SignedHeader as Protobuf<comet::SignedHeader>>::decode_vec(&body.signed_header).ok()?;
            let mut hash = block.block_hash;
            if way == 6 {
                weaken(&mut signed, world.sequencer.validators(height)?, draw);
            } else {
                // Of this height, and of nobody's chain; or of another chain.
                let mut header = signed.header;
                header.app_hash = draw.array::<32>().to_vec().try_into().ok()?;
                if way == 8 {
                    header.chain_id = "another-chain".try_into().ok()?;
                }
                let at = Timestamp(u64::try_from(header.time.unix_timestamp_nanos()).ok()?);
                signed = signed_by_strangers(header, at);
                hash = header_hash(&signed.header);
                body.validators = strangers().1.infos().iter().map(|info| info.hash_bytes().into()).collect();
            }
            body.signed_header = Protobuf::<comet::SignedHeader>::encode_vec(signed).into();
            let forged = Message { block_hash: hash, body: body.encode_to_vec().into(), ..block.clone() };
            (forged.topic, sealed(&forged))
        }
    })
}

/// Leaves no more votes than just do not suffice, or makes one of them invalid, so that it is no commit any more.
fn weaken(signed: &mut SignedHeader, set: &ValidatorSet, draw: &mut Draw) {
    let votes = &mut signed.commit.signatures;
    if draw.below(2) == 0 {
        let powers: Vec<u64> = set.infos().iter().map(validator::Info::power).collect();
        let mut left = powers.iter().sum::<u64>() * 2 / 3;
        for (vote, power) in votes.iter_mut().zip(powers) {
            match left.checked_sub(power) {
                Some(rest) => left = rest,
                None => *vote = CommitSig::BlockIdFlagAbsent,
            }
        }
        return;
    }
    let signature = votes.iter_mut().find_map(|vote| match vote {
        CommitSig::BlockIdFlagCommit { signature, .. } => Some(signature),
        _ => None,
    });
    if let Some(signature) = signature {
        *signature = tendermint::Signature::new(draw.array::<64>()).ok().flatten();
    }
}

impl Simulation {
    fn has_peers(&self) -> bool {
        self.scenario.gossip.enabled
    }

    /// Whether somebody is there.
    pub(super) fn are_peers_there(&self) -> bool {
        self.has_peers() && !self.net.are_gone && self.net.silent_until <= self.now
    }

    /// A new process has heard nothing.
    pub(crate) fn forget_peers(&mut self) {
        let PeerNet { told, next_handle, silent_until, are_gone, .. } = std::mem::take(&mut self.net);
        self.net = PeerNet { told, next_handle, silent_until, are_gone, ..PeerNet::default() };
    }

    /// Peers tell of new blocks.
    pub(crate) fn tell_of_blocks(&mut self) {
        if !self.has_peers() {
            return;
        }
        while self.net.told < self.world.sequencer.head() {
            let height = self.net.told.next().max(self.world.sequencer.tail());
            self.net.told = height;
            if self.are_peers_there() {
                self.tell_of(height);
            }
        }
    }

    fn tell_of(&mut self, height: SequencerHeight) {
        let Some(messages) = genuine(&self.world, height) else { return };
        let spot = self.injector.pass(Site::Gossip);
        for kind in [Kind::ForgedGossip, Kind::GossipFlood, Kind::StaleGossip] {
            if let Some(mut draw) = self.fires(kind, spot) {
                self.disturb_gossip(kind, height, &mut draw);
            }
        }
        for Genuine { message, sealed, .. } in messages.iter() {
            let spot = self.injector.pass(Site::Gossip);
            if self.fires(Kind::LostGossip, spot).is_some() {
                continue;
            }
            let mut delay = self.latency(spot, 6);
            if let Some(mut draw) = self.fires(Kind::LateGossip, spot) {
                delay += Duration::from_millis(draw.within(200, 4_000));
            }
            let peer = GossipPeer(spot.nth % 3);
            let parcel = Parcel { peer, topic: message.topic, bytes: sealed.clone(), again: false };
            if let Some(mut draw) = self.fires(Kind::RepeatedGossip, spot) {
                let later = delay + Duration::from_millis(draw.within(0, 3_000));
                self.schedule(later, Item::Parcel(Parcel { again: true, ..parcel.clone() }));
            }
            self.schedule(delay, Item::Parcel(parcel));
        }
    }

    fn disturb_gossip(&mut self, kind: Kind, height: SequencerHeight, draw: &mut Draw) {
        let peer = GossipPeer(7);
        match kind {
            // Mostly before the genuine one.
            Kind::ForgedGossip => {
                for _ in 0..draw.within(1, 3) {
                    if let Some((topic, bytes)) = forged(&self.world, height, draw) {
                        let delay = Duration::from_millis(draw.below(self.scenario.latency_ms.max(1)));
                        self.schedule(delay, Item::Parcel(Parcel { peer, topic, bytes, again: false }));
                    }
                }
            }
            Kind::GossipFlood => {
                let ids: Vec<RollupId> = self.world.node_ids().to_vec();
                for _ in 0..draw.within(10, 60) {
                    let topic = match ids.get(draw.index(ids.len() + 1)) {
                        Some(id) => Topic::Rollup(*id),
                        None => Topic::Blocks,
                    };
                    let height = SequencerHeight(height.0.saturating_sub(5) + draw.below(40));
                    let noise = Message {
                        topic,
                        height,
                        block_hash: BlockHash(draw.array()),
                        body: draw.array::<24>().to_vec().into(),
                    };
                    let bytes = sealed(&noise);
                    self.schedule(Duration::ZERO, Item::Parcel(Parcel { peer, topic, bytes, again: false }));
                }
            }
            _ => {
                let old = height.minus(draw.within(1, 40)).max(self.world.sequencer.tail());
                for Genuine { message, sealed, .. } in genuine(&self.world, old).iter().flat_map(|all| all.iter()) {
                    let parcel = Parcel { peer, topic: message.topic, bytes: sealed.clone(), again: true };
                    self.schedule(Duration::from_millis(draw.below(500)), Item::Parcel(parcel));
                }
            }
        }
    }

    /// A message arrives at the adapter.
    pub(crate) fn take_parcel(&mut self, parcel: Parcel) {
        let Parcel { peer, topic, bytes, again } = parcel;
        let opened = Message::open(topic, &bytes, &self.limits).ok();
        let id = opened.as_ref().map(Message::id);
        let is_new = id.is_none_or(|id| self.net.seen.insert(id));
        if self.exit.is_some() || !(is_new || again) {
            return;
        }
        let handle = GossipHandle(self.net.next_handle);
        self.net.next_handle += 1;
        let height = opened.map_or(SequencerHeight(0), |message| message.height);
        let is_genuine = id.is_some() && id == self.genuine_id(topic, height);
        if is_genuine && topic == Topic::Blocks {
            self.shown_by_peer(height);
        }
        let soft = || {
            let status = self.conductor.status(self.shown);
            status.cells.values().filter_map(|cell| cell.soft.as_ref()?.height).min()
        };
        // No cell is above the sequencer, so that the conductor has to be asked about what is old only.
        let is_old = height.plus(20) < self.world.sequencer.head();
        let given = Given {
            topic,
            height,
            is_genuine,
            is_stale: is_old && soft().is_some_and(|soft| height.plus(20) < soft),
            is_early: !self.net.spread.contains(&(height, Topic::Blocks)),
            at: shifted(self.now, self.skew).max(self.shown),
        };
        self.net.given.insert(handle, given);
        self.deliver(Event::Gossiped { handle, peer, topic, bytes });
    }

    fn genuine_id(&self, topic: Topic, height: SequencerHeight) -> Option<MessageId> {
        let messages = genuine(&self.world, height)?;
        messages.iter().find(|genuine| genuine.message.topic == topic).map(|genuine| genuine.id)
    }

    fn shown_by_peer(&mut self, height: SequencerHeight) {
        if let Some(signed) = self.world.sequencer.signed_header(height) {
            let signed = signed.clone();
            self.watch.shown_by_peer(&signed, self.shown, &self.world);
        }
    }

    /// What a peer answers. None if nobody does.
    pub(crate) fn peers_answer(
        &mut self,
        height: SequencerHeight,
        rollups: &[RollupId],
        spot: Spot,
    ) -> Option<Result<Answer, Fault>> {
        if !self.are_peers_there() {
            return None;
        }
        if self.fires(Kind::PeerBehind, spot).is_some() || height > self.world.sequencer.head() {
            return Some(Err(not_yet()));
        }
        let Some(messages) = genuine(&self.world, height) else { return Some(Err(not_yet())) };
        let find = |topic: Topic| {
            let found = messages.iter().find(|genuine| genuine.message.topic == topic);
            found.map(|genuine| genuine.sealed.clone())
        };
        let mut block = find(Topic::Blocks);
        let held = rollups.iter().filter_map(|id| Some((*id, find(Topic::Rollup(*id))?)));
        let mut held: Vec<(RollupId, Bytes)> = held.collect();
        if let Some(mut draw) = self.fires(Kind::PeerLies, spot) {
            match forged(&self.world, height, &mut draw) {
                Some((Topic::Rollup(id), bytes)) => {
                    held.iter_mut().filter(|it| it.0 == id).for_each(|it| it.1 = bytes.clone());
                }
                Some((Topic::Blocks, bytes)) => block = Some(bytes),
                None => {}
            }
        }
        if let Some(mut draw) = self.fires(Kind::PeerGarbage, spot) {
            match draw.below(4) {
                0 => block = None,
                1 => held.clear(),
                2 => block = Some(Bytes::copy_from_slice(&draw.array::<50>())),
                _ => held.iter_mut().for_each(|(_, bytes)| *bytes = Bytes::copy_from_slice(&draw.array::<50>())),
            }
        }
        let peer = GossipPeer(3 + spot.nth % 4);
        if block.as_ref().is_some_and(|bytes| find(Topic::Blocks).as_ref() == Some(bytes)) {
            self.shown_by_peer(height);
        }
        Some(Ok(Answer::FetchedFromPeers { peer, block, rollups: held }))
    }

    /// What the conductor says and does about messages, the moment it does.
    pub(crate) fn look_at_verdicts(&mut self, event: &Event, commands: &[Command]) {
        for command in commands {
            match command {
                Command::JudgeGossip { handle, verdict } => self.look_at_verdict(event, *handle, verdict),
                Command::PublishGossip { message, .. } => self.look_at_publication(message),
                Command::PenalizePeer { .. } => self.hit(Probe::PeerPenalized),
                // The verdicts stand before it.
                Command::Exit(exit) if !self.net.given.is_empty() => {
                    self.breaks(
                        "L9",
                        format!("messages without a verdict at the end: {}, {exit:?}", self.net.given.len()),
                    );
                }
                _ => {}
            }
        }
    }

    fn look_at_verdict(&mut self, event: &Event, handle: GossipHandle, verdict: &Verdict) {
        let Some(given) = self.net.given.remove(&handle) else {
            return self.breaks("S10", format!("a verdict about message {handle:?} that nobody waits for"));
        };
        let what = || format!("message about {}, height {}", given.topic, given.height);
        let key = (given.height, given.topic);
        match verdict {
            Verdict::Accept => {
                if matches!(event, Event::Gossiped { handle: of, .. } if *of == handle) {
                    self.breaks("S12", format!("a {} was accepted before it was verified", what()));
                }
                if !given.is_genuine {
                    self.breaks("S4", format!("a forged {} was accepted", what()));
                }
                if given.is_stale {
                    self.breaks("S10", format!("a {} was accepted, which is long passed", what()));
                }
                self.net.spread.insert(key);
                self.hit(Probe::GossipAccepted);
                if given.is_early && given.topic != Topic::Blocks {
                    self.hit(Probe::GossipDataFirst);
                }
            }
            Verdict::Ignore(Ignored::Known) if given.is_genuine && !self.net.spread.contains(&key) => {
                self.breaks("S4", format!("a genuine {} was passed over as known", what()));
            }
            Verdict::Reject(refused) if given.is_genuine && self.limits.trust.root != RootSetting::FirstUse => {
                self.breaks("S12", format!("a genuine {} was refused: {refused}", what()));
            }
            Verdict::Reject(_) if !given.is_genuine => self.hit(Probe::GossipForgeryRefused),
            Verdict::Reject(_) => {}
            Verdict::Ignore(ignored) => match ignored {
                Ignored::Busy => self.hit(Probe::GossipBusy),
                Ignored::Undecided => self.hit(Probe::GossipUndecided),
                Ignored::Stale => self.hit(Probe::GossipStale),
                Ignored::Known => self.hit(Probe::GossipKnown),
                _ => {}
            },
        }
    }

    /// S4: what others are given is genuine, and they get it once (S10).
    fn look_at_publication(&mut self, message: &Message) {
        self.hit(Probe::GossipPublished);
        let key = (message.height, message.topic);
        let is_genuine = match message.topic {
            // The commit may have come with fewer votes.
            Topic::Blocks => self.world.sequencer.block(message.height).map(Block::hash) == Some(message.block_hash),
            Topic::Rollup(_) => Some(message.id()) == self.genuine_id(message.topic, message.height),
        };
        if !is_genuine && self.limits.trust.root != RootSetting::FirstUse {
            self.breaks("S4", format!("what was published is not genuine: {message:?}"));
        }
        if !self.net.published.insert(message.id()) || !self.net.spread.insert(key) {
            self.breaks("S10", format!("peers have what was published: {message:?}"));
        }
        self.net.seen.insert(message.id());
    }

    fn breaks(&mut self, invariant: &'static str, detail: String) {
        self.broken.get_or_insert_with(|| Violation::new(invariant, detail));
    }

    /// Once a second: every message has a verdict in time (L3), and what there is to be seen.
    pub(crate) fn look_at_peers(&mut self, status: &Status) {
        if !self.has_peers() {
            return;
        }
        let patience = self.limits.gossip.decide_within + Duration::from_secs(3);
        let late = self.net.given.values().find(|given| self.shown.since(given.at) > patience);
        if let Some(late) = late.filter(|_| self.now > self.paused_until.after(Duration::from_secs(3))) {
            let (since, known) = (late.at, &status.gossip);
            let detail =
                format!("no verdict about a message on {} of {since}, height {}: {known:?}", late.topic, late.height);
            self.breaks("L3", detail);
        }
        let Some(gossip) = &status.gossip else { return };
        let won = |source| gossip.counts.won.get(&source).is_some_and(|count| *count > 0);
        let (by_gossip, by_peer, by_server) = (won(Source::Gossip), won(Source::Peer), won(Source::Server));
        let waits = status.cells.values().flat_map(|cell| &cell.waiting_for);
        let falls_back = waits.into_iter().any(|wait| matches!(wait, Wait::Peers { asks_server: true, .. }));
        let is_silent = gossip.newest.is_some() && !gossip.fresh;
        for (is_so, probe) in [
            (by_gossip, Probe::GossipWon),
            (by_peer, Probe::PeerWon),
            (by_gossip && by_server, Probe::ServerWonAsWell),
            (falls_back, Probe::PeersFailedServerAsked),
            (is_silent, Probe::PeersFellSilent),
        ] {
            if is_so {
                self.hit(probe);
            }
        }
    }
}
