//! What honest peers lead to.

use super::*;
use crate::light::SoftTrust;

#[test]
fn every_mode_arrives_at_the_heads_of_honest_peers() {
    for (mode, heads) in [(Mode::SoftOnly, (5, 0)), (Mode::FirmOnly, (5, 5)), (Mode::SoftAndFirm, (5, 5))] {
        let mut desk = Desk::new(mode, 5, Limits::default());
        desk.settle(nothing);
        desk.wait(seconds(60), nothing);
        assert_eq!(desk.heads(), heads, "{mode:?}");
        let status = desk.conductor.status(desk.now);
        let cell = &status.cells[&CELL];
        assert_eq!((cell.executed, cell.sessions, cell.phase), (5, 1, Phase::Running));
        assert_eq!(cell.soft.as_ref().map(|head| (head.number.0, head.height)), Some((5, Some(SequencerHeight(6)))));
        let moved = desk.reports.iter().filter(|report| matches!(report, Report::HeadMoved { .. })).count();
        let commits = desk.node.log.iter().filter(|line| line.starts_with("commit")).count();
        assert_eq!(moved, commits, "each move is reported");
        let identified = desk.reports.iter().filter(|report| matches!(report, Report::ChainIdentified { .. })).count();
        assert_eq!(identified, if mode.follows_firm() { 2 } else { 1 }, "each chain once");
        assert!(
            !desk.reports.iter().any(|report| matches!(report, Report::CallFailed { .. } | Report::Dropped { .. }))
        );
    }
}

#[test]
fn soft_leads_and_firm_confirms_what_was_executed() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 2, Limits::default());
    desk.settle(is_blobs);
    assert_eq!(desk.heads(), (2, 0));
    desk.settle(nothing);
    let log = ["execute on b0", "commit 1 0", "execute on b1", "commit 2 0", "commit 2 1", "commit 2 2"];
    assert_eq!(desk.node.log, log, "nothing is executed twice or looked up");
    let levels = desk.reports.iter().filter_map(|report| match report {
        Report::HeadMoved { level, number, height, .. } => Some((*level, number.0, height.0)),
        _ => None,
    });
    let (soft, firm) = (Level::Soft, Level::Firm);
    assert_eq!(levels.collect::<Vec<_>>(), [(soft, 1, 2), (soft, 2, 3), (firm, 1, 2), (firm, 2, 3)]);
    let chains = desk.reports.iter().filter_map(|report| match report {
        Report::ChainIdentified { chain, chain_id } => Some((*chain, chain_id.as_str())),
        _ => None,
    });
    let chains: Vec<_> = chains.collect();
    assert!(chains.contains(&(Chain::Sequencer, CHAIN)) && chains.contains(&(Chain::Celestia, CELESTIA)));
}

#[test]
fn a_block_on_celestia_that_is_not_what_was_executed_parks_the_cell() {
    for is_under_its_hash in [false, true] {
        let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
        let mut lie = block_after_with(desk.made(0), &[ROLLUP], "something else").filtered;
        assert_ne!(lie, desk.made(1).filtered);
        if is_under_its_hash {
            lie.block_hash = desk.made(1).filtered.block_hash.clone();
        }
        desk.settle(|call| is_soft(call) || is_blobs(call));
        desk.answer(is_soft, |_, _| Answer::SoftBlockFetched { block: lie.encode_to_vec().into() });
        desk.settle(|call| is_execution(call) || is_blobs(call));
        let executed_block_metadata = Some(desk.executed(1));
        let response = Box::new(proto::ExecuteBlockResponse { executed_block_metadata });
        desk.answer(is_execution, |_, _| Answer::BlockExecuted { response });
        desk.settle(is_blobs);
        assert_eq!((desk.heads(), desk.phase()), ((1, 0), Phase::Running));
        desk.settle(nothing);
        let [Wait::Parked { reason }] = &desk.waits()[..] else { panic!("{:?}", desk.waits()) };
        assert!(reason.contains("disagree at rollup block 1"), "{reason}");
        assert_eq!(desk.heads(), (1, 0));
    }
}

