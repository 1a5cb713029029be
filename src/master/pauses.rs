//! Pauses: the time in which nobody ran is held against nobody.
//!
//! When a container is paused or a process tree stopped, the clock goes on. Whoever was
//! given a time to start, to leave, or to give a sign of life has not had it. So a pause is
//! found, and all these times grow by it.
//!
//! It shows in a deadline that the master has missed. As long as anybody's time runs out
//! the master looks at the clock once a second, so that a pause is found also where it
//! begins and ends before that deadline, and so that its length is known but for a second.
//!
//! A worker keeps the time for its requests itself. It cannot tell a pause from an
//! application that has blocked its event loop, so it is told how long it may go on.
//!
//! A machine that sleeps is no pause: its monotonic clock stands still.

use std::mem;
use std::time::Duration;

use rsgun_core::ipc::{DrainReason, ToWorker, WorkerId};

use super::event::Action;
use super::health;
use super::moment::Moment;
use super::state::{Lifecycle, State};
use super::supervision::DRAIN_MARGIN;
use super::worker::{Stage, Worker};

/// The longest time between two looks at the clock while somebody's time runs out.
const INTERVAL: Duration = Duration::from_secs(1);

impl State {
    /// Gives everybody the time back in which nobody ran, if there was a pause.
    pub(super) fn excuse_pause(&mut self, now: Moment) {
        let missed = self
            .next_deadline()
            .map_or(Duration::ZERO, |due| now.since(due));
        let before = mem::replace(&mut self.stepped_at, now);
        if missed < 2 * self.interval() {
            return;
        }
        self.resumed_at = now;
        let pause = now.since(before);
        for worker in self.workers.values_mut() {
            worker.stage.extend(pause);
            worker.inquiry.extend(pause);
            worker.ending.extend(pause);
        }
        for generation in self.generations.values_mut() {
            generation.server.stage.extend(pause);
            generation.server.inquiry.extend(pause);
            generation.server.ending.extend(pause);
        }
        if let Lifecycle::Stopping(stop) = &mut self.lifecycle {
            stop.extend(pause);
        }
        self.extend_probation(pause);
        self.extend_upgrade(pause);
        self.prolong_drains(now);
    }

    /// Tells those that drain how long they may go on.
    fn prolong_drains(&mut self, now: Moment) {
        if self.stops_quickly() {
            // They were told to cancel what runs.
            return;
        }
        let left = |worker: &Worker| match worker.stage {
            Stage::Leaving { by, .. } if worker.was_ready && !worker.ending.has_begun() => {
                let left = by.since(now + DRAIN_MARGIN);
                Some((worker.identity.id, left)).filter(|_| !left.is_zero())
            }
            _ => None,
        };
        let drains: Vec<(WorkerId, Duration)> = self.workers.values().filter_map(left).collect();
        for (id, left) in drains {
            let order = ToWorker::Drain {
                within_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                reason: DrainReason::Replaced,
            };
            self.act(Action::Tell { id, order });
        }
    }

    /// When the clock must be looked at, since somebody's time runs out.
    pub(super) fn next_look(&self) -> Option<Moment> {
        let stops = matches!(&self.lifecycle, Lifecycle::Stopping(stop) if stop.is_limited());
        let is_limited = stops
            || self.probation_end().is_some()
            || self.proved_at.is_some()
            || self.upgrade_deadline().is_some()
            || self.workers.values().any(Worker::is_limited)
            || self
                .generations
                .values()
                .any(|generation| generation.server.deadline().is_some());
        is_limited.then(|| self.stepped_at + INTERVAL)
    }

    /// How often the master wakes at least while anything depends on it.
    fn interval(&self) -> Duration {
        let looks = self
            .generations
            .values()
            .filter_map(|generation| health::interval(&generation.policy));
        looks.min().unwrap_or(INTERVAL).min(INTERVAL)
    }
}
