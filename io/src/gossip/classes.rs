//! Kinds of peers, by how this node came to know them, and what was counted of each.

use serde::{Deserialize, Serialize};

/// How a peer came to be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerClass {
    /// On the list `gossip.explicit_peers`, whoever dialled.
    Explicit,
    /// On the list `gossip.bootnodes`, whoever dialled.
    Bootnode,
    /// This node found it and dialled.
    Chosen,
    /// It dialled.
    Inbound,
}

impl PeerClass {
    pub const ALL: [Self; 4] = [Self::Explicit, Self::Bootnode, Self::Chosen, Self::Inbound];

    /// Name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::Bootnode => "bootnode",
            Self::Chosen => "chosen",
            Self::Inbound => "inbound",
        }
    }
}

/// What peers of one class did, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCounters {
    /// Now, and so far.
    pub connected: u64,
    pub connections: u64,
    /// Messages that were handed over, by what became of them.
    pub accepted: u64,
    pub ignored: u64,
    pub rejected: u64,
    /// Messages beyond what a peer may send.
    pub overflowed: u64,
    /// Questions of theirs that were answered, and that were refused.
    pub requests_served: u64,
    pub requests_refused: u64,
    /// Questions to them that were answered, and that were not, or with garbage.
    pub answers: u64,
    pub failures: u64,
    /// Sent away for their score.
    pub banned: u64,
}

/// Of all classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByClass {
    pub explicit: ClassCounters,
    pub bootnode: ClassCounters,
    pub chosen: ClassCounters,
    pub inbound: ClassCounters,
}

impl ByClass {
    pub fn of(&self, class: PeerClass) -> &ClassCounters {
        match class {
            PeerClass::Explicit => &self.explicit,
            PeerClass::Bootnode => &self.bootnode,
            PeerClass::Chosen => &self.chosen,
            PeerClass::Inbound => &self.inbound,
        }
    }

    pub(super) fn of_mut(&mut self, class: PeerClass) -> &mut ClassCounters {
        match class {
            PeerClass::Explicit => &mut self.explicit,
            PeerClass::Bootnode => &mut self.bootnode,
            PeerClass::Chosen => &mut self.chosen,
            PeerClass::Inbound => &mut self.inbound,
        }
    }
}
