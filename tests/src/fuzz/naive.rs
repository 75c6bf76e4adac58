//! What the fuzz targets compare the product with: the definitions, written down as plainly as possible and without a
//! thought for speed. Shares no code with what it judges, except where said.

use std::collections::BTreeMap;

use bytes::Bytes;
use downbeat_core::{
    Limits, RollupId,
    sequencer::{SoftBlockRequest, price_feed},
    wire::proto::astria::{
        primitive::v1 as wire,
        sequencerblock::v1::{
            ExtendedCommitInfoWithProof, FilteredSequencerBlock, RollupData, SequencerBlockHeader, SubmittedMetadata,
        },
    },
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

pub(super) type Hash = [u8; 32];

fn sha256(parts: &[&[u8]]) -> Hash {
    Sha256::digest(parts.concat()).into()
}

fn leaf(content: &[u8]) -> Hash {
    sha256(&[&[0], content])
}

fn inner(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

/// RFC 6962 §2.1.
pub(super) fn root<L: AsRef<[u8]>>(leaves: &[L]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [only] => leaf(only.as_ref()),
        _ => {
            let at = usize::try_from(split(leaves.len() as u64)).expect("below a length");
            inner(&root(&leaves[..at]), &root(&leaves[at..]))
        }
    }
}

/// RFC 6962 §2.1.1.
pub(super) fn path<L: AsRef<[u8]>>(index: usize, leaves: &[L]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let at = usize::try_from(split(leaves.len() as u64)).expect("below a length");
    let (mut path, sibling) = if index < at {
        (path(index, &leaves[..at]), root(&leaves[at..]))
    } else {
        (path(index - at, &leaves[at..]), root(&leaves[..at]))
    };
    path.push(sibling);
    path
}

/// Root that an audit path leads to; nothing if the path does not have the length of that position. Descends at most
/// 63 times, as each step halves the count.
pub(super) fn root_from(content: &[u8], index: u64, count: u64, path: &[Hash]) -> Option<Hash> {
    if count == 1 {
        return path.is_empty().then(|| leaf(content));
    }
    let (sibling, below) = path.split_last()?;
    let at = split(count);
    Some(if index < at {
        inner(&root_from(content, index, at, below)?, sibling)
    } else {
        inner(sibling, &root_from(content, index - at, count - at, below)?)
    })
}

/// A field's number and, where it is length-delimited, its content.
type Field<'a> = (u64, Option<&'a [u8]>);

/// The fields of an encoded message. Nothing if the framing is broken or has groups, which none of our messages may have
/// at its top.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        if key > u64::from(u32::MAX) || key >> 3 == 0 {
            return None;
        }
        let length = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                fields.push((key >> 3, None));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        fields.push((key >> 3, (key & 7 == 2).then_some(content)));
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u128;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u64::try_from(value).ok();
        }
    }
    None
}

/// The elements of the repeated field `number`, if there are at most `max`.
pub(super) fn elements(bytes: &[u8], number: u64, max: usize) -> Option<Vec<&[u8]>> {
    let found = fields(bytes)?.into_iter().filter(|(found, _)| *found == number);
    found.map(|(_, content)| content).collect::<Option<Vec<_>>>().filter(|elements| elements.len() <= max)
}

/// Whether `content` is leaf `index` under `root`, and how many leaves there are.
fn proven(proof: Option<&wire::Proof>, content: &[u8], index: Option<u64>, root: &[u8]) -> Option<u64> {
    let proof = proof?;
    let (path, ragged) = proof.audit_path.as_chunks::<32>();
    let count = proof.tree_size / 2 + 1;
    let has_shape = ragged.is_empty() && proof.tree_size % 2 == 1 && proof.leaf_index < count;
    if !has_shape || index.is_some_and(|index| index != proof.leaf_index) {
        return None;
    }
    (root_from(content, proof.leaf_index, count, path)? == root).then_some(count)
}

fn is_hash(bytes: &Bytes) -> bool {
    bytes.len() == 32
}

/// What metadata and filtered blocks have in common.
struct Common<'a> {
    block_hash: &'a Bytes,
    header: Option<&'a SequencerBlockHeader>,
    transactions_proof: Option<&'a wire::Proof>,
    ids: &'a [wire::RollupId],
    ids_proof: Option<&'a wire::Proof>,
    upgrades: &'a [Bytes],
    info: Option<&'a ExtendedCommitInfoWithProof>,
}

