//! Proof that the net holds: deliberate bugs of the core, and the hunt for each with ordinary seeds.
//!
//! Only with the feature `canaries`. Nothing here helps to find a bug: a hunt runs [`Scenario::swarm`] and the double run
//! of the determinism check, as every other run does.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use downbeat_core::{
    canary::{Canary, activate},
    invariant,
};

use crate::{Scenario, Simulation, Violation};

/// One deliberate bug.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub canary: Canary,
    /// Rows of the failure catalogue that it is modelled on.
    pub rows: &'static str,
    /// What it breaks first and foremost. The check that notices may be another one.
    pub breaks: &'static str,
}

/// How a bug was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub seed: u64,
    /// Id of the invariant that was violated, or `panic`.
    pub invariant: String,
    pub detail: String,
}

const fn entry(canary: Canary, rows: &'static str, breaks: &'static str) -> Entry {
    Entry { canary, rows, breaks }
}

/// All of them, by what they break.
pub const ALL: &[Entry] = &[
    entry(Canary::QuorumDividedFirst, "LAT-3", "S1"),
    entry(Canary::RepeatedSignerCounted, "LAT-4", "S1"),
    entry(Canary::SignatureNotChecked, "AUTH-12 AUTH-17", "S1"),
    entry(Canary::ValidatorsNotBound, "AUTH-1 AUTH-4", "S1"),
    entry(Canary::LinksNotFollowed, "AUTH-14 AUTH-16", "S1"),
    entry(Canary::OverlapIgnored, "AUTH-16 AUTH-17", "S1"),
    entry(Canary::NextValidatorsIgnored, "AUTH-1 AUTH-19", "S1"),
    entry(Canary::SoftNotBound, "AUTH-15 LAT-5", "S2"),
    entry(Canary::WrongSetForSkipping, "AUTH-1 AUTH-3", "S1"),
    entry(Canary::RootHashNotCompared, "AUTH-10 AUTH-17", "S1"),
    entry(Canary::TrustingPeriodIgnored, "AUTH-18", "S12"),
    entry(Canary::FutureHeaderTaken, "AUTH-16", "S12"),
    entry(Canary::RememberedBeforeVerified, "AUTH-9 AUTH-12", "S4"),
    entry(Canary::RefusedHeightBarred, "AUTH-9", "S4"),
    entry(Canary::ActedBeforePersisted, "RESTART-7 RESTART-8", "S16"),
    entry(Canary::RecordIgnored, "RESTART-15 AUTH-11", "S16"),
    entry(Canary::WitnessConflictIgnored, "FINAL-16 LAT-5", "S9"),
    entry(Canary::ConflictForgotten, "RESTART-13 FINAL-16", "S9"),
    entry(Canary::CommitOfOtherHeight, "AUTH-4 AUTH-2", "L1"),
    entry(Canary::PrimaryNeverReplaced, "FAULT-1 LAT-14", "L5"),
    entry(Canary::MetadataNotBound, "LAT-2 AUTH-15", "S2"),
    entry(Canary::MetadataMismatchIgnored, "LAT-1", "S2"),
    entry(Canary::PriceFeedLeftOut, "COMPLETE-10 AUTH-7", "S3"),
    entry(Canary::MissingDataIsEmpty, "AUTH-6 COMPLETE-9", "S3"),
    entry(Canary::SoftDataMissingIsEmpty, "AUTH-6 COMPLETE-13", "S3"),
    entry(Canary::FirstCandidateWins, "LAT-2 AUTH-9", "S4"),
    entry(Canary::FirstRecordWins, "AUTH-9 DUP-10", "S4"),
    entry(Canary::RefusalClearsHeight, "AUTH-18 POISON-2", "S4"),
    entry(Canary::SoftHeightSkipped, "ORDER-1 ORDER-2", "S5"),
    entry(Canary::SoftOnFirmParent, "ORDER-5", "S6"),
    entry(Canary::FirmExecutesAgain, "DUP-3 FINAL-1", "S6"),
    entry(Canary::MapFromBlockOne, "RESTART-6", "S7"),
    entry(Canary::FirmPullsSoftBack, "FINAL-2", "S8"),
    entry(Canary::FirmConfirmsByNumber, "LAT-5", "S9"),
    entry(Canary::LookUpNotCompared, "LAT-5 DUP-3", "S9"),
    entry(Canary::AnswersByKind, "DUP-1 DUP-14", "S10"),
    entry(Canary::UnknownOutcomeRepeated, "DUP-8 DUP-14", "S11"),
    entry(Canary::FailedCheckPasses, "FORK-3", "S12"),
    entry(Canary::EchoNotCompared, "LAT-6 FINAL-6", "S13"),
    entry(Canary::ReplyParentNotChecked, "LAT-6 AUTH-14", "S13"),
    entry(Canary::ReplyNumberNotChecked, "DETERM-1", "S13"),
    entry(Canary::JoinerSurvivesSession, "FORK-5 FORK-6", "S14"),
    entry(Canary::CelestiaReadTooEarly, "FORK-15 FORK-22", "S15"),
    entry(Canary::SearchFromLastFirm, "LAT-9", "S16"),
    entry(Canary::JitterFromProcess, "DETERM-2 DETERM-7", "S17"),
    entry(Canary::OldSessionAnswered, "IDENT-4 FAULT-13", "S18"),
    entry(Canary::ForeignRollupTaken, "IDENT-1", "S18"),
    entry(Canary::CelestiaIdentitySkipped, "IDENT-2", "S18"),
    entry(Canary::SoftChainIdIgnored, "IDENT-2 AUTH-13", "S18"),
    entry(Canary::OtherBlockShown, "AUTH-13 AUTH-4", "S18"),
    entry(Canary::SessionEndOneLate, "IDENT-3 HEIGHT-2", "S19"),
    entry(Canary::SoftEndsSession, "IDENT-3", "S19"),
    entry(Canary::NoEndIsEndZero, "FINAL-3 AUTH-11", "S20"),
    entry(Canary::GossipCommitNotChecked, "AUTH-12 AUTH-17", "S4"),
    entry(Canary::GossipDataNotBound, "AUTH-15", "S4"),
    entry(Canary::GossipSeenBeforeVerified, "AUTH-9", "S4"),
    entry(Canary::GossipJudgedBeforeVerified, "AUTH-12", "S12"),
    entry(Canary::GossipStaleTaken, "ORDER-9 DUP-11", "S10"),
    entry(Canary::GossipSilenceTrusted, "ORDER-3 ORDER-13", "L6"),
    entry(Canary::GossipUndecidedAtExit, "CONC-3 CONC-7", "L9"),
    entry(Canary::HeaderErrorFinal, "LAT-7", "L1"),
    entry(Canary::CelestiaCommitNotChecked, "AUTH-6 AUTH-16", "S1"),
    entry(Canary::CelestiaHeaderByHeight, "AUTH-6 AUTH-17", "L1"),
    entry(Canary::DataHashNotChecked, "AUTH-6 COMPLETE-9", "L1"),
    entry(Canary::MissingRowPassed, "COMPLETE-9", "L1"),
    entry(Canary::RowRootNotChecked, "AUTH-12", "L1"),
    entry(Canary::IncompleteRangePassed, "COMPLETE-9", "L1"),
    entry(Canary::WindowNeverMoves, "LAT-10 HEIGHT-1", "L1"),
    entry(Canary::ValidatorsOfHeightBefore, "AUTH-1 AUTH-3", "L1"),
    entry(Canary::SpreadOneTooSmall, "HEIGHT-8 COMPLETE-2", "L2"),
    entry(Canary::DeadlineForgotten, "LAT-14 FAULT-14", "L3"),
    entry(Canary::OneBadEntryDropsList, "LAT-13 COMPLETE-19", "L4"),
    entry(Canary::ManyBlobsDropHeight, "DUP-2", "L4"),
    entry(Canary::BadBlobParks, "POISON-3 POISON-6", "L4"),
    entry(Canary::TransientParks, "LAT-8 FAULT-7", "L5"),
    entry(Canary::HeadAskedOnce, "ORDER-3 FAULT-1", "L6"),
    entry(Canary::NoEndIsEndZero, "RESTART-3 FORK-7", "L7"),
    entry(Canary::RetryAtOnce, "FAULT-9 FAULT-12", "L8"),
    entry(Canary::NoJitter, "FAULT-9", "L8"),
    entry(Canary::PendingNeverRemoved, "LAT-11 POISON-17", "L8"),
    entry(Canary::SpreadIgnored, "POISON-1", "L8"),
    entry(Canary::StopIgnoresInFlight, "CONC-6 FAULT-31", "L9"),
    entry(Canary::IdentityAskedOnce, "RESTART-5 FAULT-25", "L10"),
];

