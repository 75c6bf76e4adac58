//! The fuzz targets: each takes any bytes and asserts what must hold for them.
//!
//! They live here and not beside libFuzzer's entry points (`fuzz/fuzz_targets`), so that `cargo test` replays every
//! committed input through the same functions on any toolchain.

mod blob;
mod celestia_json;
mod cometbft_json;
mod config;
mod evidence;
mod filtered_block;
mod genuine;
mod gossip;
mod journal;
mod machine;
mod merkle;
mod naive;
mod peer;
pub mod seeds;

use downbeat_core::Limits;

pub use blob::blob;
pub use celestia_json::celestia_json;
pub use cometbft_json::cometbft_json;
pub use config::config;
pub use evidence::evidence;
pub use filtered_block::filtered_block;
pub use gossip::gossip;
pub use journal::journal;
pub use machine::state_machine;
pub use merkle::merkle;

/// A target's body.
pub type Target = fn(&[u8]);

/// All targets by name, which is also the name of the directory of their inputs.
pub const TARGETS: [(&str, Target); 10] = [
    ("blob", blob),
    ("celestia_json", celestia_json),
    ("cometbft_json", cometbft_json),
    ("config", config),
    ("evidence", evidence),
    ("filtered_block", filtered_block),
    ("gossip", gossip),
    ("journal", journal),
    ("merkle", merkle),
    ("state_machine", state_machine),
];

/// Limits that small inputs reach.
fn tiny_limits() -> Limits {
    Limits {
        blob_bytes: 4_096,
        blob_unpacked_bytes: 8_192,
        blob_ratio: 4,
        blob_ratio_floor_bytes: 256,
        list_entries: 3,
        transactions: 4,
        soft_block_bytes: 1_024,
        validators: 3,
        text_bytes: 32,
        ..Limits::default()
    }
}
