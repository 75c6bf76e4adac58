//! Which Celestia headers are trusted: the light client of Celestia, the hashes that follow from what it has reached, and
//! the headers that are fetched on the way. What lies in a block is not its business.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    command::HEADERS_MAX,
    ids::CelestiaHeight,
    light::{Client, HeaderId, Keeper, Refusal, SignedBlock, Trust, TrustedRecord, TrustedState, Wish},
    limits::Limits,
    record::Record,
    retry::Attempt,
    time::Timestamp,
    verified::Verified,
};

/// Hashes kept, and how far above what is needed all of them are.
const KNOWN_MAX: usize = 4_096;
const KNOWN_NEAR: u64 = 2_048;

/// How long blocks that were fetched wait for the next one above them, so that one commit proves all of them.
const TOP_WAIT: Duration = Duration::from_millis(50);

/// Trust in Celestia's headers.
#[derive(Clone, Debug)]
pub(crate) struct Trusting {
    pub(crate) client: Client,
    /// With trust on first use: what lies lower is too old to begin with.
    pub(crate) begins_at_head: bool,
    keeper: Keeper,
    /// What headers have to hash to. Where a header is trusted, so is the hash below it.
    known: BTreeMap<CelestiaHeight, Verified<HeaderId>>,
    /// Headers on the way to others.
    pub(crate) steps: BTreeMap<CelestiaHeight, Step>,
    /// Headers that lead down from a trusted hash, by its height.
    pub(crate) links: BTreeMap<CelestiaHeight, Links>,
    /// The header whose commit is being checked: one at a time, so that what comes meanwhile is checked together.
    pub(crate) checking: Option<CelestiaHeight>,
    /// Blocks wait until then for one above them.
    pub(crate) waits_until: Option<Timestamp>,
}

/// A header on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) attempt: Attempt,
    /// It has come.
    pub(crate) header: Option<Box<SignedBlock>>,
    /// Why it did not come, or was not believed.
    pub(crate) problem: Option<String>,
}

/// Headers on their way down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    pub(crate) attempt: Attempt,
    pub(crate) problem: Option<String>,
}

/// Blocks that have come, one above the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: CelestiaHeight,
    pub(crate) top: CelestiaHeight,
    /// When the lowest one came.
    pub(crate) since: Timestamp,
    /// The block above may come soon.
    pub(crate) grows: bool,
}

/// What is to be done so that blocks are trusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    /// A header that is there and whose commit is to be checked, and the lowest below it that is to be linked to it.
    pub(crate) checks: Vec<(CelestiaHeight, CelestiaHeight)>,
    /// Headers that are to be fetched, to be checked themselves.
    pub(crate) steps: BTreeSet<CelestiaHeight>,
    /// Headers that are to be fetched, from a height down from a trusted one.
    pub(crate) links: BTreeMap<CelestiaHeight, CelestiaHeight>,
    pub(crate) expired: Option<Refusal>,
}

impl Trusting {
    /// As configured, or where an earlier life got to. None with `celestia_trust = "endpoint"`.
    pub(crate) fn restored(limits: &Limits, records: &[Record]) -> Option<Self> {
        if limits.celestia_trust == Trust::Endpoint {
            return None;
        }
        let record = records.iter().find_map(|record| match record {
            Record::CelestiaHeader(record) => Some(record),
            _ => None,
        });
        let (options, root) = (limits.celestia.options(), &limits.celestia.root);
        let (client, keeper) = Keeper::restore(options, root, limits.validators, record);
        let ids: Vec<_> = client.newest().into_iter().flat_map(TrustedState::ids).collect();
        let mut trusting = Self {
            client,
            begins_at_head: false,
            keeper,
            known: BTreeMap::new(),
            steps: BTreeMap::new(),
            links: BTreeMap::new(),
            checking: None,
            waits_until: None,
        };
        trusting.learn(ids);
        Some(trusting)
    }

    /// What the header at `height` is, if that is known.
    pub(crate) fn id(&self, height: CelestiaHeight) -> Option<&Verified<HeaderId>> {
        self.known.get(&height)
    }

    pub(crate) fn learn(&mut self, ids: impl IntoIterator<Item = Verified<HeaderId>>) {
        self.known.extend(ids.into_iter().map(|id| (CelestiaHeight(id.height()), id)));
    }

    /// A header is not needed by itself any more. One that is on its way counts until it has come or failed.
    pub(crate) fn forget_step(&mut self, height: CelestiaHeight) {
        if self.steps.get(&height).is_some_and(|step| !step.attempt.is_in_flight()) {
            self.steps.remove(&height);
        }
    }

    /// The lowest hash that is known at `height` or above.
    fn anchor(&self, height: CelestiaHeight) -> Option<CelestiaHeight> {
        self.known.range(height..).next().map(|(height, _)| *height)
    }

