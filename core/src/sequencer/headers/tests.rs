use super::*;
use crate::{ids::CommandId, light::Trust, testing::block};

#[test]
fn data_items_that_one_cell_has_used_are_not_kept_because_another_is_behind() {
    let (behind, ahead) = (SequencerHeight(10), SequencerHeight(500));
    let mut headers = Headers::default();
    let fetched = || Transactions { content: Some(Content::Items(Vec::new())), ..Transactions::default() };
    headers.transactions.extend((490..=500).map(|height| (SequencerHeight(height), fetched())));
    headers.transactions.insert(SequencerHeight(8), Transactions::default());
    headers.transactions.insert(SequencerHeight(9), Transactions::default());
    headers.transactions.insert(SequencerHeight(11), Transactions::default());
    let asked = CommandId { incarnation: 1, ordinal: 1 };
    headers.transactions.entry(SequencerHeight(9)).or_default().attempt.started(asked);
    headers.forget_passed(&[behind, ahead]);
    let kept: Vec<u64> = headers.transactions.keys().map(|height| height.0).collect();
    assert_eq!(kept, [9, 11, 500], "what is on its way, and what is needed next");
}

#[test]
fn what_peers_have_shown_stays_until_firm_has_passed_and_the_highest_makes_room() {
    let mut headers = Headers::default();
    let digest = block(4, &[]).bound_content();
    let next = [SequencerHeight(10), SequencerHeight(40)];
    let limits = Limits { trusted_headers: 4, ..Limits::default() };
    for height in [10, 11, 40, 13, 12] {
        headers.content_shown(SequencerHeight(height), digest, &next, &limits);
    }
    let kept = |headers: &Headers| headers.transactions.keys().map(|height| height.0).collect::<Vec<_>>();
    assert_eq!(kept(&headers), [10, 11, 12, 40], "what is needed next is never in the way");
    headers.forget_passed(&[SequencerHeight(12), SequencerHeight(41)]);
    assert_eq!(kept(&headers), [12, 40]);
    // What a node was asked for takes the place of nothing, and nothing takes its place.
    let asked = SequencerHeight(12);
    headers.transactions.insert(asked, Transactions::default());
    assert!(headers.lacks_content(asked) && headers.without_content(asked).eq([asked]));
    headers.content_shown(asked, digest, &next, &limits);
    assert_eq!((headers.content(asked), headers.items(asked)), (Some(&Content::Bound(digest)), None));
}

fn heights(heights: impl IntoIterator<Item = u64>) -> BTreeSet<SequencerHeight> {
    heights.into_iter().map(SequencerHeight).collect()
}

fn trusting(trusted: impl IntoIterator<Item = u64>) -> Headers {
    let trusted = trusted.into_iter().map(|height| (SequencerHeight(height), block(height, &[]).trusted()));
    Headers { trusted: trusted.collect(), ..Headers::default() }
}

fn in_order(heights: &BTreeSet<SequencerHeight>) -> Vec<SequencerHeight> {
    heights.iter().copied().collect()
}

/// Commits and links for the wanted heights.
fn routes(headers: &Headers, wanted: &BTreeSet<SequencerHeight>, urgent: bool) -> (Vec<u64>, Vec<(u64, u64)>) {
    let Routes { commits, links, .. } = headers.routes(&in_order(wanted), |_| urgent, Timestamp(5));
    let links = links.into_iter().map(|(anchor, first)| (anchor.0, first.0));
    (commits.into_iter().map(|height| height.0).collect(), links.collect())
}

#[test]
fn one_commit_is_fetched_for_each_full_stretch_of_headers() {
    let none = Headers::default();
    // That many headers are linked to one commit.
    assert_eq!(SPAN, 120);
    assert_eq!(routes(&none, &heights(10..=129), false), (vec![], vec![]), "not full, and not urgent");
    assert_eq!(routes(&none, &heights(10..=130), false), (vec![130], vec![]));
    assert_eq!(routes(&none, &heights(10..=129), true), (vec![129], vec![]));
    assert_eq!(routes(&none, &heights(10..=260), true), (vec![130, 251, 260], vec![]));
    assert_eq!(routes(&none, &heights([10, 131]), true), (vec![10, 131], vec![]), "too far apart");
}

