//! Peers that do not tell the truth: a sequencer's service at odds with Celestia, other chains than expected, and rollup
//! nodes that answer wrongly. What cannot be trusted parks the rollup with evidence, and never becomes a commitment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use downbeat::driver::Snapshot;
use downbeat_core::{
    BlockHash, Limits, RollupNumber, SequencerHeight,
    cell::Mode,
    command::Subject,
    inspect::{Proven, inspect_evidence},
    sequencer::{BlockFalsehood, FalseBlock},
};
use downbeat_tests::{MODES, OFFSET, Stage, world};
use downbeat_world::{
    RollupNode, WorldConfig,
    forge::{Forgery, sequenced},
    rollup::{Call, Method, Misbehaviour, SequencerHash},
    sequencer::Block,
    serve::Failure,
};
use prost::Message as _;

const STORY: u64 = 20;

/// Number of the rollup block about which the sequencer's service lies.
const LIE: u64 = 8;

fn lie_about(stage: &Stage, number: u64, forgery: Forgery) {
    stage.with(|world| world.sequencer.lie_about(SequencerHeight(number + OFFSET), Some(forgery)));
}

/// The lie was executed softly, and the rollup was parked when Celestia told the truth.
#[track_caller]
fn assert_the_lie_never_became_firm(stage: &Stage, reason: &str) {
    assert!(reason.contains(&format!("disagree at rollup block {LIE}")), "{reason}");
    assert!(reason.contains(&format!("sequencer height {}", LIE + OFFSET)), "{reason}");
    let truth = stage.with(|world| world.sequencer.block(SequencerHeight(LIE + OFFSET)).map(Block::hash));
    assert!(reason.contains(&truth.expect("made").to_string()), "names what Celestia has: {reason}");
    let violation = stage.judge().expect_err("a lie was executed");
    assert!(violation.detail.contains(&format!("height {} ", LIE + OFFSET)), "only that one: {}", violation.detail);
    stage.node(|node| assert_eq!(node.firm().0, LIE - 1, "firm stays below the lie"));
    assert!(!commits_firm(stage, LIE), "no commitment was even asked for");
}

/// Whether any commitment asked for firm at `number` or above.
fn commits_firm(stage: &Stage, number: u64) -> bool {
    stage.trace().iter().any(|call| match call {
        Call::Updated(request, _) => request
            .commitment_state
            .as_ref()
            .and_then(|state| state.firm_executed_block_metadata.as_ref())
            .is_some_and(|firm| firm.number >= number),
        _ => false,
    })
}

/// A stage whose conductors believe the sequencer's service until firm comes by.
async fn believing(world: WorldConfig) -> Stage {
    let mut stage = Stage::open(world, STORY).await;
    stage.set("soft_trust", "sequencer");
    stage
}

