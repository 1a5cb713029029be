//! Going into the background.
//!
//! This is the one fork without exec. It happens before any runtime, thread or child
//! exists. The first process, the launcher, stays in the terminal and waits on a pipe:
//! it shows what the master complains about while it boots, and ends with exit code 0
//! when the server serves, or else with that of the master; 1 if that one was stopped.
//!
//! The handlers of the signals, with their queue, were installed before and are the
//! same in both: a CTRL+C in the launcher's terminal is read by the master, which ends
//! its boot, and so the launcher.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, setsid};
use rsgun_core::sys::fork::{Forked, fork_without_hooks};

/// What the master sends when it serves; no log line has it.
const SERVES: u8 = 0;

/// Which process this is, after [`detach`].
pub(super) enum Detached {
    /// The one in the terminal; it has waited and ends with this code.
    Launcher(u8),
    /// The one in the background.
    Master(Launcher),
}

/// The master's line to the launcher. If it is dropped unused, the launcher waits for
/// the end of the master and takes over its exit code.
#[derive(Debug)]
pub(super) struct Launcher(OwnedFd);

/// Splits into launcher and master; the latter has no terminal.
///
/// # Errors
/// What `pipe2(2)`, `fork(2)` or `setsid(2)` return.
pub(super) fn detach() -> io::Result<Detached> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    match fork_without_hooks()? {
        Forked::Parent(master) => {
            drop(writer);
            Ok(Detached::Launcher(wait(reader, master)?))
        }
        Forked::Child => {
            drop(reader);
            setsid()?;
            // A launcher that was stopped must not hold up the master.
            fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok(Detached::Master(Launcher(writer)))
        }
    }
}

impl Launcher {
    /// A copy of the line, for errors and warnings in the shape of log lines.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) fn line(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Lets the launcher end: the server serves.
    pub(super) fn release(self) {
        // It may have been killed meanwhile.
        let _ = File::from(self.0).write_all(&[SERVES]);
    }
}

/// Leads the standard streams of this process away from the terminal, to nowhere; with
/// `keep_input` standard input stays, as it is a socket to listen on.
///
/// # Errors
/// What `open(2)` or `dup2(2)` return.
pub(super) fn leave_streams(keep_input: bool) -> io::Result<()> {
    let null = (File::options().read(true).write(true).open("/dev/null"))
        .map_err(|error| io::Error::new(error.kind(), format!("/dev/null: {error}")))?;
    if !keep_input {
        nix::unistd::dup2_stdin(&null)?;
    }
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Shows what comes through the pipe until the master serves or ends.
fn wait(reader: OwnedFd, master: Pid) -> io::Result<u8> {
    let mut reader = File::from(reader);
    let mut buffer = [0; 4096];
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let serves = buffer[length - 1] == SERVES;
        let text = &buffer[..length - usize::from(serves)];
        // Nobody reads it any more.
        let _ = io::stderr().write_all(text);
        if serves {
            return Ok(0);
        }
    }
    loop {
        match waitpid(master, None) {
            // Also a stop that was asked for is not what a launch is to lead to.
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code).unwrap_or(1).max(1)),
            Ok(_) => return Ok(1),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
