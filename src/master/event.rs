//! What the state machine is told, and what it asks for.
//!
//! Everything that happens to the master is one [`Event`] in one queue; everything
//! that it does is one [`Action`]. Between them stands
//! [`State::step`](super::state::State::step), which touches nothing.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::config::{Settings, WorkerCount};
use rsgun_core::ipc::{FromForkServer, FromWorker, Identity, ToWorker, WorkerId};

use super::exit::Exit;
use super::notice::Notice;
use super::processors;

/// What an operator can ask for, by signal today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// A deadline has passed; which one the state knows.
    Tick,
}

/// The settings that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// Number of workers.
    pub(super) workers: u32,
    /// The application is imported in the fork server.
    pub(super) preload: bool,
    /// How long a worker may take to finish its requests.
    pub(super) graceful_timeout: Duration,
    /// How long a worker or fork server may take to be ready; `None`: no limit.
    pub(super) boot_timeout: Option<Duration>,
    /// The path of the Python, for messages.
    pub(super) interpreter: String,
}

impl Policy {
    /// Picks from the settings what decisions depend on.
    pub(super) fn new(settings: &Settings, interpreter: &Path) -> Self {
        let boot_timeout = Duration::from_secs(settings.boot_timeout.into());
        Self {
            workers: match settings.workers {
                WorkerCount::Fixed(number) => number,
                WorkerCount::Auto => processors::workers(),
            },
            preload: settings.preload,
            graceful_timeout: Duration::from_secs(settings.graceful_timeout.into()),
            boot_timeout: (!boot_timeout.is_zero()).then_some(boot_timeout),
            interpreter: interpreter.display().to_string(),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub(super) enum Action {
    /// Read the configuration again, for a coming generation, and bind what is new.
    Resolve {
        /// The coming generation.
        generation: u32,
    },
    /// Start a fork server.
    StartForkServer {
        /// Its generation.
        generation: u32,
        /// Take over the settings and listeners of this generation.
        like: Option<u32>,
    },
    /// Send a fork server its settings.
    Configure {
        /// Whose fork server.
        generation: u32,
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
    /// Send a signal to a child that was not reaped yet.
    Kill {
        /// Which one.
        pid: i32,
        /// KILL or TERM.
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
    /// Tell the operator.
    Notify(Notice),
    /// End the master.
    Exit {
        /// The exit code.
        code: u8,
    },
}
