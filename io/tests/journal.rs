//! Recording and replay as an operator sees them: `devnet --journal`, `replay`, and recordings of earlier versions.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use downbeat::journal::{self, Entry, OutboxDigest, OutboxHash, Reader, Replay, Stepped, Writer};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);

fn downbeat(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_downbeat"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    downbeat(arguments).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Records a devnet until three blocks are firm.
fn record(directory: &Path) {
    let directory = directory.to_str().expect("a path that is text");
    let options = "--blocks 3 --block-time 50ms --da-delay 100ms --seed 5";
    let arguments = [&["devnet", "--journal", directory][..], &options.split(' ').collect::<Vec<_>>()].concat();
    let ended = output(&arguments);
    assert!(ended.status.success(), "{}\n{}", text(&ended.stdout), text(&ended.stderr));
}

/// Exit code, standard output, standard error.
fn replay(path: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let path = path.to_str().expect("a path that is text");
    let ended = output(&[&["replay", path], options].concat());
    (ended.status.code(), text(&ended.stdout), text(&ended.stderr))
}

fn only_file(directory: &Path) -> PathBuf {
    let lives = journal::lives(directory).expect("a journal");
    lives[0].files[0].clone()
}

fn read(path: &Path) -> (journal::Header, Vec<Entry>) {
    let bytes = fs::read(path).expect("a file");
    let reader = Reader::new(bytes.as_slice()).expect("a journal");
    (reader.header().clone(), reader.collect::<Result<_, _>>().expect("whole"))
}

fn write(path: &Path, header: &journal::Header, entries: Vec<Entry>) {
    let mut writer = Writer::new(Vec::new(), header).expect("memory");
    for entry in entries {
        writer.write(entry).expect("memory");
    }
    fs::write(path, writer.into_inner().expect("memory")).expect("a file");
}

#[test]
fn a_recorded_devnet_replays_without_a_difference() {
    let directory = TempDir::new().expect("a directory");
    record(directory.path());
    let (_, entries) = read(&only_file(directory.path()));

    let (code, out, error) = replay(directory.path(), &["--quiet"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    let expected =
        format!("{} events replayed, all equal; the recording ended because the driver ended", entries.len());
    assert_eq!(out.lines().last(), Some(expected.as_str()), "{out}");
    assert_eq!(out.lines().count(), 2, "{out}");

    // The time line, and a part of it.
    let (_, out, _) = replay(&only_file(directory.path()), &[]);
    assert!(out.contains("cell-0 installed, SoftAndFirm") && out.contains(" execute for cell-0"), "{out}");
    assert!(out.contains("says: cell-0 Firm is 3"), "{out}");
    let (_, out, _) = replay(directory.path(), &["--from", "3", "--to", "5"]);
    let events = out.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    assert!(events.take(3).eq(3..=5), "{out}");
    let (_, out, _) = replay(directory.path(), &["--from", "+1ms", "--to", "+1h", "--json"]);
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (last, events) = lines.split_last().expect("a line");
    assert!(events.iter().all(|event| event["event"].is_string() && event["commands"].is_array()), "{out}");
    assert_eq!((&last["equal"], &last["difference"]), (&entries.len().into(), &serde_json::Value::Null));
    assert!(events.last().is_some_and(|event| event["seq"] == entries.len() - 1), "{out}");

    // A second life beside the first.
    record(directory.path());
    let (code, out, _) = replay(directory.path(), &["--quiet"]);
    assert!(code == Some(0) && out.starts_with("life 2 (one of 2, see --life)"), "{out}");
    let (code, out, _) = replay(directory.path(), &["--quiet", "--life", "1"]);
    assert!(code == Some(0) && out.contains(&expected), "{out}");
    let (code, _, error) = replay(directory.path(), &["--quiet", "--life", "3"]);
    assert!(code == Some(1) && error.contains("there are 1, 2"), "{error}");

    // The beginning of the second is gone.
    let files = journal::lives(directory.path()).expect("journals")[1].files.clone();
    fs::rename(&files[0], directory.path().join("life-000002-000002.journal")).expect("renamed");
    let (code, _, error) = replay(directory.path(), &[]);
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("--life 1") && error.contains("--unchecked"), "{error}");
    let (code, out, _) = replay(directory.path(), &["--unchecked"]);
    assert!(code == Some(0) && out.contains("events listed") && out.contains("-> ExecuteBlock"), "{out}");
}

#[test]
fn a_record_that_was_changed_is_reported_with_its_position() {
    let directory = TempDir::new().expect("a directory");
    record(directory.path());
    let file = only_file(directory.path());
    let (header, entries) = read(&file);

    // With its checksum: only replay can tell.
    let position = entries.len() / 2;
    let mut changed = entries.clone();
    changed[position].outbox = Some(OutboxDigest { hash: OutboxHash::Xxh3(0), kinds: vec![13] });
    let other = directory.path().join("changed");
    write(&other, &header, changed);
    let (code, out, error) = replay(&other, &["--quiet"]);
    assert_eq!(code, Some(1), "{out}");
    assert_eq!(error, format!("downbeat: event {position} differs, {position} before it were equal\n"));
    let expected = "expected 00000000000000000000000000000000 [FetchExecutedBlock]";
    assert!(out.contains(&format!("event {position} at ")) && out.contains(expected) && out.contains("found"), "{out}");

    // Without: the chunk is named, and what is before it is replayed.
    let mut bytes = fs::read(&file).expect("a file");
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    fs::write(&other, &bytes).expect("a file");
    let (code, out, error) = replay(&other, &["--quiet"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(error.contains("changed: it is damaged: a wrong checksum in the chunk at byte "), "{error}");
    assert!(out.contains("events replayed, all equal; "), "{out}");

    // A file that breaks off is what a killed process leaves: no failure.
    bytes[place] ^= 1;
    fs::write(&other, &bytes[..place]).expect("a file");
    let (code, out, error) = replay(&other, &["--quiet"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("all equal; ") && out.contains("it breaks off at byte "), "{out}");
}

#[test]
fn a_directory_that_is_recorded_to_is_refused_to_another_process_and_a_killed_one_leaves_it_readable() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().to_str().expect("a path that is text");
    let arguments = ["devnet", "--block-time", "50ms", "--da-delay", "100ms", "--journal", path];
    let mut first = downbeat(&arguments).stdout(Stdio::null()).spawn().expect("the command starts");
    let began = Instant::now();
    // Until something was written beyond the header.
    while !journal::lives(directory.path())
        .is_ok_and(|lives| fs::metadata(&lives[0].files[0]).is_ok_and(|file| file.len() > 10_000))
    {
        assert!(began.elapsed() < PATIENCE, "nothing is recorded");
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = output(&arguments);
    assert_eq!(second.status.code(), Some(1));
    let line = text(&second.stderr);
    assert!(line.contains(path) && line.contains("another process records"), "{line}");
    first.kill().expect("it runs");
    first.wait().expect("a child of ours");

    let (code, out, error) = replay(directory.path(), &["--quiet"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("replayed, all equal; ") && out.contains("breaks off"), "{out}");
    record(directory.path());
}

/// Recorded with today's decisions. That it decodes must hold for ever; that the same follows only as long as nobody
/// changes what the conductor decides. See TESTING.md.
#[test]
fn a_recording_in_the_repository_decodes_and_replays() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/journal-v2/devnet.journal");
    if std::env::var_os("DOWNBEAT_RECORD_FIXTURES").is_some() {
        let directory = TempDir::new().expect("a directory");
        record(directory.path());
        fs::copy(only_file(directory.path()), &path).expect("the repository can be written");
    }
    let (header, entries) = read(&path);
    assert!(entries.len() > 50, "{} events", entries.len());
    let mut replay = Replay::new(&header).expect("known limits");
    for entry in entries {
        match replay.step(entry, &mut |_, _, _, _| {}) {
            Ok(stepped) => assert_eq!(stepped, Stepped::Equal),
            Err(difference) => panic!(
                "the conductor decides otherwise than when this was recorded. If that is meant, record again:\n  \
                 DOWNBEAT_RECORD_FIXTURES=1 cargo test -p downbeat --test journal\n{difference}"
            ),
        }
    }
}

/// Written by the program that hashed with SHA-256, and never again. That its beginning replays shows that those hashes are
/// still understood; when the conductor begins otherwise one day, only the decoding is left to be asked for.
#[test]
fn a_recording_of_version_1_still_decodes_and_its_hashes_are_understood() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/journal-v1/devnet.journal");
    let (header, entries) = read(&path);
    assert!(entries.len() > 50, "{} events", entries.len());
    let mut replay = Replay::new(&header).expect("known limits");
    let mut commands_seen = 0;
    for entry in entries.into_iter().take(10) {
        assert!(matches!(&entry.outbox, Some(OutboxDigest { hash: OutboxHash::Sha256(_), .. })), "{entry:?}");
        let stepped = replay.step(entry, &mut |_, _, commands, _| commands_seen += commands.len());
        assert_eq!(stepped.map_err(|difference| difference.to_string()), Ok(Stepped::Equal));
    }
    assert!(commands_seen > 5, "{commands_seen}");
}
