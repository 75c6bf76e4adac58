//! Journals: files as they may be found, records that were made up, and recordings that were damaged.

use std::{fmt::Write as _, sync::LazyLock};

use downbeat::journal::{Entry, Header, OutboxDigest, ReadError, Reader, Replay, Writer, decode, encode};
use downbeat_core::{Conductor, Limits, Outbox, Timestamp};
use twox_hash::xxhash3_64;

use super::machine;

/// Seed of the conductor that was recorded.
const SEED: [u8; 32] = [3; 32];

/// The first byte says what the others are: a file, the records of one, a single record, or how a recording is damaged.
pub fn journal(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind & 3 {
        0 => drop(read(rest)),
        1 => {
            // Undamaged, whatever it says.
            let mut file = header();
            if kind & 4 == 0 {
                chunk(&mut file, 2, &lz4_literals(rest), rest.len());
            } else {
                chunk(&mut file, 4, rest, rest.len());
            }
            let entries = read(&file).0;
            assert_eq!(entries, read(&rewritten(&file)).0, "an entry changes when it is written and read");
        }
        2 => {
            // A record may be written in several ways, and is always written again in the same one.
            if let Ok(entry) = decode(rest) {
                let once = again(entry);
                assert_eq!(again(decode(&once).expect("what was written")), once);
            }
        }
        _ => damaged(rest),
    }
}

fn again(entry: Entry) -> Vec<u8> {
    let outbox = entry.outbox.clone();
    encode(&entry.into_stamped_without_outcome(), outbox.as_ref())
}

/// What a file says: its entries as text, whether it says that it ended, and what was wrong.
fn read(file: &[u8]) -> (Vec<String>, bool, Option<ReadError>) {
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), false, Some(error)),
    };
    let (mut entries, mut error) = (Vec::new(), None);
    // Each entry takes at least its length in a chunk, which cannot be larger than this.
    for entry in reader.by_ref().take(file.len() * 256) {
        match entry {
            Ok(entry) => entries.push(format!("{entry:?}")),
            Err(found) => error = Some(found),
        }
    }
    assert!(reader.next().is_none(), "more after the end, or after an error");
    (entries, reader.end().is_some(), error)
}

/// The same journal as this program writes it, as far as it can be read.
fn rewritten(file: &[u8]) -> Vec<u8> {
    let reader = Reader::new(file).expect("the header was read before");
    let mut writer = Writer::new(Vec::new(), reader.header()).expect("memory");
    for entry in reader.map_while(Result::ok) {
        writer.write(entry).expect("memory");
    }
    writer.into_inner().expect("memory")
}

/// A file that holds nothing yet.
fn header() -> Vec<u8> {
    let header = Header::new(&Limits::default(), SEED, Timestamp(1));
    Writer::new(Vec::new(), &header).expect("memory").into_inner().expect("memory")
}

fn chunk(file: &mut Vec<u8>, kind: u8, bytes: &[u8], unpacked: usize) {
    let length = |bytes: usize| u32::try_from(bytes).expect("a small chunk").to_le_bytes();
    let frame = [&[kind][..], &length(bytes.len()), &length(unpacked)].concat();
    let sum = xxhash3_64::Hasher::oneshot(&[&frame, bytes].concat());
    file.extend([&frame, &sum.to_le_bytes()[..], bytes].concat());
}

/// An LZ4 block that holds `data` as it is.
fn lz4_literals(data: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(data.len() + data.len() / 255 + 2);
    if data.len() < 15 {
        block.push(u8::try_from(data.len() << 4).expect("below 15"));
    } else {
        block.push(0xf0);
        let mut left = data.len() - 15;
        while left >= 255 {
            block.push(255);
            left -= 255;
        }
        block.push(u8::try_from(left).expect("below 255"));
    }
    block.extend_from_slice(data);
    block
}

/// A recorded run in several chunks.
pub(super) static RECORDING: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut conductor = Conductor::new(Limits::default(), SEED, &[]);
    let header = Header::new(&Limits::default(), SEED, Timestamp(1));
    let mut writer = Writer::new(Vec::new(), &header).expect("memory");
    for (number, stamped) in machine::history(SEED, 90).into_iter().enumerate() {
        let mut out = Outbox::new();
        // Refused then, refused in the replay.
        let _ = conductor.handle(&stamped, &mut out);
        writer.write(Entry::new(stamped, Some(OutboxDigest::of(&out)))).expect("memory");
        if number % 15 == 14 {
            writer.flush().expect("memory");
        }
    }
    writer.end("the run is over").expect("memory");
    writer.into_inner().expect("memory")
});

/// What of a damaged recording can be read is what was recorded, and can be replayed.
fn damaged(damage: &[u8]) {
    let mut file = RECORDING.clone();
    for damage in damage.chunks_exact(5).take(4) {
        let [what, place @ .., byte] = damage else { return };
        let place = place.iter().fold(0, |place, byte| place << 8 | usize::from(*byte)) % file.len().max(1);
        match what % 5 {
            0 => file.truncate(place),
            1 => file.get_mut(place).into_iter().for_each(|here| *here = *byte),
            2 => file.insert(place, *byte),
            3 => file[place..].fill(0),
            _ => drop(file.drain(place..(place + usize::from(*byte)).min(file.len()))),
        }
    }
    let (recorded, ..) = read(&RECORDING);
    let (entries, ends, error) = read(&file);
    assert!(recorded.starts_with(&entries), "something else than what was recorded: {error:?}");
    if file == *RECORDING {
        assert!(entries == recorded && ends && error.is_none(), "an undamaged journal is refused: {error:?}");
    } else {
        // Whoever reads it is told, unless it was cut between two chunks: then it does not say that it ended. What
        // comes after the end is not looked at.
        let is_prefix = RECORDING.starts_with(&file);
        assert!(error.is_some() || (!ends && is_prefix) || file.starts_with(&RECORDING), "nobody would notice");
    }

    let Ok(reader) = Reader::new(file.as_slice()) else { return };
    let mut replay = Replay::new(reader.header()).expect("the header is protected by its checksum");
    for entry in reader.map_while(Result::ok) {
        if let Err(difference) = replay.step(entry, &mut |_, _, _, _| ()) {
            let mut text = String::new();
            write!(text, "{difference}").expect("memory");
            panic!("a replay differs: {text}");
        }
    }
    assert_eq!(replay.equal(), entries.len() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_were_made_up_are_read_like_genuine_ones() {
        let mut records = Vec::new();
        for entry in Reader::new(RECORDING.as_slice()).expect("a journal") {
            let record = again(entry.expect("undamaged"));
            prost::encoding::encode_varint(record.len() as u64, &mut records);
            records.extend(record);
        }
        let mut file = header();
        chunk(&mut file, 2, &lz4_literals(&records), records.len());
        let (entries, _, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(entries, read(&RECORDING).0);
        assert_eq!(entries.len(), 91);
    }
}
