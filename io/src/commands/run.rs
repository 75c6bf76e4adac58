//! `downbeat run`: drives the configured rollups until it is asked to end.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use downbeat::{
    config::{Config, LogConfig},
    connector::{Network, TcpConnector},
    driver::Workers,
    node,
};
use downbeat_core::{command::Exit, light::Trust};
use tracing::{info, warn};

use super::{Failure, Signals, entropy, runtime};

/// Drive the configured rollups. Ends with SIGTERM or SIGINT.
///
/// Settings come from, in rising precedence: defaults, the file, ASTRIA_CONDUCTOR_* variables (as for Astria's
/// conductor), DOWNBEAT_* variables (DOWNBEAT_CELESTIA__URL for celestia.url), and --set.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// TOML file; also DOWNBEAT_CONFIG
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting by its path, may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Keep what is trusted across restarts in this directory, of which each process needs its own; the same as data_dir
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Record every event into this directory, for `downbeat replay`; the same as journal.dir
    #[arg(long, value_name = "DIR")]
    journal: Option<String>,
    /// Bytes of all files there; the oldest go. The same as journal.max_bytes, 1 GiB unless given
    #[arg(long, value_name = "BYTES")]
    journal_max_bytes: Option<String>,
}

const EXAMPLES: &str = "Examples:
  downbeat run --config downbeat.toml
  downbeat run --set cell.0.execution_url=http://127.0.0.1:50051 --set cell.0.mode=SoftOnly
  env $(cat astria-conductor.env) downbeat run

A file:
  data_dir = \"/var/lib/downbeat\" # keeps what is trusted across restarts, and evidence
  [sequencer]
  grpc_url = \"https://grpc.sequencer.example\"
  cometbft_url = \"https://rpc.sequencer.example\"
  [celestia]
  url = \"http://127.0.0.1:26658\"
  bearer_token = \"...\"
  [[cell]]
  execution_url = \"http://127.0.0.1:50051\"
  mode = \"SoftAndFirm\"       # or SoftOnly, FirmOnly
  [gossip]                    # shares blocks with peers
  enabled = true
  bootnodes = [\"/dns4/boot.example/tcp/26700/p2p/12D3KooW...\"]
  [journal]                   # records every event, for `downbeat replay`
  dir = \"/var/lib/downbeat/journal\"
  [limits]
  fetch_deadline = \"30s\"

Exit codes: 0 ended on request, 78 bad configuration, 1 anything else.";

/// How long threads that verify may still run after the driver has ended.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(arguments)?;
    init_log(&config.log)?;
    let network = if config.needs_tls() {
        Network::with_system_roots(TcpConnector).map_err(Failure::new)?
    } else {
        Network::plain(TcpConnector)
    };
    let runtime = runtime()?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    let seed = entropy()?;
    announce(&config);
    let result = runtime.block_on(async {
        let (driver, handle) =
            node::build(&config, &network, seed, Workers::Threads).map_err(Failure::configuration)?;
        // On a worker thread, where it and its connections take turns without waking another thread.
        let mut driver = tokio::spawn(driver.run());
        let exit = tokio::select! {
            exit = &mut driver => exit,
            signal = signals.next() => {
                info!("{signal}: stopping");
                handle.stop();
                driver.await
            }
        };
        match exit {
            Ok(Ok(Exit::Stopped)) => {
                info!("stopped");
                Ok(())
            }
            Ok(Ok(Exit::AllCellsParked { reason })) => {
                Err(Failure::new(format!("every rollup is parked, nothing is left to do: {reason}")))
            }
            Ok(Err(error)) => Err(Failure::new(error)),
            Err(error) => Err(Failure::new(format!("the driver ended unexpectedly: {error}"))),
        }
    });
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    result
}

