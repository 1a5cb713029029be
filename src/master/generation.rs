//! Generations: a generation is one fork server and the workers that it has forked.

use std::time::Duration;

use rsgun_core::ipc::Failure;
use serde::{Deserialize, Serialize};

use super::event::Policy;
use super::moment::Moment;
use super::worker::{Ending, Inquiry, Stage};

/// What a generation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    /// New workers come from it.
    Current,
    /// A reload is about to make it the current one.
    Candidate,
    /// Another one has taken its place; its workers stay until they are replaced.
    Former,
    /// It has failed after some of its workers had taken over; with `--preload`
    /// these are replaced from the current one, which still has the old code.
    Rejected,
}

/// One load of the code, or, without `--preload`, of the interpreter.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) standing: Standing,
    pub(super) policy: Policy,
    pub(super) server: ForkServer,
}

/// The fork server of a generation. Its [`Stage::Serving`] means that it forks.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what has happened so far, each on its own"
)]
pub(super) struct ForkServer {
    pub(super) pid: Option<i32>,
    pub(super) stage: Stage,
    pub(super) ending: Ending,
    pub(super) inquiry: Inquiry,
    /// It was reaped, or never started.
    pub(super) gone: bool,
    pub(super) failure: Option<Cause>,
    /// It has said Hello.
    pub(super) greeted: bool,
    /// It was asked to evaluate the configuration.
    pub(super) asked: bool,
    /// It has answered that.
    pub(super) evaluated: bool,
    /// It was sent its settings.
    pub(super) configured: bool,
    /// Its warning about threads was passed on.
    pub(super) warned: bool,
    /// The number of workers that it was told of; 0 before it was.
    pub(super) workers: u32,
    /// It was asked to call the hook `when_ready`.
    pub(super) when_ready: bool,
}

impl Generation {
    pub(super) fn new(standing: Standing, policy: Policy, now: Moment) -> Self {
        let by = policy.boot_timeout.map(|limit| now + limit);
        Self {
            standing,
            policy,
            server: ForkServer {
                pid: None,
                stage: Stage::Starting { by },
                ending: Ending::default(),
                inquiry: Inquiry::NotNeeded,
                gone: false,
                failure: None,
                greeted: false,
                asked: false,
                evaluated: false,
                configured: false,
                warned: false,
                workers: 0,
                when_ready: false,
            },
        }
    }

    /// Whether workers can be asked for.
    pub(super) fn can_fork(&self) -> bool {
        !self.server.is_down() && matches!(self.server.stage, Stage::Serving { .. })
    }
}

impl ForkServer {
    /// Whether it is, or is about to be, of no use any more.
    pub(super) fn is_down(&self) -> bool {
        self.gone
            || self.ending.has_exited()
            || self.ending.is_closed()
            || self.stage.is_doomed()
            || matches!(self.stage, Stage::Leaving { .. })
    }

    /// Whether it can be asked to call hooks.
    pub(super) fn takes_calls(&self) -> bool {
        self.configured && !self.is_down()
    }

    /// How long it has been able to fork.
    pub(super) fn served(&self, now: Moment) -> Option<Duration> {
        match self.stage {
            Stage::Serving { since } => Some(now.since(since)),
            _ => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        if self.gone {
            None
        } else {
            let stage = self.stage.deadline();
            self.ending.or(match self.stage {
                Stage::Starting { .. } => self.inquiry.or(stage),
                _ => stage,
            })
        }
    }
}

/// Why something did not start, and the exit code if this ends the first boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cause {
    /// The thing, and what to do; possibly several lines.
    pub(super) message: String,
    /// The application's traceback.
    pub(super) traceback: Option<String>,
    /// The exit code.
    pub(super) code: u8,
}

impl Cause {
    /// A worker or fork server did not come up, for a reason that the master found.
    pub(super) fn boot(message: String) -> Self {
        Self {
            message,
            traceback: None,
            code: 3,
        }
    }

    /// The configuration or the environment is wrong.
    pub(super) fn configuration(message: String) -> Self {
        Self {
            message,
            traceback: None,
            code: 1,
        }
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.kind.exit_code(),
            message: failure.message,
            traceback: failure.traceback,
        }
    }
}
