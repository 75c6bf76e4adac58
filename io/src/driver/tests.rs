use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use downbeat_core::Limits;
use downbeat_world::{
    WorldConfig,
    serve::{Devnet, DevnetConfig, DevnetHandle},
};

use super::*;
use crate::{
    config::Config,
    connector::{Network, TcpConnector},
    journal, node,
};

async fn devnet(rollups: u32) -> DevnetHandle {
    let world = WorldConfig {
        block_time: Duration::from_millis(20),
        celestia_block_time: Duration::from_millis(50),
        da_delay: Duration::from_millis(50),
        rollups,
        ..WorldConfig::default()
    };
    Devnet::start(DevnetConfig { world, ..DevnetConfig::default() }).await.unwrap()
}

fn driver(flags: &[(&str, &str)], workers: Workers) -> (Driver, Handle) {
    let flags: Vec<_> = flags.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
    let config = Config::load(None, [], &flags).unwrap();
    node::build(&config, &Network::plain(TcpConnector), [7; 32], workers).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_on_sockets_is_followed_until_a_stop_is_asked_for() {
    for workers in [Workers::Threads, Workers::Inline] {
        let devnet = devnet(2).await;
        let urls = &devnet.urls;
        let (driver, handle) = driver(
            &[
                ("sequencer.grpc_url", &urls.sequencer_grpc),
                ("sequencer.cometbft_url", &urls.cometbft),
                ("celestia.url", &urls.celestia),
                ("cell.0.execution_url", &urls.executions[0]),
                ("cell.1.execution_url", &urls.executions[1]),
                ("limits.sequencer_poll", "10ms"),
                ("limits.celestia_poll", "10ms"),
                ("limits.celestia_poll_min", "10ms"),
            ],
            workers,
        );
        let running = tokio::spawn(driver.run());
        let enough = |snapshot: &Option<Arc<Snapshot>>| {
            let cells = snapshot.iter().flat_map(|snapshot| snapshot.status.cells.values());
            let firm: Vec<_> = cells.map(|cell| cell.firm.as_ref().map_or(0, |head| head.number.0)).collect();
            firm.len() == 2 && firm.iter().all(|number| *number >= 5)
        };
        let mut snapshots = handle.snapshots();
        let reached = tokio::time::timeout(Duration::from_secs(20), snapshots.wait_for(enough)).await;
        let snapshot = reached.expect("five blocks become firm in time").unwrap().clone().unwrap();
        assert!(snapshot.counters.blocks_executed >= 10, "{:?}", snapshot.counters);
        assert_eq!(snapshot.counters.dropped.values().sum::<u64>(), 0, "{:?}", snapshot.counters);

        handle.stop();
        let exit = tokio::time::timeout(Duration::from_secs(5), running).await.unwrap().unwrap();
        assert_eq!(exit.unwrap(), Exit::Stopped);
        devnet.shutdown().await;
    }
}

#[tokio::test]
async fn a_stop_is_quick_even_when_peers_take_calls_and_never_answer() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let flags = ["sequencer.grpc_url", "sequencer.cometbft_url", "celestia.url", "cell.0.execution_url"];
    let (driver, handle) = driver(&flags.map(|path| (path, url.as_str())), Workers::Threads);
    let running = tokio::spawn(driver.run());
    handle.snapshots().wait_for(Option::is_some).await.unwrap();
    handle.stop();
    let exit = tokio::time::timeout(STOP_PATIENCE + Duration::from_secs(1), running).await.unwrap().unwrap();
    assert_eq!(exit.unwrap(), Exit::Stopped);
}

#[tokio::test]
async fn a_call_without_an_answer_fails_at_its_deadline_and_is_made_again() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (driver, handle) = driver(
        &[
            ("sequencer.cometbft_url", &url),
            ("celestia.url", &url),
            ("cell.0.execution_url", &url),
            ("limits.fetch_deadline", "30ms"),
            ("limits.execution_deadline", "30ms"),
            ("limits.backoff_first", "1ms"),
        ],
        Workers::Threads,
    );
    let running = tokio::spawn(driver.run());
    let mut snapshots = handle.snapshots();
    let failed = |snapshot: &Option<Arc<Snapshot>>| {
        snapshot.as_ref().is_some_and(|snapshot| snapshot.counters.failed_calls >= 4)
    };
    tokio::time::timeout(Duration::from_secs(10), snapshots.wait_for(failed)).await.unwrap().unwrap();
    handle.stop();
    assert_eq!(running.await.unwrap().unwrap(), Exit::Stopped);
}

#[test]
fn the_event_at_which_performing_panics_is_recorded() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut driver, _handle) = runtime.block_on(async {
        let url = "http://127.0.0.1:1";
        let flags = ["sequencer.grpc_url", "sequencer.cometbft_url", "celestia.url", "cell.0.execution_url"];
        driver(&flags.map(|flag| (flag, url)), Workers::Inline)
    });
    let header = journal::Header::new(&Limits::default(), [7; 32], Timestamp::ZERO);
    let writer = Arc::new(Mutex::new(journal::Writer::new(Vec::new(), &header).unwrap()));
    driver.record_to(Arc::clone(&writer));
    let installation = driver.ready.pop_front().unwrap();
    // Outside of the runtime there is no clock for a call's deadline.
    catch_unwind(AssertUnwindSafe(move || driver.step(installation))).expect_err("a panic, with which the driver goes");
    let file = Arc::into_inner(writer).unwrap().into_inner().unwrap().into_inner().unwrap();
    let entries: Vec<_> = journal::Reader::new(file.as_slice()).unwrap().map(Result::unwrap).collect();
    let [Entry { seq: Seq(0), outbox: Some(outbox), .. }] = entries.as_slice() else { panic!("{entries:?}") };
    assert!(!outbox.kinds.is_empty(), "the core came back from it");
}
