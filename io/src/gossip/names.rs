//! What everything on the wire is called. Chain and genesis are part of every name, so two networks never mix (S18).

use downbeat_core::gossip::{Space, Topic};
use libp2p::{
    StreamProtocol,
    gossipsub::{IdentTopic, TopicHash},
    swarm::InvalidProtocol,
};

const BLOCKS_BY_HEIGHT: &str = "blocks-by-height";

/// Names inside one space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names(pub(super) Space);

impl Names {
    /// What peers tell each other when they meet.
    pub(super) fn protocol_version(self) -> String {
        self.0.protocol("node")
    }

    pub(super) fn meshsub(self) -> String {
        self.0.protocol("meshsub")
    }

    /// # Errors
    /// Never: the name begins with a slash.
    pub(super) fn kad(self) -> Result<StreamProtocol, InvalidProtocol> {
        StreamProtocol::try_from_owned(self.0.protocol("kad"))
    }

    /// # Errors
    /// Never: the name begins with a slash.
    pub(super) fn blocks_by_height(self) -> Result<StreamProtocol, InvalidProtocol> {
        StreamProtocol::try_from_owned(self.0.protocol(BLOCKS_BY_HEIGHT))
    }

    pub(super) fn is_blocks_by_height(self, protocol: &StreamProtocol) -> bool {
        protocol.as_ref() == self.0.protocol(BLOCKS_BY_HEIGHT)
    }

    pub(super) fn topic(self, topic: Topic) -> IdentTopic {
        IdentTopic::new(topic.name(&self.0))
    }

    /// `None` for what is no topic of this space.
    pub(super) fn parse(self, topic: &TopicHash) -> Option<Topic> {
        self.parse_name(topic.as_str())
    }

    /// The same for a name as text.
    pub(super) fn parse_name(self, name: &str) -> Option<Topic> {
        Topic::parse(name, &self.0)
    }
}
