//! Configuration from a file, the environment and flags.

use std::{collections::BTreeMap, time::Duration};

use downbeat::config::{Config, ConfigError, log_filter};
use downbeat_core::Limits;
use serde_json::Value;

use super::machine;

/// The input as the command would get it.
struct Layers {
    file: String,
    environment: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl Layers {
    /// Pieces between bytes 0: the file, then `NAME=VALUE` for variables and `-path=value` for flags.
    fn read(data: &[u8]) -> Self {
        let mut pieces = data.split(|byte| *byte == 0).map(|piece| String::from_utf8_lossy(piece).into_owned());
        let file = pieces.next().unwrap_or_default();
        let (mut environment, mut flags) = (Vec::new(), Vec::new());
        for piece in pieces.take(64) {
            let (name, value) = piece.split_once('=').unwrap_or((&piece, ""));
            match name.strip_prefix('-') {
                Some(path) => flags.push((path.to_owned(), value.to_owned())),
                None => environment.push((name.to_owned(), value.to_owned())),
            }
        }
        Self { file, environment, flags }
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(Some(("file.toml", &self.file)), self.environment.iter().cloned(), &self.flags)
    }

    /// The same with other secrets: tokens, and what follows host and port in URLs.
    fn with_other_secrets(&self) -> Self {
        let other = |(name, value): &(String, String)| {
            let path = name.to_ascii_lowercase();
            let value = if path.ends_with("bearer_token") {
                rotated(value)
            } else if path.ends_with("url") {
                let hidden = value.find("://").and_then(|at| path_at(value, at + 3)).unwrap_or(value.len());
                [&value[..hidden], &rotated(&value[hidden..])].concat()
            } else {
                value.clone()
            };
            (name.clone(), value)
        };
        Self {
            file: self.file.clone(),
            environment: self.environment.iter().map(other).collect(),
            flags: self.flags.iter().map(other).collect(),
        }
    }
}

/// Where the path begins after a host that is surely one: of `http:///x` the host is `x`.
fn path_at(url: &str, host: usize) -> Option<usize> {
    let length = url[host..].find('/').filter(|length| *length > 0)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:@[]".contains(c);
    url[host..host + length].chars().all(is_plain).then_some(host + length)
}

/// Every letter and digit another one, so that the text is as valid as it was.
fn rotated(text: &str) -> String {
    let rotate = |c: char| match c {
        'a'..='y' | 'A'..='Y' | '0'..='8' => char::from_u32(u32::from(c) + 1).expect("the next letter or digit"),
        'z' => 'a',
        'Z' => 'A',
        '9' => '0',
        c => c,
    };
    text.chars().map(rotate).collect()
}

/// All layers at once.
pub fn config(data: &[u8]) {
    let layers = Layers::read(data);
    let result = layers.load();
    let shown = |result: &Result<Config, ConfigError>| match result {
        Ok(config) => format!("{config:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    let secret = layers.with_other_secrets().load();
    assert_eq!(shown(&result), shown(&secret), "what is shown depends on what is secret");
    let config = match result {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.origin.is_empty() && !error.problem.is_empty(), "{error:?}");
            return;
        }
    };

    let cells = config.cells.len();
    assert!((1..=config.limits.cells).contains(&cells), "{cells} cells");
    assert!(config.cells.keys().map(|id| id.0 as usize).eq(0..cells), "{:?}", config.cells.keys());
    let limits = &config.limits;
    assert!(limits.backoff_first <= limits.backoff_last);
    assert!(limits.session_delay_first <= limits.session_delay_last);
    assert!(limits.celestia_poll_min <= limits.celestia_poll_max);
    assert_eq!(log_filter(&config.log.filter).map(|_| ()), Ok(()), "a filter that was accepted");
    assert!(config.celestia.body_limit > 0 && config.sequencer.requests_per_second != Some(0));

    let again = Config::load(None, [], &as_flags(limits)).expect("limits that were accepted").limits;
    let Limits { trust, celestia_trust, celestia, .. } = limits.clone();
    assert_eq!(Limits { trust, celestia_trust, celestia, ..again }, *limits);

    // Any configuration that is accepted can be worked with (L2).
    machine::follows(config.limits, config.cells.into_values().next().expect("a cell").spec);
}

/// Every limit as a flag, without what is said elsewhere.
fn as_flags(limits: &Limits) -> Vec<(String, String)> {
    let fields: BTreeMap<String, Value> =
        serde_json::from_value(serde_json::to_value(limits).expect("JSON")).expect("an object");
    let text = |value: Value| match value {
        Value::Object(duration) => {
            let part = |name: &str| duration[name].as_u64().expect("a number");
            let duration = Duration::new(part("secs"), u32::try_from(part("nanos")).expect("below a second"));
            format!("{}ms", duration.as_millis())
        }
        value => value.to_string(),
    };
    let is_limit = |name: &String| !["trust", "celestia_trust", "celestia"].contains(&name.as_str());
    let limits = fields.into_iter().filter(|(name, _)| is_limit(name));
    limits.map(|(name, value)| (format!("limits.{name}"), text(value))).collect()
}
