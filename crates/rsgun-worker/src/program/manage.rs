//! A master for a program: the command as a child that is waited for.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pyo3::prelude::*;
use rsgun_core::sys::process::MASTER_ONLY;
use rsgun_core::sys::relay::{self, Relay};
use rsgun_core::sys::signals::{HeldBack, Sender};

/// Runs a command, with these variables besides those of this process, to its end and
/// returns its exit code; 128 and the number of the signal that has killed it.
///
/// With `relays` the signals that a master acts on are passed on to it; only the main
/// thread of a program may ask for that.
///
/// # Errors
/// `OSError` when it cannot be started or watched.
#[pyfunction]
#[pyo3(name = "_manage")]
pub(super) fn manage(
    py: Python<'_>,
    command: Vec<String>,
    variables: HashMap<String, String>,
    relays: bool,
) -> PyResult<i32> {
    let status = py.detach(move || to_its_end(command, variables, relays))?;
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

fn to_its_end(
    line: Vec<String>,
    variables: HashMap<String, String>,
    relays: bool,
) -> io::Result<ExitStatus> {
    let mut line = line.into_iter();
    let Some(program) = line.next() else {
        return Err(io::Error::other("there is no command to run"));
    };
    let signals: Vec<Signal> = MASTER_ONLY.into_iter().chain([Signal::SIGTERM]).collect();
    let relay = relays.then(|| Relay::install(&signals)).transpose()?;
    let mut command = Command::new(program);
    command.args(line).envs(variables);
    relay::prepare_master(&mut command);
    let mut child = {
        let _held = HeldBack::start()?;
        command.spawn()?
    };
    let pid = Pid::from_raw(child.id().cast_signed());
    let end = relay::watch(pid)?;
    loop {
        let mut sources = vec![PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        sources.extend(
            relay
                .as_ref()
                .map(|relay| PollFd::new(relay.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(arrived) = relay.as_ref().map_or(Ok(None), Relay::next)? {
            // What a terminal sends, it sends to the master too.
            if matches!(arrived.sender, Sender::Process(_)) {
                // It may have ended just now.
                let _ = kill(pid, arrived.signal);
            }
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
    }
}
