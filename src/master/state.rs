//! The decisions of the master, without any effect: an event and the time go in,
//! actions come out.
//!
//! # Theory of operation
//!
//! [`State::step`] notes what happened, lets deadlines expire, and then *settles*:
//! it compares what is with what should be and asks for the difference. Most
//! events therefore only change a record; that a slot is empty, that a reload may
//! go on or that the last process is gone is found in one place, whichever way it
//! came about.
//!
//! ```text
//!   Booting ── first worker ready ──▶ Running ── TERM, INT, QUIT ──▶ Stopping ─▶ exit
//!      └───────── any failure, or a signal ────────────────────────────▲
//! ```
//!
//! * **Booting**: all workers are asked for as soon as the fork server is loaded. The
//!   first failure of anything ends the master, with its exit code.
//! * **Running**: no failure ever ends the master. An empty slot is filled at once,
//!   after repeated failures with a growing delay. A fork server that dies is
//!   replaced by that of a new generation; the workers stay.
//! * A **reload** (`reload.rs`) is something that Running may contain; there is at most
//!   one, and at most one more waits.
//! * **Scaling** (`scaling.rs`) changes the number of workers with the load.
//! * **Recycling** (`recycle.rs`) replaces single workers while no reload does, and
//!   `health.rs` finds those that hang. Time in which nobody ran does not count
//!   (`pauses.rs`).
//! * **Stopping** (`stop.rs`) only ever becomes more urgent. With a drain delay the
//!   server goes on Running until it begins, and wishes other than to stop count no more.
//!
//! Promises, which the property tests hold it to: a worker that serves is told to
//! make room for a replacement only when that replacement is ready; every process
//! that was started is followed until it is gone; at most one worker is being started
//! for recycling, and none during a reload; a second INT always ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;

use nix::sys::signal::Signal;
use rsgun_core::ipc::{Identity, WorkerId};
use rsgun_core::roster::SEATS;

use super::event::{Action, Command, Event, Policy};
use super::exit::Exit;
use super::generation::{Cause, Generation, Standing};
use super::moment::Moment;
use super::notice::Notice;
use super::reload::{Outcome, Reload};
use super::scale::Scale;
use super::slot::{Backoff, Slot};
use super::status::Condition;
use super::stop::Stop;
use super::upgrade::Upgrade;
use super::upgrade::orphans::Offspring;
use super::worker::{Worker, earliest};

/// The most slots: during a replacement each may need two seats.
#[expect(clippy::cast_possible_truncation, reason = "a constant of 512")]
pub(super) const SLOTS_MAX: u32 = (SEATS / 2) as u32;

/// Where the master is in its life.
#[derive(Debug)]
pub(super) enum Lifecycle {
    Booting,
    Running,
    Stopping(Stop),
}

/// Everything that decisions depend on.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "wishes and announcements, any of which may be outstanding"
)]
pub(super) struct State {
    pub(super) lifecycle: Lifecycle,
    pub(super) started_at: Moment,
    /// Whether workers are missing that cannot be started, as was last shown.
    pub(super) condition: Condition,
    /// How many workers have died, were killed, or could not start.
    pub(super) losses: u64,
    /// Whether the operator was told that the server serves.
    pub(super) announced: bool,
    /// The operator is told at this time even if not all first workers are ready.
    pub(super) announce_by: Option<Moment>,
    /// TERM was sent: the server goes on until then, and stops.
    pub(super) departs_at: Option<Moment>,
    /// What TTIN and TTOU have added to the configured number of workers.
    pub(super) adjustment: i64,
    /// What the load, TTIN and TTOU have made of the number where it has bounds.
    pub(super) scaled_to: Option<u32>,
    pub(super) scale: Scale,
    /// WINCH has sent all workers away, until HUP or TTIN.
    pub(super) dismissed: bool,
    /// By number; the first slot is 1.
    pub(super) slots: BTreeMap<u32, Slot>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) generations: BTreeMap<u32, Generation>,
    /// The generation that new workers come from.
    pub(super) current: u32,
    pub(super) last_generation: u32,
    pub(super) last_worker: u64,
    /// Back-off of the current generation's fork server.
    pub(super) server_backoff: Backoff,
    pub(super) reload: Option<Reload>,
    pub(super) reload_waits: bool,
    pub(super) last_reload: Option<Outcome>,
    pub(super) last_upgrade: Option<Outcome>,
    /// The binary is being exchanged.
    pub(super) upgrade: Option<Upgrade>,
    pub(super) upgrade_waits: bool,
    /// What was wanted since the next program owns everything.
    pub(super) kept: Vec<Command>,
    /// This is the candidate of an upgrade, with this worker and no other.
    pub(super) candidate: Option<Identity>,
    /// What the master knows of its processes.
    pub(super) offspring: Offspring,
    /// Its probation ends.
    pub(super) proved_at: Option<Moment>,
    /// When the workers are looked at next; `None`: there is nothing to look for.
    pub(super) inspect_at: Option<Moment>,
    /// When something was last decided.
    pub(super) stepped_at: Moment,
    /// The master has run without a pause since.
    pub(super) resumed_at: Moment,
    /// What makes random numbers differ from those of another master.
    pub(super) seed: u64,
    pub(super) unmatched: VecDeque<(Moment, i32, Exit)>,
    pub(super) actions: Vec<Action>,
}

