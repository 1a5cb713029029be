//! How many workers the load needs, within bounds: without input or output.
//!
//! Load is the share of time in which event loops are busy (1000: all the time), as a
//! mean over all workers. It says how much more they can take on, which a number of
//! requests does not: a thousand that wait for a database are no work, and one that
//! computes is too much.
//!
//! * **Grow quickly**: at least [`BUSY`] for [`GROW_AFTER`].
//! * **Shrink slowly**: one worker fewer would still be at most at [`IDLE`], for
//!   [`SHRINK_AFTER`]. Here the load is smoothed, so that a short peak now and then
//!   does not keep a worker.
//!
//! One worker at a time, and after each change the time counts anew. That the two limits
//! are far apart is the hysteresis: what makes a worker go can never be what makes it
//! come back, since the load of those that are left is below the limit for growing.

use std::time::Duration;

use super::moment::Moment;

/// From this mean share on there should be more workers.
const BUSY: u64 = 750;
/// How long it must last.
const GROW_AFTER: Duration = Duration::from_secs(3);
/// One worker fewer must be at most this busy.
const IDLE: u64 = 500;
/// How long it must last.
const SHRINK_AFTER: Duration = Duration::from_secs(30);
/// The weight of what was before in the smoothed load, of [`WEIGHTS`].
const WEIGHT: u64 = 4;
/// All weights.
const WEIGHTS: u64 = 5;
/// An event loop that has not come round for so long is busy.
const SILENCE: Duration = Duration::from_millis(1_500);

/// The most and the fewest workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Bounds {
    /// The bounds that the settings ask for, where 0 stands for none given; `None`: the
    /// number of workers does not depend on the load.
    pub(super) fn of(workers: u32, min: u32, max: u32) -> Option<Self> {
        match (min, max) {
            (0, 0) => None,
            (min, 0) => Some(Self {
                min,
                max: workers.max(min),
            }),
            (0, max) => Some(Self {
                min: workers.min(max),
                max,
            }),
            (min, max) => Some(Self { min, max }),
        }
    }

    /// The nearest number within.
    pub(super) fn clamp(self, count: u32) -> u32 {
        count.clamp(self.min, self.max.max(self.min))
    }
}

/// What an event loop had done when it last came round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    /// When it came round.
    pub(super) at: Moment,
    /// The time in which it was busy since it began, milliseconds.
    pub(super) busy_ms: u64,
}

/// The share of time, of 1000, in which an event loop was busy between two looks; `None`
/// when it has not come round in between, and need not have.
pub(super) fn share(before: Beat, after: Beat, now: Moment) -> Option<u64> {
    let time = u64::try_from(after.at.since(before.at).as_millis()).unwrap_or(u64::MAX);
    if time == 0 {
        return (now.since(after.at) >= SILENCE).then_some(1000);
    }
    let busy = after.busy_ms.saturating_sub(before.busy_ms);
    Some(busy.saturating_mul(1000) / time).map(|share| share.min(1000))
}

/// What was seen of the load since the last change.
#[derive(Debug, Default)]
pub(super) struct Scale {
    smooth: Option<u64>,
    busy_since: Option<Moment>,
    idle_since: Option<Moment>,
}

/// That there should be another number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    /// How many.
    pub(super) to: u32,
    /// The load that was the reason, of 1000.
    pub(super) load: u64,
    /// For how long it was like that.
    pub(super) lasted: Duration,
}

impl Scale {
    /// Takes note of the `load` of `count` workers, all of which serve.
    pub(super) fn judge(
        &mut self,
        now: Moment,
        bounds: Bounds,
        count: u32,
        load: u64,
    ) -> Option<Change> {
        let smooth = self.smooth.map_or(load, |before| {
            (before * WEIGHT + load * (WEIGHTS - WEIGHT)) / WEIGHTS
        });
        self.smooth = Some(smooth);
        let is_busy = count < bounds.max && load >= BUSY;
        let would_be = smooth * u64::from(count) / u64::from(count.saturating_sub(1).max(1));
        let is_idle = count > bounds.min.max(1) && would_be <= IDLE;
        let lasted = |since: &mut Option<Moment>, holds: bool| {
            *since = since.or(Some(now)).filter(|_| holds);
            since.map(|since| now.since(since))
        };
        let busy = lasted(&mut self.busy_since, is_busy).filter(|time| *time >= GROW_AFTER);
        let idle = lasted(&mut self.idle_since, is_idle).filter(|time| *time >= SHRINK_AFTER);
        let change = match (busy, idle) {
            (Some(lasted), _) => Change {
                to: count + 1,
                load,
                lasted,
            },
            (None, Some(lasted)) => Change {
                to: count - 1,
                load: smooth,
                lasted,
            },
            (None, None) => return None,
        };
        self.forget();
        Some(change)
    }

