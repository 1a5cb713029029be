//! What the operator is told. The state machine says *what*; in which words is in `text`.

mod text;

use std::time::Duration;

use rsgun_core::config::Size;
use rsgun_core::hooks::Hook;

use super::exit::Exit;
use super::generation::Cause;
use super::stop::Urgency;
use super::worker::{Label, Reason};

pub(super) use self::text::{InFlight, seconds};

/// Something that the operator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// The first fork server runs.
    Starting {
        /// How many workers there will be.
        workers: u32,
        /// The version of the interpreter.
        python: String,
    },
    /// Workers serve: the first time that connections are accepted.
    Serving,
    /// The application did not start; the master ends.
    BootFailed {
        /// Why.
        cause: Cause,
    },
    /// A worker accepts connections.
    WorkerReady {
        /// Which one.
        worker: Label,
    },
    /// A worker stops in a debugger.
    WorkerDebugged {
        /// Which one.
        worker: Label,
    },
    /// A worker could not start, after the first boot.
    WorkerFailed {
        /// Which one.
        worker: Label,
        /// Why.
        cause: Cause,
        /// When the next one is started.
        retry_in: Duration,
    },
    /// A worker that served is gone without having been told to end.
    WorkerDied {
        /// Which one.
        worker: Label,
        /// How it ended.
        exit: Exit,
        /// Its last words.
        cause: Option<Cause>,
        /// When the next one is started; `None` if none is.
        retry_in: Option<Duration>,
    },
    /// A worker leaves without having been told to.
    WorkerLeaves {
        /// Which one.
        worker: Label,
        /// When the next one is started; `None` if none is.
        retry_in: Option<Duration>,
    },
    /// A worker did not end in time and is killed.
    WorkerOverdue {
        /// Which one.
        worker: Label,
        /// How long it had.
        after: Duration,
        /// How much of that was for its requests; `None` if the stop is quick.
        graceful: Option<Duration>,
        /// Its stacks, if it could write any.
        stacks: Option<String>,
    },
    /// A worker gives no sign of life and is killed.
    WorkerStuck {
        /// Which one.
        worker: Label,
        /// For how long.
        silent: Duration,
        /// Its stacks, if it could write any.
        stacks: Option<String>,
        /// When the next one is started; `None` if none is.
        retry_in: Option<Duration>,
    },
    /// A worker holds so much memory that it is killed.
    WorkerTooLarge {
        /// Which one.
        worker: Label,
        /// What it holds.
        resident: Size,
        /// What it may hold.
        limit: Size,
        /// When the next one is started; `None` if none is.
        retry_in: Option<Duration>,
    },
    /// The replacement of a worker is started, which serves until it is ready.
    Recycling {
        /// Which one.
        worker: Label,
        /// Why.
        reason: Reason,
    },
    /// A worker that was to end has ended.
    WorkerEnded {
        /// Which one.
        worker: Label,
        /// How it ended.
        exit: Exit,
    },
    /// A fork server is of no more use; its workers serve on.
    ForkServerFailed {
        /// Whose fork server.
        generation: u32,
        /// Why.
        cause: Cause,
        /// When the next one is started.
        retry_in: Duration,
    },
    /// The application has started threads in the fork server.
    Threads {
        /// Whose fork server.
        generation: u32,
        /// How many, besides the main one.
        count: usize,
        /// What Python calls those that it knows.
        names: Vec<String>,
        /// Workers are forked all the same.
        forked: bool,
        /// There may be hooks.
        hooks: bool,
    },
    /// There is no fork server to call a hook.
    HookSkipped {
        /// Which one.
        hook: Hook,
    },
    /// A reload begins.
    ReloadStarted {
        /// The generation that it will bring.
        generation: u32,
    },
    /// A reload was asked for while one is in progress.
    ReloadWaits,
    /// A reload is over, nothing has changed.
    ReloadFailed {
        /// The generation that it would have brought.
        generation: u32,
        /// The generation that new workers come from.
        keeping: u32,
        /// How many slots had been switched.
        switched: usize,
        /// They get workers of the generation that stays.
        goes_back: bool,
        /// Why.
        cause: Cause,
    },
    /// A reload is over, all workers are new.
    Reloaded {
        /// The generation that it has brought.
        generation: u32,
    },
    /// Workers are missing that cannot be started, or keep dying.
    Degraded {
        /// What is missing, and why.
        reasons: Vec<String>,
    },
    /// Nobody is missing any more.
    Recovered,
    /// TTIN or TTOU; when both are equal, the limit is reached.
    WorkersWanted {
        /// How many there were to be.
        before: u32,
        /// How many there are to be.
        after: u32,
    },
    /// The load has changed the number of workers.
    Scaled {
        /// How many there were.
        before: u32,
        /// How many there are to be.
        after: u32,
        /// How busy their event loops were.
        percent: u64,
        /// For how long.
        lasted: Duration,
    },
    /// USR1: the log files were opened anew.
    LogsReopened,
    /// WINCH: the workers are told to end, the master stays.
    Dismissed,
    /// The workers that WINCH has sent away are wanted back.
    Recalled {
        /// How many there are to be.
        workers: u32,
    },
    /// USR2: the new program is started beside this one.
    UpgradeStarted {
        /// The generation that it will bring.
        generation: u32,
    },
    /// An upgrade was asked for while one is in progress.
    UpgradeRefused,
    /// An upgrade was asked for during a start or reload.
    UpgradeWaits,
    /// The new program understands what it was given.
    CandidateBoots {
        /// What it calls itself.
        version: String,
        /// Its process id.
        pid: i32,
    },
    /// An upgrade is over, nothing has changed.
    UpgradeFailed {
        /// Why.
        cause: Cause,
    },
    /// An upgrade is over, all workers are new.
    Upgraded {
        /// The generation that it has brought.
        generation: u32,
    },
    /// The server ends after a delay, in which it goes on serving.
    StopsSoon {
        /// The delay.
        delay: Duration,
    },
    /// The server ends.
    Stopping {
        /// How much of a hurry it is.
        urgency: Urgency,
    },
    /// Processes could not be killed.
    LeftBehind {
        /// Which ones.
        pids: Vec<i32>,
    },
    /// Everybody is gone.
    Finished,
}

impl Notice {
    /// The worker that the notice is about, if what it was serving is of interest.
    #[must_use]
    pub(super) fn concerns(&self) -> Option<Label> {
        match self {
            Self::WorkerDied { worker, .. }
            | Self::WorkerOverdue { worker, .. }
            | Self::WorkerStuck { worker, .. }
            | Self::WorkerTooLarge { worker, .. } => Some(*worker),
            Self::WorkerEnded { worker, exit } if !exit.is_clean() => Some(*worker),
            _ => None,
        }
    }
}
