//! Slots: the places that workers fill, and the back-off when they keep failing.

use std::time::Duration;

use rsgun_core::ipc::WorkerId;
use serde::{Deserialize, Serialize};

use super::moment::Moment;

/// One place for a worker. During a replacement it has two: the current one serves
/// until the replacement is ready.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) current: Option<WorkerId>,
    pub(super) replacement: Option<WorkerId>,
    pub(super) backoff: Backoff,
    /// How many of its workers have died, were killed, or could not start.
    pub(super) losses: u64,
    pub(super) last_loss: Option<Loss>,
}

/// The end of a worker that should have gone on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loss {
    /// When.
    pub(super) at: Moment,
    /// How it ended, a verb phrase.
    pub(super) reason: String,
}

impl Slot {
    /// Notes that a worker that `served` for a while, if at all, was lost. Returns the
    /// delay before the next one is started.
    pub(super) fn fail(
        &mut self,
        now: Moment,
        served: Option<Duration>,
        reason: String,
    ) -> Duration {
        self.losses += 1;
        self.last_loss = Some(Loss { at: now, reason });
        self.backoff.fail(now, served)
    }

    /// Takes a worker out, whichever of the two it is.
    pub(super) fn release(&mut self, id: WorkerId) {
        for place in [&mut self.current, &mut self.replacement] {
            if *place == Some(id) {
                *place = None;
            }
        }
    }
}

/// Delay after the second failure in a row; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// No delay is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Whoever has served that long has not failed at once.
const SHORTEST_LIFE: Duration = Duration::from_secs(2);

/// When to try again. The first failure costs no time; failures in a row, without
/// a fair time of service between them, cost twice as much each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backoff {
    failures: u32,
    retry_at: Option<Moment>,
}

impl Backoff {
    /// Counts a failure of something that `served` for a while, if at all. Returns
    /// the delay before the next try.
    pub(super) fn fail(&mut self, now: Moment, served: Option<Duration>) -> Duration {
        let fair = SHORTEST_LIFE.max(2 * self.delay());
        if served.is_some_and(|served| served >= fair) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let delay = self.delay();
        self.retry_at = (!delay.is_zero()).then(|| now + delay);
        delay
    }

    /// Tries again without delay, as if nothing had happened.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Tries again without delay, but as what has failed so far.
    pub(super) fn hurry(&mut self) {
        self.retry_at = None;
    }

    /// Forgets a delay that has passed.
    pub(super) fn expire(&mut self, now: Moment) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
    }

    /// How many failures there were in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a try is due.
    pub(super) fn may_try(&self) -> bool {
        self.retry_at.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.retry_at
    }

    fn delay(&self) -> Duration {
        match self.failures {
            0 | 1 => Duration::ZERO,
            // Beyond twelve doublings the limit has long been reached.
            failures => LONGEST_DELAY.min(FIRST_DELAY * 2_u32.pow((failures - 2).min(12))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_cost_more_and_more() {
        let mut backoff = Backoff::default();
        let now = Moment::from_ms(0);
        let delays: Vec<u128> = (0..12)
            .map(|_| backoff.fail(now, None).as_millis())
            .collect();
        assert_eq!(delays[..5], [0, 100, 200, 400, 800]);
        assert_eq!(delays[11], 30_000);
        assert!(!backoff.may_try());
        backoff.expire(Moment::from_ms(29_999));
        assert!(!backoff.may_try());
        backoff.expire(Moment::from_ms(30_000));
        assert!(backoff.may_try());
    }

    #[test]
    fn a_fair_time_of_service_is_a_new_start() {
        let mut backoff = Backoff::default();
        let now = Moment::from_ms(0);
        let served = |milliseconds| Some(Duration::from_millis(milliseconds));
        for _ in 0..8 {
            backoff.fail(now, None);
        }
        assert_eq!(backoff.fail(now, served(12_000)).as_millis(), 12_800);
        assert_eq!(backoff.fail(now, served(25_599)).as_millis(), 25_600);
        assert_eq!(backoff.fail(now, served(60_000)).as_millis(), 0);
        assert_eq!(backoff.fail(now, served(2_500)).as_millis(), 0);
    }
}
