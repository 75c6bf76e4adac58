//! Names of runs for the command line: a seed, a file, or a whole scenario in one word.

use std::{fmt, path::Path, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use downbeat_core::{Limits, celestia::unpack};
use downbeat_world::relayer::compress;

use crate::Scenario;

/// A run that can be repeated.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `seed:N`: what [`Scenario::swarm`] draws.
    Seed(u64),
    /// `z:...`: a compressed scenario.
    Whole(Box<Scenario>),
    /// Anything else: a file.
    File(String),
}

impl Token {
    /// The shortest token for a scenario.
    pub fn of(scenario: &Scenario) -> Self {
        if *scenario == Scenario::swarm(scenario.seed) {
            Self::Seed(scenario.seed)
        } else {
            Self::Whole(Box::new(scenario.clone()))
        }
    }

    /// The scenario.
    ///
    /// # Errors
    /// If a file cannot be read or is no scenario.
    pub fn scenario(&self) -> Result<Scenario, String> {
        match self {
            Self::Seed(seed) => Ok(Scenario::swarm(*seed)),
            Self::Whole(scenario) => Ok((**scenario).clone()),
            Self::File(file) => {
                let text = std::fs::read_to_string(Path::new(file)).map_err(|error| format!("{file}: {error}"))?;
                Scenario::from_toml(&text).map_err(|error| format!("{file}: {error}"))
            }
        }
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(seed) = text.strip_prefix("seed:") {
            return seed.parse().map(Self::Seed).map_err(|_| format!("{seed:?} is not a seed"));
        }
        let Some(word) = text.strip_prefix("z:") else { return Ok(Self::File(text.to_owned())) };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(word).map_err(|error| format!("not a token: {error}"))?;
        let unpacked = unpack(&bytes, &Limits::default()).map_err(|error| format!("not a token: {error}"))?;
        let text = std::str::from_utf8(&unpacked).map_err(|error| format!("not a token: {error}"))?;
        Scenario::from_toml(text).map(Box::new).map(Self::Whole)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => write!(f, "seed:{seed}"),
            Self::Whole(scenario) => {
                write!(f, "z:{}", BASE64_URL_SAFE_NO_PAD.encode(compress(scenario.to_toml().as_bytes())))
            }
            Self::File(file) => f.write_str(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_leads_back_to_its_scenario() {
        let drawn = Scenario::swarm(7);
        assert_eq!(Token::of(&drawn).to_string(), "seed:7");
        let changed = Scenario { blocks: 3, ..drawn };
        let word = Token::of(&changed).to_string();
        assert_eq!(word.parse::<Token>().and_then(|token| token.scenario()), Ok(changed));
        assert!("z:???".parse::<Token>().is_err() && "seed:x".parse::<Token>().is_err());
    }
}
