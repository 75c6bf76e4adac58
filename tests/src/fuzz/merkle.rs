//! Merkle trees and proofs against RFC 6962 word by word.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use downbeat_core::{
    merkle::{Proof, Tree, root_of},
    wire::proto::astria::primitive::v1 as wire,
};

use super::naive;

/// Leaves of one tree: the naive model takes quadratic time.
const LEAVES_MAX: usize = 64;

/// A proof from outside, made up or close to a genuine one.
#[derive(Debug, Arbitrary)]
struct Received {
    path: Vec<[u8; 32]>,
    ragged: Vec<u8>,
    leaf_index: u64,
    tree_size: u64,
    /// Whether to take the shape that belongs to index and size, so that the proof is accepted.
    well_formed: bool,
}

/// How a genuine proof is changed on its way.
#[derive(Clone, Copy, Debug, Arbitrary)]
enum Change {
    Index(u64),
    Size(u64),
    Byte { at: u16, to: u8 },
    Shorter,
    Longer([u8; 32]),
}

/// Trees, genuine proofs, changed ones, and ones that were made up.
pub fn merkle(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(received) = Received::arbitrary(&mut input) else { return };
    let Ok(index) = u16::arbitrary(&mut input) else { return };
    let Ok(changes) = Vec::<Change>::arbitrary(&mut input) else { return };
    let Ok(mut leaves) = Vec::<Vec<u8>>::arbitrary_take_rest(input) else { return };
    leaves.truncate(LEAVES_MAX);

    take_received(received, leaves.first().map_or(&[], Vec::as_slice));

    let tree = Tree::new(&leaves);
    let root = naive::root(&leaves);
    assert_eq!(tree.root(), root);
    assert_eq!(root_of(&leaves), root);
    assert_eq!(tree.proof(leaves.len()), None);
    if leaves.is_empty() {
        return;
    }
    let index = usize::from(index) % leaves.len();
    let proof = tree.proof(index).expect("the leaf exists");
    assert_eq!(proof.siblings(), naive::path(index, &leaves));
    assert_eq!(proof.verify(&leaves[index], &root), Ok(()));
    for leaf in &leaves {
        assert_eq!(proof.verify(leaf, &root).is_ok(), *leaf == leaves[index]);
    }
    let mut wire = proof.to_wire();
    assert_eq!(Proof::from_wire(&wire), Ok(proof));
    for change in changes {
        apply(change, &mut wire);
        judge(&wire, &leaves[index], &root);
    }
}

fn take_received(received: Received, leaf: &[u8]) {
    let Received { path, ragged, leaf_index, mut tree_size, well_formed } = received;
    let mut audit_path = path.concat();
    if well_formed {
        tree_size |= 1;
        // One hash for each level: enough for some index, and often for this one.
        let levels = (u64::BITS - (tree_size / 2).leading_zeros()) as usize;
        audit_path.resize(levels * 32, 7);
    } else {
        audit_path.extend(ragged.iter().take(40));
    }
    let wire = wire::Proof { audit_path: audit_path.into(), leaf_index, tree_size };
    judge(&wire, leaf, &[0; 32]);
}

fn apply(change: Change, wire: &mut wire::Proof) {
    let mut path = wire.audit_path.to_vec();
    match change {
        Change::Index(index) => wire.leaf_index = index,
        Change::Size(size) => wire.tree_size = size,
        Change::Byte { at, to } => {
            let length = path.len().max(1);
            if let Some(byte) = path.get_mut(usize::from(at) % length) {
                *byte = to;
            }
        }
        Change::Shorter => path.truncate(path.len().saturating_sub(32)),
        Change::Longer(hash) => path.extend(hash),
    }
    // 64 levels are the most that any index can need.
    path.truncate(65 * 32);
    wire.audit_path = Bytes::from(path);
}

/// Accepted exactly if the naive model accepts, with the same root.
fn judge(wire: &wire::Proof, leaf: &[u8], root: &naive::Hash) {
    let (path, ragged) = wire.audit_path.as_chunks::<32>();
    let has_shape = ragged.is_empty() && wire.tree_size % 2 == 1 && wire.leaf_index <= wire.tree_size / 2;
    let expected = if has_shape { naive::root_from(leaf, wire.leaf_index, wire.tree_size / 2 + 1, path) } else { None };
    match (Proof::from_wire(wire), expected) {
        (Ok(proof), Some(expected)) => {
            assert_eq!(proof.root_from_leaf(leaf), expected, "{wire:?}");
            assert_eq!(proof.verify(leaf, root).is_ok(), expected == *root, "{wire:?}");
            assert_eq!(proof.verify(leaf, &expected), Ok(()), "{wire:?}");
            assert_eq!(proof.to_wire(), *wire);
        }
        (Err(_), None) => {}
        (actual, expected) => panic!("{wire:?}: {actual:?}, and the model says {expected:?}"),
    }
}