#[test]
fn what_lies_below_a_trusted_header_is_linked_to_it() {
    let headers = trusting([30, 45]);
    assert_eq!(routes(&headers, &heights([12, 29]), false), (vec![], vec![(30, 12)]));
    assert_eq!(routes(&headers, &heights([10, 29, 31]), false), (vec![], vec![(30, 10), (45, 31)]));
    assert_eq!(routes(&headers, &heights([46]), true), (vec![46], vec![]), "above all that is trusted");
}

#[test]
fn what_lies_far_below_a_trusted_header_is_linked_to_it_in_steps_of_one_answer() {
    let mut headers = trusting([130]);
    for (anchor, first) in [(130, 110), (110, 90), (90, 70), (70, 50), (50, 30), (30, 10)] {
        assert_eq!(routes(&headers, &heights(10..anchor), false), (vec![], vec![(anchor, first)]));
        let linked: Vec<_> = (first..anchor).map(|height| block(height, &[]).trusted()).collect();
        headers.linked(SequencerHeight(anchor), &linked);
    }
    assert_eq!(routes(&trusting([130]), &heights([9]), true), (vec![9], vec![]), "out of its reach");
}

#[test]
fn a_stretch_whose_commit_is_on_its_way_is_not_taken_apart_and_one_that_fails_does_not_hold_up_its_beginning() {
    let mut headers = Headers::default();
    headers.wanted.insert(SequencerHeight(20), Want::default());
    assert_eq!(routes(&headers, &heights(10..=20), false), (vec![20], vec![]));
    for tries in [vec![20], vec![10, 20], vec![10, 20]] {
        let want = headers.wanted.get_mut(&SequencerHeight(20)).expect("wanted");
        want.attempt.failed(Timestamp(5), Duration::ZERO);
        assert_eq!(routes(&headers, &heights(10..=20), false).0, tries);
    }
}

#[test]
fn a_header_that_failed_is_not_asked_for_again_at_once_because_nobody_wanted_it_in_between() {
    let mut headers = Headers::default();
    let (failed, other) = (SequencerHeight(54), SequencerHeight(7));
    let room = |_| 1;
    assert_eq!(headers.admit(&heights([54]), Timestamp(0), room), [failed]);
    headers.wanted.get_mut(&failed).expect("admitted").attempt.failed(Timestamp(0), Duration::from_nanos(10));
    assert_eq!(headers.admit(&heights([7]), Timestamp(1), room), [other], "takes up no room");
    assert_eq!(headers.admit(&heights([54]), Timestamp(9), room), [failed]);
    let attempt = &headers.wanted.get(&failed).expect("admitted").attempt;
    assert_eq!((attempt.failures(), attempt.due()), (1, Some(Timestamp(10))));
    assert_eq!(headers.admit(&heights([]), Timestamp(10), room), []);
    assert!(headers.wanted.is_empty(), "and is forgotten then");
}

