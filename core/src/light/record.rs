//! What is kept of a trusted header across restarts: plain bytes that say themselves whether they are whole.

use std::sync::Arc;

use prost::Message as _;
use tendermint::{block::Header, validator};
use tendermint_proto::{Protobuf, v0_38::types as raw};

use super::verify::{LightBlock, TrustedState};
use crate::{
    ids::BlockHash,
    sequencer::{ValidatorSet, ValidatorsError, header_hash},
    verified::Verified,
};

/// Version of the encoding.
const VERSION: u32 = 1;

/// A header that was trusted, and the set that signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRecord {
    header: Box<Header>,
    validators: Vec<validator::Info>,
}

/// Why bytes are no record. Whoever has such bytes must not go on as if there were none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record cannot be decoded: {0}")]
    Undecodable(String),
    #[error("the record has version {0}, this program knows {VERSION}")]
    Version(u32),
    #[error("the header of the record hashes to {actual}, not to {expected}")]
    Hash { expected: String, actual: BlockHash },
    #[error("the validators of the record are not those of its header")]
    Validators,
    #[error("the validators of the record make no set: {0}")]
    Set(#[from] ValidatorsError),
    #[error("the record is of chain {actual:?}, expected {expected:?}")]
    Chain { expected: String, actual: String },
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
    /// CometBFT's own encoding.
    #[prost(bytes = "vec", tag = "3")]
    header: Vec<u8>,
    /// CometBFT's `SimpleValidator`, in the order in which they are hashed.
    #[prost(bytes = "vec", repeated, tag = "4")]
    validators: Vec<Vec<u8>>,
}

impl TrustedRecord {
    pub fn new(block: &Verified<LightBlock>) -> Self {
        Self { header: Box::new(block.header().clone()), validators: block.validators().infos().to_vec() }
    }

    /// None of a genesis, which is no header.
    pub(crate) fn of_state(state: &TrustedState) -> Option<Self> {
        let header = Box::new(state.header()?.header().clone());
        Some(Self { header, validators: state.validators().infos().to_vec() })
    }

    pub fn height(&self) -> u64 {
        self.header.height.value()
    }

    pub fn chain_id(&self) -> &str {
        self.header.chain_id.as_str()
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn encode(&self) -> Vec<u8> {
        let header = Protobuf::<raw::Header>::encode_vec(self.header.as_ref().clone());
        let validators = self.validators.iter().map(validator::Info::hash_bytes).collect();
        Wire { version: VERSION, hash: header_hash(&self.header).0.to_vec(), header, validators }.encode_to_vec()
    }

    /// Takes back what [`TrustedRecord::encode`] made, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let undecodable = |error: &dyn std::fmt::Display| RecordError::Undecodable(error.to_string());
        let wire = Wire::decode(bytes).map_err(|error| undecodable(&error))?;
        if wire.version != VERSION {
            return Err(RecordError::Version(wire.version));
        }
        let header =
            <Header as Protobuf<raw::Header>>::decode_vec(&wire.header).map_err(|error| undecodable(&error))?;
        let actual = header_hash(&header);
        if wire.hash != actual.0 {
            return Err(RecordError::Hash { expected: hex::encode(wire.hash), actual });
        }
        let validators = wire.validators.iter().map(|bytes| {
            let validator = <validator::SimpleValidator as Protobuf<raw::SimpleValidator>>::decode_vec(bytes)
                .map_err(|error| undecodable(&error))?;
            Ok(validator::Info::new(validator.pub_key, validator.voting_power))
        });
        let record = Self { header: Box::new(header), validators: validators.collect::<Result<_, RecordError>>()? };
        record.set()?;
        Ok(record)
    }

    /// What to go on from.
    pub fn state(&self) -> Result<TrustedState, RecordError> {
        Ok(TrustedState::of_parts(&self.header, Arc::new(self.set()?)))
    }

    fn set(&self) -> Result<ValidatorSet, RecordError> {
        let set = ValidatorSet::new(self.validators.clone(), usize::MAX)?;
        if self.header.validators_hash.as_bytes() == set.hash() { Ok(set) } else { Err(RecordError::Validators) }
    }
}
