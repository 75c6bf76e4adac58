//! Integer time. The core never reads a clock: each event carries the moment at which it was stamped.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `duration` later; stays at the maximum.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_in_seconds_to_the_nanosecond() {
        assert_eq!(Timestamp(12_000_000_345).to_string(), "12.000000345");
        assert_eq!(Timestamp(12).after(Duration::from_nanos(3)), Timestamp(15));
        assert_eq!(Timestamp(15).since(Timestamp(12)), Duration::from_nanos(3));
        assert_eq!(
            (Timestamp(1).since(Timestamp(2)), Timestamp(1).after(Duration::MAX)),
            (Duration::ZERO, Timestamp::MAX)
        );
    }
}