#[test]
fn what_may_be_wanted_of_headers_is_what_is() {
    for (mode, soft) in [
        (Mode::SoftOnly, SoftTrust::Consensus),
        (Mode::FirmOnly, SoftTrust::Consensus),
        (Mode::SoftAndFirm, SoftTrust::Sequencer),
        (Mode::SoftAndFirm, SoftTrust::Consensus),
    ] {
        let mut limits = Limits { soft_firm_spread: 2, headers_ahead: 3, ..Limits::default() };
        limits.trust.soft = soft;
        let mut desk = Desk::at(Timestamp(1_700_000_100_000_000_000), mode, 12, limits);
        let is_header = |call: &Call| matches!(call, Call::FetchSignedHeader { .. } | Call::FetchHeaders { .. });
        // Whatever soft wants, firm would want as well.
        desk.settle(|call| is_header(call) || mode.follows_soft() && soft == SoftTrust::Consensus && is_blobs(call));
        let conductor = &desk.conductor;
        let wanted = conductor.headers_wanted(&conductor.headers_next());
        assert!(!wanted.is_empty(), "{mode:?} {soft:?}");
        for height in (1..=5).map(SequencerHeight) {
            assert_eq!(conductor.may_want_header(height), wanted.contains(&height), "{mode:?} {soft:?} {height}");
        }
    }
}

#[test]
fn the_next_deadline_is_the_earliest_of_all_and_says_why() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    let after = |from: Timestamp, count| from.after(seconds(count));
    let first = desk.conductor.next_deadline();
    assert_eq!(first.map(|(at, _)| at), Some(after(desk.now, 30)), "the session has a minute, the others half of one");
    desk.settle(is_session);
    assert_eq!(desk.conductor.next_deadline(), Some((after(desk.now, 1), Timer::CallDue("sequencer head"))));
    desk.now = after(desk.now, 1);
    desk.tell(Event::DeadlineReached).expect("never refused");
    assert_eq!(desk.conductor.next_deadline(), Some((after(desk.now, 30), Timer::CallOverdue("sequencer head"))));
    desk.tell(Event::StopRequested).expect("never refused");
    assert_eq!((desk.exit.clone(), desk.conductor.next_deadline()), (Some(Exit::Stopped), None));
}

#[test]
fn a_call_to_the_rollup_has_a_deadline_like_any_other() {
    let limits = Limits { sequencer_poll: seconds(3_600), ..Limits::default() };
    let mut desk = Desk::new(Mode::SoftOnly, 1, limits);
    desk.settle(is_execution);
    assert_eq!(desk.conductor.in_flight(), 1);
    let overdue = (desk.now.after(seconds(60)), Timer::CallOverdue("block execution"));
    assert_eq!(desk.conductor.next_deadline(), Some(overdue));
}

#[test]
fn equal_states_have_equal_digests_and_others_have_others() {
    let run = |blocks| {
        let mut desk = Desk::new(Mode::SoftOnly, blocks, Limits::default());
        desk.settle(nothing);
        desk.conductor.state_hash()
    };
    assert_eq!(run(2), run(2));
    assert_ne!(run(2), run(3));
}

#[test]
fn no_more_is_asked_for_at_the_same_time_than_permitted_and_all_of_that() {
    type Kind = fn(&Call) -> bool;
    let limits = Limits { soft_in_flight: 3, celestia_in_flight: 2, headers_in_flight: 2, ..Limits::default() };
    let kinds: [(Mode, Kind, usize); 3] = [
        (Mode::SoftOnly, is_soft, 3),
        (Mode::FirmOnly, is_blobs, 2),
        (Mode::FirmOnly, |call| matches!(call, Call::FetchSignedHeader { .. }), 2),
    ];
    for (mode, kind, most) in kinds {
        let mut desk = Desk::new(mode, 12, limits.clone());
        desk.settle(kind);
        let asked = |desk: &Desk| desk.calls.values().filter(|(_, call)| kind(call)).count();
        assert_eq!(asked(&desk), most, "{mode:?}");
        while let Some((id, call)) = desk.calls.iter().map(|(id, (_, call))| (*id, call.clone())).next() {
            desk.calls.remove(&id);
            let answer = desk.honest(&call);
            desk.tell(Event::Answered { id, answer }).expect("it was asked for");
            desk.settle(kind);
            assert!(asked(&desk) <= most, "{mode:?}");
        }
        desk.settle(nothing);
        assert_eq!(desk.node.soft, 12, "{mode:?}");
    }
}

