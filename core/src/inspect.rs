//! Descriptions of blobs and blocks for people: what `downbeat inspect` prints.
//!
//! Shows every record that has the shape of one, also those that the node would refuse, and says which proofs hold.
//! Nothing here decides anything. Bytes are standard base64 in the fields of a message, hashes that are also known by
//! their CometBFT name lower-case hexadecimal.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    celestia::{self, BlobError, FalseNamespaces, NoFalsehood, ProvenFalsehood},
    ids::{RollupId, SequencerHeight},
    light::{ConflictingHeaders, EvidenceError, ProvenConflict},
    limits::Limits,
    merkle::{self, Hash, Proof},
    sequencer::{
        FalseBlock, NoFalseBlock, ProvenFalseBlock, RollupRecord, SoftBlockRequest, UnverifiedMetadata, item_digest,
        price_feed, rollup_leaf, verify_filtered_block,
    },
    wire::{
        proto::astria::{
            primitive::v1 as primitive,
            sequencerblock::v1::{
                ExtendedCommitInfoWithProof, FilteredSequencerBlock, RollupData, RollupTransactions, SequencerBlock,
                SequencerBlockHeader, SubmittedMetadata, SubmittedRollupData, rollup_data,
            },
        },
        scan::{self, Fields},
    },
};

