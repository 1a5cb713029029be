//! Signals that one process passes on to another that it waits for.
//!
//! A program that runs a master as its child is what supervisors, shells, and users know:
//! what they send to it is meant for the master. While a [`Relay`] lives, its signals
//! only go into a pipe; dropping it puts the handlers of before back. What the kernel
//! sends for a key pressed in the terminal reaches both processes by itself and must not
//! be passed on: a second SIGINT means more than one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, getppid};

use super::signals::{self, Arrived, ENTRY};

/// The writing end for the handler; -1 without a relay.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Catches signals until it is dropped; there is one at a time.
#[derive(Debug)]
pub struct Relay {
    reader: OwnedFd,
    /// Open as long as the handler may write to it.
    _writer: OwnedFd,
    before: Vec<(Signal, libc::sigaction)>,
}

impl Relay {
    /// Catches each of `signals`, but for SIGHUP where that is ignored, as `nohup` has it.
    /// A shell that starts a program in the background has it ignore SIGINT, which ends
    /// rsgun's command all the same.
    ///
    /// # Errors
    /// `AlreadyExists` when another relay lives; what `pipe2(2)` or `sigaction(2)` return.
    pub fn install(signals: &[Signal]) -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        PIPE.compare_exchange(-1, writer.as_raw_fd(), Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| {
                io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "this process waits for another master already",
                )
            })?;
        let mut relay = Self {
            reader,
            _writer: writer,
            before: Vec::new(),
        };
        for signal in signals {
            if *signal != Signal::SIGHUP || !signals::is_ignored(*signal) {
                let before = replace(*signal, &caught())?;
                relay.before.push((*signal, before));
            }
        }
        Ok(relay)
    }

    /// Takes the oldest signal; `None` when there is none.
    ///
    /// # Errors
    /// What `read(2)` returns.
    pub fn next(&self) -> io::Result<Option<Arrived>> {
        signals::take(self.reader.as_fd())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // The same call has succeeded with another action.
            let _ = replace(*signal, before);
        }
        // Before the number can become another file's.
        PIPE.store(-1, Ordering::Release);
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Sets an action and returns the one of before.
fn replace(signal: Signal, action: &libc::sigaction) -> io::Result<libc::sigaction> {
    // SAFETY: both point to valid actions; the handler of a new one is `relay` or was
    // installed before by somebody who answers for it.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal as i32, action, &raw mut before) == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}

fn caught() -> libc::sigaction {
    // SAFETY: an all-zero sigaction is valid, and its mask is empty.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = relay as *const () as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
    action
}

extern "C" fn relay(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let errno = Errno::last_raw();
    // SAFETY: the kernel passes a valid description of the signal to a handler with
    // SA_SIGINFO; write(2) is async-signal-safe, and its buffer outlives the call.
    unsafe {
        let pid = signals::sender_of(&*info);
        let entry = signals::pack(number, pid);
        // A full pipe loses a signal of which hundreds wait already.
        libc::write(PIPE.load(Ordering::Acquire), entry.as_ptr().cast(), ENTRY);
    }
    Errno::set_raw(errno);
}

/// Prepares a command whose child is the master of this process: it starts with the
/// signals of any program, and is asked to stop (SIGTERM) when this thread, which waits
/// for it, dies.
pub fn prepare_master(command: &mut Command) {
    let parent = Pid::this();
    let ignored: Vec<(Signal, bool)> = Signal::iterator()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP))
        .map(|signal| (signal, signals::is_ignored(signal)))
        .collect();
    // SAFETY: between fork and exec the closure calls only async-signal-safe functions
    // (sigaction, sigprocmask, prctl, getppid) and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            for (signal, is_ignored) in &ignored {
                let mut action: libc::sigaction = std::mem::zeroed();
                // Python ignores SIGPIPE for itself alone.
                if *is_ignored && *signal != Signal::SIGPIPE {
                    action.sa_sigaction = libc::SIG_IGN;
                }
                replace(*signal, &action)?;
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == -1 {
                return Err(io::Error::last_os_error());
            }
            if getppid() != parent {
                return Err(io::Error::other("the program has ended"));
            }
            Ok(())
        });
    }
}

/// A descriptor that can be read when a process has ended.
///
/// # Errors
/// What `pidfd_open(2)` returns.
pub fn watch(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let number = i32::try_from(number).unwrap_or(-1);
    if number == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signals::Sender;

    #[test]
    fn a_relay_takes_signals_and_leaves_no_trace() {
        let first = Relay::install(&[Signal::SIGUSR1]).unwrap();
        assert!(Relay::install(&[Signal::SIGUSR1]).is_err());
        signal_hook::low_level::raise(Signal::SIGUSR1 as i32).unwrap();
        let sender = Sender::Process(std::process::id().cast_signed());
        let signal = Signal::SIGUSR1;
        assert_eq!(first.next().unwrap(), Some(Arrived { signal, sender }));
        assert_eq!(first.next().unwrap(), None);
        drop(first);
        let again = Relay::install(&[Signal::SIGUSR1]).unwrap();
        let [(_, before)] = again.before.as_slice() else {
            panic!("one signal was caught");
        };
        assert_eq!(before.sa_sigaction, libc::SIG_DFL);
    }
}
