//! Every bound of the core in one place, and what it does not insist on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    gossip::GossipSettings,
    light::{RootedTrust, Trust, TrustSettings},
};

/// Bounds on memory, work and waiting. Defaults suit a node that follows one public network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Whose word is believed about the sequencer's headers.
    pub trust: TrustSettings,
    /// Cells in one process.
    pub cells: usize,
    /// Soft blocks fetched at the same time.
    pub soft_in_flight: usize,
    /// How far past the lowest needed height soft blocks are fetched, in sequencer heights.
    pub soft_ahead: u64,
    /// Bytes of soft blocks held (fetched or being verified) before fetching waits.
    pub soft_buffer_bytes: usize,
    /// How far soft may be ahead of firm, in sequencer heights.
    pub soft_firm_spread: u64,
    /// Celestia heights fetched at the same time; fewer when they hold much, see [`Limits::firm_buffer_bytes`].
    pub celestia_in_flight: usize,
    /// Sequencer heights past the next firm one for which Celestia records are kept.
    pub firm_ahead: u64,
    /// Bytes of Celestia records held per cell before reading ahead waits; heights that are read together hold half of it.
    pub firm_buffer_bytes: usize,
    /// Distinct metadata candidates kept for one sequencer height while its header is unknown.
    pub candidates_per_height: usize,
    /// Signed headers fetched at the same time.
    pub headers_in_flight: usize,
    /// How far past the next height headers are fetched, for firm on the word of a blob, in sequencer heights.
    pub headers_ahead: u64,
    /// Trusted headers kept.
    pub trusted_headers: usize,
    /// Validator sets kept.
    pub validator_sets: usize,
    /// Validators in one set.
    pub validators: usize,
    /// Rows of a Celestia block's extended square.
    pub square_width: usize,
    /// Bytes of the shares that one namespace has at one Celestia height. Where a block can hold more than this, strangers
    /// could stop a node that wants proofs by filling one.
    pub namespace_bytes: usize,
    /// Bytes of one blob before decompression.
    pub blob_bytes: usize,
    /// Bytes of one blob after decompression.
    pub blob_unpacked_bytes: usize,
    /// Decompressed size over compressed size; small blobs may always unpack to [`Limits::blob_ratio_floor_bytes`].
    pub blob_ratio: usize,
    /// Below this size the ratio does not matter, in bytes.
    pub blob_ratio_floor_bytes: usize,
    /// Entries in one decoded list (of a blob or of a message).
    pub list_entries: usize,
    /// Transactions of one rollup in one block.
    pub transactions: usize,
    /// Bytes of an encoded filtered block.
    pub soft_block_bytes: usize,
    /// Bytes of each text that a rollup node sends (hashes, session id, chain ids).
    pub text_bytes: usize,
    /// How often the sequencer's head is asked for.
    pub sequencer_poll: Duration,
    /// How often Celestia's head is asked for until its block time is known; then a third of the block time.
    pub celestia_poll: Duration,
    /// Bounds of the learnt Celestia polling period.
    pub celestia_poll_min: Duration,
    pub celestia_poll_max: Duration,
    /// First and last back-off between tries of a failed call.
    pub backoff_first: Duration,
    pub backoff_last: Duration,
    /// First and last delay before a session is opened again after it was lost.
    pub session_delay_first: Duration,
    pub session_delay_last: Duration,
    /// Deadline of a call to the sequencer, CometBFT and Celestia.
    pub fetch_deadline: Duration,
    /// Deadline of a call to the rollup.
    pub execution_deadline: Duration,
    /// How long a requested stop waits for an execution call that is in flight.
    pub stop_grace: Duration,
    /// Whether a process stays when its last cell is parked.
    pub stay_when_parked: bool,
    /// Whose word is believed about Celestia: with the endpoint's, no blob is proven and none shown to be missing. Set apart
    /// from the bounds in configurations, as is what follows. Recordings from before there was a choice leave it out.
    #[serde(skip_serializing_if = "Trust::is_endpoint")]
    pub celestia_trust: Trust,
    /// Trust in Celestia's headers.
    #[serde(skip_serializing_if = "RootedTrust::is_default")]
    pub celestia: RootedTrust,
    /// Progress of trust is persisted at most this often.
    pub persist_period: Duration,
    /// Blocks from peers. Recordings from before there were any leave it out.
    #[serde(skip_serializing_if = "GossipSettings::is_default")]
    pub gossip: GossipSettings,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            trust: TrustSettings::default(),
            cells: 256,
            soft_in_flight: 16,
            soft_ahead: 64,
            soft_buffer_bytes: 2 << 20,
            soft_firm_spread: 2_048,
            celestia_in_flight: 4,
            firm_ahead: 4_096,
            firm_buffer_bytes: 4 << 20,
            candidates_per_height: 64,
            headers_in_flight: 8,
            headers_ahead: 256,
            trusted_headers: 2_304,
            validator_sets: 4,
            validators: 1_000,
            square_width: 1_024,
            namespace_bytes: 128 << 20,
            blob_bytes: 8 << 20,
            blob_unpacked_bytes: 16 << 20,
            blob_ratio: 200,
            blob_ratio_floor_bytes: 1 << 20,
            list_entries: 16_384,
            transactions: 65_536,
            soft_block_bytes: 8 << 20,
            text_bytes: 1_024,
            sequencer_poll: Duration::from_secs(1),
            celestia_poll: Duration::from_secs(2),
            celestia_poll_min: Duration::from_millis(100),
            celestia_poll_max: Duration::from_secs(10),
            backoff_first: Duration::from_millis(100),
            backoff_last: Duration::from_secs(10),
            session_delay_first: Duration::from_millis(200),
            session_delay_last: Duration::from_secs(30),
            fetch_deadline: Duration::from_secs(30),
            execution_deadline: Duration::from_mins(1),
            stop_grace: Duration::from_secs(5),
            stay_when_parked: false,
            celestia_trust: Trust::Endpoint,
            celestia: RootedTrust::default(),
            persist_period: Duration::from_secs(1),
            gossip: GossipSettings::default(),
        }
    }
}
