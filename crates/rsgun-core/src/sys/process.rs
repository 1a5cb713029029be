//! Processes: how they are made, tied to each other, and cut loose.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::credentials::{self, Credentials};
use super::fork::{Forked, fork_without_hooks, tell_pid};

/// Signals that a terminal or an operator sends to the whole group and that only
/// the master acts on. The other processes ignore them, but for a worker's own handler
/// of USR1.
pub const MASTER_ONLY: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
];

/// Makes this process the parent of every orphan below it (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// What `prctl(2)` returns.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Leaves orphans below this process to its parents again, whoever has asked for them.
///
/// # Errors
/// What `prctl(2)` returns.
pub fn resign_as_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(false)?)
}

/// Prepares a command so that its child starts with clean signals and with `fds`
/// at the numbers given, all other descriptors above 2 being close-on-exec already.
///
/// The [`MASTER_ONLY`] signals start out ignored in the child, so that a CTRL+C in
/// the moment before it has installed its own handlers does not kill it; the child
/// replaces them with handlers that do nothing, which an exec resets for *its*
/// children. The signal mask is emptied: `Command` would keep the master's.
///
/// `run_as` is whom the child becomes; `None` leaves it the user of its parent.
pub fn prepare_child(
    command: &mut Command,
    fds: Vec<(OwnedFd, RawFd)>,
    run_as: Option<Credentials>,
) {
    // SAFETY: between fork and exec the closure calls only async-signal-safe
    // functions (sigaction, sigprocmask, dup2, fcntl) and system calls that change
    // ids, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if let Some(run_as) = &run_as {
                credentials::assume(run_as)?;
            }
            reset_signals()?;
            for signal in MASTER_ONLY {
                sigaction(
                    signal,
                    &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()),
                )?;
            }
            // Last: a signal that waits must find its disposition in place.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            for (fd, number) in &fds {
                if fd.as_raw_fd() == *number {
                    // Already in place: only take off close-on-exec.
                    if libc::fcntl(*number, libc::F_SETFD, 0) == -1 {
                        return Err(io::Error::last_os_error());
                    }
                } else if libc::dup2(fd.as_raw_fd(), *number) == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Has the program of a command killed when the thread that has started it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL))?));
    }
}

/// Puts every signal back to its default.
fn reset_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: the default disposition runs no code of ours.
            unsafe { sigaction(signal, &default)? };
        }
    }
    Ok(())
}

/// Installs handlers that do nothing for the [`MASTER_ONLY`] signals.
///
/// Unlike `SIG_IGN` a handler is reset by exec, so programs that the application
/// starts get CTRL+C as usual. Those of job control are ignored: with a handler, a call
/// that uses the terminal from the background would be begun anew for ever; ignored, it
/// fails, or goes through.
///
/// # Errors
/// What `sigaction(2)` returns.
pub fn ignore_master_signals() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in MASTER_ONLY {
        let action = match signal {
            Signal::SIGTTIN | Signal::SIGTTOU => &ignored,
            _ => &action,
        };
        // SAFETY: the handler is an empty function, safe at any moment.
        unsafe { sigaction(signal, action)? };
    }
    Ok(())
}

/// Takes ownership of the descriptor that the parent has put at this number before
/// exec, once in the life of a process.
///
/// # Errors
/// `EBADF` when nothing is open there; `AlreadyExists` at the second call.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the inherited descriptor has been taken before",
        ));
    }
    // SAFETY: F_SETFD on a number is harmless; it tells whether the number is open,
    // and sets close-on-exec, which descriptors after an exec lack.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open as just seen; the parent put it there for this call, which happens
    // once, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts `/dev/null` in the place of a descriptor, whose number stays taken.
///
/// # Errors
/// What `open(2)` or `dup2(2)` return.
pub fn blank_out(fd: BorrowedFd<'_>) -> io::Result<()> {
    redirect(fd, std::fs::File::open("/dev/null")?.as_fd())
}

