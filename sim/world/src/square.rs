//! Data squares as Celestia lays them out, with their roots, and the proofs that an honest node makes from them.
//!
//! One share stands for the transactions that pay for the blobs; all others are Celestia's own. The trees are made here
//! rather than by `celestia-types`, so that liars can have proofs of any part of a row; tests compare the two.

use std::{ops::Range, sync::OnceLock};

use bytes::Bytes;
use celestia_types::consts::appconsts::{
    CONTINUATION_SPARSE_SHARE_CONTENT_SIZE, FIRST_SPARSE_SHARE_CONTENT_SIZE, SHARE_SIZE, SUBTREE_ROOT_THRESHOLD,
};
use downbeat_core::celestia::{
    Namespace,
    square::{DataAvailabilityHeader, NamespacedHash, RowProof, UnverifiedNamespace, UnverifiedRow},
};

/// Rows of the largest square, before it is extended: Celestia's bound until its version 6.
pub const WIDTH_MAX: usize = 128;

/// Namespace of the transactions that pay for blobs.
const PAY_FOR_BLOB: u8 = 4;
/// Namespace of the padding before the first blob.
const PRIMARY_PADDING: u8 = 255;

/// A namespace of the protocol itself, by its last byte.
fn reserved(last: u8) -> Namespace {
    let mut bytes = [0; Namespace::LEN];
    bytes[Namespace::LEN - 1] = last;
    Namespace::from_bytes(bytes)
}

/// Namespace of the padding behind the last blob.
fn tail_padding() -> Namespace {
    let mut bytes = *Namespace::PARITY.as_bytes();
    bytes[Namespace::LEN - 1] = 0xfe;
    Namespace::from_bytes(bytes)
}

/// Shares that a blob of share version 0 takes up.
fn share_count(length: usize) -> usize {
    let rest = length.saturating_sub(FIRST_SPARSE_SHARE_CONTENT_SIZE);
    1 + rest.div_ceil(CONTINUATION_SPARSE_SHARE_CONTENT_SIZE)
}

/// A blob of so many shares begins at a multiple of this.
fn alignment(shares: usize) -> usize {
    let threshold = usize::try_from(SUBTREE_ROOT_THRESHOLD).unwrap_or(64);
    let by_threshold = shares.div_ceil(threshold).next_power_of_two();
    let own_square = shares.isqrt() + usize::from(shares.isqrt().pow(2) < shares);
    by_threshold.min(own_square.next_power_of_two())
}

/// Most shares that a blob of `length` bytes and the padding before it can take up.
pub(crate) fn shares_at_most(length: usize) -> usize {
    let shares = share_count(length);
    shares + alignment(shares) - 1
}

/// Where blobs begin in a square, in shares, given their lengths; and the end of the last one.
pub(crate) fn lay_out(lengths: impl IntoIterator<Item = usize>) -> (Vec<usize>, usize) {
    // The transactions come first.
    let mut end: usize = 1;
    let mut indexes = Vec::new();
    for length in lengths {
        let shares = share_count(length);
        let index = end.next_multiple_of(alignment(shares));
        indexes.push(index);
        end = index + shares;
    }
    if indexes.is_empty() { (indexes, 0) } else { (indexes, end) }
}

/// What the parity shares of a square hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Parity {
    /// The Reed-Solomon code of the others.
    #[default]
    Coded,
    /// Nothing but zeros: a square that whoever only asks for namespaces cannot tell from a coded one, made several times
    /// as fast.
    Zeros,
}

/// An extended square.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Square {
    /// Of the extended square: rows, and shares in a row.
    width: usize,
    /// All shares of the upper half, row by row.
    shares: Bytes,
    /// For each row of the upper half its tree: leaves first, the root last.
    trees: Vec<Vec<Vec<NamespacedHash>>>,
    header: DataAvailabilityHeader,
}

