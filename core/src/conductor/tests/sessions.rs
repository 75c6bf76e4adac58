//! Sessions: how they begin, end and are lost, what is kept over them, and how cells end.

use super::*;

#[test]
fn a_new_process_asks_the_rollup_what_it_has_executed_before_it_confirms_it() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 3, Limits::default());
    desk.node.soft = 2;
    desk.settle(nothing);
    let confirmed = desk.node.log.iter().filter(|line| line.starts_with("look up")).cloned().collect::<Vec<_>>();
    assert_eq!((confirmed, desk.heads()), (vec!["look up 1".to_owned(), "look up 2".to_owned()], (3, 3)));
}

#[test]
fn a_rollup_that_does_not_know_its_own_block_five_times_loses_its_session() {
    for class in [FaultClass::NotYet, FaultClass::Transient] {
        let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
        desk.node.soft = 1;
        desk.settle(is_look_up);
        for _ in 0..4 {
            desk.fail(is_look_up, class);
            desk.wait(seconds(5), |call| is_look_up(call) || is_session(call));
        }
        assert_eq!((desk.phase(), desk.node.sessions), (Phase::Running, 1));
        desk.fail(is_look_up, class);
        desk.wait(seconds(20), is_look_up);
        let is_denied = class == FaultClass::NotYet;
        assert_eq!(desk.node.sessions, if is_denied { 2 } else { 1 }, "an unreachable node denies nothing");
    }
}

#[test]
fn what_this_process_executed_is_remembered_across_sessions_and_not_looked_up() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 4, Limits::default());
    desk.settle(|call| is_blobs(call) || is_execution(call));
    for _ in 0..3 {
        desk.answer(is_execution, Desk::honest);
        desk.settle(|call| is_blobs(call) || is_execution(call));
    }
    assert_eq!(desk.heads(), (3, 0));
    desk.fail(is_execution, FaultClass::SessionLost);
    desk.wait(seconds(1), |call| is_blobs(call) || is_execution(call));
    assert_eq!((desk.node.sessions, desk.waits()[0].clone()), (2, Wait::Execution { number: RollupNumber(4) }));
    assert_eq!(held(&desk, "remembered soft blocks"), 3);
    desk.settle(nothing);
    assert_eq!(desk.heads(), (4, 4));
    assert!(!desk.node.log.iter().any(|line| line.starts_with("look up")), "{:?}", desk.node.log);
}

#[test]
fn what_the_rollup_has_replaced_or_lost_meanwhile_is_not_remembered() {
    // The rollup lost its last block; it was put on another branch; firm has passed.
    for (soft, firm, branch, kept) in [(2, 0, "b", 2), (3, 0, "c", 0), (3, 2, "b", 1), (3, 3, "b", 0), (0, 0, "b", 0)] {
        let mut desk = Desk::new(Mode::SoftAndFirm, 4, Limits::default());
        desk.settle(|call| is_blobs(call) || is_execution(call));
        for _ in 0..3 {
            desk.answer(is_execution, Desk::honest);
            desk.settle(|call| is_blobs(call) || is_execution(call));
        }
        desk.fail(is_execution, FaultClass::SessionLost);
        desk.node = Node { soft, firm, branch, ..desk.node };
        desk.wait(seconds(1), |call| is_blobs(call) || is_execution(call));
        assert_eq!(desk.node.sessions, 2);
        assert_eq!(held(&desk, "remembered soft blocks"), kept, "soft {soft} firm {firm} on {branch}");
    }
}

#[test]
fn sessions_that_are_lost_one_after_the_other_are_opened_ever_later_until_it_has_been_quiet() {
    let limits = Limits::default();
    let mut desk = Desk::new(Mode::SoftOnly, 1, limits.clone());
    let lose = |desk: &mut Desk| -> u64 {
        desk.reports.clear();
        desk.fail(is_execution, FaultClass::SessionLost);
        let delay = desk.reports.iter().find_map(|report| match report {
            Report::SessionLost { delay_ms, reason, .. } => {
                assert_eq!(reason, "as the test wants");
                Some(*delay_ms)
            }
            _ => None,
        });
        delay.expect("it is reported")
    };
    desk.settle(is_execution);
    let mut full = 200;
    for losses in 1..=3 {
        let delay = lose(&mut desk);
        assert!((full / 2..=full).contains(&delay), "loss {losses}: {delay} ms");
        assert!(matches!(desk.waits()[..], [Wait::SessionDelay { left_ms }] if left_ms.abs_diff(delay) <= 1));
        full *= 2;
        desk.wait(Duration::from_millis(delay), is_execution);
        desk.wait(Duration::from_millis(2), is_execution);
        assert_eq!(desk.node.sessions, losses + 1);
    }
    // Twice the longest delay without a loss: it begins anew.
    desk.answer(is_execution, Desk::honest);
    desk.settle(nothing);
    desk.wait(seconds(61), nothing);
    desk.chain.push(block_after(&desk.chain[1], &[ROLLUP]));
    desk.wait(seconds(2), is_execution);
    let delay = lose(&mut desk);
    assert!((100..=200).contains(&delay), "{delay} ms");
}

