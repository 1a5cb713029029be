//! The listeners of a process that is its own worker, and that worker.

use std::io;
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rsgun_core::config::Settings;
use rsgun_core::ipc::{FailureKind, Role};
use rsgun_core::listeners::{self, Listener, Manner, Origin};
use rsgun_core::log;
use rsgun_core::log::output::{self, Files};
use rsgun_core::roster::Roster;
use rsgun_core::scoreboard::Scoreboard;
use rsgun_core::sys::shared::Shared;

use super::arguments::Arguments;
use super::startup_error;
use crate::ffi::Immortal;
use crate::forkserver::{Application, Served};
use crate::glue;
use crate::reactor;
use crate::reactor::accept::Gate;
use crate::worker::keeper::Keeper;
use crate::worker::{Worker, lifespan_name};

/// Exit code of a process that cannot listen or log.
const SYSTEM: u8 = 1;

/// Open listeners, with the settings that they were opened for.
#[pyclass(frozen, name = "_Listening", module = "rsgun._rsgun")]
pub(crate) struct Listening {
    settings: Settings,
    listeners: Mutex<Vec<Listener>>,
}

#[pymethods]
impl Listening {
    /// Starts logging and opens the listeners; with `sockets`, descriptors of sockets that
    /// listen already, copies of those instead.
    #[new]
    fn new(py: Python<'_>, arguments: &Arguments, sockets: Option<Vec<RawFd>>) -> PyResult<Self> {
        let (settings, warnings) = arguments.settings(py)?;
        start_logging(&settings, arguments).map_err(|error| startup_error(py, &error, SYSTEM))?;
        for warning in arguments.unread().into_iter().chain(warnings) {
            tracing::warn!("{warning}");
        }
        let opened = match sockets {
            None => {
                let manner = Manner {
                    reuse_port: settings.reuse_port.then_some(1),
                    ..Manner::from(settings.backlog)
                };
                listeners::open_all(&settings.bind, manner)
            }
            Some(numbers) => numbers.into_iter().map(listeners::copy_of).collect(),
        };
        let listeners = opened.map_err(|error| startup_error(py, &error.to_string(), SYSTEM))?;
        Ok(Self {
            settings,
            listeners: Mutex::new(listeners),
        })
    }

    /// The addresses, as the start-up line shows them.
    fn urls(&self) -> Vec<String> {
        self.lock().iter().map(Listener::url).collect()
    }

    /// Copies of the descriptors, which belong to the caller.
    fn descriptors(&self) -> PyResult<Vec<RawFd>> {
        let copies = self
            .lock()
            .iter()
            .map(|listener| listener.as_fd().try_clone_to_owned())
            .collect::<io::Result<Vec<_>>>()?;
        Ok(copies.into_iter().map(IntoRawFd::into_raw_fd).collect())
    }

    /// The application to serve: `app`, or what the import string of the settings leads
    /// to.
    fn load(&self, py: Python<'_>, app: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let loader = glue::loader(py)?;
        if let Some(app) = app {
            let arguments = (app, "the application", self.settings.factory);
            return loader.call_method1("finish", arguments).map(Bound::unbind);
        }
        let (target, directory) = (&self.settings.app, &self.settings.app_dir);
        loader.call_method1("find_first", (directory,))?;
        loader
            .call_method1("load", (target, directory, self.settings.factory))
            .map(Bound::unbind)
    }

    /// Makes the loggers that applications log through write to the logs of this process.
    /// `package` is a top-level module that counts as the application, although it may be
    /// installed.
    fn set_up_loggers(&self, py: Python<'_>, package: &str) -> PyResult<()> {
        let own = glue::loader(py)?.getattr("packages")?;
        own.call_method1("add", (package,))?;
        glue::set_up_loggers(py, &self.settings)
    }

