//! Completeness proofs of Celestia namespaces, on squares that Celestia's own library builds: what an honest node answers
//! is accepted and gives the blobs back, every change of it is refused, and nothing passes that the library would refuse.

#[path = "../light/chain.rs"]
#[allow(dead_code, reason = "only some of its chains are needed here")]
mod chain;
mod false_namespaces;
mod roots;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use celestia_types::{
    Blob, DataAvailabilityHeader as TheirHeader, ExtendedDataSquare, Share,
    nmt::{Namespace as TheirNamespace, NamespaceProof, NamespacedHashExt as _},
    row_namespace_data::{RowNamespaceData, RowNamespaceDataId},
    state::AccAddress,
};
use downbeat_core::{
    Limits, RollupId, Verified,
    celestia::{
        Namespace,
        square::{
            BadSequence, DataAvailabilityHeader, NamespaceBlobs, NamespaceError, NamespacedHash, RowError, RowProof,
            SHARE_LEN, UnverifiedNamespace, UnverifiedRow, prove_namespace,
        },
    },
    merkle::Hash,
};
use proptest::{collection::vec, prelude::*, sample::Index};

fn namespace(number: u8) -> Namespace {
    Namespace::of_rollup(&RollupId([number; 32]))
}

fn theirs(namespace: &Namespace) -> TheirNamespace {
    TheirNamespace::from_raw(namespace.as_bytes()).expect("a namespace")
}

/// A blob to be laid into a square, and how many shares of padding follow it.
#[derive(Clone, Debug)]
struct Laid {
    namespace: u8,
    data: Vec<u8>,
    is_signed: bool,
    padding: usize,
}

fn laid(namespace: u8, data: Vec<u8>) -> Laid {
    Laid { namespace, data, is_signed: false, padding: 0 }
}

fn padding(namespace: &[u8]) -> Vec<u8> {
    let mut share = [namespace, &[1]].concat();
    share.resize(SHARE_LEN, 0);
    share
}

struct Square {
    extended: ExtendedDataSquare,
    their_header: TheirHeader,
    header: DataAvailabilityHeader,
    data_hash: Hash,
}

impl Square {
    /// One share of transactions, the blobs by namespace with their padding, and padding to the end.
    fn new(blobs: &[Laid]) -> Self {
        let mut blobs = blobs.to_vec();
        blobs.sort_by_key(|blob| blob.namespace);
        let mut shares = vec![padding(TheirNamespace::TRANSACTION.as_bytes())];
        for Laid { namespace: number, data, is_signed, padding: count } in blobs {
            let signer = is_signed.then(|| AccAddress::new(tendermint::account::Id::new([number; 20])));
            let blob = Blob::new(theirs(&namespace(number)), data, signer).expect("a blob");
            shares.extend(blob.to_shares().expect("shares").iter().map(Share::to_vec));
            shares.extend(std::iter::repeat_n(padding(namespace(number).as_bytes()), count));
        }
        Self::of_shares(shares)
    }

    fn of_shares(mut shares: Vec<Vec<u8>>) -> Self {
        let mut width = 1;
        while width * width < shares.len() {
            width *= 2;
        }
        shares.resize(width * width, padding(TheirNamespace::TAIL_PADDING.as_bytes()));
        let square = ExtendedDataSquare::from_ods(shares).expect("a square");
        let their_header = TheirHeader::from_eds(&square);
        let roots = |roots: &[celestia_types::nmt::NamespacedHash]| {
            roots.iter().map(|root| NamespacedHash::from_bytes(root.to_array())).collect()
        };
        let header = DataAvailabilityHeader {
            row_roots: roots(their_header.row_roots()),
            column_roots: roots(their_header.column_roots()),
        };
        let data_hash = their_header.hash().as_bytes().try_into().expect("a digest");
        Self { extended: square, their_header, header, data_hash }
    }

    fn verified(&self) -> Verified<DataAvailabilityHeader> {
        self.header.clone().verify(&self.data_hash, &Limits::default()).expect("the header's own roots")
    }

