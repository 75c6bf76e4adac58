//! What failures, lies and missing data lead to: which reports, which delays, which calls.

use super::*;
use crate::{ids::Node as NodeId, light::RootSetting, testing::block_after_with_items};

#[test]
fn each_failure_is_reported_by_name_and_number_and_tried_again_after_a_growing_delay() {
    type Kind = fn(&Call) -> bool;
    let kinds: [(Kind, &str); 9] = [
        (|call| matches!(call, Call::IdentifySequencer), "sequencer genesis"),
        (|call| matches!(call, Call::FetchSequencerHead), "sequencer head"),
        (|call| matches!(call, Call::FetchCelestiaHead), "celestia head"),
        (is_session, "execution session"),
        (is_soft, "soft block"),
        (is_blobs, "celestia blobs"),
        (|call| matches!(call, Call::FetchSignedHeader { .. }), "sequencer header"),
        (|call| matches!(call, Call::FetchValidators { .. }), "validator set"),
        (is_look_up, "executed block"),
    ];
    for (kind, name) in kinds {
        // With firm beside it, soft is not needed to get on.
        let mode = if name == "soft block" { Mode::SoftOnly } else { Mode::SoftAndFirm };
        let mut desk = Desk::new(mode, 1, Limits::default());
        if name == "executed block" {
            // A new process, before which soft was executed.
            desk.node.soft = 1;
        }
        desk.settle(kind);
        desk.failures();
        let mut full = 100;
        for attempt in 1..=9 {
            desk.fail(kind, FaultClass::Transient);
            let failures = desk.failures();
            let [(what, number, delay)] = failures[..] else { panic!("{name}: {failures:?}") };
            assert_eq!((what, number), (name, attempt));
            assert!((full / 2..=full).contains(&delay), "{name}, try {attempt}: {delay} ms of {full}");
            full = (full * 2).min(10_000);
            // A header is fetched anew before its validators are.
            desk.wait(Duration::from_millis(delay), kind);
            assert!(!desk.calls.values().any(|(_, call)| kind(call)), "{name} too early");
            desk.wait(Duration::from_millis(2), kind);
        }
        desk.settle(nothing);
        desk.wait(seconds(20), nothing);
        assert_eq!(desk.node.soft, 1, "{name}");
    }
}

#[test]
fn what_does_not_exist_yet_is_worth_a_line_only_when_that_goes_on() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    desk.settle(is_soft);
    let mut reported = Vec::new();
    for _ in 0..6 {
        desk.fail(is_soft, FaultClass::NotYet);
        reported.extend(desk.failures().into_iter().map(|(_, attempt, _)| attempt));
        desk.wait(seconds(11), is_soft);
    }
    assert_eq!(reported, [5, 6]);
}

#[test]
fn an_endpoint_of_another_chain_parks_the_cell_and_names_both() {
    for (mode, is_sequencer) in [(Mode::SoftOnly, true), (Mode::FirmOnly, true), (Mode::FirmOnly, false)] {
        let mut desk = Desk::new(mode, 1, Limits::default());
        let is_head = |call: &Call| matches!(call, Call::FetchCelestiaHead);
        let is_genesis = |call: &Call| matches!(call, Call::IdentifySequencer);
        if is_sequencer {
            desk.settle(is_genesis);
            desk.answer(is_genesis, |_, _| Answer::SequencerIdentified { chain_id: "other-1".to_owned() });
        } else {
            desk.settle(is_head);
            desk.answer(is_head, |_, _| {
                let head =
                    CelestiaHead { chain_id: "other-1".to_owned(), height: CelestiaHeight(9), time: Timestamp(1) };
                Answer::CelestiaHeadFetched { head }
            });
        }
        let Some(Exit::AllCellsParked { reason }) = &desk.exit else { panic!("{mode:?} goes on") };
        let expected = if is_sequencer { CHAIN } else { CELESTIA };
        assert!(reason.contains("other-1") && reason.contains(expected), "{reason}");
        assert_eq!((desk.phase(), desk.node.log.len(), desk.conductor.next_deadline()), (Phase::Parked, 0, None));
        assert!(desk.calls.is_empty(), "nothing is waited for any more");
    }
}