    /// A worker of this process that serves `app` and tells `program` about it, and the
    /// coroutine that runs it.
    fn worker<'py>(
        &self,
        py: Python<'py>,
        app: &Bound<'_, PyAny>,
        program: Py<PyAny>,
    ) -> PyResult<(Bound<'py, Worker>, Bound<'py, PyAny>)> {
        if reactor::current().is_ok() {
            return Err(PyRuntimeError::new_err(
                "another server runs on this thread: run this one on a thread of its own, with \
                 an event loop of its own, or after the end of that one",
            ));
        }
        let handed_over = self
            .lock()
            .iter()
            .map(|listener| {
                let fd = listener.as_fd().try_clone_to_owned()?;
                let role = Role {
                    inherited: listener.origin() == Origin::Inherited,
                    own: true,
                };
                Ok((fd, role))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let board = Shared::<Scoreboard>::create(c"rsgun-board")?;
        let roster = Shared::<Roster>::create(c"rsgun-roster")?;
        let keeper = Arc::new(Keeper::Program(program));
        let gate = Gate::new(handed_over, roster, 0, Arc::clone(&keeper))?;
        let settings = self.settings.clone();
        let app = Application::new(app, "the application", &settings)?;
        let interface = app.interface;
        let mode = lifespan_name(&settings);
        let grace = settings.graceful_timeout;
        let worker = Worker::new(py, keeper, &app, settings, board, gate)?;
        let worker = Bound::new(py, worker)?;
        let serve = glue::serve(py)?;
        let name = "serve_in_program";
        let serving = match interface {
            Served::Asgi(version) => {
                serve.call_method1(name, (&worker, app.callable, version, mode, grace))
            }
            Served::Rsgi => glue::rsgi(py)?.call_method1(name, (&worker, app.callable, grace)),
            Served::Wsgi => serve.call_method1(name, (&worker, app.callable, "", "off", grace)),
        }?;
        Ok((worker, serving))
    }

    /// Closes the listeners and removes the files of those that were opened here.
    fn close(&self) {
        for listener in std::mem::take(&mut *self.lock()) {
            if let Err(error) = listener.cleanup() {
                tracing::warn!("the file of {} stays: {error}", listener.url());
            }
        }
    }
}

impl Listening {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs to what the settings name. In a worker, where a program may well run a server of
/// its own on some thread, logging is the worker's.
fn start_logging(settings: &Settings, arguments: &Arguments) -> Result<(), String> {
    if super::is_served() {
        return Ok(());
    }
    let directory = std::env::current_dir().map_err(|error| error.to_string())?;
    let files = Files::open(settings, &directory)
        .map_err(|error| error.located(&arguments.source(), None).to_string())?;
    let copies = files.try_clone().map_err(|error| error.to_string())?;
    log::init(settings.log_level, copies, false);
    // An earlier server of this process has set the outputs already.
    output::set_level(settings.log_level);
    output::replace(&files);
    Ok(())
}

/// The exit code and the text for an error of the start: what the application, its lifespan,
/// or its event loop have failed with. `None` for an error of another kind.
#[pyfunction]
#[pyo3(name = "_failure")]
pub(super) fn failure(py: Python<'_>, error: Bound<'_, PyAny>) -> Option<(u8, String)> {
    let failure = glue::failure(py, &PyErr::from_value(error));
    if failure.kind == FailureKind::Internal {
        return None;
    }
    let mut text = failure.message;
    if let Some(traceback) = failure.traceback {
        text.push('\n');
        text.push_str(traceback.trim_end());
    }
    Some((failure.kind.exit_code(), text))
}

/// The factory of the event loop that the settings name.
#[pyfunction]
#[pyo3(name = "_loop_factory")]
pub(super) fn loop_factory<'py>(
    py: Python<'py>,
    arguments: &Arguments,
) -> PyResult<Bound<'py, PyAny>> {
    let name = arguments.settings(py)?.0.event_loop;
    glue::serve(py)?.call_method1("loop_factory", (name,))
}

/// `run_to_end` of serve.py: runs `coroutine` in the event loop of `runner`. A program may
/// end meanwhile, if that is another thread's than its main one.
#[pyfunction]
#[pyo3(name = "_run_to_end")]
pub(super) fn run_to_end<'py>(
    py: Python<'py>,
    runner: &Bound<'py, PyAny>,
    coroutine: &Bound<'py, PyAny>,
    serving: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let _immortal = Immortal::new();
    glue::serve(py)?.call_method1("run_to_end", (runner, coroutine, serving))
}

/// Tells why this process ends, whether or not logging was set up.
#[pyfunction]
#[pyo3(name = "_last_words")]
pub(super) fn last_words(text: &str) {
    output::last_words(text);
}
