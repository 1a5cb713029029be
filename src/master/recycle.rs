//! Recycling: workers that work, but have answered enough requests, served long enough,
//! grown too large, or lost a thread to a request that hangs, are replaced before they
//! do harm.
//!
//! It is the replacement of a reload without a new generation: the slot gets a second
//! worker, and the first one drains when that is ready. At most one worker is being
//! started for it at any time, over all slots, and none while a reload is in progress or
//! wanted after an upgrade.
//! A slot whose former worker still drains waits until that is gone, so that a worker
//! with long answers and a low limit does not leave a trail of processes. When the
//! replacement fails to start, the worker serves on and the slot backs off.

use std::time::Duration;

use rsgun_core::ipc::WorkerId;
use rsgun_core::jitter::spread;

use super::moment::Moment;
use super::notice::Notice;
use super::state::State;
use super::worker::{Due, Reason, Stage, Worker};

impl State {
    /// Notes that a worker is to be replaced.
    pub(super) fn recycle(&mut self, now: Moment, id: WorkerId, reason: Reason) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.is_serving()
        {
            worker.due.get_or_insert(Due { since: now, reason });
        }
    }

    /// When a worker that is ready now will have served long enough.
    pub(super) fn end_of_service(&self, now: Moment, worker: &Worker) -> Option<Moment> {
        let policy = self.policy_of(worker)?;
        let jitter = u64::try_from(policy.max_lifetime_jitter.as_millis()).unwrap_or(u64::MAX);
        let extra = spread(self.seed ^ worker.identity.id.0, jitter);
        Some(now + policy.max_lifetime? + Duration::from_millis(extra))
    }

    /// Starts the replacement of the worker that has been due for longest.
    pub(super) fn settle_recycling(&mut self, now: Moment) {
        let busy = self.is_booting()
            || self.reload_generation().is_some()
            || self.reload_waits
            || !self.kept.is_empty()
            || self.slots.values().any(|slot| slot.replacement.is_some());
        if busy {
            return;
        }
        let Some(source) = self.source() else { return };
        let next = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.backoff.may_try())
            .filter_map(|(number, slot)| {
                let worker = self.workers.get(&slot.current?)?;
                let due = worker.due.clone().filter(|_| worker.is_serving())?;
                Some((due.since, *number, worker.label(), due.reason))
            })
            .filter(|(_, number, _, _)| !self.still_drains(*number))
            .min_by_key(|(since, number, _, _)| (*since, *number));
        let Some((_, number, worker, reason)) = next else {
            return;
        };
        let Some(id) = self.spawn(now, number, source) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.replacement = Some(id);
        }
        self.notify(Notice::Recycling { worker, reason });
    }

    /// Whether a former worker of a slot has not ended yet.
    fn still_drains(&self, slot: u32) -> bool {
        self.workers.values().any(|worker| {
            worker.identity.slot == slot
                && worker.was_ready
                && matches!(worker.stage, Stage::Leaving { .. })
        })
    }
}
