//! The parts that are written in Python, carried inside the extension.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use rsgun_core::config::Settings;
use rsgun_core::foreign;
use rsgun_core::ipc::{Failure, FailureKind};
use rsgun_core::log::Level;
use rsgun_core::log::output;
use rsgun_core::sys::stacks;

/// The memory file that the stacks of this process are written to.
static REPORT: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// One part is loaded at a time.
static LOADING: Mutex<()> = Mutex::new(());

/// `loader.py`: finds the application.
pub(crate) fn loader(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/loader.py"),
        c"<rsgun/loader.py>",
        c"rsgun._loader",
    )
}

/// `django.py`: finds the application of a Django project, and its views. Needs
/// [`loader`].
pub(crate) fn django(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/django.py"),
        c"<rsgun/django.py>",
        c"rsgun._django",
    )
}

/// `interface.py`: finds out what kind of application it is.
pub(crate) fn interface(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/interface.py"),
        c"<rsgun/interface.py>",
        c"rsgun._interface",
    )
}

/// `patches.py`: refuses green threads in the place of threads.
pub(crate) fn patches(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    loader(py)?;
    module(
        py,
        include_str!("python/patches.py"),
        c"<rsgun/patches.py>",
        c"rsgun._patches",
    )
}

/// `serve.py`: lifespan and main coroutine.
pub(crate) fn serve(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/serve.py"),
        c"<rsgun/serve.py>",
        c"rsgun._serve",
    )
}

/// `rsgi.py`: what is raised to RSGI applications, and how they are run.
pub(crate) fn rsgi(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    serve(py)?;
    module(
        py,
        include_str!("python/rsgi.py"),
        c"<rsgun/rsgi.py>",
        c"rsgun._rsgi",
    )
}

/// `lent_socket.py`: what a WSGI application gets as the socket of its client.
pub(crate) fn lent_socket(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/lent_socket.py"),
        c"<rsgun/lent_socket.py>",
        c"rsgun._lent_socket",
    )
}

/// `streams.py`: ends what lasts until the server stops.
pub(crate) fn streams(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/streams.py"),
        c"<rsgun/streams.py>",
        c"rsgun._streams",
    )
}

/// Whether an exception comes from a client that has left.
pub(crate) fn is_disconnect<T>(serve: &Py<T>, error: &Bound<'_, PyAny>) -> bool {
    serve
        .call_method1(error.py(), "is_disconnect", (error,))
        .and_then(|answer| answer.is_truthy(error.py()))
        .unwrap_or(false)
}

/// The traceback of an exception, in the words of `serve.py`; without an end of line.
pub(crate) fn describe<T>(serve: &Py<T>, error: &Bound<'_, PyAny>) -> String {
    let text = serve
        .call_method1(error.py(), "describe", (error,))
        .and_then(|text| text.extract::<String>(error.py()))
        .unwrap_or_else(|problem| format!("{error} (no traceback: {problem})"));
    text.trim_end().to_owned()
}

/// `loggers.py`: what applications log through.
fn loggers(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    loader(py)?;
    module(
        py,
        include_str!("python/loggers.py"),
        c"<rsgun/loggers.py>",
        c"rsgun._loggers",
    )
}

/// Makes the loggers that applications log through write to the logs of this process.
pub(crate) fn set_up_loggers(py: Python<'_>, settings: &Settings) -> PyResult<()> {
    let write = wrap_pyfunction!(write_record, py)?;
    let level = match settings.log_level {
        Level::Critical => 50,
        Level::Error => 40,
        Level::Warning => 30,
        Level::Info => 20,
        Level::Debug => 10,
        Level::Trace => 5,
    };
    loggers(py)?.call_method1("prepare", (write, level, settings.access_log))?;
    Ok(())
}