/// Why there is nothing to describe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("not a {0}")]
    Unknown(&'static str),
    #[error("no evidence in JSON: {0}")]
    EvidenceJson(String),
    #[error("this proves nothing: {0}")]
    Conflict(#[from] EvidenceError),
    #[error("this proves nothing: {0}")]
    Falsehood(#[from] NoFalsehood),
    #[error("this proves nothing: {0}")]
    FalseBlock(#[from] NoFalseBlock),
}

/// What evidence proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Proven {
    /// Validators signed two headers of one height.
    ConflictingHeaders(ProvenConflict),
    /// Something false was offered as the content of a Celestia block.
    FalseNamespaces(ProvenFalsehood),
    /// Something false was offered as a block of the sequencer.
    FalseBlock(ProvenFalseBlock),
}

/// Verifies evidence of any kind, from nothing but its own bytes.
///
/// # Errors
/// If it is not in the form in which a conductor keeps it, or does not prove what it says.
pub fn inspect_evidence(bytes: &[u8], limits: &Limits) -> Result<Proven, InspectError> {
    /// Those about answers have a reason, and only one of them a block.
    #[derive(Deserialize)]
    struct Kind {
        reason: Option<IgnoredAny>,
        block: Option<IgnoredAny>,
    }
    let unreadable = |error: serde_json::Error| InspectError::EvidenceJson(error.to_string());
    let kind: Kind = serde_json::from_slice(bytes).map_err(unreadable)?;
    Ok(if kind.block.is_some() {
        let evidence = FalseBlock::from_json(bytes).map_err(unreadable)?;
        Proven::FalseBlock(evidence.verify(limits)?)
    } else if kind.reason.is_some() {
        let evidence = FalseNamespaces::from_json(bytes).map_err(unreadable)?;
        Proven::FalseNamespaces(evidence.verify(limits)?)
    } else {
        let conflict = ConflictingHeaders::from_json(bytes).map_err(unreadable)?;
        Proven::ConflictingHeaders(conflict.verify(limits.validators)?)
    })
}

/// An unpacked blob.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlobReport {
    #[serde(flatten)]
    pub records: Records,
    pub number_of_entries: usize,
    pub compressed_size_bytes: usize,
    pub decompressed_size_bytes: usize,
    pub compression_ratio: f64,
}

/// What a blob holds: of the two lists the one that its entries have the shape of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Records {
    #[serde(rename = "sequencer_metadata_list")]
    Metadata(Vec<Entry<MetadataReport>>),
    #[serde(rename = "rollup_data_list")]
    RollupData(Vec<Entry<RollupDataReport>>),
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Entry<T> {
    Readable(Box<T>),
    Unreadable { unreadable: String },
}

/// A message of the sequencer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "message")]
pub enum BlockReport {
    FilteredSequencerBlock(SequencerBlockReport),
    SequencerBlock(SequencerBlockReport),
    SubmittedMetadata(MetadataReport),
    SubmittedRollupData(RollupDataReport),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetadataReport {
    /// In hexadecimal.
    pub block_hash: String,
    pub sequencer_block_hash: String,
    pub sequencer_block_header: Option<HeaderReport>,
    pub rollup_ids: Vec<String>,
    pub rollup_transactions_proof: Option<ProofReport>,
    pub rollup_ids_proof: Option<ProofReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upgrade_change_hashes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_commit_info: Option<CommitInfoReport>,
    pub proofs: Proofs,
    #[serde(flatten)]
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SequencerBlockReport {
    /// In hexadecimal.
    pub block_hash: String,
    pub sequencer_block_header: Option<HeaderReport>,
    pub rollups: Vec<RollupReport>,
    pub rollup_ids: Vec<String>,
    pub rollup_transactions_proof: Option<ProofReport>,
    pub rollup_ids_proof: Option<ProofReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upgrade_change_hashes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_commit_info: Option<CommitInfoReport>,
    pub proofs: Proofs,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// One rollup's part of a block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RollupReport {
    pub rollup_id: String,
    pub transactions_and_deposits: Vec<ElementReport>,
    pub item_count: usize,
    pub proof: Option<ProofReport>,
    pub proof_holds: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RollupDataReport {
    /// In hexadecimal.
    pub block_hash: String,
    pub sequencer_block_hash: String,
    pub rollup_id: String,
    pub transactions_and_deposits: Vec<ElementReport>,
    pub item_count: usize,
    pub proof: Option<ProofReport>,
    /// The rollup transactions root that the block's metadata must have, in hexadecimal. Absent if the proof has not
    /// the shape of one.
    pub proof_leads_to: Option<String>,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What the node makes of a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_because: Option<String>,
}

/// Which proofs hold against the header's data hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proofs {
    pub rollup_transactions: bool,
    pub rollup_ids: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_commit_info: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderReport {
    pub chain_id: String,
    pub height: u64,
    /// RFC 3339; seconds and nanoseconds where it is out of range.
    pub time: Option<String>,
    pub rollup_transactions_root: String,
    pub data_hash: String,
    pub proposer_address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProofReport {
    pub audit_path: String,
    pub leaf_index: u64,
    pub tree_size: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommitInfoReport {
    pub bytes: String,
    pub proof: Option<ProofReport>,
    /// The element that goes in front of the others; absent if the prices cannot be read.
    pub first_transaction: Option<ElementReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementReport {
    SequencedData(String),
    Deposit(Box<DepositReport>),
    PriceFeedData(Vec<PriceReport>),
    /// An element without a value.
    Empty,
    Undecodable(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DepositReport {
    pub bridge_address: String,
    pub rollup_id: String,
    /// Decimal.
    pub amount: String,
    pub asset: String,
    pub destination_chain_address: String,
    pub source_transaction_id: String,
    pub source_action_index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PriceReport {
    pub currency_pair: String,
    /// Decimal, to be divided by ten to the power of `decimals`.
    pub price: String,
    pub decimals: u64,
}

/// Describes a blob of either namespace, given as the bytes of the blob or their base64.
pub fn inspect_blob(input: &[u8], limits: &Limits) -> Result<BlobReport, InspectError> {
    let input = binary(input);
    let list = celestia::unpack(&input, limits)?;
    scan::at_most(&list, &[celestia::ENTRIES], limits.list_entries, "entries").map_err(BlobError::from)?;
    let entries = Fields::new(&list).all(celestia::ENTRIES).map(|entry| entry.map(|entry| list.slice_ref(entry)));
    let entries: Vec<Bytes> = entries.collect::<Result<_, _>>().map_err(BlobError::from)?;
    let shape = |kind: Kind| entries.iter().map(|entry| kind.resemblance(entry)).sum::<usize>();
    let (metadata, rollup_data) = (shape(Kind::Metadata), shape(Kind::RollupData));
    let records = if metadata == 0 && rollup_data == 0 {
        return Err(InspectError::Unknown("list of metadata or of rollup data"));
    } else if metadata >= rollup_data {
        Records::Metadata(entries.iter().map(|entry| describe(entry, limits, describe_metadata)).collect())
    } else {
        Records::RollupData(entries.iter().map(|entry| describe(entry, limits, describe_rollup_data)).collect())
    };
    #[allow(clippy::cast_precision_loss, reason = "a rounded number for people")]
    let compression_ratio = list.len() as f64 / input.len().max(1) as f64;
    Ok(BlobReport {
        records,
        number_of_entries: entries.len(),
        compressed_size_bytes: input.len(),
        decompressed_size_bytes: list.len(),
        compression_ratio,
    })
}

/// Describes one message of the sequencer, given as bytes or their base64.
pub fn inspect_block(input: &[u8]) -> Result<BlockReport, InspectError> {
    let (bytes, limits) = (Bytes::from(binary(input).into_owned()), Limits::default());
    let unknown = InspectError::Unknown("sequencer block, filtered block, metadata or rollup data");
    // The first of the best; each kind has marks that no other has.
    let best = Kind::ALL.into_iter().rev().max_by_key(|kind| kind.resemblance(&bytes));
    let kind = best.filter(|kind| kind.resemblance(&bytes) > 1).ok_or_else(|| unknown.clone())?;
    let report = match kind {
        Kind::Filtered => FilteredSequencerBlock::decode(bytes.clone())
            .map(|wire| BlockReport::FilteredSequencerBlock(describe_filtered(&wire, &bytes, &limits))),
        Kind::Sequencer => SequencerBlock::decode(bytes.clone())
            .map(|wire| BlockReport::SequencerBlock(describe_sequencer(&wire, &limits))),
        Kind::Metadata => SubmittedMetadata::decode(bytes.clone())
            .map(|wire| BlockReport::SubmittedMetadata(describe_metadata(&wire, &bytes, &limits))),
        Kind::RollupData => SubmittedRollupData::decode(bytes.clone())
            .map(|wire| BlockReport::SubmittedRollupData(describe_rollup_data(&wire, &bytes, &limits))),
    };
    report.map_err(|_| unknown)
}

/// Undoes base64, if the input is nothing else.
fn binary(input: &[u8]) -> Cow<'_, [u8]> {
    let text: Vec<u8> = input.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    match STANDARD.decode(&text) {
        Ok(decoded) if !decoded.is_empty() => Cow::Owned(decoded),
        _ => Cow::Borrowed(input),
    }
}

/// The messages that can be told from each other.
#[derive(Clone, Copy)]
enum Kind {
    Filtered,
    Sequencer,
    Metadata,
    RollupData,
}

impl Kind {
    const ALL: [Self; 4] = [Self::RollupData, Self::Filtered, Self::Sequencer, Self::Metadata];

    /// How many fields look as they do in this kind of message.
    fn resemblance(self, bytes: &Bytes) -> usize {
        if crowd(bytes, &Limits::default()).is_some() {
            return 0;
        }
        let header = |header: &Option<SequencerBlockHeader>| {
            header.as_ref().is_some_and(|header| header.time.is_some() && header.data_hash.len() == 32)
        };
        let proof = |proof: &Option<primitive::Proof>| proof.as_ref().is_some_and(|proof| proof.tree_size > 0);
        let marks = match self {
            Self::Filtered => FilteredSequencerBlock::decode(bytes.clone()).ok().map(|wire| {
                let proofs = [proof(&wire.rollup_transactions_proof), proof(&wire.rollup_ids_proof)];
                [wire.block_hash.len() == 32, header(&wire.header), proofs[0], proofs[1]]
            }),
            Self::Sequencer => SequencerBlock::decode(bytes.clone()).ok().map(|wire| {
                let proofs = [proof(&wire.rollup_transactions_proof), proof(&wire.rollup_ids_proof)];
                [wire.block_hash.len() == 32, header(&wire.header), proofs[0], proofs[1]]
            }),
            Self::Metadata => SubmittedMetadata::decode(bytes.clone()).ok().map(|wire| {
                let proofs = [proof(&wire.rollup_transactions_proof), proof(&wire.rollup_ids_proof)];
                [wire.block_hash.len() == 32, header(&wire.header), proofs[0], proofs[1]]
            }),
            Self::RollupData => SubmittedRollupData::decode(bytes.clone()).ok().map(|wire| {
                let id = wire.rollup_id.is_some_and(|id| id.inner.len() == 32);
                [wire.sequencer_block_hash.len() == 32, id, id && !wire.transactions.is_empty(), proof(&wire.proof)]
            }),
        };
        marks.map_or(0, |marks| marks.into_iter().filter(|mark| *mark).count())
    }
}

/// Whether a message of any kind has too many elements to be decoded.
fn crowd(message: &[u8], limits: &Limits) -> Option<scan::ScanError> {
    const LISTS: [&[u32]; 9] = [&[1], &[2], &[3], &[4], &[5], &[6], &[7], &[3, 2], &[2, 2]];
    LISTS.into_iter().find_map(|path| match scan::at_most(message, path, limits.transactions, "elements") {
        // A number where another kind of message has bytes says nothing.
        Err(error @ scan::ScanError::TooMany { .. }) => Some(error),
        _ => None,
    })
}

fn describe<M: Message + Default, T>(
    entry: &Bytes,
    limits: &Limits,
    report: impl Fn(&M, &Bytes, &Limits) -> T,
) -> Entry<T> {
    let decoded = match crowd(entry, limits) {
        Some(crowd) => Err(crowd.to_string()),
        None => M::decode(entry.clone()).map_err(|error| error.to_string()),
    };
    match decoded {
        Ok(wire) => Entry::Readable(Box::new(report(&wire, entry, limits))),
        Err(unreadable) => Entry::Unreadable { unreadable },
    }
}

fn describe_metadata(wire: &SubmittedMetadata, bytes: &Bytes, limits: &Limits) -> MetadataReport {
    let ids_root = merkle::root_of(wire.rollup_ids.iter().map(|id| &id.inner));
    let tree = Tree { header: wire.header.as_ref(), commit_info: wire.extended_commit_info_with_proof.as_ref() };
    MetadataReport {
        block_hash: hex::encode(&wire.block_hash),
        sequencer_block_hash: base64(&wire.block_hash),
        sequencer_block_header: wire.header.as_ref().map(describe_header),
        rollup_ids: wire.rollup_ids.iter().map(|id| base64(&id.inner)).collect(),
        rollup_transactions_proof: wire.rollup_transactions_proof.as_ref().map(describe_proof),
        rollup_ids_proof: wire.rollup_ids_proof.as_ref().map(describe_proof),
        upgrade_change_hashes: wire.upgrade_change_hashes.iter().map(|hash| base64(hash)).collect(),
        extended_commit_info: tree.commit_info.map(|info| describe_commit_info(info, limits)),
        proofs: tree.proofs(wire.rollup_transactions_proof.as_ref(), wire.rollup_ids_proof.as_ref(), &ids_root),
        verdict: UnverifiedMetadata::decode(bytes, limits).into(),
    }
}

fn describe_rollup_data(wire: &SubmittedRollupData, bytes: &Bytes, limits: &Limits) -> RollupDataReport {
    let id = wire.rollup_id.as_ref().map(|id| id.inner.as_ref()).unwrap_or_default();
    let proof = wire.proof.as_ref().and_then(|proof| Proof::from_wire(proof).ok());
    let leads_to = proof
        .zip(<[u8; 32]>::try_from(id).ok())
        .map(|(proof, id)| proof.root_from_leaf(&rollup_leaf(&RollupId(id), &merkle::root_of(&wire.transactions))));
    RollupDataReport {
        block_hash: hex::encode(&wire.sequencer_block_hash),
        sequencer_block_hash: base64(&wire.sequencer_block_hash),
        rollup_id: base64(id),
        transactions_and_deposits: wire.transactions.iter().map(describe_element).collect(),
        item_count: wire.transactions.len(),
        proof: wire.proof.as_ref().map(describe_proof),
        proof_leads_to: leads_to.map(hex::encode),
        verdict: RollupRecord::decode(bytes, limits).into(),
    }
}

fn describe_filtered(wire: &FilteredSequencerBlock, bytes: &Bytes, limits: &Limits) -> SequencerBlockReport {
    let tree = Tree { header: wire.header.as_ref(), commit_info: wire.extended_commit_info_with_proof.as_ref() };
    let ids_root = merkle::root_of(wire.all_rollup_ids.iter().map(|id| &id.inner));
    let rollups = &wire.rollup_transactions;
    let ids = rollups.iter().filter_map(|part| part.rollup_id.as_ref()?.inner.as_ref().try_into().ok().map(RollupId));
    // As if exactly what is there had been asked for.
    let request = SoftBlockRequest {
        height: SequencerHeight(wire.header.as_ref().map(|header| header.height).unwrap_or_default()),
        chain_id: wire.header.as_ref().map(|header| header.chain_id.clone()).unwrap_or_default(),
        rollup_ids: ids.collect(),
    };
    SequencerBlockReport {
        block_hash: hex::encode(&wire.block_hash),
        sequencer_block_header: wire.header.as_ref().map(describe_header),
        rollups: rollups.iter().map(|part| tree.describe_rollup(part)).collect(),
        rollup_ids: wire.all_rollup_ids.iter().map(|id| base64(&id.inner)).collect(),
        rollup_transactions_proof: wire.rollup_transactions_proof.as_ref().map(describe_proof),
        rollup_ids_proof: wire.rollup_ids_proof.as_ref().map(describe_proof),
        upgrade_change_hashes: wire.upgrade_change_hashes.iter().map(|hash| base64(hash)).collect(),
        extended_commit_info: tree.commit_info.map(|info| describe_commit_info(info, limits)),
        proofs: tree.proofs(wire.rollup_transactions_proof.as_ref(), wire.rollup_ids_proof.as_ref(), &ids_root),
        verdict: verify_filtered_block(bytes, &request, limits).into(),
    }
}

fn describe_sequencer(wire: &SequencerBlock, limits: &Limits) -> SequencerBlockReport {
    let tree = Tree { header: wire.header.as_ref(), commit_info: wire.extended_commit_info_with_proof.as_ref() };
    let rollups = &wire.rollup_transactions;
    let ids: Vec<&[u8]> =
        rollups.iter().map(|part| part.rollup_id.as_ref().map(|id| id.inner.as_ref()).unwrap_or_default()).collect();
    let ids_root = merkle::root_of(&ids);
    // A whole block carries all that its rollup transactions root covers.
    let leaves = ids.iter().zip(rollups).map(|(id, part)| [id, &merkle::root_of(&part.transactions)[..]].concat());
    let whole = merkle::root_of(leaves);
    let mut proofs = tree.proofs(wire.rollup_transactions_proof.as_ref(), wire.rollup_ids_proof.as_ref(), &ids_root);
    proofs.rollup_transactions &= tree.header.is_some_and(|header| header.rollup_transactions_root == whole[..]);
    let refused_because = [
        (proofs.rollup_transactions, "the rollup transactions are not covered by the data hash"),
        (proofs.rollup_ids, "the rollup ids are not covered by the data hash"),
        (proofs.extended_commit_info != Some(false), "extended commit info is not covered by the data hash"),
    ]
    .into_iter()
    .find_map(|(holds, reason)| (!holds).then(|| reason.to_owned()));
    SequencerBlockReport {
        block_hash: hex::encode(&wire.block_hash),
        sequencer_block_header: wire.header.as_ref().map(describe_header),
        rollups: rollups.iter().map(|part| tree.describe_rollup(part)).collect(),
        rollup_ids: ids.iter().map(|id| base64(id)).collect(),
        rollup_transactions_proof: wire.rollup_transactions_proof.as_ref().map(describe_proof),
        rollup_ids_proof: wire.rollup_ids_proof.as_ref().map(describe_proof),
        upgrade_change_hashes: wire.upgrade_change_hashes.iter().map(|hash| base64(hash)).collect(),
        extended_commit_info: tree.commit_info.map(|info| describe_commit_info(info, limits)),
        proofs,
        verdict: Verdict { accepted: refused_because.is_none(), refused_because },
    }
}

/// What proofs are checked against, whether or not the rest is well formed.
struct Tree<'a> {
    header: Option<&'a SequencerBlockHeader>,
    commit_info: Option<&'a ExtendedCommitInfoWithProof>,
}

impl Tree<'_> {
    fn proofs(
        &self,
        rollup_transactions: Option<&primitive::Proof>,
        rollup_ids: Option<&primitive::Proof>,
        ids_root: &Hash,
    ) -> Proofs {
        let root = self.header.map(|header| header.rollup_transactions_root.as_ref()).unwrap_or_default();
        let info = self.commit_info.map(|info| self.covers(2, info.proof.as_ref(), &info.extended_commit_info));
        Proofs {
            rollup_transactions: self.covers(0, rollup_transactions, root),
            rollup_ids: self.covers(1, rollup_ids, ids_root),
            extended_commit_info: info,
        }
    }

    fn covers(&self, position: u64, proof: Option<&primitive::Proof>, item: &[u8]) -> bool {
        let data_hash = self.header.and_then(|header| Hash::try_from(header.data_hash.as_ref()).ok());
        let proof = proof.and_then(|proof| Proof::from_wire(proof).ok());
        proof.zip(data_hash).is_some_and(|(proof, data_hash)| {
            proof.leaf_index() == position && proof.verify(&item_digest(item), &data_hash).is_ok()
        })
    }

    fn describe_rollup(&self, part: &RollupTransactions) -> RollupReport {
        let id = part.rollup_id.as_ref().map(|id| id.inner.as_ref()).unwrap_or_default();
        let proof = part.proof.as_ref().and_then(|proof| Proof::from_wire(proof).ok());
        let root = self.header.and_then(|header| Hash::try_from(header.rollup_transactions_root.as_ref()).ok());
        let holds = proof.zip(root).zip(Hash::try_from(id).ok()).is_some_and(|((proof, root), id)| {
            proof.verify(&rollup_leaf(&RollupId(id), &merkle::root_of(&part.transactions)), &root).is_ok()
        });
        RollupReport {
            rollup_id: base64(id),
            transactions_and_deposits: part.transactions.iter().map(describe_element).collect(),
            item_count: part.transactions.len(),
            proof: part.proof.as_ref().map(describe_proof),
            proof_holds: holds,
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Verdict {
    fn from(result: Result<T, E>) -> Self {
        let refused_because = result.err().map(|error| error.to_string());
        Self { accepted: refused_because.is_none(), refused_because }
    }
}

fn describe_header(wire: &SequencerBlockHeader) -> HeaderReport {
    HeaderReport {
        chain_id: wire.chain_id.clone(),
        height: wire.height,
        time: wire.time.as_ref().map(|time| {
            u32::try_from(time.nanos)
                .ok()
                .and_then(|nanos| tendermint::Time::from_unix_timestamp(time.seconds, nanos).ok())
                .map_or_else(|| format!("{} s {} ns", time.seconds, time.nanos), |time| time.to_rfc3339())
        }),
        rollup_transactions_root: base64(&wire.rollup_transactions_root),
        data_hash: base64(&wire.data_hash),
        proposer_address: base64(&wire.proposer_address),
    }
}

fn describe_proof(wire: &primitive::Proof) -> ProofReport {
    ProofReport { audit_path: base64(&wire.audit_path), leaf_index: wire.leaf_index, tree_size: wire.tree_size }
}

fn describe_commit_info(wire: &ExtendedCommitInfoWithProof, limits: &Limits) -> CommitInfoReport {
    let element = price_feed::first_transaction(&wire.extended_commit_info, limits).ok().flatten();
    CommitInfoReport {
        bytes: base64(&wire.extended_commit_info),
        proof: wire.proof.as_ref().map(describe_proof),
        first_transaction: element.map(describe_value),
    }
}

fn describe_element(encoded: &Bytes) -> ElementReport {
    RollupData::decode(encoded.clone()).map_or_else(|_| ElementReport::Undecodable(base64(encoded)), describe_value)
}

fn describe_value(element: RollupData) -> ElementReport {
    match element.value {
        None => ElementReport::Empty,
        Some(rollup_data::Value::SequencedData(data)) => ElementReport::SequencedData(base64(&data)),
        Some(rollup_data::Value::Deposit(deposit)) => {
            let amount = deposit.amount.unwrap_or_default();
            ElementReport::Deposit(Box::new(DepositReport {
                bridge_address: deposit.bridge_address.unwrap_or_default().bech32m,
                rollup_id: base64(&deposit.rollup_id.unwrap_or_default().inner),
                amount: (u128::from(amount.hi) << 64 | u128::from(amount.lo)).to_string(),
                asset: deposit.asset,
                destination_chain_address: deposit.destination_chain_address,
                source_transaction_id: deposit.source_transaction_id.unwrap_or_default().inner,
                source_action_index: deposit.source_action_index,
            }))
        }
        Some(rollup_data::Value::PriceFeedData(feed)) => {
            let prices = feed.prices.into_iter().map(|price| {
                let pair = price.currency_pair.unwrap_or_default();
                let value = price.price.unwrap_or_default();
                PriceReport {
                    currency_pair: format!("{}/{}", pair.base, pair.quote),
                    price: (u128::from(value.hi) << 64 | u128::from(value.lo)).cast_signed().to_string(),
                    decimals: price.decimals,
                }
            });
            ElementReport::PriceFeedData(prices.collect())
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
