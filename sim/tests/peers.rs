//! Peers that lie, against the core alone: what is parked, what is never committed, and what is only held up.

use std::time::Duration;

use bytes::Bytes;
use downbeat_core::{Report, RollupId, SequencerHeight, cell::Mode};
use downbeat_sim::{Scenario, Simulation};
use downbeat_world::{
    RollupNode,
    forge::Forgery,
    rollup::{Call, Method, Misbehaviour},
};

fn simulation(scenario: &Scenario) -> Simulation {
    Simulation::new(scenario.clone())
}

fn id(simulation: &Simulation) -> RollupId {
    simulation.world.node_ids()[0]
}

fn node(simulation: &mut Simulation) -> &mut RollupNode {
    let id = id(simulation);
    simulation.world.rollups.get_mut(&id).expect("the node exists")
}

fn heads(simulation: &mut Simulation) -> (u64, u64) {
    let node = node(simulation);
    (node.soft().0, node.firm().0)
}

/// Steps until the condition holds, for at most two minutes of the world's time.
fn step_until(simulation: &mut Simulation, what: &str, holds: impl Fn(&mut Simulation) -> bool) {
    let end = simulation.now().after(Duration::from_mins(2));
    while !holds(simulation) {
        assert!(simulation.now() < end, "never: {what}; {:#?}", simulation.conductor().status(simulation.now()));
        simulation.step();
    }
}

fn step_for(simulation: &mut Simulation, time: Duration) {
    let end = simulation.now().after(time);
    while simulation.now() < end {
        simulation.step();
    }
}