    /// What `runs`, lowest first, need. `head` is followed as well when the newest header grows old.
    pub(crate) fn way(&mut self, runs: &[Run], head: CelestiaHeight, length_max: usize, now: Timestamp) -> Way {
        let mut way = Way::default();
        self.waits_until = None;
        if self.begins_at_head && self.client.newest().is_none() && !runs.is_empty() {
            way.steps.insert(head);
            return way;
        }
        for run in runs {
            let length = usize::try_from(run.top.0 - run.first.0 + 1).unwrap_or(usize::MAX);
            let ripe = run.since.after(TOP_WAIT);
            if run.grows && length < length_max && now < ripe {
                self.waits_until = Some(self.waits_until.map_or(ripe, |until| until.min(ripe)));
                continue;
            }
            match self.client.wish(run.top.0, now) {
                Wish::Known => {
                    let ids: Vec<_> = self.client.at(run.top.0).into_iter().flat_map(TrustedState::ids).collect();
                    self.learn(ids);
                }
                Wish::Block(height) => {
                    let height = CelestiaHeight(height);
                    let holds = |run: &Run| run.first <= height && height <= run.top;
                    if holds(run) {
                        way.checks.push((height, run.first));
                    } else if !runs.iter().any(holds) {
                        // Below, or a root that lies above.
                        way.steps.insert(height);
                    }
                }
                Wish::Links { below } => {
                    // What is kept may reach lower than the states.
                    if self.anchor(run.top).is_none() {
                        let ids: Vec<_> = self.client.at(below).into_iter().flat_map(TrustedState::ids).collect();
                        self.learn(ids);
                    }
                    if let Some(anchor) = self.anchor(run.top.next()) {
                        let lowest = CelestiaHeight(anchor.0.saturating_sub(HEADERS_MAX - 1));
                        way.links.insert(anchor, lowest.max(run.top.next()));
                    }
                }
                Wish::Expired(refusal) => way.expired = Some(refusal),
            }
        }
        if self.client.needs_refreshing(head.0, now)
            && let Wish::Block(height) = self.client.wish(head.0, now)
        {
            way.steps.insert(CelestiaHeight(height));
        }
        // The lowest of several that could be first decides.
        if self.client.newest().is_none() {
            way.checks.truncate(1);
        }
        way
    }

    /// Why trust does not get on, if it does not: after how many tries, and the reason.
    pub(crate) fn problem(&self) -> Option<(u32, &str)> {
        let steps = self.steps.values().map(|step| (step.attempt.number(), step.problem.as_deref()));
        let links = self.links.values().map(|links| (links.attempt.number(), links.problem.as_deref()));
        steps.chain(links).find_map(|(number, problem)| Some((number, problem?)))
    }

    /// What is to be persisted now.
    pub(crate) fn record(&mut self, now: Timestamp, limits: &Limits, is_last: bool) -> Option<TrustedRecord> {
        self.keeper.record(self.client.newest()?, now, limits.persist_period, is_last)
    }

    /// Keeps the hashes in bounds: those below `lowest` go first, then every other one far above it.
    pub(crate) fn make_room(&mut self, lowest: CelestiaHeight) {
        if self.known.len() <= KNOWN_MAX {
            return;
        }
        let newest = self.known.last_key_value().map(|(_, id)| id.clone());
        self.known = self.known.split_off(&lowest);
        if self.known.len() > KNOWN_MAX {
            let far = self.known.range(lowest.plus(KNOWN_NEAR)..).map(|(height, _)| *height);
            let far: Vec<_> = far.skip(1).step_by(2).collect();
            for height in far {
                self.known.remove(&height);
            }
            while self.known.len() > KNOWN_MAX {
                self.known.pop_last();
            }
        }
        if self.known.is_empty() {
            self.learn(newest);
        }
    }