/// Invariants that no canary breaks, and why.
pub const WITHOUT: &[(&str, &str)] = &[];

/// The first seed on which an ordinary check notices that `canary` is active. A seed that fails without it as well shows
/// nothing and does not count.
pub fn hunt(canary: Canary, seeds: Range<u64>) -> Option<Found> {
    seeds.into_iter().find_map(|seed| {
        activate(Some(canary));
        let found = check(seed);
        activate(None);
        found.filter(|_| check(seed).is_none())
    })
}

/// What an ordinary check says of one seed with the code as it is.
pub fn check(seed: u64) -> Option<Found> {
    let found = |violation: Violation| {
        Some(Found { seed, invariant: violation.invariant.to_owned(), detail: violation.detail })
    };
    let run = || catch_unwind(AssertUnwindSafe(|| Scenario::swarm(seed).run()));
    let hash = |simulation: &Simulation| (simulation.conductor().state_hash(), simulation.now());
    let first = match run() {
        Ok(Ok(simulation)) => hash(&simulation),
        Ok(Err(violation)) => return found(violation),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            return Some(Found { seed, invariant: "panic".to_owned(), detail: text.to_owned() });
        }
    };
    // The determinism check runs each seed twice; here every eighth has to do.
    if seed.is_multiple_of(8) {
        let second = run().ok()?.ok().map(|simulation| hash(&simulation));
        if second != Some(first) {
            let detail = format!("the run ended as {first:?} and, once more, as {second:?}");
            return found(Violation::new("S17", detail));
        }
    }
    None
}

