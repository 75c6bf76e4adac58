//! Breadth first through all situations of a scope.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use super::{
    PROBES, Scope, Trail,
    canonical::Digest,
    setting::Setting,
    state::{Choice, Log, State},
};
use crate::Violation;

/// When a search ends that did not find its end.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Situations met.
    pub states: usize,
    pub time: Duration,
    /// Situations that wait to be gone on from. Each takes some 25 kilobytes, while one that was gone on from takes less
    /// than 200 bytes. With more than this, the search goes on from the newest instead of the oldest until there are
    /// fewer: it stays complete, but what it finds may not be the shortest.
    pub waiting: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { states: 20_000_000, time: Duration::from_hours(24), waiting: 100_000 }
    }
}

/// What a search did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Situations that differ.
    pub states: usize,
    pub transitions: usize,
    /// Choices from the beginning to the farthest situation, on the way on which it was met first.
    pub depth: u32,
    pub time: Duration,
    /// Most situations that waited at the same time.
    pub waiting_most: usize,
    /// For each of [`super::PROBES`], the shortest way on which it was reached.
    pub ways: Vec<Option<Trail>>,
    /// Situations from which the run was seen to arrive when everything is delivered.
    pub arrive: usize,
    pub outcome: Outcome,
}

/// How a search ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Every situation of the scope was met and keeps every promise.
    Complete,
    /// A bound was reached; so many situations were met and not gone on from.
    Bounded {
        waiting: usize,
    },
    Violated(Box<Trail>),
}

/// Digests are as good as random already.
#[derive(Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(8) {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }
}

/// How a situation was met first, and what follows it.
#[derive(Clone, Copy)]
struct Visit {
    from: u32,
    choice: Option<Choice>,
    depth: u32,
    /// The situation that follows by the ordinary choice.
    ordinary: u32,
    has_arrived: bool,
}

const NONE: u32 = u32::MAX;

struct Search<'a> {
    setting: &'a Setting,
    visits: Vec<Visit>,
    known: HashMap<Digest, u32, BuildHasherDefault<Unhashed>>,
    waiting: VecDeque<(u32, State)>,
    log: Log,
    /// For each probe, the situation and the choice that first reached it.
    reached: Vec<Option<(u32, Option<Choice>)>>,
}

/// Goes through `scope` until everything was met, a promise is broken, or a bound is reached. `progress` is told the
/// numbers of situations met and waiting, now and then.
///
/// # Errors
/// If the scope makes no sense.
pub fn search(scope: &Scope, bounds: Bounds, mut progress: impl FnMut(usize, usize)) -> Result<Summary, String> {
    let setting = Setting::new(scope)?;
    let started = Instant::now();
    let mut search = Search {
        setting: &setting,
        visits: Vec::new(),
        known: HashMap::default(),
        waiting: VecDeque::new(),
        log: Log::default(),
        reached: vec![None; PROBES.len()],
    };
    let mut summary = Summary {
        states: 0,
        transitions: 0,
        depth: 0,
        time: Duration::ZERO,
        waiting_most: 0,
        ways: Vec::new(),
        arrive: 0,
        outcome: Outcome::Complete,
    };
    let mut broken = search.begin().err();
    let mut choices = Vec::new();
    while broken.is_none() {
        let next =
            if search.waiting.len() > bounds.waiting { search.waiting.pop_back() } else { search.waiting.pop_front() };
        let Some((index, state)) = next else { break };
        state.choices(&setting, &mut choices);
        for (position, choice) in choices.iter().enumerate() {
            summary.transitions += 1;
            if let Err(violation) = search.go(index, &state, *choice, position == 0) {
                broken = Some((violation, index, Some(*choice)));
                break;
            }
        }
        summary.waiting_most = summary.waiting_most.max(search.waiting.len());
        if summary.transitions % 4_096 < choices.len() {
            progress(search.visits.len(), search.waiting.len());
            if search.visits.len() >= bounds.states || started.elapsed() >= bounds.time {
                summary.outcome = Outcome::Bounded { waiting: search.waiting.len() };
                break;
            }
        }
    }
    if broken.is_none() {
        (summary.arrive, broken) = search.arrivals();
    }
    if let Some((violation, index, choice)) = broken {
        let path = search.path(index).into_iter().chain(choice);
        summary.outcome = Outcome::Violated(Box::new(Trail::new(&setting, path, Some(&violation))));
    }
    summary.states = search.visits.len();
    summary.depth = search.visits.iter().map(|visit| visit.depth).max().unwrap_or_default();
    summary.time = started.elapsed();
    let way = |reached: &Option<(u32, Option<Choice>)>| {
        reached.map(|(index, choice)| Trail::new(&setting, search.path(index).into_iter().chain(choice), None))
    };
    summary.ways = search.reached.iter().map(way).collect();
    Ok(summary)
}

