//! Every committed input of the fuzz targets, replayed without libFuzzer.

use std::{
    collections::BTreeMap,
    fs, panic,
    path::{Path, PathBuf},
};

use downbeat_tests::fuzz::{TARGETS, seeds};

fn directory(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(kind).join(target)
}

/// Inputs by name; none where there is no such directory.
fn inputs(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeMap::new() };
    let paths = entries.map(|entry| entry.expect("a readable directory").path());
    paths
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect()
}

fn replay(kind: &str) -> usize {
    let mut count = 0;
    for (target, body) in TARGETS {
        for (name, input) in inputs(&directory(kind, target)) {
            let result = panic::catch_unwind(|| body(&input));
            assert!(result.is_ok(), "fuzz/{kind}/{target}/{name}: see above");
            count += 1;
        }
    }
    count
}

#[test]
fn every_seed_holds_what_its_target_asserts() {
    assert!(replay("seeds") > 100);
}

#[test]
fn nothing_that_fuzzing_once_found_comes_back() {
    replay("findings");
}

#[test]
fn the_committed_seeds_are_those_that_are_made_from_the_vectors() {
    let mut made: BTreeMap<&str, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for (target, name, content) in seeds::seeds() {
        made.entry(target).or_default().insert(name, content);
    }
    for (target, _) in TARGETS {
        let committed = inputs(&directory("seeds", target));
        let made = made.remove(target).unwrap_or_default();
        assert!(committed.keys().eq(made.keys()), "{target}: run cargo run -p downbeat-tests --bin fuzz-seeds");
        for (name, content) in made {
            assert!(committed[&name] == content, "{target}/{name}: run cargo run -p downbeat-tests --bin fuzz-seeds");
        }
    }
    assert!(made.is_empty(), "seeds for targets that do not exist: {:?}", made.keys());
}

#[test]
fn every_target_has_an_entry_point() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let mut names: Vec<String> = inputs(&directory).into_keys().collect();
    names.sort();
    assert_eq!(names, TARGETS.map(|(name, _)| format!("{name}.rs")));
}
