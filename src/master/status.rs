//! The state of the server, told: for the control socket, and for the title of the
//! master.
//!
//! A server is *degraded* when it serves with fewer workers than it should and knows no
//! better than to try again: a slot whose workers keep failing, or no fork server. A
//! single crash, the replacement of which is on its way, is none.

use std::mem;

use rsgun_core::config::Size;
use rsgun_core::ipc::WorkerId;
use rsgun_core::scoreboard::Phase as Announced;
use serde::{Deserialize, Serialize};

use super::event::Action;
use super::generation::Generation;
use super::moment::Moment;
use super::notice::Notice;
use super::reload::Outcome;
use super::state::{Lifecycle, State};
use super::worker::{Stage, Worker};
use crate::control::document::{
    self, Ended, Phase, Renewal, Request, Slot, Status, Threads, Totals,
};

/// Failures in a row that make a missing worker more than an accident.
const FAILURES: u32 = 2;

/// Whether the server is degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Condition {
    /// It is not.
    #[default]
    Sound,
    /// It is.
    Degraded,
}

/// What the scoreboard of a worker, and `/proc`, show.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// The phase that it has announced.
    pub(super) phase: Announced,
    /// When its event loop last came round; 0 before the first time.
    pub(super) heartbeat: Moment,
    /// Requests answered.
    pub(super) requests: u64,
    /// Requests that the application works on.
    pub(super) active: u32,
    /// Open connections.
    pub(super) connections: u32,
    /// Those that are WebSockets.
    pub(super) websockets: u32,
    /// The threads that run a WSGI application.
    pub(super) threads: Option<Threads>,
    /// Resident memory.
    pub(super) resident: Option<Size>,
    /// The oldest request in flight.
    pub(super) oldest: Option<Request>,
}

impl State {
    /// The state as a document. What only the effects know (`name`, `listeners`, and the
    /// counts of `totals`) is left empty; `observe` looks at a worker.
    #[must_use]
    pub(super) fn status(
        &self,
        now: Moment,
        observe: impl Fn(WorkerId, Option<i32>) -> Option<Observed>,
    ) -> Status {
        let slots = self.slots.iter().map(|(number, slot)| Slot {
            slot: *number,
            restarts: slot.losses,
            last_exit: slot.last_loss.as_ref().map(|loss| Ended {
                reason: loss.reason.clone(),
                seconds_ago: now.since(loss.at).as_secs_f64(),
            }),
            retry_in_s: slot
                .backoff
                .deadline()
                .map(|at| at.since(now).as_secs_f64()),
        });
        let workers = self.workers.values().map(|worker| {
            let observed = observe(worker.identity.id, worker.pid);
            describe(worker, now, observed)
        });
        let wanted = self.target();
        Status {
            version: rsgun_core::VERSION.to_owned(),
            pid: std::process::id(),
            name: String::new(),
            uptime_s: now.since(self.started_at).as_secs_f64(),
            phase: self.phase(),
            degraded: self.degraded(),
            generation: self.current,
            workers_wanted: wanted,
            workers_serving: wanted.saturating_sub(self.slots_without_service()),
            listeners: Vec::new(),
            slots: slots.collect(),
            workers: workers.collect(),
            totals: Totals {
                workers_started: self.last_worker,
                restarts: self.losses,
                ..Totals::default()
            },
            last_reload: self.last_reload().map(|last| renewal(last, now)),
            last_upgrade: self.last_upgrade.as_ref().map(|last| renewal(last, now)),
        }
    }

    fn phase(&self) -> Phase {
        match self.lifecycle {
            Lifecycle::Booting => Phase::Booting,
            Lifecycle::Stopping(_) => Phase::Stopping,
            Lifecycle::Running if self.departs_at.is_some() => Phase::Draining,
            Lifecycle::Running if self.reload.is_some() => Phase::Reloading,
            Lifecycle::Running if self.condition == Condition::Degraded => Phase::Degraded,
            Lifecycle::Running => Phase::Serving,
        }
    }

