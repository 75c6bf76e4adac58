//! Namespaced Merkle trees: nodes that name the range of namespaces below them, and roots of leaves between proof nodes.
//!
//! The trees here are those over one row of an extended square: a power of two of leaves, so that the place of every
//! node follows from the place of the proven range.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use crate::{celestia::Namespace, merkle::Hash};

/// A node: its hash, and the lowest and highest namespace below it. Parity shares count only where there is nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NamespacedHash([u8; Self::LEN]);

/// Why two nodes cannot stand beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("a node's range of namespaces ends before it begins")]
    EmptyRange,
    #[error("nodes are not in the order of their namespaces")]
    Unordered,
}

impl NamespacedHash {
    /// Length in bytes: two namespaces and a digest.
    pub const LEN: usize = 2 * Namespace::LEN + 32;

    /// Takes any bytes; whether they are a node of a tree is for a proof to show.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    fn new(lowest: &Namespace, highest: &Namespace, hash: &Hash) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..Namespace::LEN].copy_from_slice(lowest.as_bytes());
        bytes[Namespace::LEN..2 * Namespace::LEN].copy_from_slice(highest.as_bytes());
        bytes[2 * Namespace::LEN..].copy_from_slice(hash);
        Self(bytes)
    }

    /// The node of a share: its content is hashed after its namespace.
    pub fn of_share(namespace: &Namespace, share: &[u8]) -> Self {
        let hash = Sha256::new().chain_update([0]).chain_update(namespace.as_bytes()).chain_update(share).finalize();
        Self::new(namespace, namespace, &hash.into())
    }

    /// The node above two others.
    pub fn above(left: &Self, right: &Self) -> Result<Self, NodeError> {
        left.check_range()?;
        right.check_range()?;
        if left.highest() > right.lowest() {
            return Err(NodeError::Unordered);
        }
        // Parity shares come last and would make every row reach up to their namespace.
        let highest = if right.lowest() == Namespace::PARITY { left.highest() } else { right.highest() };
        let hash = Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize();
        Ok(Self::new(&left.lowest(), &highest, &hash.into()))
    }

    fn check_range(&self) -> Result<(), NodeError> {
        if self.lowest() > self.highest() { Err(NodeError::EmptyRange) } else { Ok(()) }
    }

    pub fn lowest(&self) -> Namespace {
        self.namespace_at(0)
    }

    pub fn highest(&self) -> Namespace {
        self.namespace_at(Namespace::LEN)
    }

    fn namespace_at(&self, start: usize) -> Namespace {
        let mut bytes = [0; Namespace::LEN];
        bytes.copy_from_slice(&self.0[start..start + Namespace::LEN]);
        Namespace::from_bytes(bytes)
    }

    /// Whether leaves of `namespace` may lie below. If not, there are none.
    pub fn covers(&self, namespace: &Namespace) -> bool {
        self.lowest() <= *namespace && *namespace <= self.highest()
    }
}

impl fmt::Debug for NamespacedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}:{}", self.lowest(), self.highest(), hex::encode(&self.0[2 * Namespace::LEN..]))
    }
}

/// Standard base64.
impl Serialize for NamespacedHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for NamespacedHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        bytes.try_into().map(Self).map_err(|bytes: Vec<u8>| D::Error::invalid_length(bytes.len(), &"90 bytes"))
    }
}

/// How many nodes stand left and right of the leaves from `start` to before `end` of a tree of `width` leaves, a power of
/// two: the largest complete subtrees that lie beside them.
pub(super) fn neighbours(start: usize, end: usize, width: usize) -> (usize, usize) {
    let ones = |number: usize| usize::try_from(number.count_ones()).unwrap_or(usize::MAX);
    (ones(start), ones(width - end))
}

/// Root of a tree of `width` leaves, of which those from `start` on are `leaves`, with the nodes beside them: `left` and
/// `right`, in order, as many as [`neighbours`] says.
pub(super) fn root(
    width: usize,
    start: usize,
    left: &[NamespacedHash],
    leaves: impl Iterator<Item = NamespacedHash>,
    right: &[NamespacedHash],
) -> Result<NamespacedHash, NodeError> {
    // To the left the subtrees get smaller towards the leaves: one for each bit of their number.
    let mut rest = start;
    let sizes = std::iter::from_fn(|| {
        let size = 1 << rest.checked_ilog2()?;
        rest -= size;
        Some(size)
    });
    let mut tree = Forest::default();
    for (node, size) in left.iter().zip(sizes) {
        tree.append(size, *node)?;
    }
    for leaf in leaves {
        tree.append(1, leaf)?;
    }
    // To the right they get larger.
    for node in right {
        tree.append(1 << tree.width.trailing_zeros().min(width.ilog2()), *node)?;
    }
    tree.subtrees.pop().map(|(_, root)| root).ok_or(NodeError::EmptyRange)
}

/// Complete subtrees side by side, with their sizes: as in a binary counter, each is larger than the next.
#[derive(Default)]
struct Forest {
    subtrees: Vec<(usize, NamespacedHash)>,
    width: usize,
}

impl Forest {
    fn append(&mut self, mut size: usize, mut node: NamespacedHash) -> Result<(), NodeError> {
        self.width += size;
        while let Some((_, other)) = self.subtrees.pop_if(|(other, _)| *other == size) {
            node = NamespacedHash::above(&other, &node)?;
            size *= 2;
        }
        self.subtrees.push((size, node));
        Ok(())
    }
}
