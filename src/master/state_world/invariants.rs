//! What must hold in the pretended world whatever happens.

use std::collections::BTreeSet;

use rsgun_core::config::ReloadStrategy;
use rsgun_core::ipc::{Identity, WorkerId};

use super::{Process, World};
use crate::master::generation::Standing;
use crate::master::status::Condition;

impl World {
    /// What holds after each event.
    pub(in crate::master) fn check(&self) {
        if self.exit.is_some() {
            return;
        }
        if let Some(deadline) = self.state.next_deadline() {
            assert!(
                deadline > self.now,
                "the loop would spin: {deadline:?}, now {:?}",
                self.now
            );
        }
        let status = self.state.status(self.now, |_, _| None);
        assert_eq!(status.workers.len(), self.state.workers.len());
        assert!(status.workers_serving <= status.workers_wanted);
        assert_eq!(
            !status.degraded.is_empty(),
            self.shown == Condition::Degraded
        );
        let known: BTreeSet<WorkerId> = self.state.workers.keys().copied().collect();
        for worker in self.workers.values() {
            assert!(
                known.contains(&worker.identity.id),
                "{:?} is lost",
                worker.identity
            );
        }
        for pid in &self.orphans {
            assert!(self.state.follows(*pid), "the orphan {pid} is lost");
        }
        let seats: BTreeSet<u32> = self
            .state
            .workers
            .values()
            .map(|worker| worker.identity.seat)
            .collect();
        assert_eq!(
            seats.len(),
            self.state.workers.len(),
            "two workers share a seat"
        );
        if !self.state.is_stopping() {
            let slots: Vec<u32> = self.state.slots.keys().copied().collect();
            let wanted: Vec<u32> = (1..=self.state.target()).collect();
            assert_eq!(slots, wanted);
            if let Some(bounds) = self.state.bounds().filter(|_| !wanted.is_empty()) {
                assert!((bounds.min as usize..=bounds.max as usize).contains(&wanted.len()));
            }
            let candidates = self
                .state
                .generations
                .values()
                .filter(|g| g.standing == Standing::Candidate)
                .count();
            assert!(candidates <= 1, "two reloads at a time");
            assert!(candidates == 0 || self.state.reload.is_some());
        }
    }

    /// A second worker of a slot may be asked for by a reload, the way back from one, or
    /// recycling, and then it is the only one.
    pub(super) fn check_recycling(&self, new: &Process) {
        let is_current = new.identity.generation == self.state.current;
        let slot = self.state.slots.get(&new.identity.slot);
        let is_second = slot.is_some_and(|slot| slot.replacement == Some(new.identity.id));
        if is_current && is_second && !self.state.is_exchanging() {
            assert!(self.state.reload.is_none(), "recycling during a reload");
            let replacements = self
                .state
                .slots
                .values()
                .filter(|slot| slot.replacement.is_some_and(|id| id != new.identity.id))
                .count();
            assert_eq!(replacements, 0, "two workers are recycled at a time");
        }
    }

    /// One that serves may be told to make room only when another one of its slot serves,
    /// or the slot is no longer wanted.
    pub(super) fn check_replaced(&self, worker: &Process) {
        let Identity { id, slot, .. } = worker.identity;
        // One that drains is told again when it may go on for longer.
        let serves = worker.ready && worker.order.is_none() && !worker.draining;
        let replaced = self.workers.values().any(|other| {
            other.identity.id != id
                && other.identity.slot == slot
                && other.ready
                && !other.draining
                && other.order.is_none()
        });
        let may_be_missing = self.state.slots_without_service() <= self.may_be_missing();
        assert!(
            !serves || replaced || slot > self.state.target() || may_be_missing,
            "worker {id:?} of slot {slot} drains without a replacement"
        );
    }

    /// How many slots a reload in progress may leave without a worker that serves.
    fn may_be_missing(&self) -> u32 {
        let candidate = self.state.reload_generation();
        candidate
            .and_then(|number| self.state.generations.get(&number))
            .filter(|new| new.policy.reload_strategy == ReloadStrategy::Rolling)
            .map_or(0, |new| new.policy.reload_max_unavailable)
    }
}
