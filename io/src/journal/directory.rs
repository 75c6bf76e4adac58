//! A directory of journals: one writer at a time, a new file for every life of the process and whenever one is full, and
//! the oldest files go when there are too many bytes.
//!
//! A life whose first file is gone cannot be replayed, for the conductor's state at the start of a later file is not
//! known; its events can still be listed.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufReader, BufWriter},
    path::{Path, PathBuf},
};

use super::{Entry, Header, ReadError, Reader, Recorder, Writer, file::Batch, recorder::Destination};

/// Bytes of all files together, unless something else is said.
pub const BYTES_MAX: u64 = 1 << 30;

/// The least that can be asked for.
pub const BYTES_MIN: u64 = 1 << 20;

/// A file is full at a sixteenth of what all may have, within these bounds.
const SEGMENT_MIN: u64 = 64 << 10;
const SEGMENT_MAX: u64 = 64 << 20;

/// Files that are looked at in one directory.
const FILES_MAX: usize = 1 << 16;

/// Why a directory cannot be recorded to.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}: another process records its journal there; give each its own directory")]
    InUse(PathBuf),
    #[error("{path}: {error}", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Starts to record into `directory`, which is made if need be. All files together take at most `bytes_max`, or
/// [`BYTES_MIN`] if that is more, and the room of one event.
///
/// # Errors
/// When another process records there, or the directory cannot be written to.
pub fn open(directory: &Path, bytes_max: u64, header: Header) -> Result<Recorder, OpenError> {
    let failed = |error| OpenError::Io { path: directory.to_owned(), error };
    Segments::open(directory, bytes_max, header).and_then(|segments| Recorder::start(segments).map_err(failed))
}

/// The files of one life that is being recorded.
#[derive(Debug)]
pub(super) struct Segments {
    directory: PathBuf,
    /// Locked as long as this lives.
    _lock: File,
    bytes_max: u64,
    segment_bytes: u64,
    /// Of the newest file.
    header: Header,
    writer: Writer<BufWriter<File>>,
    /// Nothing was written yet.
    is_fresh: bool,
}

impl Segments {
    pub(super) fn open(directory: &Path, bytes_max: u64, mut header: Header) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io { path: directory.to_owned(), error };
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(directory.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let bytes_max = bytes_max.max(BYTES_MIN);
        let segment_bytes = (bytes_max / 16).clamp(SEGMENT_MIN, SEGMENT_MAX);
        let last = list(directory).map_err(failed)?.last().map_or(0, |file| file.life);
        (header.life, header.segment) = (last.saturating_add(1), 1);
        let writer = create(directory, &header).map_err(failed)?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
            bytes_max,
            segment_bytes,
            header,
            writer,
            is_fresh: true,
        })
    }

    fn next_segment(&mut self, first_seq: u64) -> io::Result<()> {
        self.header.segment = self.header.segment.saturating_add(1);
        self.header.first_seq = first_seq;
        self.writer = create(&self.directory, &self.header)?;
        self.is_fresh = true;
        Ok(())
    }

    /// Deletes old files until there is room for a whole new one, which begins with `batch`: large events may need more
    /// than a file ordinarily has.
    fn make_room(&mut self, batch: &Batch) -> io::Result<()> {
        let written = self.writer.written();
        let room = written.saturating_add(size(batch)).max(self.segment_bytes);
        prune(&self.directory, self.bytes_max.saturating_sub(room).saturating_add(written))
    }
}

impl Destination for Segments {
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if !self.is_fresh && self.writer.written().saturating_add(size(batch)) > self.segment_bytes {
            self.next_segment(batch.first_seq)?;
        }
        if std::mem::take(&mut self.is_fresh) {
            self.make_room(batch)?;
        }
        self.writer.write_batch(batch)
    }

    fn end(&mut self, reason: &str) -> io::Result<()> {
        self.writer.end(reason)
    }
}

/// Bytes of a batch before it is packed.
fn size(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes()).unwrap_or(u64::MAX)
}

fn create(directory: &Path, header: &Header) -> io::Result<Writer<BufWriter<File>>> {
    let path = directory.join(format!("life-{:06}-{:06}.journal", header.life, header.segment));
    Writer::new(BufWriter::new(File::create_new(path)?), header)
}

/// Deletes the oldest files until the others take no more than `bytes`.
fn prune(directory: &Path, bytes: u64) -> io::Result<()> {
    let files = list(directory)?;
    let mut total: u64 = files.iter().fold(0, |total, file| total.saturating_add(file.bytes));
    for file in files {
        if total <= bytes {
            break;
        }
        fs::remove_file(&file.path)?;
        total = total.saturating_sub(file.bytes);
    }
    Ok(())
}

