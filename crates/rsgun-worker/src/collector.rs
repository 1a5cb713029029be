//! Python's garbage collector, and what is there before the first request.
//!
//! An application with its framework is some hundred thousand objects that live as long as
//! their process. Each full collection goes through all of them to find out that they are
//! alive, which holds up every request for tens of milliseconds, and one that is shared
//! with other processes is copied because the collector has written to its header. So
//! they are taken out of the collector's sight, as
//! [`gc.freeze()`](https://docs.python.org/3/library/gc.html#gc.freeze) is meant for: in
//! the fork server what was preloaded, in a worker what is there when it is ready.

use pyo3::prelude::*;

/// Takes all objects that there are out of the collector's sight, garbage excepted.
///
/// # Errors
/// If the module `gc` cannot be used.
pub(crate) fn freeze(py: Python<'_>) -> PyResult<()> {
    let collector = py.import("gc")?;
    collector.call_method0("collect")?;
    collector.call_method0("freeze")?;
    Ok(())
}

/// Whether the collector is on. An application that has switched it off looks after its
/// objects by itself.
///
/// # Errors
/// If the module `gc` cannot be used.
pub(crate) fn is_enabled(py: Python<'_>) -> PyResult<bool> {
    py.import("gc")?.call_method0("isenabled")?.extract()
}

/// Shows them to the collector again. The end of the interpreter collects: objects that
/// refer to each other would not be finalized there otherwise.
///
/// # Errors
/// If the module `gc` cannot be used.
pub(crate) fn unfreeze(py: Python<'_>) -> PyResult<()> {
    py.import("gc")?.call_method0("unfreeze")?;
    Ok(())
}
