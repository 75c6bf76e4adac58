//! Configuration of `downbeat run`: defaults < file < `ASTRIA_CONDUCTOR_*` < `DOWNBEAT_*` < flags.
//!
//! `DOWNBEAT_` variables are the file's paths in capitals, with `__` for the dot (`DOWNBEAT_CELESTIA__URL`,
//! `DOWNBEAT_CELL__0__EXECUTION_URL`); `DOWNBEAT_JOURNAL` is short for `DOWNBEAT_JOURNAL__DIR`. The `ASTRIA_CONDUCTOR_` variables are those of the reference conductor (reference
//! §7.2) and describe exactly one rollup.

use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use downbeat_core::{
    BlockHash, CellId, Limits,
    cell::{CellSpec, Mode},
    light::{RootSetting, RootedTrust, SoftTrust, Trust, TrustSettings},
};
use serde::Deserialize as _;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub use crate::settings::ConfigError;
use crate::{
    endpoint::{Endpoint, Secret},
    gossip::GossipConfig,
    journal,
    settings::Settings,
};

const COMETBFT: &str = "http://127.0.0.1:26657";
const ASTRIA: &str = "ASTRIA_CONDUCTOR_";
const DOWNBEAT: &str = "DOWNBEAT_";
const KNOWN: &str = "log, color, trust, soft_trust, celestia_trust, sequencer.{grpc_url, cometbft_url, \
                     witness_urls, trust_root, genesis_file, trusting_period, clock_drift, requests_per_second}, celestia.{url, \
                     bearer_token, no_auth, body_limit_bytes, trust_root, trusting_period, clock_drift}, cell.N.{execution_url, mode, \
                     expected_sequencer_chain_id, expected_celestia_chain_id}, journal.{dir, max_bytes}, data_dir, gossip.* and limits.*";

