//! Evidence that a false block was offered as that of a sequencer height: the header that its validators signed, and beside
//! it a filtered block, byte for byte, that cannot be its block. Whoever has the bytes can check it; who gave the answer is
//! not part of it, for servers do not sign answers. What was asked for is not part of it either: what is false only as an
//! answer to a question, such as a block of another height or data left out, proves nothing to others.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tendermint::block::signed_header::SignedHeader;

use crate::{
    canary::{Canary, canary},
    json,
    light::{CommittedHeader, EvidenceError, SignedBlock},
    limits::Limits,
    merkle,
    sequencer::{
        BindRefusal, CommitError, Committed, DataItems, DataTreeError, FilteredBlockError, TrustedHeader,
        UnverifiedFilteredBlock, ValidatorSet, rollup_leaf,
    },
    verified::Verified,
};

/// Bytes of JSON that one piece of evidence may have. A block that does not fit is refused as well, and not kept.
pub const FALSE_BLOCK_BYTES: usize = 2 << 20;

/// Bytes of an encoded block that has a chance to fit, as base64, with header and commit beside it.
pub(crate) const BLOCK_BYTES: usize = FALSE_BLOCK_BYTES / 4 * 3;

/// In what way a block is not that of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockFalsehood {
    /// It names the chain and the height of the header, and another block hash.
    OtherHash,
    /// It names the header's hash, and another chain, height, time or proposer.
    OtherHeader,
    /// What it holds does not lead to the roots that it names itself.
    FalseProof,
    /// What it holds leads to another data hash than the header's, or is not what the block's data items say.
    OtherData,
}

impl BlockFalsehood {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::OtherHash, Self::OtherHeader, Self::FalseProof, Self::OtherData];

    /// Name in files and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherHash => "other_hash",
            Self::OtherHeader => "other_header",
            Self::FalseProof => "false_proof",
            Self::OtherData => "other_data",
        }
    }
}

impl fmt::Display for BlockFalsehood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A signed header of the sequencer, and what was offered as its block and cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FalseBlock {
    pub chain_id: String,
    pub height: u64,
    pub reason: BlockFalsehood,
    /// The header with its commit and the set that made it.
    pub header: SignedBlock,
    /// The encoded `FilteredSequencerBlock` as it was answered; base64.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub block: Bytes,
    /// What of the committed block's data items it takes where the block alone cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemsText>,
}

/// [`DataItems`] as they stand in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemsText {
    /// SHA-256 of each item in order, in hexadecimal: the leaves below the header's data hash.
    digests: Vec<String>,
    /// The first item that is not the sequencer's own; base64.
    next: Option<String>,
}

/// What such evidence proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProvenFalseBlock {
    pub chain_id: String,
    pub height: u64,
    pub header: CommittedHeader,
    pub reason: BlockFalsehood,
    /// The refusal in words.
    pub detail: String,
    pub not_proven: &'static str,
}

const NOT_PROVEN: &str = "who gave this answer: servers do not sign their answers; that the validators are those of the \
                          chain: compare validators_hash with a source of your own; and, where the answer names another \
                          hash, that they did not sign two headers of this height";

