//! Celestia blobs: decompression, lists of metadata and of rollup data, and what of them binds to a committed block.

use std::io::Read as _;

use bytes::Bytes;
use downbeat_core::{
    Limits, RollupId,
    celestia::{BlobError, DROPPED_MAX, DecodedList, decode_metadata, decode_rollup_data, unpack},
    sequencer::{RollupRecord, UnverifiedMetadata},
    wire::proto::astria::sequencerblock::v1::{RollupData, SubmittedRollupData},
};
use prost::Message as _;

use super::{genuine::BLOCKS, naive, tiny_limits};

/// The first byte says what the others are: a compressed blob, or the list inside one, of metadata or of rollup data.
pub fn blob(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let limits = if kind & 4 == 0 { Limits::default() } else { tiny_limits() };
    match kind & 3 {
        0 => unpacks_like_the_library(rest, &limits),
        1 => {
            unpacks_like_the_library(rest, &limits);
            let decoded = decode_metadata(rest, &limits);
            let list = unpack(rest, &limits);
            judge_metadata(decoded, list.ok().as_deref(), &limits);
        }
        2 => judge_metadata(decode_metadata(&stored(rest), &limits), packed(rest, &limits), &limits),
        _ => judge_rollup_data(rest, &limits),
    }
}

/// `list` as the blob that [`stored`] makes of it, if it has a permitted size.
fn packed<'a>(list: &'a [u8], limits: &Limits) -> Option<&'a [u8]> {
    let is_permitted = list.len() <= limits.blob_unpacked_bytes && stored(list).len() <= limits.blob_bytes;
    is_permitted.then_some(list)
}

/// A brotli stream that holds `data` as it is (RFC 7932 §9.2): quick to make and easy to change.
pub(super) fn stored(data: &[u8]) -> Vec<u8> {
    let mut stream = Vec::with_capacity(data.len() + data.len() / 1_000 + 8);
    let mut first = true;
    for chunk in data.chunks(1 << 16) {
        // From the lowest bit: not the last, four nibbles of the length less one, and that it is not compressed.
        let length = u32::try_from(chunk.len() - 1).expect("a chunk's length");
        let header = (length << 3) | (1 << 19);
        // The stream begins with one bit for a window of 64 KiB.
        let header = if first { header << 1 } else { header };
        first = false;
        stream.extend_from_slice(&header.to_le_bytes()[..3]);
        stream.extend_from_slice(chunk);
    }
    // Last and empty, after the window's bit where there was no chunk.
    stream.push(if first { 0b110 } else { 0b11 });
    stream
}

fn unpacks_like_the_library(blob: &[u8], limits: &Limits) {
    let max = blob.len().saturating_mul(limits.blob_ratio).max(limits.blob_ratio_floor_bytes);
    let max = max.min(limits.blob_unpacked_bytes);
    let unpacked = unpack(blob, limits);
    if matches!(unpacked, Err(BlobError::TooLarge { .. })) {
        assert!(blob.len() > limits.blob_bytes);
        return;
    }
    // One byte more than permitted tells a bomb.
    let mut reader = brotli_decompressor::Decompressor::new(blob, 4_096).take(max as u64 + 1);
    let mut expected = Vec::new();
    let end = reader.read_to_end(&mut expected);
    match unpacked {
        Ok(bytes) => {
            assert!(bytes.len() <= max, "{} bytes are more than {max}", bytes.len());
            assert!(end.is_ok() && bytes == expected);
        }
        Err(BlobError::Bomb { .. }) => assert!(expected.len() > max, "{} bytes are permitted", expected.len()),
        Err(_) => {}
    }
}

fn counts_add_up<T>(decoded: &DecodedList<T>, entries: usize) {
    assert_eq!(decoded.entries.len() + decoded.dropped_total + decoded.foreign, entries);
    assert_eq!(decoded.dropped.len(), decoded.dropped_total.min(DROPPED_MAX));
}

