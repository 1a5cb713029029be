//! Deaths: the part of the state machine that buries the dead, tells why they died,
//! and kills whoever stays too long.

use std::fmt::Display;
use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::ipc::WorkerId;

use super::event::Action;
use super::exit::Exit;
use super::generation::{Cause, Generation, Standing};
use super::moment::Moment;
use super::notice::Notice;
use super::state::State;
use super::worker::{Inquiry, Label, Reason, Stage};

impl State {
    /// Does what is due because time has passed.
    pub(super) fn expire(&mut self, now: Moment) {
        for slot in self.slots.values_mut() {
            slot.backoff.expire(now);
        }
        self.server_backoff.expire(now);
        let due = |deadline: Option<Moment>| deadline.is_some_and(|by| by <= now);
        let servers: Vec<u32> = self
            .generations
            .iter()
            .filter(|(_, generation)| due(generation.server.deadline()))
            .map(|(number, _)| *number)
            .collect();
        for number in servers {
            self.expire_server(now, number);
        }
        let workers: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| due(worker.deadline()))
            .map(|(id, _)| *id)
            .collect();
        for id in workers {
            self.expire_worker(now, id);
        }
    }

    fn expire_server(&mut self, now: Moment, number: u32) {
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        let server = &mut generation.server;
        if server.ending.has_exited() {
            return;
        }
        server.inquiry.expire(now);
        let stray = server.ending.is_stray(now);
        if stray {
            server.ending.stop_waiting();
        }
        let hangs = matches!(server.stage, Stage::Starting { by } if by.is_some_and(|by| by <= now))
            && server.failure.is_none();
        if hangs && self.server_awaits_stacks(now, number) {
            return;
        }
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        let server = &mut generation.server;
        let cause = match server.stage {
            Stage::Starting { by } if by.is_some_and(|by| by <= now) => {
                Some(server.failure.take().unwrap_or_else(|| {
                    overdue(
                        "The fork server",
                        generation.policy.boot_timeout,
                        server.inquiry.take(),
                    )
                }))
            }
            Stage::Starting { .. } | Stage::Serving { .. } if stray => Some(Cause::boot(
                "The fork server has closed its channel without ending".to_owned(),
            )),
            Stage::Leaving { by, .. } if by <= now => None,
            _ => return,
        };
        if let Some(cause) = cause {
            self.server_failed(now, number, cause);
        }
        self.kill_server(number, Signal::SIGKILL);
    }

    fn expire_worker(&mut self, now: Moment, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.ending.has_exited() {
            return;
        }
        worker.inquiry.expire(now);
        let stray = worker.ending.is_stray(now);
        if stray {
            worker.ending.stop_waiting();
        }
        let label = worker.label();
        let generation = worker.identity.generation;
        let hangs = match worker.stage {
            Stage::Starting { by } => {
                !stray && worker.failure.is_none() && by.is_some_and(|by| by <= now)
            }
            Stage::Serving { .. } => !stray && worker.silent_since.is_some(),
            Stage::Leaving { by, .. } => {
                worker.was_ready && (by <= now || worker.silent_since.is_some())
            }
            Stage::Aborted { .. } | Stage::Killed => false,
        };
        if hangs && self.awaits_stacks(now, id) {
            return;
        }
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match worker.stage {
            Stage::Starting { by } if stray || by.is_some_and(|by| by <= now) => {
                let reported = worker.failure.take();
                let stacks = worker.inquiry.take();
                let limit = self
                    .generations
                    .get(&generation)
                    .and_then(|g| g.policy.boot_timeout);
                let who = format!("Worker {}", label.identity.slot);
                let cause = reported.map_or_else(
                    || {
                        if stray {
                            let text = format!("{who} has closed its channel without ending");
                            Cause::boot(text)
                        } else {
                            overdue(&who, limit, stacks)
                        }
                    },
                    Cause::from,
                );
                self.start_failed(now, id, cause);
                self.kill_worker(now, id);
            }
            // It has lost its channel and so drains by itself.
            Stage::Serving { .. } if stray => self.leaves_unasked(now, id),
            Stage::Serving { .. } | Stage::Leaving { .. } if worker.silent_since.is_some() => {
                self.give_up_on(now, id);
            }
            Stage::Serving { since } if worker.retire_at.is_some_and(|at| at <= now) => {
                worker.retire_at = None;
                self.recycle(now, id, Reason::Lifetime(now.since(since)));
            }
            Stage::Leaving { since, by } if by <= now => {
                // Nobody waits for one that never served.
                if worker.was_ready {
                    self.tell_overdue(id, now.since(since));
                }
                self.kill_worker(now, id);
            }
            Stage::Aborted { by } if by <= now => self.kill_worker(now, id),
            _ => {}
        }
    }

    /// Says that a worker had `after` to end, and has not.
    fn tell_overdue(&mut self, id: WorkerId, after: Duration) {
        let quick = self.stops_quickly();
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let stacks = worker.inquiry.take();
        let label = worker.label();
        let worker = self.workers.get(&id).filter(|_| !quick);
        let graceful = worker.map(|worker| self.graceful_timeout(worker));
        self.notify(Notice::WorkerOverdue {
            worker: label,
            after,
            graceful,
            stacks,
        });
    }

    /// Takes note of processes whose end is certain.
    pub(super) fn bury(&mut self, now: Moment) {
        let servers: Vec<(u32, Exit)> = self
            .generations
            .iter()
            .filter(|(_, generation)| !generation.server.gone)
            .filter_map(|(number, generation)| {
                Some((*number, generation.server.ending.settled(now)?))
            })
            .collect();
        for (number, exit) in servers {
            self.bury_server(now, number, exit);
        }
        let workers: Vec<(WorkerId, Exit)> = self
            .workers
            .iter()
            .filter_map(|(id, worker)| Some((*id, worker.ending.settled(now)?)))
            .collect();
        for (id, exit) in workers {
            self.bury_worker(now, id, exit);
        }
    }

    fn bury_server(&mut self, now: Moment, number: u32, exit: Exit) {
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        let server = &mut generation.server;
        server.gone = true;
        if matches!(server.stage, Stage::Starting { .. } | Stage::Serving { .. }) {
            let interpreter = &generation.policy.interpreter;
            let cause = server.failure.take().unwrap_or_else(|| {
                if server.greeted {
                    Cause::boot(format!("The fork server {exit}"))
                } else {
                    Cause::configuration(ended_early(interpreter, exit))
                }
            });
            self.server_failed(now, number, cause);
        }
        self.act(Action::CloseForkServer { generation: number });
    }

    fn bury_worker(&mut self, now: Moment, id: WorkerId, exit: Exit) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let label = worker.label();
        // Then it was the question, and the reason for that is what counts.
        let by_question =
            matches!(worker.inquiry, Inquiry::Asked { .. }) && exit.may_be_of_question();
        match worker.stage {
            Stage::Starting { .. } => {
                let reported = worker.failure.take();
                let lost = worker.pid.is_none()
                    && self
                        .generations
                        .get(&label.identity.generation)
                        .is_none_or(|generation| generation.server.is_down());
                if lost {
                    // Its fork server has died with the request in its hands; the
                    // slot is not to blame.
                    self.release(id);
                } else {
                    let limit = (self.generations.get(&label.identity.generation))
                        .and_then(|generation| generation.policy.boot_timeout);
                    let unreported = || {
                        if by_question {
                            let who = format!("Worker {}", label.identity.slot);
                            overdue(&who, limit, None)
                        } else {
                            died_early(label, exit)
                        }
                    };
                    let cause = reported.map_or_else(unreported, Cause::from);
                    self.start_failed(now, id, cause);
                }
            }
            Stage::Serving { .. } | Stage::Leaving { .. }
                if by_question && worker.silent_since.is_some() =>
            {
                self.lose_stuck(now, id);
                self.worker_lost(now, label, "was stuck", None);
            }
            Stage::Leaving { since, .. } if by_question && worker.was_ready => {
                self.tell_overdue(id, now.since(since));
            }
            Stage::Serving { .. } => {
                let cause = worker.failure.take().map(Cause::from);
                let retry_in = self.lose(now, id, &exit.to_string());
                let traceback = cause.as_ref().and_then(|cause| cause.traceback.clone());
                self.notify(Notice::WorkerDied {
                    worker: label,
                    exit,
                    cause,
                    retry_in,
                });
                self.worker_lost(now, label, &exit.to_string(), traceback);
            }
            Stage::Leaving { .. } if worker.was_ready => {
                self.notify(Notice::WorkerEnded {
                    worker: label,
                    exit,
                });
            }
            Stage::Leaving { .. } | Stage::Aborted { .. } | Stage::Killed => {}
        }
        self.child_exited(label);
        self.forget_worker(id);
    }

    /// A worker will never be ready. It may still have a process.
    pub(super) fn start_failed(&mut self, now: Moment, id: WorkerId, cause: Cause) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.is_starting()) else {
            return;
        };
        let label = worker.label();
        let current_slot = label.identity.slot;
        self.release(id);
        if self.is_stopping() {
            return;
        }
        if self.is_unproven() {
            self.boot_failed(now, cause);
        } else if self.is_on_trial(label.identity.generation) {
            self.reload_failed(now, cause);
        } else if let Some(slot) = self.slots.get_mut(&current_slot) {
            let reason = cause.message.lines().next().unwrap_or_default();
            let retry_in = slot.fail(now, None, format!("could not start: {reason}"));
            self.losses += 1;
            self.notify(Notice::WorkerFailed {
                worker: label,
                cause,
                retry_in,
            });
        }
    }

    /// A fork server is of no more use, without having been told to end.
    pub(super) fn server_failed(&mut self, now: Moment, number: u32, cause: Cause) {
        // Sent to the whole process group, the signal to stop has ended it.
        if self.is_stopping() || self.departs_at.is_some() {
            return;
        }
        let Some(generation) = self.generations.get(&number) else {
            return;
        };
        let served = generation.server.served(now);
        match generation.standing {
            _ if self.is_unproven() => self.boot_failed(now, cause),
            Standing::Candidate => self.reload_failed(now, cause),
            Standing::Current => {
                let retry_in = self.server_backoff.fail(now, served);
                self.notify(Notice::ForkServerFailed {
                    generation: number,
                    cause,
                    retry_in,
                });
            }
            Standing::Former | Standing::Rejected => {}
        }
    }

    pub(super) fn forget_worker(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.remove(&id) {
            self.act(Action::ForgetWorker {
                identity: worker.identity,
            });
        }
    }

    /// Kills a worker. One that never told its pid is in the hands of its fork
    /// server, which then hangs and is killed in its place.
    pub(super) fn kill_worker(&mut self, now: Moment, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.ending.has_exited() {
            return;
        }
        worker.stage = Stage::Killed;
        let generation = worker.identity.generation;
        if let Some(pid) = worker.pid {
            self.act(Action::Kill {
                pid,
                signal: Signal::SIGKILL,
            });
            return;
        }
        if self
            .generations
            .get(&generation)
            .is_some_and(Generation::can_fork)
        {
            let cause = Cause::boot("The fork server does not fork".to_owned());
            self.server_failed(now, generation, cause);
        }
        self.kill_server(generation, Signal::SIGKILL);
    }

    /// Sends a signal to a fork server that was not reaped yet.
    pub(super) fn kill_server(&mut self, number: u32, signal: Signal) {
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        let server = &mut generation.server;
        if server.gone || server.ending.has_exited() {
            return;
        }
        if signal == Signal::SIGKILL {
            server.stage = Stage::Killed;
        }
        if let Some(pid) = server.pid {
            self.act(Action::Kill { pid, signal });
        }
    }
}

/// What is told of a process that was to be a fork server and has never said a word.
pub(super) fn ended_early(interpreter: impl Display, exit: Exit) -> String {
    format!(
        "{interpreter} {exit} before it had loaded rsgun\n\
         If it is not a Python, or a broken one, name another one with --python."
    )
}

fn overdue(who: &str, limit: Option<Duration>, stacks: Option<String>) -> Cause {
    let message = format!(
        "{who} was not ready within {} s and was killed: see what the application does while \
         it starts, or raise --boot-timeout",
        limit.unwrap_or_default().as_secs()
    );
    Cause {
        traceback: stacks,
        ..Cause::boot(message)
    }
}

fn died_early(worker: Label, exit: Exit) -> Cause {
    let slot = worker.identity.slot;
    let pid = worker
        .pid
        .map(|pid| format!(" [pid {pid}]"))
        .unwrap_or_default();
    Cause::boot(format!(
        "Worker {slot}{pid} {exit} before the application had started"
    ))
}
