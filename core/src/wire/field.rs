//! Checks of single fields that several messages share (reference §1.1, §1.4).

use crate::{
    ids::RollupId,
    merkle::{Hash, Proof, ProofError},
    wire::{proto::astria::primitive::v1 as proto, scan::ScanError},
};

/// Why a message is refused before anything in it is compared with anything else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("{0} bytes are more than the {1} permitted")]
    TooLong(usize, usize),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error("not the expected message: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is there twice")]
    Repeated(&'static str),
    #[error("{what} has {actual} bytes, not {expected}")]
    Length { what: &'static str, expected: usize, actual: usize },
    #[error("{what}: {source}")]
    Proof { what: &'static str, source: ProofError },
    #[error("the chain id is not 1 to 50 letters, digits, '-', '_' or '.'")]
    ChainId,
    #[error("height {0} does not fit into 63 bits")]
    Height(u64),
    #[error("time {seconds} s {nanos} ns is outside of the years 1 to 9999")]
    Time { seconds: i64, nanos: i32 },
    #[error("extended commit info: {0}")]
    ExtendedCommitInfo(&'static str),
}

/// Checks the length of a field of fixed size.
pub(crate) fn array<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], FieldError> {
    bytes.try_into().map_err(|_| FieldError::Length { what, expected: N, actual: bytes.len() })
}

pub(crate) fn present<'a, T>(value: Option<&'a T>, what: &'static str) -> Result<&'a T, FieldError> {
    value.ok_or(FieldError::Missing(what))
}

pub(crate) fn proof(wire: Option<&proto::Proof>, what: &'static str) -> Result<Proof, FieldError> {
    Proof::from_wire(present(wire, what)?).map_err(|source| FieldError::Proof { what, source })
}

pub(crate) fn rollup_id(wire: &proto::RollupId) -> Result<RollupId, FieldError> {
    array(&wire.inner, "rollup id").map(RollupId)
}

pub(crate) fn rollup_ids(wire: &[proto::RollupId]) -> Result<Vec<RollupId>, FieldError> {
    wire.iter().map(rollup_id).collect()
}

pub(crate) fn hashes<B: AsRef<[u8]>>(wire: &[B], what: &'static str) -> Result<Vec<Hash>, FieldError> {
    wire.iter().map(|hash| array(hash.as_ref(), what)).collect()
}
