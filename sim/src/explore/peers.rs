//! The peers of a search: a few genuine blocks of the model chains, and what is answered from them.
//!
//! All blocks are made beforehand. How many of them exist at a moment is part of the situation, not of this.

use std::time::Duration;

use bytes::Bytes;
use downbeat_core::{
    Answer, Call, Fault, FaultClass, RollupId, RollupNumber, SequencerHeight, Timestamp,
    celestia::Namespace,
    event::{Blob, CelestiaHead},
    wire::proto::astria::execution::v2::ExecuteBlockRequest,
};
use downbeat_world::{
    BlockInput, RollupConfig, RollupNode, SequencerConfig, World, WorldConfig,
    forge::{Forgery, sequenced},
    published::PublishedBlock,
    relayer::{compress, metadata_blob, rollup_data_blob},
    rollup::{SessionEnd, SessionPlan, TraceLimit},
};
use prost::Message as _;

use super::{Layout, Scope};
use crate::{Violation, oracle};

/// Distance between the genesis and the moment at which a search begins, beyond all block times.
const BEGIN: Duration = Duration::from_hours(24);

/// Celestia heights that a session may look ahead: a quarter of it is how far below the firm block the records of a
/// later one may lie, which the layouts stay inside of.
const LOOK_AHEAD: u64 = 8;

/// What never changes during a search.
#[derive(Debug)]
pub(super) struct Peers {
    world: World,
    /// Encoded filtered blocks, from height 1 on.
    soft: Vec<Bytes>,
    /// What has to be executed, from height 1 on, with neither session nor parent.
    expected: Vec<ExecuteBlockRequest>,
    /// From height 1 on.
    celestia: Vec<Posts>,
    /// For the blocks from height 1 on: the lowest Celestia height at which one of their records lies.
    lies_at: Vec<u64>,
    node: RollupNode,
    begin: Timestamp,
}

/// What lies at one Celestia height.
#[derive(Debug)]
struct Posts {
    /// The relayer's.
    genuine: Vec<Blob>,
    /// A stranger's, in front of it if he posts at all.
    hostile: Vec<Blob>,
}

/// How far the chains are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Heads {
    pub(super) sequencer: u8,
    pub(super) celestia: u8,
    /// Bit `height - 1`: a stranger posted there.
    pub(super) hostile: u8,
}

impl Peers {
    /// # Errors
    /// If the scope is too large or cannot arrive.
    pub(super) fn new(scope: &Scope) -> Result<Self, String> {
        let mut world = World::new(WorldConfig {
            foreign_rollups: 1,
            // One validator and no vote extensions: what matters here is the order of things.
            sequencer: SequencerConfig {
                validators: vec![10],
                vote_extensions_from: None,
                ..SequencerConfig::default()
            },
            session: SessionPlan { look_ahead: LOOK_AHEAD, ..SessionPlan::default() },
            node: RollupConfig { trace: TraceLimit::Off, ..RollupConfig::new(RollupId([0; 32])) },
            ..WorldConfig::default()
        });
        let rollup_id = world.node_ids().first().copied().ok_or("the world has no rollup")?;
        let foreign = downbeat_world::generate::rollup_id("foreign-0");
        let genesis = world.now();
        for height in 1..=scope.soft.max(scope.firm) {
            let mut input =
                BlockInput { rollup_data: vec![(foreign, vec![sequenced("theirs")])], ..BlockInput::default() };
            // The second block has nothing for the rollup, which has to be proven like any content.
            if height != 2 {
                input.rollup_data.push((rollup_id, vec![sequenced(format!("block {height}"))]));
            }
            world.sequencer.make_block(genesis.after(Duration::from_secs(height.into())), input);
        }
        let mut soft = Vec::new();
        let mut expected = Vec::new();
        for height in (1..=scope.soft.max(scope.firm)).map(|height| SequencerHeight(height.into())) {
            let block = world.sequencer.filtered_block(height, &[rollup_id]).ok_or("a block is missing")?;
            soft.push(block.encode_to_vec().into());
            let request = oracle::expected_request(&world, rollup_id, height).ok_or("a block is missing")?;
            expected.push(request.as_ref().clone());
        }
        let (celestia, lies_at) = posts(&world, rollup_id, scope);
        for height in 0..celestia.len() {
            world.celestia.make_block(genesis.after(Duration::from_secs(100 + height as u64)));
        }
        let mut node = world.rollups.remove(&rollup_id).ok_or("the node is missing")?;
        split_sessions(&mut node, scope);
        Ok(Self { begin: genesis.after(BEGIN), world, soft, expected, celestia, lies_at, node })
    }

