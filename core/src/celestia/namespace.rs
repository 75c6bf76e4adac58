//! Celestia namespaces of version 0 (reference §3.1).

use std::fmt;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::RollupId;

/// Version byte 0, 18 zero bytes, 10 bytes that name the namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Namespace([u8; 29]);

impl Namespace {
    /// Length in bytes.
    pub const LEN: usize = 29;

    /// Takes any 29 bytes, of whatever version.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Where the sequencer's metadata is published.
    pub fn of_sequencer(chain_id: &str) -> Self {
        Self::version_0(&Sha256::digest(chain_id.as_bytes()).into())
    }

    /// Where a rollup's data is published. Rollups whose ids share ten bytes share it.
    pub fn of_rollup(rollup_id: &RollupId) -> Self {
        Self::version_0(&rollup_id.0)
    }

    fn version_0(name: &[u8; 32]) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[19..].copy_from_slice(&name[..10]);
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Standard base64 with padding, the form in JSON.
    pub fn to_base64(self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.0)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_follow_from_chain_id_and_rollup_id() {
        let table = [
            (Namespace::of_sequencer("test_sequencer-1000"), "AAAAAAAAAAAAAAAAAAAAAAAAAKDcd7eO77LbDQs="),
            (Namespace::of_sequencer("test-sequencer-0"), "AAAAAAAAAAAAAAAAAAAAAAAAANWifpCKunrzaPc="),
            (Namespace::of_sequencer("astria"), "AAAAAAAAAAAAAAAAAAAAAAAAAFu5ROwv066cIvY="),
            (Namespace::of_rollup(&RollupId([0x2a; 32])), "AAAAAAAAAAAAAAAAAAAAAAAAACoqKioqKioqKio="),
        ];
        for (namespace, base64) in table {
            assert_eq!(namespace.to_base64(), base64);
        }
    }

    #[test]
    fn a_namespace_is_shown_in_hexadecimal_and_sent_as_it_is() {
        let namespace = Namespace::of_rollup(&RollupId([0x2a; 32]));
        let hex = format!("{}{}", "00".repeat(19), "2a".repeat(10));
        assert_eq!((namespace.to_string(), format!("{namespace:?}")), (hex.clone(), format!("Namespace({hex})")));
        assert_eq!(Namespace::from_bytes(*namespace.as_bytes()), namespace);
        assert_eq!(hex::encode(namespace.as_bytes()), hex);
    }
}