impl Common<'_> {
    /// Whether all fields are well formed and all proofs lead to the data hash. Extended commit info is judged by the
    /// product's own function.
    fn holds(&self, limits: &Limits) -> bool {
        let Some(header) = self.header else { return false };
        let Some(time) = &header.time else { return false };
        let is_time = time.seconds >= -62_135_596_800
            && time.seconds <= 253_402_300_799
            && (0..1_000_000_000).contains(&time.nanos);
        let is_name = !header.chain_id.is_empty()
            && header.chain_id.len() <= 50
            && header.chain_id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        let hashes = [self.block_hash, &header.data_hash, &header.rollup_transactions_root];
        let are_hashes = hashes.into_iter().all(is_hash)
            && self.upgrades.iter().all(is_hash)
            && self.ids.iter().all(|id| is_hash(&id.inner))
            && header.proposer_address.len() == 20;
        if !is_time || !is_name || !are_hashes || header.height >= 1 << 63 {
            return false;
        }
        let root = &header.data_hash;
        let ids: Vec<&Bytes> = self.ids.iter().map(|id| &id.inner).collect();
        let transactions = sha256(&[&header.rollup_transactions_root]);
        let Some(count) = proven(self.transactions_proof, &transactions, Some(0), root) else { return false };
        if proven(self.ids_proof, &sha256(&[&self::root(&ids)]), Some(1), root) != Some(count) {
            return false;
        }
        self.info.is_none_or(|info| {
            let bytes = &info.extended_commit_info;
            price_feed::check(bytes, limits).is_ok()
                && proven(info.proof.as_ref(), &sha256(&[bytes]), Some(2), root) == Some(count)
        })
    }
}

/// The message, if it is metadata that is consistent in itself.
pub(super) fn metadata(bytes: &[u8], limits: &Limits) -> Option<SubmittedMetadata> {
    elements(bytes, 3, limits.list_entries)?;
    elements(bytes, 6, limits.list_entries)?;
    let message = SubmittedMetadata::decode(bytes).ok()?;
    let common = Common {
        block_hash: &message.block_hash,
        header: message.header.as_ref(),
        transactions_proof: message.rollup_transactions_proof.as_ref(),
        ids: &message.rollup_ids,
        ids_proof: message.rollup_ids_proof.as_ref(),
        upgrades: &message.upgrade_change_hashes,
        info: message.extended_commit_info_with_proof.as_ref(),
    };
    common.holds(limits).then_some(message)
}

/// The elements of the requested rollups, if the bytes are a consistent block that answers the request.
pub(super) fn filtered(
    bytes: &[u8],
    request: &SoftBlockRequest,
    limits: &Limits,
) -> Option<(FilteredSequencerBlock, BTreeMap<RollupId, Vec<RollupData>>)> {
    if bytes.len() > limits.soft_block_bytes {
        return None;
    }
    let mut transactions = 0;
    for rollup in elements(bytes, 3, limits.list_entries)? {
        transactions += elements(rollup, 2, usize::MAX)?.len();
    }
    elements(bytes, 5, limits.list_entries)?;
    elements(bytes, 7, limits.list_entries)?;
    let message = FilteredSequencerBlock::decode(bytes).ok()?;
    let common = Common {
        block_hash: &message.block_hash,
        header: message.header.as_ref(),
        transactions_proof: message.rollup_transactions_proof.as_ref(),
        ids: &message.all_rollup_ids,
        ids_proof: message.rollup_ids_proof.as_ref(),
        upgrades: &message.upgrade_change_hashes,
        info: message.extended_commit_info_with_proof.as_ref(),
    };
    let header = message.header.as_ref()?;
    let answers = header.height == request.height.0 && header.chain_id == request.chain_id;
    if transactions > limits.transactions || !answers || !common.holds(limits) {
        return None;
    }
    let mut data = BTreeMap::new();
    for rollup in &message.rollup_transactions {
        let id = &rollup.rollup_id.as_ref()?.inner;
        let leaf = [id.as_ref(), &self::root(&rollup.transactions)].concat();
        proven(rollup.proof.as_ref(), &leaf, None, &header.rollup_transactions_root)?;
        let id = RollupId(id.as_ref().try_into().ok()?);
        if data.insert(id, &rollup.transactions).is_some() {
            return None;
        }
    }
    let mut blocks = BTreeMap::new();
    for id in &request.rollup_ids {
        let is_listed = message.all_rollup_ids.iter().any(|listed| listed.inner == id.0.as_slice());
        if is_listed != data.contains_key(id) {
            return None;
        }
        let elements = data.get(id).map_or(&[][..], |transactions| transactions);
        let elements: Result<Vec<RollupData>, _> =
            elements.iter().map(|element| RollupData::decode(element.clone())).collect();
        blocks.insert(*id, elements.ok()?);
    }
    Some((message, blocks))
}
