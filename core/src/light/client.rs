//! The machine that leads from the root of trust to any height. It says what it needs next and is told what was found;
//! who is asked, when, and how often, is not its business.

use std::collections::BTreeMap;

use super::verify::{Check, LightBlock, Options, Refusal, TrustedState};
use crate::{ids::BlockHash, time::Timestamp, verified::Verified};

/// What is trusted before anything was verified.
#[derive(Clone, Debug, Default)]
pub enum Root {
    /// A header that somebody trustworthy named.
    Header { height: u64, hash: BlockHash },
    /// What the chain began with, or what an earlier run of this process verified.
    State(Box<TrustedState>),
    /// Whatever comes first.
    #[default]
    FirstUse,
}

/// What is needed to trust a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: it is among the states, see [`Client::at`].
    Known,
    /// Header, commit and validators of this height, to be verified by what [`Client::check`] says. Not always the
    /// height in question: the way may lead through others.
    Block(u64),
    /// Headers below the trusted one at this height, down to the one in question, by their hashes.
    Links { below: u64 },
    /// Nothing more can be trusted without a newer root.
    Expired(Refusal),
}

/// Trusted states kept.
const STATES: usize = 16;
/// Heights remembered as too far.
const TOO_FAR: usize = 256;

/// A light client of one chain.
#[derive(Clone, Debug)]
pub struct Client {
    options: Options,
    root: Root,
    states: BTreeMap<u64, TrustedState>,
    /// Heights that are too far from the state at a height; nothing is remembered about their headers.
    too_far: BTreeMap<u64, u64>,
}

impl Client {
    pub fn new(options: Options, root: Root) -> Self {
        let states = match &root {
            Root::State(state) => BTreeMap::from([(state.height(), state.as_ref().clone())]),
            Root::Header { .. } | Root::FirstUse => BTreeMap::new(),
        };
        Self { options, root, states, too_far: BTreeMap::new() }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The highest state that is trusted.
    pub fn newest(&self) -> Option<&TrustedState> {
        self.states.values().next_back()
    }

    /// The lowest state above `height`: what lies between can be linked to it.
    pub fn above(&self, height: u64) -> Option<&TrustedState> {
        self.states.range(height.saturating_add(1)..).next().map(|(_, state)| state)
    }

    /// Heights of the states from `lowest` on, lowest first.
    pub fn heights_from(&self, lowest: u64) -> impl Iterator<Item = u64> + '_ {
        self.states.range(lowest..).map(|(height, _)| *height)
    }

    /// The state at `height`.
    pub fn at(&self, height: u64) -> Option<&TrustedState> {
        self.states.get(&height)
    }

    /// What has to be got so that `target` will be trusted.
    pub fn wish(&self, target: u64, now: Timestamp) -> Wish {
        let Some(newest) = self.newest() else {
            return Wish::Block(match self.root {
                Root::Header { height, .. } => height,
                Root::State(_) | Root::FirstUse => target,
            });
        };
        if self.states.contains_key(&target) {
            return Wish::Known;
        }
        match (self.base(target, now), self.above(target)) {
            (Some(base), _) => Wish::Block(self.on_the_way(base.height(), target)),
            (None, Some(above)) => Wish::Links { below: above.height() },
            (None, None) => {
                let age = now.0 / 1_000_000_000;
                let age = age.saturating_sub(u64::try_from(newest.time().unix_timestamp()).unwrap_or_default());
                let (height, time) = (newest.height(), newest.time().to_rfc3339());
                Wish::Expired(Refusal::Expired { height, time, age: age / 86_400 })
            }
        }
    }

    /// Whether the newest state has used up a third of its trusting period. Then the head is followed, whoever needs it:
    /// what is not followed for too long is lost.
    pub fn needs_refreshing(&self, head: u64, now: Timestamp) -> bool {
        let mut options = self.options;
        options.trusting_period /= 3;
        self.newest().is_some_and(|newest| newest.height() < head && newest.is_expired(&options, now))
    }

    /// The highest state below `target`, unless it is too old.
    fn base(&self, target: u64, now: Timestamp) -> Option<&TrustedState> {
        let (_, state) = self.states.range(..target).next_back()?;
        Some(state).filter(|state| !state.is_expired(&self.options, now))
    }

    /// Halves the way until a height is left of which nobody knows yet that it is too far. The next height never is.
    fn on_the_way(&self, base: u64, target: u64) -> u64 {
        let mut height = target;
        while self.too_far.get(&height).is_some_and(|from| *from >= base) && height > base.saturating_add(1) {
            height = base + (height - base) / 2;
        }
        height
    }

    /// What the header at `height`, which was wished for, is to follow from.
    pub fn check(&self, height: u64, chain_id: &str, now: Timestamp) -> Check {
        let chain_id = chain_id.to_owned();
        match (self.base(height, now), &self.root) {
            (Some(base), _) => Check::From(Box::new(base.clone())),
            (None, Root::Header { height: root, hash }) if *root == height => Check::Root { chain_id, hash: *hash },
            // Refuses: nothing is first when there are states already.
            (None, _) => match self.newest() {
                Some(newest) => Check::From(Box::new(newest.clone())),
                None => Check::FirstUse { chain_id },
            },
        }
    }

    /// A header was verified as [`Client::check`] said.
    pub fn accept(&mut self, block: &Verified<LightBlock>) {
        self.too_far.retain(|height, _| *height > block.height());
        self.states.insert(block.height(), TrustedState::of_block(block));
        while let Some(height) = self.dispensable(block.height()) {
            self.states.remove(&height);
        }
    }

