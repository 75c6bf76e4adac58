//! The data availability header: the roots of all rows and columns, to which the block's header commits.

use serde::{Deserialize, Serialize};

use super::nmt::NamespacedHash;
use crate::{
    canary::{Canary, canary},
    celestia::Namespace,
    limits::Limits,
    merkle::{self, Hash},
    verified::Verified,
};

/// The roots of an extended square, rows and columns from the first on. Unverified unless marked otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataAvailabilityHeader {
    pub row_roots: Vec<NamespacedHash>,
    pub column_roots: Vec<NamespacedHash>,
}

/// Why a data availability header is not that of a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("oversize: a square of {actual} rows and columns is larger than the {max} permitted")]
    TooLarge { actual: usize, max: usize },
    #[error("{rows} rows and {columns} columns do not make an extended square")]
    NotASquare { rows: usize, columns: usize },
    #[error("the row and column roots hash to {}, the block's data hash is {}", hex::encode(.actual), hex::encode(.expected))]
    OtherDataHash { expected: Hash, actual: Hash },
}

impl DataAvailabilityHeader {
    /// What a block's header has as its data hash: the RFC 6962 root over all row roots, then all column roots.
    pub fn hash(&self) -> Hash {
        merkle::root_of(self.row_roots.iter().chain(&self.column_roots).map(NamespacedHash::as_bytes))
    }

    /// Checks that these are the roots to which a header with `data_hash` commits.
    pub fn verify(self, data_hash: &Hash, limits: &Limits) -> Result<Verified<Self>, HeaderError> {
        let (rows, columns) = (self.row_roots.len(), self.column_roots.len());
        let actual = rows.max(columns);
        if actual > limits.square_width {
            return Err(HeaderError::TooLarge { actual, max: limits.square_width });
        }
        // The hash does not say where the rows end: that there are as many columns does.
        if rows != columns || rows < 2 || !rows.is_power_of_two() {
            return Err(HeaderError::NotASquare { rows, columns });
        }
        let actual = self.hash();
        if actual != *data_hash && !canary(Canary::DataHashNotChecked) {
            return Err(HeaderError::OtherDataHash { expected: *data_hash, actual });
        }
        Ok(Verified::new(self))
    }

    /// Number of rows, and of shares in each.
    pub fn width(&self) -> usize {
        self.row_roots.len()
    }

    /// The rows in which `namespace` may lie, with their roots. It lies in no other.
    pub fn rows_covering<'a>(
        &'a self,
        namespace: &'a Namespace,
    ) -> impl Iterator<Item = (usize, &'a NamespacedHash)> + 'a {
        self.row_roots.iter().enumerate().filter(|(_, root)| root.covers(namespace))
    }
}
