//! The way down: a trusted header names the hash of the one below it.

use tendermint::block::Header;

use crate::{
    canary::{Canary, canary},
    ids::BlockHash,
    sequencer::header_hash,
    verified::Verified,
};

/// The hash that the header of a height has. Trusted when wrapped in [`Verified`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderId {
    height: u64,
    hash: BlockHash,
}

/// Why a header is not the one that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("header of height {actual}, asked for {expected}")]
    Height { expected: u64, actual: u64 },
    #[error("the header of height {height} hashes to {actual}, the trusted one to {expected}")]
    OtherHash { height: u64, expected: BlockHash, actual: BlockHash },
}

impl HeaderId {
    pub fn height(&self) -> u64 {
        self.height
    }

    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Of a header that nobody has checked: for a deliberate bug.
    pub(crate) fn of_unchecked(header: &Header) -> Verified<Self> {
        Self::trusted(header.height.value(), header_hash(header))
    }

    /// `hash` was shown to be that of the chain.
    pub(super) fn trusted(height: u64, hash: BlockHash) -> Verified<Self> {
        Verified::new(Self { height, hash })
    }
}

impl Verified<HeaderId> {
    /// Whether `header` is the one. Then the id of the header below is trusted as well, unless it is the first.
    ///
    /// # Errors
    /// If it has another height or another hash.
    pub fn confirm(&self, header: &Header) -> Result<Option<Self>, LinkError> {
        let actual = header.height.value();
        if actual != self.height {
            return Err(LinkError::Height { expected: self.height, actual });
        }
        let actual = header_hash(header);
        if actual != self.hash && !canary(Canary::CelestiaHeaderByHeight) {
            return Err(LinkError::OtherHash { height: self.height, expected: self.hash, actual });
        }
        Ok(below(header))
    }

    /// Follows `headers`, highest first, down from this one, which the first of them is. Returns the ids of those below
    /// the confirmed ones, and why the first that is not confirmed is not.
    pub fn follow_down(self, headers: &[Header]) -> (Vec<Self>, Option<LinkError>) {
        let mut ids = Vec::new();
        let mut next = Some(self);
        for header in headers {
            let Some(id) = next else { break };
            next = match id.confirm(header) {
                Ok(below) => below,
                Err(error) => return (ids, Some(error)),
            };
            ids.extend(next.clone());
        }
        (ids, None)
    }
}

/// What a trusted header says of the one below it.
pub(super) fn below(header: &Header) -> Option<Verified<HeaderId>> {
    let hash = header.last_block_id?.hash.as_bytes().try_into().ok()?;
    Some(HeaderId::trusted(header.height.value().checked_sub(1)?, BlockHash(hash)))
}
