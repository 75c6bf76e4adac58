//! Whether a message is genuine: pure functions of the message, of what is trusted, and of the time.
//!
//! A block message proves itself to whoever has a trusted header: its own header follows from that by signatures under the
//! same rules as any other ([`light::verify`]), and the rollups' roots follow from its header. A rollup's data prove
//! themselves to whoever has the block.

use std::sync::Arc;

use super::{
    BlockMessage, Message, RollupMessage, Topic,
    verdict::{Refused, Verdict},
};
use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, RollupId, SequencerHeight},
    job::{Afresh, Steps},
    light::{self, Check, LightBlock},
    limits::Limits,
    merkle::{self, Hash},
    sequencer::{
        BindRefusal, Claim, ContentDigest, DataItems, SequencedBlock, TrustedHeader, ValidatorSet, ValidatorsError,
        decode_element, price_feed, rollup_leaf,
    },
    time::Timestamp,
    verified::Verified,
    wire::proto::astria::sequencerblock::v1::RollupData,
};

/// A committed block as far as the data of its rollups are bound by it. Proven when wrapped in [`Verified`].
#[derive(Clone, Debug)]
pub struct BoundBlock {
    header: Verified<TrustedHeader>,
    time: prost_types::Timestamp,
    rollup_transactions_root: Hash,
    /// In the order of the block.
    rollup_ids: Vec<RollupId>,
    /// The element that goes first in each rollup's block.
    price_feed: Option<RollupData>,
    content: ContentDigest,
}

impl BoundBlock {
    /// `claim` was bound to `header`.
    pub(crate) fn new(header: &Verified<TrustedHeader>, claim: &Claim, limits: &Limits) -> Result<Self, Refused> {
        let tree = &claim.tree;
        let price_feed = match &tree.commit_info {
            Some(info) => price_feed::first_transaction(&info.bytes, limits).map_err(Refused::CommitInfo)?,
            None => None,
        };
        Ok(Self {
            header: header.clone(),
            time: tree.header.time,
            rollup_transactions_root: tree.header.rollup_transactions_root,
            rollup_ids: tree.rollup_ids.clone(),
            price_feed,
            content: claim.content(),
        })
    }

    pub fn height(&self) -> SequencerHeight {
        self.header.height()
    }

    pub fn block_hash(&self) -> BlockHash {
        self.header.hash()
    }

    /// What tells other records of the block from forged ones.
    pub(crate) fn content(&self) -> ContentDigest {
        self.content
    }

    /// Whether the block has data for this rollup.
    pub fn lists(&self, rollup: &RollupId) -> bool {
        self.rollup_ids.contains(rollup)
    }

    fn block(&self, root: Hash, elements: Vec<RollupData>) -> Verified<SequencedBlock> {
        let (height, hash) = (self.height(), self.block_hash());
        Verified::new(SequencedBlock::new(height, hash, self.time, root, self.price_feed.clone(), elements))
    }
}

impl Verified<BoundBlock> {
    /// What a rollup has to execute for which the block has no data; none if it has some.
    pub fn empty_block(&self, rollup: &RollupId) -> Option<Verified<SequencedBlock>> {
        (!self.lists(rollup)).then(|| self.block(merkle::root_of::<[Hash; 0]>([]), Vec::new()))
    }
}

/// A block message that is genuine.
#[derive(Clone, Debug)]
pub struct GenuineBlock {
    pub light: Verified<LightBlock>,
    pub bound: Arc<Verified<BoundBlock>>,
}

/// What becomes of a block message that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRefusal {
    pub verdict: Verdict,
    /// The rule of the light client that its header breaks.
    pub light: Option<Box<light::Refusal>>,
}

impl From<Refused> for BlockRefusal {
    fn from(refused: Refused) -> Self {
        Self { verdict: Verdict::Reject(refused), light: None }
    }
}

