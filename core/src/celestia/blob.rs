//! Blob payloads: bounded decompression and lists whose entries stand for themselves (reference §3.2).

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;

use crate::{
    canary::{Canary, canary},
    ids::RollupId,
    limits::Limits,
    sequencer::{RollupRecord, UnverifiedMetadata},
    wire::scan::{self, Fields, ScanError},
};

/// Why nothing of a blob was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error("a blob of {actual} bytes is larger than the {max} permitted")]
    TooLarge { actual: usize, max: usize },
    #[error("not a brotli stream")]
    NotBrotli,
    #[error("the brotli stream ends early")]
    Truncated,
    #[error("{0} bytes follow the brotli stream")]
    TrailingBytes(usize),
    #[error("{packed} bytes unpack to more than the {max} permitted")]
    Bomb { packed: usize, max: usize },
    #[error(transparent)]
    List(#[from] ScanError),
}

/// The entries of a list that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedList<T> {
    pub entries: Vec<T>,
    /// Entries that were refused: their place in the list and the reason. The first [`DROPPED_MAX`] of them.
    pub dropped: Vec<(usize, String)>,
    /// How many entries were refused, listed in `dropped` or not.
    pub dropped_total: usize,
    /// Well-framed entries that belong to rollups nobody asked for.
    pub foreign: usize,
}

/// Most refused entries of one list that are named.
pub const DROPPED_MAX: usize = 16;

/// Bytes of output taken at a time, and the fewest taken first.
const CHUNK: usize = 64 << 10;
const CHUNK_MIN: usize = 4 << 10;

/// Decompresses a blob. Memory grows with the output that the stream really has, up to
/// [`Limits::blob_unpacked_bytes`] and [`Limits::blob_ratio`].
pub fn unpack(data: &[u8], limits: &Limits) -> Result<Bytes, BlobError> {
    if data.len() > limits.blob_bytes {
        return Err(BlobError::TooLarge { actual: data.len(), max: limits.blob_bytes });
    }
    let by_ratio = data.len().saturating_mul(limits.blob_ratio).max(limits.blob_ratio_floor_bytes);
    let max = by_ratio.min(limits.blob_unpacked_bytes);
    // Strict: no windows beyond those of RFC 7932, which ends at 16 MiB.
    let mut state =
        BrotliState::new_strict(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
    let (mut left, mut read, mut total) = (data.len(), 0, 0);
    let mut unpacked = Vec::new();
    // Most blobs are small, and what is taken is cleared first.
    let mut chunk = data.len().saturating_mul(4).clamp(CHUNK_MIN, CHUNK);
    loop {
        let mut written = 0;
        let start = unpacked.len();
        // One byte more than permitted, to notice that there is more.
        let mut room = std::mem::replace(&mut chunk, CHUNK).min(max.saturating_add(1) - start);
        unpacked.resize(start + room, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            data,
            &mut room,
            &mut written,
            &mut unpacked[start..],
            &mut total,
            &mut state,
        );
        unpacked.truncate(start + written);
        if unpacked.len() > max {
            return Err(BlobError::Bomb { packed: data.len(), max });
        }
        match result {
            BrotliResult::ResultSuccess if left > 0 => return Err(BlobError::TrailingBytes(left)),
            BrotliResult::ResultSuccess => return Ok(unpacked.into()),
            BrotliResult::NeedsMoreOutput if written > 0 => {}
            BrotliResult::NeedsMoreInput => return Err(BlobError::Truncated),
            BrotliResult::NeedsMoreOutput | BrotliResult::ResultFailure => return Err(BlobError::NotBrotli),
        }
    }
}

/// Decodes a blob of the sequencer's namespace. An entry that is no metadata, or contradicts itself, drops only itself.
pub fn decode_metadata(data: &[u8], limits: &Limits) -> Result<DecodedList<UnverifiedMetadata>, BlobError> {
    decode_list(&unpack(data, limits)?, limits, |entry| UnverifiedMetadata::decode(entry, limits).map(Some))
}

/// Decodes a blob of a rollup's namespace. Of the records of rollups that are not `wanted` only the id is looked at.
pub fn decode_rollup_data(
    data: &[u8],
    wanted: &[RollupId],
    limits: &Limits,
) -> Result<DecodedList<RollupRecord>, BlobError> {
    decode_list(&unpack(data, limits)?, limits, |entry| RollupRecord::decode_for(entry, wanted, limits))
}

/// Field number of the entries in both kinds of list.
pub(crate) const ENTRIES: u32 = 1;

fn decode_list<T, E: std::fmt::Display>(
    list: &Bytes,
    limits: &Limits,
    decode: impl Fn(&Bytes) -> Result<Option<T>, E>,
) -> Result<DecodedList<T>, BlobError> {
    scan::at_most(list, &[ENTRIES], limits.list_entries, "entries")?;
    let mut decoded = DecodedList { entries: Vec::new(), dropped: Vec::new(), dropped_total: 0, foreign: 0 };
    for (index, entry) in Fields::new(list).all(ENTRIES).enumerate() {
        // A copy, because a record may be kept for long and would keep the whole list with it.
        match decode(&Bytes::copy_from_slice(entry?)) {
            Ok(Some(entry)) => decoded.entries.push(entry),
            Ok(None) => decoded.foreign += 1,
            Err(_) if canary(Canary::OneBadEntryDropsList) => {
                decoded.entries.clear();
                break;
            }
            Err(error) => {
                if decoded.dropped.len() < DROPPED_MAX {
                    decoded.dropped.push((index, error.to_string()));
                }
                decoded.dropped_total += 1;
            }
        }
    }
    Ok(decoded)
}
