//! The few protobuf encodings that CometBFT hashes and signs (reference §4.5). Fields with default values are left out.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tendermint::{Time, block};

pub(super) fn varint(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        encode_key(number, WireType::Varint, out);
        encode_varint(value, out);
    }
}

pub(super) fn sfixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        encode_key(number, WireType::SixtyFourBit, out);
        out.extend(value.to_le_bytes());
    }
}

pub(super) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        message(out, number, value);
    }
}

/// Written even when empty, as CometBFT does with messages that are not optional.
pub(super) fn message(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    prefixed(out, value);
}

/// `value` behind its length.
pub(super) fn prefixed(out: &mut Vec<u8>, value: &[u8]) {
    out.reserve(encoded_len_varint(value.len() as u64) + value.len());
    encode_varint(value.len() as u64, out);
    out.extend(value);
}

/// `google.protobuf.Timestamp`.
pub(super) fn time(value: Time) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    let seconds = value.unix_timestamp();
    // The remainder is what `seconds`, which is rounded down, leaves over.
    let nanos = value.unix_timestamp_nanos() - i128::from(seconds) * 1_000_000_000;
    varint(&mut out, 1, seconds.cast_unsigned());
    varint(&mut out, 2, u64::try_from(nanos).unwrap_or_default());
    out
}

/// `BlockID`, and `CanonicalBlockID`, which is the same on the wire.
pub(super) fn block_id(value: &block::Id) -> Vec<u8> {
    let mut parts = Vec::with_capacity(40);
    varint(&mut parts, 1, value.part_set_header.total.into());
    bytes(&mut parts, 2, value.part_set_header.hash.as_bytes());
    let mut out = Vec::with_capacity(80);
    bytes(&mut out, 1, value.hash.as_bytes());
    message(&mut out, 2, &parts);
    out
}
