//! Fault classes: what a failed call means for what happens next.
//!
//! Adapters translate status codes with the tables in this file; nothing else in the core looks at codes or texts.

use serde::{Deserialize, Serialize};

/// Decides what follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FaultClass {
    /// May succeed when tried again: retried with jittered back-off, for ever.
    Transient,
    /// What was asked for does not exist yet: asked again later.
    NotYet,
    /// What was asked for existed once and is no longer kept by this peer.
    Gone,
    /// The answer cannot be what was asked for: dropped, nothing of it is remembered, and asked again with back-off.
    Invalid,
    /// The rollup no longer accepts the session: a new one is opened after a delay.
    SessionLost,
    /// Trying again cannot help: the cell is parked.
    Fatal,
}

/// A failed call as an event carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub class: FaultClass,
    /// For people; never decides anything and never holds a secret. At most [`Fault::DETAIL_MAX`] bytes.
    pub detail: String,
}

impl Fault {
    /// Longest detail that is kept, in bytes.
    pub const DETAIL_MAX: usize = 512;

    pub fn new(class: FaultClass, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > Self::DETAIL_MAX {
            let end = (0..=Self::DETAIL_MAX).rev().find(|end| detail.is_char_boundary(*end)).unwrap_or(0);
            detail.truncate(end);
        }
        Self { class, detail }
    }

    pub fn transient(detail: impl Into<String>) -> Self {
        Self::new(FaultClass::Transient, detail)
    }

    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(FaultClass::Invalid, detail)
    }
}

/// Class of a gRPC status of a rollup's execution service (reference §6.8). `code` is the numeric gRPC code.
pub fn execution_status(code: i32) -> FaultClass {
    match code {
        // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, UNAVAILABLE
        1 | 2 | 4 | 8 | 10 | 14 => FaultClass::Transient,
        // NOT_FOUND
        5 => FaultClass::NotYet,
        // PERMISSION_DENIED
        7 => FaultClass::SessionLost,
        // INVALID_ARGUMENT, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, DATA_LOSS,
        // UNAUTHENTICATED, and codes that do not exist
        _ => FaultClass::Fatal,
    }
}

/// Class of a gRPC status of the sequencer. A sequencer is never able to end a cell: the worst it can do is delay.
pub fn sequencer_status(code: i32) -> FaultClass {
    match code {
        // INVALID_ARGUMENT is how a node refuses a height above its own; NOT_FOUND and OUT_OF_RANGE mean the same.
        3 | 5 | 11 => FaultClass::NotYet,
        _ => FaultClass::Transient,
    }
}

/// Class of a JSON-RPC error of a CometBFT node.
pub fn cometbft_error(code: i64, message: &str) -> FaultClass {
    let message = message.to_ascii_lowercase();
    if message.contains("is not available, lowest height is") || message.contains("could not find results") {
        FaultClass::Gone
    } else if message.contains("must be less than or equal to the current blockchain height") {
        FaultClass::NotYet
    } else if code == -32601 {
        // No such method: another server than a CometBFT node, but perhaps behind a proxy that is being restarted.
        FaultClass::Invalid
    } else {
        FaultClass::Transient
    }
}

/// What a JSON-RPC error of a Celestia node means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CelestiaError {
    /// Nodes before 0.15 answer so when a height holds no blobs in the namespace.
    NoBlobs,
    Fault(FaultClass),
}

/// Class of a JSON-RPC error of a Celestia node, which reports every failure in this way (reference §3.3).
pub fn celestia_error(_code: i64, message: &str) -> CelestiaError {
    let message = message.to_ascii_lowercase();
    if message.contains("blob: not found") {
        CelestiaError::NoBlobs
    } else if message.contains("is below tail") || message.contains("pruned") {
        CelestiaError::Fault(FaultClass::Gone)
    } else if ["from the future", "syncing in progress", "height is equal to 0"]
        .iter()
        .any(|text| message.contains(text))
    {
        CelestiaError::Fault(FaultClass::NotYet)
    } else {
        CelestiaError::Fault(FaultClass::Transient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_execution_status_has_its_class() {
        use FaultClass::{Fatal, NotYet, SessionLost, Transient};
        let table = [
            (1, Transient),
            (2, Transient),
            (3, Fatal),
            (4, Transient),
            (5, NotYet),
            (6, Fatal),
            (7, SessionLost),
            (8, Transient),
            (9, Fatal),
            (10, Transient),
            (11, Fatal),
            (12, Fatal),
            (13, Fatal),
            (14, Transient),
            (15, Fatal),
            (16, Fatal),
            (17, Fatal),
        ];
        for (code, class) in table {
            assert_eq!(execution_status(code), class, "gRPC code {code}");
        }
    }

    #[test]
    fn the_sequencer_can_only_delay() {
        for code in -1..20 {
            assert!(matches!(sequencer_status(code), FaultClass::Transient | FaultClass::NotYet), "gRPC code {code}");
        }
        assert_eq!(sequencer_status(3), FaultClass::NotYet);
        assert_eq!(sequencer_status(14), FaultClass::Transient);
    }

    #[test]
    fn json_rpc_errors_have_their_class() {
        let cometbft = [
            (-32603, "height 9 must be less than or equal to the current blockchain height 8", FaultClass::NotYet),
            (-32603, "height 1 is not available, lowest height is 100", FaultClass::Gone),
            (-32601, "Method not found", FaultClass::Invalid),
            (-32603, "whatever", FaultClass::Transient),
        ];
        for (code, message, class) in cometbft {
            assert_eq!(cometbft_error(code, message), class, "{message}");
        }
        let celestia = [
            ("blob: not found", CelestiaError::NoBlobs),
            ("header: given height is from the future", CelestiaError::Fault(FaultClass::NotYet)),
            ("header: syncing in progress: localHeadHeight: 5, requested: 7", CelestiaError::Fault(FaultClass::NotYet)),
            ("header: height is equal to 0", CelestiaError::Fault(FaultClass::NotYet)),
            ("requested header (3) is below Tail (10)", CelestiaError::Fault(FaultClass::Gone)),
            ("anything else", CelestiaError::Fault(FaultClass::Transient)),
        ];
        for (message, class) in celestia {
            assert_eq!(celestia_error(1, message), class, "{message}");
        }
    }

    #[test]
    fn a_detail_is_cut_between_characters() {
        let fault = Fault::transient("ü".repeat(400));
        assert_eq!(fault.detail.len(), Fault::DETAIL_MAX);
    }
}
