//! What everything on the wire is called. Chain and genesis are part of every name, so two networks never mix (S18).

use downbeat_core::RollupId;
use libp2p::{
    StreamProtocol,
    gossipsub::{IdentTopic, TopicHash},
};

use super::Topic;

/// Names inside one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// `/downbeat/1/<space>`
    prefix: String,
}

impl Names {
    pub(super) fn new(space: &str) -> Self {
        Self { prefix: format!("/downbeat/1/{space}") }
    }

    /// What peers tell each other when they meet.
    pub(super) fn protocol_version(&self) -> &str {
        &self.prefix
    }

    pub(super) fn meshsub(&self) -> String {
        format!("{}/meshsub", self.prefix)
    }

    /// # Errors
    /// Never: the name begins with a slash.
    pub(super) fn kad(&self) -> Result<StreamProtocol, libp2p::swarm::InvalidProtocol> {
        StreamProtocol::try_from_owned(format!("{}/kad", self.prefix))
    }

    /// # Errors
    /// Never: the name begins with a slash.
    pub(super) fn blocks_by_height(&self) -> Result<StreamProtocol, libp2p::swarm::InvalidProtocol> {
        StreamProtocol::try_from_owned(format!("{}/blocks-by-height", self.prefix))
    }

    pub(super) fn topic(&self, topic: Topic) -> IdentTopic {
        IdentTopic::new(match topic {
            Topic::Blocks => format!("{}/blocks", self.prefix),
            Topic::Rollup(RollupId(id)) => format!("{}/rollup/{}", self.prefix, hex::encode(id)),
        })
    }

    /// `None` for what is no topic of this space.
    pub(super) fn parse(&self, topic: &TopicHash) -> Option<Topic> {
        self.parse_name(topic.as_str())
    }

    pub(super) fn is_blocks_by_height(&self, protocol: &StreamProtocol) -> bool {
        protocol.as_ref().strip_prefix(&self.prefix) == Some("/blocks-by-height")
    }

    /// The same for a name as text.
    pub(super) fn parse_name(&self, name: &str) -> Option<Topic> {
        let rest = name.strip_prefix(&self.prefix)?;
        if rest == "/blocks" {
            return Some(Topic::Blocks);
        }
        let digits = rest.strip_prefix("/rollup/")?;
        let mut id = [0; 32];
        hex::decode_to_slice(digits, &mut id).ok()?;
        // One name for one topic: no capitals.
        (hex::encode(id) == digits).then_some(Topic::Rollup(RollupId(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_found_again_by_its_name_and_only_in_its_space() {
        let (ours, others) = (Names::new("00112233aabbccdd"), Names::new("00112233aabbccde"));
        for topic in [Topic::Blocks, Topic::Rollup(RollupId([0xab; 32]))] {
            let name = ours.topic(topic).hash();
            assert_eq!(ours.parse(&name), Some(topic));
            assert_eq!(others.parse(&name), None);
        }
        let capitals = format!("{}/rollup/{}", ours.prefix, "AB".repeat(32));
        for name in ["", "/blocks", "/downbeat/1/00112233aabbccdd/blocksx", &capitals] {
            assert_eq!(ours.parse(&TopicHash::from_raw(name)), None, "{name}");
        }
    }
}