#[test]
fn the_header_that_trust_begins_with_is_chosen_anew_when_a_back_off_ends_and_not_one_event_later() {
    let mut limits = Limits::default();
    limits.trust.level = Trust::Consensus;
    let mut headers = Headers::new(Trusting::restored(&limits, &[]));
    let (first, top) = (SequencerHeight(10), SequencerHeight(20));
    let wanted = in_order(&heights(10..=20));
    // The head is not known to be as high as what is needed: of each stretch the top is asked for.
    let plan = |headers: &mut Headers, now| {
        let routes = headers.routes(&wanted, |_| true, Timestamp(now));
        let routes = headers.through_trust(routes, &[first], None, |_| false, Timestamp(now));
        headers.admit(&routes.commits, Timestamp(now), |_| 1)
    };
    for _ in 0..LINKS_FAILED_MAX {
        assert_eq!(plan(&mut headers, 0), [top]);
        headers.wanted.get_mut(&top).expect("admitted").attempt.failed(Timestamp(0), Duration::from_nanos(10));
    }
    assert_eq!(plan(&mut headers, 0), [first], "the top does not come");
    assert_eq!(plan(&mut headers, 9), [first]);
    headers.wanted.get_mut(&first).expect("admitted").attempt.failed(Timestamp(9), Duration::from_nanos(10));
    assert_eq!(plan(&mut headers, 10), [top], "the first may be gone for good");
    assert_eq!(plan(&mut headers, 10), [top], "nothing has happened since");
    let attempt = &headers.wanted[&top].attempt;
    assert_eq!(attempt.failures(), LINKS_FAILED_MAX, "it waits longer when it fails again");
    // Its answer is not thrown away for what failed before.
    let want = headers.wanted.get_mut(&top).expect("admitted");
    want.attempt.started(CommandId { incarnation: 1, ordinal: 1 });
    assert_eq!(plan(&mut headers, 11), [top]);
    let want = headers.wanted.get_mut(&top).expect("on its way");
    want.attempt.answered(Timestamp(12));
    want.stage = Stage::Validators(Box::new(block(20, &[]).signed));
    assert_eq!(plan(&mut headers, 12), [top]);
    assert!(matches!(headers.wanted[&top].stage, Stage::Validators(_)));
}

#[test]
fn a_header_is_asked_from_a_node_that_says_to_have_it() {
    let (honest, ahead, silent) = (Node(0), Node(1), Node(2));
    let mut limits = Limits::default();
    limits.trust.nodes = 3;
    let height = SequencerHeight(10);
    let mut headers = Headers::default();
    headers.claimed(honest, SequencerHeight(9), Timestamp(1));
    assert_eq!(
        headers.whom(height, &Attempt::default(), Node(0), &limits),
        honest,
        "nobody has it, nobody else is asked"
    );
    headers.claimed(ahead, SequencerHeight(60), Timestamp(1));
    assert_eq!(headers.whom(height, &Attempt::default(), Node(0), &limits), ahead);
    headers.wanted.insert(height, Want { node: ahead, ..Want::default() });
    let want = headers.wanted.get_mut(&height).expect("wanted");
    want.attempt.failed(Timestamp(2), Duration::from_secs(10));
    assert_eq!(
        headers.whom(height, &headers.wanted[&height].attempt, ahead, &limits),
        ahead,
        "the only one that says to have it"
    );
    headers.claimed(honest, height, Timestamp(3));
    assert_eq!(headers.wanted[&height].attempt.due(), Some(Timestamp(3)), "at once");
    assert_eq!(headers.whom(height, &headers.wanted[&height].attempt, ahead, &limits), honest);
    headers.claimed(silent, height, Timestamp(3));
    let asked_before = |asked| headers.whom(height, &headers.wanted[&height].attempt, asked, &limits);
    assert_eq!([honest, ahead, silent].map(asked_before), [ahead, silent, honest], "the one behind that which failed");
    assert_eq!(headers.whom(height, &Attempt::default(), silent, &limits), honest, "it has not failed there");
    headers.give_up_on(ahead, &limits);
    assert_eq!(headers.node, honest, "another one is asked already");
    headers.give_up_on(honest, &limits);
    assert_eq!(headers.node, ahead);
    headers.node = honest;
    headers.claimed(honest, SequencerHeight(4), Timestamp(4));
    headers.claimed(silent, SequencerHeight(4), Timestamp(4));
    assert_eq!(headers.whom(height, &Attempt::default(), Node(0), &limits), honest, "what was said is not taken back");
}

