//! What becomes known of the processes: exits, and what fork servers and workers say.

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
            FromForkServer::Hello { python, .. } if is_starting => {
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
                self.evaluated(number, file);
            }
            FromForkServer::Loaded if is_starting => {
                server.stage = Stage::Serving { since: now };
            }
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
            // It was born all the same, if it has said so.
            FromForkServer::SpawnFailed { id, .. } if self.is_born(id) => {}
            FromForkServer::SpawnFailed { id, error } => {
                let cause = Cause::boot(format!("no new worker process: {error}"));
                self.start_failed(now, id, cause);
                self.forget_worker(id);
            }
            FromForkServer::Hello { .. }
            | FromForkServer::Evaluated(_)
            | FromForkServer::Loaded
            | FromForkServer::Declined { .. }
            | FromForkServer::Unsuitable { .. }
            | FromForkServer::Failed(_) => {}
        }
    }

    fn is_born(&self, id: WorkerId) -> bool {
        (self.workers.get(&id)).is_some_and(|worker| worker.pid.is_some())
    }

    pub(super) fn on_worker(&mut self, now: Moment, id: WorkerId, message: FromWorker) {
        let stopping = self.is_stopping();
        let Some(worker) = self.workers.get_mut(&id) else {
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
                    let label = worker.label();
                    self.leave(now, id);
                    self.notify(Notice::WorkerLeaves { worker: label });
                }
            }
            FromWorker::Failed(failure) => worker.failure = Some(failure),
            FromWorker::WantsLogs => self.act(Action::ReopenLogs { only: Some(id) }),
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
