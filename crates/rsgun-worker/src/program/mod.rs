//! rsgun inside a Python program: what `rsgun.run`, `rsgun.Config`, and `rsgun.Server` are
//! made of.
//!
//! An application that is named by an import string gets a master as the command does:
//! [`manage`] starts the command as a child, passes on what is sent to this process, and
//! waits. An application object lives in this process alone. Then this process is its own
//! worker, without a master, a channel, or a title: [`listening`] opens the listeners here
//! and hands them to a [`crate::worker::Worker`] whose keeper is the program.

mod arguments;
mod immortal;
mod listening;
mod manage;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::prelude::*;
use rsgun_core::config::ConfigError;

/// This process is a fork server or a worker.
static SERVED: AtomicBool = AtomicBool::new(false);

/// Adds what the package calls to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(is_served, module)?)?;
    module.add_function(wrap_pyfunction!(manage::manage, module)?)?;
    module.add_function(wrap_pyfunction!(listening::failure, module)?)?;
    module.add_function(wrap_pyfunction!(listening::loop_factory, module)?)?;
    module.add_function(wrap_pyfunction!(listening::run_to_end, module)?)?;
    module.add_function(wrap_pyfunction!(listening::last_words, module)?)?;
    module.add_class::<arguments::Arguments>()?;
    module.add_class::<immortal::ImmortalThread>()?;
    module.add_class::<listening::Listening>()
}

/// Notes that this process is a fork server or a worker, which loads the application and
/// must not start another server on the way.
pub(crate) fn enter_served_process() {
    SERVED.store(true, Relaxed);
}

/// Whether this process is a fork server or a worker.
#[pyfunction]
#[pyo3(name = "_is_served")]
fn is_served() -> bool {
    SERVED.load(Relaxed)
}

/// A `TypeError` for an argument that there is not, as Python itself has it, else a
/// `rsgun.ConfigError`.
fn config_error(py: Python<'_>, error: &ConfigError) -> PyErr {
    match error {
        ConfigError::UnknownArgument { .. } | ConfigError::ForeignArgument { .. } => {
            pyo3::exceptions::PyTypeError::new_err(error.to_string())
        }
        _ => raised(py, "ConfigError", (error.to_string(),)),
    }
}

/// A `rsgun.StartupError`; its code is the exit code of a process that ends over it.
fn startup_error(py: Python<'_>, message: &str, code: u8) -> PyErr {
    raised(py, "StartupError", (message, code))
}

fn raised<'py, A>(py: Python<'py>, class: &str, arguments: A) -> PyErr
where
    A: pyo3::call::PyCallArgs<'py>,
{
    let error = py
        .import("rsgun._errors")
        .and_then(|errors| errors.getattr(class))
        .and_then(|class| class.call1(arguments));
    match error {
        Ok(error) => PyErr::from_value(error),
        Err(problem) => problem,
    }
}
