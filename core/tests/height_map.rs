//! The height map against plain arithmetic in wide integers (S7).

use downbeat_core::{RollupNumber, SequencerHeight, cell::HeightMap};
use proptest::prelude::*;

/// Values where counters break, and everything between.
fn edge() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 2, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX];
    prop_oneof![proptest::sample::select(edges.to_vec()), any::<u64>(), 0_u64..1_000]
}

proptest! {
    #[test]
    fn a_number_has_the_height_that_arithmetic_gives_or_none(s0 in edge(), r0 in edge(), number in edge()) {
        let Ok(map) = HeightMap::new(RollupNumber(r0), SequencerHeight(s0), RollupNumber(0)) else {
            prop_assert!(s0 >= 1 << 63 || r0 == u64::MAX);
            return Ok(());
        };
        let wide = i128::from(s0) + i128::from(number) - i128::from(r0);
        let in_range = number != u64::MAX && i128::from(number) >= i128::from(r0) - 1;
        let expected = (in_range && (0..1 << 63).contains(&wide)).then(|| SequencerHeight(u64::try_from(wide).unwrap()));
        prop_assert_eq!(map.to_sequencer(RollupNumber(number)).ok(), expected);
    }

    #[test]
    fn height_and_number_lead_back_to_each_other(s0 in edge(), r0 in edge(), height in edge()) {
        let Ok(map) = HeightMap::new(RollupNumber(r0), SequencerHeight(s0), RollupNumber(0)) else { return Ok(()) };
        match map.to_rollup(SequencerHeight(height)) {
            Ok(RollupNumber(u64::MAX)) => {}
            Ok(number) => prop_assert_eq!(map.to_sequencer(number), Ok(SequencerHeight(height))),
            Err(_) => prop_assert!(height < s0 || height >= 1 << 63 || r0.checked_add(height - s0).is_none()),
        }
    }

    #[test]
    fn the_next_height_follows_and_is_never_zero(s0 in edge(), r0 in edge(), number in edge()) {
        let Ok(map) = HeightMap::new(RollupNumber(r0), SequencerHeight(s0), RollupNumber(0)) else { return Ok(()) };
        if let Ok(next) = map.next_height(RollupNumber(number)) {
            prop_assert!(next.0 > 0);
            prop_assert_eq!(map.to_rollup(next).ok(), Some(RollupNumber(number + 1)));
        }
    }

    #[test]
    fn a_session_ends_where_its_last_number_says(s0 in 0_u64..1_000, r0 in 0_u64..1_000, length in 1_u64..1_000) {
        let end = r0 + length - 1;
        let map = HeightMap::new(RollupNumber(r0), SequencerHeight(s0), RollupNumber(end));
        if end == 0 {
            prop_assert_eq!(map.unwrap().end_height(), None);
        } else {
            prop_assert_eq!(map.unwrap().end_height(), Some(SequencerHeight(s0 + length - 1)));
        }
    }
}