impl Square {
    /// Lays out blobs, which come by namespace; at most [`WIDTH_MAX`] squared shares of them.
    ///
    /// # Panics
    /// If there is more.
    pub fn of_blobs<'a>(blobs: impl Iterator<Item = (&'a Namespace, &'a [u8])> + Clone, parity: Parity) -> Self {
        let (indexes, end) = lay_out(blobs.clone().map(|(_, data)| data.len()));
        let mut shares: Vec<u8> = Vec::new();
        let mut last = reserved(PRIMARY_PADDING);
        if end > 0 {
            // Sequence length, place of the first transaction, and no transaction that anybody could read.
            shares.extend([reserved(PAY_FOR_BLOB).as_bytes().as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0, 38]].concat());
            shares.resize(SHARE_SIZE, 0);
        }
        for ((namespace, data), index) in blobs.zip(indexes) {
            pad(&mut shares, &last, index);
            let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
            let (first, rest) = data.split_at(data.len().min(FIRST_SPARSE_SHARE_CONTENT_SIZE));
            append(&mut shares, &[namespace.as_bytes(), &[1], &length, first]);
            for part in rest.chunks(CONTINUATION_SPARSE_SHARE_CONTENT_SIZE) {
                append(&mut shares, &[namespace.as_bytes(), &[0], part]);
            }
            last = *namespace;
        }
        let mut half = 1;
        while half * half < end {
            half *= 2;
        }
        assert!(half <= WIDTH_MAX, "{end} shares do not fit into a square");
        pad(&mut shares, &tail_padding(), half * half);
        Self::extended(half, &shares, parity)
    }

    /// Extends a square of `half` rows.
    fn extended(half: usize, original: &[u8], parity: Parity) -> Self {
        let width = 2 * half;
        // Without a code the lower half is not needed: nobody gets a share from there.
        let height = if parity == Parity::Coded { width } else { half };
        let mut shares = vec![0; height * width * SHARE_SIZE];
        let rows = original.chunks_exact(half * SHARE_SIZE);
        for (to, from) in shares.chunks_exact_mut(width * SHARE_SIZE).zip(rows) {
            to[..from.len()].copy_from_slice(from);
        }
        if parity == Parity::Coded {
            encode(&mut shares, half);
        }
        let leaf = |(index, share): (usize, &[u8])| {
            let is_original = index / width < half && index % width < half;
            match parity {
                _ if is_original => NamespacedHash::of_share(&namespace_of(share), share),
                Parity::Coded => NamespacedHash::of_share(&Namespace::PARITY, share),
                Parity::Zeros => zeros(0),
            }
        };
        let mut leaves: Vec<NamespacedHash> = shares.chunks_exact(SHARE_SIZE).enumerate().map(leaf).collect();
        leaves.resize(width * width, zeros(0));
        let mut trees: Vec<_> = leaves.chunks_exact(width).map(|row| tree(row.to_vec())).collect();
        let columns = (0..width).map(|column| tree(leaves.iter().skip(column).step_by(width).copied().collect()));
        let root = |tree: &Vec<Vec<NamespacedHash>>| tree[tree.len() - 1][0];
        let header = DataAvailabilityHeader {
            row_roots: trees.iter().map(root).collect(),
            column_roots: columns.map(|column| root(&column)).collect(),
        };
        trees.truncate(half);
        // A copy: what is kept of a coded square is half of it.
        let shares = Bytes::copy_from_slice(&shares[..half * width * SHARE_SIZE]);
        Self { width, shares, trees, header }
    }

    /// What the block's header commits to.
    pub fn header(&self) -> &DataAvailabilityHeader {
        &self.header
    }

    fn share(&self, row: usize, column: usize) -> Bytes {
        let start = (row * self.width + column) * SHARE_SIZE;
        self.shares.slice(start..start + SHARE_SIZE)
    }

    /// All of a namespace, with proofs, as an honest node answers.
    pub fn namespace(&self, namespace: Namespace) -> UnverifiedNamespace {
        let rows = self.header.rows_covering(&namespace).map(|(row, _)| self.in_row(row, &namespace)).collect();
        UnverifiedNamespace { namespace, rows }
    }

    fn in_row(&self, row: usize, namespace: &Namespace) -> UnverifiedRow {
        let leaves = &self.trees[row][0][..self.width / 2];
        let start = leaves.partition_point(|leaf| leaf.lowest() < *namespace);
        let end = leaves.partition_point(|leaf| leaf.lowest() <= *namespace);
        if start < end { self.columns(row, start..end) } else { self.absence(row, start) }
    }

    /// Some shares of a row, with the proof that they are there.
    ///
    /// # Panics
    /// If the row or the columns do not exist, or there are none.
    pub fn columns(&self, row: usize, columns: Range<usize>) -> UnverifiedRow {
        let shares = columns.clone().map(|column| self.share(row, column)).collect();
        UnverifiedRow { shares, proof: self.proof(row, &columns) }
    }

    /// The claim that a namespace would stand at one column of a row, and does not.
    ///
    /// # Panics
    /// If the row or the column does not exist.
    pub fn absence(&self, row: usize, column: usize) -> UnverifiedRow {
        let absence = Some(self.trees[row][0][column]);
        UnverifiedRow { shares: Vec::new(), proof: RowProof { absence, ..self.proof(row, &(column..column + 1)) } }
    }

    fn proof(&self, row: usize, columns: &Range<usize>) -> RowProof {
        let tree = &self.trees[row];
        let node = |level: u32, position: usize| tree[usize::try_from(level).unwrap_or(0)][position >> level];
        let mut nodes = Vec::new();
        let mut position = 0;
        for level in (0..usize::BITS).rev().filter(|level| columns.start >> level & 1 == 1) {
            nodes.push(node(level, position));
            position += 1 << level;
        }
        position = columns.end;
        while position < self.width {
            let level = position.trailing_zeros();
            nodes.push(node(level, position));
            position += 1 << level;
        }
        let column = |column: usize| u32::try_from(column).unwrap_or(u32::MAX);
        RowProof { start: column(columns.start), end: column(columns.end), nodes, absence: None }
    }
}