/// Why something is no evidence of a false block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFalseBlock {
    #[error(transparent)]
    Header(#[from] EvidenceError),
    #[error("what was answered is no block that can be read: {0}")]
    Unreadable(#[from] FilteredBlockError),
    #[error("what was answered is a block of another header: it names neither its hash nor its chain and height")]
    OtherBlock,
    #[error("only the block's data items can tell, and they are not there")]
    NoItems,
    #[error("the data items are not those of the header, so that nothing follows from them")]
    OtherItems,
    #[error("what was answered is true")]
    True,
    #[error("what was answered is false, by {actual} and not by {claimed}")]
    OtherReason { claimed: BlockFalsehood, actual: BlockFalsehood },
}

impl FalseBlock {
    /// For whoever is to see it.
    pub fn to_json(&self) -> String {
        // Strings as keys and nothing that can fail to be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// # Errors
    /// If `bytes` are not what [`FalseBlock::to_json`] makes.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        json::from_slice(bytes)
    }

    /// Checks the commit against the set that the header names, and that the block is not that of the header.
    ///
    /// # Errors
    /// If the header is not committed, the block fits it, or is false in another way than is claimed.
    pub fn verify(&self, limits: &Limits) -> Result<ProvenFalseBlock, NoFalseBlock> {
        let (header, _, _) = self.header.committed(&self.chain_id, self.height, limits.validators)?;
        let trusted = TrustedHeader::new(header.hash, self.header.signed_header.header.clone());
        let items = self.items.as_ref().map(|items| items.read().ok_or(NoFalseBlock::OtherItems)).transpose()?;
        let (actual, detail) = falsehood(&self.block, &trusted, items.as_ref(), limits)?;
        if actual != self.reason {
            return Err(NoFalseBlock::OtherReason { claimed: self.reason, actual });
        }
        Ok(ProvenFalseBlock {
            chain_id: self.chain_id.clone(),
            height: self.height,
            header,
            reason: actual,
            detail,
            not_proven: NOT_PROVEN,
        })
    }
}

/// In what way a block is not that of a committed header, whatever was asked for. `items` are needed only where the block
/// alone cannot tell.
pub(crate) fn falsehood(
    block: &Bytes,
    header: &TrustedHeader,
    items: Option<&DataItems>,
    limits: &Limits,
) -> Result<(BlockFalsehood, String), NoFalseBlock> {
    let (claim, rollups) = UnverifiedFilteredBlock::decode(block, limits)?.into_parts();
    let own = &claim.tree.header;
    let is_of_height = own.chain_id == header.chain_id() && own.height == header.height();
    if claim.block_hash != header.hash() && !is_of_height && !canary(Canary::OtherBlockShown) {
        return Err(NoFalseBlock::OtherBlock);
    }
    if let Err(refusal) = claim.compare(header) {
        let is_hash = matches!(refusal, BindRefusal::BlockHash { .. });
        let reason = if is_hash { BlockFalsehood::OtherHash } else { BlockFalsehood::OtherHeader };
        return Ok((reason, refusal.to_string()));
    }
    let unproven = |error: FilteredBlockError| Ok((BlockFalsehood::FalseProof, error.to_string()));
    if let Err(error) = claim.tree.verify() {
        return unproven(DataTreeError::into(error));
    }
    for (rollup, transactions, proof) in rollups {
        let leaf = rollup_leaf(&rollup, &merkle::root_of(&transactions));
        if let Err(source) = proof.verify(&leaf, &own.rollup_transactions_root) {
            return unproven(FilteredBlockError::RollupProof { rollup, source });
        }
    }
    let committed = header.header().data_hash.unwrap_or_default();
    match claim.compare_data(committed.as_bytes(), items) {
        Ok(()) => Err(NoFalseBlock::True),
        Err(BindRefusal::NeedsTransactions) => Err(NoFalseBlock::NoItems),
        Err(BindRefusal::OtherTransactions { .. }) => Err(NoFalseBlock::OtherItems),
        Err(refusal) => Ok((BlockFalsehood::OtherData, refusal.to_string())),
    }
}

/// The evidence that `block` is not that of `header`, if it is any. `commit` checks the signatures: the header may have
/// become trusted by hash links, so that nobody has looked at a commit of it yet.
///
/// # Errors
/// If `signed` is not the header, or not committed.
pub(crate) fn false_block(
    header: &Verified<TrustedHeader>,
    signed: &SignedHeader,
    set: &ValidatorSet,
    block: &Bytes,
    items: Option<&DataItems>,
    limits: &Limits,
    commit: impl FnOnce(&SignedHeader, &ValidatorSet) -> Result<Committed, CommitError>,
) -> Result<Option<FalseBlock>, String> {
    let committed = commit(signed, set).map_err(|error| error.to_string())?;
    if committed.hash != header.hash() {
        return Err(format!("header {} is signed, header {} is trusted", committed.hash, header.hash()));
    }
    // Items are shown only where it takes them.
    let alone = falsehood(block, header, None, limits);
    let items = items.filter(|_| alone == Err(NoFalseBlock::NoItems));
    let Ok((reason, _)) = (if items.is_some() { falsehood(block, header, items, limits) } else { alone }) else {
        return Ok(None);
    };
    let evidence = FalseBlock {
        chain_id: header.chain_id().to_owned(),
        height: header.height().0,
        reason,
        // With nothing else that the node sent along.
        header: SignedBlock { signed_header: signed.clone(), validators: set.infos().to_vec() },
        block: block.clone(),
        items: items.map(ItemsText::of),
    };
    Ok((evidence.to_json().len() <= FALSE_BLOCK_BYTES).then_some(evidence))
}

impl ItemsText {
    fn of(items: &DataItems) -> Self {
        Self {
            digests: items.digests.iter().map(hex::encode).collect(),
            next: items.next.as_ref().map(|next| STANDARD.encode(next)),
        }
    }

    fn read(&self) -> Option<DataItems> {
        let digest = |text: &String| {
            let mut digest = [0; 32];
            hex::decode_to_slice(text, &mut digest).ok().map(|()| digest)
        };
        let digests = self.digests.iter().map(digest).collect::<Option<Vec<_>>>()?;
        let next = self.next.as_ref().map(|next| STANDARD.decode(next).map(Bytes::from)).transpose().ok()?;
        Some(DataItems { digests, next })
    }
}

fn to_base64<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map(Bytes::from).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests;
