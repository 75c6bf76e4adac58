//! One rollup: its session, its height map and its soft and firm heads.
//!
//! A cell does one thing at a time with its rollup: look a block up, execute one, or move the commitment. Firm goes
//! before soft. What is in flight when the rollup's answer is lost is settled by a new session, which fences the old
//! one off and tells what really happened.

mod checks;
mod height_map;
mod machine;
mod session;
mod work;

use serde::{Deserialize, Serialize};

pub use height_map::{HeightMap, HeightMapError};
pub(crate) use machine::{Cell, Context, State, Work, report_failure};
pub use session::{Commitment, ExecutedBlock, Session, SessionError};

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
