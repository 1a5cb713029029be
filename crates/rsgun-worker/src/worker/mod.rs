//! PROCESS 3, the worker: serves the application.
//!
//! Life: greet the master and wait until it knows the pid; import the application,
//! unless it was preloaded; run `serve.py`, which runs the lifespan startup, starts
//! the reactor, waits until it is told to stop, and runs the lifespan shutdown. Then
//! the interpreter ends as usual, exit handlers included.
//!
//! The channel to the master is read by the event loop. Its end means that the master
//! is gone, unless that is still the parent: the worker closes the listeners, so that a
//! new master can bind them, drains, and leaves.

mod breakpoint;
pub(crate) mod callbacks;
mod forked;
pub(crate) mod heartbeat;
pub(crate) mod keeper;
mod native;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use rsgun_core::config::{Lifespan, Settings};
use rsgun_core::ipc::{FromWorker, Identity, Role, ToWorker};
use rsgun_core::log::output::{self, Files};
use rsgun_core::roster::Roster;
use rsgun_core::scoreboard::{Phase, Scoreboard, now_ms};
use rsgun_core::sys::shared::Shared;
use rsgun_core::sys::{channel, parent_death, process, title};

use self::keeper::{Keeper, Master};
use crate::collector;
use crate::forkserver::hooks::Hooks;
use crate::forkserver::{self, Application, Loaded, Served};
use crate::glue;
use crate::reactor::accept::Gate;

pub(crate) use self::native::Worker;

/// How long a new worker waits to become the master's child, milliseconds.
const REPARENTING_MS: u32 = 1_000;

/// What the master hands to each worker, in this order.
struct Inheritance {
    master: Master,
    board: Shared<Scoreboard>,
    roster: Shared<Roster>,
    stack_report: OwnedFd,
    /// Each with what it is to this worker.
    listeners: Vec<(OwnedFd, Role)>,
}

impl Inheritance {
    fn new(fds: Vec<OwnedFd>, roles: &[Role]) -> std::io::Result<Self> {
        let mut fds = fds.into_iter();
        let mut next = || {
            fds.next()
                .ok_or_else(|| std::io::Error::other("too few descriptors"))
        };
        let master = Master::new(next()?);
        let board = Shared::open(next()?)?;
        let roster = Shared::open(next()?)?;
        let stack_report = next()?;
        Ok(Self {
            master,
            board,
            roster,
            stack_report,
            listeners: fds.zip(roles.iter().copied()).collect(),
        })
    }
}

/// Runs a worker to its end; returns the exit code.
pub(crate) fn main(
    native: &Bound<'_, PyModule>,
    loaded: Loaded,
    identity: Identity,
    roles: &[Role],
    fds: Vec<OwnedFd>,
) -> PyResult<i32> {
    let py = native.py();
    let Inheritance {
        master,
        board,
        roster,
        stack_report,
        listeners,
    } = Inheritance::new(fds, roles)?;
    title::set(&format!(
        "rsgun: worker {} [{}]",
        identity.slot,
        forkserver::label(&loaded.settings, loaded.generation)
    ));
    let stacks = glue::stacks(py)?;
    glue::write_stacks_to(&stacks, stack_report)?;
    stacks.call_method0("end_on_abort")?;
    if !is_expected(py, &master) {
        return Ok(0);
    }
    let created: Vec<_> = listeners
        .iter()
        .filter(|(_, role)| !role.inherited)
        .map(|(listener, _)| listener.as_fd())
        .collect();
    parent_death::watch_listeners(&created);
    if !bind_to_master(&master, &loaded)? {
        return Ok(0);
    }
    board.beat(now_ms());
    let keeper = Arc::new(Keeper::Master(master));
    let gate = Gate::new(listeners, roster, identity.seat, Arc::clone(&keeper))?;
    // Applications fork while they are imported, too.
    forked::watch(py, Arc::clone(&keeper), &gate)?;
    breakpoint::watch(py, Arc::clone(&keeper))?;
    if let Some(hooks) = &loaded.hooks {
        hooks.observe(Shared::open(board.file().try_clone_to_owned()?)?);
    }
    let Loaded {
        settings,
        app,
        loader,
        hooks,
        ..
    } = loaded;
    let hooks = hooks.map(Arc::new);
    let _farewell = Farewell(hooks.clone());
    if let Some(hooks) = &hooks
        && let Err(error) = hooks.after_fork(py, identity, &stacks)
    {
        return Ok(report(py, &keeper, &error));
    }
    if app.is_none() {
        board.set_phase(Phase::Importing);
    }
    let app = match application(loader.bind(py), &settings, app, hooks.as_deref()) {
        Ok(app) => app,
        Err(error) => return Ok(report(py, &keeper, &error)),
    };
    let serve = glue::serve(py)?;
    let lifespan = lifespan_name(&settings);
    let event_loop = settings.event_loop.clone();
    let preload = settings.preload;
    let worker = Worker::new(py, Arc::clone(&keeper), &app, settings, board, gate)?;
    let worker = Bound::new(py, worker.with_hooks(hooks))?;
    let result = match app.interface {
        Served::Asgi(version) => {
            let arguments = (&worker, app.callable, version, event_loop, lifespan);
            serve.call_method1("main", arguments)
        }
        Served::Rsgi => glue::rsgi(py)?.call_method1("main", (&worker, app.callable, event_loop)),
        Served::Wsgi => serve.call_method1("main_of_wsgi", (&worker,)),
    };
    // The event loop has put the handlers back that Python has.
    process::ignore_master_signals()?;
    if !preload {
        // What was preloaded stays hidden: the pages are shared still.
        collector::unfreeze(py)?;
    }
    match result {
        Ok(_) => Ok(0),
        Err(error) => Ok(report(py, &keeper, &error)),
    }
}