/// Everything that `downbeat run` needs, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub sequencer: SequencerConfig,
    pub celestia: CelestiaConfig,
    /// At least one; ids count from 0.
    pub cells: BTreeMap<CellId, CellConfig>,
    /// With trust in the sequencer's headers in it, except for what lies in a genesis file.
    pub limits: Limits,
    /// Where every event is recorded; nowhere unless said.
    pub journal: Option<JournalConfig>,
    /// Where records are kept across restarts; nowhere unless given.
    pub data_dir: Option<PathBuf>,
    /// Whether and how blocks are shared with peers.
    pub gossip: Option<GossipConfig>,
    pub log: LogConfig,
    /// What was asked for and does not exist in this version, to be said once at start.
    pub not_offered: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencerConfig {
    pub grpc_url: Endpoint,
    pub cometbft_url: Endpoint,
    /// Further CometBFT nodes: asked when the first fails, and to bear witness.
    pub witness_urls: Vec<Endpoint>,
    /// The chain's genesis, where trust begins with that.
    pub genesis_file: Option<PathBuf>,
    /// Limits `commit` and `validators` calls.
    pub requests_per_second: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CelestiaConfig {
    pub url: Endpoint,
    pub bearer_token: Option<Secret>,
    /// Bytes of one answer.
    pub body_limit: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellConfig {
    pub execution_url: Endpoint,
    pub spec: CellSpec,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// Made if need be; of one process at a time.
    pub directory: PathBuf,
    /// Bytes of all files together; the oldest go.
    pub bytes_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of a tracing filter, known to be valid.
    pub filter: String,
    /// Colours may be used where the output is a terminal.
    pub color: bool,
}

impl Config {
    /// Reads all layers. `file` is the name and the text of the configuration file, `environment` all variables of the
    /// process, `flags` settings by path.
    ///
    /// # Errors
    /// Names the variable or the place in the file, and says what is accepted.
    pub fn load(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut settings = match file {
            Some((name, text)) => Settings::from_toml(text, name)?,
            None => Settings::default(),
        };
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let has_one_cell = settings.names_below("cell.").iter().all(|cell| cell == "0");
        let (astria, not_offered) = astria_settings(&environment)?;
        if !has_one_cell && let Some(setting) = astria.get("cell.0.execution_url").or(astria.get("cell.0.mode")) {
            let problem = "the file configures several cells and this variable describes exactly one; unset it";
            return Err(ConfigError::new(&setting.origin, problem));
        }
        if let Some(filter) = environment.get("RUST_LOG") {
            let mut fallback = Settings::default();
            fallback.set("log", filter, "RUST_LOG");
            fallback.overlay(settings);
            settings = fallback;
        }
        settings.overlay(astria);
        settings.overlay(downbeat_settings(&environment));
        for (path, value) in flags {
            settings.set(path, value, format!("--set {path}"));
        }
        let color = environment.get("NO_COLOR").is_none_or(String::is_empty);
        Self::parse(settings, color, not_offered)
    }

    fn parse(mut settings: Settings, color: bool, not_offered: Vec<String>) -> Result<Self, ConfigError> {
        let sequencer = SequencerConfig {
            grpc_url: take_url(&mut settings, "sequencer.grpc_url", "http://127.0.0.1:8080")?,
            cometbft_url: take_url(&mut settings, "sequencer.cometbft_url", COMETBFT)?,
            witness_urls: take_witnesses(&mut settings)?,
            genesis_file: settings.take("sequencer.genesis_file").map(|setting| PathBuf::from(setting.value)),
            requests_per_second: settings.take_parsed("sequencer.requests_per_second", positive)?,
        };
        let no_auth = settings.take_parsed("celestia.no_auth", boolean)?.unwrap_or(false);
        // A token that is not used need not be one: example files hold a placeholder there.
        let bearer_token = settings
            .take_parsed("celestia.bearer_token", |text| if no_auth { Ok(None) } else { token(text).map(Some) })?;
        let celestia = CelestiaConfig {
            url: take_url(&mut settings, "celestia.url", "http://127.0.0.1:26658")?,
            bearer_token: bearer_token.flatten(),
            body_limit: settings.take_parsed("celestia.body_limit_bytes", positive)?.unwrap_or(64 << 20),
        };
        let trust = take_trust(&mut settings, &sequencer)?;
        let bytes_max = settings.take_parsed("journal.max_bytes", journal_bytes)?.unwrap_or(journal::BYTES_MAX);
        let directory = settings.take("journal.dir").map(|setting| PathBuf::from(setting.value));
        let journal = directory.map(|directory| JournalConfig { directory, bytes_max });
        let data_dir = settings.take("data_dir").map(|setting| PathBuf::from(setting.value));
        let filter = settings.take_parsed("log", log_filter)?.unwrap_or_else(|| "info".to_owned());
        let color = settings.take_parsed("color", boolean)?.unwrap_or(color);
        let mut limits = take_limits(&mut settings)?;
        // Whoever believes an endpoint about the sequencer has said how much proof he wants.
        limits.celestia_trust = settings.take_parsed("celestia_trust", trust_level)?.unwrap_or(trust.level);
        limits.celestia = take_celestia_trust(&mut settings)?;
        limits.trust = trust;
        let cells = take_cells(&mut settings, &limits)?;
        let gossip = GossipConfig::take(&mut settings)?;
        limits.gossip.enabled = gossip.is_some();
        limits.gossip.publish = gossip.as_ref().is_none_or(|gossip| gossip.publish);
        settings.finish(KNOWN)?;
        Ok(Self {
            sequencer,
            celestia,
            cells,
            limits,
            journal,
            data_dir,
            gossip,
            log: LogConfig { filter, color },
            not_offered,
        })
    }

    /// Whether any endpoint needs TLS.
    pub fn needs_tls(&self) -> bool {
        let rollups = self.cells.values().map(|cell| &cell.execution_url);
        rollups
            .chain(&self.sequencer.witness_urls)
            .chain([&self.sequencer.grpc_url, &self.sequencer.cometbft_url, &self.celestia.url])
            .any(|endpoint| endpoint.target().tls)
    }
}

/// The reference conductor's variables as settings, and what they ask for that is not offered.
fn astria_settings(environment: &BTreeMap<String, String>) -> Result<(Settings, Vec<String>), ConfigError> {
    /// What each variable is called here. The rest is handled below; unknown ones are ignored, as there.
    const PATHS: [(&str, &str); 11] = [
        ("CELESTIA_NODE_HTTP_URL", "celestia.url"),
        ("NO_CELESTIA_AUTH", "celestia.no_auth"),
        ("CELESTIA_BEARER_TOKEN", "celestia.bearer_token"),
        ("SEQUENCER_GRPC_URL", "sequencer.grpc_url"),
        ("SEQUENCER_COMETBFT_URL", "sequencer.cometbft_url"),
        ("SEQUENCER_REQUESTS_PER_SECOND", "sequencer.requests_per_second"),
        ("EXECUTION_RPC_URL", "cell.0.execution_url"),
        ("EXECUTION_COMMIT_LEVEL", "cell.0.mode"),
        ("LOG", "log"),
        ("SEQUENCER_BLOCK_TIME_MS", "limits.sequencer_poll"),
        ("CELESTIA_BLOCK_TIME_MS", "limits.celestia_poll"),
    ];
    let mut settings = Settings::default();
    for (name, path) in PATHS {
        let name = format!("{ASTRIA}{name}");
        if let Some(value) = environment.get(&name) {
            settings.set(path, value, name);
        }
    }
    // These hold bare milliseconds, and nothing else: "2s" here would be refused by the reference conductor.
    for path in ["limits.sequencer_poll", "limits.celestia_poll"] {
        if let Some(setting) = settings.get(path).cloned().filter(|setting| !setting.value.is_empty()) {
            positive::<u64>(&setting.value).map_err(|problem| {
                ConfigError::new(&setting.origin, format!("{problem} (a poll period in milliseconds)"))
            })?;
        }
    }
    // Read for their own sake: each is checked, and each has an effect or is said to have none.
    let mut others = Settings::default();
    for name in ["FORCE_STDOUT", "NO_OTEL", "NO_METRICS", "METRICS_HTTP_LISTENER_ADDR"] {
        let name = format!("{ASTRIA}{name}");
        if let Some(value) = environment.get(&name) {
            others.set(&name, value, &name);
        }
    }
    let mut take = |name: &str| others.take_parsed(&format!("{ASTRIA}{name}"), boolean);
    // Logs always go to standard output, so forcing them there is no change.
    take("FORCE_STDOUT")?;
    let no_otel = take("NO_OTEL")?;
    let no_metrics = take("NO_METRICS")?;
    let listener = others.take_parsed(&format!("{ASTRIA}METRICS_HTTP_LISTENER_ADDR"), |text| {
        SocketAddr::from_str(text).map_err(|_| format!("{text:?} is not an address and port such as 127.0.0.1:9000"))
    })?;
    let mut not_offered = Vec::new();
    if no_metrics != Some(true) && (listener.is_some() || no_metrics == Some(false)) {
        not_offered.push("metrics listener: not available in this version".to_owned());
    }
    let exporter = environment.keys().any(|name| name.starts_with("OTEL_EXPORTER_OTLP_"));
    if no_otel != Some(true) && (exporter || no_otel == Some(false)) {
        not_offered.push("trace export (OTLP): not available in this version".to_owned());
    }
    Ok((settings, not_offered))
}

fn downbeat_settings(environment: &BTreeMap<String, String>) -> Settings {
    let mut settings = Settings::default();
    for (name, value) in environment {
        // `DOWNBEAT_CONFIG` names the file and is read with the flags.
        if let Some(path) = name.strip_prefix(DOWNBEAT).filter(|path| *path != "CONFIG") {
            let path =
                if path == "JOURNAL" { "journal.dir".to_owned() } else { path.to_ascii_lowercase().replace("__", ".") };
            settings.set(&path, value, name);
        }
    }
    settings
}

fn take_url(settings: &mut Settings, path: &str, default: &str) -> Result<Endpoint, ConfigError> {
    let setting = settings.take(path);
    let (text, origin) = match &setting {
        Some(setting) => (setting.value.as_str(), setting.origin.as_str()),
        None => (default, path),
    };
    text.parse().map_err(|error| {
        // What may hold credentials or a key is not repeated.
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let hidden = [scheme, rest.trim_end_matches('/')].iter().any(|part| part.contains(['@', '?', '/', '\\', '#']));
        let shown = if hidden { "the value (hidden)".to_owned() } else { format!("{text:?}") };
        ConfigError::new(origin, format!("{shown} is no endpoint: {error}; expected a URL such as {default}"))
    })
}

/// One URL, or several with commas between, or a list in a file.
fn take_witnesses(settings: &mut Settings) -> Result<Vec<Endpoint>, ConfigError> {
    const PATH: &str = "sequencer.witness_urls";
    if let Some(setting) = settings.take(PATH) {
        for (index, url) in setting.value.split(',').enumerate() {
            settings.set(&format!("{PATH}.{index}"), url, &setting.origin);
        }
    }
    let mut names = settings.names_below("sequencer.witness_urls.");
    names.sort_by_key(|name| name.parse::<u32>().unwrap_or(u32::MAX));
    names.iter().map(|name| take_url(settings, &format!("{PATH}.{name}"), COMETBFT)).collect()
}

fn take_trust(settings: &mut Settings, sequencer: &SequencerConfig) -> Result<TrustSettings, ConfigError> {
    let level = settings.take_parsed("trust", trust_level)?.unwrap_or_default();
    // Whoever believes the endpoint has no use for waiting for it.
    let soft = match level {
        Trust::Consensus => SoftTrust::Consensus,
        Trust::Endpoint => SoftTrust::Sequencer,
    };
    let default = TrustSettings::default();
    let root = settings.get("sequencer.trust_root").map(|setting| setting.origin.clone());
    let trust = TrustSettings {
        level,
        soft: settings.take_parsed("soft_trust", soft_trust)?.unwrap_or(soft),
        root: settings.take_parsed("sequencer.trust_root", trust_root)?.unwrap_or_default(),
        trusting_period: settings
            .take_parsed("sequencer.trusting_period", duration)?
            .unwrap_or(default.trusting_period),
        clock_drift: settings.take_parsed("sequencer.clock_drift", duration)?.unwrap_or(default.clock_drift),
        nodes: u32::try_from(sequencer.witness_urls.len()).unwrap_or(u32::MAX).saturating_add(1),
    };
    match root {
        Some(origin) if trust.root != RootSetting::FirstUse && sequencer.genesis_file.is_some() => {
            let problem = "is set together with sequencer.genesis_file; trust has one root, so unset one of them";
            Err(ConfigError::new(origin, problem))
        }
        _ => Ok(trust),
    }
}

fn take_celestia_trust(settings: &mut Settings) -> Result<RootedTrust, ConfigError> {
    let default = RootedTrust::default();
    Ok(RootedTrust {
        root: settings.take_parsed("celestia.trust_root", trust_root)?.unwrap_or_default(),
        trusting_period: settings.take_parsed("celestia.trusting_period", duration)?.unwrap_or(default.trusting_period),
        clock_drift: settings.take_parsed("celestia.clock_drift", duration)?.unwrap_or(default.clock_drift),
    })
}

fn take_limits(settings: &mut Settings) -> Result<Limits, ConfigError> {
    let internal = |error: &dyn Display| ConfigError::new("limits", error.to_string());
    let mut table = toml::Table::try_from(Limits::default()).map_err(|error| internal(&error))?;
    for with_own_settings in ["trust", "celestia_trust", "celestia", "gossip"] {
        table.remove(with_own_settings);
    }
    for name in settings.names_below("limits.") {
        let path = format!("limits.{name}");
        let known = || table.keys().cloned().collect::<Vec<_>>().join(", ");
        let value = match table.get(&name) {
            None => {
                let origin = settings.take(&path).map_or(path, |setting| setting.origin);
                return Err(ConfigError::new(origin, format!("there is no limit {name:?}; there are {}", known())));
            }
            Some(toml::Value::Boolean(_)) => settings.take_parsed(&path, boolean)?.map(toml::Value::Boolean),
            Some(toml::Value::Table(_)) => match settings.take_parsed(&path, duration)? {
                Some(duration) => Some(toml::Value::try_from(duration).map_err(|error| internal(&error))?),
                None => None,
            },
            Some(_) => settings.take_parsed(&path, positive::<i64>)?.map(toml::Value::Integer),
        };
        if let Some(value) = value {
            table.insert(name, value);
        }
    }
    let limits = Limits::deserialize(table).map_err(|error| internal(&error))?;
    for (first, last, what) in [
        (limits.backoff_first, limits.backoff_last, "backoff_first is longer than backoff_last"),
        (
            limits.session_delay_first,
            limits.session_delay_last,
            "session_delay_first is longer than session_delay_last",
        ),
        (limits.celestia_poll_min, limits.celestia_poll_max, "celestia_poll_min is longer than celestia_poll_max"),
    ] {
        if first > last {
            return Err(ConfigError::new("limits", what));
        }
    }
    Ok(limits)
}

fn take_cells(settings: &mut Settings, limits: &Limits) -> Result<BTreeMap<CellId, CellConfig>, ConfigError> {
    let mut names = settings.names_below("cell.");
    if names.is_empty() {
        names.push("0".to_owned());
    }
    let count = names.len();
    if count > limits.cells {
        return Err(ConfigError::new("cell", format!("{count} cells, but limits.cells is {}", limits.cells)));
    }
    let mut cells = BTreeMap::new();
    for name in names {
        let number = name.parse::<u32>().ok().filter(|number| usize::try_from(*number).is_ok_and(|n| n < count));
        let Some(number) = number else {
            let problem =
                format!("{name:?} is not the number of a cell: {count} cells are numbered from 0 without gaps");
            return Err(ConfigError::new(format!("cell.{name}"), problem));
        };
        let path = |field: &str| format!("cell.{name}.{field}");
        // A default for several rollups would let two of them share a node by accident.
        if count > 1 && settings.get(&path("execution_url")).is_none() {
            let problem = "is missing; expected a URL such as http://127.0.0.1:50051";
            return Err(ConfigError::new(path("execution_url"), problem));
        }
        let execution_url = take_url(settings, &path("execution_url"), "http://127.0.0.1:50051")?;
        let spec = CellSpec {
            mode: settings.take_parsed(&path("mode"), mode)?.unwrap_or(Mode::SoftAndFirm),
            expected_sequencer_chain_id: settings.take(&path("expected_sequencer_chain_id")).map(|s| s.value),
            expected_celestia_chain_id: settings.take(&path("expected_celestia_chain_id")).map(|s| s.value),
        };
        cells.insert(CellId(number), CellConfig { execution_url, spec });
    }
    Ok(cells)
}

pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A number above zero, with `_` between digits where that helps.
pub(crate) fn positive<T: FromStr + PartialOrd + Default>(text: &str) -> Result<T, String> {
    let number = text.replace('_', "").parse::<T>().ok().filter(|number| *number > T::default());
    number.ok_or_else(|| format!("{text:?} is not a whole number above 0 that fits"))
}

fn journal_bytes(text: &str) -> Result<u64, String> {
    let bytes = text.replace('_', "").parse().ok().filter(|bytes| *bytes >= journal::BYTES_MIN);
    bytes.ok_or_else(|| format!("{text:?} is not a number of bytes of at least {}", journal::BYTES_MIN))
}

/// `250ms`, `2s`, `5m`, or bare milliseconds; above zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor_ms = match unit.trim() {
        "ms" | "" => Some(1),
        "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let ms = factor_ms.and_then(|factor| digits.replace('_', "").parse::<u64>().ok()?.checked_mul(factor));
    // What is longer than a year is a mistake, and would not fit everywhere.
    let ms = ms.filter(|ms| (1..=31_536_000_000).contains(ms));
    let problem = || format!("{text:?} is not a duration above 0 such as 250ms, 2s, 5m, or milliseconds");
    ms.map(Duration::from_millis).ok_or_else(problem)
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "SoftOnly" => Ok(Mode::SoftOnly),
        "FirmOnly" => Ok(Mode::FirmOnly),
        "SoftAndFirm" => Ok(Mode::SoftAndFirm),
        _ => Err(format!("{text:?} is none of SoftOnly, FirmOnly and SoftAndFirm")),
    }
}