/// Writes what an application has logged, by a level of Python's `logging`.
#[pyfunction]
fn write_record(level: i64, text: &str, is_access: bool) {
    if is_access {
        output::write_access_line(text);
        return;
    }
    match level {
        40.. => tracing::error!("{text}"),
        30.. => tracing::warn!("{text}"),
        20.. => tracing::info!("{text}"),
        10.. => tracing::debug!("{text}"),
        _ => tracing::trace!("{text}"),
    }
}

/// `stacks.py`: the stacks of this process.
pub(crate) fn stacks(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/stacks.py"),
        c"<rsgun/stacks.py>",
        c"rsgun._stacks",
    )
}

/// `debuggers.py`: notices the prompt of a debugger.
pub(crate) fn debuggers(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/debuggers.py"),
        c"<rsgun/debuggers.py>",
        c"rsgun._debuggers",
    )
}

/// `conf.py`: evaluates a configuration file. Needs [`loader`].
pub(crate) fn conf(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/conf.py"),
        c"<rsgun/conf.py>",
        c"rsgun._conf",
    )
}

/// `hooks.py`: calls hooks. Needs [`conf`].
pub(crate) fn hooks(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/cfg.py"),
        c"<rsgun/cfg.py>",
        c"rsgun._cfg",
    )?;
    module(
        py,
        include_str!("python/arbiter.py"),
        c"<rsgun/arbiter.py>",
        c"rsgun._arbiter",
    )?;
    module(
        py,
        include_str!("python/hooks.py"),
        c"<rsgun/hooks.py>",
        c"rsgun._hooks",
    )
}

/// `request_hooks.py`: calls hooks around requests. Needs [`hooks`].
pub(crate) fn request_hooks(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/request_hooks.py"),
        c"<rsgun/request_hooks.py>",
        c"rsgun._request_hooks",
    )
}

/// Has the stacks of this process written to `report` whenever the master asks for them.
pub(crate) fn write_stacks_to(stacks: &Bound<'_, PyModule>, report: OwnedFd) -> PyResult<()> {
    let arguments = (stacks::signal_number(), report.as_raw_fd());
    stacks.call_method1("prepare", arguments)?;
    // Open to the last moment of the process, which may hang while it ends. What a worker
    // has inherited of its fork server goes.
    *REPORT.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    Ok(())
}

fn module<'py>(
    py: Python<'py>,
    source: &str,
    file: &std::ffi::CStr,
    name: &std::ffi::CStr,
) -> PyResult<Bound<'py, PyModule>> {
    // Several servers of one program share it: an exception of one is one of all. Another
    // thread must not find it half executed.
    let _guard = LOADING.lock_py_attached(py);
    let loaded = py.import("sys")?.getattr("modules")?;
    if let Ok(module) = loaded.get_item(name.to_string_lossy()) {
        return Ok(module.cast_into()?);
    }
    PyModule::from_code(py, &CString::new(source)?, file, name)
}

/// Turns `LoadError` or `StartupError`, whose arguments are a kind, a message and a
/// traceback, into a [`Failure`]; any other exception is a fault of this server.
pub(crate) fn failure(py: Python<'_>, error: &PyErr) -> Failure {
    let parts = error
        .value(py)
        .getattr("args")
        .and_then(|args| args.extract::<(String, String, Option<String>)>());
    match parts {
        Ok((kind, message, traceback)) if kind_of(&kind).is_some() => Failure {
            kind: kind_of(&kind).unwrap_or(FailureKind::Internal),
            message: foreign::message(&message),
            traceback: traceback
                .filter(|text| !text.trim().is_empty())
                .map(|text| foreign::traceback(&text)),
        },
        _ => Failure {
            kind: FailureKind::Internal,
            message: foreign::message(&format!("the worker failed: {error}")),
            traceback: error
                .traceback(py)
                .and_then(|traceback| traceback.format().ok())
                .map(|text| foreign::traceback(&text)),
        },
    }
}

fn kind_of(name: &str) -> Option<FailureKind> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}