#[test]
fn a_celestia_node_that_changes_its_chain_is_not_believed_and_reported() {
    let mut desk = Desk::new(Mode::FirmOnly, 1, Limits::default());
    desk.settle(nothing);
    let is_head = |call: &Call| matches!(call, Call::FetchCelestiaHead);
    desk.wait(seconds(3), is_head);
    desk.failures();
    desk.answer(is_head, |_, _| {
        let head = CelestiaHead { chain_id: "other-1".to_owned(), height: CelestiaHeight(99), time: Timestamp(1) };
        Answer::CelestiaHeadFetched { head }
    });
    assert_eq!(desk.failures(), [("celestia head", 1, 0)]);
    assert_eq!(desk.conductor.status(desk.now).celestia.head, Some(CelestiaHeight(11)));
    assert_eq!(desk.phase(), Phase::Running);
}

#[test]
fn a_chain_id_that_cannot_be_one_is_asked_for_again() {
    let is_genesis = |call: &Call| matches!(call, Call::IdentifySequencer);
    let limits = Limits { text_bytes: CHAIN.len().max(CELESTIA.len()), ..Limits::default() };
    for (chain_id, is_taken) in [("", false), ("sequencer-1+", false), (CHAIN, true)] {
        let mut desk = Desk::new(Mode::SoftOnly, 1, limits.clone());
        desk.settle(is_genesis);
        desk.answer(is_genesis, |_, _| Answer::SequencerIdentified { chain_id: chain_id.to_owned() });
        assert_eq!(desk.conductor.status(desk.now).sequencer.chain_id.is_some(), is_taken, "{chain_id:?}");
        assert_eq!(desk.failures().len(), usize::from(!is_taken));
    }
}

#[test]
fn a_block_that_is_nowhere_in_the_window_is_reported_as_a_gap_once() {
    let mut desk = Desk::new(Mode::FirmOnly, 1, Limits::default());
    desk.chain[1].metadata = desk.chain[0].metadata.clone();
    desk.celestia = 11;
    desk.settle(nothing);
    desk.wait(seconds(20), nothing);
    let gaps = |desk: &Desk| -> Vec<(u64, u64, u64)> {
        let gaps = desk.reports.iter().filter_map(|report| match report {
            Report::Gap { missing, from, to, .. } => Some((missing.0, from.0, to.0)),
            _ => None,
        });
        gaps.collect()
    };
    assert_eq!(gaps(&desk), [], "Celestia may still bring it");
    desk.chain.truncate(2);
    // From 11 the window reaches to 23, and half of that farther when nothing was found.
    desk.celestia = 29;
    for number in 2..=19 {
        desk.chain.push(Made { metadata: desk.chain[0].metadata.clone(), records: vec![], ..block(number + 1, &[]) });
    }
    desk.wait(seconds(60), nothing);
    assert_eq!(gaps(&desk), [], "the head is not beyond the window");
    desk.celestia = 30;
    desk.wait(seconds(60), |call| matches!(call, Call::FetchBlobs { height, .. } if height.0 == 30));
    assert_eq!(gaps(&desk), [(2, 11, 29)]);
    assert!(desk.waits().contains(&Wait::Gap { height: SequencerHeight(2), window_end: CelestiaHeight(29) }));
}

