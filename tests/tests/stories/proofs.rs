//! A Celestia node that has to prove what it says: what it withholds is missed, and what it makes up is not believed.

use downbeat::{driver::Snapshot, status_line::StatusLine};
use downbeat_core::{
    CelestiaHeight, CellId, RollupId, celestia::Namespace, cell::Mode, command::Subject, light::Trust, view::Wait,
};
use downbeat_tests::{MODES, Stage, world};
use downbeat_world::{World, serve::Failure};

const STORY: u64 = 20;

/// What a namespace has in no row.
const NOTHING: &[u8] = b"null";

async fn stage() -> Stage {
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("celestia_trust", "consensus");
    stage
}

/// Why the first rollup waits for a proof, if it does.
fn unproven(snapshot: &Snapshot) -> Option<(CelestiaHeight, String)> {
    snapshot.status.cells.get(&CellId(0))?.waiting_for.iter().find_map(|wait| match wait {
        Wait::CelestiaProof { height, reason, .. } => Some((*height, reason.clone())),
        _ => None,
    })
}

fn refused(snapshot: &Snapshot) -> u64 {
    snapshot.status.dropped.get(&Subject::CelestiaBlock).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_node_is_followed_in_every_mode() {
    for mode in MODES {
        let stage = stage().await;
        let conductor = stage.conductor(mode);
        let (soft, firm) = (STORY, if mode.follows_firm() { STORY } else { 0 });
        conductor.reaches(soft, firm).await;
        let snapshot = conductor.snapshot().await;
        assert_eq!(snapshot.status.celestia.trust, Trust::Consensus);
        assert_eq!(refused(&snapshot), 0);
        conductor.stop().await;
        stage.assert_each_block_executed_once(soft, firm);
        let asked = |method| stage.net.hooks.celestia.count(method);
        assert_eq!(asked("blob.GetAll"), 0, "nothing is taken that is not proven");
        assert_eq!(asked("share.GetNamespaceData") > 0, mode.follows_firm());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_withholds_a_blob_is_waited_for_and_the_reason_is_said() {
    let stage = stage().await;
    let withheld = Failure::Garbage(NOTHING.to_vec());
    stage.net.hooks.celestia.fail(Some("share.GetNamespaceData"), u32::MAX, withheld);
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, 0).await;
    conductor.until_shown("three refusals", |snapshot| refused(snapshot) >= 3 && unproven(snapshot).is_some()).await;
    let snapshot = conductor.snapshot().await;
    let (height, reason) = unproven(&snapshot).expect("waited for");
    assert!(reason.contains("missing row"), "{reason}");
    let line = StatusLine(&snapshot.status).to_string();
    assert!(line.contains(&format!("proof of what lies in Celestia block {height} (try ")), "{line}");
    let is_full = |world: &mut World| world.celestia.block(height).is_some_and(|block| !block.blobs().is_empty());
    assert!(stage.with(is_full), "only a height at which there is something");
    stage.node(|node| assert_eq!(node.firm().0, 0, "no block is skipped"));
    stage.net.hooks.celestia.heal();
    conductor.reaches(STORY, STORY).await;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}

/// Under `endpoint` the same node hides the block for good: this is what the proofs are for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_believed_can_hide_a_block() {
    let mut stage = Stage::open(world(), STORY).await;
    stage.set("celestia_trust", "endpoint");
    let next = stage.with(|world| world.celestia.head().next());
    stage.net.hooks.celestia.fail(Some("blob.GetAll"), 40, Failure::Garbage(NOTHING.to_vec()));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, 0).await;
    stage.until("forty lies", |world| world.celestia.head() > CelestiaHeight(next.0 + 60)).await;
    let snapshot = conductor.snapshot().await;
    assert_eq!((refused(&snapshot), unproven(&snapshot)), (0, None), "and nobody is told");
    stage.node(|node| assert!(node.firm().0 < STORY));
    conductor.stop().await;
}

/// Anyone may post to the namespaces: what is proven is then decoded like any other blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_among_proven_blobs_stops_nothing() {
    let mut stage = Stage::open_with(world(), STORY, |world| {
        let id: RollupId = world.node_ids()[0];
        for namespace in [Namespace::of_rollup(&id), Namespace::of_sequencer(world.sequencer.chain_id())] {
            world.celestia.submit(namespace, vec![7; 5_000].into()).expect("postable");
        }
    })
    .await;
    stage.set("celestia_trust", "consensus");
    let conductor = stage.conductor(Mode::SoftAndFirm);
    conductor.reaches(STORY, STORY).await;
    let snapshot = conductor.snapshot().await;
    assert_eq!(refused(&snapshot), 0);
    assert!(snapshot.status.dropped.get(&Subject::Blob).copied().unwrap_or_default() > 0);
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);
}
