//! Checks of what a rollup answers, against everything that is known (S9, S13).

use super::{Commitment, ExecutedBlock, machine::Remembered};
use crate::{
    canary::{Canary, canary},
    ids::RollupNumber,
    limits::Limits,
    sequencer::SequencedBlock,
    wire::proto::astria::execution::v2 as proto,
};

impl Remembered {
    /// S9: firm confirms what was executed, or nothing.
    pub(super) fn conflict_with(&self, firm: &SequencedBlock, number: RollupNumber) -> Option<String> {
        if (self.block_hash == firm.block_hash() && self.content == firm.content())
            || canary(Canary::FirmConfirmsByNumber)
        {
            return None;
        }
        Some(format!(
            "soft and firm disagree at rollup block {number} (sequencer height {}): executed from sequencer block {} \
             with content {}, Celestia has sequencer block {} with content {}",
            self.height,
            self.block_hash,
            hex::encode(self.content.0),
            firm.block_hash(),
            hex::encode(firm.content().0),
        ))
    }
}

pub(super) fn describe(block: &ExecutedBlock) -> String {
    format!("{} ({:?})", block.number(), block.hash())
}

pub(super) fn checked_execution(
    response: proto::ExecuteBlockResponse,
    number: RollupNumber,
    parent_hash: &str,
    block: &SequencedBlock,
    limits: &Limits,
) -> Result<ExecutedBlock, String> {
    let metadata = response.executed_block_metadata.ok_or("executed_block_metadata is missing")?;
    let executed = ExecutedBlock::from_wire(metadata, limits).map_err(|error| error.to_string())?;
    if executed.number() != number && !canary(Canary::ReplyNumberNotChecked) {
        return Err(format!("it executed block {}, expected was {number}", executed.number()));
    }
    if executed.parent_hash() != parent_hash && !canary(Canary::ReplyParentNotChecked) {
        return Err(format!("its parent is {:?}, expected was {parent_hash:?}", executed.parent_hash()));
    }
    if executed.is_made_from(block.block_hash()) == Some(false) {
        return Err(format!(
            "it names sequencer block {:?}, expected was {}",
            executed.sequencer_block_hash(),
            block.block_hash()
        ));
    }
    Ok(executed)
}

/// What the rollup has at `number`, checked against everything that is known about it.
pub(super) fn checked_look_up(
    metadata: proto::ExecutedBlockMetadata,
    number: RollupNumber,
    commitment: &Commitment,
    block: &SequencedBlock,
    limits: &Limits,
) -> Result<ExecutedBlock, String> {
    let wrong = |reason: String| format!("the rollup answered wrongly to GetExecutedBlockMetadata {number}: {reason}");
    let executed = ExecutedBlock::from_wire(metadata, limits).map_err(|error| wrong(error.to_string()))?;
    if executed.number() != number {
        return Err(wrong(format!("it sent block {}", executed.number())));
    }
    if canary(Canary::LookUpNotCompared) {
        return Ok(executed);
    }
    if executed.parent_hash() != commitment.firm.hash() {
        let (actual, expected) = (executed.parent_hash(), commitment.firm.hash());
        return Err(wrong(format!("its parent is {actual:?}, its firm block is {expected:?}")));
    }
    if number == commitment.soft.number() && executed.hash() != commitment.soft.hash() {
        let (actual, expected) = (executed.hash(), commitment.soft.hash());
        return Err(wrong(format!("its hash is {actual:?}, its soft block is {expected:?}")));
    }
    if executed.is_made_from(block.block_hash()) == Some(false) {
        return Err(format!(
            "soft and firm disagree at rollup block {number} (sequencer height {}): the rollup executed sequencer block \
             {:?}, Celestia has sequencer block {}",
            block.height(),
            executed.sequencer_block_hash(),
            block.block_hash(),
        ));
    }
    Ok(executed)
}