#[derive(Debug)]
struct Listed {
    life: u64,
    segment: u64,
    path: PathBuf,
    bytes: u64,
}

/// All journal files, oldest first. Others are left alone.
fn list(directory: &Path) -> io::Result<Vec<Listed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)?.take(FILES_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        let parts =
            name.to_str().and_then(|name| name.strip_prefix("life-")?.strip_suffix(".journal")?.split_once('-'));
        let Some((Ok(life), Ok(segment))) = parts.map(|(life, segment)| (life.parse(), segment.parse())) else {
            continue;
        };
        files.push(Listed { life, segment, path: entry.path(), bytes: entry.metadata()?.len() });
    }
    files.sort_by_key(|file| (file.life, file.segment));
    Ok(files)
}

/// What was recorded between a start of the process and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Counts from 1. Of a single file it is what the file says.
    pub number: u64,
    /// Of the first file that is there. The life can be replayed if it is 1.
    pub first_segment: u64,
    /// In order, at least one.
    pub files: Vec<PathBuf>,
}

/// Why a life cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path}: {error}", path = .path.display())]
    File { path: PathBuf, error: ReadError },
    #[error("{path} does not follow the file before it: one is missing", path = .0.display())]
    Missing(PathBuf),
    #[error("{0}: no journal is in this directory")]
    Empty(PathBuf),
}

impl SourceError {
    /// Whether the file just breaks off, as it does when the process is killed.
    pub fn is_torn(&self) -> bool {
        matches!(self, Self::File { error: ReadError::Torn { .. }, .. })
    }
}

/// The lives that a directory holds, oldest first; or the part of a life that a single file holds.
///
/// # Errors
/// When there is no journal, or it cannot be opened.
pub fn lives(path: &Path) -> Result<Vec<Life>, SourceError> {
    let failed = |error| SourceError::File { path: path.to_owned(), error: ReadError::Io(error) };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        let header = open_file(path)?.header().clone();
        return Ok(vec![Life { number: header.life, first_segment: header.segment, files: vec![path.to_owned()] }]);
    }
    let mut lives: Vec<Life> = Vec::new();
    for file in list(path).map_err(failed)? {
        match lives.last_mut() {
            Some(life) if life.number == file.life => life.files.push(file.path),
            _ => lives.push(Life { number: file.life, first_segment: file.segment, files: vec![file.path] }),
        }
    }
    if lives.is_empty() { Err(SourceError::Empty(path.to_owned())) } else { Ok(lives) }
}

fn open_file(path: &Path) -> Result<Reader<BufReader<File>>, SourceError> {
    let failed = |error| SourceError::File { path: path.to_owned(), error };
    let file = File::open(path).map_err(|error| failed(ReadError::Io(error)))?;
    Reader::new(BufReader::new(file)).map_err(failed)
}

impl Life {
    /// Whether it was kept from its first event on.
    pub fn has_its_beginning(&self) -> bool {
        self.first_segment == 1
    }

    /// Opens the first file, of which it has the header.
    ///
    /// # Errors
    /// When it is no journal of a known version.
    pub fn entries(&self) -> Result<Entries, SourceError> {
        let mut files = self.files.clone();
        files.reverse();
        let path = files.pop().ok_or_else(|| SourceError::Empty(PathBuf::new()))?;
        Ok(Entries { reader: open_file(&path)?, path, files, next_seq: None, is_done: false })
    }
}

/// The events of a life, file after file. After an error nothing more comes.
#[derive(Debug)]
pub struct Entries {
    reader: Reader<BufReader<File>>,
    path: PathBuf,
    /// Those to come, the next one last.
    files: Vec<PathBuf>,
    next_seq: Option<u64>,
    is_done: bool,
}

impl Entries {
    /// Of the file that is being read.
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// Why the recording ended, once that was read.
    pub fn end(&self) -> Option<&str> {
        self.reader.end()
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, SourceError> {
        loop {
            match self.reader.next() {
                Some(Ok(entry)) => {
                    self.next_seq = Some(entry.seq.0.saturating_add(1));
                    return Ok(Some(entry));
                }
                Some(Err(error)) => return Err(SourceError::File { path: self.path.clone(), error }),
                None => {}
            }
            let Some(path) = self.files.pop() else { return Ok(None) };
            let before = self.reader.header().clone();
            self.path.clone_from(&path);
            self.reader = open_file(&path)?;
            let header = self.reader.header();
            let follows = header.seed == before.seed
                && header.segment == before.segment.saturating_add(1)
                && self.next_seq.is_none_or(|seq| seq == header.first_seq);
            if !follows {
                return Err(SourceError::Missing(path));
            }
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.next_entry().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}
