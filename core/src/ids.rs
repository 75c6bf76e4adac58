//! Names of things: heights that never mix, hashes, and the identities of cells, commands and events.

use std::fmt;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

macro_rules! height {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The height after this one; stays at the maximum.
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The height `count` further; stays at the maximum.
            pub fn plus(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// The height `count` before; stays at zero.
            pub fn minus(self, count: u64) -> Self {
                Self(self.0.saturating_sub(count))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

height! {
    /// Height of a block of the shared sequencer's CometBFT chain.
    SequencerHeight
}
height! {
    /// Height of a Celestia block.
    CelestiaHeight
}
height! {
    /// Number of a rollup block; each one belongs to exactly one sequencer height.
    RollupNumber
}

/// Identifies a rollup on the shared sequencer: by convention the SHA-256 of its plain-text name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RollupId(pub [u8; 32]);

impl fmt::Debug for RollupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RollupId({self})")
    }
}

/// URL-safe base64, the form in which rollup ids are usually written.
impl fmt::Display for RollupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64::engine::general_purpose::URL_SAFE.encode(self.0))
    }
}

/// CometBFT hash of a sequencer block's header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockHash(pub [u8; 32]);

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({self})")
    }
}

/// Lower-case hexadecimal, as the execution API carries it.
impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// One rollup that this process drives. Chosen by the operator's configuration, stable for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CellId(pub u32);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cell-{}", self.0)
    }
}

/// One of the configured CometBFT nodes, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Node(pub u32);

impl Node {
    /// None of them: what was not shown by a node.
    pub const NONE: Self = Self(u32::MAX);

    /// The one after this of `count`, the first after the last.
    pub fn next(self, count: u32) -> Self {
        Self(self.0.saturating_add(1).checked_rem(count).unwrap_or(0))
    }
}

/// Position of an event in the one sequence that a conductor consumes; starts at 0 without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// Names one command, so that its answer can be told from late and foreign ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommandId {
    /// Differs between any two lives of the process.
    pub incarnation: u64,
    /// Counts the commands of this life.
    pub ordinal: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_people_and_peers_write_them() {
        let (id, hash) = (RollupId([0xfb; 32]), BlockHash([0xab; 32]));
        assert_eq!(id.to_string(), "-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s=");
        assert_eq!((hash.to_string(), format!("{hash:?}")), ("ab".repeat(32), format!("BlockHash({hash})")));
        assert_eq!(format!("{id:?}"), format!("RollupId({id})"));
        assert_eq!((CellId(3).to_string(), SequencerHeight(7).to_string()), ("cell-3".to_owned(), "7".to_owned()));
    }

    #[test]
    fn heights_stay_within_their_range() {
        let (first, last) = (CelestiaHeight(0), CelestiaHeight(u64::MAX));
        assert_eq!((last.next(), last.plus(2), first.minus(1)), (last, last, first));
        assert_eq!((first.next().0, first.plus(5).0, CelestiaHeight(5).minus(2).0), (1, 5, 3));
    }
}
