//! Points in time, as the state machine knows them.
//!
//! Milliseconds of the monotonic clock: the unit of the scoreboard, so that a
//! heartbeat and a deadline can be compared, and plain numbers, so that tests make
//! up their own time and a state can be handed to another process.

use std::ops::Add;
use std::time::Duration;

use rsgun_core::scoreboard;
use serde::{Deserialize, Serialize};

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Moment(u64);

impl Moment {
    /// The present.
    #[must_use]
    pub(super) fn now() -> Self {
        Self(scoreboard::now_ms())
    }

    /// So many milliseconds after the clock began.
    pub(super) const fn from_ms(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// Milliseconds since the clock began.
    pub(super) const fn as_ms(self) -> u64 {
        self.0
    }

    /// The time from `earlier` until this moment; zero when it is later.
    #[must_use]
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}
