//! RFC 6962 Merkle trees over SHA-256, and strict inclusion proofs in them (reference §2).
//!
//! Owns hashing and proofs, not which trees exist: see [`sequencer`](crate::sequencer) for those.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::wire::proto::astria::primitive::v1 as proto;

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// Length of a digest in bytes.
const HASH_LEN: usize = 32;

/// Hash of a leaf's content (reference §2.1).
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

/// Hash of a node from those of its children.
pub fn inner_hash(left: &Hash, right: &Hash) -> Hash {
    let mut node = [1; 1 + 2 * HASH_LEN];
    node[1..=HASH_LEN].copy_from_slice(left);
    node[1 + HASH_LEN..].copy_from_slice(right);
    Sha256::digest(node).into()
}

/// Root over `leaves`, in order. Holds one hash per level and no leaf.
pub fn root_of<I>(leaves: I) -> Hash
where
    I: IntoIterator,
    I::Item: AsRef<[u8]>,
{
    // Roots of complete subtrees, one for each bit set in the count of leaves, the largest first.
    let mut subtrees = [[0; HASH_LEN]; u64::BITS as usize];
    let mut held = 0_usize;
    for (count, leaf) in leaves.into_iter().enumerate() {
        let mut hash = leaf_hash(leaf.as_ref());
        for _ in 0..count.trailing_ones() {
            held -= 1;
            hash = inner_hash(&subtrees[held], &hash);
        }
        subtrees[held] = hash;
        held += 1;
    }
    let Some((last, larger)) = subtrees[..held].split_last() else { return Sha256::digest([]).into() };
    larger.iter().rev().fold(*last, |right, left| inner_hash(left, &right))
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("an audit path of {0} bytes is not made of whole hashes")]
    BrokenPath(usize),
    #[error("{0} is not the node count of any tree")]
    TreeSize(u64),
    #[error("leaf {index} is outside of a tree of {leaves} leaves")]
    LeafOutside { index: u64, leaves: u64 },
    #[error("the path from leaf {index} of {leaves} has {expected} hashes, not {actual}")]
    PathLength { index: u64, leaves: u64, expected: usize, actual: usize },
    #[error("the proof leads to another root, {}", hex::encode(.0))]
    OtherRoot(Hash),
}

/// Shows that a leaf lies at one position of a tree. Its path has exactly the length that belongs to that position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    leaf_index: u64,
    leaf_count: u64,
    /// Whole hashes, those next to the leaf first.
    path: Bytes,
}

impl Proof {
    /// Checks the shape of a received proof (reference §2.2, §2.3). The path stays a slice of the received buffer.
    pub fn from_wire(wire: &proto::Proof) -> Result<Self, ProofError> {
        let &proto::Proof { ref audit_path, leaf_index, tree_size } = wire;
        if !audit_path.len().is_multiple_of(HASH_LEN) {
            return Err(ProofError::BrokenPath(audit_path.len()));
        }
        if tree_size.is_multiple_of(2) {
            return Err(ProofError::TreeSize(tree_size));
        }
        // A tree of n leaves has 2n - 1 nodes; halving first cannot overflow.
        let leaf_count = tree_size / 2 + 1;
        if leaf_index >= leaf_count {
            return Err(ProofError::LeafOutside { index: leaf_index, leaves: leaf_count });
        }
        let expected = sides(leaf_index, leaf_count).count();
        let actual = audit_path.len() / HASH_LEN;
        if actual != expected {
            return Err(ProofError::PathLength { index: leaf_index, leaves: leaf_count, expected, actual });
        }
        Ok(Self { leaf_index, leaf_count, path: audit_path.clone() })
    }

    pub fn to_wire(&self) -> proto::Proof {
        proto::Proof {
            audit_path: self.path.clone(),
            leaf_index: self.leaf_index,
            tree_size: (self.leaf_count - 1) * 2 + 1,
        }
    }

    /// Position of the leaf, counted from zero.
    pub fn leaf_index(&self) -> u64 {
        self.leaf_index
    }