    /// What an honest node answers, by the library.
    fn answer(&self, namespace: Namespace) -> UnverifiedNamespace {
        let rows = self.extended.get_namespace_data(theirs(&namespace), &self.their_header, 1).expect("a namespace");
        let rows = rows.into_iter().map(|(_, row)| UnverifiedRow {
            shares: row.shares.iter().map(|share| Bytes::from(share.to_vec())).collect(),
            proof: proof(&row.proof),
        });
        UnverifiedNamespace { namespace, rows: rows.collect() }
    }

    fn prove(&self, answer: &UnverifiedNamespace) -> Result<Verified<NamespaceBlobs>, NamespaceError> {
        prove_namespace(answer, &self.verified(), &Limits::default())
    }

    /// The verdict of Celestia's library. `None`: its types cannot hold the answer.
    fn their_verdict(&self, answer: &UnverifiedNamespace) -> Option<bool> {
        let namespace = theirs(&answer.namespace);
        let covering: Vec<u16> = (0..self.their_header.square_width())
            .filter(|row| self.their_header.row_contains(*row, namespace).expect("a row"))
            .collect();
        if covering.len() != answer.rows.len() {
            return Some(false);
        }
        let mut verdict = true;
        for (row, index) in answer.rows.iter().zip(covering) {
            let row: RowNamespaceData = serde_json::from_value(json(row)).ok()?;
            let id = RowNamespaceDataId::new(namespace, index, 1).ok()?;
            verdict &= row.verify(id, &self.their_header).is_ok();
        }
        Some(verdict)
    }
}

fn proof(proof: &NamespaceProof) -> RowProof {
    let node = |node: &celestia_types::nmt::NamespacedHash| NamespacedHash::from_bytes(node.to_array());
    RowProof {
        start: proof.start_idx(),
        end: proof.end_idx(),
        nodes: proof.siblings().iter().map(node).collect(),
        absence: proof.leaf().map(node),
    }
}

/// A row as a node sends it.
fn json(row: &UnverifiedRow) -> serde_json::Value {
    let node = |node: &NamespacedHash| STANDARD.encode(node.as_bytes());
    serde_json::json!({
        "shares": row.shares.iter().map(|share| STANDARD.encode(share)).collect::<Vec<_>>(),
        "proof": {
            "start": row.proof.start,
            "end": row.proof.end,
            "nodes": row.proof.nodes.iter().map(node).collect::<Vec<_>>(),
            "leaf_hash": row.proof.absence.as_ref().map(node).unwrap_or_default(),
            "is_max_namespace_ignored": true,
        },
    })
}

/// Five blobs in three namespaces, over several rows. Nothing is in namespaces 1, 4 and 9; 4 lies between others.
fn example() -> Square {
    let signed = Laid { is_signed: true, ..laid(5, vec![0x55; 600]) };
    let padded = Laid { padding: 4, ..laid(3, vec![3; 478]) };
    Square::new(&[
        laid(2, vec![1; 1]),
        laid(2, (0..=255).cycle().take(4_000).collect()),
        padded,
        laid(3, b"after the padding".to_vec()),
        signed,
    ])
}

#[test]
fn what_an_honest_node_answers_gives_the_blobs_back() {
    let square = example();
    let blobs = |number: u8| square.prove(&square.answer(namespace(number))).expect("it is all there").blobs.clone();
    assert_eq!(blobs(2), [vec![1; 1], (0..=255).cycle().take(4_000).collect()]);
    assert_eq!(blobs(3), [vec![3; 478], b"after the padding".to_vec()]);
    assert_eq!(blobs(5), [vec![0x55; 600]]);
    assert!(square.answer(namespace(2)).rows.len() > 1, "more than one row is proven together");
    for absent in [1, 4, 9] {
        assert!(blobs(absent).is_empty(), "namespace {absent}");
    }
}

#[test]
fn an_empty_block_holds_nothing_and_that_is_proven() {
    let square = Square::of_shares(Vec::new());
    assert_eq!(square.extended, ExtendedDataSquare::empty());
    let answer = UnverifiedNamespace { namespace: namespace(1), rows: Vec::new() };
    assert!(square.prove(&answer).expect("no row covers it").blobs.is_empty());
}

