//! One client in a process of its own.

use std::{fmt, io::Read as _, sync::mpsc, thread};

use clap::ValueEnum;
use downbeat::{
    config::Config,
    connector::{Network, TcpConnector},
    driver::Workers,
    node,
};
use downbeat_core::RollupId;
use serde::Serialize;

use crate::{Error, bare};

/// Who catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    BareSoft,
    BareFirm,
    Soft,
    Firm,
    Both,
    SoftEndpoint,
    FirmEndpoint,
    BothEndpoint,
}

impl Kind {
    /// Who it is held against.
    pub(crate) fn bare(self) -> Option<Self> {
        match self {
            Self::BareSoft | Self::BareFirm => None,
            Self::Soft | Self::SoftEndpoint | Self::Both | Self::BothEndpoint => Some(Self::BareSoft),
            Self::Firm | Self::FirmEndpoint => Some(Self::BareFirm),
        }
    }

    /// The same with headers that are believed from the CometBFT node, and soft blocks from the sequencer.
    pub(crate) fn endpoint(self) -> Option<Self> {
        match self {
            Self::Soft => Some(Self::SoftEndpoint),
            Self::Firm => Some(Self::FirmEndpoint),
            Self::Both => Some(Self::BothEndpoint),
            Self::BareSoft | Self::BareFirm | Self::SoftEndpoint | Self::FirmEndpoint | Self::BothEndpoint => None,
        }
    }

    fn trust(self) -> &'static str {
        if matches!(self, Self::SoftEndpoint | Self::FirmEndpoint | Self::BothEndpoint) {
            "endpoint"
        } else {
            "consensus"
        }
    }

    /// Whether the firm head tells when the end is reached.
    pub(crate) fn is_firm(self) -> bool {
        !matches!(self, Self::BareSoft | Self::Soft | Self::SoftEndpoint)
    }

    fn mode(self) -> Option<&'static str> {
        match self {
            Self::BareSoft | Self::BareFirm => None,
            Self::Soft | Self::SoftEndpoint => Some("SoftOnly"),
            Self::Firm | Self::FirmEndpoint => Some("FirmOnly"),
            Self::Both | Self::BothEndpoint => Some("SoftAndFirm"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Where everything is, and what there is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    pub(crate) kind: Kind,
    #[arg(long)]
    pub(crate) sequencer: String,
    #[arg(long)]
    pub(crate) cometbft: String,
    #[arg(long)]
    pub(crate) celestia: String,
    #[arg(long)]
    pub(crate) execution: String,
    #[arg(long, value_parser = rollup_id)]
    pub(crate) rollup_id: RollupId,
    #[arg(long)]
    pub(crate) chain_id: String,
    #[arg(long)]
    pub(crate) blocks: u64,
    #[arg(long)]
    pub(crate) celestia_head: u64,
    #[arg(long)]
    pub(crate) set: Vec<String>,
}

fn rollup_id(text: &str) -> Result<RollupId, String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    Ok(RollupId(bytes.try_into().map_err(|_| "a rollup id has 32 bytes".to_owned())?))
}

/// Runs the client until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    // As `downbeat run` has it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .thread_name("client")
        .enable_all()
        .build()?;
    let (failed, ended) = mpsc::channel();
    let arguments = arguments.clone();
    let end = failed.clone();
    runtime.spawn(async move {
        let result = match arguments.kind.mode() {
            None => bare::catch_up(&arguments).await,
            Some(mode) => downbeat(&arguments, mode).await,
        };
        // A client that is done stays, for what it used is read from outside.
        if let Err(error) = result {
            let _ = failed.send(Some(error));
        }
    });
    thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        let _ = end.send(None);
    })?;
    let ended = ended.recv()?;
    runtime.shutdown_background();
    ended.map_or(Ok(()), Err)
}

async fn downbeat(arguments: &Arguments, mode: &str) -> Result<(), Error> {
    let mut flags: Vec<(String, String)> = [
        ("sequencer.grpc_url", arguments.sequencer.as_str()),
        ("sequencer.cometbft_url", &arguments.cometbft),
        ("celestia.url", &arguments.celestia),
        ("cell.0.execution_url", &arguments.execution),
        ("cell.0.mode", mode),
        ("trust", arguments.kind.trust()),
        ("celestia_trust", arguments.kind.trust()),
    ]
    .map(|(path, value)| (path.to_owned(), value.to_owned()))
    .into();
    for setting in &arguments.set {
        let (path, value) = setting.split_once('=').ok_or_else(|| format!("{setting:?} is not PATH=VALUE"))?;
        flags.push((path.to_owned(), value.to_owned()));
    }
    let config = Config::load(None, [], &flags)?;
    let (driver, _handle) = node::build(&config, &Network::plain(TcpConnector), [7; 32], Workers::Threads)?;
    let exit = tokio::spawn(driver.run()).await??;
    Err(format!("Downbeat ended: {exit:?}").into())
}
