//! What the decisions depend on, written down for another program.
//!
//! A record says what is, not what was about to happen: the successor settles, and so
//! finds out itself what is missing.

use std::time::Duration;

use rsgun_core::ipc::{Identity, WorkerId};
use serde::{Deserialize, Serialize};

use super::Upgrade;
use super::orphans::Offspring;
use crate::master::event::{Command, Policy};
use crate::master::generation::{Generation, Standing};
use crate::master::moment::Moment;
use crate::master::reload::Outcome;
use crate::master::slot::{Backoff, Loss, Slot};
use crate::master::state::{Lifecycle, State};
use crate::master::status::Condition;
use crate::master::worker::{Stage, Worker};

/// A [`State`] as another program can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct StateRecord {
    current: u32,
    last_generation: u32,
    last_worker: u64,
    adjustment: i64,
    scaled_to: Option<u32>,
    dismissed: bool,
    reload_waits: bool,
    seed: u64,
    kept: Vec<Command>,
    generations: Vec<GenerationRecord>,
    workers: Vec<WorkerRecord>,
    slots: Vec<SlotRecord>,
    #[serde(default)]
    past: PastRecord,
}

/// What is told of the time so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct PastRecord {
    started_at: Option<Moment>,
    condition: Condition,
    losses: u64,
    last_reload: Option<Outcome>,
    #[serde(default)]
    last_upgrade: Option<Outcome>,
    /// For this program alone, if the next one gives up.
    #[serde(default)]
    upgrade: Option<UpgradeRecord>,
    server_backoff: Backoff,
}

/// The upgrade that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UpgradeRecord {
    /// The worker that it has brought.
    identity: Identity,
    /// What that may take to finish requests in flight, milliseconds.
    grace_ms: u64,
    orphans: Offspring,
}

