//! Evidence that something false was offered as the content of a Celestia block: the header that its validators signed,
//! and beside it roots or rows that are not those of its square. Whoever has the bytes can check it; who gave the answer
//! is not part of it, for nodes do not sign answers.

use std::{cmp::Ordering, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    celestia::{
        BlockError, Namespace,
        square::{DataAvailabilityHeader, HeaderError, NamespaceError, NamespacedHash, RowError, UnverifiedRow},
    },
    event::CelestiaBlock,
    json,
    light::{CommittedHeader, EvidenceError, SignedBlock},
    limits::Limits,
    merkle::Hash,
    sequencer::{CommitError, Committed, ValidatorSet},
    verified::Verified,
};

/// Bytes of JSON that one piece of evidence may have: a commit of a thousand validators, the roots of the largest square
/// and a whole row fit. What is larger is refused as well, and not kept.
pub const FALSE_NAMESPACES_BYTES: usize = 2 << 20;

/// In what way an answer is not that of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Falsehood {
    /// The row and column roots are not those to which the header commits.
    ForgedRoots,
    /// Fewer rows than the namespace may lie in.
    MissingRow,
    /// More rows than the namespace may lie in.
    SurplusRow,
    /// Shares that do not lie in the row.
    ForgedShares,
    /// Shares that lie in the row, and others of the namespace beside them.
    IncompleteRange,
    /// No shares, and nothing that shows that there are none.
    FalseAbsence,
    /// A proof that cannot be one of the row.
    WrongProof,
}

impl Falsehood {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::ForgedRoots,
        Self::MissingRow,
        Self::SurplusRow,
        Self::ForgedShares,
        Self::IncompleteRange,
        Self::FalseAbsence,
        Self::WrongProof,
    ];

    /// Name in files and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ForgedRoots => "forged_roots",
            Self::MissingRow => "missing_row",
            Self::SurplusRow => "surplus_row",
            Self::ForgedShares => "forged_shares",
            Self::IncompleteRange => "incomplete_range",
            Self::FalseAbsence => "false_absence",
            Self::WrongProof => "wrong_proof",
        }
    }

    fn of_row(error: &RowError) -> Self {
        match error {
            RowError::ShareSize(_) | RowError::OtherNamespace(_) | RowError::OtherRoot => Self::ForgedShares,
            RowError::AbsentWithoutProof | RowError::NotAbsent(_) | RowError::NotAShare => Self::FalseAbsence,
            RowError::PresentAndAbsent | RowError::Range { .. } | RowError::NodeCount { .. } | RowError::Node(_) => {
                Self::WrongProof
            }
            RowError::Incomplete => Self::IncompleteRange,
        }
    }

    /// None where a refusal is one of this node's own limits, or of nothing that a header could contradict.
    fn of_namespace(error: &NamespaceError) -> Option<Self> {
        match error {
            NamespaceError::MissingRow { .. } => Some(Self::MissingRow),
            NamespaceError::SurplusRow { .. } => Some(Self::SurplusRow),
            NamespaceError::Row { error, .. } => Some(Self::of_row(error)),
            NamespaceError::Reserved { .. } | NamespaceError::TooLarge { .. } => None,
        }
    }
}

impl fmt::Display for Falsehood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A signed header of Celestia, and what was offered as the content of its block and cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FalseNamespaces {
    pub chain_id: String,
    pub height: u64,
    pub reason: Falsehood,
    /// The header with its commit and the set that made it.
    pub header: SignedBlock,
    /// The row and column roots as they were answered.
    pub roots: DataAvailabilityHeader,
    /// What is false beside these roots, or nothing if they are.
    pub answer: Option<FalseAnswer>,
}

/// The part of an answer that is false; what else was answered is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FalseAnswer {
    /// All rows of a namespace: there are too many of them, or too few.
    Rows {
        #[serde(with = "text")]
        namespace: Namespace,
        rows: Vec<UnverifiedRow>,
    },
    /// What one row of the square, counted from 0, is said to hold of a namespace.
    Row {
        #[serde(with = "text")]
        namespace: Namespace,
        index: usize,
        row: UnverifiedRow,
    },
}

