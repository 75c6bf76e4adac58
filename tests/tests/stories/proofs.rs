//! A Celestia node that has to prove what it says: what it withholds is missed, and what it makes up is not believed.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use downbeat::{driver::Snapshot, status_line::StatusLine};
use downbeat_core::{
    CelestiaHeight, CellId, Limits, RollupId,
    celestia::{FalseAnswer, FalseNamespaces, Namespace, ProvenFalsehood, square::NamespacedHash},
    cell::Mode,
    command::Subject,
    inspect::{InspectError, Proven, inspect_evidence},
    light::Trust,
    view::Wait,
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

/// A Celestia block in which the sequencer has published something.
fn published(world: &World) -> Option<CelestiaHeight> {
    let namespace = Namespace::of_sequencer(world.sequencer.chain_id());
    let holds = |height: &CelestiaHeight| {
        world.celestia.blobs(*height, &[namespace]).is_some_and(|mut all| all.next().is_some())
    };
    (world.celestia.tail().0..=world.celestia.head().0).map(CelestiaHeight).find(holds)
}

/// What a node answers for the sequencer's namespace at `height` if it changes the last byte of each share.
fn forged_rows(world: &World, height: CelestiaHeight) -> Vec<u8> {
    let namespace = Namespace::of_sequencer(world.sequencer.chain_id());
    let node = |node: &NamespacedHash| STANDARD.encode(node.as_bytes());
    let forged = |share: &[u8]| {
        let mut share = share.to_vec();
        *share.last_mut().expect("a share") ^= 1;
        STANDARD.encode(share)
    };
    let rows = world.celestia.square(height).expect("a square").namespace(namespace).rows;
    let rows = rows.iter().map(|row| {
        serde_json::json!({
            "shares": row.shares.iter().map(|share| forged(share)).collect::<Vec<_>>(),
            "proof": {
                "start": row.proof.start,
                "end": row.proof.end,
                "nodes": row.proof.nodes.iter().map(node).collect::<Vec<_>>(),
                "leaf_hash": row.proof.absence.as_ref().map(node),
                "is_max_namespace_ignored": true,
            },
        })
    });
    serde_json::Value::from(rows.collect::<Vec<_>>()).to_string().into_bytes()
}

fn evidence_in(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

/// What `downbeat inspect evidence` says of a file.
fn proven(bytes: &[u8]) -> Result<ProvenFalsehood, InspectError> {
    match inspect_evidence(bytes, &Limits::default())? {
        Proven::FalseNamespaces(proven) => Ok(proven),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_forges_shares_leaves_evidence_that_anybody_can_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = stage().await;
    stage.set("data_dir", &folder.path().display().to_string());
    stage.until("something published", |world| published(world).is_some()).await;
    let rows = stage.with(|world| published(world).map(|height| forged_rows(world, height)).expect("published"));
    stage.net.hooks.celestia.fail(Some("share.GetNamespaceData"), u32::MAX, Failure::Garbage(rows));
    let conductor = stage.conductor(Mode::SoftAndFirm);
    let forged =
        || evidence_in(folder.path()).into_iter().find(|path| path.display().to_string().contains("-forged_shares"));
    conductor.until_shown("evidence", |shown| shown.counters.falsehoods > 0 && forged().is_some()).await;
    // Nothing stops for it: as soon as the node is honest again, all goes on.
    stage.node(|node| assert_eq!(node.firm().0, 0, "nothing of it is believed"));
    stage.net.hooks.celestia.heal();
    conductor.reaches(STORY, STORY).await;
    let counted = conductor.snapshot().await.counters.falsehoods;
    conductor.stop().await;
    stage.assert_each_block_executed_once(STORY, STORY);

    let files = evidence_in(folder.path());
    assert_eq!(files.len() as u64, counted, "one for each way to be false: {files:?}");
    for file in &files {
        let proven = proven(&std::fs::read(file).expect("the evidence")).expect("it holds offline");
        let name = format!("evidence-celestia-{}-{}.json", proven.height, proven.reason);
        assert!(file.ends_with(name), "{}", file.display());
        let genuine = |world: &mut World| {
            world.celestia.block(CelestiaHeight(proven.height)).map(|block| block.signed_header.header.hash())
        };
        assert_eq!(stage.with(genuine).map(|hash| hash.as_bytes().to_vec()), Some(proven.header.hash.0.to_vec()));
        assert_eq!(proven.header.power_signed, proven.header.power_total, "all validators signed the header");
    }
    // Whoever changes it shows nothing any more.
    let bytes = std::fs::read(forged().expect("found before")).expect("the evidence");
    let mut mended = FalseNamespaces::from_json(&bytes).expect("evidence");
    let Some(FalseAnswer::Row { row, index, namespace }) = mended.answer else { panic!("a row") };
    let honest = |world: &mut World| {
        let square = world.celestia.square(CelestiaHeight(mended.height)).expect("a square");
        let rows: Vec<usize> = mended.roots.rows_covering(&namespace).map(|(row, _)| row).collect();
        let place = rows.iter().position(|row| *row == index).expect("a row that may hold it");
        square.namespace(namespace).rows[place].clone()
    };
    let honest = stage.with(honest);
    assert_ne!(row, honest);
    mended.answer = Some(FalseAnswer::Row { row: honest, index, namespace });
    let refused = proven(mended.to_json().as_bytes()).expect_err("that is true");
    assert!(refused.to_string().contains("what was answered is true"), "{refused}");
    let other = String::from_utf8(bytes).expect("JSON").replacen("\"round\": 0", "\"round\": 1", 1);
    let refused = proven(other.as_bytes()).expect_err("nobody signed that");
    assert!(refused.to_string().contains("is not committed"), "{refused}");

    // The next life has them still; what was lost of the files is written again.
    std::fs::remove_file(&files[0]).expect("there");
    stage.conductor(Mode::SoftAndFirm).stop().await;
    assert_eq!(evidence_in(folder.path()).len(), files.len());
}
