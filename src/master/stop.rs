//! Stopping: gracefully, quickly, at once. It only ever becomes more urgent.
//!
//! With `--drain-delay` a TERM only announces the stop at first: the workers go on
//! accepting, so that balancers have time to look elsewhere, and answer with
//! `Connection: close`. When the delay is over, or another signal comes, it begins.
//!
//! * **Graceful** (TERM): each worker takes what waits to be accepted, shuts the
//!   listeners down at once (new clients are refused from then on instead of waiting in
//!   a queue that nobody reads), answers everything, and ends. If no worker comes to do
//!   it, the master shuts the listeners down when the last one has stopped accepting.
//! * **Quick** (INT, QUIT): workers cancel what runs, and run the lifespan shutdown.
//! * **At once** (a signal after INT or QUIT): SIGKILL.
//!
//! Workers that are not ready have nothing to lose and get a short time in any case.

use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::ipc::{DrainReason, ToWorker, WorkerId};

use super::event::{Action, Command};
use super::moment::Moment;
use super::notice::Notice;
use super::state::{Lifecycle, State};
use super::supervision::{CANCEL_LIMIT, DRAIN_MARGIN};
use super::worker::{Stage, Worker};

/// How long workers have when the stop is quick: for what is cancelled, and for the lifespan
/// shutdown, in which Quart gives background tasks 5 seconds of its own.
const QUICK_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to end killed processes before the master ends
/// without them: one in uninterruptible sleep may take for ever.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How much of a hurry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Every accepted request is answered.
    Graceful,
    /// Requests are cancelled, the lifespan shutdown runs.
    Quick,
    /// Everything is killed.
    Now,
}

/// A stop in progress.
#[derive(Debug)]
pub(super) struct Stop {
    urgency: Urgency,
    code: u8,
    /// The master ends at this time, whoever is left.
    pub(super) give_up: Option<Moment>,
    /// The last hook is called at this time, whichever killed worker is left.
    pub(super) last_hook_by: Option<Moment>,
    listeners_closed: bool,
    /// [`Action::Exit`] was asked for.
    over: bool,
}

impl Stop {
    /// Gives the kernel more time.
    pub(super) fn extend(&mut self, time: Duration) {
        for by in [&mut self.give_up, &mut self.last_hook_by] {
            *by = by.map(|by| by + time);
        }
    }

    /// Whether there is a limit for its last part.
    pub(super) fn is_limited(&self) -> bool {
        self.give_up.or(self.last_hook_by).is_some()
    }
}

impl State {
    pub(super) fn stop_ordered(&mut self, now: Moment, command: Command) {
        let wanted = if command == Command::Stop {
            Urgency::Graceful
        } else {
            Urgency::Quick
        };
        let delay = self
            .policy()
            .map_or(Duration::ZERO, |policy| policy.drain_delay);
        let Lifecycle::Stopping(stop) = &mut self.lifecycle else {
            let is_server = !self.is_booting() && self.candidate.is_none();
            let may_wait = wanted == Urgency::Graceful && is_server;
            if may_wait && !delay.is_zero() && self.departs_at.is_none() {
                self.stop_later(now, delay);
                return;
            }
            self.notify(Notice::Stopping { urgency: wanted });
            self.begin_stop(now, wanted, 0);
            return;
        };
        let urgency = match stop.urgency {
            Urgency::Graceful => wanted,
            Urgency::Quick | Urgency::Now => Urgency::Now,
        };
        if urgency > stop.urgency {
            stop.urgency = urgency;
            self.notify(Notice::Stopping { urgency });
            self.hasten(now, urgency);
        }
    }

