use downbeat_core::{RollupId, SequencerHeight};

use super::*;

fn node(change: impl FnOnce(&mut RollupConfig)) -> (RollupNode, ExecutionSession) {
    let mut config = RollupConfig::new(RollupId([1; 32]));
    change(&mut config);
    let mut node = RollupNode::new(config);
    let session = node.create_execution_session().expect("a session");
    (node, session)
}

fn request(session: &str, parent: &ExecutedBlockMetadata, second: i64) -> ExecuteBlockRequest {
    ExecuteBlockRequest {
        session_id: session.to_owned(),
        parent_hash: parent.hash.clone(),
        transactions: Vec::new(),
        timestamp: Some(prost_types::Timestamp { seconds: second, nanos: 0 }),
        sequencer_block_hash: "ab".repeat(32),
    }
}

fn execute(node: &mut RollupNode, session: &str, parent: &ExecutedBlockMetadata) -> ExecutedBlockMetadata {
    let response = node.execute_block(request(session, parent, 1)).expect("executed");
    response.executed_block_metadata.expect("metadata")
}

fn update(
    node: &mut RollupNode,
    session: &str,
    soft: &ExecutedBlockMetadata,
    firm: &ExecutedBlockMetadata,
) -> Result<CommitmentState, Status> {
    node.update_commitment_state(UpdateCommitmentStateRequest {
        session_id: session.to_owned(),
        commitment_state: Some(CommitmentState {
            soft_executed_block_metadata: Some(soft.clone()),
            firm_executed_block_metadata: Some(firm.clone()),
            lowest_celestia_search_height: 1,
        }),
    })
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.expect_err("a refusal").code
}

/// Executes and commits `count` soft blocks; the heads before and after each, genesis first.
fn soft_blocks(node: &mut RollupNode, session: &str, count: usize) -> Vec<ExecutedBlockMetadata> {
    let mut blocks = vec![node.soft_head().clone()];
    for _ in 0..count {
        let firm = node.firm_head().clone();
        let block = execute(node, session, &blocks[blocks.len() - 1]);
        update(node, session, &block, &firm).expect("committed");
        blocks.push(block);
    }
    blocks
}

#[test]
fn soft_runs_ahead_and_firm_confirms_with_soft_unchanged() {
    let (mut node, session) = node(|_| {});
    let blocks = soft_blocks(&mut node, &session.session_id, 3);
    update(&mut node, &session.session_id, &blocks[3], &blocks[2]).expect("soft may stay when firm advances");
    assert_eq!((node.soft(), node.firm()), (RollupNumber(3), RollupNumber(2)));
    assert_eq!(node.blocks().count(), 4);
    let calls = node.trace().filter(|call| matches!(call, Call::Executed(_, Ok(_)))).count();
    assert_eq!(calls, 3);
}

#[test]
fn executing_changes_no_commitment() {
    let (mut node, session) = node(|_| {});
    let before = node.commitment().clone();
    let head = node.soft_head().clone();
    execute(&mut node, &session.session_id, &head);
    assert_eq!(*node.commitment(), before);
}