#[test]
fn what_fails_at_one_node_is_asked_of_the_next_and_so_is_all_else() {
    type Kind = fn(&Call) -> bool;
    let kinds: [(Mode, Kind); 4] = [
        (Mode::SoftOnly, |call| matches!(call, Call::IdentifySequencer)),
        (Mode::FirmOnly, |call| matches!(call, Call::FetchSignedHeader { .. })),
        (Mode::FirmOnly, |call| matches!(call, Call::FetchHeaders { .. })),
        (Mode::FirmOnly, |call| matches!(call, Call::FetchBlockTransactions { .. })),
    ];
    for (index, (mode, kind)) in kinds.into_iter().enumerate() {
        let mut desk = Desk::new(mode, 0, Limits { headers_in_flight: 1, ..Limits::default() });
        Arc::make_mut(&mut desk.conductor.limits).trust.nodes = 3;
        for _ in 0..2 {
            desk.chain.push(block_after_with_items(&desk.chain[desk.chain.len() - 1], &[ROLLUP]));
        }
        desk.celestia = 12;
        desk.settle(kind);
        assert_eq!(desk.conductor.headers.node, NodeId(0), "kind {index}");
        desk.fail(kind, FaultClass::Transient);
        assert_eq!(desk.conductor.headers.node, NodeId(1), "kind {index}");
    }
}

#[test]
fn rollup_data_that_stays_away_is_reported_when_all_was_read() {
    let mut desk = Desk::new(Mode::FirmOnly, 1, Limits::default());
    desk.chain[1].records.clear();
    desk.chain.push(Made { metadata: desk.chain[0].metadata.clone(), records: vec![], ..block(3, &[]) });
    desk.celestia = 12;
    let is_last = |call: &Call| matches!(call, Call::FetchBlobs { height: CelestiaHeight(12), .. });
    desk.settle(is_last);
    desk.tell(Event::DeadlineReached).expect("never refused");
    assert!(
        !desk.reports.iter().any(|report| matches!(report, Report::Gap { .. })),
        "they may be in what is on its way"
    );
    desk.settle(nothing);
    desk.wait(seconds(20), nothing);
    let gaps: Vec<_> = desk.reports.iter().filter(|report| matches!(report, Report::Gap { .. })).collect();
    assert!(matches!(gaps[..], [Report::Gap { missing: SequencerHeight(2), reason, .. }] if reason.contains("data")));
    assert!(desk.waits().contains(&Wait::RollupData { height: SequencerHeight(2) }));
}

#[test]
fn input_that_is_refused_is_reported_counted_and_fetched_again() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
    desk.settle(|call| is_soft(call) || is_blobs(call));
    let spoilt = |desk: &mut Desk, call: &Call| match desk.honest(call) {
        Answer::SoftBlockFetched { .. } => {
            Answer::SoftBlockFetched { block: desk.made(0).filtered.encode_to_vec().into() }
        }
        Answer::BlobsFetched { mut blobs, .. } => {
            blobs.push(Blob { namespace: Namespace::of_sequencer(CHAIN), data: Bytes::from_static(b"no blob") });
            Answer::BlobsFetched { blobs, unreadable: 2 }
        }
        other => other,
    };
    desk.answer(is_soft, spoilt);
    desk.answer(is_blobs, spoilt);
    desk.settle(is_soft);
    let mut counted = desk.conductor.status(desk.now).dropped;
    counted.retain(|_, count| *count > 0);
    assert_eq!(counted, BTreeMap::from([(Subject::Blob, 3), (Subject::SoftBlock, 1)]));
    let dropped = desk.reports.iter().filter_map(|report| match report {
        Report::Dropped { what, at, reason } => Some((*what, at.as_str(), reason.is_empty())),
        _ => None,
    });
    let mut dropped: Vec<_> = dropped.collect();
    dropped.sort_unstable();
    assert_eq!(
        dropped,
        [(Subject::Blob, "Celestia height 11", false), (Subject::SoftBlock, "sequencer height 2", false)]
    );
    desk.wait(seconds(5), nothing);
    assert_eq!(desk.heads(), (1, 1));
}