/// Fills the parity shares of a square of `half` rows of others.
fn encode(shares: &mut [u8], half: usize) {
    let width = 2 * half;
    let encode = |mut shards: Vec<&mut [u8]>| {
        // As many parity shares as others, at most 128: what the code is for.
        leopard_codec::encode(&mut shards, half).expect("a square has equal halves");
    };
    let (upper, _) = shares.split_at_mut(half * width * SHARE_SIZE);
    for row in upper.chunks_exact_mut(width * SHARE_SIZE) {
        encode(row.chunks_exact_mut(SHARE_SIZE).collect());
    }
    for column in 0..width {
        encode(shares.chunks_exact_mut(SHARE_SIZE).skip(column).step_by(width).collect());
    }
}

/// Root of `1 << level` parity shares of zeros.
fn zeros(level: usize) -> NamespacedHash {
    /// Levels in the tree of the largest extended row.
    const LEVELS: usize = (2 * WIDTH_MAX).ilog2() as usize + 1;
    static ROOTS: OnceLock<[NamespacedHash; LEVELS]> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = [NamespacedHash::of_share(&Namespace::PARITY, &[0; SHARE_SIZE]); LEVELS];
        for level in 1..LEVELS {
            roots[level] = above(&roots[level - 1], &roots[level - 1]);
        }
        roots
    })[level]
}

/// Appends one share.
fn append(shares: &mut Vec<u8>, parts: &[&[u8]]) {
    let end = shares.len() + SHARE_SIZE;
    for part in parts {
        shares.extend_from_slice(part);
    }
    shares.resize(end, 0);
}

/// Fills up to share `index`.
fn pad(shares: &mut Vec<u8>, namespace: &Namespace, index: usize) {
    while shares.len() < index * SHARE_SIZE {
        append(shares, &[namespace.as_bytes(), &[1]]);
    }
}

fn namespace_of(share: &[u8]) -> Namespace {
    let mut bytes = [0; Namespace::LEN];
    bytes.copy_from_slice(&share[..Namespace::LEN]);
    Namespace::from_bytes(bytes)
}

fn above(left: &NamespacedHash, right: &NamespacedHash) -> NamespacedHash {
    NamespacedHash::above(left, right).expect("they come by namespace")
}

/// A whole tree over a power of two of leaves, which come by namespace.
fn tree(leaves: Vec<NamespacedHash>) -> Vec<Vec<NamespacedHash>> {
    let mut levels = vec![leaves];
    loop {
        let below = &levels[levels.len() - 1];
        if below.len() == 1 {
            return levels;
        }
        // Nodes over zeros are many and all alike.
        let zero = zeros(levels.len() - 1);
        let (pairs, _) = below.as_chunks::<2>();
        let node = |[left, right]: &[NamespacedHash; 2]| {
            if *left == zero && *right == zero { zeros(levels.len()) } else { above(left, right) }
        };
        let above = pairs.iter().map(node).collect();
        levels.push(above);
    }
}

#[cfg(test)]
mod tests {
    use celestia_types::{
        DataAvailabilityHeader as TheirHeader, ExtendedDataSquare,
        nmt::{Namespace as TheirNamespace, NamespacedHashExt as _},
    };
    use downbeat_core::{Limits, RollupId, celestia::square::prove_namespace};

    use super::*;
    use crate::random::Random;

    fn namespace(number: u8) -> Namespace {
        Namespace::of_rollup(&RollupId([number; 32]))
    }

    /// The same square by Celestia's library.
    fn theirs(square: &Square) -> (ExtendedDataSquare, TheirHeader) {
        let half = square.width / 2;
        let shares = (0..half * half).map(|index| square.share(index / half, index % half).to_vec()).collect();
        let extended = ExtendedDataSquare::from_ods(shares).expect("a square");
        let header = TheirHeader::from_eds(&extended);
        (extended, header)
    }

