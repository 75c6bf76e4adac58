//! What outlives the process. The driver keeps it and hands it back at the next start; nothing else is remembered.

use crate::{
    celestia::FalseNamespaces,
    light::{ConflictingHeaders, RecordError, TrustedRecord},
    sequencer::FalseBlock,
};

/// One thing to keep. A later record with the same key replaces an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The highest header of the sequencer that was reached by signatures: where the next life goes on.
    SequencerHeader(TrustedRecord),
    /// The same of Celestia.
    CelestiaHeader(TrustedRecord),
    /// Proof that validators of the sequencer signed twice. Kept, and shown to whoever asks.
    SequencerConflict(Box<ConflictingHeaders>),
    /// Proof that something false was offered as the content of a Celestia block: one for each way to be false.
    FalseNamespaces(Box<FalseNamespaces>),
    /// The same of a block of the sequencer.
    FalseBlock(Box<FalseBlock>),
}

impl Record {
    /// Under what it is kept; at most 64 bytes of ASCII.
    pub fn key(&self) -> String {
        match self {
            Self::SequencerHeader(_) => "sequencer/header".to_owned(),
            Self::CelestiaHeader(_) => "celestia/header".to_owned(),
            Self::SequencerConflict(conflict) => format!("sequencer/conflict/{}", conflict.height),
            Self::FalseNamespaces(evidence) => format!("celestia/false/{}", evidence.reason),
            Self::FalseBlock(evidence) => format!("sequencer/false/{}", evidence.reason),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::SequencerHeader(record) | Self::CelestiaHeader(record) => record.encode(),
            Self::SequencerConflict(conflict) => conflict.to_json().into_bytes(),
            Self::FalseNamespaces(evidence) => evidence.to_json().into_bytes(),
            Self::FalseBlock(evidence) => evidence.to_json().into_bytes(),
        }
    }

    /// Takes back what [`Record::encode`] made of a record with this key.
    ///
    /// # Errors
    /// If it is anything else. Whoever keeps records must say so and not go on without.
    pub fn decode(key: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        if key == "sequencer/header" {
            return TrustedRecord::decode(bytes).map(Self::SequencerHeader);
        }
        if key == "celestia/header" {
            return TrustedRecord::decode(bytes).map(Self::CelestiaHeader);
        }
        if key.starts_with("sequencer/conflict/") {
            let conflict = ConflictingHeaders::from_json(bytes);
            let conflict = conflict.map_err(|error| RecordError::Undecodable(error.to_string()))?;
            return Ok(Self::SequencerConflict(Box::new(conflict)));
        }
        if key.starts_with("celestia/false/") {
            let evidence = FalseNamespaces::from_json(bytes);
            let evidence = evidence.map_err(|error| RecordError::Undecodable(error.to_string()))?;
            return Ok(Self::FalseNamespaces(Box::new(evidence)));
        }
        if key.starts_with("sequencer/false/") {
            let evidence = FalseBlock::from_json(bytes);
            let evidence = evidence.map_err(|error| RecordError::Undecodable(error.to_string()))?;
            return Ok(Self::FalseBlock(Box::new(evidence)));
        }
        Err(RecordError::Undecodable(format!("{key:?} is the key of no record")))
    }
}
