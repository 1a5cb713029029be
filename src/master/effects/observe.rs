//! Looking at the workers: their scoreboards, and `/proc`.
//!
//! Nothing here waits for a worker, so it works also when all of them hang.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rsgun_core::ipc::WorkerId;
use rsgun_core::scoreboard::{Scoreboard, now_ms};

use super::{Effects, words};
use crate::control::document::{Request, Status, Threads, Totals};
use crate::master::event::Reading;
use crate::master::memory;
use crate::master::moment::Moment;
use crate::master::notice::{InFlight, seconds};
use crate::master::spawn::WorkerHandle;
use crate::master::state::State;
use crate::master::status::Observed;

impl Effects {
    /// Looks at every worker, and at the memory of these.
    pub(super) fn inspect(&self, memory_of: &[(WorkerId, i32)]) -> Vec<Reading> {
        let reading = |(id, worker): (&WorkerId, &WorkerHandle)| {
            let pid = memory_of.iter().find(|(known, _)| known == id);
            Reading {
                id: *id,
                phase: worker.scoreboard.phase(),
                heartbeat: Moment::from_ms(worker.scoreboard.heartbeat_ms()),
                busy_ms: worker.scoreboard.busy_us.load(Relaxed) / 1000,
                resident: pid.and_then(|(_, pid)| memory::resident(*pid)),
            }
        };
        self.workers.iter().map(reading).collect()
    }

    /// The requests that a worker is or was working on.
    pub(super) fn serving(&self, id: WorkerId) -> Option<InFlight> {
        let scoreboard = &self.workers.get(&id)?.scoreboard;
        let running = scoreboard.running();
        let now = now_ms();
        let named: Vec<String> = running
            .iter()
            .map(|request| {
                let age = Duration::from_millis(now.saturating_sub(request.started_ms));
                let line = request.line.as_deref().unwrap_or("a request");
                format!("{line} ({})", seconds(age))
            })
            .collect();
        let active = usize::try_from(scoreboard.active.load(Relaxed)).unwrap_or(0);
        let more = active.saturating_sub(named.len());
        Some(InFlight {
            named,
            more,
            is_known: true,
        })
    }

    /// The state of the server, as the control socket tells it.
    #[must_use]
    pub(in crate::master) fn status(&self, state: &State, now: Moment) -> Status {
        let mut status = state.status(now, |id, pid| self.observe(id, pid, now));
        words::shown_name(&self.own).clone_into(&mut status.name);
        status.listeners = words::urls(&self.listeners);
        let mut totals = self.dead.clone();
        for worker in self.workers.values() {
            add(&mut totals, &worker.scoreboard);
        }
        status.totals = Totals {
            workers_started: status.totals.workers_started,
            restarts: status.totals.restarts,
            ..totals
        };
        status
    }

    fn observe(&self, id: WorkerId, pid: Option<i32>, now: Moment) -> Option<Observed> {
        let board = &self.workers.get(&id)?.scoreboard;
        let oldest = board.running().into_iter().next();
        Some(Observed {
            phase: board.phase(),
            heartbeat: Moment::from_ms(board.heartbeat_ms()),
            requests: board.requests.load(Relaxed),
            active: board.active.load(Relaxed),
            connections: board.connections.load(Relaxed),
            websockets: board.websockets.load(Relaxed),
            threads: threads(board),
            resident: pid.and_then(memory::resident),
            oldest: oldest.map(|request| Request {
                line: request.line.unwrap_or_else(|| "a request".to_owned()),
                age_s: now.since(Moment::from_ms(request.started_ms)).as_secs_f64(),
            }),
        })
    }

    /// Keeps the counts of a worker that is gone.
    pub(super) fn keep_counts(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id) {
            add(&mut self.dead, &worker.scoreboard);
        }
    }
}

/// The threads of a worker that runs a WSGI application, which has at least one of them.
fn threads(board: &Scoreboard) -> Option<Threads> {
    let count = board.threads.load(Relaxed);
    (count > 0).then(|| Threads {
        count,
        idle: board.idle_threads.load(Relaxed),
        queued: board.queued.load(Relaxed),
        waits: board.waits.load(Relaxed),
        waited_s: waited(board),
    })
}

/// How long the requests of a worker have waited for a thread.
fn waited(board: &Scoreboard) -> f64 {
    Duration::from_micros(board.wait_sum_us.load(Relaxed)).as_secs_f64()
}

/// Adds what a worker has done. Its memory is its own to write: sums may wrap, and
/// nothing else can happen.
fn add(totals: &mut Totals, board: &Scoreboard) {
    let sum = |total: &mut u64, counter: &AtomicU64| {
        *total = total.wrapping_add(counter.load(Relaxed));
    };
    sum(&mut totals.requests, &board.requests);
    sum(&mut totals.bytes_in, &board.bytes_in);
    sum(&mut totals.bytes_out, &board.bytes_out);
    sum(&mut totals.waits, &board.waits);
    totals.waited_s += waited(board);
    for (total, counter) in totals.status.iter_mut().zip(&board.status) {
        sum(total, counter);
    }
}
