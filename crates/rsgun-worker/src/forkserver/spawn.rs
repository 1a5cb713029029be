//! Making one worker.
//!
//! The worker is to be a child of the master (a subreaper), so the fork server forks it by
//! way of a process that ends at once. Usually that one borrows the fork server's memory
//! (`rsgun_core::sys::fork`), so that only one copy of it is made, and the fork is one of
//! the fork server for all hooks: those before it and those in the parent run there,
//! those in the child in the worker.
//!
//! Memory with several threads in it cannot be lent. Then the intermediate process is a
//! fork of its own, which runs nobody's hooks: those that libraries have registered would
//! start threads in the intermediate, which then could not fork. The second fork is
//! `os.fork()`, with all hooks. When threads exist and nothing is preloaded, the worker
//! is started by exec instead: a lock held by a thread would stay locked for ever in a
//! fork.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use pyo3::prelude::*;
use rsgun_core::bootstrap;
use rsgun_core::ipc::{Belated, Channel, FromForkServer, ToForkServer};
use rsgun_core::log::output::Files;
use rsgun_core::sys::channel;
use rsgun_core::sys::fork::{
    Forked, Orphaned, can_fork_orphan, fork_orphan, fork_without_hooks, tell_pid, told_pid,
};
use rsgun_core::sys::process;

use super::{Loaded, Master};
use crate::ffi;

/// Carries out an order to make one worker; returns on both sides, with [`Forked::Child`]
/// in the worker and its pid in the fork server.
pub(super) fn worker(
    py: Python<'_>,
    master: &Master,
    loaded: &Loaded,
    order: &ToForkServer,
    fds: &[OwnedFd],
    extension: &str,
) -> io::Result<Forked> {
    flush(py);
    // An application that was preloaded may have made this process the one that gets
    // orphans, and its workers are to be the master's.
    process::resign_as_subreaper()?;
    let threads = process::thread_count();
    let others = threads.unwrap_or(1) - 1;
    let preloaded = loaded.app.is_some();
    if others > 0 {
        let message = FromForkServer::Threads {
            count: others,
            names: names_of_threads(py),
            forked: preloaded,
        };
        // A master that is gone is noticed at the next receive.
        let _ = master.send(&message, &[]);
    }
    if others > 0 && !preloaded {
        return exec(py, loaded, order, fds, extension);
    }
    if threads == Some(1)
        && can_fork_orphan()
        && let Some(forked) = orphan(py)?
    {
        return Ok(forked);
    }
    in_grandchild(py, || fork_with_hooks(py))
}

/// Forks by way of a process without memory of its own, with all hooks; `None` where the
/// system refuses that.
fn orphan(py: Python<'_>) -> io::Result<Option<Forked>> {
    let audited = py
        .import("sys")
        .and_then(|sys| sys.call_method1("audit", ("os.fork",)));
    audited.map_err(|error: PyErr| io::Error::other(error.to_string()))?;
    match ffi::around_fork(py, fork_orphan) {
        Orphaned::Made(pid) => Ok(Some(Forked::Parent(pid))),
        Orphaned::Grandchild => Ok(Some(Forked::Child)),
        Orphaned::Refused => Ok(None),
        Orphaned::Failed(error) => Err(error),
        Orphaned::Torn(status) => {
            tracing::error!(
                "The process between the fork server and a new worker was killed ({status:?}), \
                 and the fork server ends with it"
            );
            process::exit_now(1)
        }
    }
}

/// What Python calls the threads besides the main one, as far as it knows them. Without
/// its module it knows none, and importing that here is not for the application to notice.
fn names_of_threads(py: Python<'_>) -> Vec<String> {
    let names = || -> PyResult<Vec<String>> {
        let modules = py.import("sys")?.getattr("modules")?;
        let Ok(threading) = modules.get_item("threading") else {
            return Ok(Vec::new());
        };
        let main = threading.call_method0("main_thread")?;
        let mut names = Vec::new();
        for thread in threading.call_method0("enumerate")?.try_iter()? {
            let thread = thread?;
            if !thread.is(&main) {
                names.push(thread.getattr("name")?.str()?.to_string());
            }
        }
        Ok(names)
    };
    names().unwrap_or_else(|error| {
        tracing::debug!("the threads cannot be named: {}", error.value(py));
        Vec::new()
    })
}