/// A genuine proof of fewer shares than there are: what a node that withholds a blob can make.
fn narrowed(square: &Square, number: u8, columns: std::ops::Range<usize>) -> UnverifiedNamespace {
    let mut answer = square.answer(namespace(number));
    let (index, _) =
        square.verified().rows_covering(&namespace(number)).map(|(row, root)| (row, *root)).next().expect("a row");
    let mut tree = square.extended.row_nmt(u16::try_from(index).expect("a row")).expect("a row");
    let (shares, genuine) = tree.get_range_with_proof(columns);
    answer.rows[0] = UnverifiedRow {
        shares: shares.into_iter().map(Bytes::from).collect(),
        proof: proof(&NamespaceProof::from(genuine)),
    };
    answer
}

#[test]
fn a_node_that_withholds_a_blob_is_found_out() {
    let square = example();
    let verdict = |answer: &UnverifiedNamespace| match square.prove(answer) {
        Err(NamespaceError::Row { error, .. }) => error,
        other => panic!("{other:?}"),
    };
    let row = &square.answer(namespace(2)).rows[0];
    let (start, end) = (row.proof.start as usize, row.proof.end as usize);
    assert!(end - start > 2);
    // Without the first blob, which is one share; without the last share.
    assert_eq!(verdict(&narrowed(&square, 2, start + 1..end)), RowError::Incomplete);
    assert_eq!(verdict(&narrowed(&square, 2, start..end - 1)), RowError::Incomplete);
    // Nothing at all, with and without a share that is to show it.
    let mut none = square.answer(namespace(2));
    none.rows[0] = UnverifiedRow { shares: Vec::new(), proof: RowProof::default() };
    assert_eq!(verdict(&none), RowError::AbsentWithoutProof);
    let mut absent = narrowed(&square, 2, start..start + 1);
    absent.rows[0].shares.clear();
    let leaf = NamespacedHash::of_share(&namespace(2), &row.shares[0]);
    absent.rows[0].proof.absence = Some(leaf);
    assert_eq!(verdict(&absent), RowError::NotAbsent(namespace(2)));
    // The first share of another namespace follows all of them: what stands before it gives the lie away.
    let last = square.answer(namespace(2)).rows.len() - 1;
    let (index, _) =
        square.verified().rows_covering(&namespace(2)).map(|(row, root)| (row, *root)).last().expect("a row");
    let mut tree = square.extended.row_nmt(u16::try_from(index).expect("a row")).expect("a row");
    let behind = square.answer(namespace(2)).rows[last].proof.end as usize;
    let (shares, genuine) = tree.get_range_with_proof(behind..behind + 1);
    let mut absent = square.answer(namespace(2));
    absent.rows[last] = UnverifiedRow { shares: Vec::new(), proof: proof(&NamespaceProof::from(genuine)) };
    absent.rows[last].proof.absence = Some(NamespacedHash::of_share(&namespace(3), &shares[0]));
    assert_eq!(verdict(&absent), RowError::Incomplete);
    // No row at all.
    let nothing = UnverifiedNamespace { namespace: namespace(2), rows: Vec::new() };
    assert!(matches!(square.prove(&nothing), Err(NamespaceError::MissingRow { actual: 0, .. })));
}

#[test]
fn absence_needs_a_proof_of_its_own() {
    let square = example();
    let honest = square.answer(namespace(4));
    assert_eq!(honest.rows.len(), 1, "namespace 4 lies between others in one row");
    assert!(honest.rows[0].proof.absence.is_some());
    let refused = |change: &dyn Fn(&mut UnverifiedNamespace)| {
        let mut answer = honest.clone();
        change(&mut answer);
        square.prove(&answer).map(|_| ())
    };
    assert!(refused(&|_| {}).is_ok());
    assert!(matches!(refused(&|answer| answer.rows.clear()), Err(NamespaceError::MissingRow { .. })));
    let without = refused(&|answer| answer.rows[0].proof.absence = None);
    assert!(matches!(without, Err(NamespaceError::Row { error: RowError::AbsentWithoutProof, .. })), "{without:?}");
    let both = refused(&|answer| answer.rows[0].shares = square.answer(namespace(5)).rows[0].shares.clone());
    assert!(matches!(both, Err(NamespaceError::Row { error: RowError::OtherNamespace(_), .. })), "{both:?}");
    // The proof holds for the namespace that it was made for only.
    let other = refused(&|answer| answer.namespace = namespace(5));
    assert!(matches!(other, Err(NamespaceError::Row { error: RowError::NotAbsent(_), .. })), "{other:?}");
}

