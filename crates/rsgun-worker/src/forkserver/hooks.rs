//! The hooks of a configuration file, in the process that runs them.
//!
//! What is Python about them is in `conf.py`, `arbiter.py`, `hooks.py` and
//! `request_hooks.py`; here stands when each of them is called. Without such a file there
//! are none, and nothing is called.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::config::{self, DECLARATIONS, PythonFile, PythonSource, Settings};
use rsgun_core::hooks::{Call, Hook, HookSet};
use rsgun_core::ipc::{Belated, Identity};
use rsgun_core::scoreboard::{Scoreboard, now_ms};
use rsgun_core::sys::credentials;
use rsgun_core::sys::shared::Shared;
use serde_json::Value;

use super::application;
use crate::glue;

/// The hooks of an evaluated file.
pub(crate) struct Hooks {
    /// `hooks.py`.
    module: Py<PyModule>,
    /// `request_hooks.py`, if there are any.
    requests: Option<Py<PyModule>>,
    native: Py<Native>,
    /// What was evaluated, for a worker that is started by exec.
    pub(crate) source: PythonSource,
    set: HookSet,
}

/// What the objects that hooks are called with ask of this process.
#[pyclass(frozen, module = "rsgun._rsgun")]
struct Native {
    /// That of the worker which this process is, if it is one.
    board: OnceLock<Shared<Scoreboard>>,
    /// Where the application comes from.
    source: OnceLock<Source>,
}

/// What it takes to import the application.
struct Source {
    loader: Py<PyModule>,
    settings: Settings,
    /// What errors call it, once it was imported.
    name: OnceLock<String>,
}

#[pymethods]
impl Native {
    /// Writes a line to the log.
    #[expect(clippy::unused_self, reason = "called as a method from Python")]
    fn log(&self, level: &str, text: &str) {
        match level {
            "critical" | "error" => tracing::error!("{text}"),
            "warning" => tracing::warn!("{text}"),
            "info" => tracing::info!("{text}"),
            _ => tracing::debug!("{text}"),
        }
    }

    /// Imports the application.
    fn load<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let source = self.source.get().ok_or_else(|| {
            let text = "the application is not known before the server is configured";
            PyRuntimeError::new_err(text)
        })?;
        let (app, name) = application::import(source.loader.bind(py), &source.settings)?;
        // Imported once more it has the same name.
        let _ = source.name.set(name);
        Ok(app)
    }

    /// How many requests this worker has begun.
    fn requests(&self) -> u64 {
        self.board.get().map_or(0, |board| {
            board.requests.load(Relaxed) + u64::from(board.active.load(Relaxed))
        })
    }

    /// How many connections this worker holds.
    fn connections(&self) -> u32 {
        self.board
            .get()
            .map_or(0, |board| board.connections.load(Relaxed))
    }

    /// Shows that this worker lives, for a hook that takes its time.
    fn show_alive(&self) {
        if let Some(board) = self.board.get() {
            board.beat(now_ms());
        }
    }
}

/// Evaluates a file. Returns what it has set, for the master, and its hooks.
pub(crate) fn evaluate(py: Python<'_>, source: &PythonSource) -> PyResult<(PythonFile, Hooks)> {
    let signatures = PyDict::new(py);
    for hook in Hook::ALL {
        let signature = (hook.parameters().to_vec(), hook.least_parameters());
        signatures.set_item(hook.name(), signature)?;
    }
    let names: Vec<&str> = config::names().collect();
    let (path, module) = match source {
        PythonSource::File(path) => (Some(path), None),
        PythonSource::Module { module } => (None, Some(module)),
    };
    let (path, assigned, hooks): (PathBuf, String, Vec<String>) = glue::conf(py)?
        .call_method1("evaluate", (path, module, names, signatures))?
        .extract()?;
    let set: HookSet = hooks.iter().filter_map(|name| Hook::named(name)).collect();
    let assigned = serde_json::from_str(&assigned).map_err(std::io::Error::other)?;
    let file = PythonFile {
        source: source.clone(),
        path,
        assigned,
        hooks: set,
    };
    let module = glue::hooks(py)?.unbind();
    // In the fork server, so that not each worker has to compile it.
    let around_requests = [Hook::PreRequest, Hook::PostRequest];
    let requests = if around_requests.into_iter().any(|hook| set.contains(hook)) {
        Some(glue::request_hooks(py)?.unbind())
    } else {
        None
    };
    let hooks = Hooks {
        module,
        requests,
        native: Py::new(
            py,
            Native {
                board: OnceLock::new(),
                source: OnceLock::new(),
            },
        )?,
        source: source.clone(),
        set,
    };
    Ok((file, hooks))
}