    fn assert_alike(square: &Square, namespaces: impl Iterator<Item = u8>) {
        let (extended, header) = theirs(square);
        let roots = |roots: &[celestia_types::nmt::NamespacedHash]| {
            roots.iter().map(|root| NamespacedHash::from_bytes(root.to_array())).collect::<Vec<_>>()
        };
        assert_eq!(square.header.row_roots, roots(header.row_roots()));
        assert_eq!(square.header.column_roots, roots(header.column_roots()));
        assert_eq!(square.header.hash(), header.hash().as_bytes());
        for number in namespaces {
            let ours = square.namespace(namespace(number));
            let named = TheirNamespace::from_raw(namespace(number).as_bytes()).expect("a namespace");
            let rows = extended.get_namespace_data(named, &header, 1).expect("it exists");
            assert_eq!(ours.rows.len(), rows.len(), "namespace {number}");
            for (ours, (_, theirs)) in ours.rows.iter().zip(&rows) {
                assert!(ours.shares.iter().eq(theirs.shares.iter().map(|share| share.data().as_slice())));
                assert_eq!((ours.proof.start, ours.proof.end), (theirs.proof.start_idx(), theirs.proof.end_idx()));
                assert_eq!(ours.proof.nodes, roots(theirs.proof.siblings()));
                assert_eq!(
                    ours.proof.absence.into_iter().collect::<Vec<_>>(),
                    roots(theirs.proof.leaf().map_or(&[], std::slice::from_ref))
                );
            }
        }
    }

    #[test]
    fn squares_are_those_of_celestias_library_and_their_blobs_come_out_again() {
        let mut random = Random::new(7, "squares");
        for case in 0..60 {
            let mut blobs: Vec<(Namespace, Vec<u8>)> = (0..random.below(6))
                .map(|_| {
                    let number = u8::try_from(2 * random.below(5) + 1).expect("below eleven");
                    let most = if case % 10 == 0 { 90_000 } else { 3_000 };
                    let length = usize::try_from(random.within(1, most)).expect("small");
                    (namespace(number), (0..=255).cycle().skip(length % 97).take(length).collect())
                })
                .collect();
            blobs.sort_by_key(|(namespace, _)| *namespace);
            let list = blobs.iter().map(|(namespace, data)| (namespace, data.as_slice()));
            assert_alike(&Square::of_blobs(list.clone(), Parity::Coded), 0..11);
            for parity in [Parity::Coded, Parity::Zeros] {
                let square = Square::of_blobs(list.clone(), parity);
                let limits = Limits::default();
                let header = square.header().clone().verify(&square.header().hash(), &limits).expect("its own hash");
                for number in 0..11 {
                    let answer = square.namespace(namespace(number));
                    let found = prove_namespace(&answer, &header, &limits).expect("all of it");
                    let expected = blobs.iter().filter(|(of, _)| *of == namespace(number)).map(|(_, data)| data);
                    assert!(found.blobs.iter().eq(expected), "case {case}, namespace {number}, {parity:?}");
                    assert_eq!(found.unreadable, []);
                }
            }
        }
    }

    #[test]
    fn roots_over_zeros_are_those_of_their_shares() {
        let data = [7; 3_000];
        let square = Square::of_blobs([(&namespace(1), &data[..])].into_iter(), Parity::Zeros);
        let (half, width) = (square.width / 2, square.width);
        let share = |row: usize, column: usize| {
            if row < half { square.share(row, column).to_vec() } else { vec![0; SHARE_SIZE] }
        };
        let leaf = |row: usize, column: usize| {
            let share = share(row, column);
            let namespace = if row < half && column < half { namespace_of(&share) } else { Namespace::PARITY };
            NamespacedHash::of_share(&namespace, &share)
        };
        let root = |mut nodes: Vec<NamespacedHash>| {
            while nodes.len() > 1 {
                nodes = nodes.chunks(2).map(|pair| above(&pair[0], &pair[1])).collect();
            }
            nodes[0]
        };
        let rows: Vec<_> = (0..width).map(|row| root((0..width).map(|column| leaf(row, column)).collect())).collect();
        let columns: Vec<_> =
            (0..width).map(|column| root((0..width).map(|row| leaf(row, column)).collect())).collect();
        assert_eq!(square.header, DataAvailabilityHeader { row_roots: rows, column_roots: columns });
    }

    #[test]
    fn an_empty_block_has_the_smallest_square() {
        let square = Square::of_blobs(std::iter::empty(), Parity::Coded);
        assert_eq!(theirs(&square).0, ExtendedDataSquare::empty());
        assert_alike(&square, 0..1);
    }

    #[test]
    fn large_blobs_begin_where_their_commitment_can_be_made_of_subtrees() {
        // As the specification has it: 64 subtrees, or a square of the blob's own.
        for (shares, expected) in [(1, 1), (2, 1), (64, 1), (65, 2), (128, 2), (129, 4), (4_096, 64)] {
            assert_eq!(alignment(shares), expected, "{shares} shares");
        }
        let lengths = [10, 70 * 482, 20];
        let (indexes, end) = lay_out(lengths);
        assert_eq!((indexes, end), (vec![1, 2, 73], 74));
    }
}