/// Forks, and calls `second` in the child, which is to fork once more.
fn in_grandchild(
    py: Python<'_>,
    second: impl FnOnce() -> io::Result<Forked>,
) -> io::Result<Forked> {
    let (hears, tells) = io::pipe()?;
    match fork_without_hooks()? {
        Forked::Parent(intermediate) => {
            drop(tells);
            let status = py.detach(|| {
                loop {
                    match waitpid(intermediate, None) {
                        Err(nix::Error::EINTR) => {}
                        other => return other,
                    }
                }
            });
            match status {
                // The application ignores SIGCHLD, so the kernel tells nobody. The worker
                // itself tells whether there is one.
                Ok(WaitStatus::Exited(_, 0)) | Err(nix::Error::ECHILD) => {
                    Ok(Forked::Parent(told_pid(hears)?))
                }
                Ok(WaitStatus::Exited(_, code)) => Err(io::Error::from_raw_os_error(code)),
                Err(error) => Err(error.into()),
                Ok(other) => Err(io::Error::other(format!(
                    "the intermediate process: {other:?}"
                ))),
            }
        }
        Forked::Child => match second() {
            Ok(Forked::Child) => Ok(Forked::Child),
            Ok(Forked::Parent(pid)) => process::exit_now(i32::from(tell_pid(&tells, pid).is_err())),
            Err(error) => process::exit_now(error.raw_os_error().unwrap_or(1)),
        },
    }
}

/// `os.fork()`, which runs what libraries have registered.
fn fork_with_hooks(py: Python<'_>) -> io::Result<Forked> {
    let pid: i32 = py
        .import("os")
        .and_then(|os| os.call_method0("fork"))
        .and_then(|pid| pid.extract())
        .map_err(|error: PyErr| io::Error::other(error.to_string()))?;
    Ok(if pid == 0 {
        Forked::Child
    } else {
        Forked::Parent(Pid::from_raw(pid))
    })
}

/// Starts the worker as a fresh interpreter, and hands it over what a forked worker
/// would have inherited.
fn exec(
    py: Python<'_>,
    loaded: &Loaded,
    order: &ToForkServer,
    fds: &[OwnedFd],
    extension: &str,
) -> io::Result<Forked> {
    let executable: String = py
        .import("sys")
        .and_then(|sys| sys.getattr("executable"))
        .and_then(|path| path.extract())
        .map_err(|error: PyErr| io::Error::other(error.to_string()))?;
    let (ours, theirs) = channel::pair()?;
    let mut command = Command::new(executable);
    command
        .args(["-c", bootstrap::SCRIPT, bootstrap::WORKER])
        .arg(bootstrap::CHANNEL_FD.to_string())
        .arg(extension)
        .stdin(Stdio::inherit());
    let (hears, tells) = io::pipe()?;
    process::prepare_orphan(&mut command, vec![(theirs, bootstrap::CHANNEL_FD)], tells);
    // The direct child ends at once; the worker is the master's.
    if let Err(error) = command.spawn()?.wait()
        && error.raw_os_error() != Some(nix::Error::ECHILD as i32)
    {
        return Err(error);
    }
    drop(command);
    let pid = told_pid(hears)?;
    let worker = Channel::<ToForkServer, FromForkServer>::new(ours);
    if let Some(hooks) = &loaded.hooks {
        let evaluate = ToForkServer::Evaluate {
            generation: loaded.generation,
            file: hooks.source.clone(),
        };
        worker.send(&evaluate, &[]).map_err(io::Error::other)?;
    }
    let configure = ToForkServer::Configure {
        generation: loaded.generation,
        settings: Box::new(loaded.settings.clone()),
        heir: loaded.heir.map(Pid::as_raw),
        workers: loaded.workers,
        belated: Belated::default(),
    };
    let logs = Files::in_use()?.to_fds()?;
    let logs: Vec<_> = logs.iter().map(AsFd::as_fd).collect();
    worker.send(&configure, &logs).map_err(io::Error::other)?;
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    worker.send(order, &borrowed).map_err(io::Error::other)?;
    Ok(Forked::Parent(pid))
}

/// Writes out what Python has buffered, or every worker would write it again.
fn flush(py: Python<'_>) {
    for name in ["stdout", "stderr"] {
        let flushed = py
            .import("sys")
            .and_then(|sys| sys.getattr(name))
            .and_then(|stream| stream.call_method0("flush"));
        if let Err(error) = flushed {
            tracing::debug!("sys.{name} could not be flushed: {error}");
        }
    }
}