    /// Number of leaves of the tree; at least one.
    pub fn leaf_count(&self) -> u64 {
        self.leaf_count
    }

    /// The hashes beside the path from the leaf to the root, the leaf's own sibling first.
    pub fn siblings(&self) -> &[Hash] {
        self.path.as_chunks().0
    }

    /// Root of the tree if `leaf` is the content of the leaf.
    pub fn root_from_leaf(&self, leaf: &[u8]) -> Hash {
        let siblings = self.siblings().iter().zip(sides(self.leaf_index, self.leaf_count));
        siblings.fold(leaf_hash(leaf), |hash, (sibling, side)| match side {
            Side::Left => inner_hash(sibling, &hash),
            Side::Right => inner_hash(&hash, sibling),
        })
    }

    /// Whether `leaf` lies at the proof's position in the tree with `root`.
    pub fn verify(&self, leaf: &[u8], root: &Hash) -> Result<(), ProofError> {
        let computed = self.root_from_leaf(leaf);
        if computed == *root { Ok(()) } else { Err(ProofError::OtherRoot(computed)) }
    }
}

/// On which side of the path a sibling lies.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// The siblings on the way from a leaf to the root. At most 64, as each level halves the positions.
fn sides(leaf_index: u64, leaf_count: u64) -> impl Iterator<Item = Side> {
    let (mut position, mut last) = (leaf_index, leaf_count - 1);
    std::iter::from_fn(move || {
        while last > 0 {
            let side = if position % 2 == 1 {
                Some(Side::Left)
            } else if position < last {
                Some(Side::Right)
            } else {
                // The last node of a level with an odd number of nodes moves up as it is.
                None
            };
            position /= 2;
            last /= 2;
            if side.is_some() {
                return side;
            }
        }
        None
    })
}

