//! Reload: a new generation takes over, one slot at a time, or nothing changes.
//!
//! ```text
//!   Resolving ─▶ Loading ─▶ Rolling: canary ─▶ slot 2 ─▶ slot 3 … ─▶ done
//!       └───────────┴──────────┴──────────────────┴─▶ failed: the old one serves on
//! ```
//!
//! The configuration is read and new addresses are bound first, then a new fork
//! server is started, then one worker: the canary. Only when that is ready is the
//! first old worker told to drain. Each next replacement is asked for when the one
//! before is ready; the old ones drain meanwhile.
//!
//! When anything fails, the new fork server and the new workers that are not ready
//! are ended and the old generation stays the current one. The canary makes a
//! failure after the first slots were switched rare. If it happens all the same:
//!
//! * with `--preload` the old fork server still has the old code, so the switched
//!   slots go back to it, replacement ready first, and all workers run one version;
//! * without it any new worker, of whichever generation, imports what is on the disk,
//!   so the workers that have switched stay.

use rsgun_core::ipc::WorkerId;

use super::event::{Action, Policy};
use super::generation::{Cause, Generation, Standing};
use super::moment::Moment;
use super::notice::Notice;
use super::state::State;

/// A reload in progress.
#[derive(Debug)]
pub(super) struct Reload {
    generation: u32,
    stage: ReloadStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadStage {
    /// The configuration is being read.
    Resolving,
    /// The fork server is starting, or its first worker is.
    Unproven,
    /// A worker of the new generation has been ready.
    Proven,
}

/// How a reload went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The generation that it was to bring.
    pub(super) generation: u32,
    /// When it was over.
    pub(super) at: Moment,
    /// Why it failed; `None` when it did not.
    pub(super) failure: Option<Cause>,
}

impl State {
    pub(super) fn reload_ordered(&mut self, now: Moment) {
        if self.is_booting() || self.reload.is_some() {
            self.reload_waits = true;
            self.notify(Notice::ReloadWaits);
        } else {
            self.start_reload(now);
        }
    }

    fn start_reload(&mut self, _now: Moment) {
        self.last_generation += 1;
        let generation = self.last_generation;
        self.reload = Some(Reload {
            generation,
            stage: ReloadStage::Resolving,
        });
        self.notify(Notice::ReloadStarted { generation });
        self.act(Action::Resolve { generation });
    }

    pub(super) fn on_resolved(&mut self, now: Moment, generation: u32, policy: Policy) {
        match &mut self.reload {
            Some(reload)
                if reload.generation == generation && reload.stage == ReloadStage::Resolving =>
            {
                reload.stage = ReloadStage::Unproven;
                let candidate = Generation::new(Standing::Candidate, policy, now);
                self.generations.insert(generation, candidate);
                self.act(Action::StartForkServer {
                    generation,
                    like: None,
                });
            }
            _ => self.act(Action::ForgetGeneration { generation }),
        }
    }

    /// The generation that a reload is about to bring.
    pub(super) fn reload_generation(&self) -> Option<u32> {
        self.reload.as_ref().map(|reload| reload.generation)
    }

    /// The same, once a worker of it has been ready.
    pub(super) fn proven_candidate(&self) -> Option<u32> {
        self.reload
            .as_ref()
            .filter(|reload| reload.stage == ReloadStage::Proven)
            .map(|reload| reload.generation)
    }

    pub(super) fn canary_ready(&mut self, generation: u32) {
        if let Some(reload) = &mut self.reload
            && reload.generation == generation
        {
            reload.stage = ReloadStage::Proven;
        }
    }