    /// Why the server is degraded, one sentence each; empty when it is not.
    fn degraded(&self) -> Vec<String> {
        if !matches!(self.lifecycle, Lifecycle::Running) {
            return Vec::new();
        }
        let serves = |id: Option<WorkerId>| {
            id.and_then(|id| self.workers.get(&id))
                .is_some_and(Worker::is_serving)
        };
        let mut reasons: Vec<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.backoff.failures() >= FAILURES)
            .filter(|(_, slot)| !serves(slot.current) && !serves(slot.replacement))
            .map(|(number, slot)| {
                let last = slot.last_loss.as_ref();
                let reason = last.map_or("keeps failing", |loss| loss.reason.as_str());
                format!("slot {number} has no worker that serves, the last one {reason}")
            })
            .collect();
        let can_fork = self
            .generations
            .get(&self.current)
            .is_some_and(Generation::can_fork);
        if !can_fork && self.server_backoff.failures() >= FAILURES {
            reasons.push("there is no fork server for new workers, it keeps failing".to_owned());
        }
        reasons
    }

    /// Shows when the server becomes, or is no longer, degraded.
    pub(super) fn settle_condition(&mut self) {
        let reasons = self.degraded();
        let condition = if reasons.is_empty() {
            Condition::Sound
        } else {
            Condition::Degraded
        };
        if mem::replace(&mut self.condition, condition) == condition {
            return;
        }
        self.act(Action::ShowCondition(condition));
        match condition {
            Condition::Degraded => self.notify(Notice::Degraded { reasons }),
            Condition::Sound if self.is_stopping() => {}
            Condition::Sound => self.notify(Notice::Recovered),
        }
    }
}

fn describe(worker: &Worker, now: Moment, observed: Option<Observed>) -> document::Worker {
    let phase = match (worker.stage, &observed) {
        (Stage::Aborted { .. } | Stage::Killed, _) => "killed",
        _ if worker.silent_since.is_some() => "stuck",
        (Stage::Leaving { .. }, Some(seen)) if seen.phase < Announced::Draining => "draining",
        // The worker of a candidate that has died shows nothing.
        (Stage::Leaving { .. }, None) if worker.ending.is_closed() => "draining",
        (_, Some(seen)) => seen.phase.name(),
        (_, None) => "starting",
    };
    let (requests, active, connections, websockets) =
        observed.as_ref().map_or((0, 0, 0, 0), |seen| {
            (
                seen.requests,
                seen.active,
                seen.connections,
                seen.websockets,
            )
        });
    let heartbeat = observed
        .as_ref()
        .map(|seen| seen.heartbeat)
        .filter(|at| at.as_ms() > 0);
    document::Worker {
        slot: worker.identity.slot,
        pid: worker.pid,
        generation: worker.identity.generation,
        phase: phase.to_owned(),
        uptime_s: now.since(worker.asked_at).as_secs_f64(),
        silent_s: heartbeat.map(|at| now.since(at).as_secs_f64()),
        busy: worker
            .busy
            .map(|share| f64::from(u32::try_from(share).unwrap_or(1000)) / 1000.0),
        requests,
        active,
        connections,
        websockets,
        threads: observed.as_ref().and_then(|seen| seen.threads.clone()),
        rss_bytes: observed
            .as_ref()
            .and_then(|seen| seen.resident.map(Size::bytes)),
        oldest_request: observed.and_then(|seen| seen.oldest),
    }
}

fn renewal(last: &Outcome, now: Moment) -> Renewal {
    Renewal {
        generation: last.generation,
        ok: last.failure.is_none(),
        seconds_ago: now.since(last.at).as_secs_f64(),
        message: last.failure.as_ref().map(|cause| cause.message.clone()),
        traceback: last
            .failure
            .as_ref()
            .and_then(|cause| cause.traceback.clone()),
    }
}