impl State {
    /// The state of a master that has bound its listeners and started nothing yet,
    /// and the actions that begin the boot.
    #[must_use]
    pub(super) fn boot(now: Moment, policy: Policy) -> (Self, Vec<Action>) {
        Self::begin(now, policy, None)
    }

    /// The state of the candidate of an upgrade, which boots this one worker, and the
    /// actions that begin that.
    pub(super) fn prove(now: Moment, policy: Policy, given: Identity) -> (Self, Vec<Action>) {
        Self::begin(now, policy, Some(given))
    }

    /// A state without any process.
    pub(super) fn empty(now: Moment) -> Self {
        Self {
            lifecycle: Lifecycle::Booting,
            started_at: now,
            condition: Condition::Sound,
            losses: 0,
            announced: false,
            announce_by: None,
            departs_at: None,
            adjustment: 0,
            scaled_to: None,
            scale: Scale::default(),
            dismissed: false,
            slots: BTreeMap::new(),
            workers: BTreeMap::new(),
            generations: BTreeMap::new(),
            current: 1,
            last_generation: 1,
            last_worker: 0,
            server_backoff: Backoff::default(),
            reload: None,
            reload_waits: false,
            last_reload: None,
            last_upgrade: None,
            upgrade: None,
            upgrade_waits: false,
            kept: Vec::new(),
            candidate: None,
            offspring: Offspring::default(),
            proved_at: None,
            inspect_at: None,
            stepped_at: now,
            resumed_at: now,
            seed: now.as_ms() << 20,
            unmatched: VecDeque::new(),
            actions: Vec::new(),
        }
    }

    fn begin(now: Moment, policy: Policy, candidate: Option<Identity>) -> (Self, Vec<Action>) {
        let generation = candidate.map_or(1, |given| given.generation);
        let mut state = Self {
            current: generation,
            last_generation: generation,
            last_worker: candidate.map_or(0, |given| given.id.0 - 1),
            candidate,
            // Only the master announces anything.
            announced: candidate.is_some(),
            ..Self::empty(now)
        };
        let mut first = Generation::new(Standing::Current, policy, now);
        // Otherwise the master would not know where to listen.
        first.server.asked = true;
        state.generations.insert(generation, first);
        state.act(Action::StartForkServer {
            generation,
            like: None,
        });
        let actions = state.settle(now);
        (state, actions)
    }

