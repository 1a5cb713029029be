//! A pretended world for the tests of the state machine: processes that do what they
//! are told when a test lets them, and die when it wants.

mod actions;
mod invariants;
mod processes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::config::{ReloadStrategy, Size};
use rsgun_core::hooks::{Call, Hook, HookSet};
use rsgun_core::ipc::{Failure, FailureKind, Identity, ToWorker, WorkerId};

use super::event::{Asked, Command, Event, Policy};
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
