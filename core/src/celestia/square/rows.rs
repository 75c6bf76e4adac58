//! Proof that rows of shares are all of a namespace at one height.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    blobs::{self, BadSequence, SHARE_LEN},
    header::DataAvailabilityHeader,
    nmt::{self, NamespacedHash, NodeError},
};
use crate::{
    canary::{Canary, canary},
    celestia::Namespace,
    limits::Limits,
    verified::Verified,
};

/// All of a namespace at one height, as a node sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedNamespace {
    pub namespace: Namespace,
    /// One for each row whose root covers the namespace, from the first on.
    pub rows: Vec<UnverifiedRow>,
}

/// What a namespace has in one row: its shares, or none and a proof that there are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnverifiedRow {
    #[serde(with = "blobs::text")]
    pub shares: Vec<Bytes>,
    pub proof: RowProof,
}

/// Place of consecutive shares in a row, and the nodes of the tree beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowProof {
    /// Column of the first share.
    pub start: u32,
    /// Column after the last share.
    pub end: u32,
    /// From left to right.
    pub nodes: Vec<NamespacedHash>,
    /// Where there is no share of the namespace: the node of the share that stands where the first one would.
    pub absence: Option<NamespacedHash>,
}

/// What is proven to be all that a namespace holds at one height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceBlobs {
    pub namespace: Namespace,
    /// In the order in which they lie in the square.
    pub blobs: Vec<Bytes>,
    /// Sequences of shares that hold no blob in a format known here. Validators let none but those of newer formats pass,
    /// and no other node could tell more about them.
    pub unreadable: Vec<BadSequence>,
}

/// Why what a node sent is not shown to be all of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    #[error("namespace {namespace} is reserved for parity shares")]
    Reserved { namespace: Namespace },
    #[error("oversize: the shares of namespace {namespace} have more than the {max} bytes permitted")]
    TooLarge { namespace: Namespace, max: usize },
    #[error("missing row: namespace {namespace} may lie in {expected} rows, {actual} were sent")]
    MissingRow { namespace: Namespace, expected: usize, actual: usize },
    #[error("namespace {namespace} may lie in {expected} rows, {actual} were sent")]
    SurplusRow { namespace: Namespace, expected: usize, actual: usize },
    #[error("namespace {namespace}, row {row}: {error}")]
    Row { namespace: Namespace, row: usize, error: RowError },
}

/// Why one row proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("absent without proof: no share, and nothing that shows that there is none")]
    AbsentWithoutProof,
    #[error("shares come with a proof that there are none")]
    PresentAndAbsent,
    #[error("absence is claimed from a share of namespace {0}, which does not follow")]
    NotAbsent(Namespace),
    #[error("the share that is to show absence has more than one namespace")]
    NotAShare,
    #[error("a share has {0} bytes")]
    ShareSize(usize),
    #[error("proof for another namespace: a share is of {0}")]
    OtherNamespace(Namespace),
    #[error("columns {start} to {end} do not hold {shares} shares in a row of {width}")]
    Range { start: u32, end: u32, shares: usize, width: usize },
    #[error("the proof has {actual} nodes, not {expected}")]
    NodeCount { expected: usize, actual: usize },
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the proof leads to another row root")]
    OtherRoot,
    #[error("incomplete range: more of the namespace lies beside it")]
    Incomplete,
}

/// Checks that `received` is all of its namespace in the square of `header`, and takes the blobs out.
pub fn prove_namespace(
    received: &UnverifiedNamespace,
    header: &Verified<DataAvailabilityHeader>,
    limits: &Limits,
) -> Result<Verified<NamespaceBlobs>, NamespaceError> {
    let namespace = received.namespace;
    if namespace == Namespace::PARITY {
        return Err(NamespaceError::Reserved { namespace });
    }
    let (expected, actual) = (header.rows_covering(&namespace).count(), received.rows.len());
    if actual < expected && !canary(Canary::MissingRowPassed) {
        return Err(NamespaceError::MissingRow { namespace, expected, actual });
    }
    if actual > expected {
        return Err(NamespaceError::SurplusRow { namespace, expected, actual });
    }
    let shares = || received.rows.iter().flat_map(|row| &row.shares);
    let max = limits.namespace_bytes;
    if shares().count().saturating_mul(SHARE_LEN) > max {
        return Err(NamespaceError::TooLarge { namespace, max });
    }
    for ((row, root), data) in header.rows_covering(&namespace).zip(&received.rows) {
        let checked = data.verify(&namespace, root, header.width());
        checked.map_err(|error| NamespaceError::Row { namespace, row, error })?;
    }
    let (blobs, unreadable) = blobs::assemble(shares());
    Ok(Verified::new(NamespaceBlobs { namespace, blobs, unreadable }))
}

impl UnverifiedRow {
    /// Checks that these are all shares of `namespace` in the row of `width` shares with `root`.
    pub(in crate::celestia) fn verify(
        &self,
        namespace: &Namespace,
        root: &NamespacedHash,
        width: usize,
    ) -> Result<(), RowError> {
        let RowProof { start, end, nodes, absence } = &self.proof;
        for share in &self.shares {
            if share.len() != SHARE_LEN {
                return Err(RowError::ShareSize(share.len()));
            }
            let found = blobs::namespace_of(share);
            if found != *namespace {
                return Err(RowError::OtherNamespace(found));
            }
        }
        // The node that stands for absence takes the place of one share.
        let proven = match (self.shares.len(), absence) {
            (0, None) => return Err(RowError::AbsentWithoutProof),
            (0, Some(_)) => 1,
            (shares, None) => shares,
            (_, Some(_)) => return Err(RowError::PresentAndAbsent),
        };
        let out_of_range = || RowError::Range { start: *start, end: *end, shares: proven, width };
        let first = usize::try_from(*start).map_err(|_| out_of_range())?;
        let last = usize::try_from(*end).map_err(|_| out_of_range())?;
        if first.checked_add(proven) != Some(last) || last > width {
            return Err(out_of_range());
        }
        let (left, right) = nmt::neighbours(first, last, width);
        let (expected, actual) = (left + right, nodes.len());
        if actual != expected {
            return Err(RowError::NodeCount { expected, actual });
        }
        let (left, right) = nodes.split_at(left);
        let shares = self.shares.iter().map(|share| NamespacedHash::of_share(namespace, share));
        let leaves = absence.iter().copied().chain(shares);
        if nmt::root(width, first, left, leaves, right)? != *root && !canary(Canary::RowRootNotChecked) {
            return Err(RowError::OtherRoot);
        }
        // From here on the nodes are those of the row.
        if let Some(leaf) = absence {
            if leaf.lowest() != leaf.highest() {
                return Err(RowError::NotAShare);
            }
            if leaf.lowest() <= *namespace {
                return Err(RowError::NotAbsent(leaf.lowest()));
            }
        }
        let ends_before = left.last().is_none_or(|node| node.highest() < *namespace);
        let begins_after = right.first().is_none_or(|node| *namespace < node.lowest());
        if (ends_before && begins_after) || canary(Canary::IncompleteRangePassed) {
            Ok(())
        } else {
            Err(RowError::Incomplete)
        }
    }
}
