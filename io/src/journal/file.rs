//! One journal file: what it begins with, and its chunks.
//!
//! ```text
//! "dbeatjnl" (8 bytes), version (4), 1 or 2
//! chunks: kind (1), bytes that follow (4), bytes unpacked (4), checksum (8), bytes
//! ```
//!
//! Numbers are little-endian. The checksum is over kind, both lengths and bytes: XXH3 with 64 bits, in version 1 the first
//! 8 bytes of the SHA-256. The first chunk is the header; chunks of records hold messages, each after its length (a
//! protobuf varint), packed with LZ4 or, where that gains little, plain; an end chunk says that nothing follows, and why.

use std::{
    hash::Hasher as _,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf as _, Bytes};
use downbeat_core::{Limits, Timestamp};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use twox_hash::xxhash3_64;

use super::{
    DecodeError, Entry, Record, proto,
    record::{from_proto, into_proto},
};

/// Version of the schema and of the file, as it is written. Version 1 is read as well.
pub const VERSION: u32 = 2;

/// The version in which all hashes are SHA-256: too slow for what they are to notice, which is damage and chance.
const VERSION_OF_SHA256: u32 = 1;

const MAGIC: [u8; 8] = *b"dbeatjnl";

/// Records are gathered into chunks of about so many bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes of one chunk, unpacked or not. An event that needs more cannot be recorded.
const CHUNK_MAX: usize = 64 << 20;

/// Bytes of one event: with a chunk that is nearly full it fits into one chunk, even where it cannot be packed.
pub(super) const EVENT_MAX: usize = CHUNK_MAX / 4 * 3;

/// Bytes of an event's length.
const LENGTH_MAX: usize = 10;

/// LZ4 cannot unpack a byte to more.
const RATIO_MAX: usize = 255;

const HEADER: u8 = 1;
const RECORDS: u8 = 2;
const END: u8 = 3;
const PLAIN_RECORDS: u8 = 4;

/// After a full chunk from which LZ4 gained less than a quarter so many are written plain: what follows is likely of the
/// same kind, and to try takes longer than to write.
const PLAIN_RUN: u32 = 15;

const FRAME: usize = 17;

/// What a file says first.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Version of the program that wrote it.
    pub program: String,
    /// Counts the lives of the process in this directory, from 1.
    pub life: u64,
    /// Counts the files of a life, from 1.
    pub segment: u64,
    /// Sequence number of the first event in this file.
    pub first_seq: u64,
    /// What the conductor was made from, with `limits`.
    pub seed: [u8; 32],
    /// JSON of [`Limits`]; those of another version may differ.
    pub limits: String,
    pub started_at: Timestamp,
    /// What the conductor was given of an earlier life: keys and encoded records.
    pub records: Vec<(String, Vec<u8>)>,
}

impl Header {
    /// The header of a conductor's first file.
    pub fn new(limits: &Limits, seed: [u8; 32], started_at: Timestamp) -> Self {
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            life: 1,
            segment: 1,
            first_seq: 0,
            seed,
            // Plain numbers, which cannot fail; what is empty will be said to be unreadable.
            limits: serde_json::to_string(limits).unwrap_or_default(),
            started_at,
            records: Vec::new(),
        }
    }

    /// The same, of a conductor that goes on from `records`.
    #[must_use]
    pub fn with_records(mut self, records: &[downbeat_core::Record]) -> Self {
        self.records = records.iter().map(|record| (record.key(), record.encode())).collect();
        self
    }

    fn to_proto(&self) -> proto::Header {
        proto::Header {
            program: self.program.clone(),
            life: self.life,
            segment: self.segment,
            first_seq: self.first_seq,
            seed: Bytes::copy_from_slice(&self.seed),
            limits: self.limits.clone(),
            started_at: self.started_at.0,
            records: self
                .records
                .iter()
                .map(|(key, value)| proto::KeptRecord { key: key.clone(), value: value.clone().into() })
                .collect(),
        }
    }

    fn from_proto(header: proto::Header) -> Result<Self, DecodeError> {
        Ok(Self {
            program: header.program,
            life: header.life,
            segment: header.segment,
            first_seq: header.first_seq,
            seed: header.seed.as_ref().try_into().map_err(|_| DecodeError::Unknown("seed"))?,
            limits: header.limits,
            started_at: Timestamp(header.started_at),
            records: header.records.into_iter().map(|kept| (kept.key, kept.value.to_vec())).collect(),
        })
    }
}

