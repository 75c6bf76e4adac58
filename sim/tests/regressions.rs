//! Replays every scenario in `tests/regressions/`: each one once showed a bug.

use std::path::Path;

use downbeat_sim::token::Loaded;

#[test]
fn no_bug_comes_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/regressions");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("tests/regressions exists")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "there are scenarios to replay");
    let failed: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let scenario = Loaded::read(file).unwrap_or_else(|error| panic!("{error}"));
            let violation = scenario.run().err()?;
            Some(format!("{}\n{violation}", file.display()))
        })
        .collect();
    assert!(failed.is_empty(), "{} of {} broke a promise\n\n{}", failed.len(), files.len(), failed.join("\n\n"));
}