#[test]
fn shares_of_another_namespace_or_another_row_are_refused() {
    let square = example();
    let mut other = square.answer(namespace(5));
    other.namespace = namespace(2);
    other.rows.resize(square.answer(namespace(2)).rows.len(), other.rows[0].clone());
    let refused = square.prove(&other);
    assert!(matches!(refused, Err(NamespaceError::Row { error: RowError::OtherNamespace(_), .. })), "{refused:?}");
    let mut swapped = square.answer(namespace(2));
    swapped.rows.swap(0, 1);
    let refused = square.prove(&swapped);
    assert!(matches!(refused, Err(NamespaceError::Row { row: 0, error: RowError::OtherRoot, .. })), "{refused:?}");
    let mut surplus = square.answer(namespace(2));
    surplus.rows.push(surplus.rows[0].clone());
    assert!(matches!(square.prove(&surplus), Err(NamespaceError::SurplusRow { .. })));
    let parity = UnverifiedNamespace { namespace: Namespace::PARITY, rows: Vec::new() };
    assert_eq!(square.prove(&parity), Err(NamespaceError::Reserved { namespace: Namespace::PARITY }));
}

#[test]
fn more_bytes_than_permitted_are_not_put_together() {
    let square = example();
    let answer = square.answer(namespace(2));
    let shares = answer.rows.iter().map(|row| row.shares.len()).sum::<usize>();
    let exact = Limits { namespace_bytes: shares * SHARE_LEN, ..Limits::default() };
    assert!(prove_namespace(&answer, &square.verified(), &exact).is_ok());
    let max = exact.namespace_bytes - 1;
    let refused = prove_namespace(&answer, &square.verified(), &Limits { namespace_bytes: max, ..exact });
    assert_eq!(refused, Err(NamespaceError::TooLarge { namespace: namespace(2), max }));
}

#[test]
fn a_sequence_that_is_no_blob_is_passed_over_and_the_next_is_read() {
    let ours = namespace(2);
    let share = |info: u8, rest: &[u8]| {
        let mut share = [ours.as_bytes(), &[info][..], rest].concat();
        share.resize(SHARE_LEN, 7);
        share
    };
    let blob = share(1, &[0, 0, 0, 2, b'o', b'k']);
    let shares = vec![
        share(0, b"continues nothing"),
        share(0, b"nor this"),
        blob.clone(),
        // Version 9, with a continuation.
        share(9 << 1 | 1, &[0, 0, 2, 0]),
        share(9 << 1, &[]),
        blob.clone(),
        // 4 GiB are claimed, two shares are there; a signed one cannot go on with an unsigned one.
        share(1, &[255, 255, 255, 255]),
        share(0, &[]),
        share(1 << 1 | 1, &[0, 0, 4, 0]),
        share(0, &[]),
        blob,
        share(0, b"more than the blob has"),
    ];
    let square = Square::of_shares(shares);
    let found = square.prove(&square.answer(ours)).expect("it is all there");
    assert_eq!(found.blobs, [b"ok".as_slice(), b"ok", b"ok"]);
    let expected = [
        BadSequence::NoBeginning { share: 0 },
        BadSequence::UnknownVersion { share: 3, version: 9 },
        BadSequence::CutShort { share: 6, length: u32::MAX, found: 478 + 482 },
        BadSequence::CutShort { share: 8, length: 1_024, found: 458 },
        BadSequence::NoBeginning { share: 9 },
        BadSequence::NoBeginning { share: 11 },
    ];
    assert_eq!(found.unreadable, expected);
}

fn blobs() -> impl Strategy<Value = Vec<Laid>> {
    let blob = (0..6_u8, 1..3_000_usize, any::<u8>(), any::<bool>(), 0..3_usize).prop_map(
        |(namespace, length, byte, is_signed, padding)| {
            let data = (0..251).map(|step| byte.wrapping_add(step)).cycle().take(length).collect();
            Laid { namespace: 2 * namespace + 1, data, is_signed, padding }
        },
    );
    vec(blob, 0..8)
}

