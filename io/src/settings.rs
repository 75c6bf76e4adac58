//! Settings as text, from wherever they come: a flat map from path (`celestia.url`) to value and origin.
//!
//! Later layers replace earlier ones. Whoever reads a setting takes it out, so that what nobody knows is found.

use std::{collections::BTreeMap, fmt};

/// One value and where it was written.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: String,
    /// The environment variable, or the file and the path in it.
    pub(crate) origin: String,
}

/// Why the configuration cannot be used. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    /// The variable, or the file and the path in it, that is wrong.
    pub origin: String,
    /// What is wrong, and what is accepted.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { origin: origin.into(), problem: problem.into() }
    }
}

/// Settings that nobody has read yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(BTreeMap<String, Setting>);

/// Values show only where they came from: some are secret.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}", self.origin)
    }
}

/// Tables within tables in a file that are followed.
const DEPTH_MAX: usize = 8;

impl Settings {
    /// Reads a TOML document. `[[cell]]` number `n` becomes `cell.n`.
    pub(crate) fn from_toml(text: &str, file: &str) -> Result<Self, ConfigError> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            // The message may quote the line, which may hold a token.
            let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().lines().count());
            ConfigError::new(format!("{file} near line {}", line.max(1)), format!("not TOML: {}", error.message()))
        })?;
        let mut settings = Self::default();
        let mut open = vec![(String::new(), toml::Value::Table(table), 0)];
        while let Some((path, value, depth)) = open.pop() {
            let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            match value {
                toml::Value::Table(_) | toml::Value::Array(_) if depth >= DEPTH_MAX => {
                    return Err(ConfigError::new(format!("{file}: {path}"), "nested too deeply"));
                }
                toml::Value::Table(table) => {
                    open.extend(table.into_iter().map(|(name, value)| (child(&name), value, depth + 1)));
                }
                toml::Value::Array(list) => {
                    let elements = list.into_iter().enumerate();
                    open.extend(elements.map(|(index, value)| (child(&index.to_string()), value, depth + 1)));
                }
                toml::Value::String(value) => settings.set(&path, value, format!("{file}: {path}")),
                value => settings.set(&path, value.to_string(), format!("{file}: {path}")),
            }
        }
        Ok(settings)
    }

    /// Sets a value; quotes around it are taken off, for deployments often carry them along.
    pub(crate) fn set(&mut self, path: &str, value: impl AsRef<str>, origin: impl Into<String>) {
        let value = unquote(value.as_ref()).to_owned();
        self.0.insert(path.to_owned(), Setting { value, origin: origin.into() });
    }

    /// Puts all settings of `later` over those of `self`.
    pub(crate) fn overlay(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Setting> {
        self.0.get(path)
    }

    /// Takes a setting out; an empty one counts as absent.
    pub(crate) fn take(&mut self, path: &str) -> Option<Setting> {
        self.0.remove(path).filter(|setting| !setting.value.is_empty())
    }

    /// Takes out a setting and reads it with `parse`, which says what is accepted where it fails.
    pub(crate) fn take_parsed<T>(
        &mut self,
        path: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(setting) = self.take(path) else { return Ok(None) };
        parse(&setting.value).map(Some).map_err(|problem| ConfigError::new(setting.origin, problem))
    }

    /// Takes out a list: elements of an array in a file, or one text with commas between. `None` if nothing is set.
    pub(crate) fn take_list(&mut self, path: &str) -> Option<Vec<Setting>> {
        if let Some(Setting { value, origin }) = self.0.remove(path) {
            // One text goes over a whole list of an earlier layer.
            let prefix = format!("{path}.");
            self.0.retain(|other, _| !other.starts_with(&prefix));
            let elements = value.split(',').map(str::trim).filter(|element| !element.is_empty());
            return Some(
                elements.map(|element| Setting { value: element.to_owned(), origin: origin.clone() }).collect(),
            );
        }
        let mut names = self.names_below(&format!("{path}."));
        names.sort_by_key(|name| name.parse::<u32>().unwrap_or(u32::MAX));
        let elements: Vec<_> = names.iter().filter_map(|name| self.take(&format!("{path}.{name}"))).collect();
        (!elements.is_empty()).then_some(elements)
    }

    /// Where the setting at `path`, or the first one below it, was written.
    pub(crate) fn origin_below(&self, path: &str) -> Option<String> {
        let prefix = format!("{path}.");
        let mut found = self.0.iter().filter(|(other, _)| *other == path || other.starts_with(&prefix));
        found.next().map(|(_, setting)| setting.origin.clone())
    }

    /// All first elements below `prefix` (`cell.` gives `0`, `1`, …), each once.
    pub(crate) fn names_below(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .0
            .keys()
            .filter_map(|path| path.strip_prefix(prefix))
            .map(|rest| rest.split('.').next().unwrap_or(rest).to_owned())
            .collect();
        names.dedup();
        names
    }

    /// An error if anything is left that nobody has read.
    pub(crate) fn finish(self, known: &str) -> Result<(), ConfigError> {
        match self.0.into_iter().next() {
            Some((path, setting)) => {
                Err(ConfigError::new(setting.origin, format!("there is no setting {path:?}; there are {known}")))
            }
            None => Ok(()),
        }
    }
}

fn unquote(text: &str) -> &str {
    let text = text.trim();
    let stripped = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    stripped('"').or_else(|| stripped('\'')).unwrap_or(text)
}