/// A generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "as in a fork server's record"
)]
pub(in crate::master) struct GenerationRecord {
    /// Its number.
    pub(in crate::master) number: u32,
    standing: Standing,
    /// What its workers were promised, milliseconds.
    graceful_timeout_ms: u64,
    pid: Option<i32>,
    stage: Stage,
    gone: bool,
    greeted: bool,
    asked: bool,
    configured: bool,
    warned: bool,
    #[serde(default)]
    workers: u32,
    #[serde(default)]
    when_ready: bool,
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WorkerRecord {
    identity: Identity,
    pid: Option<i32>,
    asked_at: Moment,
    stage: Stage,
    was_ready: bool,
    stopped_accepting: bool,
    retire_at: Option<Moment>,
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SlotRecord {
    number: u32,
    current: Option<WorkerId>,
    replacement: Option<WorkerId>,
    losses: u64,
    #[serde(default)]
    last_loss: Option<Loss>,
    #[serde(default)]
    backoff: Backoff,
}

impl StateRecord {
    /// Writes a state down.
    pub(in crate::master) fn of(state: &State) -> Self {
        Self {
            current: state.current,
            last_generation: state.last_generation,
            last_worker: state.last_worker,
            adjustment: state.adjustment,
            scaled_to: state.scaled_to,
            dismissed: state.dismissed,
            reload_waits: state.reload_waits,
            seed: state.seed,
            kept: state.kept.clone(),
            generations: state
                .generations
                .iter()
                .map(|(number, generation)| GenerationRecord::of(*number, generation))
                .collect(),
            workers: state.workers.values().map(WorkerRecord::of).collect(),
            slots: state
                .slots
                .iter()
                .map(|(number, slot)| SlotRecord {
                    number: *number,
                    current: slot.current,
                    replacement: slot.replacement,
                    losses: slot.losses,
                    last_loss: slot.last_loss.clone(),
                    backoff: slot.backoff.clone(),
                })
                .collect(),
            past: PastRecord {
                started_at: Some(state.started_at),
                condition: state.condition,
                losses: state.losses,
                last_reload: state.last_reload.clone(),
                last_upgrade: state.last_upgrade.clone(),
                upgrade: state.upgrade.as_ref().map(UpgradeRecord::of),
                server_backoff: state.server_backoff.clone(),
            },
        }
    }

    /// The number of the generation that new workers come from.
    pub(in crate::master) fn current(&self) -> u32 {
        self.current
    }

    /// The state again; `policy` says what counts for a generation.
    pub(in crate::master) fn restore(
        self,
        now: Moment,
        policy: impl Fn(&GenerationRecord) -> Policy,
    ) -> State {
        let mut state = State::empty(now);
        state.lifecycle = Lifecycle::Running;
        state.announced = true;
        state.current = self.current;
        state.last_generation = self.last_generation;
        state.last_worker = self.last_worker;
        state.adjustment = self.adjustment;
        state.scaled_to = self.scaled_to;
        state.dismissed = self.dismissed;
        state.reload_waits = self.reload_waits;
        state.seed = self.seed;
        state.kept = self.kept;
        state.started_at = self.past.started_at.unwrap_or(now);
        state.condition = self.past.condition;
        state.losses = self.past.losses;
        state.last_reload = self.past.last_reload;
        state.last_upgrade = self.past.last_upgrade;
        state.upgrade = self.past.upgrade.map(UpgradeRecord::restore);
        state.server_backoff = self.past.server_backoff;
        for record in self.generations {
            let policy = policy(&record);
            let number = record.number;
            state
                .generations
                .insert(number, record.restore(now, policy));
        }
        for record in self.workers {
            let worker = record.restore(now);
            state.workers.insert(worker.identity.id, worker);
        }
        for record in self.slots {
            let slot = Slot {
                current: record.current,
                replacement: record.replacement,
                losses: record.losses,
                last_loss: record.last_loss,
                backoff: record.backoff,
            };
            state.slots.insert(record.number, slot);
        }
        state
    }
}

impl UpgradeRecord {
    fn of(upgrade: &Upgrade) -> Self {
        Self {
            identity: upgrade.identity,
            grace_ms: u64::try_from(upgrade.grace.as_millis()).unwrap_or(u64::MAX),
            orphans: upgrade.orphans,
        }
    }

    fn restore(self) -> Upgrade {
        let grace = Duration::from_millis(self.grace_ms);
        Upgrade::executing(self.identity, grace, self.orphans)
    }
}

impl GenerationRecord {
    fn of(number: u32, generation: &Generation) -> Self {
        let server = &generation.server;
        let graceful_timeout = generation.policy.graceful_timeout.as_millis();
        Self {
            number,
            standing: generation.standing,
            graceful_timeout_ms: u64::try_from(graceful_timeout).unwrap_or(u64::MAX),
            pid: server.pid,
            stage: server.stage,
            gone: server.gone,
            greeted: server.greeted,
            asked: server.asked,
            configured: server.configured,
            warned: server.warned,
            workers: server.workers,
            when_ready: server.when_ready,
            closed: server.ending.is_closed(),
        }
    }

    /// What the workers of this generation were promised, with what else counts today.
    pub(in crate::master) fn promised(&self, today: &Policy) -> Policy {
        Policy {
            graceful_timeout: Duration::from_millis(self.graceful_timeout_ms),
            ..today.clone()
        }
    }

    fn restore(self, now: Moment, policy: Policy) -> Generation {
        let mut generation = Generation::new(self.standing, policy, now);
        let server = &mut generation.server;
        server.pid = self.pid;
        server.stage = self.stage;
        server.gone = self.gone;
        server.greeted = self.greeted;
        server.asked = self.asked;
        server.configured = self.configured;
        server.warned = self.warned;
        server.workers = self.workers;
        server.when_ready = self.when_ready;
        if self.closed {
            server.ending.channel_dropped();
        }
        generation
    }
}

impl WorkerRecord {
    fn of(worker: &Worker) -> Self {
        Self {
            identity: worker.identity,
            pid: worker.pid,
            asked_at: worker.asked_at,
            stage: worker.stage,
            was_ready: worker.was_ready,
            stopped_accepting: worker.stopped_accepting,
            retire_at: worker.retire_at,
            closed: worker.ending.is_closed(),
        }
    }

    fn restore(self, now: Moment) -> Worker {
        let mut worker = Worker::new(self.identity, self.asked_at, None);
        worker.pid = self.pid;
        worker.stage = self.stage;
        worker.was_ready = self.was_ready;
        worker.stopped_accepting = self.stopped_accepting;
        worker.retire_at = self.retire_at;
        if self.closed {
            let known = self.pid.is_some();
            worker.ending.closed(now, known);
        }
        worker
    }
}
