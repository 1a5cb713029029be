//! Calls of `receive()` and `send()` on another thread than the event loop's.
//!
//! A coroutine function may be called anywhere, since nothing happens before its
//! coroutine is awaited. Applications rely on that: `async_to_sync(send)(message)` of
//! asgiref calls on a thread of the application, and awaits on the event loop's. So a
//! call on another thread is only noted, and made by the first step of its awaitable.

use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use pyo3::PyClass;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;

use super::awaitable::{self, Awaitable, Source};
use crate::reactor::{self, Reactor};

/// A call that is still to be made; returns its awaitable.
type Call = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// What takes messages of the application: a request or a WebSocket.
pub(crate) trait Outlet: PyClass<Frozen = True> + Sync {
    /// The reactor that it belongs to.
    ///
    /// # Errors
    /// `RuntimeError` on a thread that has none, or another one.
    fn reactor(&self) -> PyResult<Rc<Reactor>>;

    /// Takes a message on the event loop's thread; returns the awaitable of its `send()`.
    fn take(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        message: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>>;
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
            Progress::Noted(call) => call(py)?,
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
pub(crate) fn receive(py: Python<'_>, source: Source, is_here: bool) -> PyResult<Py<PyAny>> {
    if is_here {
        return awaitable::receive(py, source);
    }
    later(py, move |py| {
        // Nothing may be taken that cannot be handed out.
        reactor::current()?;
        awaitable::receive(py, source)
    })
}

/// The awaitable of `send()`, called on the event loop's thread or another.
pub(crate) fn send<T: Outlet>(
    outlet: &Bound<'_, T>,
    message: &Bound<'_, PyAny>,
) -> PyResult<Py<PyAny>> {
    let py = outlet.py();
    if let Ok(reactor) = outlet.get().reactor() {
        return outlet.get().take(py, &reactor, message);
    }
    let (outlet, message) = (outlet.clone().unbind(), message.clone().unbind());
    later(py, move |py| {
        let outlet = outlet.get();
        outlet.take(py, &*outlet.reactor()?, message.bind(py))
    })
}

/// The awaitable of a call that is made when it is awaited.
pub(crate) fn later(
    py: Python<'_>,
    call: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    awaitable::make(py, Deferred(Mutex::new(Progress::Noted(Box::new(call)))))
}