    /// How many hashes are kept, and how many there may be.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.known.len(), KNOWN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ids::{BlockHash, CommandId},
        light::{LightBlock, RootSetting, RootedTrust},
        sequencer::ValidatorSet,
        testing::block,
    };

    const NOW: Timestamp = Timestamp(1_000);

    fn trusting(root: RootSetting) -> Trusting {
        let celestia =
            RootedTrust { root, trusting_period: Duration::from_hours(24 * 365 * 100), ..Default::default() };
        let limits = Limits { celestia_trust: Trust::Consensus, celestia, ..Limits::default() };
        Trusting::restored(&limits, &[]).expect("with trust in consensus")
    }

    fn trust(trusting: &mut Trusting, height: u64) {
        let made = block(height, &[]);
        let set = Arc::new(ValidatorSet::new(made.validators, 100).expect("a set"));
        let light = LightBlock::unchecked(made.signed, set);
        trusting.client.accept(&light);
        trusting.learn(light.ids());
    }

    fn run(first: u64, top: u64) -> Run {
        Run { first: CelestiaHeight(first), top: CelestiaHeight(top), since: NOW, grows: false }
    }

    type Pairs = Vec<(u64, u64)>;

    /// Checks, steps and links for the runs, with the head at 1000 and runs of at most four heights.
    fn way(trusting: &mut Trusting, runs: &[Run], now: Timestamp) -> (Pairs, Vec<u64>, Pairs) {
        let way = trusting.way(runs, CelestiaHeight(1_000), 4, now);
        assert_eq!(way.expired, None);
        let pairs = |(one, other): (CelestiaHeight, CelestiaHeight)| (one.0, other.0);
        (
            way.checks.into_iter().map(pairs).collect(),
            way.steps.into_iter().map(|height| height.0).collect(),
            way.links.into_iter().map(pairs).collect(),
        )
    }

    #[test]
    fn without_proofs_there_is_nobody_to_trust() {
        assert!(Trusting::restored(&Limits::default(), &[]).is_none());
    }

    #[test]
    fn trust_begins_with_the_first_header_that_comes_or_with_the_root_that_is_fetched() {
        let mut first_use = trusting(RootSetting::FirstUse);
        assert_eq!(way(&mut first_use, &[run(7, 9), run(20, 20)], NOW), (vec![(9, 7)], vec![], vec![]), "the lowest");
        first_use.begins_at_head = true;
        assert_eq!(way(&mut first_use, &[run(7, 9)], NOW), (vec![], vec![1_000], vec![]));
        assert_eq!(way(&mut first_use, &[], NOW), (vec![], vec![], vec![]), "nobody needs it");
        let mut rooted = trusting(RootSetting::Header { height: 3, hash: BlockHash([1; 32]) });
        assert_eq!(way(&mut rooted, &[run(7, 9)], NOW), (vec![], vec![3], vec![]));
        let mut rooted_above = trusting(RootSetting::Header { height: 30, hash: BlockHash([1; 32]) });
        assert_eq!(way(&mut rooted_above, &[run(7, 9)], NOW), (vec![], vec![30], vec![]), "it is in none of them");
        let runs = [run(7, 9), run(28, 30)];
        assert_eq!(way(&mut rooted_above, &runs, NOW), (vec![(30, 28)], vec![], vec![]), "it is there");
    }

    #[test]
    fn one_commit_is_checked_for_a_run_and_one_in_between_if_that_is_too_far() {
        let mut trusting = trusting(RootSetting::FirstUse);
        trust(&mut trusting, 5);
        assert_eq!(way(&mut trusting, &[run(6, 9)], NOW), (vec![(9, 6)], vec![], vec![]));
        assert!(trusting.client.refuse(9, &Refusal::TooFar { trusted: 5, counted: 0, total: 1 }));
        assert_eq!(way(&mut trusting, &[run(6, 9)], NOW), (vec![(7, 6)], vec![], vec![]), "a block of the run itself");
        assert!(trusting.client.refuse(30, &Refusal::TooFar { trusted: 5, counted: 0, total: 1 }));
        assert_eq!(way(&mut trusting, &[run(30, 30)], NOW), (vec![], vec![17], vec![]), "a header alone");
    }

    #[test]
    fn a_run_that_grows_waits_for_its_top_until_it_is_long_or_late() {
        let mut trusting = trusting(RootSetting::FirstUse);
        trust(&mut trusting, 5);
        let (nothing, late) = ((vec![], vec![], vec![]), NOW.after(TOP_WAIT));
        let growing = |first, top| Run { grows: true, ..run(first, top) };
        assert_eq!(way(&mut trusting, &[growing(6, 8)], NOW), nothing);
        assert_eq!(trusting.waits_until, Some(late), "and not for ever");
        assert_eq!(way(&mut trusting, &[growing(6, 8)], late).0, [(8, 6)]);
        assert_eq!(trusting.waits_until, None);
        assert_eq!(way(&mut trusting, &[growing(6, 9)], NOW).0, [(9, 6)], "as long as what is read together");
    }

    #[test]
    fn what_lies_below_is_linked_twenty_headers_at_a_time() {
        let mut trusting = trusting(RootSetting::FirstUse);
        trust(&mut trusting, 100);
        // The trusted header itself comes first: it names the hash below it.
        assert_eq!(way(&mut trusting, &[run(50, 52)], NOW).2, [(100, 81)]);
        let id = |height: u64| block(height, &[]).trusted();
        assert_eq!(trusting.id(CelestiaHeight(100)).map(|known| known.hash()), Some(id(100).hash()));
        assert_eq!(way(&mut trusting, &[run(94, 96)], NOW).2, [(100, 97)], "only down to the top of the run");
        assert!(trusting.id(CelestiaHeight(98)).is_none());
    }

    #[test]
    fn an_old_state_leads_no_further_and_the_head_is_followed_before_that() {
        let mut limits = Limits { celestia_trust: Trust::Consensus, ..Limits::default() };
        limits.celestia.trusting_period = Duration::from_hours(3);
        let mut trusting = Trusting::restored(&limits, &[]).expect("with trust in consensus");
        trust(&mut trusting, 5);
        let made = trusting.client.newest().map(|state| state.time().unix_timestamp_nanos()).unwrap_or_default();
        let made = Timestamp(u64::try_from(made).expect("after 1970"));
        assert_eq!(way(&mut trusting, &[], made.after(Duration::from_mins(59))).1, [] as [u64; 0]);
        assert_eq!(way(&mut trusting, &[], made.after(Duration::from_mins(61))).1, [1_000]);
        let late = trusting.way(&[run(7, 7)], CelestiaHeight(9), 4, made.after(Duration::from_hours(3)));
        assert!(matches!(late.expired, Some(Refusal::Expired { height: 5, .. })), "{:?}", late.expired);
    }

    #[test]
    fn hashes_are_kept_in_bounds_and_the_way_down_is_not_forgotten() {
        let mut trusting = trusting(RootSetting::FirstUse);
        trust(&mut trusting, 100);
        let any = trusting.id(CelestiaHeight(100)).cloned().expect("learnt");
        trusting.known.extend((1..=3 * KNOWN_MAX as u64).map(|height| (CelestiaHeight(height), any.clone())));
        trusting.make_room(CelestiaHeight(500));
        let (held, most) = trusting.held();
        assert!(held <= most && held > most / 2, "{held} of {most}");
        assert!(
            (500..500 + KNOWN_NEAR).all(|height| trusting.id(CelestiaHeight(height)).is_some()),
            "all that is near"
        );
        assert!(trusting.id(CelestiaHeight(499)).is_none());
        trusting.known.extend((1..=2 * KNOWN_MAX as u64).map(|height| (CelestiaHeight(height), any.clone())));
        trusting.make_room(CelestiaHeight(1 << 40));
        assert_eq!(trusting.held().0, 1, "there is always one to go down from");
    }

    #[test]
    fn the_next_life_begins_where_this_one_got_to_and_a_record_of_the_sequencer_is_none_of_celestia() {
        let limits = Limits { celestia_trust: Trust::Consensus, ..Limits::default() };
        let mut first_life = trusting(RootSetting::FirstUse);
        assert!(first_life.record(NOW, &limits, true).is_none(), "nothing is trusted");
        trust(&mut first_life, 5);
        let record = first_life.record(NOW, &limits, false).expect("the first is kept at once");
        trust(&mut first_life, 9);
        assert!(first_life.record(NOW, &limits, false).is_none(), "later ones now and then");
        let last = first_life.record(NOW, &limits, true).expect("the last one in any case");
        let records = [Record::SequencerHeader(last), Record::CelestiaHeader(record)];
        let next_life = Trusting::restored(&limits, &records).expect("with trust in consensus");
        assert_eq!(next_life.client.heights_from(0).collect::<Vec<_>>(), [5]);
        assert_eq!(
            next_life.id(CelestiaHeight(5)).map(|id| id.hash()),
            first_life.id(CelestiaHeight(5)).map(|id| id.hash())
        );
    }

    #[test]
    fn a_header_that_nobody_needs_is_forgotten_unless_it_is_on_its_way() {
        let mut trusting = trusting(RootSetting::FirstUse);
        for height in [7, 8] {
            trusting.steps.insert(CelestiaHeight(height), Step::default());
        }
        let started = trusting.steps.get_mut(&CelestiaHeight(8)).expect("inserted");
        started.attempt.started(CommandId { incarnation: 1, ordinal: 1 });
        for height in [7, 8, 9] {
            trusting.forget_step(CelestiaHeight(height));
        }
        assert_eq!(trusting.steps.keys().map(|height| height.0).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn why_trust_does_not_get_on_is_told_with_the_number_of_tries() {
        let mut trusting = trusting(RootSetting::FirstUse);
        trusting.steps.insert(CelestiaHeight(7), Step::default());
        assert_eq!(trusting.problem(), None);
        let mut links = Links { problem: Some("no link".to_owned()), ..Links::default() };
        links.attempt.failed(NOW, Duration::ZERO);
        links.attempt.failed(NOW, Duration::ZERO);
        trusting.links.insert(CelestiaHeight(5), links);
        assert_eq!(trusting.problem(), Some((3, "no link")), "two have failed");
        trusting.steps.entry(CelestiaHeight(7)).or_default().problem = Some("no header".to_owned());
        assert_eq!(trusting.problem(), Some((1, "no header")));
    }
}
