//! The hooks of a `gunicorn.conf.py`: functions that are called at certain moments.
//!
//! gunicorn calls some of them in its arbiter and some in its workers. Here the master
//! has no Python, so the fork server calls the former: those that belong to a worker as
//! it forks it, all others when the master tells it that the moment has come, by a
//! [`Call`]. Workers call theirs themselves.

use serde::{Deserialize, Serialize};

use crate::ipc::WorkerId;

/// A hook, by its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hook {
    /// Once a master, before the first worker.
    OnStarting,
    /// A reload has read the configuration anew.
    OnReload,
    /// Once a fork server, when the master listens and the fork server before is gone.
    WhenReady,
    /// A worker is about to be forked.
    PreFork,
    /// A worker was forked; called in it.
    PostFork,
    /// A worker has loaded the application; called in it.
    PostWorkerInit,
    /// A worker was told to end quickly; called in it.
    WorkerInt,
    /// A worker is killed because it hangs; called in it.
    WorkerAbort,
    /// A request begins; called in the worker.
    PreRequest,
    /// A request has ended; called in the worker.
    PostRequest,
    /// A worker has ended.
    ChildExit,
    /// A worker is about to end; called in it.
    WorkerExit,
    /// There are to be more workers, or fewer.
    NworkersChanged,
    /// Once a master, when all workers are gone.
    OnExit,
    /// The binary is about to be exchanged.
    PreExec,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::OnStarting,
        Self::OnReload,
        Self::WhenReady,
        Self::PreFork,
        Self::PostFork,
        Self::PostWorkerInit,
        Self::WorkerInt,
        Self::WorkerAbort,
        Self::PreRequest,
        Self::PostRequest,
        Self::ChildExit,
        Self::WorkerExit,
        Self::NworkersChanged,
        Self::OnExit,
        Self::PreExec,
    ];

    /// Its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OnStarting => "on_starting",
            Self::OnReload => "on_reload",
            Self::WhenReady => "when_ready",
            Self::PreFork => "pre_fork",
            Self::PostFork => "post_fork",
            Self::PostWorkerInit => "post_worker_init",
            Self::WorkerInt => "worker_int",
            Self::WorkerAbort => "worker_abort",
            Self::PreRequest => "pre_request",
            Self::PostRequest => "post_request",
            Self::ChildExit => "child_exit",
            Self::WorkerExit => "worker_exit",
            Self::NworkersChanged => "nworkers_changed",
            Self::OnExit => "on_exit",
            Self::PreExec => "pre_exec",
        }
    }

    /// The hook of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// What it is called with, as gunicorn has it. [`Self::PostRequest`] may take fewer.
    #[must_use]
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::OnStarting | Self::OnReload | Self::WhenReady | Self::OnExit | Self::PreExec => {
                &["server"]
            }
            Self::PreFork | Self::PostFork | Self::ChildExit | Self::WorkerExit => {
                &["server", "worker"]
            }
            Self::PostWorkerInit | Self::WorkerInt | Self::WorkerAbort => &["worker"],
            Self::PreRequest => &["worker", "req"],
            Self::PostRequest => &["worker", "req", "environ", "resp"],
            Self::NworkersChanged => &["server", "new_value", "old_value"],
        }
    }

    /// The least number of parameters that the function may have.
    #[must_use]
    pub fn least_parameters(self) -> usize {
        match self {
            Self::PostRequest => 2,
            other => other.parameters().len(),
        }
    }
}

/// Which hooks a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HookSet(u16);

impl HookSet {
    /// Whether the file has this one.
    #[must_use]
    pub fn contains(self, hook: Hook) -> bool {
        self.0 & 1 << hook as u16 != 0
    }
}

impl FromIterator<Hook> for HookSet {
    fn from_iter<I: IntoIterator<Item = Hook>>(hooks: I) -> Self {
        Self(
            hooks
                .into_iter()
                .fold(0, |set, hook| set | 1 << hook as u16),
        )
    }
}

/// A moment that only the master knows of, for the hook in the fork server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// [`Hook::OnStarting`].
    OnStarting,
    /// [`Hook::OnReload`].
    OnReload,
    /// [`Hook::WhenReady`].
    WhenReady,
    /// [`Hook::NworkersChanged`].
    WorkersChanged {
        /// How many there are to be.
        new: u32,
        /// How many there were to be; `None` at the start of a master.
        old: Option<u32>,
    },
    /// [`Hook::ChildExit`].
    ChildExit {
        /// Which worker.
        id: WorkerId,
        /// Its process id; `None` if it has never told the master.
        pid: Option<i32>,
    },
    /// [`Hook::OnExit`].
    OnExit,
    /// [`Hook::PreExec`].
    PreExec,
}

impl Call {
    /// The hook that it is for.
    #[must_use]
    pub fn hook(self) -> Hook {
        match self {
            Self::OnStarting => Hook::OnStarting,
            Self::OnReload => Hook::OnReload,
            Self::WhenReady => Hook::WhenReady,
            Self::WorkersChanged { .. } => Hook::NworkersChanged,
            Self::ChildExit { .. } => Hook::ChildExit,
            Self::OnExit => Hook::OnExit,
            Self::PreExec => Hook::PreExec,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let set: HookSet = [Hook::OnStarting, Hook::PreExec].into_iter().collect();
        let found: Vec<Hook> = Hook::ALL
            .into_iter()
            .filter(|hook| set.contains(*hook))
            .collect();
        assert_eq!(found, [Hook::OnStarting, Hook::PreExec]);
    }

    #[test]
    fn names_lead_back_to_their_hooks() {
        for hook in Hook::ALL {
            assert_eq!(Hook::named(hook.name()), Some(hook));
            assert!(hook.least_parameters() <= hook.parameters().len());
        }
        assert_eq!(Hook::named("ssl_context"), None);
    }
}
