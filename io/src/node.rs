//! Puts a conductor, its adapters and its driver together, as a configuration says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use downbeat_core::{
    Conductor, Limits, Record,
    gossip::{GossipSettings, GossipUnsafe, Space, Topic},
    light::{RecordError, RootSetting},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::{
    adapters::Adapters,
    celestia::Celestia,
    cometbft::CometBft,
    config::Config,
    connector::Network,
    driver::{Driver, Handle, Options, Workers},
    execution::Execution,
    genesis,
    gossip::{self, Gossip, GossipConfig, peers_socket, port},
    journal,
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
    #[error(transparent)]
    Gossip(#[from] GossipUnsafe),
    #[error("gossip: {0}")]
    Network(#[from] gossip::StartError),
    #[error("gossip: {0}")]
    Space(String),
    #[error("gossip: the socket {path} for `downbeat peers`: {error}", path = .path.display())]
    PeersSocket { path: PathBuf, error: std::io::Error },
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
    if let Some(gossip) = &config.gossip {
        if gossip.sole_source {
            limits.gossip.sole_source_of = Some(chain_id(config, &limits)?);
        }
        GossipSettings::check(&limits)?;
    }
    Ok(limits)
}

/// The sequencer's chain id, as the configuration knows it.
fn chain_id(config: &Config, limits: &Limits) -> Result<String, NodeError> {
    let configured = config.gossip.as_ref().and_then(|gossip| gossip.chain_id.clone());
    let of_genesis = match &limits.trust.root {
        RootSetting::Genesis(genesis) => Some(genesis.chain_id.clone()),
        RootSetting::FirstUse | RootSetting::Header { .. } => None,
    };
    let expected = config.cells.values().filter_map(|cell| cell.spec.expected_sequencer_chain_id.clone());
    let mut said: Vec<_> = configured.into_iter().chain(of_genesis).chain(expected).collect();
    said.sort();
    said.dedup();
    match said.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(NodeError::Space(
            "which chain it is about must be known: set gossip.chain_id, sequencer.genesis_file, or \
             cell.N.expected_sequencer_chain_id"
                .to_owned(),
        )),
        several => Err(NodeError::Space(format!("the configuration names several sequencer chains: {several:?}"))),
    }
}

/// The network that this node belongs to.
///
/// # Errors
/// If the chain is not known, or its genesis file cannot be read.
pub fn space(config: &Config, limits: &Limits) -> Result<Space, NodeError> {
    let configured = config.gossip.as_ref().and_then(|gossip| gossip.genesis_hash);
    let hash = match (configured, &config.sequencer.genesis_file) {
        (Some(hash), _) => hash,
        (None, Some(path)) => {
            let bytes = std::fs::read(path)
                .map_err(|error| NodeError::Genesis { file: path.display().to_string(), problem: error.to_string() })?;
            Sha256::digest(bytes).into()
        }
        (None, None) => [0; 32],
    };
    Ok(Space::new(&chain_id(config, limits)?, &hash))
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
    let (mut driver, mut handle) = Driver::new(conductor, adapters, options);
    if let Some(journal) = &config.journal {
        driver.record_to(journal::open(&journal.directory, journal.bytes_max, header)?);
    }
    if let Some(store) = store {
        driver.keep_in(store, &records);
    }
    if let Some(settings) = &config.gossip {
        let space = space(config, &limits)?;
        let (gossip, received) = join(settings, config.data_dir.as_deref(), space, limits, handle.snapshots())?;
        driver.share_with(&mut handle, gossip, received);
    }
    Ok((driver, handle))
}

/// Joins the network of peers.
fn join(
    settings: &GossipConfig,
    data_dir: Option<&Path>,
    space: Space,
    limits: Limits,
    snapshots: peers_socket::Snapshots,
) -> Result<(Gossip, mpsc::Receiver<gossip::Received>), NodeError> {
    let mut settings = settings.clone();
    settings.bounds.message_bytes = limits.gossip.message_bytes;
    // A height has one message about the block, and one for each rollup.
    settings.bounds.response_bytes = limits.gossip.message_bytes.saturating_mul(2);
    let directory = data_dir.map(gossip::directory);
    let read_label = port::label_reader(limits);
    let (gossip, received) = gossip::start(gossip::Options { config: settings, space, directory, read_label })?;
    gossip.follow(vec![Topic::Blocks]);
    if let Some(data_dir) = data_dir {
        let path = peers_socket::path(data_dir);
        let serving = peers_socket::serve(&path, gossip.clone(), snapshots);
        tokio::spawn(serving.map_err(|error| NodeError::PeersSocket { path, error })?);
    }
    Ok((gossip, received))
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
