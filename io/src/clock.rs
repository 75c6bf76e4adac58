//! The driver's clock: wall-clock time at start, carried on by tokio's clock, so that it never goes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use downbeat_core::Timestamp;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started_at: Timestamp,
    start: Instant,
}

impl Clock {
    /// A clock that shows `started_at` now.
    pub(crate) fn starting_at(started_at: Timestamp) -> Self {
        Self { started_at, start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.started_at.after(self.start.elapsed())
    }

    /// The moment at which this clock shows `time`; a moment in the past for what lies before the start.
    pub(crate) fn instant(&self, time: Timestamp) -> Instant {
        // A wait of years is as good as any longer one, and cannot overflow.
        self.start + time.since(self.started_at).min(Duration::from_hours(24 * 365))
    }
}

/// What the system's clock shows.
pub(crate) fn wall_clock() -> Timestamp {
    Timestamp::ZERO.after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