/// Hunts for every canary with `jobs` threads. In the order of [`ALL`], each canary once.
pub fn hunt_all(seeds: &Range<u64>, jobs: usize, only: Option<&str>) -> Vec<(Entry, Option<Found>)> {
    let mut entries: Vec<Entry> = Vec::new();
    for entry in ALL {
        let is_known = entries.iter().any(|known| known.canary == entry.canary);
        let is_wanted = only.is_none_or(|only| format!("{:?}", entry.canary) == only);
        if !is_known && is_wanted {
            entries.push(*entry);
        }
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Option<Found>>>> = Mutex::new(vec![None; entries.len()]);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = hunt(entry.canary, seeds.clone());
                    eprintln!("{:?}: {}", entry.canary, found.as_ref().map_or("not found", |found| &found.invariant));
                    let index = entries.iter().position(|other| other.canary == entry.canary);
                    if let (Some(index), Ok(mut results)) = (index, results.lock()) {
                        results[index] = Some(found);
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_default();
    entries.into_iter().zip(results).map(|(entry, result)| (entry, result.flatten())).collect()
}

/// The results as a table in Markdown.
pub fn table(results: &[(Entry, Option<Found>)], first: u64) -> String {
    use std::fmt::Write as _;
    let mut text = "| Canary | Rows | Breaks | Noticed as | Seeds |\n|---|---|---|---|---|\n".to_owned();
    for (entry, found) in results {
        let (noticed, seeds) = match found {
            Some(found) => (found.invariant.as_str(), (found.seed - first + 1).to_string()),
            None => ("**not found**", String::new()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {:?} | {} | {} | {noticed} | {seeds} |", entry.canary, entry.rows, entry.breaks);
    }
    text
}

/// How many seeds it took in the middle; none if nothing was found.
pub fn median(results: &[(Entry, Option<Found>)], first: u64) -> Option<u64> {
    let mut seeds: Vec<u64> = results.iter().filter_map(|(_, found)| Some(found.as_ref()?.seed - first + 1)).collect();
    seeds.sort_unstable();
    seeds.get(seeds.len() / 2).copied()
}

/// Invariants that neither a canary breaks nor [`WITHOUT`] excuses.
pub fn unproven() -> Vec<&'static str> {
    let ids = invariant::ALL.iter().map(|invariant| invariant.id);
    ids.filter(|id| !ALL.iter().any(|entry| entry.breaks == *id) && !WITHOUT.iter().any(|(without, _)| without == id))
        .collect()
}
