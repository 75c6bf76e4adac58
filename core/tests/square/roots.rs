//! The roots of a square, and the nodes that they are made of.

use downbeat_core::{
    Limits,
    celestia::{
        Namespace,
        square::{DataAvailabilityHeader, HeaderError, NamespacedHash, NodeError, SHARE_LEN},
    },
};

use super::{example, namespace};

#[test]
fn roots_that_are_not_those_of_the_block_are_refused() {
    let square = example();
    let limits = Limits::default();
    let changed = |change: &dyn Fn(&mut DataAvailabilityHeader)| {
        let mut header = square.header.clone();
        change(&mut header);
        header.verify(&square.data_hash, &limits).map(|_| ())
    };
    assert_eq!(changed(&|_| {}), Ok(()));
    assert!(matches!(changed(&|header| header.row_roots.swap(0, 1)), Err(HeaderError::OtherDataHash { .. })));
    assert!(matches!(changed(&|header| header.column_roots.reverse()), Err(HeaderError::OtherDataHash { .. })));
    let no_square = changed(&|header| header.row_roots.truncate(3));
    assert!(matches!(no_square, Err(HeaderError::NotASquare { rows: 3, .. })), "{no_square:?}");
    // The same roots in the same order, but other ones called rows.
    let moved = changed(&|header| header.column_roots.insert(0, header.row_roots.pop().expect("a row")));
    assert!(matches!(moved, Err(HeaderError::NotASquare { .. })), "{moved:?}");
    let none = DataAvailabilityHeader { row_roots: Vec::new(), column_roots: Vec::new() };
    assert_eq!(none.verify(&[0; 32], &limits), Err(HeaderError::NotASquare { rows: 0, columns: 0 }));
    let width = square.header.width();
    let exact = Limits { square_width: width, ..limits.clone() };
    assert!(square.header.clone().verify(&square.data_hash, &exact).is_ok());
    let small = Limits { square_width: width - 1, ..limits.clone() };
    let refused = square.header.clone().verify(&square.data_hash, &small);
    assert_eq!(refused, Err(HeaderError::TooLarge { actual: width, max: width - 1 }));
}

#[test]
fn roots_that_make_no_square_are_refused_although_the_block_commits_to_them() {
    let square = example();
    let roots = [&square.header.row_roots[..], &square.header.column_roots].concat();
    // As many rows as a square may have, but not as many columns; as many of both, but no power of two; one share.
    for (rows, columns) in [(4, roots.len() - 4), (2, 6), (8, 2), (6, 6), (3, 3), (1, 1)] {
        let header = DataAvailabilityHeader {
            row_roots: roots[..rows].to_vec(),
            column_roots: roots[rows..][..columns].to_vec(),
        };
        let data_hash = header.hash();
        let refused = header.verify(&data_hash, &Limits::default());
        assert_eq!(refused, Err(HeaderError::NotASquare { rows, columns }));
    }
}

#[test]
fn nodes_whose_namespaces_are_out_of_order_have_no_node_above_them() {
    let share = |number: u8| NamespacedHash::of_share(&namespace(number), &[number; SHARE_LEN]);
    let above = NamespacedHash::above(&share(1), &share(3)).expect("in order");
    assert_eq!((above.lowest(), above.highest()), (namespace(1), namespace(3)));
    assert_eq!(NamespacedHash::above(&share(3), &share(1)), Err(NodeError::Unordered));
    let mut bytes = *above.as_bytes();
    bytes[..2 * Namespace::LEN].rotate_left(Namespace::LEN);
    let reversed = NamespacedHash::from_bytes(bytes);
    assert_eq!(NamespacedHash::above(&share(1), &reversed), Err(NodeError::EmptyRange));
    assert_eq!(NamespacedHash::above(&reversed, &share(4)), Err(NodeError::EmptyRange));
}
