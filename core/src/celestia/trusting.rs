//! Which Celestia headers are trusted: the light client of Celestia, the hashes that follow from what it has reached, and
//! the headers that are fetched on the way. What lies in a block is not its business.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    command::HEADERS_MAX,
    ids::CelestiaHeight,
    light::{Client, HeaderId, Keeper, Refusal, SignedBlock, Trust, TrustedRecord, Wish},
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
            Record::SequencerHeader(_) | Record::SequencerConflict(_) => None,
        });
        let (options, root) = (limits.celestia.options(), &limits.celestia.root);
        let (client, keeper) = Keeper::restore(options, root, limits.validators, record);
        let ids: Vec<_> = client.newest().into_iter().flat_map(|state| state.ids()).collect();
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
                    let ids: Vec<_> = self.client.at(run.top.0).into_iter().flat_map(|state| state.ids()).collect();
                    self.learn(ids);
                }
                Wish::Block(height) if height >= run.first.0 => way.checks.push((CelestiaHeight(height), run.first)),
                Wish::Block(height) => {
                    way.steps.insert(CelestiaHeight(height));
                }
                Wish::Links { below } => {
                    // What is kept may reach lower than the states.
                    if self.anchor(run.top).is_none() {
                        let ids: Vec<_> = self.client.at(below).into_iter().flat_map(|state| state.ids()).collect();
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
        self.keeper.record(&self.client, now, limits.persist_period, is_last)
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
