use std::io::{Seek as _, SeekFrom, Write as _};

use super::*;

fn kept(key: &str, value: &[u8]) -> Kept {
    Kept { key: key.to_owned(), value: value.to_owned() }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn what_was_kept_is_there_for_the_next_process_and_later_records_replace_earlier_ones() {
    let folder = folder();
    let mut store = Store::open(folder.path()).expect("a new store");
    assert!(store.load().expect("readable").is_empty());
    store.put(&[kept("b", b"1"), kept("a", b"2")]).expect("kept");
    store.put(&[kept("b", b"3")]).expect("kept");
    drop(store);
    let store = Store::open(folder.path()).expect("the store again");
    assert_eq!(store.load().expect("readable"), [kept("a", b"2"), kept("b", b"3")]);
    assert_eq!(store.get("b").expect("readable").as_deref(), Some(&b"3"[..]));
    assert_eq!(store.get("c").expect("readable"), None);
}

#[test]
fn what_a_killed_process_had_put_is_there() {
    let (folder, copy) = (folder(), folder());
    let mut store = Store::open(folder.path()).expect("a new store");
    store.put(&[kept("header", &[7; 10_000])]).expect("kept");
    // What a killed process leaves on the disk: the file and its log, which nobody had the time to merge.
    for name in [FILE, "downbeat.sqlite-wal"] {
        fs::copy(folder.path().join(name), copy.path().join(name)).expect("a copy");
    }
    let store = Store::open(copy.path()).expect("the copy");
    assert_eq!(store.load().expect("readable"), [kept("header", &[7; 10_000])]);
}

#[test]
fn a_log_that_broke_off_leaves_what_was_put_before() {
    let (folder, copy) = (folder(), folder());
    let wal = "downbeat.sqlite-wal";
    let mut store = Store::open(folder.path()).expect("a new store");
    store.put(&[kept("header", b"first")]).expect("kept");
    let whole = fs::metadata(folder.path().join(wal)).expect("a log").len();
    store.put(&[kept("header", &vec![9; 20_000])]).expect("kept");
    for name in [FILE, wal] {
        fs::copy(folder.path().join(name), copy.path().join(name)).expect("a copy");
    }
    let torn = File::options().write(true).open(copy.path().join(wal)).expect("the log");
    torn.set_len(whole + 5_000).expect("cut short");
    let store = Store::open(copy.path()).expect("the copy");
    assert_eq!(store.load().expect("readable"), [kept("header", b"first")]);
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = folder();
    let _first = Store::open(folder.path()).expect("a new store");
    let error = Store::open(folder.path()).expect_err("in use");
    assert!(matches!(&error, StoreError::InUse(_)), "{error}");
}

/// Writes `bytes` at `at` of the closed store's file.
fn damage(folder: &Path, at: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(folder.join(FILE)).expect("the file");
    file.seek(SeekFrom::Start(at)).expect("a place");
    file.write_all(bytes).expect("written");
}

#[test]
fn a_damaged_file_is_named_and_not_guessed_around() {
    let value = [0xab; 600];
    let sound = folder();
    Store::open(sound.path()).expect("a new store").put(&[kept("header", &value)]).expect("kept");
    let bytes = fs::read(sound.path().join(FILE)).expect("the file");
    let in_value = bytes.windows(16).position(|window| window == [0xab; 16]).expect("the value") as u64;
    for (at, garbage) in [(0, &b"not a database"[..]), (in_value, b"!"), (4096, &[0xff; 64])] {
        let folder = folder();
        fs::write(folder.path().join(FILE), &bytes).expect("a copy");
        damage(folder.path(), at, garbage);
        let error = Store::open(folder.path()).and_then(|store| store.load()).expect_err("damaged");
        assert!(matches!(&error, StoreError::Damaged { .. }), "at {at}: {error:?}");
        assert!(error.to_string().contains(FILE), "{error}");
    }
}

#[test]
fn a_file_of_a_newer_version_or_of_somebody_else_is_left_alone() {
    let folder = folder();
    drop(Store::open(folder.path()).expect("a new store"));
    let alter = |sql: &str| {
        Connection::open(folder.path().join(FILE)).and_then(|file| file.execute_batch(sql)).expect("altered");
    };
    alter("PRAGMA user_version = 2");
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Newer { found: 2, .. })));
    alter("PRAGMA user_version = 1; PRAGMA application_id = 5");
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Foreign(_))));
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let folder = folder();
    let mut store = Store::open(folder.path()).expect("a new store");
    store.put(&[kept("header", b"first")]).expect("kept");
    store.connection.execute_batch("PRAGMA max_page_count = 4").expect("a bound");
    let error = store.put(&[kept("header", b"second"), kept("large", &vec![1; 100_000])]).expect_err("no room");
    assert!(matches!(&error, StoreError::Full(_)), "{error:?}");
    assert_eq!(store.load().expect("readable"), [kept("header", b"first")], "all or nothing");
    let error = store.put(&[kept("large", &vec![1; VALUE_MAX + 1])]).expect_err("too large");
    assert!(matches!(&error, StoreError::TooLarge { .. }), "{error:?}");
}