#[test]
fn a_session_that_ends_is_followed_by_the_next_at_once_unless_it_was_finished_when_it_came() {
    let mut desk = Desk::new(Mode::SoftOnly, 3, Limits::default());
    desk.node.end = 2;
    desk.settle(is_session);
    desk.answer(is_session, Desk::honest);
    desk.settle(is_session);
    assert_eq!(desk.heads(), (2, 0), "no block beyond the end");
    assert!(desk.reports.contains(&Report::SessionFinished { cell: CELL, last: RollupNumber(2) }));
    desk.tell(Event::DeadlineReached).expect("never refused");
    // The rollup hands the same one out again and again.
    for sessions in 2..5 {
        desk.answer(is_session, Desk::honest);
        assert_eq!((desk.node.sessions, desk.phase()), (sessions, Phase::Opening));
        let Wait::SessionDelay { left_ms } = desk.waits()[0] else { panic!("it waits") };
        assert!(left_ms >= 90 << (sessions - 2), "{left_ms} ms after {sessions} sessions");
        desk.wait(Duration::from_millis(left_ms + 2), is_session);
    }
    desk.node.end = 0;
    desk.settle(nothing);
    assert_eq!(desk.heads(), (3, 0));
}

#[test]
fn a_stop_waits_for_what_has_an_effect_but_not_for_ever() {
    let stop = |answers: bool| {
        let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
        desk.settle(is_execution);
        desk.tell(Event::StopRequested).expect("never refused");
        let grace = desk.now.after(seconds(5));
        assert_eq!(desk.exit, None);
        desk.now = Timestamp(grace.0 - 1);
        desk.tell(Event::DeadlineReached).expect("never refused");
        assert_eq!((desk.exit.clone(), desk.conductor.next_deadline()), (None, Some((grace, Timer::StopGrace))));
        if answers {
            desk.answer(is_execution, Desk::honest);
            assert_eq!(desk.exit, None, "what was executed is committed first");
            desk.settle(nothing);
        } else {
            desk.now = grace;
            desk.tell(Event::DeadlineReached).expect("never refused");
        }
        assert_eq!(
            (desk.exit.clone(), desk.conductor.in_flight(), desk.phase()),
            (Some(Exit::Stopped), 0, Phase::Stopped)
        );
        desk.node.soft
    };
    assert_eq!((stop(true), stop(false)), (1, 0));
}

#[test]
fn only_as_many_cells_are_installed_as_permitted_and_each_once() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits { cells: 2, ..Limits::default() });
    let install = |cell| Event::CellInstalled { cell: CellId(cell), spec: spec(Mode::SoftOnly) };
    assert_eq!(desk.tell(install(0)), Err(Refusal::CellExists(CELL)));
    assert_eq!((desk.tell(install(1)), desk.tell(install(2))), (Ok(()), Err(Refusal::TooManyCells(2))));
}

#[test]
fn two_cells_of_one_conductor_do_not_wait_for_each_other() {
    let mut desk = Desk::new(Mode::SoftOnly, 2, Limits::default());
    let other = CellId(1);
    desk.tell(Event::CellInstalled { cell: other, spec: spec(Mode::SoftOnly) }).expect("a second cell");
    let of_other = move |call: &Call| matches!(call, Call::OpenSession { cell } if *cell == other);
    desk.settle(of_other);
    assert_eq!(desk.heads(), (2, 0), "the first cell arrives while the other has no session");
    desk.fail(of_other, FaultClass::Fatal);
    assert_eq!((desk.exit.clone(), desk.phase()), (None, Phase::Running), "one is parked, the other goes on");
    desk.chain.push(block_after(&desk.chain[2], &[ROLLUP, RollupId([8; 32])]));
    desk.wait(seconds(5), nothing);
    assert_eq!(desk.heads(), (3, 0));
}

