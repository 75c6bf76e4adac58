//! What the operator says about blocks from peers, and the bounds of what is held of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    light::{RootSetting, SoftTrust, Trust},
    limits::Limits,
};

/// Blocks from peers. Off unless it is switched on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GossipSettings {
    /// Whether anything is taken from peers.
    pub enabled: bool,
    /// Whether what was verified from elsewhere is handed to peers.
    pub publish: bool,
    /// Chain id of the sequencer, where no server is to be asked: heads, headers and blocks come from peers alone then. A
    /// root of trust is needed, for nobody is there to be believed first.
    pub sole_source_of: Option<String>,
    /// Bytes of one message as it travels.
    pub message_bytes: usize,
    /// Bytes of its body, unpacked.
    pub body_bytes: usize,
    /// Messages that wait for a verdict: of all peers, and of one.
    pub undecided: usize,
    pub undecided_per_peer: usize,
    /// Bytes of messages that wait for a verdict.
    pub undecided_bytes: usize,
    /// Data of a rollup wait at most so long for their block.
    pub decide_within: Duration,
    /// How far past the lowest needed height the parts of blocks are kept, in sequencer heights.
    pub ahead: u64,
    /// How long the parts of a block may be on their way before one peer is asked for them.
    pub patience: Duration,
    /// Peers asked at the same time.
    pub asked_at_once: usize,
    /// Deadline of a question to a peer.
    pub answer_within: Duration,
}

impl Default for GossipSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            publish: true,
            sole_source_of: None,
            message_bytes: 4 << 20,
            body_bytes: 8 << 20,
            undecided: 256,
            undecided_per_peer: 32,
            undecided_bytes: 16 << 20,
            decide_within: Duration::from_secs(5),
            ahead: 64,
            patience: Duration::from_millis(200),
            asked_at_once: 8,
            answer_within: Duration::from_secs(5),
        }
    }
}

/// Why blocks cannot be taken from peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GossipUnsafe {
    #[error(
        "gossip needs trust = \"consensus\": with trust in an endpoint anybody could make up headers and sign them"
    )]
    EndpointTrust,
    #[error("gossip needs soft_trust = \"consensus\": what a peer says is worth nothing without a trusted header")]
    SoftTrust,
    #[error(
        "without a sequencer server a root of trust is needed: set sequencer.trust_root or the genesis file, or the \
         first stranger that comes would be believed"
    )]
    NoRoot,
}

impl GossipSettings {
    /// Then recordings leave it out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether blocks may be taken from peers with what else is configured. A conductor takes none otherwise.
    ///
    /// # Errors
    /// If strangers could then make up what is executed.
    pub fn check(limits: &Limits) -> Result<(), GossipUnsafe> {
        if limits.trust.level == Trust::Endpoint {
            return Err(GossipUnsafe::EndpointTrust);
        }
        if limits.trust.soft == SoftTrust::Sequencer {
            return Err(GossipUnsafe::SoftTrust);
        }
        if limits.gossip.sole_source_of.is_some() && limits.trust.root == RootSetting::FirstUse {
            return Err(GossipUnsafe::NoRoot);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::BlockHash, light::TrustSettings};

    #[test]
    fn recordings_leave_out_what_nobody_has_changed() {
        let changed = GossipSettings { enabled: true, ..GossipSettings::default() };
        assert_eq!([GossipSettings::default(), changed].map(|settings| settings.is_default()), [true, false]);
    }

    #[test]
    fn what_strangers_could_make_up_is_not_taken_from_them() {
        let mut limits = Limits::default();
        assert_eq!(GossipSettings::check(&limits), Ok(()));
        limits.gossip.sole_source_of = Some("astria".to_owned());
        assert_eq!(GossipSettings::check(&limits), Err(GossipUnsafe::NoRoot));
        limits.trust.root = RootSetting::Header { height: 1, hash: BlockHash([1; 32]) };
        assert_eq!(GossipSettings::check(&limits), Ok(()));
        limits.trust.soft = SoftTrust::Sequencer;
        assert_eq!(GossipSettings::check(&limits), Err(GossipUnsafe::SoftTrust));
        limits.trust = TrustSettings::endpoint();
        assert_eq!(GossipSettings::check(&limits), Err(GossipUnsafe::EndpointTrust));
    }
}
