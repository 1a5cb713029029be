//! One worker process, as the master sees it.
//!
//! ```text
//!   asked for ─▶ Starting ─▶ Serving ─▶ Leaving ─▶ (gone)
//!                    │          ├─▶ Aborted ─┐
//!                    └──────────┴────────────┴─▶ Killed ─▶ (gone)
//! ```
//!
//! One that hangs is asked for its stacks before anything is done about it, and has a
//! moment to give them; see [`Inquiry`].
//!
//! A worker is gone when it was reaped *and* its channel has ended, in either
//! order: what it said last, such as why it failed, may still be in the channel
//! when the kernel reports the exit. Neither is waited for without limit.

use std::time::Duration;

use rsgun_core::config::Size;
use rsgun_core::ipc::{Failure, Identity};
use serde::{Deserialize, Serialize};

use super::exit::Exit;
use super::moment::Moment;
use super::scale::Beat;

/// How long the end of a channel may follow after the exit: descendants of the
/// process may hold the other end.
const CHANNEL_AFTER_EXIT: Duration = Duration::from_millis(250);
/// How long the exit may follow after the end of the channel.
const EXIT_AFTER_CHANNEL: Duration = Duration::from_secs(2);

/// How long the reason may follow when the channel of a process that never told its
/// pid has ended.
const UNKNOWN_AFTER_CHANNEL: Duration = Duration::from_millis(250);

/// What a process is known to be in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Asked for; not ready before `by` is too late.
    Starting { by: Option<Moment> },
    /// Accepts connections.
    Serving { since: Moment },
    /// Told to end, or ending by itself; is killed at `by`.
    Leaving { since: Moment, by: Moment },
    /// SIGABRT is on its way; is killed at `by`.
    Aborted { by: Moment },
    /// SIGKILL is on its way.
    Killed,
}

/// What is known about why a process hangs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Inquiry {
    /// There was no reason to ask.
    #[default]
    NotNeeded,
    /// It was asked for its stacks, and is dealt with at `by` without an answer.
    Asked { by: Moment },
    /// Its stacks, if it could write any.
    Answered(Option<String>),
}

impl Inquiry {
    /// Notes the answer to a question that is still open.
    pub(super) fn answer(&mut self, stacks: Option<String>) {
        if matches!(self, Self::Asked { .. }) {
            *self = Self::Answered(stacks);
        }
    }

    /// Waits no longer for an answer that is late.
    pub(super) fn expire(&mut self, now: Moment) {
        if matches!(self, Self::Asked { by } if *by <= now) {
            *self = Self::Answered(None);
        }
    }

    /// Gives it more time.
    pub(super) fn extend(&mut self, time: Duration) {
        if let Self::Asked { by } = self {
            *by = *by + time;
        }
    }

    /// The stacks, once.
    pub(super) fn take(&mut self) -> Option<String> {
        match self {
            Self::Answered(stacks) => stacks.take(),
            Self::NotNeeded | Self::Asked { .. } => None,
        }
    }

    /// When the next thing is due for a process of which `otherwise` holds without a
    /// question.
    pub(super) fn or(&self, otherwise: Option<Moment>) -> Option<Moment> {
        match self {
            Self::Asked { by } => Some(*by),
            Self::NotNeeded | Self::Answered(_) => otherwise,
        }
    }
}

/// Since when and why a worker that works is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// Since when.
    pub(super) since: Moment,
    /// Why.
    pub(super) reason: Reason,
}

/// Why a worker that works is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// It has answered so many requests.
    Requests(u64),
    /// It has served so long.
    Lifetime(Duration),
    /// It holds so much memory, with this limit.
    Memory {
        /// What it holds.
        resident: Size,
        /// What it may hold.
        limit: Size,
    },
    /// A thread of it hangs in this request.
    Hung(String),
}

impl Stage {
    /// When this stage has lasted too long.
    pub(super) fn deadline(self) -> Option<Moment> {
        match self {
            Self::Starting { by } => by,
            Self::Leaving { by, .. } | Self::Aborted { by } => Some(by),
            Self::Serving { .. } | Self::Killed => None,
        }
    }

    /// Gives it more time.
    pub(super) fn extend(&mut self, time: Duration) {
        match self {
            Self::Starting { by: Some(by) } | Self::Leaving { by, .. } | Self::Aborted { by } => {
                *by = *by + time;
            }
            Self::Starting { by: None } | Self::Serving { .. } | Self::Killed => {}
        }
    }

    /// Whether its end is sealed.
    pub(super) fn is_doomed(self) -> bool {
        matches!(self, Self::Aborted { .. } | Self::Killed)
    }
}

/// The two signs of the end of a child process: exit status and end of channel.
#[derive(Debug, Default)]
pub(super) struct Ending {
    exit: Option<Exit>,
    closed: bool,
    /// When one sign alone is enough.
    settled_by: Option<Moment>,
}

impl Ending {
    pub(super) fn exited(&mut self, now: Moment, exit: Exit) {
        self.exit = Some(exit);
        self.settled_by = (!self.closed).then(|| now + CHANNEL_AFTER_EXIT);
    }

