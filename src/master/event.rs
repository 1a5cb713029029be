//! What the state machine is told, and what it asks for.
//!
//! Everything that happens to the master is one [`Event`] in one queue; everything
//! that it does is one [`Action`]. Between them stands
//! [`State::step`](super::state::State::step), which touches nothing.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::config::{PythonFile, ReloadStrategy, Settings, Size};
use rsgun_core::hooks::{Call, HookSet};
use rsgun_core::ipc::{FromForkServer, FromWorker, Identity, ToWorker, WorkerId};
use rsgun_core::listeners::Names;
use rsgun_core::scoreboard::Phase;
use serde::{Deserialize, Serialize};

use super::exit::Exit;
use super::moment::Moment;
use super::notice::Notice;
use super::processors;
use super::scale::Bounds;
use super::status::Condition;
use super::upgrade::UpgradeEvent;
use super::upgrade::orphans::Offspring;

/// What an operator can ask for, by signal today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Load configuration and code anew (HUP).
    Reload,
    /// One more worker (TTIN).
    More,
    /// One worker less (TTOU).
    Fewer,
    /// Answer what was accepted, then end (TERM).
    Stop,
    /// End now, running the lifespan shutdown (INT, QUIT).
    StopQuickly,
    /// Open the log files anew (USR1).
    ReopenLogs,
    /// Stop all workers, keep the master (WINCH in the background).
    Dismiss,
    /// Exchange the binary (USR2).
    Upgrade,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// An operator wants something.
    Command(Command),
    /// A child of this process is no more.
    Exited {
        /// Which one; possibly nobody that the master knows.
        pid: i32,
        /// How it ended.
        exit: Exit,
    },
    /// The fork server of a generation runs.
    ForkServerStarted {
        /// Whose fork server.
        generation: u32,
        /// Its process id.
        pid: i32,
    },
    /// The fork server of a generation could not be started.
    ForkServerNotStarted {
        /// Whose fork server.
        generation: u32,
        /// What the system said, and what to do.
        reason: String,
    },
    /// A fork server says something.
    ForkServer {
        /// Whose fork server.
        generation: u32,
        /// What it says.
        message: FromForkServer,
    },
    /// A fork server has closed its channel.
    ForkServerClosed {
        /// Whose fork server.
        generation: u32,
    },
    /// A worker says something.
    Worker {
        /// Which one.
        id: WorkerId,
        /// What it says.
        message: FromWorker,
    },
    /// A worker, or whoever held its end, has closed the channel.
    WorkerClosed {
        /// Which one.
        id: WorkerId,
    },
    /// A worker could not even be asked for.
    WorkerNotSpawned {
        /// Which one.
        id: WorkerId,
        /// What the system said.
        reason: String,
    },
    /// [`Action::Resolve`] has gone well.
    Resolved {
        /// The generation that will have these settings.
        generation: u32,
        /// What of them matters here.
        policy: Policy,
    },
    /// [`Action::Resolve`] has failed.
    ResolveFailed {
        /// The generation that will not be.
        generation: u32,
        /// The option, file or address, and what to do.
        reason: String,
    },
    /// [`Action::Inspect`] was done.
    Inspected {
        /// What was found, one reading for each worker that could be looked at.
        readings: Vec<Reading>,
    },
    /// [`Action::AskForStacks`] was done.
    Stacks {
        /// Who was asked.
        of: Asked,
        /// What it wrote, if anything.
        stacks: Option<String>,
    },
    /// [`Action::Resolve`] needs to know hosts, which were looked up meanwhile.
    HostsKnown {
        /// The coming generation.
        generation: u32,
        /// The file of that action.
        file: Option<Box<PythonFile>>,
        /// What the names stand for.
        names: Names,
    },
    /// Something about the upgrade.
    Upgrade(UpgradeEvent),
    /// A deadline has passed; which one the state knows.
    Tick,
}

/// Who can be asked for its stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A worker.
    Worker(WorkerId),
    /// The fork server of a generation.
    ForkServer(u32),
}

/// What a look at a worker has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// Which one.
    pub(super) id: WorkerId,
    /// What it is in the middle of.
    pub(super) phase: Phase,
    /// When its event loop last came round.
    pub(super) heartbeat: Moment,
    /// The time in which its event loop was busy so far, milliseconds.
    pub(super) busy_ms: u64,
    /// Its resident memory; `None` when nobody wants to know, or it is gone.
    pub(super) resident: Option<Size>,
}

/// What is known of the file with the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ConfigurationFile {
    /// There is none, or one that needs no Python.
    Read,
    /// Nobody has evaluated it yet.
    Python,
    /// It was evaluated, and has these hooks.
    Evaluated(HookSet),
}

/// The settings that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// Number of workers.
    pub(super) workers: u32,
    /// Between which bounds the load changes it, if at all.
    pub(super) bounds: Option<Bounds>,
    /// The application is imported in the fork server.
    pub(super) preload: bool,
    /// How long a worker may take to finish its requests.
    pub(super) graceful_timeout: Duration,
    /// How long the server goes on after it was told to stop gracefully.
    pub(super) drain_delay: Duration,
    /// How a reload replaces the workers.
    pub(super) reload_strategy: ReloadStrategy,
    /// How many workers may be missing during a rolling reload.
    pub(super) reload_max_unavailable: u32,
    /// How long the first worker of a reload must survive.
    pub(super) reload_probation: Duration,
    /// How long a worker or fork server may take to be ready; `None`: no limit.
    pub(super) boot_timeout: Option<Duration>,
    /// How long a worker may be without a sign of life; `None`: no limit.
    pub(super) timeout: Option<Duration>,
    /// How long a worker serves before it is replaced; `None`: no limit.
    pub(super) max_lifetime: Option<Duration>,
    /// The most that is added to it at random.
    pub(super) max_lifetime_jitter: Duration,
    /// The memory above which a worker is replaced.
    pub(super) max_rss: Option<Size>,
    /// The memory above which a worker is killed.
    pub(super) hard_max_rss: Option<Size>,
    /// The path of the Python, for messages.
    pub(super) interpreter: String,
    /// The configuration is a file that a fork server must evaluate.
    pub(super) evaluates: bool,
    /// The hooks that it has.
    pub(super) hooks: HookSet,
}

