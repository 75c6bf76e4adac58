//! Whether what a node says about a Celestia height is of that height, and all that some namespaces hold there.

use tendermint::block::Header;

use crate::{
    celestia::{
        Namespace,
        square::{HeaderError, NamespaceBlobs, NamespaceError, prove_namespace},
    },
    event::CelestiaBlock,
    ids::CelestiaHeight,
    limits::Limits,
    merkle::Hash,
    verified::Verified,
};

/// What a node was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedBlock {
    pub chain_id: String,
    pub height: CelestiaHeight,
    pub namespaces: Vec<Namespace>,
}

/// Why nothing of an answer is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("header of height {actual}, asked for {expected}")]
    Height { expected: CelestiaHeight, actual: CelestiaHeight },
    #[error("header of chain {actual:?}, expected {expected:?}")]
    ChainId { expected: String, actual: String },
    #[error("the header has no data hash")]
    NoDataHash,
    #[error("namespaces {actual:?}, asked for {expected:?}")]
    Namespaces { expected: Vec<Namespace>, actual: Vec<Namespace> },
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// Checks that `block` holds all of the expected namespaces, by the roots to which the header of its height commits.
pub fn prove_block(
    block: &CelestiaBlock,
    expected: &ExpectedBlock,
    limits: &Limits,
) -> Result<Vec<Verified<NamespaceBlobs>>, BlockError> {
    let data_hash = data_hash(&block.header, expected)?;
    let availability = block.availability.clone().verify(&data_hash, limits)?;
    let actual = || block.namespaces.iter().map(|received| received.namespace);
    if !actual().eq(expected.namespaces.iter().copied()) {
        return Err(BlockError::Namespaces { expected: expected.namespaces.clone(), actual: actual().collect() });
    }
    let proven = block.namespaces.iter().map(|received| prove_namespace(received, &availability, limits));
    Ok(proven.collect::<Result<_, _>>()?)
}

/// The data hash of the height asked for. This is where the header is believed from the node, as far as it is of the right
/// chain and height; a light client of Celestia will say here which header it has to be.
fn data_hash(header: &Header, expected: &ExpectedBlock) -> Result<Hash, BlockError> {
    let actual = CelestiaHeight(header.height.value());
    if actual != expected.height {
        return Err(BlockError::Height { expected: expected.height, actual });
    }
    if header.chain_id.as_str() != expected.chain_id {
        let (expected, actual) = (expected.chain_id.clone(), header.chain_id.to_string());
        return Err(BlockError::ChainId { expected, actual });
    }
    let hash = header.data_hash.unwrap_or_default();
    Hash::try_from(hash.as_bytes()).map_err(|_| BlockError::NoDataHash)
}
