//! What becomes known of the processes: exits, and what fork servers and workers say.
//!
//! These run the application, as another user perhaps, and may say anything at any time.
//! So each word counts when its turn is, once if it is said once, and only about who has
//! said it: a fork server speaks for the workers of its generation, and a worker for itself.
//! What they can bring about is what they could do to themselves.

use std::mem;
use std::time::Duration;

use rsgun_core::ipc::{FromForkServer, FromWorker, ToWorker, WorkerId};

use super::event::Action;
use super::exit::Exit;
use super::generation::Cause;
use super::moment::Moment;
use super::notice::Notice;
use super::state::State;
use super::worker::{Inquiry, Reason, Stage};

/// How many exits of unknown processes are remembered, for workers that have not yet
/// told their pid.
const UNMATCHED_MAX: usize = 64;
/// How long the end of a process that nobody knows yet is kept for its first words.
const UNMATCHED_FOR: Duration = Duration::from_secs(10);
/// How long a process that has said why it cannot start may take to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl State {
    pub(super) fn on_exit(&mut self, now: Moment, pid: i32, exit: Exit) {
        if self.candidate_exited(now, pid, exit) {
            return;
        }
        if let Some(worker) = self
            .workers
            .values_mut()
            .find(|worker| worker.pid == Some(pid))
        {
            worker.ending.exited(now, exit);
        } else if let Some(generation) = self
            .generations
            .values_mut()
            .find(|generation| generation.server.pid == Some(pid) && !generation.server.gone)
        {
            generation.server.ending.exited(now, exit);
        } else {
            // An orphan that was handed to us, or a worker whose first message has not
            // been read yet.
            self.unmatched.push_back((now, pid, exit));
            if self.unmatched.len() > UNMATCHED_MAX {
                self.unmatched.pop_front();
            }
        }
    }

    pub(super) fn on_fork_server(&mut self, now: Moment, number: u32, message: FromForkServer) {
        let booting = self.is_booting();
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        let server = &mut generation.server;
        let is_starting = matches!(server.stage, Stage::Starting { .. });
        match message {
            FromForkServer::Hello { python, .. } if is_starting && !server.greeted => {
                server.greeted = true;
                let evaluates =
                    generation.policy.evaluates && !mem::replace(&mut server.asked, true);
                if booting && self.candidate.is_none() {
                    let workers = self.target();
                    self.notify(Notice::Starting { workers, python });
                }
                if evaluates {
                    self.act(Action::Evaluate { generation: number });
                } else {
                    self.configure(number);
                }
            }
            FromForkServer::Evaluated(file) if is_starting && !server.configured => {
                if !mem::replace(&mut server.evaluated, true) {
                    self.evaluated(number, file);
                }
            }
            FromForkServer::Loaded if is_starting => {
                server.stage = Stage::Serving { since: now };
            }
            // Said again it would have ever more time to end.
            FromForkServer::Unsuitable { .. } | FromForkServer::Failed(_)
                if server.failure.is_some() => {}
            FromForkServer::Unsuitable { reason } if is_starting => {
                server.failure = Some(Cause::configuration(reason));
                server.stage = Stage::Starting {
                    by: Some(now + LAST_WORDS),
                };
            }
            FromForkServer::Failed(failure) if is_starting => {
                server.failure = Some(failure.into());
                server.stage = Stage::Starting {
                    by: Some(now + LAST_WORDS),
                };
            }
            FromForkServer::Threads {
                count,
                names,
                forked,
            } => {
                if !mem::replace(&mut server.warned, true) {
                    let hooks = generation.policy.evaluates;
                    self.notify(Notice::Threads {
                        generation: number,
                        hooks,
                        count,
                        names,
                        forked,
                    });
                }
            }
            FromForkServer::Declined { code, reason } if booting => {
                self.start_declined(now, code, reason);
            }
            FromForkServer::SpawnFailed { id, error } if self.is_unborn(id, number) => {
                let cause = Cause::boot(format!("no new worker process: {error}"));
                self.start_failed(now, id, cause);
                self.forget_worker(id);
            }
            FromForkServer::Hello { .. }
            | FromForkServer::Evaluated(_)
            | FromForkServer::Loaded
            | FromForkServer::Declined { .. }
            | FromForkServer::Unsuitable { .. }
            | FromForkServer::Failed(_)
            | FromForkServer::SpawnFailed { .. } => {}
        }
    }

    /// Whether this worker is one that the fork server of a generation may have failed to
    /// make. It was born all the same, if it has said so.
    fn is_unborn(&self, id: WorkerId, generation: u32) -> bool {
        (self.workers.get(&id))
            .is_some_and(|it| it.pid.is_none() && it.identity.generation == generation)
    }

    /// Whether a process is somebody else already than a worker that was not heard of yet.
    fn is_known(&self, pid: i32) -> bool {
        let mut workers = self.workers.values();
        let mut servers = self.generations.values().map(|each| &each.server);
        workers.any(|worker| worker.pid == Some(pid) && !worker.ending.has_exited())
            || servers.any(|server| server.pid == Some(pid) && !server.ending.has_exited())
            || self.candidate_pid() == Some(pid)
    }

    pub(super) fn on_worker(&mut self, now: Moment, id: WorkerId, message: FromWorker) {
        let stopping = self.is_stopping();
        let is_new = |pid: i32| pid > 1 && !self.is_known(pid);
        let counts = match (&message, self.workers.get(&id)) {
            (FromWorker::Hello { pid }, Some(worker)) => worker.pid.is_none() && is_new(*pid),
            // It waits for the answer to that.
            (_, Some(worker)) => worker.pid.is_some(),
            (_, None) => false,
        };
        let Some(worker) = self.workers.get_mut(&id).filter(|_| counts) else {
            return;
        };
        match message {
            FromWorker::Hello { pid } => {
                worker.pid = Some(pid);
                // A pid comes round again: an old end is somebody else's.
                self.unmatched
                    .retain(|(seen, ..)| now.since(*seen) < UNMATCHED_FOR);
                if let Some(index) = self
                    .unmatched
                    .iter()
                    .position(|(_, known, _)| *known == pid)
                {
                    if let Some((.., exit)) = self.unmatched.remove(index) {
                        worker.ending.exited(now, exit);
                    }
                } else if stopping || !worker.is_starting() {
                    // It has done nothing yet that would be worth an orderly end.
                    self.kill_worker(now, id);
                } else {
                    self.act(Action::Tell {
                        id,
                        order: ToWorker::Acknowledge,
                    });
                }
            }
            FromWorker::Ready if worker.is_starting() => {
                worker.stage = Stage::Serving { since: now };
                worker.was_ready = true;
                // It may have been asked for its stacks in the last moment.
                worker.inquiry = Inquiry::NotNeeded;
                self.worker_ready(now, id);
            }
            FromWorker::Failed(_) if worker.failure.is_some() => {}
            FromWorker::Failed(failure) if worker.is_starting() => {
                worker.failure = Some(failure);
                worker.stage = Stage::Starting {
                    by: Some(now + LAST_WORDS),
                };
            }
            FromWorker::Spent { requests } => self.recycle(now, id, Reason::Requests(requests)),
            FromWorker::Hung { request } => self.recycle(now, id, Reason::Hung(request)),
            FromWorker::Draining => {
                worker.stopped_accepting = true;
                if worker.is_serving() {
                    self.leaves_unasked(now, id);
                }
            }
            FromWorker::Failed(failure) => worker.failure = Some(failure),
            FromWorker::WantsLogs => self.act(Action::ReopenLogs { only: Some(id) }),
            FromWorker::Debugged if worker.is_debugged => {}
            FromWorker::Debugged => {
                worker.is_debugged = true;
                if worker.is_starting() {
                    worker.stage = Stage::Starting { by: None };
                }
                let label = worker.label();
                self.notify(Notice::WorkerDebugged { worker: label });
            }
            FromWorker::Ready => self.ready_too_late(now, id),
        }
    }
}
