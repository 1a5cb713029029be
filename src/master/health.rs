//! Health: workers that give no sign of life, or hold too much memory.
//!
//! Once a second the scoreboards are looked at, and `/proc` if there is a limit on
//! memory. A worker whose event loop has not come round for `--timeout` is stuck: it
//! is asked for its stacks, the log gets them with its requests in flight, a
//! replacement is started, and it is ended, by SIGABRT and then by SIGKILL.
//!
//! A worker or fork server that is about to be killed because it was not ready, or did
//! not end, in time is asked for its stacks as well.

use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::config::Size;
use rsgun_core::ipc::WorkerId;
use rsgun_core::scoreboard::Phase;

use super::event::{Action, Asked, Policy, Reading};
use super::moment::Moment;
use super::notice::Notice;
use super::state::State;
use super::worker::{Inquiry, Label, Reason, Stage, Worker};

/// The longest time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a process has for writing its stacks.
const STACKS_LIMIT: Duration = Duration::from_secs(2);
/// How long SIGABRT has before SIGKILL follows.
const ABORT_LIMIT: Duration = Duration::from_secs(1);
/// How many looks in a row must show too much memory.
const LARGE_READINGS: u32 = 3;
/// A worker that is replaced for its memory has served this long: with a limit that is
/// too low for the application, workers would else be replaced without pause.
const LARGE_SERVICE: Duration = Duration::from_secs(5);

impl State {
    /// Looks at the workers when it is time, if there is anything to look for.
    pub(super) fn settle_inspection(&mut self, now: Moment) {
        let Some(interval) = self
            .generations
            .values()
            .filter_map(|generation| interval(&generation.policy))
            .min()
        else {
            self.inspect_at = None;
            return;
        };
        let at = *self.inspect_at.get_or_insert(now + interval);
        if at > now {
            return;
        }
        self.inspect_at = Some(now + interval);
        let memory_of = self
            .workers
            .values()
            .filter(|worker| self.limits_memory(worker))
            .filter_map(|worker| Some((worker.identity.id, worker.pid?)))
            .collect();
        self.act(Action::Inspect { memory_of });
    }

    fn limits_memory(&self, worker: &Worker) -> bool {
        self.policy_of(worker)
            .is_some_and(|policy| policy.max_rss.is_some() || policy.hard_max_rss.is_some())
    }

    pub(super) fn policy_of(&self, worker: &Worker) -> Option<&Policy> {
        self.generations
            .get(&worker.identity.generation)
            .map(|generation| &generation.policy)
    }

    pub(super) fn on_inspected(&mut self, now: Moment, readings: &[Reading]) {
        for reading in readings {
            let Some(worker) = self.workers.get(&reading.id) else {
                continue;
            };
            if !worker.was_ready || worker.stage.is_doomed() || worker.ending.has_exited() {
                continue;
            }
            self.judge_silence(now, reading);
            self.judge_load(now, reading);
            if let Some(resident) = reading.resident {
                self.judge_memory(now, reading.id, resident);
            }
        }
        self.settle_scaling(now);
    }

    fn judge_silence(&mut self, now: Moment, reading: &Reading) {
        let resumed_at = self.resumed_at;
        let Some(worker) = self.workers.get(&reading.id) else {
            return;
        };
        let timeout = self.policy_of(worker).and_then(|policy| policy.timeout);
        // The lifespan shutdown gives no sign of life; the graceful time-out bounds it.
        let gives_signs =
            matches!(reading.phase, Phase::Serving | Phase::Draining) && !worker.is_debugged;
        let heard = reading.heartbeat.max(resumed_at);
        let is_silent = gives_signs && timeout.is_some_and(|limit| now.since(heard) >= limit);
        if let Some(worker) = self.workers.get_mut(&reading.id)
            && worker.inquiry == Inquiry::NotNeeded
        {
            worker.silent_since = is_silent.then_some(heard);
        }
    }

