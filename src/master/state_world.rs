//! A pretended world for the tests of the state machine: processes that do what they
//! are told when a test lets them, and die when it wants.

mod processes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::config::{ReloadStrategy, Size};
use rsgun_core::hooks::{Call, Hook, HookSet};
use rsgun_core::ipc::{DrainReason, Failure, FailureKind, Identity, ToWorker, WorkerId};
use rsgun_core::scoreboard::Phase;

use super::event::{Action, Asked, Command, Event, Policy, Reading};
use super::exit::Exit;
use super::moment::Moment;
use super::notice::Notice;
use super::state::State;
use super::status::Condition;
use super::upgrade::orphans::Offspring;
use super::upgrade::world::{Candidate, Exec, Proved};

pub(super) const KILLED: Exit = Exit::Signal {
    signal: Signal::SIGKILL,
    core: false,
    out_of_memory: false,
};

/// `--timeout` of every world.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what happened so far, in any order"
)]
pub(super) struct ForkServer {
    pub(super) pid: i32,
    pub(super) greeted: bool,
    /// It is to evaluate the configuration.
    pub(super) asked: bool,
    pub(super) configured: bool,
    pub(super) loaded: bool,
    pub(super) closed_by_master: bool,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what happened so far, in any order"
)]
pub(super) struct Process {
    pub(super) identity: Identity,
    pub(super) pid: i32,
    pub(super) greeted: bool,
    pub(super) acknowledged: bool,
    pub(super) ready: bool,
    pub(super) order: Option<ToWorker>,
    pub(super) draining: bool,
    pub(super) stops_soon: bool,
    /// Its event loop has not come round since; `None`: it has just now.
    pub(super) silent_since: Option<Moment>,
    pub(super) resident: Size,
    pub(super) busy_ms: u64,
}

/// The settings of a plain world: no probation, no delay.
pub(super) fn policy(workers: u32, preload: bool) -> Policy {
    Policy {
        workers,
        bounds: None,
        preload,
        graceful_timeout: Duration::from_secs(30),
        drain_delay: Duration::ZERO,
        reload_strategy: ReloadStrategy::Rolling,
        reload_max_unavailable: 0,
        reload_probation: Duration::ZERO,
        boot_timeout: Some(Duration::from_secs(60)),
        timeout: Some(TIMEOUT),
        max_lifetime: None,
        max_lifetime_jitter: Duration::ZERO,
        max_rss: Some(Size::from_bytes(1000)),
        hard_max_rss: Some(Size::from_bytes(2000)),
        interpreter: "/usr/bin/python3".to_owned(),
        evaluates: false,
        hooks: HookSet::default(),
    }
}

/// The same with a configuration that is a file of Python, and has all hooks.
pub(super) fn with_hooks(policy: Policy) -> Policy {
    Policy {
        evaluates: true,
        hooks: Hook::ALL.into_iter().collect(),
        ..policy
    }
}

impl Process {
    fn asked_for(identity: Identity, pid: i32) -> Self {
        Self {
            identity,
            pid,
            greeted: false,
            acknowledged: false,
            ready: false,
            order: None,
            draining: false,
            stops_soon: false,
            silent_since: None,
            resident: Size::from_bytes(100),
            busy_ms: 0,
        }
    }

    /// One that serves already.
    pub(super) fn ready(identity: Identity, pid: i32) -> Self {
        Self {
            greeted: true,
            acknowledged: true,
            ready: true,
            ..Self::asked_for(identity, pid)
        }
    }
}

/// The state machine and everything around it.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Moment,
    pub(super) servers: BTreeMap<u32, ForkServer>,
    pub(super) workers: BTreeMap<WorkerId, Process>,
    pub(super) notices: Vec<Notice>,
    pub(super) resolving: Option<u32>,
    pub(super) exit: Option<u8>,
    pub(super) listeners_closed: bool,
    /// Who was asked to serve what waited at listeners that are no longer wanted.
    pub(super) last_call: Vec<WorkerId>,
    /// What the title of the master shows.
    pub(super) shown: Condition,
    pub(super) policy: Policy,
    /// How busy each worker is, of 1000.
    pub(super) load: u64,
    /// The second sign of a death comes only as a further reaction.
    pub(super) signs_come_late: bool,
    /// The candidate of an upgrade.
    pub(super) candidate: Option<Candidate>,
    /// What a candidate has handed over that has ended.
    pub(super) proved: Option<Proved>,
    /// What a candidate has left behind that has died and is not reaped yet.
    pub(super) left_behind: Option<(i32, Offspring)>,
    /// Those whom a candidate has left behind.
    pub(super) orphans: BTreeSet<i32>,
    /// They end only when they are killed.
    pub(super) orphans_hang: bool,
    /// Whom the master has sent SIGKILL.
    pub(super) killed: BTreeSet<i32>,
    /// What comes of the next exec.
    pub(super) next_exec: Exec,
    /// The hooks that fork servers were asked to call.
    pub(super) calls: Vec<(u32, Call)>,
    /// Who was asked for stacks; the answer comes when a test lets it.
    pub(super) asked: Vec<Asked>,
    late: VecDeque<Event>,
    /// Children that were not reaped.
    pub(super) living: BTreeSet<i32>,
    last_pid: i32,
}

