//! What `receive()` and `send()` return.
//!
//! Awaiting costs no Python frame: what is ready at once is an iterator that ends
//! immediately; what has to wait borrows a future of the event loop. All of them also
//! have the methods of a coroutine, and are registered as such, since applications
//! hand them to `asyncio.create_task`, `wait_for` and the like. A `receive()` that is
//! cancelled while it waits loses nothing: it takes the data when it is resumed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::PyClass;
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::exchange::{Received, SharedExchange};
use super::session::SharedSession;
use super::socket;
use crate::reactor;
use crate::rsgi::{self, Intake};

/// What all awaitables have in common: the manners of a coroutine.
#[pyclass(frozen, subclass, module = "rsgun._rsgun")]
pub(crate) struct Awaitable;

#[pymethods]
impl Awaitable {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Goes on; a value is of no use to it.
    fn send<'py>(
        slf: &Bound<'py, Self>,
        _value: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.call_method0(pyo3::intern!(slf.py(), "__next__"))
    }

    /// Raises the exception: a wait ends with it.
    #[expect(clippy::unused_self, reason = "a coroutine's method")]
    #[pyo3(signature = (error, value=None, _traceback=None))]
    fn throw(
        &self,
        error: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        // The older form gives the class and its value apart.
        Err(PyErr::from_value(value.unwrap_or(error).clone()))
    }

    /// Gives up; nothing is lost by it.
    #[expect(clippy::unused_self, reason = "a coroutine's method")]
    fn close(&self) {}
}

/// Makes `isinstance(x, collections.abc.Coroutine)` true, which asyncio asks for.
pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
    let coroutine = py.import("collections.abc")?.getattr("Coroutine")?;
    coroutine.call_method1("register", (py.get_type::<Awaitable>(),))?;
    Ok(())
}

/// Makes one of the awaitables.
pub(super) fn make<T>(py: Python<'_>, value: T) -> PyResult<Py<PyAny>>
where
    T: PyClass<BaseType = Awaitable>,
    PyClassInitializer<T>: From<(T, Awaitable)>,
{
    Ok(Py::new(py, (value, Awaitable))?.into_any())
}

/// An awaitable that is done, with a value.
#[pyclass(frozen, extends = Awaitable, module = "rsgun._rsgun")]
pub(crate) struct Ready {
    value: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl Ready {
    fn __next__(&self) -> PyResult<Option<Py<PyAny>>> {
        match self
            .value
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            Some(value) => Err(PyStopIteration::new_err((value,))),
            None => Ok(None),
        }
    }
}

/// An awaitable that is done, with `None`; one serves for all.
#[pyclass(frozen, extends = Awaitable, module = "rsgun._rsgun")]
pub(crate) struct Done;

#[pymethods]
impl Done {
    #[expect(clippy::unused_self, reason = "Python's iterator protocol")]
    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }
}

/// The awaitable of a `send()` that is through.
pub(crate) fn done(py: Python<'_>) -> PyResult<Py<PyAny>> {
    make(py, Done)
}

/// The awaitable of a `send()` whose client has left: it raises, in the next iteration of
/// the event loop.
///
/// Whoever learns of it at the same time in `receive()` has its turn before, and may cancel
/// the task that sends, as Starlette does when it streams a response. Otherwise it would be
/// an error of the application if that task comes first.
#[pyclass(frozen, extends = Awaitable, module = "rsgun._rsgun")]
pub(crate) struct Gone {
    has_yielded: AtomicBool,
}

#[pymethods]
impl Gone {
    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.has_yielded.swap(true, Relaxed) {
            return Err(reactor::current()?.disconnected_error(py));
        }
        Ok(py.None())
    }
}

/// An awaitable that raises that the client has left.
pub(crate) fn gone(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let has_yielded = AtomicBool::new(false);
    make(py, Gone { has_yielded })
}

/// The iterator of a future, while something waits for it.
#[derive(Default)]
struct Wait(Mutex<Option<Py<PyAny>>>);

impl Wait {
    fn begin(&self, py: Python<'_>, future: &Py<PyAny>) -> PyResult<()> {
        let iterator = future.call_method0(py, pyo3::intern!(py, "__await__"))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(iterator);
        Ok(())
    }

    /// The future, for the task to wait for; `None` when the wait is over, or none was
    /// begun.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(iterator) = waiting else {
            return Ok(None);
        };
        match iterator.call_method0(py, pyo3::intern!(py, "__next__")) {
            Ok(future) => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(iterator);
                Ok(Some(future))
            }
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What events come from and messages go to.
#[derive(Clone)]
pub(crate) enum Source {
    /// A request.
    Http(SharedExchange),
    /// A WebSocket.
    WebSocket(SharedSession),
    /// The whole body of a request, for RSGI.
    Body(Arc<Intake>),
    /// The next part of it.
    Part(Arc<Intake>),
    /// The end of a request's client.
    Leave(SharedExchange),
    /// The messages of a WebSocket, for RSGI.
    Message(SharedSession),
}