#[test]
fn links_that_fail_twice_in_a_row_rest_for_a_minute() {
    let mut headers = trusting([30]);
    let wanted = heights([28, 29]);
    headers.links_failed(Timestamp(1));
    headers.linked(SequencerHeight(31), &[]);
    headers.links_failed(Timestamp(2));
    assert_eq!(routes(&headers, &wanted, false), (vec![], vec![(30, 28)]), "a success came between");
    headers.links_failed(Timestamp(3));
    assert_eq!(routes(&headers, &wanted, false), (vec![28, 29], vec![]), "each one by its own commit");
    let then = Timestamp(3).after(LINKS_PAUSE);
    assert_eq!(headers.routes(&in_order(&wanted), |_| false, then).links.len(), 1);
    headers.links_failed(then);
    assert_eq!(headers.routes(&in_order(&wanted), |_| false, then).links.len(), 1, "counted afresh");
}

#[test]
fn links_that_failed_are_not_asked_for_again_at_once_because_nobody_wanted_them_in_between() {
    let mut headers = trusting([30]);
    let (anchor, nothing) = (SequencerHeight(30), BTreeMap::new());
    headers.links.entry(anchor).or_default().attempt.failed(Timestamp(0), Duration::from_nanos(10));
    headers.keep_links(&nothing, Timestamp(9));
    assert_eq!(headers.links[&anchor].attempt.failures(), 1);
    headers.keep_links(&BTreeMap::from([(anchor, SequencerHeight(20))]), Timestamp(10));
    assert_eq!(headers.links.len(), 1, "wanted, and due");
    headers.keep_links(&nothing, Timestamp(10));
    assert!(headers.links.is_empty());
}

#[test]
fn linked_headers_are_trusted_and_their_anchor_is_not_asked_again() {
    let mut headers = trusting([30]);
    headers.links.insert(SequencerHeight(30), Links::default());
    headers.linked(SequencerHeight(30), &[block(28, &[]).trusted(), block(29, &[]).trusted()]);
    assert!(headers.links.is_empty() && headers.trusted(SequencerHeight(28)).is_some());
    assert_eq!(headers.all_trusted().len(), 3);
}

#[test]
fn the_farthest_headers_go_first_and_never_one_that_is_needed_next() {
    let mut headers = trusting(10..=19);
    let next = heights([12, 19]);
    let limits = |trusted_headers| Limits { trusted_headers, ..Limits::default() };
    headers.make_room(&in_order(&next), &limits(10));
    assert_eq!(headers.all_trusted().len(), 10, "as many as may be kept");
    headers.make_room(&in_order(&next), &limits(4));
    // What was passed goes before what is ahead.
    assert_eq!(headers.trusted.keys().copied().collect::<BTreeSet<_>>(), heights([12, 13, 14, 19]));
    headers.make_room(&in_order(&next), &limits(0));
    assert_eq!(headers.trusted.keys().copied().collect::<BTreeSet<_>>(), next);
    headers.forget_passed(&[SequencerHeight(19)]);
    assert_eq!(headers.trusted.keys().copied().collect::<BTreeSet<_>>(), heights([19]));
    headers.forget_passed(&[]);
    assert_eq!(headers.all_trusted().len(), 1, "nobody follows firm: nothing is known to be passed");

    let mut headers = trusting([12, 20, 1_000, 1_001]);
    headers.make_room(&in_order(&heights([12, 1_000])), &limits(3));
    assert!(!headers.trusted.contains_key(&SequencerHeight(20)), "eight above what is needed, not one");
}

