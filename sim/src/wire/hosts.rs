//! The hosts: the real driver's, and those of the model servers.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
};

use downbeat::{
    config::Config,
    connector::Network,
    driver::{Driver, Handle, Observer, Options, Workers},
    journal, node,
    store::Store,
};
use downbeat_core::{Conductor, RollupId, Timestamp, cell::Mode, command::Exit};
use downbeat_world::{
    World,
    random::Random,
    serve::{Hooks, Shared, celestia, cometbft, execution, sequencer},
};
use tempfile::TempDir;
use turmoil::Sim;

use super::{
    network::{TurmoilConnector, TurmoilListener},
    run::lock,
    scenario::{Peer, WireScenario},
    trace::Trace,
};
use crate::Violation;

pub(super) const CONDUCTOR: &str = "conductor";

const SEQUENCER_PORT: u16 = 8080;
const COMETBFT_PORT: u16 = 26657;
const CELESTIA_PORT: u16 = 26658;
const EXECUTION_PORT: u16 = 50051;

/// Segments that a connection takes in before its sender waits, and connections that wait to be accepted. turmoil
/// panics where the latter is exceeded.
pub(super) const TCP_CAPACITY: usize = 10_000;

/// What the conductor's host leaves for the outside to see.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) lives: u64,
    pub(super) handle: Option<Handle>,
    pub(super) ended: Option<Result<Exit, String>>,
}

pub(super) fn config(scenario: &WireScenario) -> Result<Config, Violation> {
    let mode = match scenario.mode {
        Mode::SoftOnly => "SoftOnly",
        Mode::FirmOnly => "FirmOnly",
        Mode::SoftAndFirm => "SoftAndFirm",
    };
    let mut flags = vec![
        ("sequencer.grpc_url".to_owned(), format!("http://{}:{SEQUENCER_PORT}", Peer::Sequencer)),
        ("sequencer.cometbft_url".to_owned(), format!("http://{}:{COMETBFT_PORT}", Peer::Sequencer)),
        ("celestia.url".to_owned(), format!("http://{}:{CELESTIA_PORT}", Peer::Celestia)),
    ];
    for index in 0..scenario.rollups {
        let url = format!("http://{}:{EXECUTION_PORT}", Peer::Rollup(index));
        flags.extend([(format!("cell.{index}.execution_url"), url), (format!("cell.{index}.mode"), mode.to_owned())]);
    }
    let config = Config::load(None, [], &flags).map_err(|error| Violation::new("DRIVER", error.to_string()))?;
    Ok(Config { limits: scenario.limits.clone(), ..config })
}

/// What every life of the conductor begins with.
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) genesis: Timestamp,
    pub(super) config: Config,
    pub(super) journal: Option<PathBuf>,
    /// What outlives the conductor: its records. Gone with the run.
    pub(super) data: TempDir,
}

/// The host of the real driver. Its state lasts as long as one life; a new one starts with the records that are durable.
pub(super) fn add_conductor(
    sim: &mut Sim<'_>,
    plan: Rc<Plan>,
    connector: &TurmoilConnector,
    desk: &Rc<RefCell<Desk>>,
    trace: &Arc<Mutex<Trace>>,
) {
    let (desk, trace, connector) = (Rc::clone(desk), Arc::clone(trace), connector.clone());
    let lives = Cell::new(0);
    sim.host(CONDUCTOR, move || {
        let life = lives.replace(lives.get() + 1) + 1;
        let (plan, desk, trace) = (Rc::clone(&plan), Rc::clone(&desk), Arc::clone(&trace));
        let network = Network::plain(connector.clone());
        async move {
            let Plan { config, .. } = &*plan;
            let adapters = node::adapters(config, &network)?;
            let seed = Random::new(plan.seed, &format!("conductor, life {life}")).array();
            // Nobody else has it open: the life before let go of it when it ended, however it did.
            let store = Store::open(plan.data.path())?;
            let records = node::records(&store)?;
            let conductor = Conductor::new(node::limits(config)?, seed, &records);
            let cells = config.cells.iter().map(|(id, cell)| (*id, cell.spec.clone())).collect();
            let started_at = plan.genesis.after(turmoil::sim_elapsed().unwrap_or_default());
            let options = Options {
                cells,
                workers: Workers::Inline,
                started_at,
                observer: Some(Observer::new(move |input, outbox| lock(&trace).observe(life, input, outbox))),
            };
            let (mut driver, handle) = Driver::new(conductor, adapters, options);
            if let Some(directory) = &plan.journal {
                let header = journal::Header::new(&config.limits, seed, started_at).with_records(&records);
                driver.record_to(journal::open(directory, journal::BYTES_MAX, header)?);
            }
            driver.keep_in(store, &records);
            *desk.borrow_mut() = Desk { lives: life, handle: Some(handle), ended: None };
            let ended = driver.run().await;
            desk.borrow_mut().ended = Some(ended.map_err(|error| error.to_string()));
            Ok(())
        }
    });
}

/// The hosts of the model servers. The models live outside: they survive their servers.
pub(super) fn add_peers(sim: &mut Sim<'_>, world: &Shared<World>, ids: &[RollupId]) -> BTreeMap<Peer, Vec<Hooks>> {
    let mut all = BTreeMap::new();
    let never = std::future::pending::<()>;
    let (hooks, cometbft_hooks, served) = (Hooks::default(), Hooks::default(), world.clone());
    all.insert(Peer::Sequencer, vec![hooks.clone(), cometbft_hooks.clone()]);
    sim.host(Peer::Sequencer.to_string(), move || {
        let (hooks, cometbft_hooks, world) = (hooks.clone(), cometbft_hooks.clone(), served.clone());
        async move {
            let listener = TurmoilListener::bind(SEQUENCER_PORT).await?;
            let cometbft_listener = TurmoilListener::bind(COMETBFT_PORT).await?;
            tokio::join!(
                biased;
                sequencer::serve(listener, world.clone(), hooks, never()),
                cometbft::serve(cometbft_listener, world.clone(), cometbft_hooks, never()),
            );
            Ok(())
        }
    });
    let (hooks, served) = (Hooks::default(), world.clone());
    all.insert(Peer::Celestia, vec![hooks.clone()]);
    sim.host(Peer::Celestia.to_string(), move || {
        let (hooks, world) = (hooks.clone(), served.clone());
        async move {
            let listener = TurmoilListener::bind(CELESTIA_PORT).await?;
            celestia::serve(listener, world, None, hooks, never()).await;
            Ok(())
        }
    });
    for (index, id) in (0..).zip(ids.iter().copied()) {
        let (hooks, served) = (Hooks::default(), world.clone());
        all.insert(Peer::Rollup(index), vec![hooks.clone()]);
        sim.host(Peer::Rollup(index).to_string(), move || {
            let (hooks, world) = (hooks.clone(), served.clone());
            async move {
                let listener = TurmoilListener::bind(EXECUTION_PORT).await?;
                execution::serve(listener, world, id, hooks, never()).await;
                Ok(())
            }
        });
    }
    all
}
