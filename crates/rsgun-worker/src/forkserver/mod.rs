//! PROCESS 2, the fork server: one for each generation.
//!
//! It greets the master, evaluates the configuration if that is a file of Python, is told
//! the settings, loads the application if it is to be preloaded, and then forks a worker
//! for each order, and calls the hooks that the master asks for. It has one thread, no event
//! loop and no runtime, since all of these would be lost or broken in a fork. When
//! its channel ends, so does it; one that hangs in an import is ended by the kernel.

mod application;
pub(crate) mod hooks;
mod spawn;

use std::io::ErrorKind;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use nix::unistd::{Pid, getppid};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rsgun_core::config::Settings;
use rsgun_core::ipc::{
    BEREFT, Belated, Channel, ChannelError, FromForkServer, Message, ToForkServer,
};
use rsgun_core::log::output::{self, Files};
use rsgun_core::sys::fork::Forked;
use rsgun_core::sys::{parent_death, process, title};
use rsgun_core::{VERSION, log};

pub(crate) use self::application::{Application, Served, load};
use self::hooks::Hooks;
use crate::{collector, glue, worker};

/// The fork server's end of its channel.
type Master = Channel<FromForkServer, ToForkServer>;

/// How long a fork server may go on after the death of its master: it has nothing to lose.
const ORPHAN_LIMIT: Duration = Duration::from_secs(1);

/// What a worker inherits from its fork server.
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    pub(crate) generation: u32,
    /// How many workers there were to be when this fork server was configured.
    pub(crate) workers: u32,
    /// The application, if it was preloaded.
    pub(crate) app: Option<Application>,
    pub(crate) loader: Py<PyModule>,
    /// The parent that every worker gets.
    pub(crate) master: Pid,
    /// Who may take over from that parent.
    pub(crate) heir: Option<Pid>,
    /// The hooks, if the configuration is a file that may have some.
    pub(crate) hooks: Option<Hooks>,
}

/// What a fork server is told when it is configured.
struct Configuration {
    settings: Settings,
    generation: u32,
    heir: Option<Pid>,
    workers: u32,
    belated: Belated,
    logs: Files,
    /// Where to write the stacks; a worker that was started by exec is told in another way.
    report: Option<OwnedFd>,
}

/// Runs the fork server; returns the exit code, in the forked workers too.
pub(crate) fn main(native: &Bound<'_, PyModule>, number: RawFd, extension: &str) -> PyResult<i32> {
    let py = native.py();
    process::ignore_master_signals()?;
    let parent = getppid();
    let master = Master::new(process::take_inherited(number)?);
    let hello = FromForkServer::Hello {
        version: VERSION.to_owned(),
        python: python_version(py),
    };
    if tell(&master, &hello).is_none() {
        return Ok(0);
    }
    let loader = glue::loader(py)?;
    let (first, hooks) = match evaluation(py, &master) {
        Ok(done) => done,
        Err(error) => return Ok(fail(py, &master, &error)),
    };
    let Some(configuration) = configuration(&master, first) else {
        return Ok(0);
    };
    let Configuration {
        settings,
        generation,
        heir,
        workers,
        belated,
        logs,
        report,
    } = configuration;
    // The kernel forgets it when a process becomes another user.
    hooks::catch_up(py, &belated)?;
    if !parent_death::limit(parent, heir, ORPHAN_LIMIT)? {
        return Ok(0);
    }
    if let Some(report) = report {
        glue::write_stacks_to(&glue::stacks(py)?, report)?;
    }
    start_logging(py, &settings, logs)?;
    show_title(Some(&settings), generation);
    // What every worker needs is imported once, from the library and not from the
    // directory of the application, which is not on the path yet.
    glue::serve(py)?.call_method1("warm_up", (&settings.event_loop,))?;
    prepare(&loader, &settings)?;
    if let Some(hooks) = &hooks {
        let master = heir.unwrap_or(parent);
        hooks.configure(&loader, &settings, generation, workers, master.as_raw())?;
    }
    let app = if settings.preload {
        match load(&loader, &settings, hooks.as_ref()) {
            Ok(app) => Some(app),
            Err(error) => return Ok(fail(py, &master, &error)),
        }
    } else {
        None
    };
    collector::freeze(py)?;
    if tell(&master, &FromForkServer::Loaded).is_none() {
        return Ok(0);
    }
    let loaded = Loaded {
        settings,
        generation,
        workers,
        app,
        loader: loader.unbind(),
        master: getppid(),
        heir,
        hooks,
    };
    serve(native, master, loaded, extension)
}

