//! Puts a conductor, its adapters and its driver together, as a configuration says.

use std::{collections::BTreeMap, path::PathBuf};

use downbeat_core::{
    Conductor, Limits, Record,
    light::{RecordError, RootSetting},
};

use crate::{
    adapters::Adapters,
    celestia::Celestia,
    cometbft::CometBft,
    config::Config,
    connector::Network,
    driver::{Driver, Handle, Options, Workers},
    execution::Execution,
    genesis, journal,
    json_rpc::{BadToken, JsonRpcClient},
    sequencer::Sequencer,
    store::{Kept, Store, StoreError},
};

/// Bytes of one answer of a CometBFT node. A larger genesis is not needed: the status says the same.
const COMETBFT_BODY_MAX: usize = 32 << 20;

/// Why a configuration cannot be put to work.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("celestia.bearer_token: {0}")]
    Token(#[from] BadToken),
    #[error("an endpoint's host cannot stand in a request: {0}")]
    Host(#[from] http::uri::InvalidUri),
    #[error("sequencer.genesis_file {file}: {problem}")]
    Genesis { file: String, problem: String },
    #[error("journal.dir: {0}")]
    Journal(#[from] journal::OpenError),
    #[error("data_dir: {0}")]
    Store(#[from] StoreError),
    #[error("data_dir: record {key:?} in {path} cannot be read: {error}", path = .path.display())]
    Record { path: PathBuf, key: String, error: RecordError },
}

/// Connects to every peer of `config` through `network`. Connections are opened when first needed.
///
/// # Errors
/// When a token or a host cannot stand in a request.
pub fn adapters(config: &Config, network: &Network) -> Result<Adapters, NodeError> {
    let Config { sequencer, celestia, cells, limits, .. } = config;
    let mut cometbft = Vec::new();
    for url in std::iter::once(&sequencer.cometbft_url).chain(&sequencer.witness_urls) {
        let client = JsonRpcClient::new(network.clone(), url.clone(), None, COMETBFT_BODY_MAX)?;
        cometbft.push(CometBft::new(client, limits.validators, sequencer.requests_per_second));
    }
    let token = celestia.bearer_token.as_ref();
    let celestia = JsonRpcClient::new(network.clone(), celestia.url.clone(), token, celestia.body_limit)?;
    let sequencer = Sequencer::new(network.clone(), sequencer.grpc_url.clone(), limits.soft_block_bytes)?;
    let mut executions = BTreeMap::new();
    for (id, cell) in cells {
        executions.insert(*id, Execution::new(network.clone(), cell.execution_url.clone())?);
    }
    Ok(Adapters::new(sequencer, cometbft, Celestia::new(celestia), executions))
}

/// The limits that the conductor gets: with the genesis, if trust begins with a file.
///
/// # Errors
/// When the file cannot be read or is no root of trust.
pub fn limits(config: &Config) -> Result<Limits, NodeError> {
    let mut limits = config.limits.clone();
    if let Some(path) = &config.sequencer.genesis_file {
        let wrong = |problem| NodeError::Genesis { file: path.display().to_string(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        limits.trust.root = RootSetting::Genesis(Box::new(genesis::parse(&text).map_err(wrong)?));
        limits.trust.root(limits.validators).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(limits)
}

/// A driver that is ready to run, with its handle. `seed` feeds every random choice and must differ between lives of the
/// process. Goes on with what an earlier life kept in the data directory, and records into the journal's, if the
/// configuration names them.
///
/// # Errors
/// See [`adapters`]; and when the journal cannot be begun or the data directory cannot be used.
pub fn build(
    config: &Config,
    network: &Network,
    seed: [u8; 32],
    workers: Workers,
) -> Result<(Driver, Handle), NodeError> {
    let adapters = adapters(config, network)?;
    let limits = limits(config)?;
    let cells = config.cells.iter().map(|(id, cell)| (*id, cell.spec.clone())).collect();
    let store = config.data_dir.as_deref().map(Store::open).transpose()?;
    let records = store.as_ref().map(records).transpose()?.unwrap_or_default();
    let conductor = Conductor::new(limits.clone(), seed, &records);
    let options = Options { workers, ..Options::new(cells) };
    let header = journal::Header::new(&limits, seed, options.started_at).with_records(&records);
    let (mut driver, handle) = Driver::new(conductor, adapters, options);
    if let Some(journal) = &config.journal {
        driver.record_to(journal::open(&journal.directory, journal.bytes_max, header)?);
    }
    if let Some(store) = store {
        driver.keep_in(store);
    }
    Ok((driver, handle))
}

/// What earlier lives kept.
///
/// # Errors
/// When something is damaged or cannot be understood: nothing is guessed around it.
pub fn records(store: &Store) -> Result<Vec<Record>, NodeError> {
    let all = store.load()?.into_iter().map(|Kept { key, value }| {
        Record::decode(&key, &value).map_err(|error| NodeError::Record { path: store.path().to_owned(), key, error })
    });
    all.collect()
}