impl Policy {
    /// Picks from the settings what decisions depend on.
    pub(super) fn new(settings: &Settings, interpreter: &Path, file: ConfigurationFile) -> Self {
        let limit = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let workers = processors::workers(settings.workers);
        Self {
            workers,
            bounds: Bounds::of(workers, settings.min_workers, settings.max_workers),
            preload: settings.preload,
            graceful_timeout: Duration::from_secs(settings.graceful_timeout.into()),
            drain_delay: Duration::from_secs(settings.drain_delay.into()),
            reload_strategy: settings.reload_strategy,
            reload_max_unavailable: settings.reload_max_unavailable,
            reload_probation: Duration::from_millis(settings.reload_probation),
            boot_timeout: limit(settings.boot_timeout),
            timeout: limit(settings.timeout),
            max_lifetime: limit(settings.max_lifetime),
            max_lifetime_jitter: Duration::from_secs(settings.max_lifetime_jitter.into()),
            max_rss: settings.max_rss,
            hard_max_rss: settings.hard_max_rss,
            interpreter: interpreter.display().to_string(),
            evaluates: file != ConfigurationFile::Read,
            hooks: match file {
                ConfigurationFile::Evaluated(hooks) => hooks,
                _ => HookSet::default(),
            },
        }
    }
}

/// What to do.
#[derive(Debug)]
pub(super) enum Action {
    /// Read the configuration again, for a coming generation, and bind what is new. If it
    /// is a file of Python that was not evaluated yet, only read the rest.
    Resolve {
        /// The coming generation.
        generation: u32,
        /// The file, evaluated by that generation's fork server.
        file: Option<Box<PythonFile>>,
        /// The names of hosts that were looked up for it.
        names: Names,
    },
    /// Start a fork server.
    StartForkServer {
        /// Its generation.
        generation: u32,
        /// Take over the settings and listeners of this generation.
        like: Option<u32>,
    },
    /// Have a fork server evaluate the configuration.
    Evaluate {
        /// Whose fork server.
        generation: u32,
    },
    /// Send a fork server its settings.
    Configure {
        /// Whose fork server.
        generation: u32,
        /// How many workers there are to be.
        workers: u32,
    },
    /// Have a fork server call a hook.
    CallHook {
        /// Whose fork server.
        generation: u32,
        /// Which one, and with what.
        call: Call,
    },
    /// Close the channel of a fork server, upon which it ends.
    CloseForkServer {
        /// Whose fork server.
        generation: u32,
    },
    /// Drop settings and listeners of a generation that has no process left.
    ForgetGeneration {
        /// Which one.
        generation: u32,
    },
    /// Make one generation's listeners the ones that the master keeps.
    Adopt {
        /// Which one.
        generation: u32,
        /// Who takes what waits at those that are no longer wanted.
        workers: Vec<WorkerId>,
    },
    /// Ask a fork server for a worker.
    Spawn {
        /// Who it will be; says which generation.
        identity: Identity,
    },
    /// Send a worker an order.
    Tell {
        /// Which one.
        id: WorkerId,
        /// The order.
        order: ToWorker,
    },
    /// Look at the scoreboard of every worker.
    Inspect {
        /// The workers whose memory is of interest too, and their process ids.
        memory_of: Vec<(WorkerId, i32)>,
    },
    /// Ask a process that hangs for its stacks.
    AskForStacks {
        /// Who it is.
        of: Asked,
        /// Its process id; it was not reaped yet.
        pid: i32,
    },
    /// Send a signal to a child that was not reaped yet.
    Kill {
        /// Which one.
        pid: i32,
        /// KILL, ABRT or TERM.
        signal: Signal,
    },
    /// A worker is gone: drop its channel and scoreboard, free its seat.
    ForgetWorker {
        /// Who it was.
        identity: Identity,
    },
    /// Close the listeners, so that the kernel refuses new connections.
    CloseListeners,
    /// Open the log files anew and pass them on.
    ReopenLogs {
        /// For this worker alone; `None`: for everybody.
        only: Option<WorkerId>,
    },
    /// Show in the title of the master whether the server is degraded.
    ShowCondition(Condition),
    /// Start the new program beside this one.
    StartCandidate {
        /// The worker with which it is to prove itself.
        identity: Identity,
    },
    /// Close the channel of the candidate, upon which it ends, and drop what it has handed
    /// over.
    EndCandidate,
    /// Tell the master, as its candidate, which processes there are.
    TellOffspring(Offspring),
    /// Hand everything over to the master, as its candidate, and end.
    HandOver,
    /// Run the new program in the place of this one.
    Exec,
    /// Tell the operator.
    Notify(Notice),
    /// End the master.
    Exit {
        /// The exit code.
        code: u8,
    },
}
