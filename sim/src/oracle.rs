//! Judges what the conductor made of the model world, from the protocol alone.
//!
//! Two judges. [`judge_among_lies`] reads the whole history of calls that a rollup node kept, when a run is over.
//! [`Watch`] sees every event and every command while it goes on. Neither asks the conductor for what it thinks; it is
//! asked only for sizes (L8), for a digest to compare with that of a new process (S14), and for words once it has failed.
//!
//! | Invariant | Where it is checked | What of it is not |
//! |---|---|---|
//! | S1 | `Watch::commits`: no block becomes firm before a commit with the model's own quorum, or links to one, were shown in time; what is persisted, too; a second chain that the quorum signed is known | which of two such chains is right |
//! | S2, S3 | `is_the_sequencers`: hash, time and elements of every executed block | |
//! | S4 | `tests/invariants.rs`: the same chain with and without what strangers post and what signed headers are refused; `queue/gossip`: what is accepted of peers or published is genuine, and a forgery keeps nothing out | caches that never show |
//! | S5, S6, S8 | the history of calls, and what the node refuses | |
//! | S7 | `is_the_sequencers`: a block of another height than the session's map gives | ends of the number range: `core/tests/height_map.rs` |
//! | S9 | the history: what was executed from a lie never becomes firm; `Watch::answer`: look-ups; `Watch::acts_on_record`: nothing is executed after evidence | a lie under the genuine hash, after the session that executed it |
//! | S10, S18 | `Watch::event`: an answer that nobody waits for is refused; `queue`: chains are known first; `Watch::is_evidence` and `is_falsehood` | |
//! | S11, S13 | `Watch::uses`: no call in a session after an unknown outcome or a wrong reply | |
//! | S12 | through S1 and S2, with every fetch made to fail; `Watch::is_in_time`: the trusting period | |
//! | S14 | `Watch::begins_fresh`: compared with a new process in every field of the session | the caches that all cells share |
//! | S15 | `Watch::commits`: with proofs, what becomes firm lies on Celestia by then, whatever branch was shown | a Celestia that goes back on what a quorum signed: the model's does not |
//! | S16 | `crashes`: every event and every boundary of a call; `Watch::acts_on_record`: records first | |
//! | S17 | `determinism` | |
//! | S19, S20 | `Watch::uses`, `Watch::opens`, and what the node refuses | |
//! | L1, L2, L3, L6, L10 | `Watch::stalled` names what a run that does not arrive lacks; L2 also `Watch::arrived`, L3 also `queue` | |
//! | L4, L5 | `Watch::report`: a cell is parked by what cannot pass only | after the soft source lied, reasons are not told apart |
//! | L7 | `queue`: sessions are counted against reasons | |
//! | L8 | `Watch::call`, `Watch::paces`, gauges; `queue`: calls per second, steps in a moment | bytes of memory |
//! | L9 | `queue` | |

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use downbeat_core::{
    BlockHash, CelestiaHeight, Limits, RollupId, RollupNumber, SequencerHeight,
    celestia::{Namespace, unpack},
    wire::proto::{
        astria::{
            execution::v2::{CommitmentState, ExecuteBlockRequest, ExecutedBlockMetadata},
            primitive::v1::Int128,
            protocol::price_feed::v1::ExtendedCommitInfoWithCurrencyPairMapping,
            sequencerblock::v1::{
                Price, PriceFeedData, RollupData, SubmittedMetadata, SubmittedMetadataList, SubmittedRollupData,
                SubmittedRollupDataList, rollup_data::Value,
            },
        },
        connect::abci::v2::OracleVoteExtension,
    },
};
use downbeat_world::{
    RollupNode, World,
    celestia::Block,
    memo::{Fingerprint, Generations},
    rollup::{Call, Code, Status},
};
use prost::Message as _;

pub mod watch;

pub use watch::Watch;

/// What must never happen, with the invariant's id (see `DESIGN.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

impl std::error::Error for Violation {}

impl Violation {
    pub(crate) fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

/// Where on Celestia the genuine records of each sequencer block lie, for the rollups that have a node, read from the blobs
/// themselves.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Sequencer blocks by hash.
    blocks: BTreeMap<[u8; 32], SequencerHeight>,
    /// Up to where both chains were read.
    read: (SequencerHeight, CelestiaHeight),
    metadata: BTreeMap<SequencerHeight, BTreeSet<CelestiaHeight>>,
    rollup_data: BTreeMap<(RollupId, SequencerHeight), BTreeSet<CelestiaHeight>>,
}