/// Makes of this process what it could not be started as.
pub(crate) fn catch_up(py: Python<'_>, belated: &Belated) -> PyResult<()> {
    if let Some(mask) = belated.umask {
        py.import("os")?.call_method1("umask", (mask,))?;
    }
    let environment = py.import("os")?.getattr("environ")?;
    for (name, value) in belated
        .variables
        .iter()
        .filter_map(|text| text.split_once('='))
    {
        environment.set_item(name, value)?;
    }
    if let Some(run_as) = &belated.run_as {
        credentials::assume(run_as)?;
    }
    Ok(())
}

impl Hooks {
    /// Makes the objects that the hooks are called with. `loader` is loader.py, `workers`
    /// how many there are to be, `master` the master's process id.
    pub(crate) fn configure(
        &self,
        loader: &Bound<'_, PyModule>,
        settings: &Settings,
        generation: u32,
        workers: u32,
        master: i32,
    ) -> PyResult<()> {
        let py = loader.py();
        let source = Source {
            loader: loader.clone().unbind(),
            settings: settings.clone(),
            name: OnceLock::new(),
        };
        // A process is configured once.
        let _ = self.native.get().source.set(source);
        let values = values(settings, workers).to_string();
        let values = py.import("json")?.call_method1("loads", (values,))?;
        let arguments = (&self.native, values, generation, master, workers);
        self.module.call_method1(py, "configure", arguments)?;
        Ok(())
    }

    /// The moment for a hook has come, as the master says. Returns an exit code and the
    /// reason if the hook has decided that the server is not to start.
    pub(crate) fn call(&self, py: Python<'_>, call: Call) -> Option<(u8, String)> {
        match call {
            Call::WorkersChanged { new, old } => self.run(py, "workers_changed", (new, old)),
            Call::ChildExit { id, pid } => self.run(py, "died", (&self.native, id.0, pid)),
            Call::OnStarting => return self.starting(py),
            Call::OnReload | Call::WhenReady | Call::OnExit | Call::PreExec => {
                self.run(py, "moment", (call.hook().name(),));
            }
        }
        None
    }

    fn starting(&self, py: Python<'_>) -> Option<(u8, String)> {
        self.module
            .call_method0(py, "starting")
            .and_then(|decision| decision.extract(py))
            .unwrap_or_else(|error: PyErr| {
                tracing::error!("a hook could not be called: {error}");
                None
            })
    }

    /// In the fork server: a worker was forked.
    pub(crate) fn forked(&self, py: Python<'_>, identity: Identity, pid: i32) {
        self.run(py, "forked", (identity.id.0, pid));
    }

    /// In the fork server: a worker is about to be forked.
    pub(crate) fn before_fork(&self, py: Python<'_>, identity: Identity) {
        let arguments = (&self.native, identity.id.0, identity.slot);
        self.run(py, "before_fork", arguments);
    }

    /// In the fork server: it could not be forked.
    pub(crate) fn not_forked(&self, py: Python<'_>, identity: Identity) {
        self.run(py, "not_forked", (identity.id.0,));
    }

