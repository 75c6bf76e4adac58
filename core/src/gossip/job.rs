//! The work that gossip gives to workers: to verify what came, and to make messages of what came from elsewhere.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    BlockMessage, BlockRefusal, BoundBlock, GenuineBlock, Message, MessageError, RollupMessage, Topic, Verdict,
    message::Head, verdict::Refused, verify::verify_block_with, verify_rollup,
};
use crate::{
    ids::{RollupId, SequencerHeight},
    job::{SignedBy, Steps},
    light::{Check, LightBlock},
    limits::Limits,
    sequencer::{SequencedBlock, UnverifiedFilteredBlock},
    time::Timestamp,
    verified::Verified,
};

/// Input of [`Job::VerifyGossip`](crate::Job::VerifyGossip): messages about one block, as they came.
#[derive(Clone, Debug)]
pub struct VerifyGossip {
    pub height: SequencerHeight,
    pub block: BlockPart,
    pub rollups: Vec<(RollupId, Bytes)>,
    pub limits: Arc<Limits>,
}

/// What the data of rollups are compared with.
#[derive(Clone, Debug)]
pub enum BlockPart {
    /// A block that is verified already.
    Known(Arc<Verified<BoundBlock>>),
    /// A message to be verified first, its header from `check` at this moment.
    Message { bytes: Bytes, check: Box<Check>, at: Timestamp },
}

/// What became of each message.
#[derive(Clone, Debug)]
pub struct JudgedGossip {
    /// None where the block was known already.
    pub block: Option<Result<Box<JudgedBlock>, BlockRefusal>>,
    /// Nothing of a block that is not genuine.
    pub rollups: Vec<(RollupId, Result<JudgedRollup, Verdict>)>,
}

/// A genuine block message.
#[derive(Clone, Debug)]
pub struct JudgedBlock {
    pub message: Message,
    pub signed: SignedBy,
    pub bound: Arc<Verified<BoundBlock>>,
}

/// A genuine message about a rollup's data.
#[derive(Clone, Debug)]
pub struct JudgedRollup {
    pub message: Message,
    pub block: Verified<SequencedBlock>,
}

impl VerifyGossip {
    pub(crate) fn run(self, steps: &impl Steps) -> JudgedGossip {
        let Self { height, block, rollups, limits } = self;
        let (judged, bound) = match block {
            BlockPart::Known(bound) => (None, Some(bound)),
            BlockPart::Message { bytes, check, at } => {
                let judged = judge_block(height, &bytes, &check, at, &limits, steps);
                let bound = judged.as_ref().ok().map(|judged| Arc::clone(&judged.bound));
                (Some(judged.map(Box::new)), bound)
            }
        };
        let judge = |(rollup, bytes): (RollupId, Bytes)| {
            let bound = bound.as_ref()?;
            let judged = open(Topic::Rollup(rollup), height, &bytes, &limits).map_err(Refused::from);
            let judged = judged
                .and_then(|message| Ok(JudgedRollup { block: verify_rollup(&message, bound, &limits)?, message }));
            Some((rollup, judged.map_err(Verdict::Reject)))
        };
        JudgedGossip { block: judged, rollups: rollups.into_iter().filter_map(judge).collect() }
    }
}

fn judge_block(
    height: SequencerHeight,
    bytes: &Bytes,
    check: &Check,
    at: Timestamp,
    limits: &Limits,
    steps: &impl Steps,
) -> Result<JudgedBlock, BlockRefusal> {
    let message = open(Topic::Blocks, height, bytes, limits).map_err(Refused::from)?;
    let GenuineBlock { light, bound } = verify_block_with(&message, check, at, limits, steps)?;
    let (header, validators) = (light.trusted_header(), Arc::clone(light.validators()));
    let signed = SignedBy { header, validators, light: Some(Box::new((check.clone(), light))) };
    Ok(JudgedBlock { message, signed, bound })
}

fn open(topic: Topic, height: SequencerHeight, bytes: &Bytes, limits: &Limits) -> Result<Message, MessageError> {
    let head = Head::read(bytes, limits)?;
    if head.height != height {
        return Err(MessageError::Height { head: head.height, content: height });
    }
    Message::open(topic, bytes, limits)
}

/// Input of [`Job::MakeGossip`](crate::Job::MakeGossip): a block that was verified, and what proves its header.
#[derive(Clone, Debug)]
pub struct MakeGossip {
    /// The encoded `FilteredSequencerBlock`.
    pub block: Bytes,
    pub light: Box<Verified<LightBlock>>,
    /// The block's data items, where they were needed to bind it.
    pub transactions: Option<Vec<Bytes>>,
    pub limits: Arc<Limits>,
}

impl MakeGossip {
    /// The messages about the block and about the rollups whose data are in it, as far as they are not too long.
    pub(crate) fn run(self) -> Vec<Message> {
        let Self { block, light, transactions, limits } = self;
        let Ok(block) = UnverifiedFilteredBlock::decode(&block, &limits) else { return Vec::new() };
        let (claim, rollups) = block.into_parts();
        let needs_items = claim.bind(&light.trusted_header(), None).is_err();
        let items = transactions.filter(|_| needs_items).map(|items| claim.items_of(&items));
        let (height, hash) = (SequencerHeight(light.height()), claim.block_hash);
        let rollups = rollups
            .into_iter()
            .map(|(rollup, transactions, proof)| RollupMessage { transactions, proof }.encode(rollup, height, hash));
        let rollups: Vec<Message> = rollups.collect();
        let messages = std::iter::once(BlockMessage::of(&light, claim, items).encode()).chain(rollups);
        messages.filter(|message| message.body.len() <= limits.gossip.body_bytes).collect()
    }
}