/// Events that are encoded one after the other, to become one chunk.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Sequence number of the first; of no meaning while there is none.
    pub(super) first_seq: u64,
    records: Vec<u8>,
}

impl Batch {
    /// Adds an event.
    ///
    /// # Errors
    /// When it is larger than an event may be.
    pub(super) fn push(&mut self, entry: Entry) -> io::Result<()> {
        let seq = entry.seq.0;
        let record = into_proto(entry);
        let length = record.encoded_len();
        if length > EVENT_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("an event of {length} bytes")));
        }
        if self.records.is_empty() {
            self.first_seq = seq;
        }
        // At once: memory that grows step by step is copied as often.
        self.records.reserve(length.saturating_add(LENGTH_MAX));
        prost::encoding::encode_varint(u64::try_from(length).unwrap_or(u64::MAX), &mut self.records);
        record.encode_raw(&mut self.records);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= CHUNK_BYTES
    }

    pub(super) fn bytes(&self) -> usize {
        self.records.len()
    }

    /// Makes room for others in the same memory; one large event does not hold its own for ever.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.records.shrink_to(CHUNK_BYTES * 2);
    }
}

/// Writes one journal to anything that takes bytes.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    /// Records that wait to be packed.
    pending: Batch,
    /// For packed records.
    packed: Vec<u8>,
    /// Chunks that are not tried to be packed.
    plain_left: u32,
    written: u64,
    /// Nothing is written any more: something went wrong, or the end was written.
    is_closed: bool,
}

impl<W: Write> Writer<W> {
    /// Begins with the header.
    ///
    /// # Errors
    /// As `out` has them.
    pub fn new(out: W, header: &Header) -> io::Result<Self> {
        let (pending, packed) = (Batch::default(), Vec::new());
        let mut writer = Self { out, pending, packed, plain_left: 0, written: 0, is_closed: false };
        let mut start = MAGIC.to_vec();
        start.extend_from_slice(&VERSION.to_le_bytes());
        writer.raw(&start)?;
        let header = header.to_proto().encode_to_vec();
        writer.chunk(HEADER, &header, header.len())?;
        Ok(writer)
    }

    /// Takes one event; it is written with others once there is enough.
    ///
    /// # Errors
    /// As `out` has them, and when the event is larger than one may be. Nothing is written from then on.
    pub fn write(&mut self, entry: Entry) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        self.pending.push(entry).inspect_err(|_| self.is_closed = true)?;
        if self.pending.is_full() { self.flush() } else { Ok(()) }
    }

    /// Writes what was taken.
    ///
    /// # Errors
    /// As `out` has them. Nothing is written from then on.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.pending);
        let result = self.write_batch(&batch);
        batch.clear();
        self.pending = batch;
        result
    }

    /// Writes a chunk of events.
    pub(super) fn write_batch(&mut self, batch: &Batch) -> io::Result<()> {
        if self.is_closed || batch.is_empty() {
            return Ok(());
        }
        let result = match self.plain_left.checked_sub(1) {
            Some(left) => {
                self.plain_left = left;
                self.chunk(PLAIN_RECORDS, &batch.records, batch.records.len())
            }
            None => self.packed_chunk(&batch.records),
        };
        let result = result.and_then(|()| self.out.flush());
        self.is_closed |= result.is_err();
        result
    }

    /// Writes a chunk of records packed, unless that gains too little.
    fn packed_chunk(&mut self, records: &[u8]) -> io::Result<()> {
        // In the same memory each time: the system takes more time to give a new one than the packing does.
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(lz4_flex::block::get_maximum_output_size(records.len()), 0);
        let length = lz4_flex::block::compress_into(records, &mut packed).map_err(io::Error::other)?;
        let result = if length <= records.len() / 4 * 3 {
            self.chunk(RECORDS, &packed[..length], records.len())
        } else {
            self.plain_left = if records.len() < CHUNK_BYTES { 0 } else { PLAIN_RUN };
            self.chunk(PLAIN_RECORDS, records, records.len())
        };
        packed.truncate(CHUNK_BYTES * 2);
        packed.shrink_to(CHUNK_BYTES * 2);
        self.packed = packed;
        result
    }

    /// Writes what was taken, and that nothing follows.
    ///
    /// # Errors
    /// As `out` has them.
    pub fn end(&mut self, reason: &str) -> io::Result<()> {
        self.flush()?;
        if std::mem::replace(&mut self.is_closed, true) {
            return Ok(());
        }
        let end = proto::End { reason: reason.to_owned() }.encode_to_vec();
        self.chunk(END, &end, end.len())?;
        self.out.flush()
    }

    /// Bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// What it writes to; see [`Writer::flush`].
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// Gives back what it wrote to, after everything was written.
    ///
    /// # Errors
    /// As `out` has them.
    pub fn into_inner(mut self) -> io::Result<W> {
        self.flush()?;
        Ok(self.out)
    }

    fn chunk(&mut self, kind: u8, bytes: &[u8], unpacked: usize) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, "a chunk of more than 4 GiB");
        let mut frame = Vec::with_capacity(FRAME);
        frame.push(kind);
        frame.extend_from_slice(&u32::try_from(bytes.len()).map_err(too_large)?.to_le_bytes());
        frame.extend_from_slice(&u32::try_from(unpacked).map_err(too_large)?.to_le_bytes());
        let sum = checksum(VERSION, &frame, bytes);
        frame.extend_from_slice(&sum);
        self.raw(&frame)?;
        self.raw(bytes)
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written = self.written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// Events of a simulated run go into it directly. After an error it takes nothing more.
impl<W: Write + Send + std::fmt::Debug> Record for Writer<W> {
    fn record(&mut self, entry: Entry) {
        if let Err(error) = self.write(entry) {
            tracing::warn!("the journal ends here: {error}");
        }
    }
}

