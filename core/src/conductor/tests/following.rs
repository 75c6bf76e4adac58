//! What honest peers lead to.

use super::*;

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
