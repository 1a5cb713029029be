//! Births and farewells: the part of the state machine that fills slots, and makes
//! room in them.

use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::ipc::{DRAIN_MARGIN_MS, DrainReason, ToWorker, WorkerId};

use super::event::Action;
use super::generation::{Generation, Standing};
use super::moment::Moment;
use super::notice::Notice;
use super::state::{Lifecycle, State};
use super::worker::{Stage, Worker};

/// What a worker gets beyond the graceful time-out before it is killed.
pub(super) const DRAIN_MARGIN: Duration = Duration::from_millis(DRAIN_MARGIN_MS);
/// How long a worker that is no longer wanted before it was ready may take to end.
pub(super) const CANCEL_LIMIT: Duration = Duration::from_secs(1);
/// The same for one whose process has not been heard of yet.
const UNBORN_LIMIT: Duration = Duration::from_secs(30);
/// How long a fork server may take to end.
pub(super) const FORK_SERVER_LIMIT: Duration = Duration::from_secs(5);
/// How long slow first workers may hold up the announcement that the server serves.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(2);

impl State {
    /// A worker accepts connections.
    pub(super) fn worker_ready(&mut self, now: Moment, id: WorkerId) {
        let Some(label) = self.workers.get(&id).map(Worker::label) else {
            return;
        };
        if self.is_booting() {
            self.candidate_ready(now);
            self.lifecycle = Lifecycle::Running;
            // A candidate has nothing to announce, and must not be woken for it.
            self.announce_by = (!self.announced).then(|| now + ANNOUNCE_LIMIT);
        }
        let retire_at = self
            .workers
            .get(&id)
            .and_then(|worker| self.end_of_service(now, worker));
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.retire_at = retire_at;
        }
        self.notify(Notice::WorkerReady { worker: label });
        if self.departs_at.is_some() {
            self.announce_stop(id);
        }
        self.canary_ready(now, label.identity.generation);
        let is_replacement = self
            .slots
            .get(&label.identity.slot)
            .is_some_and(|slot| slot.replacement == Some(id));
        if is_replacement && !self.is_on_probation(label.identity.generation) {
            self.take_over(now, label.identity.slot);
        }
    }

    /// The replacement in a slot becomes its current worker, and the old one goes.
    pub(super) fn take_over(&mut self, now: Moment, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        let Some(id) = slot.replacement.take() else {
            return;
        };
        slot.backoff.reset();
        if let Some(old) = slot.current.replace(id) {
            self.retire(now, old);
        }
    }

    /// Makes a worker end whose place is taken or gone.
    pub(super) fn retire(&mut self, now: Moment, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if worker.is_serving() {
            self.leave(now, id);
            let order = self.order_to_leave(id);
            self.act(Action::Tell { id, order });
        } else if worker.is_starting() {
            self.cancel(now, id);
        }
    }

    /// Makes a worker end that is not ready, as far as is known, and no longer wanted.
    ///
    /// Its word that it is ready may be on the way; then it has accepted requests, which it
    /// answers, and has the time for it ([`Self::ready_too_late`]).
    pub(super) fn cancel(&mut self, now: Moment, id: WorkerId) {
        self.release(id);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let limit = if worker.pid.is_some() {
            CANCEL_LIMIT
        } else {
            UNBORN_LIMIT
        };
        worker.stage = Stage::Leaving {
            since: now,
            by: now + limit,
        };
        // Without a pid the order waits until its first words are in: it is killed then.
        if let Some(pid) = worker.pid.filter(|_| !worker.ending.has_exited()) {
            let order = self.order_to_leave(id);
            self.act(Action::Tell { id, order });
            // It reads no order while it imports.
            self.act(Action::Kill {
                pid,
                signal: Signal::SIGTERM,
            });
        }
    }

    /// What a worker is told that is to make room.
    fn order_to_leave(&self, id: WorkerId) -> ToWorker {
        if self.stops_quickly() {
            return ToWorker::Quit;
        }
        let within = (self.workers.get(&id)).map(|worker| self.graceful_timeout(worker));
        let within = within.unwrap_or_default();
        ToWorker::Drain {
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            reason: DrainReason::Replaced,
        }
    }

    /// A worker was ready when it was told to make room as one that is not.
    pub(super) fn ready_too_late(&mut self, now: Moment, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && matches!(worker.stage, Stage::Leaving { .. })
            && !worker.was_ready
        {
            worker.was_ready = true;
            if !self.stops_quickly() {
                self.leave(now, id);
            }
        }
    }

    /// Notes that a worker is on its way out, within the graceful time-out.
    pub(super) fn leave(&mut self, now: Moment, id: WorkerId) {
        self.release(id);
        let Some(within) = self
            .workers
            .get(&id)
            .map(|worker| self.graceful_timeout(worker))
        else {
            return;
        };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.stage = Stage::Leaving {
                since: now,
                by: now + within + DRAIN_MARGIN,
            };
        }
    }

    /// A worker leaves that nobody has told to. What makes it do so may make the next one do
    /// the same as soon as it is ready, so its slot backs off as after a death.
    pub(super) fn leaves_unasked(&mut self, now: Moment, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (label, served) = (worker.label(), worker.served(now));
        let retry_in = (self.slots.get_mut(&label.identity.slot))
            .filter(|slot| slot.current == Some(id))
            .map(|slot| slot.backoff.fail(now, served));
        self.leave(now, id);
        if !self.is_stopping() {
            self.notify(Notice::WorkerLeaves {
                worker: label,
                retry_in,
            });
            self.worker_lost(now, label, "left without having been told to", None);
        }
    }

    pub(super) fn graceful_timeout(&self, worker: &Worker) -> Duration {
        self.generations
            .get(&worker.identity.generation)
            .map_or(Duration::ZERO, |generation| {
                generation.policy.graceful_timeout
            })
    }

    pub(super) fn release(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id)
            && let Some(slot) = self.slots.get_mut(&worker.identity.slot)
        {
            slot.release(id);
        }
    }

    /// Tells a fork server to end.
    pub(super) fn close_server(&mut self, now: Moment, number: u32) {
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        let server = &mut generation.server;
        if server.gone || server.stage.is_doomed() || matches!(server.stage, Stage::Leaving { .. })
        {
            return;
        }
        let loading = matches!(server.stage, Stage::Starting { .. });
        server.stage = Stage::Leaving {
            since: now,
            by: now + FORK_SERVER_LIMIT,
        };
        // Nothing more is read from it.
        server.ending.channel_dropped();
        self.act(Action::CloseForkServer { generation: number });
        if loading {
            // It reads its channel only when it has imported the application.
            self.kill_server(number, Signal::SIGTERM);
        }
    }

    /// Starts a fork server in the place of one that has died.
    pub(super) fn settle_fork_server(&mut self, now: Moment) {
        if !self.server_backoff.may_try() {
            return;
        }
        let former = self.current;
        let Some(generation) = self.generations.get_mut(&former) else {
            return;
        };
        if !generation.server.gone && generation.server.stage != Stage::Killed {
            return;
        }
        generation.standing = Standing::Former;
        let policy = generation.policy.clone();
        self.last_generation += 1;
        self.current = self.last_generation;
        let successor = Generation::new(Standing::Current, policy, now);
        self.generations.insert(self.current, successor);
        if let Some(reload) = &mut self.reload {
            reload.go_on_with(self.current);
        }
        self.act(Action::StartForkServer {
            generation: self.current,
            like: Some(former),
        });
    }

    /// Makes as many slots as there should be, and fills those that are empty.
    pub(super) fn settle_slots(&mut self, now: Moment) {
        let target = self.target();
        for number in 1..=target {
            self.slots.entry(number).or_default();
        }
        while let Some(entry) = self
            .slots
            .last_entry()
            .filter(|entry| *entry.key() > target)
        {
            let slot = entry.remove();
            for id in [slot.replacement, slot.current].into_iter().flatten() {
                self.retire(now, id);
            }
        }
        let Some(source) = self.source() else { return };
        let empty: Vec<u32> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                slot.current.is_none() && slot.replacement.is_none() && slot.backoff.may_try()
            })
            .map(|(number, _)| *number)
            .collect();
        for number in empty {
            let id = self.spawn(now, number, source);
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.current = id;
            }
        }
    }

    /// The generation that an empty slot is filled from; `None` while none can fork.
    pub(super) fn source(&self) -> Option<u32> {
        [self.proven_candidate(), Some(self.current)]
            .into_iter()
            .flatten()
            .find(|number| {
                self.generations
                    .get(number)
                    .is_some_and(Generation::can_fork)
            })
    }

    /// Drops generations of which no process is left.
    pub(super) fn forget_generations(&mut self) {
        let idle: Vec<u32> = self
            .generations
            .iter()
            .filter(|(number, generation)| {
                generation.server.gone
                    && matches!(generation.standing, Standing::Former | Standing::Rejected)
                    && !self
                        .workers
                        .values()
                        .any(|worker| worker.identity.generation == **number)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in idle {
            self.generations.remove(&number);
            self.act(Action::ForgetGeneration { generation: number });
        }
    }
}
