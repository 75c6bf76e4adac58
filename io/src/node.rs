//! Puts a conductor, its adapters and its driver together, as a configuration says.

use std::collections::BTreeMap;

use downbeat_core::{Conductor, Limits};

use crate::{
    adapters::Adapters,
    celestia::Celestia,
    cometbft::CometBft,
    config::Config,
    connector::Network,
    driver::{Driver, Handle, Options, Workers},
    execution::Execution,
    journal,
    json_rpc::{BadToken, JsonRpcClient},
    sequencer::Sequencer,
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
    #[error("journal.dir: {0}")]
    Journal(#[from] journal::OpenError),
}

/// Connects to every peer of `config` through `network`. Connections are opened when first needed.
///
/// # Errors
/// When a token or a host cannot stand in a request.
pub fn adapters(config: &Config, network: &Network) -> Result<Adapters, NodeError> {
    let Config { sequencer, celestia, cells, limits, .. } = config;
    let cometbft = JsonRpcClient::new(network.clone(), sequencer.cometbft_url.clone(), None, COMETBFT_BODY_MAX)?;
    let cometbft = CometBft::new(cometbft, limits.validators, sequencer.requests_per_second);
    let token = celestia.bearer_token.as_ref();
    let celestia = JsonRpcClient::new(network.clone(), celestia.url.clone(), token, celestia.body_limit)?;
    let sequencer = Sequencer::new(network.clone(), sequencer.grpc_url.clone(), limits.soft_block_bytes)?;
    let mut executions = BTreeMap::new();
    for (id, cell) in cells {
        executions.insert(*id, Execution::new(network.clone(), cell.execution_url.clone())?);
    }
    Ok(Adapters::new(sequencer, cometbft, Celestia::new(celestia), executions))
}

/// A driver that is ready to run, with its handle. `seed` feeds every random choice and must differ between lives of
/// the process. Records into the directory that the configuration names, if it names one.
///
/// # Errors
/// See [`adapters`]; and when the journal cannot be begun.
pub fn build(
    config: &Config,
    network: &Network,
    seed: [u8; 32],
    workers: Workers,
) -> Result<(Driver, Handle), NodeError> {
    let adapters = adapters(config, network)?;
    let cells = config.cells.iter().map(|(id, cell)| (*id, cell.spec.clone())).collect();
    let conductor = Conductor::new(Limits::clone(&config.limits), seed);
    let options = Options { workers, ..Options::new(cells, config.trust) };
    let header = journal::Header::new(&config.limits, seed, options.started_at);
    let (mut driver, handle) = Driver::new(conductor, adapters, options);
    if let Some(journal) = &config.journal {
        driver.record_to(journal::open(&journal.directory, journal.bytes_max, header)?);
    }
    Ok((driver, handle))
}
