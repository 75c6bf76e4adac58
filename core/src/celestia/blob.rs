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
    unpack_at_most(data, limits.blob_unpacked_bytes, limits)
}

/// Window that is enough for most blobs, and the bytes that it reaches.
const SMALL_WINDOW_BITS: u8 = 18;
const SMALL_WINDOW: usize = (1 << SMALL_WINDOW_BITS) - 16;

/// Decompresses a brotli stream that holds at most `most` bytes, and fewer if it is so short that this would be a bomb.
pub(crate) fn unpack_at_most(data: &[u8], most: usize, limits: &Limits) -> Result<Bytes, BlobError> {
    let by_ratio = data.len().saturating_mul(limits.blob_ratio).max(limits.blob_ratio_floor_bytes);
    let max = by_ratio.min(most);
    // A decoder takes memory for the window that a stream names, commonly 4 MiB, and clears it. Whatever is no longer than
    // a smaller window reads the same with that; what is longer, or broken, is read as it is.
    match with_small_window(data).map(|data| inflate(&data, max.min(SMALL_WINDOW))) {
        Some(Ok(unpacked)) => Ok(unpacked),
        // So many bytes there are, whatever the window.
        Some(Err(error @ BlobError::Bomb { .. })) if max < SMALL_WINDOW => Err(error),
        _ => inflate(data, max),
    }
}

/// The same stream with a smaller window, if it names a larger one than it is likely to need.
fn with_small_window(data: &[u8]) -> Option<Vec<u8>> {
    // RFC 7932, 9.1: a bit that is set and three that are not all clear say how many bits more than 17 a window has.
    let first = *data.first().filter(|_| data.len() <= SMALL_WINDOW / 4)?;
    let more = first >> 1 & 7;
    if first & 1 == 0 || 17 + more <= SMALL_WINDOW_BITS {
        return None;
    }
    let mut data = data.to_vec();
    *data.first_mut()? = first & !0b1110 | (SMALL_WINDOW_BITS - 17) << 1;
    Some(data)
}