fn trust_level(text: &str) -> Result<Trust, String> {
    match text {
        "consensus" => Ok(Trust::Consensus),
        "endpoint" => Ok(Trust::Endpoint),
        _ => Err(format!("{text:?} is neither consensus nor endpoint")),
    }
}

fn soft_trust(text: &str) -> Result<SoftTrust, String> {
    match text {
        "consensus" => Ok(SoftTrust::Consensus),
        "sequencer" => Ok(SoftTrust::Sequencer),
        _ => Err(format!("{text:?} is neither consensus nor sequencer")),
    }
}

/// `HEIGHT:HASH`, the hash in hexadecimal.
fn trust_root(text: &str) -> Result<RootSetting, String> {
    let (height, hash) = text.split_once(':').unwrap_or((text, ""));
    let height = height.trim().replace('_', "").parse().ok().filter(|height| *height > 0);
    let hash = hex::decode(hash.trim()).ok().and_then(|hash| <[u8; 32]>::try_from(hash).ok());
    match (height, hash) {
        (Some(height), Some(hash)) => Ok(RootSetting::Header { height, hash: BlockHash(hash) }),
        _ => {
            Err(format!("{text:?} is no height and hash of a header such as 4821000:74BD4E7F…, 64 hexadecimal digits"))
        }
    }
}

