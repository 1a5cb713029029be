//! Reload: a new generation takes over, one slot at a time, or nothing changes.
//!
//! ```text
//!   Resolving ─▶ Unproven ─▶ Probation ─▶ Proven ─▶ done
//!       └───────────┴────────────┴───────────┴─▶ failed: the old one serves on
//! ```
//!
//! The configuration is read and new addresses are bound first, then a new fork
//! server is started, then one worker: the canary. When it is ready it serves beside
//! the old workers for its probation time. Only when it has survived that is the first
//! old worker told to drain, and the other slots follow (`roll.rs`).
//!
//! When anything fails, the new fork server and the new workers that are not ready
//! are ended and the old generation stays the current one. The canary makes a
//! failure after the first slots were switched rare. If it happens all the same:
//!
//! * with `--preload` the old fork server still has the old code, so the switched
//!   slots go back to it, replacement ready first, and all workers run one version;
//! * without it any new worker, of whichever generation, imports what is on the disk,
//!   so the workers that have switched stay.

use std::time::Duration;

use rsgun_core::config::PythonFile;
use rsgun_core::ipc::WorkerId;
use rsgun_core::listeners::Names;
use serde::{Deserialize, Serialize};

use super::event::{Action, Policy};
use super::generation::{Cause, Generation, Standing};
use super::moment::Moment;
use super::notice::Notice;
use super::state::State;
use super::worker::Label;

/// How long the probation goes on when its end finds the canary dying, but its death is
/// not certain yet.
const CERTAINTY: Duration = Duration::from_millis(250);

/// A reload in progress.
#[derive(Debug)]
pub(super) struct Reload {
    generation: u32,
    stage: ReloadStage,
    /// There is no way back: the workers are exchanged after an upgrade.
    committed: bool,
}

impl Reload {
    /// The exchange of the workers after an upgrade, whose first one serves.
    pub(super) fn committed(generation: u32) -> Self {
        Self {
            generation,
            stage: ReloadStage::Proven,
            committed: true,
        }
    }

    pub(super) fn is_committed(&self) -> bool {
        self.committed
    }

    /// The fork server has died: its successor goes on.
    pub(super) fn go_on_with(&mut self, generation: u32) {
        if self.committed {
            self.generation = generation;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadStage {
    /// The configuration is being read.
    Resolving,
    /// The fork server is starting, or its first worker is.
    Unproven,
    /// The first worker is ready, and has until then to show that it stays.
    Probation { until: Moment },
    /// The first worker has stayed.
    Proven,
}

/// How a reload or an upgrade went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
        if self.is_booting() || self.reload.is_some() || self.upgrade.is_some() {
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
            committed: false,
        });
        self.notify(Notice::ReloadStarted { generation });
        self.act(Action::Resolve {
            generation,
            file: None,
            names: Names::default(),
        });
    }