    fn judge_memory(&mut self, now: Moment, id: WorkerId, resident: Size) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some((soft, hard)) = self
            .policy_of(worker)
            .map(|policy| (policy.max_rss, policy.hard_max_rss))
        else {
            return;
        };
        if let Some(limit) = hard.filter(|limit| resident >= *limit) {
            let label = worker.label();
            let fate = format!("held {resident} of memory, more than {limit} (--hard-max-rss),");
            let retry_in = self.lose(now, id, fate.trim_end_matches(','));
            self.notify(Notice::WorkerTooLarge {
                worker: label,
                resident,
                limit,
                retry_in,
            });
            self.kill_worker(now, id);
            self.worker_lost(now, label, &fate, None);
            return;
        }
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(limit) = soft.filter(|limit| resident >= *limit) else {
            worker.too_large = 0;
            return;
        };
        worker.too_large = worker.too_large.saturating_add(1);
        let has_served = worker
            .served(now)
            .is_some_and(|served| served >= LARGE_SERVICE);
        if worker.too_large >= LARGE_READINGS && has_served {
            self.recycle(now, id, Reason::Memory { resident, limit });
        }
    }

    pub(super) fn on_stacks(&mut self, of: Asked, stacks: Option<String>) {
        match of {
            Asked::Worker(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.inquiry.answer(stacks);
                }
            }
            Asked::ForkServer(number) => {
                if let Some(generation) = self.generations.get_mut(&number) {
                    generation.server.inquiry.answer(stacks);
                }
            }
        }
    }

    /// Asks a worker for its stacks, once. Returns whether its answer must be waited for.
    pub(super) fn awaits_stacks(&mut self, now: Moment, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        let asked = ask(&mut worker.inquiry, now, worker.pid, Asked::Worker(id));
        let waits = matches!(worker.inquiry, Inquiry::Asked { .. });
        self.actions.extend(asked);
        waits
    }

    /// The same for a fork server. One that has not been configured yet would be ended
    /// by the question.
    pub(super) fn server_awaits_stacks(&mut self, now: Moment, number: u32) -> bool {
        let Some(generation) = self.generations.get_mut(&number) else {
            return false;
        };
        let server = &mut generation.server;
        let pid = server.pid.filter(|_| server.greeted);
        let asked = ask(&mut server.inquiry, now, pid, Asked::ForkServer(number));
        let waits = matches!(server.inquiry, Inquiry::Asked { .. });
        self.actions.extend(asked);
        waits
    }

    /// Ends a worker that is stuck. Its stacks are there, or will not come.
    pub(super) fn give_up_on(&mut self, now: Moment, id: WorkerId) {
        let Some((label, stacks)) = self.lose_stuck(now, id) else {
            return;
        };
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(pid) = worker.pid
        {
            worker.stage = Stage::Aborted {
                by: now + ABORT_LIMIT,
            };
            self.act(Action::Kill {
                pid,
                signal: Signal::SIGABRT,
            });
        }
        self.worker_lost(now, label, "was stuck", stacks);
    }

    /// Takes a worker that is stuck out of its slot, and says so. Returns its stacks, too.
    pub(super) fn lose_stuck(
        &mut self,
        now: Moment,
        id: WorkerId,
    ) -> Option<(Label, Option<String>)> {
        let worker = self.workers.get_mut(&id)?;
        let label = worker.label();
        let stacks = worker.inquiry.take();
        let silent = worker
            .silent_since
            .map_or(Duration::ZERO, |since| now.since(since));
        let retry_in = self.lose(now, id, "was stuck");
        self.notify(Notice::WorkerStuck {
            worker: label,
            silent,
            stacks: stacks.clone(),
            retry_in,
        });
        Some((label, stacks))
    }

    /// Takes a worker that serves out of its slot; `fate` is a verb phrase. Returns when
    /// the next one is started; `None` if none is, since the worker was leaving anyway or
    /// its slot is gone.
    pub(super) fn lose(&mut self, now: Moment, id: WorkerId, fate: &str) -> Option<Duration> {
        let worker = self.workers.get(&id)?;
        let served = worker.served(now);
        let number = worker.identity.slot;
        let slot = self.slots.get_mut(&number)?;
        let held = slot.current == Some(id);
        slot.release(id);
        self.losses += 1;
        held.then(|| slot.fail(now, served, fate.to_owned()))
    }
}

/// How often workers with these settings must be looked at, if at all. A short time-out
/// needs more than a look a second.
pub(super) fn interval(policy: &Policy) -> Option<Duration> {
    let silence = policy.timeout.map(|limit| (limit / 4).min(INTERVAL));
    let memory = policy.max_rss.or(policy.hard_max_rss).map(|_| INTERVAL);
    let load = policy.bounds.map(|_| INTERVAL);
    silence.into_iter().chain(memory).chain(load).min()
}

/// Asks a process for its stacks unless that was done before.
fn ask(inquiry: &mut Inquiry, now: Moment, pid: Option<i32>, of: Asked) -> Option<Action> {
    let by = now + STACKS_LIMIT;
    let pid = pid.filter(|_| *inquiry == Inquiry::NotNeeded)?;
    *inquiry = Inquiry::Asked { by };
    Some(Action::AskForStacks { of, pid })
}