    /// What to do about an event.
    pub(super) fn step(&mut self, now: Moment, event: Event) -> Vec<Action> {
        self.excuse_pause(now);
        match event {
            Event::Command(command) => self.on_command(now, command),
            Event::Exited { pid, exit } => self.on_exit(now, pid, exit),
            Event::ForkServerStarted { generation, pid } => {
                if let Some(entry) = self.generations.get_mut(&generation) {
                    entry.server.pid = Some(pid);
                    if entry.server.is_down() {
                        self.kill_server(generation, Signal::SIGKILL);
                    }
                }
            }
            Event::ForkServerNotStarted { generation, reason } => {
                if let Some(entry) = self.generations.get_mut(&generation) {
                    entry.server.gone = true;
                    self.server_failed(now, generation, Cause::configuration(reason));
                }
            }
            Event::ForkServer {
                generation,
                message,
            } => {
                self.on_fork_server(now, generation, message);
            }
            Event::ForkServerClosed { generation } => {
                if let Some(generation) = self.generations.get_mut(&generation) {
                    let known = generation.server.pid.is_some();
                    generation.server.ending.closed(now, known);
                }
            }
            Event::Worker { id, message } => self.on_worker(now, id, message),
            Event::WorkerClosed { id } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    let known = worker.pid.is_some();
                    worker.ending.closed(now, known);
                }
            }
            Event::WorkerNotSpawned { id, reason } => {
                self.start_failed(now, id, Cause::boot(reason));
                self.forget_worker(id);
            }
            Event::Resolved { generation, policy } => self.on_resolved(now, generation, policy),
            Event::ResolveFailed { generation, reason } => {
                if self.reload_generation() == Some(generation) {
                    self.reload_failed(now, Cause::configuration(reason));
                }
            }
            Event::HostsKnown {
                generation,
                file,
                names,
            } => self.on_hosts_known(generation, file, names),
            Event::Inspected { readings } => self.on_inspected(now, &readings),
            Event::Stacks { of, stacks } => self.on_stacks(of, stacks),
            Event::Upgrade(event) => self.on_upgrade(now, event),
            Event::Tick => {}
        }
        self.settle(now)
    }

    /// When [`Event::Tick`] is due if nothing else happens before.
    #[must_use]
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        let stop = match &self.lifecycle {
            Lifecycle::Stopping(stop) => earliest([stop.give_up, stop.last_hook_by]),
            Lifecycle::Booting | Lifecycle::Running => None,
        };
        let running = !self.is_stopping();
        earliest(
            [stop, self.inspect_at, self.next_look()]
                .into_iter()
                .chain(
                    [
                        self.announce_by,
                        self.departs_at,
                        self.probation_end(),
                        self.proved_at,
                    ]
                    .into_iter()
                    .filter(|_| running),
                )
                .chain([self.upgrade_deadline()])
                .chain(self.workers.values().map(Worker::deadline))
                .chain(
                    self.generations
                        .values()
                        .map(|generation| generation.server.deadline()),
                )
                .chain(
                    self.slots
                        .values()
                        .map(|slot| &slot.backoff)
                        .chain([&self.server_backoff])
                        .filter(|_| running)
                        .map(Backoff::deadline),
                ),
        )
    }

    /// How the last reload went.
    #[must_use]
    pub(super) fn last_reload(&self) -> Option<&Outcome> {
        self.last_reload.as_ref()
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Stopping(_))
    }

    pub(super) fn is_booting(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Booting)
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn notify(&mut self, notice: Notice) {
        self.act(Action::Notify(notice));
    }

    /// The settings that count: those of the current generation.
    pub(super) fn policy(&self) -> Option<&Policy> {
        self.generations
            .get(&self.current)
            .map(|generation| &generation.policy)
    }

    /// Lets what is overdue happen, then asks for whatever is missing.
    pub(super) fn settle(&mut self, now: Moment) -> Vec<Action> {
        self.expire(now);
        self.bury(now);
        if self.departs_at.is_some_and(|at| at <= now) {
            self.depart(now);
        }
        if self.is_stopping() {
            self.settle_stop(now);
        } else {
            if self.departs_at.is_none() {
                self.settle_fork_server(now);
            }
            self.settle_slots(now);
            self.settle_reload(now);
            self.settle_recycling(now);
            self.settle_hooks();
            self.announce(now);
        }
        let kept = self.kept.len();
        self.settle_upgrade(now);
        if self.kept.len() < kept {
            // An upgrade has failed, and what was wanted meanwhile is to be done here.
            return self.settle(now);
        }
        self.settle_candidate(now);
        self.settle_inspection(now);
        self.settle_condition();
        self.forget_generations();
        mem::take(&mut self.actions)
    }

    /// Tells the operator that the server serves, once all first workers are ready,
    /// or some time after the first one when others are slow.
    fn announce(&mut self, now: Moment) {
        if self.announced || self.is_booting() {
            return;
        }
        let all_serve = self.slots.values().all(|slot| {
            slot.current
                .and_then(|id| self.workers.get(&id))
                .is_some_and(|worker| !worker.is_starting())
        });
        if all_serve || self.announce_by.is_none_or(|by| by <= now) {
            self.announced = true;
            self.announce_by = None;
            self.notify(Notice::Serving);
        }
    }

    /// The lowest seat that no living worker has; `None` when all are taken.
    pub(super) fn free_seat(&self) -> Option<u32> {
        if let Some(given) = self.candidate {
            return Some(given.seat).filter(|_| self.workers.is_empty());
        }
        let taken: BTreeSet<u32> = self
            .workers
            .values()
            .map(|worker| worker.identity.seat)
            .chain(self.reserved_seat())
            .collect();
        (0..u32::try_from(SEATS).unwrap_or(0)).find(|seat| !taken.contains(seat))
    }

    /// Asks a generation for a worker for a slot. Returns its number, or `None` when
    /// no seat is free.
    pub(super) fn spawn(&mut self, now: Moment, slot: u32, number: u32) -> Option<WorkerId> {
        let seat = self.free_seat()?;
        let limit = self.generations.get(&number)?.policy.boot_timeout;
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        let identity = Identity {
            id,
            slot,
            generation: number,
            seat,
        };
        // The deadline stands before the process does: one that is stuck between
        // fork and its first words is found, too.
        self.workers.insert(
            id,
            Worker::new(identity, now, limit.map(|limit| now + limit)),
        );
        self.act(Action::Spawn { identity });
        Some(id)
    }
}
