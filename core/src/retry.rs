//! Back-off between tries, jittered from the conductor's seed, and the life of one retried call.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore as _;

use crate::{
    canary::{Canary, canary, process_counter},
    ids::CommandId,
    time::Timestamp,
};

/// Delay before try number `failures + 1`: `first` doubled with each failure up to `last`, of which a random half is
/// taken away so that nodes that failed together do not come back together.
pub fn backoff(failures: u32, first: Duration, last: Duration, rng: &mut ChaCha8Rng) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX));
    let nanos = u64::try_from(doubled.min(last).as_nanos()).unwrap_or(u64::MAX);
    if canary(Canary::RetryAtOnce) {
        return Duration::ZERO;
    }
    if canary(Canary::NoJitter) {
        return Duration::from_nanos(nanos);
    }
    let half = nanos / 2;
    if canary(Canary::JitterFromProcess) {
        return Duration::from_nanos(half + process_counter() % (half + 1));
    }
    Duration::from_nanos(half + if half == 0 { 0 } else { rng.next_u64() % (half + 1) })
}

/// A call that is made again until it succeeds. At most one is in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempt {
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be made at this moment or later.
    Due(Timestamp),
    InFlight(CommandId),
}

impl Default for State {
    fn default() -> Self {
        Self::Due(Timestamp::ZERO)
    }
}

impl Attempt {
    /// Not to be made before `at`.
    pub(crate) fn due_at(at: Timestamp) -> Self {
        Self { failures: 0, state: State::Due(at) }
    }

    /// Whether it is to be made now. If not, it is on its way or has to wait: forgotten then, it would be made again at once.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Due(at) if at <= now)
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight(_))
    }

    pub(crate) fn in_flight(&self) -> Option<CommandId> {
        match self.state {
            State::InFlight(id) => Some(id),
            State::Due(_) => None,
        }
    }

    /// When it wants to be made, unless it is in flight.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match self.state {
            State::Due(at) => Some(at),
            State::InFlight(_) => None,
        }
    }

    pub(crate) fn started(&mut self, id: CommandId) {
        self.state = State::InFlight(id);
    }

    /// Not to be made before `at`, unless it is in flight.
    pub(crate) fn postpone(&mut self, at: Timestamp) {
        if let State::Due(due) = self.state {
            self.state = State::Due(due.max(at));
        }
    }

    /// The call was answered and another one follows at once. Failures stay: only the end of the whole counts.
    pub(crate) fn answered(&mut self, now: Timestamp) {
        self.state = State::Due(now);
    }

    /// Schedules the next try after `delay`.
    pub(crate) fn failed(&mut self, now: Timestamp, delay: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.state = State::Due(now.after(delay));
    }

    /// Forgets failures and schedules the next call at `at`.
    pub(crate) fn succeeded(&mut self, at: Timestamp) {
        self.failures = 0;
        self.state = State::Due(at);
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The try that is running or comes next, counted from 1.
    pub(crate) fn number(&self) -> u32 {
        self.failures.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn backoff_doubles_to_its_limit_and_keeps_at_least_half() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let (first, last) = (Duration::from_millis(100), Duration::from_secs(10));
        for failures in 1..100 {
            let full = first.saturating_mul(2_u32.saturating_pow(failures - 1)).min(last);
            let delay = backoff(failures, first, last, &mut rng);
            assert!(delay >= full / 2 && delay <= full, "failure {failures}: {delay:?} of {full:?}");
        }
    }

    #[test]
    fn backoff_follows_from_the_seed() {
        let delays = |seed| {
            let mut rng = ChaCha8Rng::from_seed([seed; 32]);
            (1..9).map(|n| backoff(n, Duration::from_millis(100), Duration::from_secs(9), &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    #[test]
    fn the_shortest_delays_reach_from_half_to_all_of_it() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let delays = (0..64).map(|_| backoff(1, Duration::from_nanos(2), Duration::from_secs(1), &mut rng).as_nanos());
        assert_eq!(delays.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(backoff(1, Duration::ZERO, Duration::ZERO, &mut rng), Duration::ZERO);
    }

    #[test]
    fn an_attempt_counts_its_failures_until_it_succeeds() {
        let (now, later) = (Timestamp(10), Timestamp(20));
        let id = CommandId { incarnation: 1, ordinal: 2 };
        let mut attempt = Attempt::default();
        assert!(attempt.is_due(Timestamp::ZERO) && attempt.number() == 1);
        attempt.started(id);
        assert_eq!((attempt.is_in_flight(), attempt.in_flight(), attempt.due()), (true, Some(id), None));
        assert!(!attempt.is_due(Timestamp::MAX), "one at a time");
        for failures in 1..=3 {
            attempt.failed(now, Duration::from_nanos(10));
            assert_eq!((attempt.failures(), attempt.number()), (failures, failures + 1));
        }
        assert!(!attempt.is_due(Timestamp(19)) && attempt.is_due(later) && attempt.in_flight().is_none());
        attempt.answered(now);
        assert_eq!((attempt.failures(), attempt.due()), (3, Some(now)), "half of the way is no success");
        attempt.succeeded(later);
        assert_eq!((attempt.failures(), attempt.number(), attempt.due()), (0, 1, Some(later)));
        assert_eq!(Attempt::due_at(later).due(), Some(later));
    }
}