    /// The configuration can be read without waiting for name servers, unless it has
    /// changed meanwhile.
    pub(super) fn on_hosts_known(
        &mut self,
        generation: u32,
        file: Option<Box<PythonFile>>,
        names: Names,
    ) {
        if self.reload_generation() == Some(generation) {
            self.act(Action::Resolve {
                generation,
                file,
                names,
            });
        }
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
            // Its fork server has evaluated the configuration.
            Some(reload) if reload.generation == generation => {
                if let Some(candidate) = self.generations.get_mut(&generation) {
                    candidate.policy = policy;
                    self.configure(generation);
                }
            }
            // It has failed meanwhile, and is forgotten when its processes are gone.
            _ if self.generations.contains_key(&generation) => {}
            _ => self.act(Action::ForgetGeneration { generation }),
        }
    }

    /// The generation that a reload, or an upgrade, is about to bring.
    pub(super) fn reload_generation(&self) -> Option<u32> {
        self.reload.as_ref().map(|reload| reload.generation)
    }

    /// Whether a failure of this generation ends the reload.
    pub(super) fn is_on_trial(&self, generation: u32) -> bool {
        self.reload
            .as_ref()
            .is_some_and(|reload| reload.generation == generation && !reload.committed)
    }

    /// The same, once a worker of it has been ready.
    pub(super) fn proven_candidate(&self) -> Option<u32> {
        self.reload
            .as_ref()
            .filter(|reload| reload.stage == ReloadStage::Proven)
            .map(|reload| reload.generation)
    }

    /// Whether this is the generation whose first worker is on probation.
    pub(super) fn is_on_probation(&self, generation: u32) -> bool {
        self.reload.as_ref().is_some_and(|reload| {
            reload.generation == generation && matches!(reload.stage, ReloadStage::Probation { .. })
        })
    }

    /// When the probation ends, if there is one.
    pub(super) fn probation_end(&self) -> Option<Moment> {
        match self.reload.as_ref()?.stage {
            ReloadStage::Probation { until } => Some(until),
            ReloadStage::Resolving | ReloadStage::Unproven | ReloadStage::Proven => None,
        }
    }

    /// Gives the first worker of a reload or of a candidate more time to show that it stays.
    pub(super) fn extend_probation(&mut self, time: Duration) {
        if let Some(Reload {
            stage: ReloadStage::Probation { until },
            ..
        }) = &mut self.reload
        {
            *until = *until + time;
        }
        self.proved_at = self.proved_at.map(|at| at + time);
    }

    /// A worker of this generation is ready: if it is the first one of a reload, its
    /// probation begins.
    pub(super) fn canary_ready(&mut self, now: Moment, generation: u32) {
        let probation = self
            .generations
            .get(&generation)
            .map_or(Duration::ZERO, |new| new.policy.reload_probation);
        if let Some(reload) = &mut self.reload
            && reload.generation == generation
            && reload.stage == ReloadStage::Unproven
        {
            reload.stage = if probation.is_zero() {
                ReloadStage::Proven
            } else {
                let until = now + probation;
                ReloadStage::Probation { until }
            };
        }
    }

    /// A worker that served is lost to `fate`, a verb phrase. If it was on probation, the
    /// reload fails.
    pub(super) fn worker_lost(
        &mut self,
        now: Moment,
        worker: Label,
        fate: &str,
        traceback: Option<String>,
    ) {
        let generation = worker.identity.generation;
        let proves = self.candidate.is_some() && !self.is_stopping();
        if !self.is_on_probation(generation) && !proves {
            return;
        }
        let slot = worker.identity.slot;
        let cause = Cause {
            traceback,
            ..Cause::boot(format!(
                "Worker {slot}, the first one of generation {generation}, {fate} within its \
                 probation time (--reload-probation)"
            ))
        };
        if proves {
            self.boot_failed(now, cause);
        } else {
            self.reload_failed(now, cause);
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
                        // The one whose death ends the reload is not buried yet.
                        worker.is_serving() && !worker.ending.has_exited()
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
        self.withdraw_canary(now, generation);
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
        let goes_back = self.has_old_code();
        self.notify(Notice::ReloadFailed {
            generation,
            keeping,
            switched,
            goes_back,
            cause,
        });
    }

    /// Takes the next step of a reload, or of the way back from one.
    pub(super) fn settle_reload(&mut self, now: Moment) {
        if self.reload.is_none()
            && self.upgrade.is_none()
            && self.reload_waits
            && !self.is_booting()
        {
            self.reload_waits = false;
            self.start_reload(now);
        }
        let is_dying = self
            .reload_generation()
            .is_some_and(|candidate| self.canary_is_dying(candidate));
        let Some(reload) = &mut self.reload else {
            self.roll_back(now);
            return;
        };
        let candidate = reload.generation;
        match reload.stage {
            ReloadStage::Probation { until } if until <= now => {
                if is_dying {
                    let until = now + CERTAINTY;
                    reload.stage = ReloadStage::Probation { until };
                    return;
                }
                reload.stage = ReloadStage::Proven;
                self.admit_canary(now, candidate);
                self.settle_slots(now);
                self.roll(now, candidate);
            }
            ReloadStage::Resolving | ReloadStage::Probation { .. } => {}
            ReloadStage::Unproven => self.start_canary(now, candidate),
            ReloadStage::Proven => self.roll(now, candidate),
        }
    }

    pub(super) fn reload_done(&mut self, now: Moment, candidate: u32) {
        let was_upgrade = self.reload.take().is_some_and(|reload| reload.committed);
        let workers_before = self.target();
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
        let outcome = Outcome {
            generation: candidate,
            at: now,
            failure: None,
        };
        if was_upgrade {
            self.last_upgrade = Some(outcome.clone());
        }
        self.last_reload = Some(outcome);
        let workers = self
            .workers
            .values()
            .filter(|worker| worker.identity.generation == candidate)
            .filter(|worker| worker.is_serving() && !worker.ending.has_begun())
            .map(|worker| worker.identity.id)
            .collect();
        self.act(Action::Adopt {
            generation: candidate,
            workers,
        });
        self.notify(if was_upgrade {
            Notice::Upgraded {
                generation: candidate,
            }
        } else {
            Notice::Reloaded {
                generation: candidate,
            }
        });
        // The new configuration may want another number of workers.
        let workers_after = self.target();
        if workers_before != workers_after {
            self.notify(Notice::WorkersWanted {
                before: workers_before,
                after: workers_after,
            });
        }
        // It may have been changed since the new fork server was told.
        let told = self
            .generations
            .get(&candidate)
            .map(|new| new.server.workers);
        self.workers_changed(told.unwrap_or(workers_before), workers_after);
        self.settle_slots(now);
    }
}