    /// The state that is missed least, if there are too many: never the lowest, the highest or the `latest`, which may be
    /// a step on a long way; else the one whose neighbours are closest, and of several the highest.
    fn dispensable(&self, latest: u64) -> Option<u64> {
        if self.states.len() <= STATES {
            return None;
        }
        let neighbours = self.states.keys().zip(self.states.keys().skip(1)).zip(self.states.keys().skip(2));
        let inner = neighbours.filter(|((_, height), _)| **height != latest);
        let least = inner.min_by_key(|((below, height), above)| (*above - *below, std::cmp::Reverse(**height)));
        least.map(|((_, height), _)| *height)
    }

    /// It was not. All that is remembered is a distance that was too great, and it is forgotten with the first step
    /// made. Returns whether there is another way.
    pub fn refuse(&mut self, height: u64, refusal: &Refusal) -> bool {
        let Refusal::TooFar { trusted, .. } = refusal else { return false };
        if self.too_far.len() >= TOO_FAR {
            self.too_far.clear();
        }
        self.too_far.insert(height, *trusted);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{light::verify, sequencer::ValidatorSet, testing::block};

    fn client(heights: impl IntoIterator<Item = u64>) -> Client {
        let mut client = Client::new(Options::default(), Root::FirstUse);
        for height in heights {
            accept(&mut client, height);
        }
        client
    }

    fn accept(client: &mut Client, height: u64) {
        let made = block(height, &[]);
        let set = Arc::new(ValidatorSet::new(made.validators, 100).expect("a set"));
        client.accept(&LightBlock::unchecked(made.signed, set));
    }

    fn heights(client: &Client) -> Vec<u64> {
        client.heights_from(0).collect()
    }

    #[test]
    fn a_step_on_a_long_way_is_kept_however_many_states_lie_above_it() {
        let mut client = client([1].into_iter().chain(300..330));
        assert_eq!(client.states.len(), STATES);
        for step in 2..=20 {
            accept(&mut client, step);
            assert_eq!(client.base(step + 1, Timestamp(0)).map(TrustedState::height), Some(step));
        }
        assert_eq!(client.states.len(), STATES);
    }

    #[test]
    fn the_lowest_and_the_highest_state_stay_and_those_between_spread() {
        let mut client = client(1..=1_000);
        let kept = heights(&client);
        assert_eq!((kept.len(), kept.first(), kept.last()), (STATES, Some(&1), Some(&1_000)));
        let widest = kept.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest.is_some_and(|gap| gap <= 2 * 1_000 / (STATES as u64 - 1)), "{kept:?}");
        accept(&mut client, 2_000);
        assert_eq!(client.newest().map(TrustedState::height), Some(2_000));
    }

    /// When the state at `height` is of.
    fn time_of(height: u64) -> Timestamp {
        block(height, &[]).moment()
    }

    #[test]
    fn what_is_too_old_says_how_old_it_is() {
        let client = client([5]);
        let late = time_of(5).after(Duration::from_hours(20 * 24 + 1));
        let Wish::Expired(Refusal::Expired { height, age, .. }) = client.wish(9, late) else {
            panic!("{:?}", client.wish(9, late));
        };
        assert_eq!((height, age), (5, 20), "days");
        let made = block(6, &[]);
        let set = Arc::new(ValidatorSet::new(made.validators, 100).expect("a set"));
        let first_use = Check::FirstUse { chain_id: "chain".to_owned() };
        let late = time_of(6).after(Duration::from_hours(30 * 24 + 23));
        let refusal = verify(&first_use, 6, &made.signed, &set, &Options::default(), late).expect_err("too old");
        assert!(matches!(refusal, Refusal::Expired { height: 6, age: 30, .. }), "{refusal}");
    }

    #[test]
    fn the_head_is_followed_when_a_third_of_the_trusting_period_is_over_and_only_if_it_is_news() {
        let options = Options { trusting_period: Duration::from_hours(3), ..Options::default() };
        let mut client = Client::new(options, Root::FirstUse);
        accept(&mut client, 5);
        assert_eq!(client.options(), &options);
        let (before, due) = (time_of(5).after(Duration::from_mins(59)), time_of(5).after(Duration::from_hours(1)));
        assert!(!client.needs_refreshing(6, before) && client.needs_refreshing(6, due));
        assert!(!client.needs_refreshing(5, due), "there is nothing newer");
    }

    #[test]
    fn a_distance_that_was_too_great_is_forgotten_when_the_height_is_passed() {
        let mut client = client([5]);
        for height in [9, 10, 30] {
            assert!(client.refuse(height, &Refusal::TooFar { trusted: 5, counted: 0, total: 1 }));
        }
        accept(&mut client, 10);
        assert_eq!(client.too_far, BTreeMap::from([(30, 5)]));
    }

    #[test]
    fn the_hash_of_the_root_is_asked_of_no_other_height() {
        let hash = BlockHash([1; 32]);
        let mut client = Client::new(Options::default(), Root::Header { height: 5, hash });
        let now = time_of(5);
        assert!(matches!(client.check(5, "chain", now), Check::Root { hash: root, .. } if root == hash));
        accept(&mut client, 5);
        accept(&mut client, 9);
        assert!(matches!(client.check(4, "chain", now), Check::From(state) if state.height() == 9), "which refuses it");
    }
}