/// Runs a worker that was started by exec: its fork server stands in for the master
/// until it has handed over what a forked worker would have inherited.
pub(crate) fn main_of_worker(native: &Bound<'_, PyModule>, number: RawFd) -> PyResult<i32> {
    let py = native.py();
    process::ignore_master_signals()?;
    let fork_server = Master::new(process::take_inherited(number)?);
    let loader = glue::loader(py)?;
    let evaluated = evaluation(py, &fork_server);
    let Ok((first, hooks)) = evaluated.inspect_err(|error| {
        let failure = glue::failure(py, error);
        tracing::error!("{}", failure.message);
    }) else {
        return Ok(1);
    };
    let Some(configuration) = configuration(&fork_server, first) else {
        return Ok(1);
    };
    let Configuration {
        settings,
        generation,
        heir,
        workers,
        logs,
        ..
    } = configuration;
    start_logging(py, &settings, logs)?;
    prepare(&loader, &settings)?;
    if let Some(hooks) = &hooks {
        let master = heir.unwrap_or_else(getppid);
        hooks.configure(&loader, &settings, generation, workers, master.as_raw())?;
    }
    let Ok(Some(message)) = fork_server.recv(None) else {
        return Ok(1);
    };
    let ToForkServer::Spawn {
        identity,
        listeners: roles,
    } = message.body
    else {
        return Ok(1);
    };
    drop(fork_server);
    let loaded = Loaded {
        settings,
        generation,
        workers,
        app: None,
        loader: loader.unbind(),
        master: getppid(),
        heir,
        hooks,
    };
    worker::main(native, loaded, identity, &roles, message.fds)
}

/// The loop of the fork server. In a forked worker it returns what the worker
/// returns; the fork server itself ends inside.
fn serve(
    native: &Bound<'_, PyModule>,
    master: Master,
    mut loaded: Loaded,
    extension: &str,
) -> PyResult<i32> {
    let py = native.py();
    loop {
        // Threads that the application has started may run meanwhile.
        let message = match py.detach(|| master.recv(None)) {
            Ok(Some(message)) => message,
            Err(error @ (ChannelError::Format(_) | ChannelError::Damaged(_))) => {
                tracing::error!("ignoring what the master has sent: {error}");
                continue;
            }
            // Without exit handlers: what the application has registered belongs to
            // the workers.
            Ok(None) | Err(ChannelError::Io(_)) => process::exit_now(0),
        };
        let order = message.body;
        let (identity, roles) = match &order {
            ToForkServer::Spawn {
                identity,
                listeners: roles,
            } => (identity, roles),
            ToForkServer::ChangeLogs => {
                if message.bereft {
                    tracing::warn!("the fork server keeps its log files: {BEREFT}");
                }
                if let Some(logs) = Files::from_fds(message.fds) {
                    output::replace(&logs);
                }
                continue;
            }
            ToForkServer::Call(call) => {
                if let Some(hooks) = &loaded.hooks
                    && let Some((code, reason)) = hooks.call(py, *call)
                {
                    tell(&master, &FromForkServer::Declined { code, reason });
                    // With orders unread, the end of the channel would overtake the word.
                    while let Ok(Some(_)) = py.detach(|| master.recv(None)) {}
                    return Ok(0);
                }
                continue;
            }
            ToForkServer::Evaluate { .. } | ToForkServer::Configure { .. } => continue,
        };
        // It is another one after it has handed its children over.
        loaded.master = getppid();
        if let Some(hooks) = &loaded.hooks {
            hooks.before_fork(py, *identity);
        }
        let forked = if message.bereft {
            Err(std::io::Error::other(BEREFT))
        } else {
            spawn::worker(py, &master, &loaded, &order, &message.fds, extension)
        };
        match forked {
            Ok(Forked::Parent(pid)) => {
                if let Some(hooks) = &loaded.hooks {
                    hooks.forked(py, *identity, pid.as_raw());
                }
            }
            Ok(Forked::Child) => {
                drop(master);
                output::begin_anew();
                return worker::main(native, loaded, *identity, roles, message.fds);
            }
            Err(error) => {
                if let Some(hooks) = &loaded.hooks {
                    hooks.not_forked(py, *identity);
                }
                tell(
                    &master,
                    &FromForkServer::SpawnFailed {
                        id: identity.id,
                        error: not_forked(&error),
                    },
                );
            }
        }
    }
}