/// What such evidence proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProvenFalsehood {
    pub chain_id: String,
    pub height: u64,
    pub header: CommittedHeader,
    pub reason: Falsehood,
    /// Hexadecimal; none if the roots themselves are false.
    pub namespace: Option<String>,
    /// The refusal in words.
    pub detail: String,
    pub not_proven: &'static str,
}

const NOT_PROVEN: &str = "who gave this answer: nodes do not sign their answers; and that the validators are those of the \
                          chain: compare validators_hash with a source of your own";

/// Why something is no evidence of a false answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFalsehood {
    #[error(transparent)]
    Header(#[from] EvidenceError),
    #[error("the header has no data hash")]
    NoDataHash,
    #[error("the roots are not those of the header, so that nothing follows from them: {0}")]
    Roots(#[from] HeaderError),
    #[error("namespace {namespace} cannot lie in row {index}")]
    OtherRow { namespace: Namespace, index: usize },
    #[error("namespace {0} is reserved for parity shares")]
    Reserved(Namespace),
    #[error("what was answered is true")]
    True,
    #[error("what was answered is false, by {actual} and not by {claimed}")]
    OtherReason { claimed: Falsehood, actual: Falsehood },
}

impl FalseNamespaces {
    /// For whoever is to see it.
    pub fn to_json(&self) -> String {
        // Strings as keys and nothing that can fail to be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// # Errors
    /// If `bytes` are not what [`FalseNamespaces::to_json`] makes.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        json::from_slice(bytes)
    }

    /// Checks the commit against the set that the header names, and that the answer is refused.
    ///
    /// # Errors
    /// If the header is not committed, the answer fits it, or is false in another way than is claimed.
    pub fn verify(&self, limits: &Limits) -> Result<ProvenFalsehood, NoFalsehood> {
        let (header, _, _) = self.header.committed(&self.chain_id, self.height, limits.validators)?;
        let (actual, namespace, detail) = self.refusal(limits)?;
        if actual != self.reason {
            return Err(NoFalsehood::OtherReason { claimed: self.reason, actual });
        }
        Ok(ProvenFalsehood {
            chain_id: self.chain_id.clone(),
            height: self.height,
            header,
            reason: actual,
            namespace: namespace.map(|namespace| namespace.to_string()),
            detail,
            not_proven: NOT_PROVEN,
        })
    }

    /// In what way the answer is false.
    fn refusal(&self, limits: &Limits) -> Result<(Falsehood, Option<Namespace>, String), NoFalsehood> {
        let data_hash = self.header.signed_header.header.data_hash.unwrap_or_default();
        let expected = Hash::try_from(data_hash.as_bytes()).map_err(|_| NoFalsehood::NoDataHash)?;
        let Some(answer) = &self.answer else {
            let actual = self.roots.hash();
            if actual == expected {
                return Err(NoFalsehood::True);
            }
            return Ok((Falsehood::ForgedRoots, None, HeaderError::OtherDataHash { expected, actual }.to_string()));
        };
        let roots = self.roots.clone().verify(&expected, limits)?;
        let (FalseAnswer::Rows { namespace, .. } | FalseAnswer::Row { namespace, .. }) = answer;
        if *namespace == Namespace::PARITY {
            return Err(NoFalsehood::Reserved(*namespace));
        }
        let error = match answer {
            FalseAnswer::Rows { rows, .. } => wrong_count(*namespace, rows, &roots),
            FalseAnswer::Row { index, row, .. } => wrong_row(*namespace, *index, row, &roots)?,
        };
        let error = error.ok_or(NoFalsehood::True)?;
        let falsehood = Falsehood::of_namespace(&error).ok_or(NoFalsehood::True)?;
        Ok((falsehood, Some(*namespace), error.to_string()))
    }
}

fn wrong_count(
    namespace: Namespace,
    rows: &[UnverifiedRow],
    roots: &Verified<DataAvailabilityHeader>,
) -> Option<NamespaceError> {
    let (expected, actual) = (roots.rows_covering(&namespace).count(), rows.len());
    match actual.cmp(&expected) {
        Ordering::Less => Some(NamespaceError::MissingRow { namespace, expected, actual }),
        Ordering::Equal => None,
        Ordering::Greater => Some(NamespaceError::SurplusRow { namespace, expected, actual }),
    }
}

fn wrong_row(
    namespace: Namespace,
    index: usize,
    data: &UnverifiedRow,
    roots: &Verified<DataAvailabilityHeader>,
) -> Result<Option<NamespaceError>, NoFalsehood> {
    let (row, root) = roots
        .rows_covering(&namespace)
        .find(|(row, _)| *row == index)
        .ok_or(NoFalsehood::OtherRow { namespace, index })?;
    let refused = data.verify(&namespace, root, roots.width()).err();
    Ok(refused.map(|error| NamespaceError::Row { namespace, row, error }))
}

/// What a refused answer, whose header is the trusted one, proves to others. `commit` checks signatures: the header may
/// have become trusted by hash links, so that nobody has looked at the commit beside it yet.
pub fn false_namespaces(
    block: &CelestiaBlock,
    refusal: &BlockError,
    limits: &Limits,
    commit: impl FnOnce(&SignedBlock, &ValidatorSet) -> Result<Committed, CommitError>,
) -> Option<FalseNamespaces> {
    let (reason, answer) = match refusal {
        BlockError::Header(_) => (Falsehood::ForgedRoots, None),
        BlockError::Namespace(error) => (Falsehood::of_namespace(error)?, Some(false_part(block, error)?)),
        BlockError::OtherHeader(_) | BlockError::NoDataHash | BlockError::Namespaces { .. } => return None,
    };
    let header = &block.signed.signed_header.header;
    // Roots that are those of the header and nevertheless refused are Celestia's fault, or too many for this node.
    let is_of_header = || header.data_hash.is_some_and(|hash| hash.as_bytes() == block.availability.hash());
    // Before anything is made of it: an answer may be large.
    if bytes_of(&block.availability, answer.as_ref()) > FALSE_NAMESPACES_BYTES || (answer.is_none() && is_of_header()) {
        return None;
    }
    let set = ValidatorSet::new(block.signed.validators.clone(), limits.validators).ok()?;
    commit(&block.signed, &set).ok()?;
    let evidence = FalseNamespaces {
        chain_id: header.chain_id.to_string(),
        height: header.height.value(),
        reason,
        // With nothing else that the node sent along.
        header: SignedBlock { signed_header: block.signed.signed_header.clone(), validators: set.infos().to_vec() },
        roots: block.availability.clone(),
        answer,
    };
    (evidence.to_json().len() <= FALSE_NAMESPACES_BYTES).then_some(evidence)
}

/// Less than what these take in a file.
fn bytes_of(roots: &DataAvailabilityHeader, answer: Option<&FalseAnswer>) -> usize {
    let rows = match answer {
        None => &[],
        Some(FalseAnswer::Rows { rows, .. }) => rows.as_slice(),
        Some(FalseAnswer::Row { row, .. }) => std::slice::from_ref(row),
    };
    let shares: usize = rows.iter().flat_map(|row| &row.shares).map(Bytes::len).sum();
    let nodes: usize = rows.iter().map(|row| row.proof.nodes.len()).sum();
    let nodes = roots.row_roots.len().saturating_add(roots.column_roots.len()).saturating_add(nodes);
    nodes.saturating_mul(NamespacedHash::LEN).saturating_add(shares)
}

/// What of the answer `error` speaks of.
fn false_part(block: &CelestiaBlock, error: &NamespaceError) -> Option<FalseAnswer> {
    let received = |namespace: &Namespace| block.namespaces.iter().find(|received| received.namespace == *namespace);
    match error {
        NamespaceError::MissingRow { namespace, .. } | NamespaceError::SurplusRow { namespace, .. } => {
            let rows = received(namespace)?.rows.clone();
            Some(FalseAnswer::Rows { namespace: *namespace, rows })
        }
        NamespaceError::Row { namespace, row: index, .. } => {
            let place = block.availability.rows_covering(namespace).position(|(row, _)| row == *index)?;
            let row = received(namespace)?.rows.get(place)?.clone();
            Some(FalseAnswer::Row { namespace: *namespace, index: *index, row })
        }
        NamespaceError::Reserved { .. } | NamespaceError::TooLarge { .. } => None,
    }
}

/// A namespace in hexadecimal.
mod text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::celestia::Namespace;

    pub(crate) fn serialize<S: Serializer>(namespace: &Namespace, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(namespace)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Namespace, D::Error> {
        let mut bytes = [0; Namespace::LEN];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes).map_err(D::Error::custom)?;
        Ok(Namespace::from_bytes(bytes))
    }
}
