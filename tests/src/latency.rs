//! What the benchmarks of latency have in common: when each block was first seen somewhere, and what lies between.

use std::time::{Duration, Instant};

/// How often places are looked at: what is measured is no more exact than that.
const GLANCE: Duration = Duration::from_micros(200);

/// Waits for the next glance. Blocks its thread, for the runtime's timer knows only whole milliseconds: not for tasks.
pub fn wait_for_glance() {
    std::thread::sleep(GLANCE);
}

/// When each block was first seen at some place. Whoever is at a block has all blocks below.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<Instant>);

impl Seen {
    /// The place is at block `newest` now.
    pub fn see(&mut self, newest: u64, now: Instant) {
        let length = usize::try_from(newest).map_or(usize::MAX, |newest| newest.saturating_add(1));
        if length > self.0.len() {
            self.0.resize(length, now);
        }
    }

    pub fn has(&self, block: u64) -> bool {
        self.at(block).is_some()
    }

    /// From when `earlier` saw a block until it was seen here, for blocks above `warm_up`; nothing where it was earlier
    /// here.
    pub fn after(&self, earlier: &Self, warm_up: u64) -> Times {
        let pairs = self.0.iter().zip(&earlier.0).zip(0..).filter(|(_, block)| *block > warm_up);
        pairs.map(|((here, there), _)| here.saturating_duration_since(*there)).collect()
    }

    fn at(&self, block: u64) -> Option<&Instant> {
        self.0.get(usize::try_from(block).ok()?)
    }
}

/// Times that were measured, in order of length.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn median_ms(&self) -> f64 {
        self.percentile_ms(50)
    }

    pub fn p99_ms(&self) -> f64 {
        self.percentile_ms(99)
    }

    /// Not a number if nothing was measured.
    fn percentile_ms(&self, per_cent: usize) -> f64 {
        let index = self.0.len().saturating_sub(1) * per_cent / 100;
        self.0.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
    }
}

impl Extend<Duration> for Times {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, times: I) {
        self.0.extend(times);
        self.0.sort_unstable();
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut all = Self::default();
        all.extend(times);
        all
    }
}

impl IntoIterator for Times {
    type Item = Duration;
    type IntoIter = std::vec::IntoIter<Duration>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_were_passed_over_count_as_seen_and_those_of_the_warm_up_do_not() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let (mut made, mut reached) = (Seen::default(), Seen::default());
        for block in 0..=4 {
            made.see(block, start + ms(10 * block));
        }
        reached.see(1, start + ms(11));
        reached.see(4, start + ms(43));
        reached.see(3, start + ms(99));
        assert!(reached.has(4) && !reached.has(5));
        let times = reached.after(&made, 1);
        assert_eq!(times.clone().into_iter().collect::<Vec<_>>(), [ms(3), ms(13), ms(23)]);
        assert_eq!((times.median_ms(), times.p99_ms()), (13.0, 13.0));
        assert!(reached.after(&made, 4).median_ms().is_nan());
    }
}