/// For whoever wants to read what was recorded once the driver is gone, or while it runs.
impl<W: Write + Send + std::fmt::Debug> Record for Arc<Mutex<Writer<W>>> {
    fn record(&mut self, entry: Entry) {
        self.lock().unwrap_or_else(PoisonError::into_inner).record(entry);
    }
}

fn checksum(version: u32, frame: &[u8], bytes: &[u8]) -> [u8; 8] {
    if version == VERSION_OF_SHA256 {
        let mut first = [0; 8];
        first.copy_from_slice(&Sha256::new().chain_update(frame).chain_update(bytes).finalize()[..8]);
        return first;
    }
    let mut hash = xxhash3_64::Hasher::new();
    hash.write(frame);
    hash.write(bytes);
    hash.finish().to_le_bytes()
}

/// Why a file cannot be read, or not any further. What was read before it is good.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("not a journal of downbeat")]
    NotAJournal,
    #[error("it is of version {0}; this program reads versions 1 to {VERSION}")]
    UnknownVersion(u32),
    #[error("it breaks off at byte {offset}, inside a chunk")]
    Torn { offset: u64 },
    #[error("it is damaged: {what} in the chunk at byte {offset}")]
    Damaged { offset: u64, what: &'static str },
    #[error("record {index} of the chunk at byte {offset} cannot be read: {error}")]
    BadRecord { offset: u64, index: u64, error: DecodeError },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one journal. Yields events until the file ends or an error, after which nothing more comes.
///
/// Takes memory for one chunk, at most 64 MiB and at most about 255 times the bytes that are there,
/// and for the messages in it.
#[derive(Debug)]
pub struct Reader<R: Read> {
    input: R,
    version: u32,
    header: Header,
    /// Bytes that were read.
    offset: u64,
    chunk: Bytes,
    chunk_offset: u64,
    index: u64,
    end: Option<String>,
    is_done: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When there is no header of a known version.
    pub fn new(input: R) -> Result<Self, ReadError> {
        let header = Header {
            program: String::new(),
            life: 0,
            segment: 0,
            first_seq: 0,
            seed: [0; 32],
            limits: String::new(),
            started_at: Timestamp::ZERO,
            records: Vec::new(),
        };
        let chunk = Bytes::new();
        let mut reader = Self {
            input,
            version: VERSION,
            header,
            offset: 0,
            chunk,
            chunk_offset: 0,
            index: 0,
            end: None,
            is_done: false,
        };
        let magic = reader.read_up_to(MAGIC.len())?;
        if magic != MAGIC {
            return Err(ReadError::NotAJournal);
        }
        let version = reader.read_up_to(4)?;
        let Ok(version) = <[u8; 4]>::try_from(version.as_slice()) else { return Err(ReadError::Torn { offset: 8 }) };
        let version = u32::from_le_bytes(version);
        if !(VERSION_OF_SHA256..=VERSION).contains(&version) {
            return Err(ReadError::UnknownVersion(version));
        }
        reader.version = version;
        let offset = reader.offset;
        match reader.next_chunk()? {
            Some((HEADER, bytes)) => {
                let header = proto::Header::decode(bytes).map_err(DecodeError::from).and_then(Header::from_proto);
                reader.header = header.map_err(|error| ReadError::BadRecord { offset, index: 0, error })?;
                Ok(reader)
            }
            Some(_) => Err(ReadError::Damaged { offset, what: "no header" }),
            None => Err(ReadError::Torn { offset }),
        }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Why the recording ended, once that was read. Without it the process was killed, or another file goes on.
    pub fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        while !self.chunk.has_remaining() {
            let offset = self.offset;
            match self.next_chunk()? {
                None => return Ok(None),
                Some((RECORDS | PLAIN_RECORDS, bytes)) => {
                    (self.chunk, self.chunk_offset, self.index) = (bytes, offset, 0);
                }
                Some((END, bytes)) => {
                    let end = proto::End::decode(bytes).map_err(DecodeError::from);
                    let end = end.map_err(|error| ReadError::BadRecord { offset, index: 0, error })?;
                    self.end = Some(end.reason);
                    return Ok(None);
                }
                Some(_) => return Err(ReadError::Damaged { offset, what: "an unknown kind" }),
            }
        }
        let (offset, index) = (self.chunk_offset, self.index);
        self.index += 1;
        let record = proto::Record::decode_length_delimited(&mut self.chunk).map_err(DecodeError::from);
        record.and_then(from_proto).map(Some).map_err(|error| ReadError::BadRecord { offset, index, error })
    }

    /// The next chunk, checked and unpacked; `None` at the end of the file.
    fn next_chunk(&mut self) -> Result<Option<(u8, Bytes)>, ReadError> {
        let offset = self.offset;
        let frame = self.read_up_to(FRAME)?;
        if frame.is_empty() {
            return Ok(None);
        }
        let Ok(frame) = <[u8; FRAME]>::try_from(frame.as_slice()) else { return Err(ReadError::Torn { offset }) };
        let damaged = |what| ReadError::Damaged { offset, what };
        // Where the machine lost power the file may end in zeros.
        if frame == [0; FRAME] {
            return Err(ReadError::Torn { offset });
        }
        // There are 17 bytes, as many as are taken here.
        let mut fields = &frame[..];
        let kind = fields.get_u8();
        let mut length = || usize::try_from(fields.get_u32_le()).unwrap_or(usize::MAX);
        let (stored, unpacked) = (length(), length());
        let is_possible = if kind == RECORDS {
            unpacked <= stored.saturating_mul(RATIO_MAX).saturating_add(64)
        } else {
            unpacked == stored
        };
        if stored > CHUNK_MAX || unpacked > CHUNK_MAX || !is_possible {
            return Err(damaged("an impossible length"));
        }
        let bytes = self.read_up_to(stored)?;
        if bytes.len() < stored {
            return Err(ReadError::Torn { offset });
        }
        if checksum(self.version, &frame[..9], &bytes) != frame[9..] {
            return Err(damaged("a wrong checksum"));
        }
        if kind != RECORDS {
            return Ok(Some((kind, bytes.into())));
        }
        match lz4_flex::block::decompress(&bytes, unpacked) {
            Ok(bytes) if bytes.len() == unpacked => Ok(Some((kind, bytes.into()))),
            _ => Err(damaged("something that does not unpack")),
        }
    }

    /// So many bytes, or fewer at the end of the file. Takes memory as they come.
    fn read_up_to(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let limit = u64::try_from(length).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        self.input.by_ref().take(limit).read_to_end(&mut bytes)?;
        self.offset = self.offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(bytes)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.next_entry().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}
