//! What another node says about a height that is trusted: the same, something that no validator signed, or the proof
//! that validators signed twice.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, Serializer};
use tendermint::{account, block::signed_header::SignedHeader, validator};

use super::verify::{LightBlock, Refusal};
use crate::{
    ids::BlockHash,
    json,
    sequencer::{CommitError, Committed, ValidatorSet, ValidatorsError, check_commit},
    verified::Verified,
};

/// A header with everything that it takes to check its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBlock {
    pub signed_header: SignedHeader,
    pub validators: Vec<validator::Info>,
}

impl SignedBlock {
    /// Checks the commit against the set that the header names. Whether that is the chain's, only trust can tell.
    pub(crate) fn committed(
        &self,
        chain_id: &str,
        height: u64,
        validators_max: usize,
    ) -> Result<(CommittedHeader, ValidatorSet, BTreeSet<account::Id>), EvidenceError> {
        let set = ValidatorSet::new(self.validators.clone(), validators_max)?;
        let Committed { hash, signers } = check_commit(&self.signed_header, &set, chain_id, height)?;
        let header = CommittedHeader {
            hash,
            time: self.signed_header.header.time.to_rfc3339(),
            validators_hash: hex::encode_upper(set.hash()),
            power_signed: set.power_of(&signers),
            power_total: set.total_power(),
        };
        Ok((header, set, signers))
    }
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

/// What two conflicting headers prove. That the sets are those of the chain follows only from a trusted header:
/// whoever reads this compares a `validators_hash` with one from a source of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProvenConflict {
    pub chain_id: String,
    pub height: u64,
    pub trusted: CommittedHeader,
    pub other: CommittedHeader,
    /// Addresses of the validators that signed both.
    pub signed_both: Vec<String>,
    /// Their voting power in the set of the trusted header.
    pub power_signed_both: u128,
}

/// A header that a quorum of the set it names has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommittedHeader {
    #[serde(serialize_with = "as_text")]
    pub hash: BlockHash,
    pub time: String,
    /// Upper-case hexadecimal.
    pub validators_hash: String,
    pub power_signed: u128,
    pub power_total: u128,
}

fn as_text<S: Serializer>(hash: &BlockHash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash)
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
        json::from_slice(bytes)
    }

    /// Checks both commits, each against the set that its header names.
    ///
    /// # Errors
    /// If not both are committed, or they are the same.
    pub fn verify(&self, validators_max: usize) -> Result<ProvenConflict, EvidenceError> {
        let check = |block: &SignedBlock| block.committed(&self.chain_id, self.height, validators_max);
        let ((trusted, set, signers), (other, _, others)) = (check(&self.trusted)?, check(&self.other)?);
        if trusted.hash == other.hash {
            return Err(EvidenceError::Same(trusted.hash));
        }
        let signed_both: BTreeSet<account::Id> = signers.intersection(&others).copied().collect();
        Ok(ProvenConflict {
            chain_id: self.chain_id.clone(),
            height: self.height,
            trusted,
            other,
            power_signed_both: set.power_of(&signed_both),
            signed_both: signed_both.iter().map(ToString::to_string).collect(),
        })
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

/// Compares a trusted block with what a witness has at its height, verified from what the block itself followed from.
pub fn compare(trusted: &Verified<LightBlock>, other: Result<Verified<LightBlock>, Refusal>) -> Witnessed {
    let other = match other {
        Ok(other) => other,
        Err(refusal) => return Witnessed::Unproven(refusal.to_string()),
    };
    if other.hash() == trusted.hash() {
        return Witnessed::Same;
    }
    Witnessed::Conflict(Box::new(conflict(trusted, &other)))
}

/// The proof that validators signed both blocks, which are of one height and not the same.
pub(crate) fn conflict(trusted: &Verified<LightBlock>, other: &Verified<LightBlock>) -> ConflictingHeaders {
    ConflictingHeaders {
        chain_id: trusted.header().chain_id.to_string(),
        height: trusted.height(),
        trusted: signed_block(trusted),
        other: signed_block(other),
    }
}

fn signed_block(block: &LightBlock) -> SignedBlock {
    SignedBlock { signed_header: block.signed_header().clone(), validators: block.validators().infos().to_vec() }
}
