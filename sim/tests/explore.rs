//! The exhaustive search: it finds its end in small scopes, finds bugs that are there, and shows the way to them.

use std::path::Path;

use downbeat_core::cell::Mode;
use downbeat_sim::explore::{Bounds, Layout, Outcome, PROBES, Planted, Probe, Scope, Summary, Trail, search};

fn all_of(scope: &Scope) -> Summary {
    search(scope, Bounds::default(), |_, _| ()).expect("the scope makes sense")
}

fn assert_complete(scope: &Scope) -> Summary {
    let summary = all_of(scope);
    match &summary.outcome {
        Outcome::Complete => assert_eq!(summary.arrive, summary.states, "the run arrives from everywhere: {scope:?}"),
        other => panic!("{scope:?}: {other:#?}"),
    }
    summary
}

fn violation(scope: &Scope) -> Trail {
    match all_of(scope).outcome {
        Outcome::Violated(trail) => *trail,
        other => panic!("{scope:?}: {other:?}"),
    }
}

#[test]
fn no_order_of_deliveries_breaks_a_promise() {
    for layout in [Layout::InOrder, Layout::Split, Layout::Together] {
        let summary = assert_complete(&Scope { layout, crashes: 0, faults: 0, ..Scope::default() });
        for probe in [Probe::FirmExecutes, Probe::FirmConfirms, Probe::BlobsFirst, Probe::Arrived] {
            let way = summary.ways[probe as usize].as_ref();
            assert!(way.is_some(), "{layout:?}: never met: {}", PROBES[probe as usize]);
        }
    }
}

#[test]
fn a_crash_at_any_moment_breaks_no_promise() {
    for mode in [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm] {
        let firm = if mode.follows_firm() { 2 } else { 0 };
        let summary = assert_complete(&Scope { mode, soft: 2, firm, crashes: 1, faults: 0, ..Scope::default() });
        for probe in [Probe::CrashAfterExecute, Probe::CrashWithCommit, Probe::FencedExecute, Probe::LateCommit] {
            let way = summary.ways[probe as usize].as_ref();
            assert!(way.is_some(), "{mode:?}: never met: {}", PROBES[probe as usize]);
        }
    }
}

#[test]
fn one_fault_of_any_kind_at_any_moment_breaks_no_promise() {
    let summary = assert_complete(&Scope { soft: 1, firm: 1, crashes: 0, faults: 1, ..Scope::default() });
    for probe in [Probe::LostInFlight, Probe::RestartAfterExecute, Probe::HostileDropped, Probe::LateExecute] {
        assert!(summary.ways[probe as usize].is_some(), "never met: {}", PROBES[probe as usize]);
    }
}

#[test]
fn an_execution_that_takes_effect_twice_is_found_by_the_shortest_way() {
    let trail = violation(&Scope { planted: Some(Planted::ExecutesTwice), ..Scope::default() });
    let what = trail.violation.clone().expect("a violation");
    assert!(what.starts_with("S5: block 1 is executed twice"), "{what}");
    assert!(trail.steps.len() <= 12, "{} steps", trail.steps.len());
    let last = &trail.steps.last().expect("steps").choice;
    assert!(last.starts_with("request: execute sequencer block 1"), "{last}");
}

#[test]
fn a_rollup_that_does_not_fence_off_old_sessions_is_found_with_a_crash_and_replayed_from_its_file() {
    let scope = Scope { soft: 1, firm: 0, mode: Mode::SoftOnly, faults: 0, ..Scope::default() };
    assert_complete(&scope);
    let trail = violation(&Scope { planted: Some(Planted::TakesOldSessions), ..scope });
    assert!(trail.steps.iter().any(|step| step.choice == "the conductor crashes and starts"), "{trail:#?}");
    let file = toml::to_string(&trail).expect("trails can be written");
    let read: Trail = toml::from_str(&file).expect("and read");
    assert_eq!(read, trail);
    let again = read.replay().expect_err("the violation is still there").to_string();
    assert_eq!(Some(again), trail.violation);
}

#[test]
fn a_search_that_reaches_a_bound_says_so() {
    let bounds = Bounds { states: 100, ..Bounds::default() };
    let summary = search(&Scope::default(), bounds, |_, _| ()).expect("the scope makes sense");
    assert!(matches!(summary.outcome, Outcome::Bounded { waiting } if waiting > 0), "{:?}", summary.outcome);
}

#[test]
fn recorded_ways_can_be_gone_again_and_break_no_promise() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/explored");
    let files: Vec<_> = std::fs::read_dir(folder)
        .expect("tests/explored exists")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(!files.is_empty(), "there are ways to go");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let trail: Trail = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if let Err(violation) = trail.replay() {
            panic!("{}: {}\n{violation}", file.display(), trail.about);
        }
    }
}