/// What is served: the application that was preloaded or is imported now, unless a hook
/// has put another one into its place.
fn application(
    loader: &Bound<'_, PyModule>,
    settings: &Settings,
    preloaded: Option<Application>,
    hooks: Option<&Hooks>,
) -> PyResult<Application> {
    let load = || forkserver::load(loader, settings, hooks);
    let Some(hooks) = hooks else {
        return preloaded.map_or_else(load, Ok);
    };
    let py = loader.py();
    let app = match preloaded {
        Some(app) if hooks.application(py)?.0.is(&app.found) => app,
        _ => load()?,
    };
    let served = hooks.loaded(py, &app.found)?;
    if served.is(&app.found) {
        return Ok(app);
    }
    Application::new(
        &served,
        "worker.wsgi of the hook post_worker_init",
        settings,
    )
}

/// What serve.py calls the setting.
pub(crate) fn lifespan_name(settings: &Settings) -> &'static str {
    match settings.lifespan {
        Lifespan::Auto => "auto",
        Lifespan::On => "on",
        Lifespan::Off => "off",
    }
}

/// Calls the hook for the end of a worker when it is dropped.
struct Farewell(Option<Arc<Hooks>>);

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(hooks) = &self.0 {
            Python::attach(|py| hooks.leaving(py));
        }
    }
}

/// Tells the master this worker's pid and waits for its answer; `false` when the
/// master does not want it any more.
fn is_expected(py: Python<'_>, master: &Master) -> bool {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    if master.send(&FromWorker::Hello { pid }, &[]).is_err() {
        return false;
    }
    loop {
        match py.detach(|| master.recv(None)) {
            Ok(Some(message)) if message.body == ToWorker::ChangeLogs => change_logs(message.fds),
            Ok(Some(message)) => return message.body == ToWorker::Acknowledge,
            Ok(None) | Err(_) => return false,
        }
    }
}

/// Logs to the files that came with an order.
fn change_logs(fds: Vec<OwnedFd>) {
    if let Some(logs) = Files::from_fds(fds) {
        output::replace(&logs);
    }
}

/// Sees to it that this worker does not outlive the master, even if it hangs; `false`
/// when the master is gone already.
fn bind_to_master(channel: &Master, loaded: &Loaded) -> PyResult<bool> {
    let grace = Duration::from_secs(u64::from(loaded.settings.graceful_timeout).max(1));
    for _ in 0..REPARENTING_MS {
        if parent_death::limit(loaded.master, loaded.heir, grace)? {
            return Ok(true);
        }
        // The intermediate process of the double fork has not quite ended.
        channel::wait_readable(channel.as_fd(), Some(1))?;
    }
    Ok(false)
}

/// Tells the master why the application does not run; returns the exit code.
fn report(py: Python<'_>, keeper: &Keeper, error: &PyErr) -> i32 {
    let failure = glue::failure(py, error);
    let code = i32::from(failure.kind.exit_code());
    if keeper.tell(&FromWorker::Failed(failure)).is_err() {
        tracing::debug!("the master is gone before it could be told of a failure");
    }
    code
}
