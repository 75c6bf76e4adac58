//! The shared sequencer: headers, quorums, and the verification of its blocks.

mod bind;
mod block;
mod commit;
mod data_tree;
mod encode;
mod false_block;
mod filtered;
mod follower;
mod header;
mod headers;
mod metadata;
pub mod price_feed;
mod rollup_data;
mod trusting;
mod witness;

pub(crate) use bind::Claim;
pub use bind::{BindRefusal, Content, ContentDigest, DataItems};
pub use block::{ContentHash, SequencedBlock};
pub use commit::{CommitError, Committed, ValidatorSet, ValidatorsError, quorum, verify_signed_header};
pub(crate) use commit::{check_commit, committed_header};
pub use data_tree::DataTreeError;
pub(crate) use data_tree::{DataTree, DataTreeFields, item_digest, rollup_leaf};
pub(crate) use false_block::{BLOCK_BYTES, false_block, falsehood};
pub use false_block::{BlockFalsehood, FALSE_BLOCK_BYTES, FalseBlock, ItemsText, NoFalseBlock, ProvenFalseBlock};
pub use filtered::{FilteredBlockError, SoftBlock, SoftBlockRequest, UnverifiedFilteredBlock, verify_filtered_block};
pub(crate) use follower::{Follower, Slot, Stage as SlotStage};
pub use header::{LinkError, TrustedHeader, header_hash, verify_links};
pub(crate) use headers::{Headers, Routes, SPAN, Stage, Transactions, validators_hash};
pub use metadata::{BoundMetadata, MetadataError, UnverifiedMetadata};
pub(crate) use rollup_data::decode_element;
pub use rollup_data::{ElementError, RollupDataError, RollupRecord};
pub(crate) use trusting::Trusting;
pub(crate) use witness::Step as WitnessStep;