/// Runs until everything up to the lie and some more is soft, with nothing on Celestia; then lets Celestia speak.
async fn conflict(forgery: Forgery) {
    let stage = believing(world()).await;
    stage.with(|world| world.relayer.pause(true));
    lie_about(&stage, LIE, forgery);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(LIE + 2, 0).await;
    stage.with(|world| world.relayer.pause(false));
    let reason = conductor.parked().await;
    assert_the_lie_never_became_firm(&stage, &reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_blocks_with_other_transactions_than_firm_park_the_rollup() {
    conflict(Forgery::Transactions(sequenced(b"a lie".to_vec()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_blocks_of_another_hash_than_firm_park_the_rollup() {
    conflict(Forgery::BlockHash(BlockHash([7; 32]))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_blocks_without_the_rollups_data_park_the_rollup() {
    let mut full = world();
    full.contents.absent_rollup_percent = 0;
    full.contents.empty_block_percent = 0;
    let stage = believing(full).await;
    stage.with(|world| world.relayer.pause(true));
    let id = stage.with(|world| world.node_ids()[0]);
    lie_about(&stage, LIE, Forgery::WithoutRollup(id));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(LIE + 2, 0).await;
    stage.with(|world| world.relayer.pause(false));
    let reason = conductor.parked().await;
    assert_the_lie_never_became_firm(&stage, &reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conductor_that_starts_after_the_lie_finds_it_by_the_hash_that_the_node_stores() {
    for sequencer_hash in [SequencerHash::Plain, SequencerHash::Prefixed] {
        let mut world = world();
        world.node.sequencer_hash = sequencer_hash;
        let stage = believing(world).await;
        stage.with(|world| world.relayer.pause(true));
        lie_about(&stage, LIE, Forgery::BlockHash(BlockHash([7; 32])));
        let conductor = stage.conductor(Mode::SoftAndFirm);
        conductor.reaches(LIE + 2, 0).await;
        conductor.stop().await;
        stage.with(|world| world.relayer.pause(false));
        let reason = stage.conductor(Mode::SoftAndFirm).parked().await;
        assert_the_lie_never_became_firm(&stage, &reason);
        assert!(reason.contains(&"07".repeat(32)), "names what was executed: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conductor_whose_session_was_lost_after_the_lie_still_knows_what_it_executed() {
    for restart in [false, true] {
        let stage = believing(world()).await;
        stage.with(|world| world.relayer.pause(true));
        lie_about(&stage, LIE, Forgery::Transactions(sequenced(b"a lie".to_vec())));
        let conductor = stage.conductor(Mode::SoftAndFirm);
        conductor.reaches(LIE + 2, 0).await;
        stage.node(if restart { RollupNode::restart } else { RollupNode::revoke_session });
        conductor.reaches(LIE + 4, 0).await;
        stage.with(|world| world.relayer.pause(false));
        let reason = conductor.parked().await;
        assert_the_lie_never_became_firm(&stage, &reason);
    }
}

/// S9 across a restart: nothing is executed that no header binds, so nothing has to be remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conductor_that_starts_after_a_lie_about_the_content_finds_it() {
    let stage = Stage::open(world(), STORY).await;
    stage.with(|world| world.relayer.pause(true));
    lie_about(&stage, LIE, Forgery::Transactions(sequenced(b"a lie".to_vec())));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    let is_dropped = |shown: &Snapshot| shown.counters.dropped.contains_key(&Subject::SoftBlock);
    conductor.until_shown("a dropped soft block", is_dropped).await;
    conductor.reaches(LIE - 1, 0).await;
    conductor.stop().await;
    stage.with(|world| world.relayer.pause(false));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_of_the_sequencers_service_is_not_executed_and_firm_brings_the_truth() {
    for lie in 0..3 {
        let mut full = world();
        full.contents.absent_rollup_percent = 0;
        full.contents.empty_block_percent = 0;
        let stage = Stage::open(full, STORY).await;
        stage.with(|world| world.relayer.pause(true));
        let forgery = match lie {
            0 => Forgery::Transactions(sequenced(b"a lie".to_vec())),
            1 => Forgery::BlockHash(BlockHash([7; 32])),
            _ => Forgery::WithoutRollup(stage.with(|world| world.node_ids()[0])),
        };
        lie_about(&stage, LIE, forgery);
        let conductor = stage.conductor(Mode::SoftAndFirm);
        let is_dropped = |shown: &Snapshot| shown.counters.dropped.contains_key(&Subject::SoftBlock);
        conductor.until_shown("a dropped soft block", is_dropped).await;
        conductor.reaches(LIE - 1, 0).await;
        stage.with(|world| world.relayer.pause(false));
        conductor.reaches(STORY, STORY).await;
        conductor.stop().await;
        stage.assert_each_block_executed_once(STORY, STORY);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firm_only_does_not_care_what_the_sequencers_service_says() {
    let stage = Stage::open(world(), STORY).await;
    for number in 1..=STORY {
        lie_about(&stage, number, Forgery::Transactions(sequenced(b"a lie".to_vec())));
    }
    let conductor = stage.conductor(Mode::FirmOnly);
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_blocks_that_contradict_themselves_are_dropped_and_firm_goes_on() {
    for forgery in [Forgery::Height(3), Forgery::ChainId("another-chain".to_owned())] {
        let stage = Stage::open(world(), 0).await;
        stage.with(|world| world.relayer.pause(true));
        lie_about(&stage, LIE, forgery);
        stage.go_on_to(STORY);
        let conductor = stage.conductor(Mode::SoftAndFirm);
        let is_dropped = |shown: &Snapshot| shown.counters.dropped.contains_key(&Subject::SoftBlock);
        conductor.until_shown("a dropped soft block", is_dropped).await;
        conductor.reaches(LIE - 1, 0).await;
        stage.assert_each_block_executed_once(LIE - 1, 0);
        stage.with(|world| world.relayer.pause(false));
        conductor.reaches(STORY, STORY).await;
        conductor.stop().await;
        stage.assert_each_block_executed_once(STORY, STORY);
    }
}

/// Nothing was executed or committed.
#[track_caller]
fn assert_untouched(stage: &Stage) {
    let touched = stage.trace().into_iter().find(|call| matches!(call, Call::Executed(..) | Call::Updated(..)));
    assert_eq!(touched, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sequencer_chain_than_the_rollup_expects_ends_the_conductor_before_anything_is_executed() {
    for mode in MODES {
        for slow in [false, true] {
            let stage = Stage::open(world(), STORY).await;
            stage.node(|node| node.config_mut().sessions[0].sequencer_chain_id = "expected-sequencer".to_owned());
            if slow {
                // Everything else is there by the time the chain is known.
                for method in ["status", "genesis"] {
                    stage.net.hooks.cometbft.delay(Some(method), Duration::from_millis(300));
                }
            }
            let reason = stage.conductor(mode).parked().await;
            assert!(reason.contains("\"expected-sequencer\""), "{mode:?}: {reason}");
            assert!(reason.contains("\"downbeat-sequencer\""), "{mode:?}: {reason}");
            assert_untouched(&stage);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_celestia_chain_than_the_rollup_expects_ends_the_conductor_before_anything_is_executed() {
    for mode in [Mode::FirmOnly, Mode::SoftAndFirm] {
        for slow in [false, true] {
            let stage = Stage::open(world(), STORY).await;
            stage.node(|node| node.config_mut().sessions[0].celestia_chain_id = "expected-celestia".to_owned());
            if slow {
                stage.net.hooks.celestia.delay(Some("header.NetworkHead"), Duration::from_millis(300));
            }
            let reason = stage.conductor(mode).parked().await;
            assert!(reason.contains("\"expected-celestia\""), "{mode:?}: {reason}");
            assert!(reason.contains("\"downbeat-celestia\""), "{mode:?}: {reason}");
            assert_untouched(&stage);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_only_does_not_care_which_celestia_there_is() {
    let stage = Stage::open(world(), STORY).await;
    stage.node(|node| node.config_mut().sessions[0].celestia_chain_id = "expected-celestia".to_owned());
    let conductor = stage.conductor(Mode::SoftOnly);
    conductor.reaches(STORY, 0).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_chain_than_the_operator_expects_ends_the_conductor_before_anything_is_executed() {
    for (setting, actual) in [("sequencer", "downbeat-sequencer"), ("celestia", "downbeat-celestia")] {
        let mut stage = Stage::open(world(), STORY).await;
        stage.set(&format!("cell.0.expected_{setting}_chain_id"), "main-street");
        let reason = stage.conductor(Mode::SoftAndFirm).parked().await;
        assert!(reason.contains("\"main-street\"") && reason.contains(actual), "{reason}");
        assert_untouched(&stage);
    }
}

/// The node answers wrongly to one call of `method` after block 5: that is the last it is asked for.
async fn parks_after(method: Method, lie: Misbehaviour) -> Stage {
    let stage = Stage::open(world(), 5).await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(5, 5).await;
    stage.node(|node| node.misbehave(method, lie.clone(), 1));
    stage.go_on_to(STORY);
    let reason = conductor.parked().await;
    assert!(reason.contains(&format!("answered wrongly to {method:?}")), "{method:?} {lie:?}: {reason}");
    let trace = stage.trace();
    let last = match trace.last() {
        Some(Call::Executed(_, Ok(_))) => Method::ExecuteBlock,
        Some(Call::Updated(_, Ok(_))) => Method::UpdateCommitmentState,
        Some(Call::Fetched(_, Ok(_))) => Method::GetExecutedBlockMetadata,
        last => panic!("{method:?} {lie:?}: {last:?}"),
    };
    assert_eq!(last, method, "{lie:?}: nothing follows the wrong answer");
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_node_that_executes_another_block_than_it_was_told_is_never_told_to_commit_it() {
    for lie in [
        Misbehaviour::NumberOff(1),
        Misbehaviour::NumberOff(u64::MAX),
        Misbehaviour::OtherParentHash,
        Misbehaviour::OtherSequencerHash,
        Misbehaviour::EmptyReply,
    ] {
        let stage = parks_after(Method::ExecuteBlock, lie).await;
        stage.assert_all_but_the_last_were_committed();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_node_that_echoes_another_commitment_gets_no_further_block() {
    for lie in [
        Misbehaviour::OtherSoft,
        Misbehaviour::OtherFirm,
        Misbehaviour::OtherSearchHeight,
        Misbehaviour::NumberOff(1),
        Misbehaviour::EmptyReply,
    ] {
        let stage = parks_after(Method::UpdateCommitmentState, lie).await;
        let (soft, firm) = stage.node(|node| (node.soft().0, node.firm().0));
        stage.assert_each_block_executed_once(soft, firm);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_node_that_invents_the_hash_of_its_block_cannot_have_it_committed() {
    let stage = Stage::open(world(), 5).await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(5, 5).await;
    stage.node(|node| node.misbehave(Method::ExecuteBlock, Misbehaviour::OtherHash, 1));
    stage.go_on_to(STORY);
    let reason = conductor.parked().await;
    assert!(reason.contains("refused"), "{reason}");
    assert!(matches!(stage.trace().last(), Some(Call::Updated(_, Err(_)))), "the node itself refuses what it invented");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_node_that_shows_another_block_than_it_executed_does_not_get_it_confirmed() {
    for lie in [
        Misbehaviour::NumberOff(1),
        Misbehaviour::OtherParentHash,
        Misbehaviour::OtherSequencerHash,
        Misbehaviour::EmptyReply,
    ] {
        // Given blocks that an earlier conductor executed.
        let stage = Stage::open(world(), 6).await;
        stage.with(|world| world.relayer.pause(true));
        let conductor = stage.conductor(Mode::SoftAndFirm);
        conductor.reaches(6, 0).await;
        conductor.stop().await;

        // When the node shows another one at number 1.
        stage.with(|world| world.relayer.pause(false));
        stage.node(|node| node.misbehave(Method::GetExecutedBlockMetadata, lie.clone(), 1));
        let reason = stage.conductor(Mode::SoftAndFirm).parked().await;

        // Then it is not confirmed.
        let expected = if lie == Misbehaviour::OtherSequencerHash { "disagree" } else { "GetExecutedBlockMetadata 1" };
        assert!(reason.contains(expected), "{lie:?}: {reason}");
        stage.assert_each_block_executed_once(6, 0);
        assert!(matches!(stage.trace().last(), Some(Call::Fetched(_, Ok(_)))), "{lie:?}: nothing follows it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_contradicts_itself_is_not_worked_with() {
    for lie in [Misbehaviour::EmptyReply, Misbehaviour::OtherSoft, Misbehaviour::OtherFirm] {
        let stage = Stage::open(world(), STORY).await;
        stage.node(|node| node.misbehave(Method::CreateExecutionSession, lie.clone(), 1));
        let reason = stage.conductor(Mode::SoftAndFirm).parked().await;
        assert!(reason.contains("session cannot be used"), "{lie:?}: {reason}");
        assert_untouched(&stage);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_that_is_parked_leaves_the_others_alone() {
    let mut two = world();
    two.rollups = 2;
    let stage = Stage::open(two, 5).await;
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(5, 5).await;
    stage.node(|node| node.misbehave(Method::ExecuteBlock, Misbehaviour::NumberOff(1), 1));
    stage.go_on_to(STORY);
    let other = stage.with(|world| world.node_ids()[1]);
    let is_through = |world: &downbeat_world::World| world.rollups[&other].firm() == RollupNumber(STORY);
    conductor.until("the other rollup to be through", is_through).await;
    let parked = conductor.snapshot().await.counters.parked;
    assert_eq!(parked.len(), 1, "{parked:?}");
    conductor.stop().await;
    stage.judge().expect("what was done was right");
    let executed = stage.with(|world| downbeat_tests::executed(&world.rollups[&other]));
    assert_eq!(executed, (1..=STORY).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_node_whose_answer_cannot_be_decoded_gets_nothing_more() {
    for method in ["ExecuteBlock", "UpdateCommitmentState", "CreateExecutionSession"] {
        let stage = Stage::open(world(), 5).await;
        let conductor = stage.conductor(Mode::SoftAndFirm);
        conductor.reaches(5, 5).await;
        stage.execution().fail(Some(method), 1, Failure::Garbage(vec![0xff; 40]));
        if method == "CreateExecutionSession" {
            stage.node(RollupNode::revoke_session);
        }
        stage.go_on_to(STORY);
        let reason = conductor.parked().await;
        assert!(reason.contains("refused the"), "{method}: {reason}");
        if method == "UpdateCommitmentState" {
            stage.assert_all_but_the_last_were_committed();
        } else {
            stage.assert_each_block_executed_once(5, 5);
        }
    }
}

fn evidence_in(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_soft_block_leaves_evidence_that_anybody_can_check() {
    for (forgery, reason) in [
        (Forgery::Transactions(sequenced(b"a lie".to_vec())), BlockFalsehood::OtherData),
        (Forgery::BlockHash(BlockHash([7; 32])), BlockFalsehood::OtherHash),
        (Forgery::Later(1), BlockFalsehood::OtherHeader),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut full = world();
        full.contents.absent_rollup_percent = 0;
        let mut stage = Stage::open(full, STORY).await;
        stage.set("data_dir", &folder.path().display().to_string());
        lie_about(&stage, LIE, forgery);
        let conductor = stage.conductor(Mode::SoftOnly);
        let is_kept = |shown: &Snapshot| shown.counters.falsehoods > 0 && !evidence_in(folder.path()).is_empty();
        conductor.until_shown("evidence", is_kept).await;
        // Nothing stops for it: as soon as the service tells the truth, all goes on.
        stage.node(|node| assert_eq!(node.soft().0, LIE - 1, "nothing of it is believed"));
        let height = SequencerHeight(LIE + OFFSET);
        stage.with(|world| world.sequencer.lie_about(height, None));
        conductor.reaches(STORY, 0).await;
        assert_eq!(conductor.snapshot().await.counters.falsehoods, 1, "one is enough");
        conductor.stop().await;
        stage.assert_each_block_executed_once(STORY, 0);

        let files = evidence_in(folder.path());
        let [file] = &files[..] else { panic!("one file: {files:?}") };
        assert!(file.ends_with(format!("evidence-sequencer-{height}-{reason}.json")), "{}", file.display());
        let bytes = std::fs::read(file).expect("the evidence");
        let proven = inspect_evidence(&bytes, &Limits::default()).expect("it holds offline");
        let Proven::FalseBlock(proven) = proven else { panic!("{proven:?}") };
        let genuine = stage.with(|world| world.sequencer.block(height).map(Block::hash));
        assert_eq!((proven.reason, Some(proven.header.hash)), (reason, genuine));

        // Whoever puts the truth in its place shows nothing any more.
        let mut mended = FalseBlock::from_json(&bytes).expect("evidence");
        let ids = stage.with(|world| world.node_ids().to_vec());
        let truth = stage.with(|world| world.sequencer.filtered_block(height, &ids)).expect("made");
        mended.block = truth.encode_to_vec().into();
        let refused = inspect_evidence(mended.to_json().as_bytes(), &Limits::default()).expect_err("that is true");
        assert!(refused.to_string().contains("proves nothing"), "{refused}");

        // The next life has it still; a file that was lost is written again.
        std::fs::remove_file(file).expect("there");
        stage.conductor(Mode::SoftOnly).stop().await;
        assert_eq!(evidence_in(folder.path()), files);
    }
}
