//! Lies and refusals on request.

use std::fmt::Write as _;

use downbeat_core::wire::proto::astria::execution::v2::{CommitmentState, ExecutedBlockMetadata};

use super::Status;

/// The calls of the execution API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    CreateExecutionSession,
    GetExecutedBlockMetadata,
    ExecuteBlock,
    UpdateCommitmentState,
}

/// What can go wrong with a call, on request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Nothing happens and the status is answered.
    Refuse(Status),
    /// The call takes effect and the status is answered nevertheless.
    LoseReply(Status),
    /// The reply lacks its content.
    EmptyReply,
    /// The reply names another block number: this much higher.
    NumberOff(u64),
    OtherHash,
    OtherParentHash,
    OtherTimestamp,
    OtherSequencerHash,
    /// The echo of an update names another soft (hash) than was sent.
    OtherSoft,
    /// The echo of an update names another firm (hash) than was sent.
    OtherFirm,
    /// The echo of an update names another search height.
    OtherSearchHeight,
}

/// Another text of the same length.
fn altered(text: &mut String) {
    let last = text.pop().unwrap_or('0');
    let _ = write!(text, "{}", if last == '1' { '2' } else { '1' });
}

pub(super) fn tamper_metadata(metadata: &mut ExecutedBlockMetadata, misbehaviour: &Misbehaviour) {
    match misbehaviour {
        Misbehaviour::NumberOff(by) => metadata.number = metadata.number.wrapping_add(*by),
        Misbehaviour::OtherHash => altered(&mut metadata.hash),
        Misbehaviour::OtherParentHash => altered(&mut metadata.parent_hash),
        Misbehaviour::OtherTimestamp => metadata.timestamp.get_or_insert_default().seconds += 1,
        Misbehaviour::OtherSequencerHash => altered(&mut metadata.sequencer_block_hash),
        Misbehaviour::EmptyReply => *metadata = ExecutedBlockMetadata::default(),
        _ => {}
    }
}

pub(super) fn tamper_commitment(state: &mut CommitmentState, misbehaviour: &Misbehaviour) {
    match misbehaviour {
        Misbehaviour::OtherSoft => altered(&mut state.soft_executed_block_metadata.get_or_insert_default().hash),
        Misbehaviour::OtherFirm => altered(&mut state.firm_executed_block_metadata.get_or_insert_default().hash),
        Misbehaviour::OtherSearchHeight => state.lowest_celestia_search_height += 1,
        Misbehaviour::EmptyReply => *state = CommitmentState::default(),
        Misbehaviour::NumberOff(by) => {
            let soft = state.soft_executed_block_metadata.get_or_insert_default();
            soft.number = soft.number.wrapping_add(*by);
        }
        _ => {}
    }
}