#[test]
fn each_breach_of_the_contract_has_its_status() {
    let (mut node, session) = node(|config| {
        config.sessions[0].rollup_end = Some(RollupNumber(3));
        config.sequencer_hash = SequencerHash::Required;
        config.refuse_lower_search_height = true;
        config.lowest_celestia_search_height = 1;
    });
    let id = &session.session_id;
    let blocks = soft_blocks(&mut node, id, 3);
    let [genesis, first, second, third] = &blocks[..] else { panic!("four blocks") };

    assert_eq!(code(node.execute_block(request("", third, 1))), Code::PermissionDenied);
    assert_eq!(code(update(&mut node, "session-0", third, first)), Code::PermissionDenied);
    assert_eq!(code(node.execute_block(request(id, third, 1))), Code::OutOfRange, "above the end");
    assert_eq!(code(node.execute_block(request(id, second, 1))), Code::FailedPrecondition, "not a head");
    let mut without = request(id, genesis, 1);
    without.sequencer_block_hash.clear();
    assert_eq!(code(node.execute_block(without)), Code::InvalidArgument);
    let mut without = request(id, genesis, 1);
    without.timestamp = None;
    assert_eq!(code(node.execute_block(without)), Code::InvalidArgument);

    assert_eq!(code(update(&mut node, id, second, first)), Code::FailedPrecondition, "soft goes back");
    assert_eq!(code(update(&mut node, id, third, genesis)), Code::FailedPrecondition, "nothing advances");
    let unknown = ExecutedBlockMetadata { hash: "ff".repeat(32), ..second.clone() };
    assert_eq!(code(update(&mut node, id, third, &unknown)), Code::FailedPrecondition, "unknown firm");
    let beyond = ExecutedBlockMetadata { number: 4, ..third.clone() };
    assert_eq!(code(update(&mut node, id, third, &beyond)), Code::FailedPrecondition, "firm above soft");
    assert_eq!(code(update(&mut node, id, &beyond, genesis)), Code::FailedPrecondition, "never executed");
    let nothing = UpdateCommitmentStateRequest { session_id: id.clone(), commitment_state: None };
    assert_eq!(code(node.update_commitment_state(nothing)), Code::InvalidArgument);
    let lower = UpdateCommitmentStateRequest {
        session_id: id.clone(),
        commitment_state: Some(CommitmentState {
            soft_executed_block_metadata: Some(third.clone()),
            firm_executed_block_metadata: Some(first.clone()),
            lowest_celestia_search_height: 0,
        }),
    };
    assert_eq!(code(node.update_commitment_state(lower)), Code::InvalidArgument);
    assert_eq!((node.soft(), node.firm()), (RollupNumber(3), RollupNumber(0)), "refusals change nothing");
}

#[test]
fn a_committed_block_is_found_and_an_executed_one_is_not() {
    let (mut node, session) = node(|_| {});
    let blocks = soft_blocks(&mut node, &session.session_id, 1);
    let executed = execute(&mut node, &session.session_id, &blocks[1]);
    let fetch = |node: &mut RollupNode, identifier| {
        let identifier =
            downbeat_core::wire::proto::astria::execution::v2::ExecutedBlockIdentifier { identifier: Some(identifier) };
        node.get_executed_block_metadata(GetExecutedBlockMetadataRequest { identifier: Some(identifier) })
    };
    assert_eq!(fetch(&mut node, Identifier::Number(1)).as_ref(), Ok(&blocks[1]));
    assert_eq!(fetch(&mut node, Identifier::Hash(executed.hash.clone())), Ok(executed));
    assert_eq!(code(fetch(&mut node, Identifier::Number(2))), Code::NotFound);
}

#[test]
fn a_new_session_and_a_restart_end_the_old_one() {
    let (mut node, first) = node(|_| {});
    let blocks = soft_blocks(&mut node, &first.session_id, 2);
    let second = node.create_execution_session().expect("a session");
    assert_ne!(first.session_id, second.session_id);
    assert_eq!(code(node.execute_block(request(&first.session_id, &blocks[2], 1))), Code::PermissionDenied);

    let uncommitted = execute(&mut node, &second.session_id, &blocks[2]);
    node.restart();
    assert_eq!(code(node.execute_block(request(&second.session_id, &blocks[2], 1))), Code::PermissionDenied);
    let third = node.create_execution_session().expect("a session");
    assert_eq!(third.commitment_state.as_ref(), Some(node.commitment()));
    assert_eq!(node.soft(), RollupNumber(2));
    assert_eq!(
        code(update(&mut node, &third.session_id, &uncommitted, &blocks[0])),
        Code::FailedPrecondition,
        "what was not committed is gone"
    );
    assert_eq!(execute(&mut node, &third.session_id, &blocks[2]), uncommitted, "executing again gives the same");
}

