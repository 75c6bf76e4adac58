//! A light client for a CometBFT chain: from one header that is trusted, others are reached by signatures and hash
//! links. Knows neither which chain it is nor who answers; [`crate::sequencer`] uses it for the sequencer and
//! [`crate::celestia`] for Celestia.
//!
//! The rules are those of `tendermint-light-client-verifier`: upwards, a header is trusted if its own validators
//! committed to it and, unless it is the very next one, if more than a third of a trusted set signed it as well; what is
//! too far away for that is reached through headers in between. Downwards, a header is trusted if its successor names its
//! hash, see [`crate::sequencer::verify_links`].

mod client;
mod evidence;
mod keeper;
mod link;
mod record;
mod settings;
mod verify;

pub use client::{Client, Root, Wish};
pub(crate) use evidence::conflict;
pub use evidence::{
    CommittedHeader, ConflictingHeaders, EvidenceError, ProvenConflict, SignedBlock, Witnessed, compare,
};
pub(crate) use keeper::Keeper;
pub use link::{HeaderId, LinkError};
pub use record::{RecordError, TrustedRecord};
pub use settings::{RootSetting, RootedTrust, SoftTrust, Trust, TrustSettings};
pub(crate) use verify::verify_with;
pub use verify::{Check, Genesis, LightBlock, Options, Refusal, TrustedState, verify};
