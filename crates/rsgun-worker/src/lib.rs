//! The fork server and the workers: hyper inside CPython.
//!
//! This crate is the Python extension `rsgun._rsgun`, and the only one that uses
//! PyO3. A fresh interpreter enters it through [`main`] (see
//! `rsgun_core::bootstrap`) and becomes one of two processes:
//!
//! * [`forkserver`]: loads the application once and forks a worker each time the
//!   master asks;
//! * [`worker`]: serves. Its parts are the [`reactor`] (tokio turned by the Python
//!   event loop), [`http`] (connections), and the application's side, [`asgi`] [`rsgi`]
//!   or [`wsgi`].
//!
//! A Python program that imports the package is neither; what it can do with it is in
//! [`program`].

mod asgi;
mod collector;
mod ffi;
mod forkserver;
mod glue;
mod http;
mod program;
mod reactor;
mod rsgi;
mod worker;
mod wsgi;

use std::os::fd::RawFd;

use pyo3::exceptions::{PySystemExit, PyValueError};
use pyo3::prelude::*;

/// Runs this process as a fork server or a worker, until it ends.
///
/// Takes the mode, the number of the inherited channel, and where the extension was
/// loaded from, which a worker that must be started by exec needs too.
#[pyfunction]
#[pyo3(name = "_main", pass_module)]
fn main(module: &Bound<'_, PyModule>, mode: &str, channel: RawFd, extension: &str) -> PyResult<()> {
    program::enter_served_process();
    let code = match mode {
        rsgun_core::bootstrap::FORK_SERVER => forkserver::main(module, channel, extension)?,
        rsgun_core::bootstrap::WORKER => forkserver::main_of_worker(module, channel)?,
        other => return Err(PyValueError::new_err(format!("unknown mode {other:?}"))),
    };
    if code == 0 {
        Ok(())
    } else {
        Err(PySystemExit::new_err(code))
    }
}

#[pymodule]
fn _rsgun(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", rsgun_core::VERSION)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    asgi::awaitable::register(module.py())?;
    rsgi::register(module)?;
    wsgi::register(module)?;
    program::register(module)
}