#[test]
fn a_session_that_reached_its_end_is_followed_by_the_next_and_then_by_a_halt() {
    let (mut node, session) = node(|config| {
        config.sessions[0].rollup_end = Some(RollupNumber(1));
        let next = SessionPlan {
            rollup_start: RollupNumber(2),
            rollup_end: Some(RollupNumber(2)),
            sequencer_start: SequencerHeight(40),
            ..SessionPlan::default()
        };
        config.sessions.push(next);
    });
    let id = session.session_id;
    let blocks = soft_blocks(&mut node, &id, 1);
    let again = node.create_execution_session().expect("firm is not there yet");
    assert_eq!(again.execution_session_parameters, session.execution_session_parameters);
    update(&mut node, &again.session_id, &blocks[1], &blocks[1]).expect("confirmed");
    let next = node.create_execution_session().expect("the next session");
    assert_eq!(next.execution_session_parameters.map(|it| it.sequencer_start_block_height), Some(40));
    let last = execute(&mut node, &next.session_id, &blocks[1]);
    update(&mut node, &next.session_id, &last, &last).expect("both at once");
    assert_eq!(code(node.create_execution_session()), Code::FailedPrecondition);
}

#[test]
fn a_repeated_update_is_treated_as_configured() {
    for (repeated_update, accepted) in [(RepeatedUpdate::Accept, true), (RepeatedUpdate::Refuse, false)] {
        let (mut node, session) = node(|config| config.repeated_update = repeated_update);
        let blocks = soft_blocks(&mut node, &session.session_id, 1);
        let repeated = update(&mut node, &session.session_id, &blocks[1], &blocks[0]);
        assert_eq!(repeated.is_ok(), accepted, "{repeated_update:?}");
    }
}

#[test]
fn only_a_node_that_can_roll_back_lets_firm_replace_soft() {
    for can_roll_back in [false, true] {
        let (mut node, session) = node(|config| config.can_roll_back = can_roll_back);
        let id = &session.session_id;
        let blocks = soft_blocks(&mut node, id, 3);
        let other = node.execute_block(request(id, &blocks[0], 77)).expect("executed on firm");
        let other = other.executed_block_metadata.expect("metadata");
        let result = update(&mut node, id, &other, &other);
        if can_roll_back {
            result.expect("rolled back");
            assert_eq!((node.soft(), node.firm()), (RollupNumber(1), RollupNumber(1)));
            assert_eq!(node.block(RollupNumber(1)).map(|block| block.metadata.as_ref()), Some(&other));
            assert_eq!(node.blocks().count(), 2);
        } else {
            assert_eq!(code(result), Code::FailedPrecondition);
        }
    }
}

#[test]
fn ordered_misbehaviour_happens_as_often_as_ordered() {
    let (mut node, session) = node(|_| {});
    let (id, genesis) = (session.session_id, node.soft_head().clone());
    let lost = Status::new(Code::Unavailable, "lost");
    node.misbehave(Method::ExecuteBlock, Misbehaviour::Refuse(Status::new(Code::Aborted, "later")), 2);
    node.misbehave(Method::ExecuteBlock, Misbehaviour::NumberOff(1), 1);
    node.misbehave(Method::UpdateCommitmentState, Misbehaviour::LoseReply(lost.clone()), 1);
    assert_eq!(code(node.execute_block(request(&id, &genesis, 1))), Code::Aborted);
    assert_eq!(code(node.execute_block(request(&id, &genesis, 1))), Code::Aborted);
    assert_eq!(execute(&mut node, &id, &genesis).number, 2);
    let block = execute(&mut node, &id, &genesis);
    assert_eq!(block.number, 1);
    assert_eq!(update(&mut node, &id, &block, &genesis), Err(lost));
    assert_eq!(node.soft(), RollupNumber(1), "the update took effect");
    assert!(!node.still_to_misbehave());
    node.restart();
    node.halt(true);
    assert_eq!(code(node.create_execution_session()), Code::FailedPrecondition);
}

#[test]
fn old_blocks_are_forgotten_on_request() {
    let (mut node, session) = node(|config| config.keep_blocks = Some(2));
    let blocks = soft_blocks(&mut node, &session.session_id, 6);
    update(&mut node, &session.session_id, &blocks[6], &blocks[5]).expect("confirmed");
    let numbers: Vec<_> = node.blocks().map(|block| block.metadata.number).collect();
    assert_eq!(numbers, [3, 4, 5, 6]);
}
