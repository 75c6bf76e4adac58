//! What another node says about a height that is trusted: the same, something that no validator signed, or the proof
//! that validators signed twice.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use tendermint::{account, block::signed_header::SignedHeader, validator};

use super::verify::{Check, LightBlock, Options, verify};
use crate::{
    ids::BlockHash,
    sequencer::{CommitError, ValidatorSet, ValidatorsError, check_commit},
    time::Timestamp,
    verified::Verified,
};

/// A header with everything that it takes to check its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBlock {
    pub signed_header: SignedHeader,
    pub validators: Vec<validator::Info>,
}

/// Two different headers of one height of one chain, both committed. Either has a quorum of its set: without more than a
/// third of the validators breaking the protocol this cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictingHeaders {
    pub chain_id: String,
    pub height: u64,
    /// What this node trusted.
    pub trusted: SignedBlock,
    /// What it was shown.
    pub other: SignedBlock,
}

/// Why something is no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("both headers are the same: {0}")]
    Same(BlockHash),
    #[error("the validators make no set: {0}")]
    Set(#[from] ValidatorsError),
    #[error("a header is not committed: {0}")]
    Commit(#[from] CommitError),
}

impl ConflictingHeaders {
    /// For whoever is to see it.
    pub fn to_json(&self) -> String {
        // Strings as keys and nothing that can fail to be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// # Errors
    /// If `bytes` are not what [`ConflictingHeaders::to_json`] makes.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Checks both commits, each against the set that its header names. Returns both hashes and who signed both.
    pub fn verify(
        &self,
        validators_max: usize,
    ) -> Result<(BlockHash, BlockHash, BTreeSet<account::Id>), EvidenceError> {
        let check = |block: &SignedBlock| {
            let set = ValidatorSet::new(block.validators.clone(), validators_max)?;
            Ok::<_, EvidenceError>(check_commit(&block.signed_header, &set, &self.chain_id, self.height)?)
        };
        let ((trusted, signers), (other, others)) = (check(&self.trusted)?, check(&self.other)?);
        if trusted == other {
            return Err(EvidenceError::Same(trusted));
        }
        Ok((trusted, other, signers.intersection(&others).copied().collect()))
    }
}

/// What a witness's header turned out to be.
#[derive(Clone, Debug)]
pub enum Witnessed {
    Same,
    /// Just as well signed, and another one.
    Conflict(Box<ConflictingHeaders>),
    /// Nobody signed it: the witness is wrong or does not tell the truth.
    Unproven(String),
}

/// Compares a trusted block with what a witness has at its height. `check` is what the block itself followed from.
pub fn compare(
    trusted: &Verified<LightBlock>,
    check: &Check,
    signed: &SignedHeader,
    validators: &Arc<ValidatorSet>,
    options: &Options,
    now: Timestamp,
) -> Witnessed {
    let height = trusted.height();
    let other = match verify(check, height, signed, validators, options, now) {
        Ok(other) => other,
        Err(refusal) => return Witnessed::Unproven(refusal.to_string()),
    };
    if other.hash() == trusted.hash() {
        return Witnessed::Same;
    }
    Witnessed::Conflict(Box::new(ConflictingHeaders {
        chain_id: trusted.header().chain_id.to_string(),
        height,
        trusted: signed_block(trusted),
        other: signed_block(&other),
    }))
}

fn signed_block(block: &LightBlock) -> SignedBlock {
    SignedBlock { signed_header: block.signed_header().clone(), validators: block.validators().infos().to_vec() }
}