/// Makes a descriptor lead to another file, in one step, so that no writer ever finds
/// it closed. It stays close-on-exec.
///
/// # Errors
/// What `dup3(2)` returns.
pub fn redirect(fd: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the number stays an open descriptor of its owner.
    let result = unsafe { libc::dup3(target.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// As [`prepare_child`], but the program becomes an orphan: the direct child ends at
/// once with code 0, and the nearest subreaper is the parent of the program. Its pid is
/// told to `pipe` ([`told_pid`](super::fork::told_pid)), of which the command keeps a copy.
pub fn prepare_orphan(command: &mut Command, fds: Vec<(OwnedFd, RawFd)>, pipe: PipeWriter) {
    prepare_child(command, fds, None);
    // SAFETY: between fork and exec only fork, write and `_exit` are called, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || match fork_without_hooks()? {
            Forked::Parent(pid) => exit_now(i32::from(tell_pid(&pipe, pid).is_err())),
            Forked::Child => Ok(()),
        });
    }
}

/// Reaps one child that has ended, if there is one: its pid and raw wait status.
///
/// # Errors
/// What `waitpid(2)` returns; to have no child is none.
pub fn reap_any() -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the kernel to write to.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid > 0 {
            return Ok(Some((pid, status)));
        }
        if pid == 0 {
            return Ok(None);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ECHILD) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Whether a process is a child of this one that was not reaped.
#[must_use]
pub fn is_child(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid)), flags).is_ok()
}

/// Whether a process is a child of this one that was not reaped, or will be one as soon as
/// those between have ended, as a worker is that was forked a moment ago. No other process
/// is this one's to signal: a number that was told, or that was kept for too long, may be
/// anybody's.
#[must_use]
pub fn is_descendant(pid: i32) -> bool {
    let own = Pid::this().as_raw();
    let mut ancestor = pid;
    for _ in 0..LINEAGE {
        if ancestor <= 1 {
            return false;
        }
        if is_child(ancestor) {
            return true;
        }
        match parent_of(ancestor) {
            Some(parent) if parent == own => return true,
            Some(parent) => ancestor = parent,
            // It has ended since, and left its children to this process.
            None => break,
        }
    }
    is_child(pid)
}

/// How many generations a worker and the master are apart at most, and some more.
const LINEAGE: usize = 8;

/// The parent of a process, as `/proc` shows it.
fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may contain anything.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Ends this process at once: no destructors, no exit handlers, no flushing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` only ends the process.
    unsafe { libc::_exit(code) }
}

/// How many threads this process has, also those that a language runtime does not
/// know of. `None` when `/proc` cannot be read.
#[must_use]
pub fn thread_count() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// The number that the next descriptor of this process would get.
///
/// # Errors
/// `EMFILE` when none is left.
pub fn next_fd_number() -> io::Result<RawFd> {
    Ok(placeholder()?.as_raw_fd())
}

/// A descriptor whose only use is that it has a number. It is of what is everywhere, also
/// where a container has no `/dev/null`.
///
/// # Errors
/// `EMFILE` when none is left.
pub fn placeholder() -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(
        "/",
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?)
}

/// What to do when the system has too little of something for another descriptor or
/// process; `None` for any other error.
#[must_use]
pub fn scarcity(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::EMFILE => Some(
            "This process has no descriptor left: raise `ulimit -n`, under systemd LimitNOFILE=.",
        ),
        Errno::ENFILE => Some("The system has no descriptor left: see fs.file-max."),
        Errno::EAGAIN | Errno::ENOMEM => Some(
            "There is no room for another process: see `ulimit -u` and the limits of the \
             control group on processes and memory, under systemd TasksMax= and MemoryMax=.",
        ),
        _ => None,
    }
}

/// Duplicates a descriptor to the lowest free number at or above `floor`,
/// close-on-exec.
///
/// # Errors
/// What `fcntl(2)` returns.
pub fn dup_above(fd: BorrowedFd<'_>, floor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC makes a new descriptor and touches no memory.
    let number = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor) };
    if number == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn only_what_descends_from_this_process_is_its_own() {
        let own = Pid::this().as_raw();
        let parent = nix::unistd::getppid().as_raw();
        for other in [own, parent, 1, 0, -1, -own, i32::MIN, i32::MAX] {
            assert!(!is_descendant(other), "{other}");
        }
        // A shell that waits for a child, whose number it tells.
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 600 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = shell.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let grandchild: i32 = line.trim().parse().unwrap();
        let child = i32::try_from(shell.id()).unwrap();
        let found = [is_descendant(child), is_descendant(grandchild)];
        nix::sys::signal::kill(Pid::from_raw(grandchild), Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
        assert_eq!(found, [true, true]);
        assert!(!is_descendant(child), "it was reaped");
    }
}