fn load(arguments: &Arguments) -> Result<Config, Failure> {
    let mut flags = Vec::new();
    for flag in &arguments.set {
        let Some((path, value)) = flag.split_once('=') else {
            return Err(Failure::configuration(
                "--set: expected PATH=VALUE, such as celestia.url=http://127.0.0.1:26658",
            ));
        };
        flags.push((path.trim().to_owned(), value.to_owned()));
    }
    let short = [
        ("data_dir", &arguments.data_dir),
        ("journal.dir", &arguments.journal),
        ("journal.max_bytes", &arguments.journal_max_bytes),
    ];
    for (path, value) in short {
        flags.extend(value.iter().map(|value| (path.to_owned(), value.clone())));
    }
    load_with(arguments.config.as_ref(), &flags)
}

/// The configuration from file, environment and flags.
pub(super) fn load_with(file: Option<&PathBuf>, flags: &[(String, String)]) -> Result<Config, Failure> {
    // Variables that are not text are none of ours.
    let environment: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let from_environment = environment.iter().find(|(name, _)| name == "DOWNBEAT_CONFIG").map(|(_, file)| file.into());
    let file = match file.cloned().or(from_environment) {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| Failure::configuration(format!("{}: {error}", path.display())))?;
            Some((path.display().to_string(), text))
        }
    };
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    Config::load(file, environment, flags).map_err(Failure::configuration)
}

/// The log goes to standard output, so that standard error holds nothing but the reason of a failure.
fn init_log(config: &LogConfig) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(downbeat::config::env_filter(&config.filter))
        .with_ansi(config.color && std::io::stdout().is_terminal())
        .with_writer(std::io::stdout)
        .try_init()
        .map_err(|error| Failure::new(format!("cannot write a log: {error}")))
}

fn announce(config: &Config) {
    info!("downbeat {}", env!("CARGO_PKG_VERSION"));
    info!("sequencer {}, CometBFT {}", config.sequencer.grpc_url, config.sequencer.cometbft_url);
    let authentication = if config.celestia.bearer_token.is_some() { "with a bearer token" } else { "without a token" };
    info!("Celestia {} {authentication}", config.celestia.url);
    for (id, cell) in &config.cells {
        info!("{id}: rollup node {}, {:?}", cell.execution_url, cell.spec.mode);
    }
    for witness in &config.sequencer.witness_urls {
        info!("CometBFT witness {witness}");
    }
    let trust = &config.limits.trust;
    info!("trust in headers is {}, in soft blocks {}", trust.level, trust.soft);
    if trust.level == Trust::Endpoint {
        warn!(
            "trust is \"endpoint\": headers and validator sets of the sequencer are believed from the CometBFT \
             endpoint; point it at a node that you trust"
        );
    }
    match config.limits.celestia_trust {
        Trust::Endpoint => warn!(
            "celestia_trust is \"endpoint\": the Celestia node is believed to leave no blob out; with \"consensus\" \
             nothing of it is believed"
        ),
        Trust::Consensus => info!(
            "celestia_trust is \"consensus\": what lies on Celestia is proven against headers that its validators signed"
        ),
    }
    match &config.data_dir {
        Some(directory) => info!("what is trusted is kept in {}", directory.display()),
        None if trust.level == Trust::Consensus => {
            warn!("what is trusted is not kept: the next start begins anew; name a directory with data_dir");
        }
        None => {}
    }
    if let Some(gossip) = &config.gossip {
        let source = if gossip.sole_source { "from peers alone" } else { "from peers and servers" };
        info!(
            "blocks come {source}; {} bootnodes, {} explicit peers",
            gossip.bootnodes.len(),
            gossip.explicit_peers.len()
        );
        if config.data_dir.is_none() {
            warn!("the node's key and its peers are not kept: the next start is a stranger to all; name a data_dir");
        }
    }
    if let Some(journal) = &config.journal {
        info!("journal in {}, at most {} bytes", journal.directory.display(), journal.bytes_max);
    }
    for missing in &config.not_offered {
        info!("{missing}");
    }
}
