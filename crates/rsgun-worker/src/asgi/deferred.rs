//! Calls of `receive()` and `send()` on another thread than the event loop's.
//!
//! A coroutine function may be called anywhere, since nothing happens before its
//! coroutine is awaited. Applications rely on that: `async_to_sync(send)(message)` of
//! asgiref calls on a thread of the application, and awaits on the event loop's. So a
//! call on another thread is only noted, and made by the first step of its awaitable.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::awaitable::{self, Awaitable, Source};
use super::cycle::Cycle;
use super::socket::Socket;
use crate::reactor;

/// A call that is still to be made.
pub(super) enum Call {
    /// `receive()`.
    Receive(Source),
    /// `send()` of a request.
    Http(Py<Cycle>, Py<PyAny>),
    /// `send()` of a WebSocket.
    WebSocket(Py<Socket>, Py<PyAny>),
}

impl Call {
    fn make(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Receive(source) => {
                // Nothing may be taken that cannot be handed out.
                reactor::current()?;
                awaitable::receive(py, source.clone())
            }
            Self::Http(cycle, message) => {
                let cycle = cycle.get();
                cycle.take(py, &*cycle.reactor()?, message.bind(py))
            }
            Self::WebSocket(socket, message) => {
                let socket = socket.get();
                socket.take(py, &*socket.reactor()?, message.bind(py))
            }
        }
    }
}

/// How far it has come.
enum Progress {
    Noted(Call),
    /// The awaitable of the call.
    Made(Py<PyAny>),
    Over,
}

/// The awaitable of a call on another thread.
#[pyclass(frozen, extends = Awaitable, module = "rsgun._rsgun")]
pub(crate) struct Deferred(Mutex<Progress>);

#[pymethods]
impl Deferred {
    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let progress = std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            Progress::Over,
        );
        let awaitable = match progress {
            Progress::Noted(call) => call.make(py)?,
            Progress::Made(awaitable) => awaitable,
            Progress::Over => {
                return Err(PyRuntimeError::new_err("cannot await a call a second time"));
            }
        };
        let next = awaitable.call_method0(py, pyo3::intern!(py, "__next__"))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Progress::Made(awaitable);
        Ok(next)
    }
}

/// The awaitable of `receive()`, called on the event loop's thread (`is_here`) or another.
pub(super) fn receive(py: Python<'_>, source: Source, is_here: bool) -> PyResult<Py<PyAny>> {
    if is_here {
        awaitable::receive(py, source)
    } else {
        later(py, Call::Receive(source))
    }
}

/// The awaitable of a call that is made when it is awaited.
pub(super) fn later(py: Python<'_>, call: Call) -> PyResult<Py<PyAny>> {
    awaitable::make(py, Deferred(Mutex::new(Progress::Noted(call))))
}
