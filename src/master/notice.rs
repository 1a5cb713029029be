//! What the operator is told, and in which words.
//!
//! The state machine says *what*; the words and the level are here, in one place.

use std::fmt::Write as _;
use std::time::Duration;

use rsgun_core::config::Size;
use rsgun_core::hooks::Hook;
use rsgun_core::log;
use tracing::Level;

use super::exit::Exit;
use super::generation::Cause;
use super::stop::Urgency;
use super::worker::{Label, Reason};

/// How many running requests a line about a dead worker names.
const NAMED_IN_SHORT: usize = 3;

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
    /// A worker drains without having been told to.
    WorkerLeaves {
        /// Which one.
        worker: Label,
    },
    /// A worker did not end in time and is killed.
    WorkerOverdue {
        /// Which one.
        worker: Label,
        /// How long it had.
        after: Duration,
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
        /// Workers are forked all the same.
        forked: bool,
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
            _ => None,
        }
    }

    /// Level and text. `serving` is what the worker of [`Self::concerns`] was serving.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a catalogue of texts, one arm each")]
    pub(super) fn text(&self, serving: &InFlight) -> (Level, String) {
        match self {
            Self::Starting { workers, python } => {
                let plural = if *workers == 1 { "" } else { "s" };
                let pid = std::process::id();
                let text = format!(
                    "Started server process [{pid}] ({workers} worker{plural}, Python {python})"
                );
                (Level::INFO, text)
            }
            Self::Serving => (Level::INFO, "Application startup complete.".to_owned()),
            Self::BootFailed { cause } => (Level::ERROR, told(cause)),
            Self::WorkerReady { worker } => (
                Level::INFO,
                format!("{} started [{}]", name(*worker), ids(*worker)),
            ),
            Self::WorkerDebugged { worker } => (
                Level::INFO,
                format!(
                    "{} stops in a debugger: --timeout and --boot-timeout do not hold for it [{}]",
                    name(*worker),
                    ids(*worker)
                ),
            ),
            Self::WorkerFailed {
                worker,
                cause,
                retry_in,
            } => (
                Level::ERROR,
                format!(
                    "{} could not start; trying again {}: {}",
                    full_name(*worker),
                    delay(*retry_in),
                    told(cause)
                ),
            ),
            Self::WorkerDied {
                worker,
                exit,
                cause,
                retry_in,
            } => {
                let mut text = format!(
                    "{} {exit}{}{}",
                    full_name(*worker),
                    serving.in_short(),
                    and_then(*retry_in)
                );
                if let Some(cause) = cause {
                    let _ = write!(text, ": {}", told(cause));
                }
                (Level::ERROR, text)
            }
            Self::WorkerLeaves { worker } => (
                Level::INFO,
                format!(
                    "{} drains, without having been told to; replacing it",
                    full_name(*worker)
                ),
            ),
            Self::WorkerOverdue {
                worker,
                after,
                stacks,
            } => (
                Level::WARN,
                format!(
                    "{} did not end within {} and was killed{}",
                    full_name(*worker),
                    seconds(*after),
                    evidence(serving, stacks.as_deref())
                ),
            ),
            Self::WorkerStuck {
                worker,
                silent,
                stacks,
                retry_in,
            } => (
                Level::ERROR,
                format!(
                    "{} has been stuck for {} (--timeout) and is killed{}{}",
                    full_name(*worker),
                    seconds(*silent),
                    and_then(*retry_in),
                    evidence(serving, stacks.as_deref())
                ),
            ),
            Self::WorkerTooLarge {
                worker,
                resident,
                limit,
                retry_in,
            } => (
                Level::ERROR,
                format!(
                    "{} holds {resident} of memory, more than {limit} (--hard-max-rss), and is \
                     killed{}{}",
                    full_name(*worker),
                    serving.in_short(),
                    and_then(*retry_in),
                ),
            ),
            Self::Recycling { worker, reason } => {
                let why = match reason {
                    Reason::Requests(count) => {
                        format!("has answered {count} requests (--max-requests)")
                    }
                    Reason::Lifetime(served) => {
                        format!("has served for {} (--max-lifetime)", seconds(*served))
                    }
                    Reason::Memory { resident, limit } => {
                        format!("holds {resident} of memory, more than {limit} (--max-rss)")
                    }
                    Reason::Hung(request) => {
                        format!("has a thread that hangs in {request} (--request-timeout)")
                    }
                };
                let who = full_name(*worker);
                (Level::INFO, format!("{who} {why}; replacing it"))
            }
            Self::WorkerEnded { worker, exit } => {
                let level = if exit.is_clean() {
                    Level::DEBUG
                } else {
                    Level::WARN
                };
                (level, format!("{} {exit}", full_name(*worker)))
            }
            Self::ForkServerFailed {
                generation,
                cause,
                retry_in,
            } => (
                Level::ERROR,
                format!(
                    "Fork server of generation {generation} failed; starting another one {}, the \
                     workers serve on: {}",
                    delay(*retry_in),
                    told(cause)
                ),
            ),
            Self::Threads {
                generation,
                count,
                forked,
            } => {
                let consequence = if *forked {
                    "these do not exist in the workers, and a lock that one of them holds is held \
                     there for ever: start threads in the lifespan startup, or do without --preload"
                } else {
                    "so workers are started afresh instead of being forked"
                };
                let plural = if *count == 1 { "" } else { "s" };
                (
                    Level::WARN,
                    format!(
                        "Fork server of generation {generation} has {count} thread{plural} besides \
                         the main one; {consequence}"
                    ),
                )
            }
            Self::HookSkipped { hook } => (
                Level::WARN,
                format!(
                    "There is no fork server at this moment: the hook {} is skipped",
                    hook.name()
                ),
            ),
            Self::ReloadStarted { generation } => (
                Level::INFO,
                format!("Reloading: generation {generation} starts"),
            ),
            Self::ReloadWaits => (
                Level::INFO,
                "Reload asked for; it follows the start, reload or upgrade in progress".to_owned(),
            ),
            Self::ReloadFailed {
                generation,
                keeping,
                switched,
                cause,
            } => {
                let mut text = format!(
                    "Reload failed, generation {keeping} stays and generation {generation} is given up: {}",
                    told(cause)
                );
                if *switched > 0 {
                    let _ = write!(
                        text,
                        "\n          Workers that had been replaced before it failed: {switched}"
                    );
                }
                (Level::ERROR, text)
            }
            Self::Reloaded { generation } => (
                Level::INFO,
                format!("Reload complete: all workers are of generation {generation}"),
            ),
            Self::Degraded { reasons } => (
                Level::WARN,
                format!("Degraded: {}", log::continued(&reasons.join("\n"))),
            ),
            Self::Recovered => (
                Level::INFO,
                "No longer degraded: every slot has a worker that serves".to_owned(),
            ),
            Self::WorkersWanted { before, after } if before == after => (
                Level::WARN,
                format!("The number of workers stays {after}: it is the limit"),
            ),
            Self::WorkersWanted { before, after } => (
                Level::INFO,
                format!("Number of workers changed from {before} to {after}"),
            ),
            Self::Scaled {
                before,
                after,
                percent,
                lasted,
            } => (
                Level::INFO,
                format!(
                    "Number of workers changed from {before} to {after}: for {} their event loops \
                     were busy {percent} % of the time",
                    seconds(*lasted)
                ),
            ),
            Self::LogsReopened => (Level::DEBUG, "The log files were opened anew".to_owned()),
            Self::Dismissed => (
                Level::INFO,
                "All workers are told to end; HUP or TTIN brings them back".to_owned(),
            ),
            Self::Recalled { workers } => {
                (Level::INFO, format!("Workers are wanted again: {workers}"))
            }
            Self::UpgradeStarted { generation } => (
                Level::INFO,
                format!("Upgrading: the new program starts, with generation {generation}"),
            ),
            Self::UpgradeRefused => (
                Level::WARN,
                "Upgrade refused: one is in progress; send USR2 again when it is over".to_owned(),
            ),
            Self::UpgradeWaits => (
                Level::INFO,
                "Upgrade asked for; it follows the start or reload in progress".to_owned(),
            ),
            Self::CandidateBoots { version, pid } => (
                Level::INFO,
                format!("Upgrading: rsgun {version} boots [pid {pid}]"),
            ),
            Self::UpgradeFailed { cause } => (
                Level::ERROR,
                format!("Upgrade failed, this program goes on: {}", told(cause)),
            ),
            Self::Upgraded { generation } => (
                Level::INFO,
                format!(
                    "Upgrade complete: this is rsgun {}, all workers are of generation \
                     {generation}",
                    rsgun_core::VERSION
                ),
            ),
            Self::StopsSoon { delay } => (
                Level::INFO,
                format!(
                    "Shutting down in {} (--drain-delay), serving until then; TERM again to \
                     start now",
                    seconds(*delay)
                ),
            ),
            Self::Stopping { urgency } => (
                Level::INFO,
                match urgency {
                    Urgency::Graceful => "Shutting down",
                    Urgency::Quick => "Shutting down quickly; once more to end at once",
                    Urgency::Now => "Ending at once",
                }
                .to_owned(),
            ),
            Self::LeftBehind { pids } => {
                let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
                (
                    Level::ERROR,
                    format!(
                        "The kernel has not ended these killed processes: {}; ending without them",
                        list.join(", ")
                    ),
                )
            }
            Self::Finished => (
                Level::INFO,
                format!("Finished server process [{}]", std::process::id()),
            ),
        }
    }
}

