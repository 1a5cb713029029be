//! `receive` and `send` of one request, and what becomes of it.
//!
//! Awaiting them costs no Python frame: what is ready at once is returned by an
//! iterator that ends immediately; what has to wait borrows a future of the event
//! loop. A `receive()` that is cancelled while it waits loses nothing, since it takes
//! the data only when it is resumed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::exchange::{Received, SharedExchange, Stage, State};
use super::message::{self, Part, Start};
use crate::http::access_log;
use crate::http::body::ResponseBody;
use crate::reactor::{self, Reactor};

/// One call of the application: its `receive` and `send` callables.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Cycle {
    exchange: SharedExchange,
    /// Number under which the reactor keeps the request while it runs.
    entry: usize,
    /// What the access log needs, if there is one; taken when the head goes out.
    log: Mutex<Option<access_log::Entry>>,
    /// The application has returned or raised.
    ended: AtomicBool,
}

impl Cycle {
    pub(crate) fn new(
        exchange: SharedExchange,
        entry: usize,
        log: Option<access_log::Entry>,
    ) -> Self {
        Self {
            exchange,
            entry,
            log: Mutex::new(log),
            ended: AtomicBool::new(false),
        }
    }

    /// Whether the application has returned or raised.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn start(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<()> {
        let start = Start::parse(message)?;
        let mut state = self.exchange.lock();
        match state.response.stage {
            Stage::Waiting => {}
            Stage::Failed => return Ok(()),
            _ => {
                return Err(unexpected(
                    "http.response.start",
                    "the response has begun already",
                ));
            }
        }
        if state.closed {
            drop(state);
            return Err(gone(py));
        }
        let status = start.status;
        state.response.bodiless = self.exchange.is_head
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        state.response.status = status;
        state.response.declared = start.declared;
        state.response.stage = Stage::Head(start.headers);
        Ok(())
    }

    /// Returns whether the caller should wait for the client, and the bytes added.
    fn body(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<(bool, usize)> {
        let part = Part::parse(message)?;
        let mut guard = self.exchange.lock();
        let state = &mut *guard;
        match state.response.stage {
            Stage::Head(_) | Stage::Streaming => {}
            Stage::Failed => return Ok((false, 0)),
            Stage::Waiting => {
                return Err(unexpected(
                    "http.response.body",
                    "http.response.start comes first",
                ));
            }
            Stage::Complete => {
                return Err(unexpected("http.response.body", "the response is complete"));
            }
        }
        check_length(state, &part)?;
        // hyper lets go of a body as soon as it has its announced length.
        let is_whole = state.response.declared == Some(state.response.sent);
        if state.closed && !is_whole {
            drop(guard);
            return Err(gone(py));
        }
        let length = part.data.len();
        state.response.sent += length as u64;
        let stage = std::mem::replace(&mut state.response.stage, Stage::Streaming);
        let wait = match stage {
            Stage::Head(headers) => {
                let wait = self.begin(state, headers, part);
                let status = state.response.status;
                drop(guard);
                self.log(status);
                wait
            }
            _ => {
                let wait = !state.response.bodiless && state.push(part.data);
                if !part.more {
                    state.complete();
                }
                wait && part.more
            }
        };
        Ok((wait, length))
    }

    /// Sends the head with the first part of the body.
    fn begin(&self, state: &mut State, mut headers: HeaderMap, part: Part) -> bool {
        let response = &state.response;
        if response.status == StatusCode::NO_CONTENT {
            // RFC 9110, 8.6.
            headers.remove(CONTENT_LENGTH);
        } else if self.exchange.is_head && !part.more && response.declared.is_none() {
            // What a GET would have said.
            headers.insert(CONTENT_LENGTH, HeaderValue::from(part.data.len()));
        }
        let (status, bodiless) = (response.status, response.bodiless);
        let body = if bodiless {
            ResponseBody::Empty
        } else if part.more {
            ResponseBody::Stream(Arc::clone(&self.exchange), response.declared)
        } else {
            ResponseBody::full(part.data.clone())
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        state.respond(answer);
        if part.more {
            return !bodiless && state.push(part.data);
        }
        state.response.stage = Stage::Complete;
        false
    }

    fn log(&self, status: StatusCode) {
        let entry = self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(entry) = entry {
            access_log::add(&entry, status);
        }
    }

    /// Ends the exchange; the application is through with it.
    fn end(&self, reactor: &Reactor, py: Python<'_>) {
        self.ended.store(true, Relaxed);
        let (status, refused) = {
            let state = self.exchange.lock();
            (
                state.response.status,
                matches!(state.response.stage, Stage::Failed),
            )
        };
        if refused {
            self.log(status);
        }
        reactor.ended(py, self.entry, status, self.exchange.started_us);
        // Calls of receive() that other tasks still wait in see the end.
        reactor.wake(py, &self.exchange);
        reactor.after_send(py, 0);
    }

    /// Gives up on the response: see [`State::fail`].
    fn give_up(&self) {
        let status = self.exchange.lock().fail(self.exchange.is_head);
        if let Some(status) = status {
            self.log(status);
        }
    }
}

/// Refuses body bytes that do not fit the announced length, before any of them are
/// on their way.
fn check_length(state: &State, part: &Part) -> PyResult<()> {
    let Some(declared) = state.response.declared.filter(|_| !state.response.bodiless) else {
        return Ok(());
    };
    let total = state.response.sent + part.data.len() as u64;
    let problem = if total > declared {
        "longer"
    } else if !part.more && total < declared {
        "shorter"
    } else {
        return Ok(());
    };
    Err(PyRuntimeError::new_err(format!(
        "http.response.body: the body is {problem} than its content-length: {total} bytes, \
         not {declared}"
    )))
}

#[pymethods]
impl Cycle {
    /// Returns an awaitable of the next event: `http.request` or `http.disconnect`.
    fn receive(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let received = take(py, &slf.get().exchange)?;
        match event(py, received)? {
            Some(message) => Ok(Py::new(
                py,
                Ready {
                    value: Mutex::new(Some(message)),
                },
            )?
            .into_any()),
            None => {
                let exchange = Arc::clone(&slf.get().exchange);
                Ok(Py::new(
                    py,
                    Receive {
                        exchange,
                        waiting: Mutex::new(None),
                    },
                )?
                .into_any())
            }
        }
    }

    /// Takes an event of the application and returns an awaitable, which is done when
    /// more may be sent.
    fn send(&self, py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let reactor = reactor::current()?;
        let Ok(message) = message.cast::<PyDict>() else {
            return Err(PyTypeError::new_err(format!(
                "an ASGI message is a dict, not {}",
                message.get_type().name()?
            )));
        };
        let kind = message::kind(message)?;
        match kind.to_str()? {
            "http.response.start" => self.start(py, message)?,
            "http.response.body" => {
                let (wait, length) = self.body(py, message)?;
                if wait {
                    let future = reactor.future(py)?;
                    self.exchange.lock().senders.push(future.clone_ref(py));
                    reactor.after_send(py, length);
                    return Ok(future);
                }
                reactor.after_send(py, length);
            }
            other => {
                return Err(PyRuntimeError::new_err(format!(
                    "unknown ASGI message \"{other}\""
                )));
            }
        }
        Ok(reactor.done(py))
    }

    /// The application has raised.
    fn fail(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        // A request that has outlived its worker's serving has nobody to answer to.
        let Ok(reactor) = reactor::current() else {
            return;
        };
        let gone = self.exchange.lock().closed;
        if reactor.is_stopping() || (gone && reactor.is_disconnect(py, error)) {
            tracing::debug!("a request ended early: {error}");
        } else {
            let traceback = reactor.describe(py, error);
            tracing::error!("exception in the application\n{}", traceback.trim_end());
        }
        self.give_up();
        self.end(&reactor, py);
    }

    /// The application has returned.
    fn finish(&self, py: Python<'_>) {
        let Ok(reactor) = reactor::current() else {
            return;
        };
        let (problem, disconnected) = {
            let state = self.exchange.lock();
            let problem = match state.response.stage {
                Stage::Complete | Stage::Failed => None,
                Stage::Waiting => Some("returned without a response"),
                Stage::Head(_) => Some("returned without a response body"),
                Stage::Streaming => Some("returned without completing its response"),
            };
            (problem, state.disconnected)
        };
        if let Some(problem) = problem {
            // An application may well stop when its client has left.
            if disconnected {
                tracing::debug!("the application {problem}: the client has left");
            } else {
                tracing::error!("the application {problem}");
            }
            self.give_up();
        }
        self.end(&reactor, py);
    }
}

fn unexpected(kind: &str, why: &str) -> PyErr {
    PyRuntimeError::new_err(format!("unexpected ASGI message \"{kind}\": {why}"))
}

fn gone(py: Python<'_>) -> PyErr {
    match reactor::current() {
        Ok(reactor) => reactor.disconnected_error(py),
        Err(error) => error,
    }
}

/// Takes what is there; the connection, which may read on now, gets its turn.
fn take(py: Python<'_>, exchange: &SharedExchange) -> PyResult<Received> {
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

/// An awaitable that is done, with a value.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Ready {
    value: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl Ready {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

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

/// An awaitable that is done, with `None`.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Done;

#[pymethods]
impl Done {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[expect(clippy::unused_self, reason = "Python's iterator protocol")]
    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }
}

/// An awaitable of the next event, which is not there yet.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Receive {
    exchange: SharedExchange,
    /// Iterator of the future that stands for "something has changed".
    waiting: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl Receive {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        loop {
            let waiting = self
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(iterator) = waiting {
                // Done or cancelled: ends with StopIteration or raises.
                match iterator.call_method0(py, pyo3::intern!(py, "__next__")) {
                    Ok(future) => {
                        self.wait_in(iterator);
                        return Ok(future);
                    }
                    Err(error) if error.is_instance_of::<PyStopIteration>(py) => {}
                    Err(error) => return Err(error),
                }
            }
            let received = take(py, &self.exchange)?;
            if let Some(message) = event(py, received)? {
                return Err(PyStopIteration::new_err((message,)));
            }
            let future = reactor::current()?.future(py)?;
            let iterator = future.call_method0(py, pyo3::intern!(py, "__await__"))?;
            self.exchange.lock().receivers.push(future);
            self.wait_in(iterator);
        }
    }
}

impl Receive {
    fn wait_in(&self, iterator: Py<PyAny>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(iterator);
    }
}
