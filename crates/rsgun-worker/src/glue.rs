//! The parts that are written in Python, carried inside the extension.

use std::ffi::CString;

use pyo3::prelude::*;
use rsgun_core::ipc::{Failure, FailureKind};

/// `loader.py`: finds the application.
pub(crate) fn loader(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    module(
        py,
        include_str!("python/loader.py"),
        c"<rsgun/loader.py>",
        c"rsgun._loader",
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

fn module<'py>(
    py: Python<'py>,
    source: &str,
    file: &std::ffi::CStr,
    name: &std::ffi::CStr,
) -> PyResult<Bound<'py, PyModule>> {
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
            message,
            traceback: traceback.filter(|text| !text.trim().is_empty()),
        },
        _ => Failure {
            kind: FailureKind::Internal,
            message: format!("the worker failed: {error}"),
            traceback: error
                .traceback(py)
                .and_then(|traceback| traceback.format().ok()),
        },
    }
}

fn kind_of(name: &str) -> Option<FailureKind> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}