/// The requests that a worker is or was working on, each as `GET /x (1.2 s)`.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// The oldest ones.
    pub(super) named: Vec<String>,
    /// How many there are besides.
    pub(super) more: usize,
}

impl InFlight {
    /// A phrase with the first few: ` while serving GET /x (1.2 s), 4 more`.
    fn in_short(&self) -> String {
        let mut list: Vec<String> = self.named.iter().take(NAMED_IN_SHORT).cloned().collect();
        if list.is_empty() {
            return String::new();
        }
        let more = self.named.len() - list.len() + self.more;
        if more > 0 {
            list.push(format!("{more} more"));
        }
        format!(" while serving {}", list.join(", "))
    }
}

/// What is known about a process that hangs: all its requests, and its stacks.
fn evidence(serving: &InFlight, stacks: Option<&str>) -> String {
    let mut text = String::new();
    if serving.named.is_empty() {
        text.push_str("\n          It has no requests in flight.");
    } else {
        text.push_str("\n          Requests in flight, by age:");
    }
    for request in &serving.named {
        text.push_str("\n            ");
        text.push_str(request);
    }
    if serving.more > 0 {
        let _ = write!(text, "\n            and {} more", serving.more);
    }
    match stacks {
        Some(stacks) => {
            text.push('\n');
            text.push_str(stacks.trim_end());
        }
        None => text.push_str("\n          It could not write its stacks."),
    }
    text
}