/// One change to an answer.
#[derive(Clone, Copy, Debug)]
enum Change {
    DropRow,
    RepeatRow,
    SwapRows,
    DropShare,
    SwapShares,
    RepeatShare,
    ShareByte,
    DropNode,
    RepeatNode,
    SwapNodes,
    NodeByte,
    Shift,
    Shorten,
    /// A genuine proof of fewer shares.
    Narrow,
    ForgetShares,
    ClaimAbsence,
    ForgetAbsence,
    AbsenceByte,
    OtherNamespace,
}

const CHANGES: [Change; 19] = [
    Change::DropRow,
    Change::RepeatRow,
    Change::SwapRows,
    Change::DropShare,
    Change::SwapShares,
    Change::RepeatShare,
    Change::ShareByte,
    Change::DropNode,
    Change::RepeatNode,
    Change::SwapNodes,
    Change::NodeByte,
    Change::Shift,
    Change::Shorten,
    Change::Narrow,
    Change::ForgetShares,
    Change::ClaimAbsence,
    Change::ForgetAbsence,
    Change::AbsenceByte,
    Change::OtherNamespace,
];

/// Changes the answer at a place that `place` chooses, if it can be changed so.
fn change(square: &Square, answer: &mut UnverifiedNamespace, change: Change, place: Index, bit: u8) {
    let namespace = answer.namespace;
    if let Change::OtherNamespace = change {
        let mut bytes = *namespace.as_bytes();
        bytes[28] ^= 1 << (bit % 8);
        answer.namespace = Namespace::from_bytes(bytes);
        return;
    }
    if answer.rows.is_empty() {
        return;
    }
    let (rows, index) = (answer.rows.len(), place.index(answer.rows.len()));
    let flip = |node: &mut NamespacedHash| {
        let mut bytes = *node.as_bytes();
        bytes[place.index(90)] ^= 1 << (bit % 8);
        *node = NamespacedHash::from_bytes(bytes);
    };
    let row = &mut answer.rows[index];
    let (shares, nodes) = (row.shares.len(), row.proof.nodes.len());
    match change {
        Change::DropRow => {
            answer.rows.remove(index);
        }
        Change::RepeatRow => answer.rows.insert(index, answer.rows[index].clone()),
        Change::SwapRows => answer.rows.swap(index, rows - 1),
        Change::DropShare if shares > 0 => {
            row.shares.remove(place.index(shares));
        }
        Change::SwapShares if shares > 1 => row.shares.swap(place.index(shares - 1), shares - 1),
        Change::RepeatShare if shares > 0 => row.shares.push(row.shares[place.index(shares)].clone()),
        Change::ShareByte if shares > 0 => {
            let share = &mut row.shares[place.index(shares)];
            let mut bytes = share.to_vec();
            bytes[place.index(SHARE_LEN)] ^= 1 << (bit % 8);
            *share = bytes.into();
        }
        Change::DropNode if nodes > 0 => {
            row.proof.nodes.remove(place.index(nodes));
        }
        Change::RepeatNode if nodes > 0 => row.proof.nodes.push(row.proof.nodes[place.index(nodes)]),
        Change::SwapNodes if nodes > 1 => row.proof.nodes.swap(place.index(nodes - 1), nodes - 1),
        Change::NodeByte if nodes > 0 => flip(&mut row.proof.nodes[place.index(nodes)]),
        Change::Shift => {
            row.proof.start = row.proof.start.wrapping_add(u32::from(bit));
            row.proof.end = row.proof.end.wrapping_add(u32::from(bit));
        }
        Change::Shorten => row.proof.end = row.proof.end.wrapping_sub(u32::from(bit)),
        Change::Narrow if shares > 1 => {
            let row_index = square.header.rows_covering(&namespace).nth(index).expect("a row").0;
            let mut tree = square.extended.row_nmt(u16::try_from(row_index).expect("a row")).expect("a row");
            let cut = 1 + place.index(shares - 1);
            let (start, end) = (row.proof.start as usize, row.proof.end as usize);
            let columns = if bit.is_multiple_of(2) { start + cut..end } else { start..end - cut };
            let (shares, genuine) = tree.get_range_with_proof(columns);
            row.shares = shares.into_iter().map(Bytes::from).collect();
            row.proof = proof(&NamespaceProof::from(genuine));
        }
        Change::ForgetShares => row.shares.clear(),
        Change::ClaimAbsence if shares > 0 => {
            // The share behind the last one, by a genuine proof: it follows, but the wrong ones stand before it.
            let row_index = square.header.rows_covering(&namespace).nth(index).expect("a row").0;
            let mut tree = square.extended.row_nmt(u16::try_from(row_index).expect("a row")).expect("a row");
            let at = if bit.is_multiple_of(2) { row.proof.end as usize } else { row.proof.start as usize };
            let leaf = tree.leaves()[at].hash().clone();
            let (_, mut genuine) = tree.get_range_with_proof(at..at + 1);
            genuine.convert_to_absence_proof(leaf);
            row.shares.clear();
            row.proof = proof(&NamespaceProof::from(genuine));
        }
        Change::ForgetAbsence => row.proof.absence = None,
        Change::AbsenceByte => {
            if let Some(node) = &mut row.proof.absence {
                flip(node);
            }
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn every_namespace_of_a_random_square_is_proven_whole(blobs in blobs()) {
        let square = Square::new(&blobs);
        prop_assert_eq!(square.header.hash(), square.data_hash);
        for number in 0..14 {
            let answer = square.answer(namespace(number));
            let found = square.prove(&answer);
            prop_assert!(found.is_ok(), "namespace {}: {:?}", number, found);
            let expected: Vec<&[u8]> =
                blobs.iter().filter(|blob| blob.namespace == number).map(|blob| blob.data.as_slice()).collect();
            prop_assert_eq!(&found.expect("checked").blobs, &expected);
            prop_assert_eq!(square.their_verdict(&answer), Some(true));
        }
    }

    #[test]
    fn every_change_of_an_honest_answer_is_refused(
        blobs in blobs(),
        number in 0..12_u8,
        place in any::<Index>(),
        bit in 1..=u8::MAX,
    ) {
        let square = Square::new(&blobs);
        let honest = square.answer(namespace(number));
        for chosen in CHANGES {
            let mut answer = honest.clone();
            change(&square, &mut answer, chosen, place, bit);
            let verdict = square.prove(&answer);
            match &verdict {
                _ if answer == honest => prop_assert!(verdict.is_ok()),
                // The same proof may answer for another namespace: if there is nothing of it, as the square says.
                Ok(found) if found.namespace != honest.namespace => {
                    prop_assert!(found.blobs.is_empty());
                    let rows = square.answer(found.namespace).rows;
                    prop_assert!(rows.iter().all(|row| row.shares.is_empty()));
                }
                Ok(_) => prop_assert!(false, "{:?} of {:?} was accepted", chosen, honest),
                Err(_) => {}
            }
            if verdict.is_ok() {
                prop_assert_ne!(square.their_verdict(&answer), Some(false), "the library refuses {:?}", answer);
            }
        }
    }

    #[test]
    fn no_answer_makes_the_check_panic(
        rows in vec((vec(any::<u8>(), 0..3), any::<u32>(), any::<u32>(), vec(any::<[u8; 32]>(), 0..6), any::<bool>()), 0..4),
    ) {
        let square = example();
        let node = |bytes: &[u8; 32]| {
            let mut node = [0; 90];
            node[28] = bytes[0];
            node[57] = bytes[1];
            node[58..].copy_from_slice(bytes);
            NamespacedHash::from_bytes(node)
        };
        let rows = rows.iter().map(|(shares, start, end, nodes, is_absent)| UnverifiedRow {
            shares: shares.iter().map(|byte| Bytes::from(vec![*byte; usize::from(*byte) * 4])).collect(),
            proof: RowProof {
                start: *start % 20,
                end: if *start % 3 == 0 { *end } else { *end % 20 },
                nodes: nodes.iter().map(node).collect(),
                absence: is_absent.then(|| nodes.first().map(node)).flatten(),
            },
        });
        let answer = UnverifiedNamespace { namespace: namespace(2), rows: rows.collect() };
        prop_assert!(square.prove(&answer).is_err());
    }
}
