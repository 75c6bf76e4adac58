//! A space: the conductors of one sequencer chain. Its name is part of every topic and protocol, so networks never mix
//! (S18).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{ids::RollupId, merkle::Hash};

/// Names the network of one sequencer chain: a digest of its chain id and of the block that it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space([u8; 8]);

/// What a name is derived from begins with this, so that it is not the digest of something else.
const DOMAIN: &[u8] = b"downbeat/space";

impl Space {
    /// `genesis` is the hash of the genesis file, or of the first header that is known to all; zeros where neither is
    /// known: then the chain id alone tells networks apart.
    pub fn new(chain_id: &str, genesis: &Hash) -> Self {
        let length = u64::try_from(chain_id.len()).unwrap_or(u64::MAX).to_be_bytes();
        let digest: Hash = Sha256::new()
            .chain_update(DOMAIN)
            .chain_update(length)
            .chain_update(chain_id)
            .chain_update(genesis)
            .finalize()
            .into();
        let mut name = [0; 8];
        name.copy_from_slice(&digest[..8]);
        Self(name)
    }

    /// Name of a protocol that is spoken in this space only, for instance `/downbeat/1/0123456789abcdef/meshsub`.
    pub fn protocol(&self, name: &str) -> String {
        format!("/downbeat/{}/{self}/{name}", super::VERSION)
    }
}

/// 16 digits in lower-case hexadecimal.
impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What a message is about. Whoever follows one rollup need not carry the data of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Headers, commits, and what binds a block's data to them.
    Blocks,
    /// The data of one rollup.
    Rollup(RollupId),
}

impl Topic {
    /// The topic's name on the network.
    pub fn name(&self, space: &Space) -> String {
        match self {
            Self::Blocks => space.protocol("blocks"),
            Self::Rollup(id) => space.protocol(&format!("rollup/{}", hex::encode(id.0))),
        }
    }

    /// What [`Topic::name`] made in the same space; nothing else is a topic.
    pub fn parse(name: &str, space: &Space) -> Option<Self> {
        let rest = name.strip_prefix(&space.protocol(""))?;
        if rest == "blocks" {
            return Some(Self::Blocks);
        }
        let id: [u8; 32] = hex::decode(rest.strip_prefix("rollup/")?).ok()?.try_into().ok()?;
        let topic = Self::Rollup(RollupId(id));
        // One rollup, one name.
        (topic.name(space) == name).then_some(topic)
    }
}

/// For the log.
impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks => f.write_str("blocks"),
            Self::Rollup(id) => write!(f, "rollup {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_genesis_blocks_make_spaces_of_their_own() {
        let spaces = [
            Space::new("astria", &[0; 32]),
            Space::new("astria-2", &[0; 32]),
            Space::new("", &[0; 32]),
            Space::new("astria", &[1; 32]),
        ];
        for (index, space) in spaces.iter().enumerate() {
            assert!(spaces.iter().skip(index + 1).all(|other| other != space), "{space}");
            assert_eq!(space.to_string().len(), 16);
        }
        assert_eq!(spaces[0], Space::new("astria", &[0; 32]));
    }

    #[test]
    fn a_log_tells_blocks_from_the_data_of_a_rollup() {
        let rollup = RollupId([0xab; 32]);
        assert_eq!(
            [Topic::Blocks, Topic::Rollup(rollup)].map(|topic| topic.to_string()),
            ["blocks".to_owned(), format!("rollup {rollup}")]
        );
    }

    #[test]
    fn a_topic_is_read_in_the_space_it_was_named_in_and_in_one_form_only() {
        let (space, other) = (Space::new("a", &[0; 32]), Space::new("b", &[0; 32]));
        for topic in [Topic::Blocks, Topic::Rollup(RollupId([0xab; 32]))] {
            let name = topic.name(&space);
            assert_eq!(Topic::parse(&name, &space), Some(topic), "{name}");
            assert_eq!(Topic::parse(&name, &other), None, "{name}");
            for bad in [format!("{name}0"), format!("{name}/"), name.replace('b', "B"), name.replace("/1/", "/2/")] {
                assert_eq!(Topic::parse(&bad, &space), None, "{bad}");
            }
        }
        assert_eq!(Topic::parse(&space.protocol("meshsub"), &space), None);
    }
}