impl World {
    pub(super) fn new(workers: u32, preload: bool) -> Self {
        Self::of(policy(workers, preload))
    }

    /// A world with these settings, in which the master was just started.
    pub(super) fn of(policy: Policy) -> Self {
        let now = Moment::from_ms(1_000_000);
        let (state, actions) = State::boot(now, policy.clone());
        let mut world = Self {
            state,
            now,
            servers: BTreeMap::new(),
            workers: BTreeMap::new(),
            notices: Vec::new(),
            resolving: None,
            exit: None,
            listeners_closed: false,
            last_call: Vec::new(),
            shown: Condition::Sound,
            policy,
            load: 0,
            signs_come_late: false,
            candidate: None,
            proved: None,
            left_behind: None,
            orphans: BTreeSet::new(),
            orphans_hang: false,
            killed: BTreeSet::new(),
            next_exec: Exec::Succeeds,
            calls: Vec::new(),
            asked: Vec::new(),
            late: VecDeque::new(),
            living: BTreeSet::new(),
            last_pid: 100,
        };
        world.carry_out(actions);
        world
    }

    /// A world in which all workers serve.
    pub(super) fn booted(workers: u32, preload: bool) -> Self {
        Self::booted_of(policy(workers, preload))
    }

    /// The same with these settings.
    pub(super) fn booted_of(policy: Policy) -> Self {
        let workers = policy
            .bounds
            .map_or(policy.workers, |bounds| bounds.clamp(policy.workers));
        let mut world = Self::of(policy);
        world.cooperate();
        assert_eq!(world.serving().len(), workers as usize);
        world.notices.clear();
        world
    }

    /// Lets something happen, and checks everything that must always hold.
    pub(super) fn happen(&mut self, event: Event) {
        assert!(self.exit.is_none(), "the master has ended already");
        let actions = self.state.step(self.now, event);
        self.carry_out(actions);
        self.check();
    }

    pub(super) fn command(&mut self, command: Command) {
        self.happen(Event::Command(command));
    }