fn token(text: &str) -> Result<Secret, String> {
    if text.bytes().all(|byte| (0x21..0x7f).contains(&byte)) {
        Ok(Secret::new(text))
    } else {
        Err("the token (hidden) holds characters that cannot stand in an HTTP header".to_owned())
    }
}

/// Crates of the peer-to-peer network, with what they begin their targets with. What they warn of is what strangers send,
/// as often as strangers like.
const OF_STRANGERS: [&str; 6] = ["libp2p", "quinn", "yamux", "multistream_select", "netlink", "hickory"];

/// The filter of these directives, which are known to be valid. What strangers cause is left out of the log, unless a
/// directive asks for it.
pub fn env_filter(directives: &str) -> EnvFilter {
    let quiet = OF_STRANGERS.iter().filter(|target| !directives.contains(**target));
    let quiet: Vec<_> = quiet.map(|target| format!("{target}=error")).collect();
    EnvFilter::new(format!("{},{directives}", quiet.join(",")))
}

/// Libraries that tell of every frame at level debug. Whoever wants that names them.
const CHATTY: [&str; 5] = ["h2", "hyper", "hyper_util", "rustls", "tonic"];

/// Checks a log filter and completes it: directives for the reference conductor's crate apply to this one, everything
/// else has level `info` unless a level is given, and a level that is given is not one for chatty libraries.
pub fn log_filter(text: &str) -> Result<String, String> {
    let mut directives = Vec::new();
    let mut has_default = false;
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let (target, level) = directive.split_once('=').unwrap_or((directive, ""));
        if level.is_empty()
            && let Ok(level) = LevelFilter::from_str(target)
        {
            has_default = true;
            if level > LevelFilter::INFO {
                directives.splice(0..0, CHATTY.map(|target| format!("{target}=info")));
            }
        }
        if target == "astria_conductor" || target.starts_with("astria_conductor::") {
            directives.push(if level.is_empty() { "downbeat".to_owned() } else { format!("downbeat={level}") });
        }
        directives.push(directive.to_owned());
    }
    if !has_default {
        directives.insert(0, "info".to_owned());
    }
    let filter = directives.join(",");
    match EnvFilter::builder().parse(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(format!("{text:?} is not a log filter such as info or downbeat=debug: {error}")),
    }
}

#[cfg(test)]
mod tests;