    /// Lets the time count anew: the workers are not what they were.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { min: 1, max: 4 };

    /// Judges a steady load once a second; returns the changes, each with its second.
    fn judged(count: u32, seconds: u64, load: impl Fn(u64, u32) -> u64) -> Vec<(u64, u32)> {
        let mut scale = Scale::default();
        let mut count = count;
        let mut changes = Vec::new();
        for second in 0..seconds {
            let now = Moment::from_ms(second * 1000);
            if let Some(change) = scale.judge(now, BOUNDS, count, load(second, count)) {
                count = change.to;
                changes.push((second, count));
            }
        }
        changes
    }

    #[test]
    fn growing_takes_seconds_and_ends_at_the_bound() {
        assert_eq!(judged(1, 60, |_, _| 1000), [(3, 2), (7, 3), (11, 4)]);
    }

    #[test]
    fn shrinking_takes_longer_and_ends_at_the_bound() {
        let changes = judged(4, 200, |_, _| 0);
        assert_eq!(changes, [(30, 3), (61, 2), (92, 1)]);
    }

    #[test]
    fn a_short_peak_makes_nobody_come_and_keeps_nobody() {
        assert_eq!(
            judged(1, 60, |second, _| if second % 4 < 3 { 900 } else { 100 }),
            []
        );
        let peaks = judged(3, 60, |second, _| if second % 20 == 0 { 900 } else { 20 });
        assert_eq!(peaks.first().map(|(_, count)| *count), Some(2));
    }

    #[test]
    fn work_that_is_spread_does_not_make_the_number_swing() {
        // So much work that one worker is too busy with it, whatever the number.
        for work in (750..4000).step_by(50) {
            let changes = judged(1, 600, |_, count| (work / u64::from(count)).min(1000));
            let grown: Vec<u32> = changes.iter().map(|(_, count)| *count).collect();
            let mut sorted = grown.clone();
            sorted.sort_unstable();
            assert_eq!(grown, sorted, "{work}: it shrinks again");
        }
    }

    #[test]
    fn bounds_come_from_what_is_given() {
        let bounds = |workers, min, max| Bounds::of(workers, min, max).map(|b| (b.min, b.max));
        assert_eq!(bounds(4, 0, 0), None);
        assert_eq!(bounds(2, 0, 8), Some((2, 8)));
        assert_eq!(bounds(8, 2, 0), Some((2, 8)));
        assert_eq!(bounds(1, 4, 0), Some((4, 4)));
        assert_eq!(bounds(16, 0, 8), Some((8, 8)));
        assert_eq!(bounds(1, 2, 6), Some((2, 6)));
    }

    #[test]
    fn a_share_is_of_the_time_between_two_beats() {
        let beat = |at, busy_ms| Beat {
            at: Moment::from_ms(at),
            busy_ms,
        };
        let now = Moment::from_ms(3_100);
        assert_eq!(share(beat(1_000, 50), beat(3_000, 550), now), Some(250));
        assert_eq!(share(beat(1_000, 0), beat(2_000, 5_000), now), Some(1000));
        assert_eq!(share(beat(3_000, 0), beat(3_000, 0), now), None);
        assert_eq!(
            share(beat(1_000, 9), beat(1_000, 9), now),
            Some(1000),
            "stuck"
        );
        assert_eq!(
            share(beat(1_000, 9), beat(2_000, 0), now),
            Some(0),
            "nonsense"
        );
    }

    proptest! {
        #[test]
        fn the_number_stays_within_its_bounds_and_changes_by_one(
            min in 1_u32..6,
            extra in 0_u32..6,
            loads in prop::collection::vec((0_u64..=1000, 1_u64..20_000), 0..300),
        ) {
            let bounds = Bounds { min, max: min + extra };
            let mut scale = Scale::default();
            let mut count = min;
            let mut now = Moment::from_ms(0);
            for (load, pause) in loads {
                now = now + Duration::from_millis(pause);
                if let Some(change) = scale.judge(now, bounds, count, load) {
                    prop_assert_eq!(change.to.abs_diff(count), 1);
                    prop_assert!((bounds.min..=bounds.max).contains(&change.to));
                    prop_assert!(change.to < count || load >= BUSY);
                    count = change.to;
                }
            }
        }
    }
}