    /// Time passes, and the master does what is due when it is due.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.state.next_deadline().filter(|due| *due < end) {
            if self.exit.is_some() {
                return;
            }
            self.wake_after(due.since(self.now));
        }
        if self.exit.is_none() {
            self.wake_after(end.since(self.now));
        }
    }

    /// Time passes, and the master does not run meanwhile.
    pub(super) fn wake_after(&mut self, time: Duration) {
        let work = u64::try_from(time.as_millis()).unwrap_or(0) * self.load / 1000;
        for worker in self.workers.values_mut().filter(|worker| worker.ready) {
            worker.busy_ms += work;
        }
        self.now = self.now + time;
        self.happen(Event::Tick);
    }

    pub(super) fn carry_out(&mut self, actions: Vec<Action>) {
        let mut at_once = Vec::new();
        let mut execs = false;
        for action in actions {
            match action {
                Action::Resolve { generation, .. } => {
                    let before = self.resolving.replace(generation);
                    assert!(before.is_none_or(|before| before < generation));
                }
                Action::StartForkServer { generation, like } => {
                    at_once.push(self.fork_server_starts(generation, like));
                }
                Action::Evaluate { generation } => {
                    if let Some(server) = self.servers.get_mut(&generation) {
                        assert!(!server.asked && !server.configured);
                        server.asked = true;
                    }
                }
                Action::CallHook { generation, call } => {
                    if let Some(server) = self.servers.get(&generation) {
                        assert!(server.configured && !server.closed_by_master);
                    }
                    self.calls.push((generation, call));
                }
                Action::Configure { generation, .. } => {
                    if let Some(server) = self.servers.get_mut(&generation) {
                        server.configured = true;
                    }
                }
                Action::CloseForkServer { generation } => {
                    if let Some(server) = self.servers.get_mut(&generation) {
                        server.closed_by_master = true;
                    }
                }
                Action::Spawn { identity } => self.forked(identity),
                Action::Tell { id, order } => self.told(id, order),
                Action::Inspect { memory_of } => {
                    let readings = self.readings(&memory_of);
                    at_once.push(Event::Inspected { readings });
                }
                Action::AskForStacks { of, pid } => {
                    assert!(self.living.contains(&pid), "{of:?} was reaped");
                    assert!(!self.asked.contains(&of), "{of:?} is asked twice");
                    self.asked.push(of);
                }
                Action::Kill { pid, signal } => self.signalled(pid, signal),
                Action::ForgetWorker { identity } => {
                    let gone = self
                        .workers
                        .get(&identity.id)
                        .is_none_or(|worker| !worker.greeted);
                    assert!(gone, "a living worker is forgotten: {identity:?}");
                    self.workers.remove(&identity.id);
                }
                Action::ForgetGeneration { generation } => {
                    assert!(!self.servers.contains_key(&generation));
                    assert!(
                        !self
                            .workers
                            .values()
                            .any(|w| w.identity.generation == generation),
                        "generation {generation} has workers"
                    );
                }
                Action::CloseListeners => {
                    assert!(!self.listeners_closed);
                    self.listeners_closed = true;
                }
                Action::ShowCondition(condition) => {
                    assert_ne!(self.shown, condition, "nothing has changed");
                    self.shown = condition;
                }
                Action::Adopt {
                    generation,
                    workers,
                } => self.adopts(generation, workers),
                Action::ReopenLogs { .. } => {}
                Action::StartCandidate { identity } => {
                    at_once.push(self.candidate_starts(identity));
                }
                Action::EndCandidate => self.end_candidate(),
                Action::HandOver | Action::TellOffspring(_) => {
                    panic!("the master is no candidate")
                }
                Action::Exec => execs = true,
                Action::Notify(notice) => self.notices.push(notice),
                Action::Exit { code } => self.exit = Some(code),
            }
        }
        for event in at_once {
            let actions = self.state.step(self.now, event);
            self.carry_out(actions);
        }
        // All that is known is dealt with before.
        if execs && let Some(event) = self.exec() {
            let actions = self.state.step(self.now, event);
            self.carry_out(actions);
        }
    }

    fn signalled(&mut self, pid: i32, signal: Signal) {
        assert!(
            self.living.contains(&pid),
            "{pid} was reaped: it may be another's"
        );
        if signal == Signal::SIGKILL {
            self.killed.insert(pid);
        }
    }

    fn fork_server_starts(&mut self, generation: u32, like: Option<u32>) -> Event {
        assert!(like.is_none_or(|like| like < generation));
        let pid = self.new_pid();
        let server = ForkServer {
            pid,
            ..ForkServer::default()
        };
        assert!(self.servers.insert(generation, server).is_none());
        Event::ForkServerStarted { generation, pid }
    }

    fn forked(&mut self, identity: Identity) {
        let server = &self.servers[&identity.generation];
        assert!(server.loaded && !server.closed_by_master);
        let pid = self.new_pid();
        let process = Process::asked_for(identity, pid);
        self.check_recycling(&process);
        assert!(self.workers.insert(identity.id, process).is_none());
    }

    /// What a look at all workers shows.
    fn readings(&self, memory_of: &[(WorkerId, i32)]) -> Vec<Reading> {
        let reading = |worker: &Process| {
            let id = worker.identity.id;
            let memory = memory_of.contains(&(id, worker.pid));
            Reading {
                id,
                phase: if worker.ready {
                    Phase::Serving
                } else {
                    Phase::Importing
                },
                heartbeat: worker.silent_since.unwrap_or(self.now),
                busy_ms: worker.busy_ms,
                resident: memory.then_some(worker.resident),
            }
        };
        self.workers.values().map(reading).collect()
    }

    /// A second worker of a slot may be asked for by a reload, the way back from one, or
    /// recycling, and then it is the only one.
    fn check_recycling(&self, new: &Process) {
        let is_current = new.identity.generation == self.state.current;
        let slot = self.state.slots.get(&new.identity.slot);
        let is_second = slot.is_some_and(|slot| slot.replacement == Some(new.identity.id));
        if is_current && is_second && !self.state.is_exchanging() {
            assert!(self.state.reload.is_none(), "recycling during a reload");
            let replacements = self
                .state
                .slots
                .values()
                .filter(|slot| slot.replacement.is_some_and(|id| id != new.identity.id))
                .count();
            assert_eq!(replacements, 0, "two workers are recycled at a time");
        }
    }

    /// The listeners of a generation are the server's. Its workers are to serve what waits
    /// at those of before; of one that has just died the master may not know.
    fn adopts(&mut self, generation: u32, workers: Vec<WorkerId>) {
        let known = workers.iter().filter_map(|id| self.workers.get(id));
        for worker in known {
            let identity = worker.identity;
            assert!(
                worker.ready && identity.generation == generation,
                "{identity:?} is to serve what waits at old listeners"
            );
        }
        self.last_call = workers;
    }

    /// A worker gets an order. One that serves may be told to make room only when
    /// another one of its slot serves, or the slot is no longer wanted.
    fn told(&mut self, id: WorkerId, order: ToWorker) {
        if !self.workers.contains_key(&id) {
            // It is dead, and only one of the signs was seen.
            return;
        }
        if let ToWorker::Drain {
            reason: DrainReason::Replaced,
            ..
        } = order
        {
            let slot = self.workers[&id].identity.slot;
            let worker = &self.workers[&id];
            // One that drains is told again when it may go on for longer.
            let serves = worker.ready && worker.order.is_none() && !worker.draining;
            let replaced = self.workers.values().any(|other| {
                other.identity.id != id
                    && other.identity.slot == slot
                    && other.ready
                    && !other.draining
                    && other.order.is_none()
            });
            let may_be_missing = self.state.slots_without_service() <= self.may_be_missing();
            assert!(
                !serves || replaced || slot > self.state.target() || may_be_missing,
                "worker {id:?} of slot {slot} drains without a replacement"
            );
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            match order {
                ToWorker::Acknowledge => worker.acknowledged = true,
                ToWorker::StopsSoon => worker.stops_soon = true,
                _ => worker.order = Some(order),
            }
        }
    }

    /// How many slots a reload in progress may leave without a worker that serves.
    fn may_be_missing(&self) -> u32 {
        let candidate = self.state.reload_generation();
        candidate
            .and_then(|number| self.state.generations.get(&number))
            .filter(|new| new.policy.reload_strategy == ReloadStrategy::Rolling)
            .map_or(0, |new| new.policy.reload_max_unavailable)
    }

    pub(super) fn check(&self) {
        if self.exit.is_some() {
            return;
        }
        if let Some(deadline) = self.state.next_deadline() {
            assert!(
                deadline > self.now,
                "the loop would spin: {deadline:?}, now {:?}",
                self.now
            );
        }
        let status = self.state.status(self.now, |_, _| None);
        assert_eq!(status.workers.len(), self.state.workers.len());
        assert!(status.workers_serving <= status.workers_wanted);
        assert_eq!(
            !status.degraded.is_empty(),
            self.shown == Condition::Degraded
        );
        let known: BTreeSet<WorkerId> = self.state.workers.keys().copied().collect();
        for worker in self.workers.values() {
            assert!(
                known.contains(&worker.identity.id),
                "{:?} is lost",
                worker.identity
            );
        }
        for pid in &self.orphans {
            assert!(self.state.follows(*pid), "the orphan {pid} is lost");
        }
        let seats: BTreeSet<u32> = self
            .state
            .workers
            .values()
            .map(|worker| worker.identity.seat)
            .collect();
        assert_eq!(
            seats.len(),
            self.state.workers.len(),
            "two workers share a seat"
        );
        if !self.state.is_stopping() {
            let slots: Vec<u32> = self.state.slots.keys().copied().collect();
            let wanted: Vec<u32> = (1..=self.state.target()).collect();
            assert_eq!(slots, wanted);
            if let Some(bounds) = self.state.bounds().filter(|_| !wanted.is_empty()) {
                assert!((bounds.min as usize..=bounds.max as usize).contains(&wanted.len()));
            }
            let candidates = self
                .state
                .generations
                .values()
                .filter(|g| g.standing == super::generation::Standing::Candidate)
                .count();
            assert!(candidates <= 1, "two reloads at a time");
            assert!(candidates == 0 || self.state.reload.is_some());
        }
    }

    pub(super) fn new_pid(&mut self) -> i32 {
        self.last_pid += 1;
        self.living.insert(self.last_pid);
        self.last_pid
    }

    // === questions ===

    /// The workers that serve and were not told to do otherwise.
    pub(super) fn serving(&self) -> Vec<WorkerId> {
        self.workers
            .values()
            .filter(|worker| worker.ready && worker.order.is_none() && !worker.draining)
            .map(|worker| worker.identity.id)
            .collect()
    }

    /// The generations of the workers that serve, one entry for each worker.
    pub(super) fn generations_serving(&self) -> Vec<u32> {
        self.serving()
            .iter()
            .map(|id| self.workers[id].identity.generation)
            .collect()
    }

    /// The workers that are not ready.
    pub(super) fn starting(&self) -> Vec<WorkerId> {
        self.workers
            .values()
            .filter(|worker| !worker.ready && worker.order.is_none())
            .map(|worker| worker.identity.id)
            .collect()
    }
}

pub(super) fn import_error() -> Failure {
    Failure {
        kind: FailureKind::ImportRaised,
        message: "importing \"main\" failed".to_owned(),
        traceback: Some("Traceback (most recent call last):".to_owned()),
    }
}

/// How many of the notices so far are of a kind.
pub(super) fn count(world: &World, wanted: impl Fn(&Notice) -> bool) -> usize {
    world.notices.iter().filter(|notice| wanted(notice)).count()
}