    /// The rollup node at the beginning.
    pub(super) fn node(&self) -> &RollupNode {
        &self.node
    }

    pub(super) fn begin(&self) -> Timestamp {
        self.begin
    }

    /// Blocks that there will be: sequencer and Celestia.
    pub(super) fn blocks(&self) -> (u8, u8) {
        let count = |length| u8::try_from(length).unwrap_or(u8::MAX);
        (count(self.soft.len()), count(self.celestia.len()))
    }

    /// Sequencer blocks that have to exist before this Celestia height.
    pub(super) fn made_of(&self, celestia: u8) -> u8 {
        celestia.min(self.blocks().0)
    }

    /// What a peer other than the rollup node answers.
    pub(super) fn answer(&self, call: &Call, heads: Heads) -> Result<Answer, Fault> {
        let not_yet = || Fault::new(FaultClass::NotYet, "no such height yet");
        let sequencer = &self.world.sequencer;
        let exists = |height: &SequencerHeight| {
            if height.0 <= heads.sequencer.into() { Ok(*height) } else { Err(not_yet()) }
        };
        Ok(match call {
            Call::IdentifySequencer => Answer::SequencerIdentified { chain_id: sequencer.chain_id().to_owned() },
            Call::FetchSequencerHead => {
                Answer::SequencerHeadFetched { height: SequencerHeight(heads.sequencer.into()) }
            }
            Call::FetchSoftBlock { height, .. } => {
                let block = at(&self.soft, exists(height)?.0).ok_or_else(not_yet)?;
                Answer::SoftBlockFetched { block: block.clone() }
            }
            Call::FetchSignedHeader { height } => {
                let signed_header = sequencer.signed_header(exists(height)?).ok_or_else(not_yet)?;
                Answer::SignedHeaderFetched { signed_header: Box::new(signed_header.clone()) }
            }
            Call::FetchHeaders { first, last } => {
                let heights = (first.0..=last.0.min(heads.sequencer.into())).map(SequencerHeight);
                let headers = heights.filter_map(|height| sequencer.signed_header(height));
                Answer::HeadersFetched { headers: headers.map(|signed| signed.header.clone()).collect() }
            }
            Call::FetchValidators { height } => Answer::ValidatorsFetched {
                validators: sequencer.validators(exists(height)?).ok_or_else(not_yet)?.infos(),
            },
            Call::FetchBlockTransactions { height } => Answer::BlockTransactionsFetched {
                transactions: sequencer.transactions(exists(height)?).ok_or_else(not_yet)?,
            },
            Call::FetchCelestiaHead => {
                let height = downbeat_core::CelestiaHeight(heads.celestia.into());
                let block = self.world.celestia.block(height).ok_or_else(not_yet)?;
                let chain_id = self.world.celestia.chain_id().to_owned();
                Answer::CelestiaHeadFetched { head: CelestiaHead { chain_id, height, time: block.time() } }
            }
            Call::FetchBlobs { height, namespaces } => {
                if height.0 > heads.celestia.into() {
                    return Err(not_yet());
                }
                let Posts { genuine, hostile } = at(&self.celestia, height.0).ok_or_else(not_yet)?;
                let is_hostile = heads.hostile & (1 << (height.0 - 1)) != 0;
                let hostile = hostile.iter().filter(|_| is_hostile);
                let blobs = hostile.chain(genuine).filter(|blob| namespaces.contains(&blob.namespace));
                Answer::BlobsFetched { blobs: blobs.cloned().collect(), unreadable: 0 }
            }
            // The scopes of the search believe the node: proofs take time and lead to no other order of things.
            Call::FetchNamespaces { .. }
            | Call::FetchCelestiaHeader { .. }
            | Call::FetchCelestiaHeaders { .. }
            | Call::OpenSession { .. }
            | Call::ExecuteBlock { .. }
            | Call::UpdateCommitment { .. }
            | Call::FetchExecutedBlock { .. }
            | Call::FetchFromPeers { .. } => return Err(Fault::transient("no call for this peer")),
        })
    }

