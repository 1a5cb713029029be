//! How a process ended, in words.

use std::fmt;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rsgun_core::sys::stacks;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal {
        /// Which one.
        signal: Signal,
        /// A core file was written.
        core: bool,
        /// The kernel killed a process of this cgroup for want of memory.
        out_of_memory: bool,
    },
    /// By a signal without a name of its own.
    RealTime {
        /// Its number.
        number: i32,
    },
    /// Nobody knows: it was never reaped under a known number.
    Unknown,
}

impl Exit {
    /// What the raw status of a child that has ended tells.
    #[must_use]
    pub(super) fn from_raw(pid: i32, status: i32) -> Self {
        match WaitStatus::from_raw(Pid::from_raw(pid), status) {
            Ok(status) => Self::from_wait(status).map_or(Self::Unknown, |(_, exit)| exit),
            // nix knows no real-time signals; the number is in the low bits (wait(2)).
            Err(_) => Self::RealTime {
                number: status & 0x7f,
            },
        }
    }

    /// The pid and the end that a wait status tells of; `None` when it tells of
    /// something else, such as a stopped process.
    #[must_use]
    pub(super) fn from_wait(status: WaitStatus) -> Option<(i32, Self)> {
        match status {
            WaitStatus::Exited(pid, code) => Some((pid.as_raw(), Self::Code(code))),
            WaitStatus::Signaled(pid, signal, core) => Some((
                pid.as_raw(),
                Self::Signal {
                    signal,
                    core,
                    out_of_memory: false,
                },
            )),
            _ => None,
        }
    }

    /// Whether it ended as ordered.
    #[must_use]
    pub(super) fn is_clean(self) -> bool {
        self == Self::Code(0)
    }

    /// Whether the question for its stacks may have ended it: where the answering handler
    /// is not there (any more), as after an exec, or finds an interpreter that has ended.
    #[must_use]
    pub(super) fn may_be_of_question(self) -> bool {
        match self {
            Self::Signal { signal, .. } => signal == Signal::SIGSEGV,
            Self::RealTime { number } => number == stacks::signal_number(),
            Self::Code(_) | Self::Unknown => false,
        }
    }

    /// Whether it ended by a signal that tells processes to end. One that is ending already
    /// dies by it when its interpreter is gone: CTRL+C reaches the whole process group.
    #[must_use]
    pub(super) fn is_dismissal(self) -> bool {
        matches!(
            self,
            Self::Signal {
                signal: Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT,
                core: false,
                ..
            }
        )
    }

    /// Whether it ended by SIGKILL, the kernel's means against want of memory.
    #[must_use]
    pub(super) fn is_kill(self) -> bool {
        matches!(
            self,
            Self::Signal {
                signal: Signal::SIGKILL,
                ..
            }
        )
    }
}

/// A verb phrase: `was killed by SIGSEGV (core dumped)`, `exited with code 3`.
impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exited with code {code}"),
            Self::Signal {
                signal,
                core,
                out_of_memory,
            } => {
                write!(formatter, "was killed by {signal}")?;
                if *out_of_memory {
                    write!(formatter, " (out of memory: the kernel's OOM killer)")?;
                }
                if *core {
                    write!(formatter, " (core dumped)")?;
                }
                Ok(())
            }
            Self::RealTime { number } => write!(formatter, "was killed by signal {number}"),
            Self::Unknown => write!(formatter, "ended before it had told its process id"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_told_in_words() {
        let words = |status| Exit::from_wait(status).unwrap().1.to_string();
        let pid = Pid::from_raw(7);
        assert_eq!(words(WaitStatus::Exited(pid, 3)), "exited with code 3");
        assert_eq!(
            words(WaitStatus::Signaled(pid, Signal::SIGSEGV, true)),
            "was killed by SIGSEGV (core dumped)"
        );
        assert_eq!(Exit::from_raw(7, 40).to_string(), "was killed by signal 40");
        assert!(Exit::from_raw(7, Signal::SIGINT as i32).is_dismissal());
        assert!(!Exit::from_raw(7, Signal::SIGSEGV as i32).is_dismissal());
        assert_eq!(Exit::from_raw(7, 3 << 8), Exit::Code(3));
        let oom = Exit::Signal {
            signal: Signal::SIGKILL,
            core: false,
            out_of_memory: true,
        };
        assert_eq!(
            oom.to_string(),
            "was killed by SIGKILL (out of memory: the kernel's OOM killer)"
        );
        assert!(Exit::from_wait(WaitStatus::StillAlive).is_none());
    }
}