impl Published {
    /// Reads the whole model Celestia.
    pub fn read(world: &World) -> Self {
        let mut published = Self::default();
        published.read_on(world);
        published
    }

    /// Reads what has come to the same model Celestia since it was read last.
    fn read_on(&mut self, world: &World) {
        let published = self;
        let sequencer = Namespace::of_sequencer(world.sequencer.chain_id());
        let (blocks_read, celestia_read) = published.read;
        published.read = (world.sequencer.head(), world.celestia.head());
        let new = world.sequencer.blocks().map(|block| (block.hash().0, block.published.height()));
        published.blocks.extend(new.filter(|(_, height)| *height > blocks_read));
        let blocks = &published.blocks;
        let height_of = |hash: &[u8]| <[u8; 32]>::try_from(hash).ok().and_then(|hash| blocks.get(&hash)).copied();
        let block_of = |hash: &[u8]| Some(&world.sequencer.block(height_of(hash)?)?.published);
        let first = celestia_read.next().max(world.celestia.tail());
        // Nobody asks about rollups that have no node.
        let namespaces: BTreeSet<Namespace> =
            world.node_ids().iter().map(Namespace::of_rollup).chain([sequencer]).collect();
        for celestia in (first.0..=world.celestia.head().0).map(CelestiaHeight) {
            let blobs = world.celestia.block(celestia).into_iter().flat_map(Block::blobs);
            for blob in blobs.filter(|blob| namespaces.contains(&blob.namespace)) {
                match &*listed(&blob.data, blob.namespace == sequencer) {
                    Listed::Metadata(entries) => {
                        for Entry { record, is_genuine } in entries {
                            let Some(block) = block_of(&record.block_hash) else { continue };
                            if *is_genuine.get_or_init(|| block.metadata() == *record) {
                                published.metadata.entry(block.height()).or_default().insert(celestia);
                            }
                        }
                    }
                    Listed::RollupData(entries) => {
                        for Entry { record, is_genuine } in entries {
                            let id = record.rollup_id.as_ref().and_then(|id| id.inner.as_ref().try_into().ok());
                            let (Some(id), Some(block)) = (id.map(RollupId), block_of(&record.sequencer_block_hash))
                            else {
                                continue;
                            };
                            if Namespace::of_rollup(&id) == blob.namespace
                                && *is_genuine.get_or_init(|| block.rollup_data(&id).as_ref() == Some(record))
                            {
                                published.rollup_data.entry((id, block.height())).or_default().insert(celestia);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether all that a rollup needs of a block lies on Celestia, as far as it was read.
    fn is_whole(&self, world: &World, id: RollupId, height: SequencerHeight) -> bool {
        let Some(block) = world.sequencer.block(height) else { return false };
        let needs_data = block.published.rollup_data(&id).is_some();
        self.metadata.contains_key(&height) && (!needs_data || self.rollup_data.contains_key(&(id, height)))
    }

    /// The records of one block that lie on Celestia: their names and where each was posted last.
    fn last(&self, id: RollupId, height: SequencerHeight) -> impl Iterator<Item = (&'static str, CelestiaHeight)> + '_ {
        let metadata = self.metadata.get(&height).and_then(BTreeSet::last).map(|at| ("metadata", *at));
        let data = self.rollup_data.get(&(id, height)).and_then(BTreeSet::last).map(|at| ("rollup data", *at));
        metadata.into_iter().chain(data)
    }
}

/// What a blob holds.
#[derive(Debug)]
enum Listed {
    Metadata(Vec<Entry<SubmittedMetadata>>),
    RollupData(Vec<Entry<SubmittedRollupData>>),
}

/// A record, and whether it is that of the block which it names: the same in every world that has a block of this hash.
#[derive(Debug)]
struct Entry<T> {
    record: T,
    is_genuine: OnceLock<bool>,
}

fn entries<T>(records: Vec<T>) -> Vec<Entry<T>> {
    records.into_iter().map(|record| Entry { record, is_genuine: OnceLock::new() }).collect()
}

/// Blobs whose contents are kept: runs share their worlds.
const BLOBS_KEPT: usize = 8_192;

/// Reads a blob; nothing is in one that cannot be read.
fn listed(data: &[u8], is_metadata: bool) -> Arc<Listed> {
    static KEPT: Mutex<Generations<Fingerprint, Arc<Listed>>> = Mutex::new(Generations::new(BLOBS_KEPT));
    let key = Fingerprint::of([&[u8::from(is_metadata)], data]);
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().get(&key) {
        return known;
    }
    // What does not unpack is an empty list.
    let unpacked = unpack(data, &Limits::default()).unwrap_or_default();
    let listed = Arc::new(if is_metadata {
        Listed::Metadata(entries(SubmittedMetadataList::decode(unpacked).unwrap_or_default().entries))
    } else {
        Listed::RollupData(entries(SubmittedRollupDataList::decode(unpacked).unwrap_or_default().entries))
    });
    kept().insert(key, Arc::clone(&listed));
    listed
}

/// What a node held at one point of its history.
#[derive(Clone, Copy, Debug, Default)]
struct Heads<'a> {
    soft: Head<'a>,
    firm: Head<'a>,
    lowest: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head<'a> {
    number: u64,
    hash: &'a str,
}

impl<'a> Heads<'a> {
    fn of(state: &'a CommitmentState) -> Self {
        let head = |block: &'a Option<ExecutedBlockMetadata>| {
            block.as_ref().map(|block| Head { number: block.number, hash: &block.hash }).unwrap_or_default()
        };
        Self {
            soft: head(&state.soft_executed_block_metadata),
            firm: head(&state.firm_executed_block_metadata),
            lowest: state.lowest_celestia_search_height,
        }
    }
}

/// Checks everything that one rollup node was asked to do.
///
/// # Errors
/// The first violation.
pub fn judge(world: &World, published: &Published, rollup_id: RollupId) -> Result<(), Violation> {
    judge_among_lies(world, published, rollup_id, &BTreeSet::new())
}

/// The same where the sequencer's own service told lies about some heights that cannot be told from the truth without
/// the commit: soft may have executed those, and firm may never confirm them in the session that did.
///
/// # Errors
/// The first violation.
pub fn judge_among_lies(
    world: &World,
    published: &Published,
    rollup_id: RollupId,
    lies: &BTreeSet<SequencerHeight>,
) -> Result<(), Violation> {
    let Some(node) = world.rollups.get(&rollup_id) else { return Ok(()) };
    let mut executed_in_session: BTreeSet<(&str, u64)> = BTreeSet::new();
    let mut executed: BTreeSet<&str> = BTreeSet::new();
    let mut heads: Option<Heads<'_>> = None;
    // Hashes of blocks that were executed from a lie, and whether the lie had the genuine block's hash. Such a one is not
    // known any more after the session: the rollup keeps nothing else of it.
    let mut from_lies: BTreeMap<&str, bool> = BTreeMap::new();
    for call in node.trace() {
        match call {
            Call::Opened(Ok(session)) => {
                let next = session.commitment_state.as_ref().map(Heads::of).unwrap_or_default();
                if heads.is_none() {
                    executed.extend([next.soft.hash, next.firm.hash]);
                }
                heads = Some(next);
                from_lies.retain(|_, has_hash| !*has_hash);
            }
            Call::Executed(request, Ok(metadata)) => {
                // Soft builds on soft, and firm executes only while it is the same block.
                if heads.as_ref().is_none_or(|heads| heads.soft.hash != request.parent_hash) {
                    return Err(Violation::new(
                        "S6",
                        format!("block {} was not put on the soft head", metadata.number),
                    ));
                }
                if !executed_in_session.insert((&request.session_id, metadata.number)) {
                    let (number, session) = (metadata.number, &request.session_id);
                    return Err(Violation::new("S5", format!("block {number} was executed twice in {session}")));
                }
                executed.insert(&metadata.hash);
                match is_the_sequencers(world, rollup_id, request, metadata) {
                    Err(_) if lies.contains(&world.sequencer_height(RollupNumber(metadata.number))) => {
                        let genuine = world.sequencer.block(world.sequencer_height(RollupNumber(metadata.number)));
                        let has_hash =
                            genuine.is_some_and(|block| block.hash().to_string() == request.sequencer_block_hash);
                        from_lies.insert(&metadata.hash, has_hash);
                    }
                    result => result?,
                }
            }
            Call::Updated(request, Ok(state)) => {
                let next = Heads::of(state);
                let before = heads.unwrap_or_default();
                let numbers = |heads: &Heads<'_>| (heads.soft.number, heads.firm.number, heads.lowest);
                if next.soft.number < before.soft.number
                    || next.firm.number < before.firm.number
                    || next.lowest < before.lowest
                    || next.firm.number > next.soft.number
                {
                    let (before, next) = (numbers(&before), numbers(&next));
                    return Err(Violation::new("S8", format!("{before:?} became {next:?} in {}", request.session_id)));
                }
                if next.soft.number > before.soft.number + 1 || next.firm.number > before.firm.number + 1 {
                    let (before, next) = (numbers(&before), numbers(&next));
                    return Err(Violation::new(
                        "S5",
                        format!("{before:?} jumped to {next:?} in {}", request.session_id),
                    ));
                }
                if !executed.contains(next.soft.hash) || !executed.contains(next.firm.hash) {
                    return Err(Violation::new("S5", format!("{:?} was committed and never executed", numbers(&next))));
                }
                if from_lies.contains_key(next.firm.hash) {
                    let number = next.firm.number;
                    return Err(Violation::new(
                        "S9",
                        format!("block {number} was executed from a lie and became firm"),
                    ));
                }
                passes_nothing_needed(world, published, rollup_id, &next)?;
                heads = Some(next);
            }
            Call::Executed(_, Err(status)) if is_illegal(status) => {
                let invariant = if status.code == Code::OutOfRange { "S19" } else { "S6" };
                return Err(Violation::new(invariant, format!("the node refused to execute: {status}")));
            }
            Call::Updated(request, Err(status)) if is_illegal(status) => {
                let asked = request.commitment_state.as_ref().map(Heads::of).unwrap_or_default();
                let goes_back = heads.as_ref().is_some_and(|heads| {
                    asked.soft.number < heads.soft.number || asked.firm.number < heads.firm.number
                });
                let invariant = match status.code {
                    Code::OutOfRange => "S19",
                    _ if goes_back => "S8",
                    _ => "S6",
                };
                return Err(Violation::new(invariant, format!("the node refused to commit: {status}")));
            }
            _ => {}
        }
    }
    is_one_chain(node)
}

/// L1 across restarts: the search height does not pass a Celestia height at which the only record of a later block
/// lies, as long as it lies at most a quarter of the look-ahead below the firm block (see `DESIGN.md`).
fn passes_nothing_needed(
    world: &World,
    published: &Published,
    id: RollupId,
    heads: &Heads<'_>,
) -> Result<(), Violation> {
    let firm = world.sequencer_height(RollupNumber(heads.firm.number));
    let Some(found) = published.metadata.get(&firm).and_then(BTreeSet::first) else { return Ok(()) };
    let reach = found.minus(world.config().session.look_ahead / 4);
    if heads.lowest <= reach.0 {
        return Ok(());
    }
    for (height, _) in published.metadata.range(firm.next()..) {
        for (what, last) in published.last(id, *height) {
            if last.0 < heads.lowest && last >= reach {
                let (number, lowest) = (heads.firm.number, heads.lowest);
                let detail = format!(
                    "with block {number} firm the search begins at {lowest}, and the {what} of sequencer height \
                     {height} lie at {last}"
                );
                return Err(Violation::new("L1", detail));
            }
        }
    }
    Ok(())
}

/// What no fault explains: a request that the API forbids.
fn is_illegal(status: &Status) -> bool {
    matches!(status.code, Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange)
}

/// S2, S3, S7: what was executed is what the sequencer committed at that height, all of it and nothing else.
fn is_the_sequencers(
    world: &World,
    rollup_id: RollupId,
    request: &ExecuteBlockRequest,
    metadata: &ExecutedBlockMetadata,
) -> Result<(), Violation> {
    let height = world.sequencer_height(RollupNumber(metadata.number));
    let expected = expected_request(world, rollup_id, height)
        .ok_or_else(|| Violation::new("S2", format!("height {height} was executed and does not exist")))?;
    let is_other = request.sequencer_block_hash != expected.sequencer_block_hash;
    let mut blocks = world.sequencer.blocks().filter(|_| is_other);
    let other = blocks.find(|block| block.hash().to_string() == request.sequencer_block_hash);
    if let Some(other) = other.map(|block| block.published.height()).filter(|other| *other != height) {
        let number = metadata.number;
        return Err(Violation::new("S7", format!("block {number} was made from height {other} and not from {height}")));
    }
    if is_other || request.timestamp != expected.timestamp {
        return Err(Violation::new("S2", format!("height {height} was executed from another block or time")));
    }
    if request.transactions != expected.transactions {
        return Err(Violation::new("S3", format!("height {height} was executed with other transactions")));
    }
    Ok(())
}

/// Requests that are kept: runs share their worlds.
const REQUESTS_KEPT: usize = 16_384;

/// The request for one height, less the parent, from the model chain.
pub(crate) fn expected_request(
    world: &World,
    rollup_id: RollupId,
    height: SequencerHeight,
) -> Option<Arc<ExecuteBlockRequest>> {
    static KEPT: Mutex<Generations<(BlockHash, RollupId), Arc<ExecuteBlockRequest>>> =
        Mutex::new(Generations::new(REQUESTS_KEPT));
    let block = world.sequencer.block(height)?;
    // The hash stands for all that is in the block.
    let key = (block.hash(), rollup_id);
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().get(&key) {
        return Some(known);
    }
    let data = block.published.data();
    let elements = data.rollups.get(&rollup_id).cloned().unwrap_or_default();
    let elements = elements.into_iter().filter_map(|element| RollupData::decode(element).ok());
    let request = Arc::new(ExecuteBlockRequest {
        transactions: data.extended_commit_info.as_ref().and_then(price_feed).into_iter().chain(elements).collect(),
        timestamp: block.published.header().time,
        sequencer_block_hash: block.hash().to_string(),
        ..ExecuteBlockRequest::default()
    });
    kept().insert(key, Arc::clone(&request));
    Some(request)
}

/// The element that prices make, computed once more (reference §6.6). Model prices are small and positive.
fn price_feed(info: &Bytes) -> Option<RollupData> {
    let info = ExtendedCommitInfoWithCurrencyPairMapping::decode(info.clone()).ok()?;
    let mut order = Vec::new();
    let mut quotes: BTreeMap<u64, Vec<u128>> = BTreeMap::new();
    for vote in info.extended_commit_info?.votes {
        let extension = OracleVoteExtension::decode(vote.vote_extension).ok()?;
        for (id, price) in extension.prices {
            if !info.id_to_currency_pair.iter().any(|entry| entry.id == id) {
                continue;
            }
            if !quotes.contains_key(&id) {
                order.push(id);
            }
            quotes.entry(id).or_default().push(u128::from_be_bytes(price.as_ref().try_into().ok()?));
        }
    }
    let price = |id: u64| {
        let entry = info.id_to_currency_pair.iter().find(|entry| entry.id == id)?;
        let mut quotes = quotes.remove(&id)?;
        quotes.sort_unstable();
        let (below, above) = (quotes[(quotes.len() - 1) / 2], quotes[quotes.len() / 2]);
        let median = u64::try_from(u128::midpoint(below, above)).ok()?;
        let price = Some(Int128 { lo: median, hi: 0 });
        Some(Price { currency_pair: entry.currency_pair.clone(), price, decimals: entry.decimals })
    };
    let prices = order.into_iter().filter_map(price).collect();
    Some(RollupData { value: Some(Value::PriceFeedData(PriceFeedData { prices })) })
}

/// Committed blocks follow one another without a gap, each on its parent.
fn is_one_chain(node: &RollupNode) -> Result<(), Violation> {
    let blocks: Vec<_> = node.blocks().map(|block| &block.metadata).collect();
    for pair in blocks.windows(2) {
        if pair[1].number != pair[0].number + 1 || pair[1].parent_hash != pair[0].hash {
            let (first, second) = (pair[0].number, pair[1].number);
            return Err(Violation::new("S5", format!("block {second} does not follow block {first}")));
        }
    }
    Ok(())
}