#[test]
fn what_the_light_client_has_is_recalled_as_far_as_there_is_room_and_what_is_needed_next_always() {
    let mut limits = Limits::default();
    limits.trust.level = Trust::Consensus;
    let recalled = |trusted_headers| {
        let mut headers = Headers::new(Trusting::restored(&limits, &[]));
        let trusting = headers.trusting.as_mut().expect("with trust in consensus");
        for height in 10..=12 {
            trusting.client.accept(&block(height, &[]).light());
        }
        let wanted = in_order(&heights(9..=12));
        let recalled = headers.recall(&wanted, &[SequencerHeight(11)], &Limits { trusted_headers, ..limits.clone() });
        assert_eq!(in_order(&headers.trusted.keys().copied().collect()), recalled);
        recalled.into_iter().map(|height| height.0).collect::<Vec<_>>()
    };
    assert_eq!(recalled(1), [10, 11]);
    assert_eq!(recalled(2), [10, 11]);
    assert_eq!(recalled(3), [10, 11, 12]);
}

#[test]
fn a_header_that_would_have_to_go_at_once_is_not_got() {
    let headers = trusting([11, 12, 13]);
    let limits = Limits { trusted_headers: 5, ..Limits::default() };
    let fitting = |wanted: BTreeSet<_>, next: &BTreeSet<_>| -> BTreeSet<_> {
        headers.fitting(in_order(&wanted), &in_order(next), &limits).into_iter().collect()
    };
    let next = heights([10]);
    assert_eq!(fitting(heights([10, 14]), &next), heights([10, 14]), "as many as may be kept");
    assert_eq!(fitting(heights([10, 14, 15, 30]), &next), heights([10, 14]));
    assert_eq!(fitting(heights([10]), &next), heights([10]));
    // What is needed next is got in any case, and what was passed makes room.
    let next = heights([10, 20, 21, 22, 23, 24]);
    assert_eq!(fitting(next.clone(), &next), next);
    assert_eq!(fitting(heights([14, 15, 16, 17, 18, 19]), &heights([14])), heights([14, 15, 16, 17, 18]));
    // Nor is more than that got before anything is trusted.
    let all = in_order(&heights(10..=15));
    assert_eq!(Headers::default().fitting(all.clone(), &all[..1], &limits), all[..5]);
}

#[test]
fn a_height_is_settled_when_nothing_about_it_is_on_its_way() {
    let (height, other) = (SequencerHeight(10), SequencerHeight(11));
    let mut headers = trusting([10]);
    assert!(headers.is_settled(height) && !headers.is_settled(other));
    assert_eq!(headers.evidence(height), Evidence { header: true, content: false });
    assert_eq!(headers.evidence(other), Evidence::default());
    headers.transactions.insert(height, Transactions::default());
    assert!(!headers.is_settled(height), "data items are on their way");
    assert!(headers.lacks_content(height) && !headers.lacks_content(other));
    assert!(!headers.evidence(height).content && headers.known_contents(height, other).is_empty());
    let fetched = |content: &Content| Transactions { content: Some(content.clone()), ..Transactions::default() };
    let content = Content::Items(vec![Bytes::from_static(b"item")]);
    headers.transactions.insert(height, fetched(&content));
    headers.transactions.insert(SequencerHeight(12), fetched(&content));
    assert!(headers.is_settled(height) && headers.evidence(height).content);
    assert_eq!(headers.known_contents(height, other), BTreeMap::from([(height, content)]));
}

#[test]
fn validator_sets_that_signed_are_kept_the_latest_of_them() {
    let limits = Limits { validator_sets: 2, ..Limits::default() };
    let made = block(10, &[]);
    let set = |power: u32| {
        let info = validator::Info::new(made.validators[0].pub_key, power.into());
        Arc::new(ValidatorSet::new(vec![info], 1).expect("a set"))
    };
    let mut headers = Headers::default();
    headers.wanted.insert(made.height(), Want::default());
    for power in [1, 2, 2, 1, 3] {
        headers.verified(made.trusted(), set(power), &limits);
    }
    assert!(headers.wanted.is_empty() && headers.trusted(made.height()).is_some());
    assert_eq!(headers.sets(), 2);
    assert!(headers.set(&set(1).hash()).is_none(), "the oldest went");
    assert_eq!(headers.set(&set(3).hash()).map(|set| set.total_power()), Some(3));
}