    /// `known`: whether the pid is known, so that an exit status can be expected.
    pub(super) fn closed(&mut self, now: Moment, known: bool) {
        self.closed = true;
        self.settled_by = match (self.exit, known) {
            (Some(_), _) => None,
            (None, true) => Some(now + EXIT_AFTER_CHANNEL),
            (None, false) => {
                // Nothing was forked, or it died at once. If the fork server has
                // died, that is the reason, and will be known in a moment.
                self.exit = Some(Exit::Unknown);
                Some(now + UNKNOWN_AFTER_CHANNEL)
            }
        };
    }

    /// The master itself has closed the channel: only the exit is waited for.
    pub(super) fn channel_dropped(&mut self) {
        self.closed = true;
        self.settled_by = None;
    }

    /// How it ended, once both signs were seen or one was waited for in vain.
    pub(super) fn settled(&self, now: Moment) -> Option<Exit> {
        let waited = self.settled_by.is_none_or(|by| by <= now);
        self.exit.filter(|_| waited)
    }

    /// Waits longer for the other sign.
    pub(super) fn extend(&mut self, time: Duration) {
        self.settled_by = self.settled_by.map(|by| by + time);
    }

    /// Whether the other sign is waited for.
    pub(super) fn is_limited(&self) -> bool {
        self.settled_by.is_some()
    }

    /// The channel ended long ago, and the process lives on.
    pub(super) fn is_stray(&self, now: Moment) -> bool {
        self.exit.is_none() && self.closed && self.settled_by.is_some_and(|by| by <= now)
    }

    /// Stops waiting for the exit: something was done about it.
    pub(super) fn stop_waiting(&mut self) {
        self.settled_by = None;
    }

    pub(super) fn has_exited(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether one of the signs was seen.
    pub(super) fn has_begun(&self) -> bool {
        self.closed || self.exit.is_some()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// When something must be done about a process that `alive` holds for while it
    /// lives.
    pub(super) fn or(&self, alive: Option<Moment>) -> Option<Moment> {
        earliest([alive.filter(|_| !self.has_exited()), self.settled_by])
    }
}

/// One worker process.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) identity: Identity,
    /// Known from its first message on: the process that has sent it, and no other one.
    pub(super) pid: Option<i32>,
    /// When its process was asked for.
    pub(super) asked_at: Moment,
    pub(super) stage: Stage,
    pub(super) ending: Ending,
    /// It has served at some time.
    pub(super) was_ready: bool,
    /// It has said that it no longer accepts.
    pub(super) stopped_accepting: bool,
    /// Why it could not start, in its own words.
    pub(super) failure: Option<Failure>,
    /// The event loop has not come round since, for longer than it may.
    pub(super) silent_since: Option<Moment>,
    pub(super) inquiry: Inquiry,
    /// It is to be replaced.
    pub(super) due: Option<Due>,
    /// When it will have served long enough.
    pub(super) retire_at: Option<Moment>,
    /// How many times in a row it was found to hold too much memory.
    pub(super) too_large: u32,
    /// What its event loop had done at the last look.
    pub(super) beat: Option<Beat>,
    /// The share of time, of 1000, in which its event loop was busy.
    pub(super) busy: Option<u64>,
    /// Somebody looks at it in a debugger, and it need not show that it lives.
    pub(super) is_debugged: bool,
}

impl Worker {
    /// One that is asked for now, and must be ready at `by`.
    pub(super) fn new(identity: Identity, now: Moment, by: Option<Moment>) -> Self {
        Self {
            identity,
            pid: None,
            asked_at: now,
            stage: Stage::Starting { by },
            ending: Ending::default(),
            was_ready: false,
            stopped_accepting: false,
            failure: None,
            silent_since: None,
            inquiry: Inquiry::NotNeeded,
            due: None,
            retire_at: None,
            too_large: 0,
            beat: None,
            busy: None,
            is_debugged: false,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serving { .. })
    }

    /// Whether a new connection may still end up with it.
    pub(super) fn may_accept(&self) -> bool {
        self.was_ready && !self.stopped_accepting && !self.ending.has_exited()
    }

    /// How long it has served.
    pub(super) fn served(&self, now: Moment) -> Option<Duration> {
        match self.stage {
            Stage::Serving { since } => Some(now.since(since)),
            _ => None,
        }
    }

    /// When something must be done about it.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let stage = self.stage.deadline();
        self.ending.or(match self.stage {
            Stage::Aborted { .. } | Stage::Killed => stage,
            Stage::Starting { .. } => self.inquiry.or(stage),
            Stage::Serving { .. } => self
                .inquiry
                .or(earliest([self.silent_since, self.retire_at])),
            Stage::Leaving { .. } => self.inquiry.or(earliest([stage, self.silent_since])),
        })
    }

    /// Whether it has a time for what it does, or for showing that it has ended.
    pub(super) fn is_limited(&self) -> bool {
        self.stage.deadline().is_some()
            || self.ending.is_limited()
            || matches!(self.inquiry, Inquiry::Asked { .. })
    }

    /// How it is called in the log.
    pub(super) fn label(&self) -> Label {
        Label {
            identity: self.identity,
            pid: self.pid,
        }
    }
}

/// How a worker is called in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    /// Who it is.
    pub(super) identity: Identity,
    /// Its process id, if it has told.
    pub(super) pid: Option<i32>,
}

/// The earliest of some deadlines.
pub(super) fn earliest(deadlines: impl IntoIterator<Item = Option<Moment>>) -> Option<Moment> {
    deadlines.into_iter().flatten().min()
}