#[test]
fn a_rollup_that_repeats_another_commitment_is_left_with_both_in_the_report() {
    let is_commitment = |call: &Call| matches!(call, Call::UpdateCommitment { .. });
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    desk.settle(is_commitment);
    desk.answer(is_commitment, |desk, _| Answer::CommitmentUpdated { commitment: Box::new(desk.commitment()) });
    let parked = desk.reports.iter().find_map(|report| match report {
        Report::Parked { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    let reason = parked.expect("it is parked");
    assert!(reason.contains("told soft 1 (\"b1\")") && reason.contains("reports soft 0 (\"b0\")"), "{reason}");
    assert_eq!((desk.phase(), desk.exit.is_some(), held(&desk, "remembered soft blocks")), (Phase::Parked, true, 0));
}

#[test]
fn a_stop_gives_up_at_once_what_has_no_effect() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
    desk.node.soft = 1;
    desk.settle(is_look_up);
    desk.tell(Event::StopRequested).expect("never refused");
    assert_eq!((desk.exit.clone(), desk.calls.len(), desk.conductor.in_flight()), (Some(Exit::Stopped), 0, 0));
}

#[test]
fn a_lost_session_takes_its_calls_with_it() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
    desk.settle(|call| is_execution(call) || is_blobs(call));
    let (id, _) = desk.only(is_execution);
    desk.now = desk.now.after(seconds(60));
    desk.tell(Event::DeadlineReached).expect("never refused");
    assert!(!desk.calls.contains_key(&id), "it is given up at its deadline");
    let lost = desk.reports.iter().filter(|report| {
        matches!(report, Report::SessionLost { reason, .. }
        if reason.contains("block execution is unknown") && reason.contains("deadline"))
    });
    assert_eq!(lost.count(), 1);
    // S11: it may have been executed. The next session tells.
    desk.node.soft = 0;
    desk.settle(nothing);
    desk.wait(seconds(5), nothing);
    assert_eq!((desk.heads(), desk.node.sessions), ((1, 1), 2));
    let late = Answer::BlockExecuted { response: Box::default() };
    assert_eq!(desk.tell(Event::Answered { id, answer: late }), Err(Refusal::UnknownCommand(id)));
}

#[test]
fn a_parked_cell_is_left_alone_while_others_go_on() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    let other = CellId(1);
    desk.tell(Event::CellInstalled { cell: other, spec: spec(Mode::SoftOnly) }).expect("a second cell");
    let of_other = move |call: &Call| matches!(call, Call::OpenSession { cell } if *cell == other);
    desk.settle(|call| is_execution(call) || of_other(call));
    desk.fail(is_execution, FaultClass::Fatal);
    desk.reports.clear();
    desk.chain.push(block_after(&desk.chain[1], &[ROLLUP]));
    desk.wait(seconds(10), of_other);
    assert_eq!((desk.phase(), desk.heads(), desk.node.sessions), (Phase::Parked, (0, 0), 1));
    assert!(!desk.reports.iter().any(|report| matches!(report, Report::Parked { .. })), "it is said once");
    // The last one that goes on is parked as well: now there is nothing left to do.
    assert_eq!(desk.exit, None);
    desk.fail(of_other, FaultClass::Fatal);
    let Some(Exit::AllCellsParked { reason }) = &desk.exit else { panic!("it goes on") };
    assert!(reason.starts_with("cell-0: ") && reason.contains("; cell-1: "), "{reason}");
}

#[test]
fn a_process_may_stay_when_its_last_cell_is_parked() {
    for stay_when_parked in [false, true] {
        let mut desk = Desk::new(Mode::SoftOnly, 1, Limits { stay_when_parked, ..Limits::default() });
        desk.settle(is_session);
        desk.fail(is_session, FaultClass::Fatal);
        let reason = "the rollup refused the execution session: as the test wants".to_owned();
        let exit = (!stay_when_parked).then_some(Exit::AllCellsParked { reason: reason.clone() });
        assert_eq!((&desk.exit, desk.waits()), (&exit, vec![Wait::Parked { reason }]));
        desk.wait(seconds(60), |_| true);
        assert!(desk.calls.is_empty(), "nothing is asked for on behalf of a parked cell");
    }
}