/// Whether a message on [`Topic::Blocks`] is genuine. `check` says what its header has to follow from.
pub fn verify_block(
    message: &Message,
    check: &Check,
    now: Timestamp,
    limits: &Limits,
) -> Result<GenuineBlock, BlockRefusal> {
    verify_block_with(message, check, now, limits, &Afresh)
}

/// The same, with `steps` for what takes long.
pub(super) fn verify_block_with(
    message: &Message,
    check: &Check,
    now: Timestamp,
    limits: &Limits,
    steps: &impl Steps,
) -> Result<GenuineBlock, BlockRefusal> {
    let refuse = |refused: Refused| BlockRefusal::from(refused);
    let BlockMessage { signed, validators, claim, items } =
        BlockMessage::decode(message, limits).map_err(|error| refuse(error.into()))?;
    claim.tree.verify().map_err(|error| refuse(error.into()))?;
    let set = set_of(validators, check, limits, steps).map_err(|error| refuse(error.into()))?;
    let height = message.height.0;
    let light = if canary(Canary::GossipCommitNotChecked) {
        LightBlock::unchecked(signed, set)
    } else {
        let commit = |signed: &_, set: &_, chain_id: &_, height| steps.commit(signed, set, chain_id, height);
        light::verify_with(check, height, &signed, &set, &limits.trust.options(), now, commit)
            .map_err(|refusal| BlockRefusal { verdict: Verdict::of_header(&refusal), light: Some(Box::new(refusal)) })?
    };
    let header = light.trusted_header();
    bind(&claim, &header, items.as_ref()).map_err(refuse)?;
    let bound = BoundBlock::new(&header, &claim, limits).map_err(refuse)?;
    Ok(GenuineBlock { light, bound: Arc::new(Verified::new(bound)) })
}

/// Whether a message on a rollup's topic is genuine data of `block`.
pub fn verify_rollup(
    message: &Message,
    block: &Verified<BoundBlock>,
    limits: &Limits,
) -> Result<Verified<SequencedBlock>, Refused> {
    let Topic::Rollup(rollup) = message.topic else {
        return Err(Refused::NotListed(RollupId([0; 32])));
    };
    if message.block_hash != block.block_hash() || message.height != block.height() {
        return Err(Refused::OtherBlock { expected: block.block_hash(), actual: message.block_hash });
    }
    if !block.lists(&rollup) {
        return Err(Refused::NotListed(rollup));
    }
    let RollupMessage { transactions, proof } = RollupMessage::decode(message, limits)?;
    let root = merkle::root_of(&transactions);
    if !canary(Canary::GossipDataNotBound) {
        proof
            .verify(&rollup_leaf(&rollup, &root), &block.rollup_transactions_root)
            .map_err(|source| Refused::Data { rollup, source })?;
    }
    let elements = transactions.iter().enumerate().map(|(index, transaction)| decode_element(transaction, index));
    Ok(block.block(root, elements.collect::<Result<_, _>>()?))
}

/// Mostly the set is the one that is trusted, whose keys are ready for use.
fn set_of(
    validators: Vec<tendermint::validator::Info>,
    check: &Check,
    limits: &Limits,
    steps: &impl Steps,
) -> Result<Arc<ValidatorSet>, ValidatorsError> {
    if let Check::From(state) = check
        && state.validators().infos() == validators
    {
        return Ok(Arc::clone(state.validators()));
    }
    steps.validator_set(validators, limits.validators)
}

/// What nobody looks at must not be there, or there would be many messages that say the same.
fn bind(claim: &Claim, header: &Verified<TrustedHeader>, items: Option<&DataItems>) -> Result<(), Refused> {
    match (claim.bind_items(header, None), items) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(_)) => Err(Refused::Superfluous),
        (Err(BindRefusal::NeedsTransactions), Some(items)) => Ok(claim.bind_items(header, Some(items))?),
        (Err(refusal), _) => Err(refusal.into()),
    }
}