/// Where those who wait are kept.
enum Home<'a> {
    Request(&'a SharedExchange),
    WebSocket(&'a SharedSession),
}

impl Source {
    /// The message of what is there; `None` for nothing.
    fn event(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self {
            Self::Http(exchange) => event(py, take(py, exchange)?),
            Self::WebSocket(session) => socket::event(py, session),
            Self::Body(intake) => rsgi::whole(py, intake),
            Self::Part(intake) => rsgi::part(py, intake),
            Self::Leave(exchange) => Ok(rsgi::leave(py, exchange)),
            Self::Message(session) => rsgi::message(py, session),
        }
    }

    fn home(&self) -> Home<'_> {
        match self {
            Self::Http(exchange) | Self::Leave(exchange) => Home::Request(exchange),
            Self::Body(intake) | Self::Part(intake) => Home::Request(&intake.exchange),
            Self::WebSocket(session) | Self::Message(session) => Home::WebSocket(session),
        }
    }

    /// Keeps a future to be resolved when something new is there.
    fn wait_for_event(&self, future: Py<PyAny>) {
        match self.home() {
            Home::Request(exchange) => exchange.lock().receivers.push(future),
            Home::WebSocket(session) => session.wait(future),
        }
    }

    /// Forgets a future that nobody waits for any more.
    fn forget(&self, future: &Py<PyAny>) {
        // Dropped when nothing is locked: the end of a future may run Python code.
        let forgotten = match self.home() {
            Home::Request(exchange) => exchange.lock().forget(future),
            Home::WebSocket(session) => session.forget(future),
        };
        drop(forgotten);
    }

    /// Keeps a future to be resolved when there is room to send more.
    fn wait_for_room(&self, future: Py<PyAny>) {
        match self.home() {
            Home::Request(exchange) => exchange.lock().senders.push(future),
            Home::WebSocket(session) => session.lock().senders.push(future),
        }
    }
}

/// A future that the connection resolves; forgotten when its awaitable is gone. Waits that
/// are cancelled, as those of `request.is_disconnected()` are, would pile up.
struct Registered {
    source: Source,
    future: Py<PyAny>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.source.forget(&self.future);
    }
}

/// An awaitable of the next event, which is not there yet.
#[pyclass(frozen, extends = Awaitable, module = "rsgun._rsgun")]
pub(crate) struct Receive {
    source: Source,
    wait: Wait,
    registered: Mutex<Option<Registered>>,
}

#[pymethods]
impl Receive {
    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        loop {
            if let Some(future) = self.wait.poll(py)? {
                return Ok(future);
            }
            if let Some(message) = self.source.event(py)? {
                return Err(PyStopIteration::new_err((message,)));
            }
            let future = reactor::current()?.future(py)?;
            self.wait.begin(py, &future)?;
            let registered = Registered {
                source: self.source.clone(),
                future: future.clone_ref(py),
            };
            let last = self
                .registered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .replace(registered);
            drop(last);
            self.source.wait_for_event(future);
        }
    }
}

/// An awaitable that is done, with this value.
pub(crate) fn ready(py: Python<'_>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let value = Mutex::new(Some(value));
    make(py, Ready { value })
}

/// The awaitable of `receive()`.
pub(crate) fn receive(py: Python<'_>, source: Source) -> PyResult<Py<PyAny>> {
    match source.event(py)? {
        Some(message) => ready(py, message),
        None => make(
            py,
            Receive {
                source,
                wait: Wait::default(),
                registered: Mutex::default(),
            },
        ),
    }
}

/// An awaitable of room for more.
#[pyclass(frozen, extends = Awaitable, module = "rsgun._rsgun")]
pub(crate) struct Room {
    wait: Wait,
    #[expect(dead_code, reason = "its drop forgets the future")]
    registered: Registered,
}

#[pymethods]
impl Room {
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.wait.poll(py)
    }
}

/// The awaitable of a `send()` that has to wait for the client.
pub(crate) fn room(py: Python<'_>, source: &Source) -> PyResult<Py<PyAny>> {
    let future = reactor::current()?.future(py)?;
    let wait = Wait::default();
    wait.begin(py, &future)?;
    let registered = Registered {
        source: source.clone(),
        future: future.clone_ref(py),
    };
    source.wait_for_room(future);
    make(py, Room { wait, registered })
}

/// Takes what is there; the connection, which may read on now, gets its turn.
pub(crate) fn take(py: Python<'_>, exchange: &SharedExchange) -> PyResult<Received> {
    let received = exchange.lock().receive();
    reactor::current()?.after_send(py, 0);
    Ok(received)
}

/// The message of what was received; `None` for nothing.
fn event(py: Python<'_>, received: Received) -> PyResult<Option<Py<PyAny>>> {
    let message = PyDict::new(py);
    let kind = pyo3::intern!(py, "type");
    match received {
        Received::Pending => return Ok(None),
        Received::Disconnect => message.set_item(kind, pyo3::intern!(py, "http.disconnect"))?,
        Received::Body(data, more) => {
            message.set_item(kind, pyo3::intern!(py, "http.request"))?;
            message.set_item(pyo3::intern!(py, "body"), PyBytes::new(py, &data))?;
            message.set_item(pyo3::intern!(py, "more_body"), more)?;
        }
    }
    Ok(Some(message.into_any().unbind()))
}