#[test]
fn a_full_buffer_of_soft_blocks_holds_up_the_future_but_not_the_next_block() {
    let limits = Limits { soft_buffer_bytes: 1, ..Limits::default() };
    let mut desk = Desk::new(Mode::SoftOnly, 8, limits);
    desk.settle(|call| is_soft(call) || is_execution(call));
    assert_eq!(desk.calls.values().filter(|(_, call)| is_soft(call)).count(), 8, "nothing is held yet");
    desk.settle(is_execution);
    desk.chain.push(block_after(&desk.chain[8], &[ROLLUP]));
    desk.wait(seconds(2), |call| is_soft(call) || is_execution(call));
    assert!(!desk.calls.values().any(|(_, call)| is_soft(call)), "there is no room for the ninth");
    desk.settle(nothing);
    assert_eq!(desk.heads(), (9, 0));
}

#[test]
fn an_operator_sees_what_a_cell_waits_for() {
    let height = SequencerHeight(2);
    let waits = |mode, blocks, held: fn(&Call) -> bool| {
        let mut desk = Desk::new(mode, blocks, Limits::default());
        desk.settle(held);
        desk.waits()
    };
    assert_eq!(waits(Mode::SoftOnly, 0, nothing), [Wait::SequencerBlock { height }]);
    assert_eq!(waits(Mode::SoftOnly, 1, is_soft), [Wait::SoftBlock { height, attempts: 1 }]);
    assert_eq!(waits(Mode::SoftOnly, 1, is_session), [Wait::Session { attempts: 1 }]);
    assert_eq!(waits(Mode::SoftOnly, 1, is_execution), [Wait::Execution { number: RollupNumber(1) }]);
    let first = CelestiaHeight(11);
    assert_eq!(waits(Mode::FirmOnly, 0, nothing), [Wait::CelestiaBlock { height: first }]);
    assert_eq!(waits(Mode::FirmOnly, 1, is_blobs), [Wait::Blobs { height: first, attempts: 1 }]);
    let is_header = |call: &Call| matches!(call, Call::FetchSignedHeader { .. });
    assert_eq!(waits(Mode::FirmOnly, 1, is_header), [Wait::Header { height, attempts: 1 }]);
    let is_genesis = |call: &Call| matches!(call, Call::IdentifySequencer);
    assert!(waits(Mode::SoftOnly, 1, is_genesis).contains(&Wait::SequencerIdentity { attempts: 1 }));
    let is_head = |call: &Call| matches!(call, Call::FetchCelestiaHead);
    assert!(waits(Mode::FirmOnly, 1, is_head).contains(&Wait::CelestiaIdentity { attempts: 1 }));
    let now = Timestamp(1_700_000_100_000_000_000);
    let mut desk = Desk::at(now, Mode::SoftOnly, 1, Limits::default());
    desk.settle(is_header);
    assert_eq!(desk.waits(), [Wait::Header { height, attempts: 1 }], "though nothing is trusted yet");
    // Soft may lead by two heights.
    let mut desk = Desk::new(Mode::SoftAndFirm, 5, Limits { soft_firm_spread: 2, ..Limits::default() });
    desk.settle(is_blobs);
    assert_eq!(desk.heads(), (2, 0));
    assert_eq!(desk.waits(), [Wait::Spread { limit: 2 }, Wait::Blobs { height: first, attempts: 1 }]);
    // A session that failed is tried again, which is not the delay after a lost one.
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    desk.settle(is_session);
    desk.fail(is_session, FaultClass::Transient);
    assert_eq!(desk.waits(), [Wait::Session { attempts: 2 }]);
}

#[test]
fn a_cell_has_a_digest_of_its_session_while_it_has_one() {
    let mut desk = Desk::new(Mode::SoftOnly, 2, Limits::default());
    assert_eq!(desk.conductor.session_digest(CELL), None);
    desk.settle(is_soft);
    let before = desk.conductor.session_digest(CELL);
    desk.settle(nothing);
    assert!(before.is_some() && desk.conductor.session_digest(CELL) != before);
}

#[test]
fn a_chain_whose_newest_header_is_too_old_to_begin_with_is_named_with_the_clock() {
    // The last block is of 1700000005.
    let late = Timestamp(1_700_000_000_000_000_000).after(seconds(60));
    let mut limits = Limits::default();
    limits.trust.trusting_period = seconds(50);
    let mut desk = Desk::at(late, Mode::SoftOnly, 4, limits.clone());
    desk.settle(nothing);
    desk.wait(seconds(3), nothing);
    assert_eq!((desk.phase(), desk.waits()), (Phase::Running, vec![Wait::FirstHeader]));
    // A younger one is all that it takes.
    let mut desk = Desk::at(late, Mode::SoftOnly, 20, limits);
    desk.settle(nothing);
    desk.wait(seconds(3), nothing);
    assert_eq!(desk.heads().0, 20, "{:?}", desk.waits());
}
