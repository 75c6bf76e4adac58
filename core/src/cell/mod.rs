//! One rollup: its session, its height map and its soft and firm heads.

use serde::{Deserialize, Serialize};

/// Which heads a cell follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    SoftOnly,
    FirmOnly,
    SoftAndFirm,
}

impl Mode {
    pub fn follows_soft(self) -> bool {
        matches!(self, Self::SoftOnly | Self::SoftAndFirm)
    }

    pub fn follows_firm(self) -> bool {
        matches!(self, Self::FirmOnly | Self::SoftAndFirm)
    }
}

/// What the operator says about a cell. Everything else comes from the rollup's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSpec {
    pub mode: Mode,
    /// Chain ids that the operator insists on, beside those of the session.
    pub expected_sequencer_chain_id: Option<String>,
    pub expected_celestia_chain_id: Option<String>,
}