/// A whole tree in memory, for those who make proofs.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Leaf hashes first, the root last; no level for the empty tree.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    pub fn new<I>(leaves: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut level: Vec<Hash> = leaves.into_iter().map(|leaf| leaf_hash(leaf.as_ref())).collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let (pairs, odd) = level.as_chunks::<2>();
            let above = pairs.iter().map(|[left, right]| inner_hash(left, right)).chain(odd.first().copied()).collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        if !level.is_empty() {
            levels.push(level);
        }
        Self { levels }
    }

    pub fn root(&self) -> Hash {
        self.levels.last().map_or_else(|| Sha256::digest([]).into(), |top| top[0])
    }

    /// Proof of the leaf at `index`, if there is one.
    pub fn proof(&self, index: usize) -> Option<Proof> {
        let leaves = self.levels.first()?.len();
        if index >= leaves {
            return None;
        }
        let siblings = self.levels.iter().enumerate().filter_map(|(height, level)| level.get((index >> height) ^ 1));
        let path = siblings.flatten().copied().collect::<Vec<u8>>().into();
        Some(Proof { leaf_index: u64::try_from(index).ok()?, leaf_count: u64::try_from(leaves).ok()?, path })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Leaves of the vectors in reference §2.7.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves(count: usize) -> Vec<Vec<u8>> {
        LEAVES[..count].iter().map(|leaf| hex::decode(leaf).expect("a constant")).collect()
    }

    /// RFC 6962 §2.1, word by word.
    fn naive_root(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => leaf_hash(leaf),
            leaves => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                inner_hash(&naive_root(left), &naive_root(right))
            }
        }
    }

    /// RFC 6962 §2.1.1, word by word.
    fn naive_path(index: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
        if leaves.len() < 2 {
            return Vec::new();
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        let (mut path, sibling) = if index < split {
            (naive_path(index, left), naive_root(right))
        } else {
            (naive_path(index - split, right), naive_root(left))
        };
        path.push(sibling);
        path
    }

    fn wire(path: &[u8], leaf_index: u64, tree_size: u64) -> proto::Proof {
        proto::Proof { audit_path: Bytes::copy_from_slice(path), leaf_index, tree_size }
    }

    #[test]
    fn roots_are_those_of_the_reference() {
        assert_eq!(hex::encode(root_of::<[&[u8]; 0]>([])), hex::encode(Sha256::digest([])));
        for (count, root) in (1..).zip(ROOTS) {
            assert_eq!(hex::encode(root_of(leaves(count))), root, "{count} leaves");
            assert_eq!(hex::encode(Tree::new(leaves(count)).root()), root, "{count} leaves");
        }
    }

    #[test]
    fn paths_are_those_of_the_reference() {
        let second = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
        let third_pair = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
        let fifth = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
        let last_pair = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
        let right_half = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
        let table: [(usize, usize, &[&str]); 6] = [
            (2, 0, &[second]),
            (2, 1, &[ROOTS[0]]),
            (3, 2, &[ROOTS[1]]),
            (5, 1, &[ROOTS[0], third_pair, fifth]),
            (8, 0, &[second, third_pair, right_half]),
            (8, 5, &[fifth, last_pair, ROOTS[3]]),
        ];
        for (count, index, path) in table {
            let proof = Tree::new(leaves(count)).proof(index).expect("the leaf exists");
            let siblings: Vec<_> = proof.siblings().iter().map(hex::encode).collect();
            assert_eq!(siblings, path, "leaf {index} of {count}");
            assert_eq!(proof.verify(&leaves(8)[index], &root_of(leaves(count))), Ok(()), "leaf {index} of {count}");
        }
    }

    #[test]
    fn malformed_proofs_are_refused() {
        // Appendix B, 1 to 5.
        assert_eq!(
            Proof::from_wire(&wire(&[0; 32], 0, 1)),
            Err(ProofError::PathLength { index: 0, leaves: 1, expected: 0, actual: 1 })
        );
        assert_eq!(
            Proof::from_wire(&wire(&[], 1 << 63, u64::MAX)),
            Err(ProofError::LeafOutside { index: 1 << 63, leaves: 1 << 63 })
        );
        assert_eq!(Proof::from_wire(&wire(&[], 0, 0)), Err(ProofError::TreeSize(0)));
        assert_eq!(Proof::from_wire(&wire(&[0; 31], 0, 3)), Err(ProofError::BrokenPath(31)));
        assert_eq!(Proof::from_wire(&wire(&[0; 32], 1, 2)), Err(ProofError::TreeSize(2)));
    }

    #[test]
    fn the_largest_tree_has_its_exact_path() {
        let path = [7; 63 * 32];
        let proof = Proof::from_wire(&wire(&path, (1 << 63) - 1, u64::MAX)).expect("the last of 2^63 leaves");
        assert_eq!((proof.leaf_count(), proof.siblings().len()), (1 << 63, 63));
        assert_eq!(proof.to_wire(), wire(&path, (1 << 63) - 1, u64::MAX));
        assert!(Proof::from_wire(&wire(&path[32..], (1 << 63) - 1, u64::MAX)).is_err());
    }

    #[test]
    fn a_proof_holds_for_its_leaf_and_root_only() {
        let tree = Tree::new(leaves(7));
        let proof = tree.proof(4).expect("the leaf exists");
        assert_eq!(proof.verify(&leaves(7)[4], &tree.root()), Ok(()));
        assert!(proof.verify(&leaves(7)[3], &tree.root()).is_err());
        assert!(proof.verify(&leaves(7)[4], &[0; 32]).is_err());
        assert_eq!(tree.proof(7), None);
        assert_eq!(Tree::new::<[&[u8]; 0]>([]).proof(0), None);
    }

    proptest! {
        #[test]
        fn trees_are_those_of_the_naive_definition(
            leaves in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..8), 0..70),
        ) {
            let tree = Tree::new(&leaves);
            let root = naive_root(&leaves);
            prop_assert_eq!(tree.root(), root);
            prop_assert_eq!(root_of(&leaves), root);
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = tree.proof(index).expect("the leaf exists");
                prop_assert_eq!(proof.siblings(), naive_path(index, &leaves));
                prop_assert_eq!(proof.verify(leaf, &root), Ok(()));
                let received = Proof::from_wire(&proof.to_wire());
                prop_assert_eq!(received, Ok(proof));
            }
        }
    }
}