    /// S2, S3: that what was executed as `number` is what the sequencer committed, all of it and nothing else.
    pub(super) fn check_content(&self, number: u64, request: &ExecuteBlockRequest) -> Result<(), Violation> {
        let height = self.world.sequencer_height(RollupNumber(number)).0;
        let Some(expected) = at(&self.expected, height) else {
            return Err(Violation::new("S2", format!("block {number} was executed and its height does not exist")));
        };
        if request.sequencer_block_hash != expected.sequencer_block_hash || request.timestamp != expected.timestamp {
            return Err(Violation::new("S2", format!("block {number} was executed from another block or time")));
        }
        if request.transactions != expected.transactions {
            return Err(Violation::new("S3", format!("block {number} was executed with other transactions")));
        }
        Ok(())
    }

    /// L1 across restarts: with `firm` committed, the records of the next block must not lie below `lowest`.
    pub(super) fn check_search_height(&self, firm: u64, lowest: u64) -> Result<(), Violation> {
        match at(&self.lies_at, firm + 1) {
            Some(lies_at) if *lies_at < lowest => Err(Violation::new(
                "L1",
                format!(
                    "with block {firm} firm the search begins at {lowest}, and block {} lies at {lies_at}",
                    firm + 1
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Sequencer height of the block with this hash.
    pub(super) fn height_of(&self, hash: &str) -> Option<usize> {
        self.expected.iter().position(|block| block.sequencer_block_hash == hash).map(|index| index + 1)
    }
}

fn at<T>(items: &[T], height: u64) -> Option<&T> {
    items.get(usize::try_from(height.checked_sub(1)?).ok()?)
}

/// What lies on Celestia per height, and where each block's records begin.
fn posts(world: &World, rollup_id: RollupId, scope: &Scope) -> (Vec<Posts>, Vec<u64>) {
    let firm: usize = scope.firm.into();
    let block = |number: usize| world.sequencer.blocks().nth(number).map(|block| &block.published);
    let metadata = |block: &PublishedBlock| Blob {
        namespace: Namespace::of_sequencer(world.sequencer.chain_id()),
        data: metadata_blob(vec![block.metadata()]),
    };
    let data = |block: &PublishedBlock| {
        let record = block.rollup_data(&rollup_id)?;
        Some(Blob { namespace: Namespace::of_rollup(&rollup_id), data: rollup_data_blob(vec![record]) })
    };
    let heights = match scope.layout {
        _ if firm == 0 => 1,
        Layout::InOrder => firm,
        Layout::Split => firm + 1,
        Layout::Together => 1,
    };
    let mut posts = Vec::new();
    for height in 0..heights {
        let (with_metadata, with_data) = match scope.layout {
            Layout::InOrder => (height..height + 1, height..height + 1),
            // The data of a block lies one height below its metadata.
            Layout::Split => (height.saturating_sub(1)..height, height..height + 1),
            Layout::Together => (0..firm, 0..firm),
        };
        let inside = |range: std::ops::Range<usize>| range.filter(|number| *number < firm).filter_map(block);
        let genuine = inside(with_metadata).map(metadata).chain(inside(with_data).filter_map(data)).collect();
        // A stranger's record with the hash of the block and without the rollup, other data for it, and garbage.
        let hostile = inside(height..height + 1).flat_map(|block| {
            let without = block.forged(Forgery::WithoutRollup(rollup_id));
            let other = block.forged(Forgery::ExtraRollup(rollup_id, Bytes::from_static(b"a lie")));
            let garbage = Blob { namespace: Namespace::of_rollup(&rollup_id), data: compress(b"garbage") };
            let copy = if block.rollup_data(&rollup_id).is_some() { &without } else { &other };
            [Some(metadata(copy)), data(&other), Some(garbage)].into_iter().flatten().collect::<Vec<_>>()
        });
        posts.push(Posts { genuine, hostile: hostile.collect() });
    }
    let lies_at = (1..=u64::from(scope.firm)).map(|number| if scope.layout == Layout::Together { 1 } else { number });
    (posts, lies_at.collect())
}

/// Cuts the node's one endless session into several.
fn split_sessions(node: &mut RollupNode, scope: &Scope) {
    let Some(mut next) = node.config().sessions.first().cloned() else { return };
    let mut sessions = Vec::new();
    for length in &scope.sessions {
        let end = next.rollup_start.plus(length.saturating_sub(1));
        sessions.push(SessionPlan { rollup_end: Some(end), ..next.clone() });
        next.rollup_start = end.next();
        next.sequencer_start = next.sequencer_start.plus(*length);
    }
    sessions.push(next);
    let config = node.config_mut();
    config.sessions = sessions;
    config.session_end = if scope.mode.follows_firm() { SessionEnd::Firm } else { SessionEnd::Soft };
}