#[test]
fn what_falls_due_with_a_refused_event_is_done_all_the_same() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    let asked: Vec<CommandId> = desk.calls.keys().copied().collect();
    assert!(!asked.is_empty(), "sessions and heads are asked for");
    for id in &asked {
        desk.tell(Event::Failed { id: *id, fault: Fault::transient("down") }).expect("they were asked for");
    }
    assert_eq!(desk.conductor.in_flight(), 0, "everything waits to be tried again");
    desk.calls.clear();
    desk.now = desk.now.after(Duration::from_hours(1));
    let answer = Answer::SequencerIdentified { chain_id: "late".to_owned() };
    let result = desk.tell(Event::Answered { id: asked[0], answer });
    assert_eq!(result, Err(Refusal::UnknownCommand(asked[0])));
    assert_eq!(desk.calls.len(), asked.len(), "and is tried again, although the event itself was refused");
}

#[test]
fn a_node_of_another_chain_is_passed_over_while_there_is_another_node() {
    let is_identity = |call: &Call| matches!(call, Call::IdentifySequencer);
    let other = |_: &mut Desk, _: &Call| Answer::SequencerIdentified { chain_id: "another-1".to_owned() };
    let mut limits = Limits::default();
    limits.trust.nodes = 2;
    let mut desk = Desk::at(Timestamp(1_700_000_100_000_000_000), Mode::SoftOnly, 2, limits);
    desk.settle(is_identity);
    desk.failures();
    desk.answer(is_identity, other);
    let failures: Vec<_> = desk.failures().into_iter().map(|(what, attempt, _)| (what, attempt)).collect();
    assert_eq!(failures, [("sequencer genesis", 1)]);
    assert_eq!(desk.conductor.headers.node.0, 1, "the other one is asked");
    desk.wait(seconds(10), nothing);
    assert_eq!(desk.heads().0, 2);
}

#[test]
fn a_root_of_the_sequencer_that_is_too_old_parks_everything_and_says_what_is_permitted() {
    let mut limits = Limits::default();
    let hash = block(1, &[ROLLUP]).trusted().hash();
    limits.trust.root = RootSetting::Header { height: 1, hash };
    limits.trust.trusting_period = Duration::from_hours(3 * 24);
    let now = Timestamp(1_700_000_100_000_000_000).after(Duration::from_hours(5 * 24));
    let mut desk = Desk::at(now, Mode::SoftAndFirm, 2, limits);
    desk.settle(nothing);
    assert_eq!(desk.phase(), Phase::Parked);
    let reason = desk.reports.iter().find_map(|report| match report {
        Report::Parked { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    let reason = reason.expect("it is told");
    assert!(reason.contains("3 days are permitted") && reason.contains("sequencer.trust_root"), "{reason}");
}

#[test]
fn nothing_is_kept_for_a_session_that_was_lost() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 4, Limits::default());
    desk.settle(|call| is_execution(call) || is_blobs(call));
    assert!(held(&desk, "soft blocks") > 0);
    desk.fail(is_execution, FaultClass::SessionLost);
    assert_eq!(held(&desk, "soft blocks"), 0);
    assert!(desk.conductor.scanner.reads.values().all(|read| read.cells.is_empty()), "what is in flight is not wanted");
}

#[test]
fn headers_are_linked_as_many_at_a_time_as_an_answer_may_hold() {
    let is_links = |call: &Call| matches!(call, Call::FetchHeaders { .. });
    let mut desk = Desk::at(Timestamp(1_700_000_100_000_000_000), Mode::SoftOnly, 60, Limits::default());
    desk.settle(is_links);
    desk.wait(seconds(1), is_links);
    let links: Vec<_> = desk
        .calls
        .values()
        .filter_map(|(_, call)| match call {
            Call::FetchHeaders { first, last } => Some((first.0, last.0)),
            _ => None,
        })
        .collect();
    assert!(!links.is_empty());
    let anchors = desk.conductor.headers.all_trusted();
    for (first, last) in links {
        assert!(last >= first && last - first < crate::command::HEADERS_MAX, "{first} to {last}");
        assert!(anchors.contains_key(&SequencerHeight(last + 1)) || last - first + 1 == crate::command::HEADERS_MAX);
    }
}