    /// In the worker: it may begin. `stacks` is stacks.py. An error is a hook's decision
    /// that it is not to.
    pub(crate) fn after_fork(
        &self,
        py: Python<'_>,
        identity: Identity,
        stacks: &Bound<'_, PyModule>,
    ) -> PyResult<()> {
        let arguments = (&self.native, identity.id.0, identity.slot);
        self.module.call_method1(py, "after_fork", arguments)?;
        if self.set.contains(Hook::WorkerAbort) {
            let aborted = self.module.getattr(py, "aborted")?;
            stacks.call_method1("end_on_abort", (aborted,))?;
        }
        Ok(())
    }

    /// The application, imported unless it was before, and what errors call it.
    pub(crate) fn application<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, String)> {
        let app = self.module.bind(py).call_method0("application")?;
        let source = self.native.get().source.get();
        let name = source.and_then(|source| source.name.get().cloned());
        // Otherwise a hook has brought it.
        Ok((app, name.unwrap_or_else(|| "the application".to_owned())))
    }

    /// In the worker: the application is loaded. Returns what is to be served; an error is
    /// a hook's decision that it is not to be.
    pub(crate) fn loaded<'py>(
        &self,
        py: Python<'py>,
        app: &Py<PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.module.bind(py).call_method1("loaded", (app,))
    }

    /// In the worker: it is told to end quickly.
    pub(crate) fn interrupted(&self, py: Python<'_>) {
        self.run(py, "interrupted", ());
    }

    /// In the worker: it is about to end.
    pub(crate) fn leaving(&self, py: Python<'_>) {
        self.run(py, "leaving", ());
    }

    /// In the worker: this is its scoreboard.
    pub(crate) fn observe(&self, board: Shared<Scoreboard>) {
        // A process becomes a worker once.
        let _ = self.native.get().board.set(board);
    }

    /// Puts the hooks of requests, if there are any, around `run` of serve.py.
    pub(crate) fn around_asgi(&self, py: Python<'_>, run: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.around(py, "around_asgi", run)
    }

    /// The same for RSGI.
    pub(crate) fn around_rsgi(&self, py: Python<'_>, run: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.around(py, "around_rsgi", run)
    }

    /// The same around a WSGI application.
    pub(crate) fn around_wsgi(&self, py: Python<'_>, app: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.around(py, "around_wsgi", app)
    }

    fn around(&self, py: Python<'_>, wrapper: &str, inner: Py<PyAny>) -> PyResult<Py<PyAny>> {
        match &self.requests {
            Some(module) => module.call_method1(py, wrapper, (inner,)),
            None => Ok(inner),
        }
    }

    /// Calls a function of hooks.py, which lets nothing out that a hook raises.
    fn run<'py, A>(&self, py: Python<'py>, name: &str, arguments: A)
    where
        A: pyo3::call::PyCallArgs<'py>,
    {
        if let Err(error) = self.module.call_method1(py, name, arguments) {
            tracing::error!("a hook could not be called: {error}");
        }
    }
}

/// The settings by their own names, those of gunicorn by its names, and the names of the
/// hooks, as cfg.py takes them.
fn values(settings: &Settings, workers: u32) -> Value {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(settings) else {
        return Value::Null;
    };
    let mut values = serde_json::Map::new();
    let mut gunicorn = serde_json::Map::new();
    fields.insert("workers".to_owned(), workers.into());
    let addresses: Vec<String> = settings.bind.iter().map(ToString::to_string).collect();
    fields.insert("bind".to_owned(), addresses.into());
    for declaration in DECLARATIONS {
        let name = declaration.name.replace('-', "_");
        let Some(value) = fields.remove(&name) else {
            continue;
        };
        let value = plain(value);
        if !declaration.gunicorn.is_empty() {
            gunicorn.insert(declaration.gunicorn.to_owned(), value.clone());
        }
        values.insert(name, value);
    }
    values.insert("gunicorn".to_owned(), gunicorn.into());
    let hooks: Vec<&str> = Hook::ALL.into_iter().map(Hook::name).collect();
    values.insert("hooks".to_owned(), hooks.into());
    Value::Object(values)
}

/// The path of a log file, where there is one.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(mut fields) => fields.remove("file").unwrap_or_default(),
        Value::String(text) if text == "standard" => "-".into(),
        other => other,
    }
}