/// When a worker that is lost is replaced, as the end of a sentence.
fn and_then(retry_in: Option<Duration>) -> String {
    match retry_in {
        None => String::new(),
        Some(Duration::ZERO) => "; replacing it".to_owned(),
        Some(time) => format!("; replacing it {}", delay(time)),
    }
}

/// A message with its hints, and the application's traceback as it is.
fn told(cause: &Cause) -> String {
    let mut text = log::continued(&cause.message);
    if let Some(traceback) = &cause.traceback {
        text.push('\n');
        text.push_str(traceback.trim_end());
    }
    text
}

fn name(worker: Label) -> String {
    format!("Worker {}", worker.identity.slot)
}

fn ids(worker: Label) -> String {
    let generation = worker.identity.generation;
    worker.pid.map_or_else(
        || format!("generation {generation}"),
        |pid| format!("pid {pid}, generation {generation}"),
    )
}

fn full_name(worker: Label) -> String {
    worker.pid.map_or_else(
        || name(worker),
        |pid| format!("{} [pid {pid}]", name(worker)),
    )
}

fn delay(time: Duration) -> String {
    if time.is_zero() {
        "now".to_owned()
    } else {
        format!("in {}", seconds(time))
    }
}

/// A short time, for people: `0.1 s`, `32 s`.
pub(super) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) && time.subsec_millis() >= 50 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{:.0} s", time.as_secs_f64())
    }
}