/// Why there is no new process, and what to do about it.
fn not_forked(error: &std::io::Error) -> String {
    match process::scarcity(error) {
        Some(advice) => format!("{error}\n{advice}"),
        None => error.to_string(),
    }
}

/// Sends a message; `None` when the master is gone.
fn tell(master: &Master, message: &FromForkServer) -> Option<()> {
    master.send(message, &[]).ok()
}

/// Reports why this process is of no use; returns the exit code.
fn fail(py: Python<'_>, master: &Master, error: &PyErr) -> i32 {
    let failure = glue::failure(py, error);
    let code = failure.kind.exit_code();
    tell(master, &FromForkServer::Failed(failure));
    i32::from(code)
}

/// Evaluates the configuration, if the first message asks for it; otherwise returns that
/// message.
fn evaluation(
    py: Python<'_>,
    master: &Master,
) -> PyResult<(Option<Message<ToForkServer>>, Option<Hooks>)> {
    let first = master.recv(None).ok().flatten();
    let Some(Message {
        body: ToForkServer::Evaluate { generation, file },
        ..
    }) = &first
    else {
        return Ok((first, None));
    };
    show_title(None, *generation);
    let (file, hooks) = hooks::evaluate(py, file)?;
    match master.send(&FromForkServer::Evaluated(file), &[]) {
        Ok(()) => {}
        // The fork server of a worker that was started by exec does not listen.
        Err(ChannelError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            let reason = format!("what the file sets: {error}");
            return Err(PyRuntimeError::new_err(reason));
        }
    }
    Ok((None, Some(hooks)))
}

/// Waits for the configuration, beginning with a message that was received already.
fn configuration(master: &Master, first: Option<Message<ToForkServer>>) -> Option<Configuration> {
    let mut received = first;
    loop {
        let message = match received.take() {
            Some(message) => message,
            None => master.recv(None).ok()??,
        };
        if message.bereft {
            let reason = BEREFT.to_owned();
            tell(master, &FromForkServer::Unsuitable { reason });
            return None;
        }
        match message.body {
            ToForkServer::Configure {
                generation,
                settings,
                heir,
                workers,
                belated,
            } => {
                let mut fds = message.fds;
                let report = fds
                    .split_off(fds.len().min(Files::COUNT))
                    .into_iter()
                    .next();
                return Some(Configuration {
                    settings: *settings,
                    generation,
                    heir: heir.map(Pid::from_raw),
                    workers,
                    belated,
                    logs: Files::from_fds(fds)?,
                    report,
                });
            }
            // The files that come with the configuration are as new.
            ToForkServer::ChangeLogs | ToForkServer::Evaluate { .. } => {}
            ToForkServer::Spawn { .. } | ToForkServer::Call(_) => return None,
        }
    }
}

fn show_title(settings: Option<&Settings>, generation: u32) {
    let name = settings.and_then(|settings| settings.name.as_deref());
    title::set(&format!(
        "rsgun: fork server [{}]",
        bracketed(name, generation)
    ));
}

/// Goes to the directory of the application and makes Python find it.
fn prepare(loader: &Bound<'_, PyModule>, settings: &Settings) -> PyResult<()> {
    if let Some(directory) = &settings.chdir {
        std::env::set_current_dir(directory)?;
    }
    let captures = output::captures(settings);
    let arguments = (&settings.app_dir, &settings.pythonpath, captures);
    loader.call_method1("prepare", arguments)?;
    Ok(())
}

fn start_logging(py: Python<'_>, settings: &Settings, logs: Files) -> PyResult<()> {
    log::init(settings.log_level, logs, output::captures(settings));
    glue::set_up_loggers(py, settings)
}

/// What stands in brackets in the titles of the processes of a generation.
pub(crate) fn label(settings: &Settings, generation: u32) -> String {
    bracketed(settings.name.as_deref(), generation)
}

fn bracketed(name: Option<&str>, generation: u32) -> String {
    match name {
        Some(name) => format!("{name}, gen {generation}"),
        None => format!("gen {generation}"),
    }
}

fn python_version(py: Python<'_>) -> String {
    let version = py.version_info();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}