#[test]
fn a_set_is_fetched_once_for_all_headers_that_name_it() {
    let made = block(10, &[]);
    let hash = validators_hash(&made.signed).expect("32 bytes");
    let mut headers = Headers::default();
    let stage = Stage::Validators(Box::new(made.signed.clone()));
    headers.wanted.insert(made.height(), Want { stage, ..Want::default() });
    assert!(!headers.is_fetching_set(&hash), "it was not asked for yet");
    let want = headers.wanted.get_mut(&made.height()).expect("wanted");
    want.attempt.started(CommandId { incarnation: 1, ordinal: 1 });
    assert!(headers.is_fetching_set(&hash) && !headers.is_fetching_set(&[0; 32]));
    headers.wanted.get_mut(&made.height()).expect("wanted").stage = Stage::Header;
    assert!(!headers.is_fetching_set(&hash), "the header itself is asked for");
}

#[test]
fn a_node_that_did_not_show_what_it_said_to_have_counts_no_more_until_it_says_so_again() {
    let mut headers = Headers::default();
    headers.claimed(Node(0), SequencerHeight(9), Timestamp(1));
    headers.claimed(Node(1), SequencerHeight(20), Timestamp(1));
    headers.doubt(Node(1), SequencerHeight(21));
    assert_eq!(headers.head(), Some(SequencerHeight(20)), "it never said to have that");
    headers.doubt(Node(1), SequencerHeight(20));
    assert_eq!(headers.head(), Some(SequencerHeight(9)));
    headers.claimed(Node(1), SequencerHeight(20), Timestamp(2));
    assert_eq!(headers.head(), Some(SequencerHeight(20)));
}

#[test]
fn what_waits_is_asked_at_once_of_a_node_that_says_to_have_it_unless_it_is_on_its_way_or_failed_there() {
    let waits = |node: Node, stage: Stage, in_flight: bool| {
        let mut headers = Headers::default();
        let mut attempt = Attempt::default();
        attempt.failed(Timestamp(1), Duration::from_secs(10));
        if in_flight {
            attempt.started(CommandId { incarnation: 1, ordinal: 1 });
        }
        let height = SequencerHeight(10);
        headers.wanted.insert(height, Want { attempt, stage, node });
        headers.claimed(Node(1), height, Timestamp(3));
        headers.wanted[&height].attempt.due()
    };
    let later = Some(Timestamp(1).after(Duration::from_secs(10)));
    assert_eq!(waits(Node(0), Stage::Header, false), Some(Timestamp(3)));
    assert_eq!(waits(Node(1), Stage::Header, false), later, "it was asked already");
    assert_eq!(waits(Node(0), Stage::Verifying, false), later);
    assert_eq!(waits(Node(0), Stage::Header, true), None);
}

#[test]
fn headers_to_link_others_to_are_kept_in_bounds_and_the_lowest_stays() {
    let mut headers = Headers::default();
    let next = heights([10]);
    let header = block(10, &[]).trusted();
    let far = 10 + WAYPOINTS_NEAR;
    let fill = |headers: &mut Headers, count: usize| {
        headers.waypoints.extend((far..).take(count).map(|height| (SequencerHeight(height), header.clone())));
    };
    fill(&mut headers, WAYPOINTS);
    headers.make_room(&in_order(&next), &Limits::default());
    assert_eq!(headers.waypoints(), (WAYPOINTS, WAYPOINTS), "as many as may be kept");
    fill(&mut headers, WAYPOINTS + 1);
    headers.make_room(&in_order(&next), &Limits::default());
    assert_eq!(headers.waypoints(), (WAYPOINTS / 2 + 1, WAYPOINTS), "every other one");
    assert!(headers.waypoints.contains_key(&SequencerHeight(far)));
    fill(&mut headers, 4 * WAYPOINTS);
    headers.make_room(&in_order(&next), &Limits::default());
    assert_eq!(headers.waypoints(), (WAYPOINTS, WAYPOINTS));
}