fn parked(simulation: &Simulation) -> Option<String> {
    simulation.reports.iter().find_map(|report| match report {
        Report::Parked { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

#[test]
fn a_soft_block_of_other_content_than_the_firm_one_parks_the_cell_and_never_becomes_firm() {
    let forgeries = [
        Forgery::Transactions(Bytes::from_static(b"a lie")),
        Forgery::Later(1),
        Forgery::WithoutExtendedCommitInfo,
        Forgery::BlockHash(downbeat_core::BlockHash([9; 32])),
    ];
    for forgery in forgeries {
        let mut simulation = simulation(&Scenario::healthy(5, Mode::SoftAndFirm));
        // The first heights may have nothing of the rollup to lie about.
        simulation.world.sequencer.lie_about(SequencerHeight(8), Some(forgery.clone()));
        step_until(&mut simulation, "parked", |simulation| parked(simulation).is_some());
        let reason = parked(&simulation).expect("parked");
        assert!(reason.contains("soft and firm disagree at rollup block 8"), "{forgery:?}: {reason}");
        step_for(&mut simulation, Duration::from_secs(20));
        assert_eq!(heads(&mut simulation).1, 7, "{forgery:?}");
    }
}

#[test]
fn a_lie_is_still_known_when_the_session_was_lost_after_it() {
    let mut simulation = simulation(&Scenario::healthy(5, Mode::SoftAndFirm));
    simulation.world.sequencer.lie_about(SequencerHeight(8), Some(Forgery::Transactions(Bytes::from_static(b"a lie"))));
    step_until(&mut simulation, "soft has the lie", |simulation| heads(simulation).0 == 8);
    assert!(heads(&mut simulation).1 < 8, "before firm");
    node(&mut simulation).revoke_session();
    step_until(&mut simulation, "parked", |simulation| parked(simulation).is_some());
    assert!(parked(&simulation).expect("parked").contains("disagree at rollup block 8"));
    assert_eq!(heads(&mut simulation).1, 7);
}

#[test]
fn memory_that_the_rollup_contradicts_is_not_used() {
    let mut simulation = simulation(&Scenario::healthy(5, Mode::SoftAndFirm));
    simulation.world.sequencer.lie_about(SequencerHeight(4), Some(Forgery::Transactions(Bytes::from_static(b"a lie"))));
    step_until(&mut simulation, "soft has the lie", |simulation| heads(simulation).0 == 4);
    simulation.world.sequencer.lie_about(SequencerHeight(4), None);
    // The rollup is set back, and another process leads it past the height, by the truth.
    let mut other = Simulation::new(Scenario::healthy(5, Mode::SoftOnly));
    step_until(&mut other, "the other is ahead", |other| heads(other).0 == 6);
    let id = id(&other);
    let mut rollup = other.world.rollups.remove(&id).expect("the node exists");
    rollup.revoke_session();
    simulation.world.rollups.insert(id, rollup);
    step_until(&mut simulation, "firm goes on", |simulation| heads(simulation).1 >= 10 || parked(simulation).is_some());
    assert_eq!(parked(&simulation), None);
}

#[test]
fn a_rollup_that_breaks_the_contract_is_parked_and_told_nothing_more() {
    use Method::{ExecuteBlock, GetExecutedBlockMetadata, UpdateCommitmentState};
    let table = [
        (ExecuteBlock, Misbehaviour::NumberOff(1)),
        (ExecuteBlock, Misbehaviour::OtherParentHash),
        (ExecuteBlock, Misbehaviour::OtherSequencerHash),
        (ExecuteBlock, Misbehaviour::EmptyReply),
        (UpdateCommitmentState, Misbehaviour::OtherSoft),
        (UpdateCommitmentState, Misbehaviour::OtherFirm),
        (UpdateCommitmentState, Misbehaviour::OtherSearchHeight),
        (GetExecutedBlockMetadata, Misbehaviour::NumberOff(1)),
        (GetExecutedBlockMetadata, Misbehaviour::OtherParentHash),
        (GetExecutedBlockMetadata, Misbehaviour::OtherSequencerHash),
    ];
    for (method, misbehaviour) in table {
        // FirmOnly with soft ahead has to look every block up.
        let mode = if method == GetExecutedBlockMetadata { Mode::FirmOnly } else { Mode::SoftAndFirm };
        let mut simulation = simulation(&Scenario::healthy(5, Mode::SoftOnly));
        step_until(&mut simulation, "soft is ahead", |simulation| heads(simulation) == (3, 0));
        simulation.restart_as(mode);
        step_until(&mut simulation, "a session", |simulation| {
            node(simulation).trace().filter(|call| matches!(call, Call::Opened(_))).count() == 2
        });
        node(&mut simulation).misbehave(method, misbehaviour.clone(), 1);
        step_until(&mut simulation, "parked", |simulation| parked(simulation).is_some());
        let reason = parked(&simulation).expect("parked");
        assert!(
            reason.contains(&format!("answered wrongly to {method:?}")) || reason.contains("disagree"),
            "{method:?} {misbehaviour:?}: {reason}"
        );
        let calls = node(&mut simulation).trace().count();
        step_for(&mut simulation, Duration::from_secs(10));
        assert_eq!(node(&mut simulation).trace().count(), calls, "{method:?} {misbehaviour:?}");
    }
}

#[test]
fn soft_is_never_further_ahead_than_the_limit_and_reaches_it() {
    for limit in [0, 1, 5] {
        let mut scenario = Scenario::healthy(5, Mode::SoftAndFirm);
        scenario.tiny.soft_firm_spread = Some(limit);
        let mut simulation = simulation(&scenario);
        let mut widest = 0;
        let end = simulation.now().after(Duration::from_secs(30));
        while simulation.now() < end {
            simulation.step();
            let (soft, firm) = heads(&mut simulation);
            widest = widest.max(soft - firm);
        }
        assert_eq!(widest, limit.max(1), "with a limit of {limit}");
    }
}

#[test]
fn a_session_that_is_taken_away_again_and_again_is_asked_for_ever_more_slowly() {
    let mut scenario = Scenario::healthy(5, Mode::SoftOnly);
    scenario.tiny.session_delay_last_s = Some(30);
    let mut simulation = simulation(&scenario);
    let opened = |simulation: &mut Simulation| {
        node(simulation).trace().filter(|call| matches!(call, Call::Opened(Ok(_)))).count()
    };
    let mut known = 0;
    let end = simulation.now().after(Duration::from_mins(1));
    while simulation.now() < end {
        simulation.step();
        // Each session has made one step by then.
        if heads(&mut simulation).0 > known {
            known = heads(&mut simulation).0;
            node(&mut simulation).revoke_session();
        }
    }
    let opened = opened(&mut simulation);
    assert!((4..=12).contains(&opened), "{opened} sessions in a minute");
}

#[test]
fn a_header_that_one_cell_cannot_get_does_not_hold_up_another() {
    let mut scenario = Scenario { rollups: 2, ..Scenario::healthy(5, Mode::FirmOnly) };
    scenario.tiny.headers_in_flight = Some(1);
    let mut simulation = simulation(&scenario);
    step_until(&mut simulation, "both are under way", |simulation| {
        simulation.world.rollups.values().all(|node| node.firm().0 >= 25)
    });
    // The first rollup begins anew, and the sequencer no longer has the heights that it needs.
    let (first, second) = (simulation.world.node_ids()[0], simulation.world.node_ids()[1]);
    let config = simulation.world.rollups[&first].config().clone();
    simulation.world.rollups.insert(first, RollupNode::new(config));
    simulation.world.sequencer.prune(20);
    step_until(&mut simulation, "the second goes on", |simulation| simulation.world.rollups[&second].firm().0 >= 60);
    assert_eq!(simulation.world.rollups[&first].firm().0, 0);
}

#[test]
fn nothing_is_kept_for_a_cell_that_was_parked() {
    let mut simulation = simulation(&Scenario { rollups: 2, ..Scenario::healthy(5, Mode::SoftOnly) });
    step_until(&mut simulation, "soft moves", |simulation| heads(simulation).0 >= 5);
    // Both begin anew, so that there is much ahead of their heads.
    simulation.restart_as(Mode::SoftOnly);
    for node in simulation.world.rollups.values_mut() {
        *node = RollupNode::new(node.config().clone());
    }
    node(&mut simulation).misbehave(Method::ExecuteBlock, Misbehaviour::OtherParentHash, 1);
    step_until(&mut simulation, "parked", |simulation| parked(simulation).is_some());
    let state = format!("{:?}", simulation.conductor());
    assert!(state.contains("owners: {CellId(1)"), "the other cell goes on");
    assert!(!state.contains("owners: {CellId(0)"), "soft blocks are held for nobody");
}
