//! How the slots change over to the new generation of a reload, and back from one that
//! has failed.
//!
//! The canary comes first, in the place of a replacement: it serves, and the old worker
//! of its slot does too, until the probation is over. Then
//!
//! * *rolling*: one slot after the other gets a replacement, and the old worker drains
//!   when that is ready. If some workers may be unavailable, so many slots at a time do
//!   it the other way round: the old worker drains, and the new one is started.
//! * *parallel*: all slots get their replacement at once.

use rsgun_core::config::ReloadStrategy;
use rsgun_core::ipc::WorkerId;

use super::generation::{Generation, Standing};
use super::moment::Moment;
use super::state::State;
use super::worker::Worker;

impl State {
    /// Starts the first worker of a new generation.
    pub(super) fn start_canary(&mut self, now: Moment, candidate: u32) {
        let under_way = self
            .workers
            .values()
            .any(|worker| worker.identity.generation == candidate && worker.is_starting());
        if under_way || !self.can_fork(candidate) || self.is_replacing() {
            return;
        }
        // Without slots there is nobody to prove the new generation.
        let first = self.slots.iter().next();
        if let Some((number, empty)) = first.map(|(number, slot)| (*number, slot.current.is_none()))
        {
            let id = self.spawn(now, number, candidate);
            if let Some(slot) = self.slots.get_mut(&number) {
                *(if empty {
                    &mut slot.current
                } else {
                    &mut slot.replacement
                }) = id;
            }
        }
    }

    /// The canary has proven itself: it takes its slot over.
    pub(super) fn admit_canary(&mut self, now: Moment, candidate: u32) {
        for (number, _) in self.canaries(candidate) {
            self.take_over(now, number);
        }
    }

    /// The new generation is given up: if the old worker of the slot still serves, it is
    /// the canary that goes.
    pub(super) fn withdraw_canary(&mut self, now: Moment, candidate: u32) {
        for (number, id) in self.canaries(candidate) {
            let old_serves = self
                .slots
                .get(&number)
                .and_then(|slot| self.workers.get(&slot.current?))
                .is_some_and(|old| old.is_serving() && !old.ending.has_begun());
            if old_serves {
                self.retire(now, id);
            } else {
                self.take_over(now, number);
            }
        }
    }

    /// Whether there are signs that the canary has ended.
    pub(super) fn canary_is_dying(&self, candidate: u32) -> bool {
        self.canaries(candidate)
            .iter()
            .filter_map(|(_, id)| self.workers.get(id))
            .any(|canary| canary.ending.has_begun())
    }

    /// The slots in which a worker of this generation serves beside the old one.
    fn canaries(&self, candidate: u32) -> Vec<(u32, WorkerId)> {
        self.slots
            .iter()
            .filter_map(|(number, slot)| {
                let worker = self.workers.get(&slot.replacement?)?;
                (worker.is_serving() && worker.identity.generation == candidate)
                    .then_some((*number, worker.identity.id))
            })
            .collect()
    }

    /// Takes the next steps of a reload whose canary has proven itself.
    pub(super) fn roll(&mut self, now: Moment, candidate: u32) {
        // Without slots there is nothing to take over; after an upgrade that is the end.
        if (self.target() == 0 && !self.is_exchanging()) || !self.can_fork(candidate) {
            return;
        }
        let Some(policy) = self.generations.get(&candidate).map(|new| &new.policy) else {
            return;
        };
        let unavailable = policy.reload_max_unavailable;
        match policy.reload_strategy {
            ReloadStrategy::Parallel => {
                for number in self.slots_of_others(candidate) {
                    self.start_replacement(now, number, candidate);
                }
            }
            ReloadStrategy::Rolling if unavailable > 0 => {
                for number in self.slots_of_others(candidate) {
                    if self.slots_without_service() >= unavailable {
                        break;
                    }
                    self.exchange(now, number, candidate);
                }
            }
            ReloadStrategy::Rolling => {
                let under_way = self
                    .workers
                    .values()
                    .any(|worker| worker.identity.generation == candidate && worker.is_starting());
                if !under_way
                    && !self.is_replacing()
                    && let Some(number) = self.slots_of_others(candidate).first()
                {
                    self.start_replacement(now, *number, candidate);
                }
            }
        }
        let all_switched = self.slots.values().all(|slot| {
            slot.current
                .and_then(|id| self.workers.get(&id))
                .is_some_and(|worker| {
                    worker.identity.generation == candidate && worker.is_serving()
                })
        });
        // The listeners that the new configuration no longer wants can go when none of
        // the old workers accepts any more.
        let old_accept = self
            .workers
            .values()
            .any(|worker| worker.identity.generation != candidate && worker.may_accept());
        if all_switched && !old_accept {
            self.reload_done(now, candidate);
        }
    }

    /// The slots that a worker of another generation has, and no replacement yet. An
    /// empty slot is filled from the new generation anyway, with back-off.
    fn slots_of_others(&self, candidate: u32) -> Vec<u32> {
        let committed = self.is_exchanging();
        self.slots
            .iter()
            .filter(|(_, slot)| slot.replacement.is_none())
            .filter(|(_, slot)| !committed || slot.backoff.may_try())
            .filter(|(_, slot)| {
                slot.current
                    .and_then(|id| self.workers.get(&id))
                    .is_some_and(|worker| worker.identity.generation != candidate)
            })
            .map(|(number, _)| *number)
            .collect()
    }

    /// How many slots have no worker that serves.
    pub(super) fn slots_without_service(&self) -> u32 {
        let serves = |id: Option<WorkerId>| {
            id.and_then(|id| self.workers.get(&id))
                .is_some_and(Worker::is_serving)
        };
        let count = self
            .slots
            .values()
            .filter(|slot| !serves(slot.current) && !serves(slot.replacement))
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether new workers have the code of the current generation, whatever is on the disk.
    pub(super) fn has_old_code(&self) -> bool {
        self.policy().is_some_and(|policy| policy.preload)
    }

    fn can_fork(&self, number: u32) -> bool {
        self.generations
            .get(&number)
            .is_some_and(Generation::can_fork)
    }

    fn is_replacing(&self) -> bool {
        self.slots.values().any(|slot| slot.replacement.is_some())
    }

    /// Starts a second worker in a slot, which takes it over when it is ready.
    fn start_replacement(&mut self, now: Moment, number: u32, generation: u32) {
        let id = self.spawn(now, number, generation);
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.replacement = id;
        }
    }

    /// Lets the worker of a slot go and starts the next one.
    fn exchange(&mut self, now: Moment, number: u32, generation: u32) {
        let Some(id) = self.spawn(now, number, generation) else {
            return;
        };
        let old = self
            .slots
            .get_mut(&number)
            .and_then(|slot| slot.current.replace(id));
        if let Some(old) = old {
            self.retire(now, old);
        }
    }

    /// Replaces, one at a time, workers of a generation that was rejected after they
    /// had taken over.
    pub(super) fn roll_back(&mut self, now: Moment) {
        let current = self.current;
        if !self.has_old_code() || !self.can_fork(current) || self.is_replacing() {
            return;
        }
        let is_rejected = |id: WorkerId| {
            self.workers.get(&id).is_some_and(|worker| {
                worker.is_serving()
                    && self
                        .generations
                        .get(&worker.identity.generation)
                        .is_some_and(|generation| generation.standing == Standing::Rejected)
            })
        };
        let next = self
            .slots
            .iter()
            .find(|(_, slot)| slot.backoff.may_try() && slot.current.is_some_and(is_rejected))
            .map(|(number, _)| *number);
        if let Some(number) = next {
            self.start_replacement(now, number, current);
        }
    }
}
