//! Whether what a node says about a Celestia height is of that height, and all that some namespaces hold there.

use crate::{
    celestia::{
        Namespace,
        square::{HeaderError, NamespaceBlobs, NamespaceError, prove_namespace},
    },
    event::CelestiaBlock,
    light::{HeaderId, LinkError},
    limits::Limits,
    merkle::Hash,
    verified::Verified,
};

/// What a node was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedBlock {
    /// The header of its height: trusted.
    pub header: Verified<HeaderId>,
    pub namespaces: Vec<Namespace>,
}

/// What a height was shown to hold.
#[derive(Clone, Debug)]
pub struct ProvenBlock {
    pub namespaces: Vec<Verified<NamespaceBlobs>>,
    /// The header below, unless it is the first height.
    pub below: Option<Verified<HeaderId>>,
}

/// Why nothing of an answer is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error(transparent)]
    OtherHeader(#[from] LinkError),
    #[error("the header has no data hash")]
    NoDataHash,
    #[error("namespaces {actual:?}, asked for {expected:?}")]
    Namespaces { expected: Vec<Namespace>, actual: Vec<Namespace> },
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// Checks that `block` has the trusted header of its height and holds all of the expected namespaces, by the roots to which
/// that commits.
pub fn prove_block(
    block: &CelestiaBlock,
    expected: &ExpectedBlock,
    limits: &Limits,
) -> Result<ProvenBlock, BlockError> {
    let header = &block.signed.signed_header.header;
    let below = expected.header.confirm(header)?;
    let data_hash =
        Hash::try_from(header.data_hash.unwrap_or_default().as_bytes()).map_err(|_| BlockError::NoDataHash)?;
    let availability = block.availability.clone().verify(&data_hash, limits)?;
    let actual = || block.namespaces.iter().map(|received| received.namespace);
    if !actual().eq(expected.namespaces.iter().copied()) {
        return Err(BlockError::Namespaces { expected: expected.namespaces.clone(), actual: actual().collect() });
    }
    let proven = block.namespaces.iter().map(|received| prove_namespace(received, &availability, limits));
    Ok(ProvenBlock { namespaces: proven.collect::<Result<_, _>>()?, below })
}
