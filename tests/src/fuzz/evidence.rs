//! Files that strangers hand out: evidence, and a chain's genesis.

use downbeat::genesis;
use downbeat_core::{
    Limits,
    celestia::FalseNamespaces,
    inspect::{InspectError, Proven, inspect_evidence},
    light::ConflictingHeaders,
    sequencer::FalseBlock,
};

/// A file, read as evidence and as a genesis.
pub fn evidence(data: &[u8]) {
    let limits = Limits::default();
    let inspect = |bytes: &[u8]| inspect_evidence(bytes, &limits);
    let proven = inspect(data);
    let written = [
        ConflictingHeaders::from_json(data).map(|evidence| evidence.to_json()),
        FalseNamespaces::from_json(data).map(|evidence| evidence.to_json()),
        FalseBlock::from_json(data).map(|evidence| evidence.to_json()),
    ];
    let again: Vec<Result<Proven, InspectError>> =
        written.into_iter().flatten().map(|json| inspect(json.as_bytes())).collect();
    if let Ok(proven) = proven {
        assert!(again.contains(&Ok(proven)), "what was proven is not after it is written again");
    }
    if let Ok(genesis) = std::str::from_utf8(data).map_err(|error| error.to_string()).and_then(genesis::parse) {
        assert!(!genesis.validators.is_empty(), "nothing follows from a genesis without validators");
        let powers: Vec<u64> = genesis.validators.iter().map(tendermint::validator::Info::power).collect();
        assert!(powers.is_sorted_by(|one, next| one >= next), "{powers:?}");
    }
}
