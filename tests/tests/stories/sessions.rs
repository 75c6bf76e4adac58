//! Sessions that end at their last block, that are refused, and whose calls end without a word.

use std::time::{Duration, Instant};

use downbeat_core::cell::Mode;
use downbeat_tests::{MODES, Stage, world};
use downbeat_world::rollup::{Call, Code, Method, Misbehaviour, Status};

fn denied() -> Misbehaviour {
    Misbehaviour::Refuse(Status::new(Code::PermissionDenied, "the session is over"))
}

/// Last number that each opened session allows, in the order of opening.
fn session_ends(stage: &Stage) -> Vec<u64> {
    let end = |call: Call| match call {
        Call::Opened(Ok(session)) => {
            session.execution_session_parameters.map(|parameters| parameters.rollup_end_block_number)
        }
        _ => None,
    };
    stage.trace().into_iter().filter_map(end).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_follow_one_another_in_each_mode_and_a_halted_chain_ends_the_conductor() {
    for mode in MODES {
        let stage = Stage::open(world(), 20).await;
        stage.limit_sessions(mode, &[5, 1, 9]);
        let reason = stage.conductor(mode).parked().await;
        assert!(reason.contains("halted"), "{mode:?}: {reason}");
        stage.assert_each_block_executed_once(15, if mode.follows_firm() { 15 } else { 0 });
        assert_eq!(session_ends(&stage), [5, 6, 15], "{mode:?}: each session once, and none more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_that_reaches_the_stop_height_first_waits_there_for_firm() {
    // Given a session of 8 blocks, and nothing on Celestia yet.
    let stage = Stage::open(world(), 20).await;
    stage.with(|world| world.relayer.pause(true));
    stage.limit_sessions(Mode::SoftAndFirm, &[8, 12]);
    let conductor = stage.conductor(Mode::SoftAndFirm);

    // When soft has executed all of them, and the sequencer is far beyond.
    conductor.reaches(8, 0).await;
    conductor.until("the sequencer to go on", |world| world.sequencer_stalled).await;
    assert_eq!((stage.executed(), stage.sessions()), ((1..=8).collect(), 1), "nothing past the stop height");

    // Then firm ends the session, and the next one follows.
    stage.with(|world| world.relayer.pause(false));
    let reason = conductor.parked().await;
    assert!(reason.contains("halted"), "{reason}");
    stage.assert_each_block_executed_once(20, 20);
    assert_eq!(session_ends(&stage), [8, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firm_that_reaches_the_stop_height_first_ends_the_session_alone() {
    let stage = Stage::open(world(), 20).await;
    stage.net.hooks.sequencer.set_down(true);
    stage.limit_sessions(Mode::SoftAndFirm, &[8, 12]);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(8, 8).await;
    stage.net.hooks.sequencer.set_down(false);
    let reason = conductor.parked().await;
    assert!(reason.contains("halted"), "{reason}");
    stage.assert_each_block_executed_once(20, 20);
    assert_eq!(session_ends(&stage), [8, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conductor_that_starts_at_a_stop_height_goes_on_with_the_next_session() {
    for mode in MODES {
        // Given a conductor that was killed when the session's last block was committed.
        let stage = Stage::open(world(), 20).await;
        let firm = |number| if mode.follows_firm() { number } else { 0 };
        stage.limit_sessions(mode, &[10]);
        let reason = stage.conductor(mode).parked().await;
        assert!(reason.contains("halted"), "{mode:?}: {reason}");
        stage.assert_each_block_executed_once(10, firm(10));

        // When there is a further session, and another conductor.
        stage.node(|node| {
            let mut next = node.config().sessions[0].clone();
            next.rollup_start = next.rollup_start.plus(10);
            next.sequencer_start = next.sequencer_start.plus(10);
            next.rollup_end = Some(next.rollup_start.plus(9));
            node.config_mut().sessions.push(next);
        });
        stage.conductor(mode).parked().await;
        stage.assert_each_block_executed_once(20, firm(20));
        assert_eq!(session_ends(&stage), [10, 20]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_denied_call_leads_to_one_new_session_and_the_same_chain() {
    for method in [Method::ExecuteBlock, Method::UpdateCommitmentState] {
        let stage = Stage::open(world(), 6).await;
        let conductor = stage.conductor(Mode::SoftAndFirm);
        conductor.reaches(6, 6).await;
        stage.node(|node| node.misbehave(method, denied(), 1));
        stage.go_on_to(20);
        conductor.reaches(20, 20).await;
        conductor.stop().await;
        assert_eq!(stage.sessions(), 2, "{method:?}");
        stage.assert_chain(20, 20);
        // A block whose commitment was denied is not on the chain: it is executed again, and nothing else is.
        let mut expected: Vec<u64> = (1..=20).collect();
        if method == Method::UpdateCommitmentState {
            expected.insert(6, 7);
        }
        assert_eq!(stage.executed(), expected, "{method:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_denied_at_first_is_opened_later() {
    let stage = Stage::open(world(), 10).await;
    stage.node(|node| node.misbehave(Method::CreateExecutionSession, denied(), 3));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(10, 10).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(10, 10);
    assert_eq!(stage.execution().count("CreateExecutionSession"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_denied_look_up_leads_to_one_new_session_and_the_same_chain() {
    let stage = Stage::open(world(), 10).await;
    stage.with(|world| world.relayer.pause(true));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(10, 0).await;
    conductor.stop().await;
    stage.with(|world| world.relayer.pause(false));
    stage.node(|node| node.misbehave(Method::GetExecutedBlockMetadata, denied(), 1));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(10, 10).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(10, 10);
    assert_eq!(stage.sessions(), 3, "one of the first conductor, two of the second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_revoked_again_and_again_does_not_change_the_chain() {
    for mode in MODES {
        let stage = Stage::open(world(), 0).await;
        let conductor = stage.conductor(mode);
        conductor.until("a session", |world| world.rollups.values().all(|node| node.trace().next().is_some())).await;
        for last in [3, 9, 17, 24] {
            stage.node(downbeat_world::RollupNode::revoke_session);
            stage.go_on_to(last);
            conductor.reaches(last, if mode.follows_firm() { last } else { 0 }).await;
        }
        conductor.stop().await;
        stage.assert_each_block_executed_once(24, if mode.follows_firm() { 24 } else { 0 });
        assert_eq!(stage.sessions(), 5, "{mode:?}");
    }
}

/// Attempts `2..=COUNT` come after delays of at least half of 20, 40, 80 and then 100 ms.
const ATTEMPTS: u64 = 8;
const LEAST: Duration = Duration::from_millis((20 + 40 + 80 + 100 * (ATTEMPTS - 4)) / 2);

/// A stage on which sessions are delayed by 20 ms at first and 100 ms at last.
async fn denying_stage() -> Stage {
    let mut stage = Stage::open(world(), 20).await;
    stage.set("limits.session_delay_first", "20ms");
    stage.set("limits.session_delay_last", "100ms");
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_always_denied_are_asked_for_ever_more_slowly() {
    let stage = denying_stage().await;
    stage.node(|node| node.misbehave(Method::CreateExecutionSession, denied(), u32::MAX));
    let began = Instant::now();
    let conductor = stage.conductor(Mode::SoftAndFirm);
    let hooks = stage.execution();
    conductor.until("some attempts", |_| hooks.count("CreateExecutionSession") >= ATTEMPTS).await;
    assert!(began.elapsed() >= LEAST, "{ATTEMPTS} attempts in {:?}", began.elapsed());
    conductor.stop().await;
    stage.assert_each_block_executed_once(0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_in_which_every_execution_is_denied_follow_one_another_ever_more_slowly() {
    let stage = denying_stage().await;
    stage.node(|node| node.misbehave(Method::ExecuteBlock, denied(), u32::MAX));
    let began = Instant::now();
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.until("some sessions", |_| stage.execution().count("CreateExecutionSession") >= ATTEMPTS).await;
    assert!(began.elapsed() >= LEAST, "{ATTEMPTS} sessions in {:?}", began.elapsed());
    conductor.stop().await;
    stage.assert_each_block_executed_once(0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_outcome_is_unknown_are_settled_by_a_new_session() {
    for (method, code) in [
        (Method::ExecuteBlock, Code::Unavailable),
        (Method::UpdateCommitmentState, Code::DeadlineExceeded),
        (Method::CreateExecutionSession, Code::Unavailable),
    ] {
        // The call takes effect and its answer is lost, at the start and in the middle.
        let stage = Stage::open(world(), 9).await;
        let lost = Misbehaviour::LoseReply(Status::new(code, "lost"));
        stage.node(|node| node.misbehave(method, lost.clone(), 1));
        let conductor = stage.conductor(Mode::SoftAndFirm);
        conductor.reaches(9, 9).await;
        stage.node(|node| node.misbehave(method, lost, 1));
        if method == Method::CreateExecutionSession {
            stage.node(downbeat_world::RollupNode::revoke_session);
        }
        stage.go_on_to(20);
        conductor.reaches(20, 20).await;
        conductor.stop().await;
        assert!(!stage.node(|node| node.still_to_misbehave()), "{method:?}");
        stage.assert_chain(20, 20);
        if method != Method::ExecuteBlock {
            // What was committed, or not even begun, is not executed again.
            stage.assert_each_block_executed_once(20, 20);
        }
    }
}
