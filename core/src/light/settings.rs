//! What the operator says about trust in a chain's headers.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    client::Root,
    verify::{Genesis, Options, TrustedState},
};
use crate::{ids::BlockHash, sequencer::ValidatorsError};

/// Whose word is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Nobody's but the validators': every header is reached from the root by signatures and hashes.
    #[default]
    Consensus,
    /// The node's: its headers need no more than a commit of the set that the node itself names. For test networks.
    Endpoint,
}

impl Trust {
    /// Whether it is as it was of Celestia before there was a choice: then files leave it out. Serde asks by reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn is_endpoint(&self) -> bool {
        *self == Self::Endpoint
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Consensus => "consensus",
            Self::Endpoint => "endpoint",
        })
    }
}

/// What a soft block needs before it is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SoftTrust {
    /// A trusted header that its content leads to.
    #[default]
    Consensus,
    /// The word of the sequencer's service: faster, and a lie is found only when firm comes by.
    Sequencer,
}

impl fmt::Display for SoftTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Consensus => "consensus",
            Self::Sequencer => "sequencer",
        })
    }
}

/// Where trust begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootSetting {
    /// With the first header that comes, once; what follows from it is kept.
    #[default]
    FirstUse,
    /// With this header.
    Header { height: u64, hash: BlockHash },
    /// With the chain's genesis file.
    Genesis(Box<Genesis>),
}

impl RootSetting {
    /// What a client begins with.
    ///
    /// # Errors
    /// If the genesis names no validators, or too many.
    pub fn root(&self, validators_max: usize) -> Result<Root, ValidatorsError> {
        Ok(match self {
            Self::FirstUse => Root::FirstUse,
            Self::Header { height, hash } => Root::Header { height: *height, hash: *hash },
            Self::Genesis(genesis) => {
                Root::State(Box::new(TrustedState::of_genesis(genesis.as_ref().clone(), validators_max)?))
            }
        })
    }
}

/// Trust in the headers of one chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustSettings {
    pub level: Trust,
    pub soft: SoftTrust,
    pub root: RootSetting,
    pub trusting_period: Duration,
    pub clock_drift: Duration,
    /// CometBFT nodes that may be asked, at least one. All but the one in use are witnesses.
    pub nodes: u32,
}

impl Default for TrustSettings {
    fn default() -> Self {
        let Options { trusting_period, clock_drift } = Options::default();
        Self {
            level: Trust::default(),
            soft: SoftTrust::default(),
            root: RootSetting::default(),
            trusting_period,
            clock_drift,
            nodes: 1,
        }
    }
}

/// Where trust in the headers of a chain begins, and how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootedTrust {
    pub root: RootSetting,
    pub trusting_period: Duration,
    pub clock_drift: Duration,
}

impl Default for RootedTrust {
    fn default() -> Self {
        let Options { trusting_period, clock_drift } = Options::default();
        Self { root: RootSetting::default(), trusting_period, clock_drift }
    }
}

impl RootedTrust {
    /// Then recordings leave it out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub fn options(&self) -> Options {
        Options { trusting_period: self.trusting_period, clock_drift: self.clock_drift }
    }
}

impl TrustSettings {
    /// Nothing is checked that the nodes themselves do not vouch for.
    pub fn endpoint() -> Self {
        Self { level: Trust::Endpoint, soft: SoftTrust::Sequencer, ..Self::default() }
    }

    pub fn options(&self) -> Options {
        Options { trusting_period: self.trusting_period, clock_drift: self.clock_drift }
    }

    /// The root of trust as configured.
    ///
    /// # Errors
    /// If the genesis names no validators, or too many.
    pub fn root(&self, validators_max: usize) -> Result<Root, ValidatorsError> {
        self.root.root(validators_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_names_that_a_file_gives_them() {
        for level in [Trust::Consensus, Trust::Endpoint] {
            assert_eq!(serde_json::to_value(level).expect("a word"), level.to_string());
        }
        for soft in [SoftTrust::Consensus, SoftTrust::Sequencer] {
            assert_eq!(serde_json::to_value(soft).expect("a word"), soft.to_string());
        }
    }

    #[test]
    fn files_leave_out_what_was_so_before_there_was_a_choice() {
        assert_eq!([Trust::Endpoint, Trust::Consensus].map(|level| level.is_endpoint()), [true, false]);
        let changed = RootedTrust { clock_drift: Duration::ZERO, ..RootedTrust::default() };
        assert_eq!([RootedTrust::default(), changed].map(|trust| trust.is_default()), [true, false]);
    }

    #[test]
    fn with_trust_in_an_endpoint_nothing_waits_for_a_header_and_the_root_is_as_configured() {
        let mut settings = TrustSettings::endpoint();
        assert_eq!((settings.level, settings.soft), (Trust::Endpoint, SoftTrust::Sequencer));
        settings.root = RootSetting::Header { height: 7, hash: BlockHash([1; 32]) };
        let root = settings.root(1).expect("no genesis");
        assert!(matches!(root, Root::Header { height: 7, hash } if hash == BlockHash([1; 32])));
    }
}