/// Decompresses a stream that holds at most `max` bytes.
fn inflate(data: &[u8], max: usize) -> Result<Bytes, BlobError> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{ROLLUP, block, metadata_blob, rollup_blob};

    /// `len` bytes that repeat what came `far` bytes before, with something new now and then.
    fn text(len: usize, far: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut text: Vec<u8> = Vec::with_capacity(len);
        while text.len() < len {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let new = state.to_be_bytes();
            let copied = text.len().checked_sub(far).map(|from| text[from..(from + 200).min(text.len())].to_vec());
            text.extend_from_slice(&new);
            text.extend(copied.unwrap_or_default());
            text.extend_from_slice(b" the time of the sequencer ");
        }
        text.truncate(len);
        text
    }

    fn packed(text: &[u8], window: i32, quality: i32) -> Vec<u8> {
        let parameters = brotli::enc::BrotliEncoderParams { quality, lgwin: window, ..Default::default() };
        let mut packed = Vec::new();
        brotli::BrotliCompress(&mut &*text, &mut packed, &parameters).expect("memory can be read and written");
        packed
    }

    #[test]
    fn a_small_window_is_used_where_it_reaches_and_only_there() {
        for (len, is_small) in [(SMALL_WINDOW - 1, true), (SMALL_WINDOW, true), (SMALL_WINDOW + 1, false)] {
            let text = text(len, 200_000, 7);
            let packed = packed(&text, 22, 9);
            let small = with_small_window(&packed).map(|small| inflate(&small, SMALL_WINDOW).is_ok());
            assert_eq!(small, Some(is_small), "{len} bytes, {} packed", packed.len());
            assert_eq!(unpack(&packed, &Limits::default()), Ok(text.into()));
        }
        for window in [10, 15, 16, 17, 18] {
            assert_eq!(
                with_small_window(&packed(b"of use", window, 5)),
                None,
                "no larger than {SMALL_WINDOW_BITS} bits"
            );
        }
        assert_eq!(with_small_window(&[]), None);
    }

    #[test]
    fn of_a_stream_that_names_a_large_window_only_the_window_is_changed() {
        for rest in [0, 0b0101, 0b1111] {
            // RFC 7932, 9.1: `0001` says 16 bits, and `n` above it 17 + n.
            let first = |more: u8| rest << 4 | more << 1 | 1;
            for more in 0..8 {
                let small = (more > 1).then(|| vec![first(1), 0xab]);
                assert_eq!(with_small_window(&[first(more), 0xab]), small, "{more}, {rest:b}");
            }
            assert_eq!(with_small_window(&[rest << 4]), None);
        }
        let longest = vec![0b1011; SMALL_WINDOW / 4];
        assert!(with_small_window(&longest).is_some());
        assert!(with_small_window(&[&longest[..], &[0]].concat()).is_none(), "it holds more than the window reaches");
    }

    proptest! {
        #[test]
        fn what_a_small_window_gives_is_what_its_own_window_gives(
            len in prop_oneof![0..4_000_usize, SMALL_WINDOW - 60..SMALL_WINDOW + 60],
            far in 1..300_000_usize,
            seed: u64,
            (window, quality) in (19..=24_i32, 1..=9_i32),
            broken in proptest::option::of((any::<prop::sample::Index>(), 1..=255_u8)),
            max: prop::sample::Index,
        ) {
            let mut packed = packed(&text(len, far, seed), window, quality);
            if let Some((at, change)) = broken {
                let at = at.index(packed.len());
                packed[at] ^= change;
            }
            for most in [Limits::default().blob_unpacked_bytes, max.index(SMALL_WINDOW + 2)] {
                // A stream that is too long and broken further on may be refused for either.
                prop_assert_eq!(unpack_at_most(&packed, most, &Limits::default()).ok(), inflate(&packed, most).ok());
            }
        }
    }

    #[test]
    fn bounds_of_a_blob_are_inclusive() {
        let blob = metadata_blob([block(4, &[ROLLUP]).metadata]).data;
        let unpacked = unpack(&blob, &Limits::default()).expect("a blob").len();
        let limits = Limits { blob_bytes: blob.len(), blob_unpacked_bytes: unpacked, ..Limits::default() };
        assert_eq!(unpack(&blob, &limits).map(|list| list.len()), Ok(unpacked));
        let small = Limits { blob_bytes: blob.len() - 1, ..limits.clone() };
        assert_eq!(unpack(&blob, &small), Err(BlobError::TooLarge { actual: blob.len(), max: blob.len() - 1 }));
        let small = Limits { blob_unpacked_bytes: unpacked - 1, ..limits };
        assert_eq!(unpack(&blob, &small), Err(BlobError::Bomb { packed: blob.len(), max: unpacked - 1 }));
    }

    #[test]
    fn a_blob_longer_than_a_chunk_is_unpacked_whole() {
        let made = block(4, &[ROLLUP]);
        let blob = metadata_blob(vec![made.metadata; 1_000]).data;
        let decoded = decode_metadata(&blob, &Limits::default()).expect("a list");
        assert!(blob.len() > 3 * CHUNK && decoded.entries.len() == 1_000);
    }

    #[test]
    fn bad_entries_are_counted_in_full_and_named_in_part() {
        let (good, mut bad) = (block(4, &[ROLLUP]).records.remove(0), block(4, &[ROLLUP]).records.remove(0));
        bad.proof = None;
        let foreign = block(4, &[RollupId([8; 32])]).records.remove(0);
        let entries = std::iter::repeat_n(bad, DROPPED_MAX + 2).chain([good, foreign]);
        let list = decode_rollup_data(&rollup_blob(&ROLLUP, entries).data, &[ROLLUP], &Limits::default());
        let list = list.expect("a list");
        assert_eq!((list.entries.len(), list.foreign, list.dropped_total), (1, 1, DROPPED_MAX + 2));
        assert_eq!(list.dropped.len(), DROPPED_MAX);
        assert_eq!(list.dropped[3], (3, "proof is missing".to_owned()));
    }
}