    pub(super) fn reload_failed(&mut self, now: Moment, cause: Cause) {
        let Some(reload) = self.reload.take() else {
            return;
        };
        let generation = reload.generation;
        let of_candidate = |state: &Self, serving: bool| -> Vec<WorkerId> {
            state
                .workers
                .values()
                .filter(|worker| worker.identity.generation == generation)
                .filter(|worker| {
                    if serving {
                        worker.is_serving()
                    } else {
                        worker.is_starting()
                    }
                })
                .map(|worker| worker.identity.id)
                .collect()
        };
        for id in of_candidate(self, false) {
            self.cancel(now, id);
        }
        let switched = of_candidate(self, true).len();
        if let Some(candidate) = self.generations.get_mut(&generation) {
            candidate.standing = Standing::Rejected;
        }
        self.close_server(now, generation);
        self.last_reload = Some(Outcome {
            generation,
            at: now,
            failure: Some(cause.clone()),
        });
        let keeping = self.current;
        self.notify(Notice::ReloadFailed {
            generation,
            keeping,
            switched,
            cause,
        });
    }

    /// Takes the next step of a reload, or of the way back from one.
    pub(super) fn settle_reload(&mut self, now: Moment) {
        if self.reload.is_none() && self.reload_waits && !self.is_booting() {
            self.reload_waits = false;
            self.start_reload(now);
        }
        match &self.reload {
            Some(reload) if reload.stage == ReloadStage::Resolving => {}
            Some(reload) => {
                let candidate = reload.generation;
                let proven = reload.stage == ReloadStage::Proven;
                self.roll(now, candidate, proven);
            }
            None => self.roll_back(now),
        }
    }

    fn roll(&mut self, now: Moment, candidate: u32, proven: bool) {
        // Without slots there is nobody to prove the new generation.
        if self.target() == 0
            || !self
                .generations
                .get(&candidate)
                .is_some_and(Generation::can_fork)
        {
            return;
        }
        let under_way = self
            .workers
            .values()
            .any(|worker| worker.identity.generation == candidate && worker.is_starting());
        if under_way || self.slots.values().any(|slot| slot.replacement.is_some()) {
            return;
        }
        let runs_candidate = |id: WorkerId| {
            self.workers
                .get(&id)
                .is_some_and(|worker| worker.identity.generation == candidate)
        };
        let next = self
            .slots
            .iter()
            .find(|(_, slot)| match slot.current {
                Some(id) => !runs_candidate(id),
                // Once the generation is proven, an empty slot is filled from it anyway,
                // with back-off.
                None => !proven,
            })
            .map(|(number, slot)| (*number, slot.current.is_none()));
        if let Some((number, empty)) = next {
            let id = self.spawn(now, number, candidate);
            if let Some(slot) = self.slots.get_mut(&number) {
                *(if empty {
                    &mut slot.current
                } else {
                    &mut slot.replacement
                }) = id;
            }
            return;
        }
        let all_switched = self
            .slots
            .values()
            .all(|slot| slot.current.is_some_and(runs_candidate));
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

    fn reload_done(&mut self, now: Moment, candidate: u32) {
        self.reload = None;
        let former: Vec<u32> = self
            .generations
            .keys()
            .copied()
            .filter(|number| *number != candidate)
            .collect();
        for number in former {
            if let Some(generation) = self.generations.get_mut(&number) {
                generation.standing = Standing::Former;
            }
            self.close_server(now, number);
        }
        if let Some(generation) = self.generations.get_mut(&candidate) {
            generation.standing = Standing::Current;
        }
        self.current = candidate;
        self.server_backoff.reset();
        self.last_reload = Some(Outcome {
            generation: candidate,
            at: now,
            failure: None,
        });
        self.act(Action::Adopt {
            generation: candidate,
        });
        self.notify(Notice::Reloaded {
            generation: candidate,
        });
        // The new configuration may want another number of workers.
        self.settle_slots(now);
    }

    /// Replaces, one at a time, workers of a generation that was rejected after they
    /// had taken over.
    fn roll_back(&mut self, now: Moment) {
        let current = self.current;
        let can = self
            .generations
            .get(&current)
            .is_some_and(|generation| generation.can_fork() && generation.policy.preload);
        if !can || self.slots.values().any(|slot| slot.replacement.is_some()) {
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
            let id = self.spawn(now, number, current);
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.replacement = id;
            }
        }
    }
}
