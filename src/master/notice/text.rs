//! The words and the level of each notice, in one place.

use std::fmt::Write as _;
use std::time::Duration;

use rsgun_core::log;
use tracing::Level;

use super::Notice;
use crate::master::generation::Cause;
use crate::master::stop::Urgency;
use crate::master::supervision::DRAIN_MARGIN;
use crate::master::worker::{Label, Reason};

/// How many running requests a line about a dead worker names.
const NAMED_IN_SHORT: usize = 3;
/// How many threads a line about them names.
const THREADS_NAMED: usize = 8;

impl Notice {
    /// Level and text. `serving` is what the worker of [`Self::concerns`] was serving.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a catalogue of texts, one arm each")]
    pub(in crate::master) fn text(&self, serving: &InFlight) -> (Level, String) {
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
            Self::WorkerLeaves { worker, retry_in } => (
                Level::INFO,
                format!(
                    "{} leaves, without having been told to{}",
                    full_name(*worker),
                    and_then(*retry_in)
                ),
            ),
            Self::WorkerOverdue {
                worker,
                after,
                graceful,
                stacks,
            } => (
                Level::WARN,
                format!(
                    "{} did not end within {} and was killed: {}{}",
                    full_name(*worker),
                    seconds(*after),
                    allowance(*graceful),
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
                let level = if exit.is_clean() || exit.is_dismissal() {
                    Level::DEBUG
                } else {
                    Level::WARN
                };
                let text = format!("{} {exit}{}", full_name(*worker), serving.in_short());
                (level, text)
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
                names,
                forked,
                hooks,
            } => {
                let consequence = if *forked {
                    "these do not exist in the workers, and a lock that one of them holds is held \
                     there for ever: start threads in the lifespan startup, or do without --preload"
                } else if *hooks {
                    "so workers are started afresh instead of being forked, and evaluate the \
                     configuration themselves: what on_starting, when_ready, on_reload or pre_fork \
                     have set is not there in post_fork and later"
                } else {
                    "so workers are started afresh instead of being forked"
                };
                let plural = if *count == 1 { "" } else { "s" };
                let list = threads(*count, names);
                (
                    Level::WARN,
                    format!(
                        "Fork server of generation {generation} has {count} thread{plural} besides \
                         the main one ({list}); {consequence}"
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
                goes_back,
                cause,
            } => {
                let mut text = format!(
                    "Reload failed, generation {keeping} stays and generation {generation} is given up: {}",
                    told(cause)
                );
                if *switched > 0 {
                    let plural = if *switched == 1 { "" } else { "s" };
                    let prospect = if *goes_back {
                        format!("go back to the code of generation {keeping}, one at a time")
                    } else {
                        "stay, so two versions of the code answer: correct the code and send HUP \
                         again (with --preload they would go back to the old code)"
                            .to_owned()
                    };
                    let _ = write!(
                        text,
                        "\n          It had replaced {switched} worker{plural} before it failed, \
                         and generation {generation} serves there; these {prospect}."
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
pub(in crate::master) struct InFlight {
    /// The oldest ones.
    pub(in crate::master) named: Vec<String>,
    /// How many there are besides.
    pub(in crate::master) more: usize,
    /// There was a scoreboard to look at.
    pub(in crate::master) is_known: bool,
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

/// Why a worker had as much time to end as it had.
fn allowance(graceful: Option<Duration>) -> String {
    match graceful {
        Some(graceful) => format!(
            "its requests had {} (--graceful-timeout), and {} were for cancelling them and for \
             the shutdown of the application.",
            seconds(graceful),
            seconds(DRAIN_MARGIN)
        ),
        None => "a quick stop allows no more.".to_owned(),
    }
}

/// The threads of a process besides the main one.
fn threads(count: usize, names: &[String]) -> String {
    let shown = names.iter().take(THREADS_NAMED);
    let mut list: Vec<String> = shown.map(|name| format!("{name:?}")).collect();
    if names.len() > list.len() {
        list.push(format!("{} more", names.len() - list.len()));
    }
    if count > names.len() {
        list.push(format!("{} unknown to Python", count - names.len()));
    }
    list.join(", ")
}

/// What is known about a process that hangs: all its requests, and its stacks.
fn evidence(serving: &InFlight, stacks: Option<&str>) -> String {
    let mut text = String::new();
    if !serving.is_known && stacks.is_none() {
        return "\n          Its requests and stacks are not known: it belonged to the candidate of \
                an upgrade, which is dead."
            .to_owned();
    }
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
pub(in crate::master) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) && time.subsec_millis() >= 50 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{:.0} s", time.as_secs_f64())
    }
}