/// A broken promise: after which situation, and by which choice.
type Broken = (Violation, u32, Option<Choice>);

impl Search<'_> {
    fn begin(&mut self) -> Result<(), Broken> {
        let at_start = |violation| (violation, 0, None);
        let state = State::first(self.setting, &mut self.log).map_err(at_start)?;
        self.meet(NONE, None, state).map(|_| ()).map_err(at_start)
    }

    /// Makes a choice, and meets what follows.
    fn go(&mut self, index: u32, state: &State, choice: Choice, is_ordinary: bool) -> Result<(), Violation> {
        let known = self.log.probes;
        let next = state.after(choice, self.setting, &mut self.log)?;
        let next = self.meet(index, Some(choice), next)?;
        for probe in self.log.probes.beyond(known) {
            if let Some(reached) = self.reached.get_mut(probe) {
                *reached = Some((index, Some(choice)));
            }
        }
        if is_ordinary && let Some(visit) = usize::try_from(index).ok().and_then(|index| self.visits.get_mut(index)) {
            visit.ordinary = next;
        }
        Ok(())
    }

    /// The number of a situation, which is checked and put on the list if it is new.
    fn meet(&mut self, from: u32, choice: Option<Choice>, state: State) -> Result<u32, Violation> {
        let new = u32::try_from(self.visits.len()).unwrap_or(NONE);
        let index = *self.known.entry(state.digest()).or_insert(new);
        if index != new {
            return Ok(index);
        }
        state.check(self.setting, &mut self.log)?;
        let depth = self.visit(from).map_or(0, |visit| visit.depth + 1);
        let has_arrived = state.has_arrived(self.setting);
        self.visits.push(Visit { from, choice, depth, ordinary: NONE, has_arrived });
        self.waiting.push_back((new, state));
        Ok(new)
    }

    fn visit(&self, index: u32) -> Option<&Visit> {
        self.visits.get(usize::try_from(index).ok()?)
    }

    /// Choices that lead to a situation.
    fn path(&self, index: u32) -> Vec<Choice> {
        let mut path = Vec::new();
        let mut at = index;
        while let Some(visit) = self.visit(at) {
            path.extend(visit.choice);
            at = visit.from;
        }
        path.reverse();
        path
    }

    /// L1, L2: from each situation, the ordinary choices lead to where everything is soft and firm. Ordinary choices
    /// lead from situation to situation, so this is a walk over what was met. Where it leaves that, which happens only
    /// if a bound was reached, nothing is known.
    fn arrivals(&self) -> (usize, Option<Broken>) {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Unknown,
            OnThisWalk,
            Arrives,
            Open,
        }
        let mut marks = vec![Mark::Unknown; self.visits.len()];
        for start in 0..self.visits.len() {
            let mut walk = Vec::new();
            let mut at = start;
            let end = loop {
                let (Some(mark), Some(visit)) = (marks.get_mut(at), self.visits.get(at)) else { break Mark::Open };
                match *mark {
                    Mark::Unknown if visit.has_arrived => {
                        *mark = Mark::Arrives;
                        break Mark::Arrives;
                    }
                    Mark::Unknown => {
                        *mark = Mark::OnThisWalk;
                        walk.push(at);
                        at = usize::try_from(visit.ordinary).unwrap_or(usize::MAX);
                    }
                    Mark::OnThisWalk => {
                        let detail = "everything is delivered, and the run goes round without arriving".to_owned();
                        let index = u32::try_from(at).unwrap_or(NONE);
                        return (0, Some((Violation { invariant: "L1", detail }, index, None)));
                    }
                    known => break known,
                }
            };
            for index in walk {
                if let Some(mark) = marks.get_mut(index) {
                    *mark = end;
                }
            }
        }
        (marks.iter().filter(|mark| **mark == Mark::Arrives).count(), None)
    }
}
