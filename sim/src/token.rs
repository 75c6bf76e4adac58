//! Names of runs for the command line: a seed, a file, or a whole scenario in one word; and what is done with them.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use downbeat_core::{Limits, celestia::unpack};
use downbeat_world::relayer::compress;

#[cfg(feature = "wire")]
use crate::wire::{self, WireScenario};
use crate::{Scenario, Simulation, minimise::minimise};

/// A run that can be repeated.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `seed:N`: what [`Scenario::swarm`] draws.
    Seed(u64),
    /// `wire:N`: what [`WireScenario::draw`] draws, for the simulated network.
    #[cfg(feature = "wire")]
    Wire(u64),
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
    pub fn load(&self) -> Result<Loaded, String> {
        match self {
            Self::Seed(seed) => Ok(Loaded::Queue(Box::new(Scenario::swarm(*seed)))),
            #[cfg(feature = "wire")]
            Self::Wire(seed) => Ok(Loaded::Wire(Box::new(WireScenario::draw(*seed)))),
            Self::Whole(scenario) => Ok(Loaded::Queue(scenario.clone())),
            Self::File(file) => Loaded::read(Path::new(file)),
        }
    }

    /// The scenario, if it is one for the event-queue tier.
    ///
    /// # Errors
    /// As [`Self::load`], and if it is one for the simulated network.
    pub fn scenario(&self) -> Result<Scenario, String> {
        match self.load()? {
            Loaded::Queue(scenario) => Ok(*scenario),
            #[cfg(feature = "wire")]
            Loaded::Wire(_) => Err(format!(
                "{self} runs on the simulated network: record it with `wire --journal DIR` and look at it with \
                 `downbeat replay DIR --html run.html`"
            )),
        }
    }
}

/// A scenario of either tier.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    Queue(Box<Scenario>),
    #[cfg(feature = "wire")]
    Wire(Box<WireScenario>),
}

/// A smaller scenario that breaks the same promise, and how it was found.
#[derive(Debug)]
pub struct Smaller {
    pub scenario: Loaded,
    pub line: String,
}

impl Loaded {
    /// Reads a scenario file, of whichever tier.
    ///
    /// # Errors
    /// If it cannot be read or is no scenario.
    pub fn read(file: &Path) -> Result<Self, String> {
        let named = |error: String| format!("{}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
        #[cfg(feature = "wire")]
        if let Ok(scenario) = toml::from_str(&text) {
            return Ok(Self::Wire(Box::new(scenario)));
        }
        Scenario::from_toml(&text).map(|scenario| Self::Queue(Box::new(scenario))).map_err(named)
    }

    /// As a file.
    pub fn to_toml(&self) -> String {
        match self {
            Self::Queue(scenario) => scenario.to_toml(),
            #[cfg(feature = "wire")]
            Self::Wire(scenario) => scenario.to_toml(),
        }
    }

    /// Says what the scenario shows.
    pub fn describe(&mut self, about: String) {
        match self {
            Self::Queue(scenario) => scenario.about = about,
            #[cfg(feature = "wire")]
            Self::Wire(scenario) => scenario.about = about,
        }
    }

    /// Runs it; says how it went.
    ///
    /// # Errors
    /// The violation.
    pub fn run(&self) -> Result<String, String> {
        match self {
            Self::Queue(scenario) => {
                let mut simulation = Simulation::new((**scenario).clone());
                simulation.finish().map_err(|violation| violation.to_string())?;
                let (events, faults) = (simulation.events, simulation.fired().len());
                let seconds = simulation.elapsed().as_secs_f64();
                Ok(format!("no violation: {events} events in {seconds:.1} simulated seconds, {faults} faults"))
            }
            #[cfg(feature = "wire")]
            Self::Wire(scenario) => {
                let outcome = wire::run(scenario).map_err(|violation| violation.to_string())?;
                let (events, faults) = (outcome.events, scenario.items.len());
                let seconds = outcome.took.as_secs_f64();
                Ok(format!("no violation: {events} events in {seconds:.1} simulated seconds, {faults} faults"))
            }
        }
    }

    /// Shrinks it, for about as long as `budget`.
    ///
    /// # Errors
    /// If it breaks no promise.
    pub fn minimise(&self, budget: Duration) -> Result<Smaller, String> {
        match self {
            Self::Queue(scenario) => {
                let found = minimise(scenario, budget)?;
                let line = format!(
                    "{}: {} faults became {}, in {} runs and {:.1} s",
                    found.violation.invariant,
                    found.before,
                    found.after,
                    found.runs,
                    found.took.as_secs_f64()
                );
                Ok(Smaller { scenario: Self::Queue(Box::new(found.scenario)), line })
            }
            #[cfg(feature = "wire")]
            Self::Wire(scenario) => {
                let (smaller, violation) = wire::minimise(scenario, budget)?;
                let (before, after) = (scenario.items.len(), smaller.items.len());
                let line = format!("{}: {before} faults became {after}", violation.invariant);
                Ok(Smaller { scenario: Self::Wire(Box::new(smaller)), line })
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
        #[cfg(feature = "wire")]
        if let Some(seed) = text.strip_prefix("wire:") {
            return seed.parse().map(Self::Wire).map_err(|_| format!("{seed:?} is not a seed"));
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
            #[cfg(feature = "wire")]
            Self::Wire(seed) => write!(f, "wire:{seed}"),
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
