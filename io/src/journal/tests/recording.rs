//! A disk that is full or stands still holds nothing up, and a directory keeps to its bound.

use super::*;

/// A disk with so much room.
#[derive(Debug)]
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() {
    let mut recorder = Recorder::start(Writer::new(Full(500_000), &header()).unwrap()).unwrap();
    let began = Instant::now();
    for seq in 0.. {
        recorder.record(soft_block(seq, 10_000));
        if !recorder.is_recording() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the failure is never noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Taken without a word from now on.
    recorder.record(soft_block(0, 10_000));
    drop(recorder);
    assert!(began.elapsed() < PATIENCE);
}

/// A disk that stands still until it is let go.
struct Stuck(mpsc::Receiver<()>, mpsc::Sender<String>);

impl Destination for Stuck {
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if batch.first_seq == 0 {
            let _ = self.0.recv();
        }
        Ok(())
    }

    fn end(&mut self, reason: &str) -> io::Result<()> {
        self.1.send(reason.to_owned()).map_err(io::Error::other)
    }
}

#[test]
fn a_disk_that_stands_still_ends_the_recording_and_never_holds_the_driver_up() {
    let (go, stuck) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let mut recorder = Recorder::start(Stuck(stuck, ended)).unwrap();
    let mut taken = 0;
    while recorder.is_recording() {
        recorder.record(soft_block(taken, 100_000));
        taken += 1;
        assert!(taken < 10_000, "the queue has no bound");
    }
    assert!(taken > 300, "{taken} events of 100 kB");
    go.send(()).unwrap();
    assert_eq!(end.recv_timeout(PATIENCE).unwrap(), "the disk was too slow");
}

#[test]
fn what_was_recorded_is_written_when_the_recorder_goes() {
    let (go, stuck) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let mut recorder = Recorder::start(Stuck(stuck, ended)).unwrap();
    go.send(()).unwrap();
    recorder.record(soft_block(0, 8));
    drop(recorder);
    assert_eq!(end.try_recv().unwrap(), "the driver ended");
}

fn bytes_in(directory: &std::path::Path) -> u64 {
    let files = fs::read_dir(directory).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_life_goes_on_over_several_files() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut recorder = open(directory.path(), BYTES_MIN, header()).unwrap();
    for seq in 0..60 {
        recorder.record(soft_block(seq, 10_000));
    }
    drop(recorder);
    let lives = lives(directory.path()).unwrap();
    assert_eq!(lives.len(), 1);
    assert!(lives[0].has_its_beginning() && lives[0].files.len() > 2, "{lives:?}");
    let mut entries = lives[0].entries().unwrap();
    let read: Vec<Entry> = entries.by_ref().collect::<Result<_, _>>().unwrap();
    assert!(read.iter().map(|entry| entry.seq.0).eq(0..60));
    assert_eq!(entries.end(), Some("the driver ended"));
}

#[test]
fn files_stay_below_the_bound_however_many_events_are_written_at_once() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut segments = Segments::open(directory.path(), BYTES_MIN, header()).unwrap();
    for size in [1, 3, 6].into_iter().cycle().take(300) {
        let mut batch = Batch::default();
        for seq in 0..size {
            batch.push(soft_block(seq, 10_000)).unwrap();
        }
        segments.write(&batch).unwrap();
        let bytes = bytes_in(directory.path());
        assert!(bytes <= BYTES_MIN, "{bytes} bytes");
    }
}

#[test]
fn all_files_together_stay_below_the_bound_and_the_oldest_go_first() {
    let directory = tempfile::TempDir::new().unwrap();
    // A short life first, then a long one.
    for events in [20, 400_u64] {
        let mut recorder = open(directory.path(), BYTES_MIN, header()).unwrap();
        for seq in 0..events {
            recorder.record(soft_block(seq, 10_000));
        }
    }
    let bytes = bytes_in(directory.path());
    assert!(bytes <= BYTES_MIN && bytes > BYTES_MIN / 2, "{bytes} bytes");
    let kept = lives(directory.path()).unwrap();
    assert_eq!(kept.iter().map(|life| life.number).collect::<Vec<_>>(), [2], "the short one is gone");
    assert!(!kept[0].has_its_beginning());
    let mut entries = kept[0].entries().unwrap();
    let error = Replay::new(entries.header()).unwrap_err();
    assert!(matches!(error, ReplayError::NoBeginning(seq) if seq == entries.header().first_seq), "{error}");
    let read: Vec<Entry> = entries.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(read.last().unwrap().seq.0, 399, "the newest are there");

    // The next life is whole again.
    drop(open(directory.path(), BYTES_MIN, header()).unwrap());
    let kept = lives(directory.path()).unwrap();
    assert_eq!((kept[1].number, kept[1].has_its_beginning()), (3, true));
}

#[test]
fn a_file_that_is_missing_between_two_is_noticed() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut recorder = open(directory.path(), BYTES_MIN, header()).unwrap();
    for seq in 0..60 {
        recorder.record(soft_block(seq, 10_000));
    }
    drop(recorder);
    let files = lives(directory.path()).unwrap()[0].files.clone();
    fs::remove_file(&files[1]).unwrap();
    let result: Result<Vec<Entry>, SourceError> = lives(directory.path()).unwrap()[0].entries().unwrap().collect();
    let error = result.unwrap_err();
    assert!(matches!(&error, SourceError::Missing(path) if *path == files[2]), "{error}");
}

#[test]
fn a_directory_has_one_writer_at_a_time() {
    let directory = tempfile::TempDir::new().unwrap();
    let first = open(directory.path(), BYTES_MIN, header()).unwrap();
    let error = open(directory.path(), BYTES_MIN, header()).unwrap_err();
    assert!(matches!(&error, OpenError::InUse(path) if path == directory.path()), "{error}");
    drop(first);
    open(directory.path(), BYTES_MIN, header()).unwrap();
    let file = directory.path().join("lock");
    let error = open(&file, BYTES_MIN, header()).unwrap_err();
    assert!(matches!(&error, OpenError::Io { .. }) && error.to_string().contains("lock"), "{error}");
    assert!(matches!(lives(&PathBuf::from("/nowhere")), Err(SourceError::File { .. })));
}