    /// Lets the server stop after a while.
    fn stop_later(&mut self, now: Moment, delay: Duration) {
        self.departs_at = Some(now + delay);
        self.reload_waits = false;
        self.upgrade_waits = false;
        self.end_candidate(now);
        self.notify(Notice::StopsSoon { delay });
        let serving: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| worker.is_serving())
            .map(|worker| worker.identity.id)
            .collect();
        for id in serving {
            self.announce_stop(id);
        }
    }

    /// Tells a worker that the server stops soon.
    pub(super) fn announce_stop(&mut self, id: WorkerId) {
        let order = ToWorker::StopsSoon;
        self.act(Action::Tell { id, order });
    }

    /// The delay of a stop is over.
    pub(super) fn depart(&mut self, now: Moment) {
        let urgency = Urgency::Graceful;
        self.notify(Notice::Stopping { urgency });
        self.begin_stop(now, urgency, 0);
    }

    pub(super) fn begin_stop(&mut self, now: Moment, urgency: Urgency, code: u8) {
        self.lifecycle = Lifecycle::Stopping(Stop {
            urgency,
            code,
            give_up: None,
            last_hook_by: None,
            listeners_closed: false,
            over: false,
        });
        self.departs_at = None;
        self.reload = None;
        self.reload_waits = false;
        self.upgrade_waits = false;
        self.end_candidate(now);
        self.hasten(now, urgency);
    }

    /// Whether requests in flight do not count any more.
    pub(super) fn stops_quickly(&self) -> bool {
        matches!(&self.lifecycle, Lifecycle::Stopping(stop) if stop.urgency > Urgency::Graceful)
    }

    /// Gives every process the order that suits the urgency.
    fn hasten(&mut self, now: Moment, urgency: Urgency) {
        match urgency {
            Urgency::Graceful => {}
            Urgency::Quick => self.hurry_candidate(now),
            Urgency::Now => self.kill_candidate(),
        }
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in workers {
            self.hasten_worker(now, id, urgency);
        }
        let generations: Vec<u32> = self.generations.keys().copied().collect();
        for number in generations {
            if urgency == Urgency::Now || !self.stays_for_hooks(number) {
                self.close_server(now, number);
            }
            if urgency == Urgency::Now {
                self.kill_server(number, Signal::SIGKILL);
            }
        }
    }

    /// Has those that a candidate has left behind hurry as everybody else does.
    pub(super) fn hasten_orphans(&mut self, now: Moment, number: u32) {
        let Lifecycle::Stopping(Stop { urgency, .. }) = self.lifecycle else {
            return;
        };
        let of_generation = |worker: &&Worker| worker.identity.generation == number;
        let orphan = self.workers.values().find(of_generation);
        if let Some(id) = orphan.map(|worker| worker.identity.id) {
            self.hasten_worker(now, id, urgency);
        }
        if urgency == Urgency::Now {
            self.kill_server(number, Signal::SIGKILL);
        }
    }

    fn hasten_worker(&mut self, now: Moment, id: WorkerId, urgency: Urgency) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.is_starting() && urgency != Urgency::Now {
            self.cancel(now, id);
            return;
        }
        match (urgency, worker.stage) {
            (_, Stage::Killed)
            | (Urgency::Graceful | Urgency::Quick, Stage::Aborted { .. })
            | (Urgency::Graceful, Stage::Leaving { .. }) => {}
            (Urgency::Graceful, _) => {
                let within = self
                    .workers
                    .get(&id)
                    .map(|worker| self.graceful_timeout(worker));
                let within = within.unwrap_or_default();
                self.leave(now, id);
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                let reason = if self.candidate.is_some() {
                    DrainReason::Replaced
                } else {
                    DrainReason::Stop
                };
                let order = ToWorker::Drain { within_ms, reason };
                self.act(Action::Tell { id, order });
            }
            (Urgency::Quick, stage) => {
                let limit = now + QUICK_LIMIT;
                let by = match stage {
                    Stage::Leaving { by, .. } => by.min(limit),
                    _ => limit,
                };
                worker.stage = Stage::Leaving { since: now, by };
                let no_channel = worker.ending.is_closed();
                if let Some(pid) = worker.pid.filter(|_| !worker.ending.has_exited()) {
                    self.act(if no_channel {
                        let signal = Signal::SIGINT;
                        Action::Kill { pid, signal }
                    } else {
                        let order = ToWorker::Quit;
                        Action::Tell { id, order }
                    });
                }
            }
            (Urgency::Now, _) => {
                if worker.pid.is_some() {
                    self.kill_worker(now, id);
                } else {
                    // Its fork server is killed as well, so it ends, or says Hello
                    // and is killed then.
                    worker.stage = Stage::Leaving {
                        since: now,
                        by: now + CANCEL_LIMIT,
                    };
                }
            }
        }
    }

    /// Lets the fork server go that has stayed for the hooks, when nothing is left that one
    /// could be called for.
    fn settle_last_hook(&mut self, now: Moment) {
        let killed = |worker: &Worker| worker.stage == Stage::Killed;
        let all_killed = self.workers.values().all(killed);
        let nobody = self.workers.is_empty();
        let waits = self.stays_for_hooks(self.current);
        let Lifecycle::Stopping(stop) = &mut self.lifecycle else {
            return;
        };
        if !waits || !all_killed {
            stop.last_hook_by = None;
            return;
        }
        let by = *stop.last_hook_by.get_or_insert(now + KILL_LIMIT);
        if nobody || by <= now {
            stop.last_hook_by = None;
            self.call_last_hook(now);
        }
    }

    /// Closes the listeners when it is time, and ends when nobody is left.
    pub(super) fn settle_stop(&mut self, now: Moment) {
        let accepting = self.workers.values().any(Worker::may_accept);
        let left: Vec<i32> = self
            .generations
            .values()
            .filter(|generation| !generation.server.gone)
            .map(|generation| (generation.server.pid, generation.server.stage))
            .chain(
                self.workers
                    .values()
                    .map(|worker| (worker.pid, worker.stage)),
            )
            .filter_map(|(pid, _)| pid)
            .chain(self.candidate_pid())
            .collect();
        let all_killed = self
            .generations
            .values()
            .filter(|generation| !generation.server.gone)
            .map(|generation| generation.server.stage)
            .chain(self.workers.values().map(|worker| worker.stage))
            .all(|stage| stage == Stage::Killed)
            && self.candidate_is_doomed();
        self.settle_last_hook(now);
        let nobody_left = self.workers.is_empty()
            && self.upgrade.is_none()
            && self
                .generations
                .values()
                .all(|generation| generation.server.gone);
        let Lifecycle::Stopping(stop) = &mut self.lifecycle else {
            return;
        };
        if stop.over {
            return;
        }
        let mut actions = Vec::new();
        if !stop.listeners_closed && (stop.urgency == Urgency::Now || !accepting) {
            stop.listeners_closed = true;
            actions.push(Action::CloseListeners);
        }
        if all_killed && !nobody_left && stop.give_up.is_none() {
            stop.give_up = Some(now + KILL_LIMIT);
        }
        let given_up = stop.give_up.is_some_and(|at| at <= now);
        if nobody_left || given_up {
            stop.over = true;
            stop.give_up = None;
            if !nobody_left {
                actions.push(Action::Notify(Notice::LeftBehind { pids: left }));
            }
            if stop.code == 0 {
                actions.push(Action::Notify(Notice::Finished));
            }
            actions.push(Action::Exit { code: stop.code });
        }
        self.actions.append(&mut actions);
    }
}

// A quick stop cancels at once and needs what a graceful one needs after its time-out.
const _: () = assert!(DRAIN_MARGIN.as_secs() <= QUICK_LIMIT.as_secs());
