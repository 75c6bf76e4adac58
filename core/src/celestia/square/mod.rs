//! The data square of a Celestia block: what its header commits to, and proofs that a namespace was received whole.
//!
//! Shares of 512 bytes lie in a square, sorted by namespace, and are extended by as many parity shares to the right and
//! below. Each row and column is the leaves of a namespaced Merkle tree; the hash over their roots is the header's data
//! hash. So whoever holds the header can tell whether the rows of a namespace are all of it and unchanged: a node can
//! neither invent nor withhold a blob.

mod blobs;
mod header;
mod nmt;
mod rows;

pub use blobs::{BadSequence, SHARE_LEN};
pub use header::{DataAvailabilityHeader, HeaderError};
pub use nmt::{NamespacedHash, NodeError};
pub use rows::{
    NamespaceBlobs, NamespaceError, RowError, RowProof, UnverifiedNamespace, UnverifiedRow, prove_namespace,
};