fn judge_metadata(decoded: Result<DecodedList<UnverifiedMetadata>, BlobError>, list: Option<&[u8]>, limits: &Limits) {
    let entries = list.and_then(|list| naive::elements(list, 1, limits.list_entries));
    let (decoded, entries) = match (decoded, entries) {
        (Ok(decoded), Some(entries)) => (decoded, entries),
        (Err(_), None) => return,
        (decoded, entries) => panic!("{:?}, and the model found {:?}", decoded.map(drop), entries.map(|e| e.len())),
    };
    counts_add_up(&decoded, entries.len());
    assert_eq!(decoded.foreign, 0);
    let mut accepted = decoded.entries.iter();
    for (index, entry) in entries.into_iter().enumerate() {
        let expected = naive::metadata(entry, limits);
        let alone = UnverifiedMetadata::decode(&Bytes::copy_from_slice(entry), limits);
        assert_eq!(alone.is_ok(), expected.is_some(), "entry {index}: {alone:?}");
        let (Ok(alone), Some(message)) = (alone, expected) else { continue };
        assert_eq!(accepted.next(), Some(&alone), "an entry depends on its neighbours");
        assert_eq!(alone.wire_size(), entry.len());
        assert_eq!(alone.block_hash().0, message.block_hash.as_ref());
        assert_eq!(alone.height().0, message.header.map_or(0, |header| header.height));
        assert!(
            alone.rollup_ids().iter().map(|id| id.0.as_slice()).eq(message.rollup_ids.iter().map(|id| &id.inner[..]))
        );
        binds_to_genuine_only(&alone);
    }
    assert_eq!(accepted.next(), None);
}

/// S2: whatever is bound to a committed header is what was committed.
fn binds_to_genuine_only(metadata: &UnverifiedMetadata) {
    for genuine in BLOCKS.iter().filter(|genuine| genuine.header.height() == metadata.height()) {
        for transactions in [None, Some(genuine.transactions.as_slice())] {
            if let Ok(bound) = metadata.bind(&genuine.header, transactions) {
                assert_eq!(bound, genuine.bound);
            }
        }
    }
}

fn judge_rollup_data(list: &[u8], limits: &Limits) {
    let wanted = [BLOCKS[0].rollup, RollupId([7; 32])];
    let decoded = decode_rollup_data(&stored(list), &wanted, limits);
    let entries = packed(list, limits).and_then(|list| naive::elements(list, 1, limits.list_entries));
    let (decoded, entries) = match (decoded, entries) {
        (Ok(decoded), Some(entries)) => (decoded, entries),
        (Err(_), None) => return,
        (decoded, entries) => panic!("{:?}, and the model found {:?}", decoded.map(drop), entries.map(|e| e.len())),
    };
    counts_add_up(&decoded, entries.len());
    let mut accepted = decoded.entries.iter();
    for entry in entries {
        let bytes = Bytes::copy_from_slice(entry);
        let Ok(record) = RollupRecord::decode(&bytes, limits) else { continue };
        let message = SubmittedRollupData::decode(bytes.clone()).expect("an accepted record is a message");
        assert_eq!(record.rollup_id().0, message.rollup_id.expect("an accepted record has an id").inner.as_ref());
        assert_eq!(record.block_hash().0, message.sequencer_block_hash.as_ref());
        assert_eq!(record.wire_size(), entry.len());
        assert!(message.transactions.len() <= limits.transactions);
        for transaction in message.transactions {
            RollupData::decode(transaction).expect("an accepted record has readable elements");
        }
        let is_wanted = wanted.contains(&record.rollup_id());
        let for_us = RollupRecord::decode_for(&bytes, &wanted, limits);
        assert_eq!(for_us, Ok(is_wanted.then(|| record.clone())));
        if is_wanted {
            assert_eq!(accepted.next(), Some(&record), "an entry depends on its neighbours");
        }
        for genuine in BLOCKS.iter().filter(|genuine| genuine.rollup == record.rollup_id()) {
            if let Ok(block) = genuine.bound.block_with(&record) {
                assert_eq!(block, genuine.block);
            }
        }
    }
    assert_eq!(accepted.next(), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_blob_unpacks_to_what_was_stored() {
        for length in [0, 1, 5, 65_535, 65_536, 65_537, 200_000] {
            let data: Vec<u8> = (0_u32..length).map(|n| n.to_le_bytes()[0]).collect();
            assert_eq!(unpack(&stored(&data), &Limits::default()).as_deref(), Ok(data.as_slice()), "{length} bytes");
        }
    }
}
