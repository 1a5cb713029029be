//! `receive` and `send` of one request, and what becomes of it.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::awaitable::{self, Source};
use super::deferred::{self, Outlet};
use super::exchange::{SharedExchange, Stage, State};
use super::message::{self, Part, Start};
use crate::http::access_log;
use crate::reactor::{self, Reactor};
use crate::rsgi::HttpProtocol;

/// One call of the application: its `receive` and `send` callables.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Cycle {
    /// The number of its reactor.
    server: u64,
    pub(crate) exchange: SharedExchange,
    /// Number under which the reactor keeps the request while it runs.
    entry: usize,
    /// What the access log needs, if there is one; taken when the head goes out.
    log: Mutex<Option<access_log::Entry>>,
    /// The application has returned or raised.
    ended: AtomicBool,
    /// It has taken too long, and was cancelled.
    timed_out: AtomicBool,
    /// The body of the response goes on until [`Cycle::end_stream`].
    has_transport: AtomicBool,
}

/// Why a message was not taken.
enum Refusal {
    /// The client has left.
    Gone,
    /// The application has made a mistake.
    Wrong(PyErr),
}

impl From<PyErr> for Refusal {
    fn from(error: PyErr) -> Self {
        Self::Wrong(error)
    }
}

impl Cycle {
    pub(crate) fn new(
        server: u64,
        exchange: SharedExchange,
        entry: usize,
        log: Option<access_log::Entry>,
    ) -> Self {
        Self {
            server,
            exchange,
            entry,
            log: Mutex::new(log),
            ended: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            has_transport: AtomicBool::new(false),
        }
    }

    /// Whether the application has returned or raised.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn start(&self, message: &Bound<'_, PyDict>) -> Result<(), Refusal> {
        let start = Start::parse(message, &self.exchange)?;
        let mut state = self.exchange.lock();
        match state.response.stage {
            Stage::Waiting => {}
            Stage::Failed => return Ok(()),
            _ => {
                return Err(
                    unexpected("http.response.start", "the response has begun already").into(),
                );
            }
        }
        if state.closed {
            return Err(Refusal::Gone);
        }
        state.response.bodiless = start.bodiless;
        state.response.status = start.status;
        state.response.declared = start.declared;
        state.response.is_event_stream = start.is_event_stream;
        state.response.stage = Stage::Head(start.headers);
        Ok(())
    }

    /// Returns whether the caller should wait for the client, and the bytes added.
    fn body(&self, message: &Bound<'_, PyDict>) -> Result<(bool, usize), Refusal> {
        let part = Part::parse(message)?;
        let mut guard = self.exchange.lock();
        let state = &mut *guard;
        match state.response.stage {
            Stage::Head(_) | Stage::Streaming => {}
            Stage::Failed => return Ok((false, 0)),
            Stage::Waiting => {
                return Err(
                    unexpected("http.response.body", "http.response.start comes first").into(),
                );
            }
            Stage::Complete => {
                return Err(unexpected("http.response.body", "the response is complete").into());
            }
        }
        check_length(state, &part, "http.response.body")?;
        // hyper lets go of a body as soon as it has its announced length.
        let is_whole = state.response.declared == Some(state.response.sent);
        if state.closed && !is_whole {
            return Err(Refusal::Gone);
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

    /// Completes a stream of events that was told to end where it was, and may have had none.
    fn end_events(&self) {
        let mut state = self.exchange.lock();
        let response = &state.response;
        if state.closed || !response.is_event_stream || response.declared.is_some() {
            return;
        }
        match std::mem::replace(&mut state.response.stage, Stage::Complete) {
            Stage::Head(headers) => {
                self.begin(&mut state, headers, Part::default());
                let status = state.response.status;
                drop(state);
                self.log(status);
            }
            Stage::Streaming => state.complete(),
            other => state.response.stage = other,
        }
    }

    /// Sends the head with the first part of the body. Returns whether to wait for the
    /// client.
    pub(crate) fn begin(&self, state: &mut State, headers: HeaderMap, part: Part) -> bool {
        let head = head(state, headers);
        let rest = self.exchange.begin(state, head, part.data, part.more);
        rest.is_some_and(|rest| state.push(rest))
    }

    /// Takes a file that is the whole body.
    fn file(&self, message: &Bound<'_, PyDict>) -> Result<(), Refusal> {
        const KIND: &str = "http.response.pathsend";
        match self.exchange.lock().response.stage {
            Stage::Head(_) => {}
            Stage::Failed => return Ok(()),
            Stage::Waiting => {
                return Err(unexpected(KIND, "http.response.start comes first").into());
            }
            Stage::Streaming => return Err(unexpected(KIND, "the body has begun already").into()),
            Stage::Complete => return Err(unexpected(KIND, "the response is complete").into()),
        }
        // Not while the connection may want the exchange.
        let part = message::open_path(message)?;
        let mut guard = self.exchange.lock();
        let state = &mut *guard;
        if state.closed {
            return Err(Refusal::Gone);
        }
        let part = part.fitted(state.response.declared).map_err(|(has, declared)| {
            PyRuntimeError::new_err(format!(
                "{KIND}: the file is shorter than the content-length: {has} bytes, not {declared}"
            ))
        })?;
        let Stage::Head(headers) = std::mem::replace(&mut state.response.stage, Stage::Complete)
        else {
            return Ok(());
        };
        let head = head(state, headers);
        self.exchange.begin_file(state, head, part);
        let status = state.response.status;
        drop(guard);
        self.log(status);
        Ok(())
    }

    pub(crate) fn log(&self, status: StatusCode) {
        if let Some(entry) = self.take_log() {
            access_log::add(&entry, status);
        }
    }

    /// What the access log needs, the first time that it is asked for.
    pub(super) fn take_log(&self) -> Option<access_log::Entry> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The body that has begun is sent through a transport, and its end is that of the
    /// transport.
    pub(crate) fn expect_transport(&self) {
        self.has_transport.store(true, Relaxed);
    }

    /// Nobody holds the transport any more: ends the body, unless it has ended otherwise.
    pub(crate) fn end_stream(&self) {
        let mut state = self.exchange.lock();
        if !matches!(state.response.stage, Stage::Streaming) {
            return;
        }
        let nothing = Part::default();
        let problem = check_length(&state, &nothing, "response_stream()").err();
        if problem.is_none() {
            state.complete();
        } else {
            state.fail(self.exchange.is_head, StatusCode::INTERNAL_SERVER_ERROR);
        }
        drop(state);
        if let Some(problem) = problem {
            tracing::error!("{problem}");
        }
        if let Ok(reactor) = self.reactor() {
            Python::attach(|py| reactor.after_send(py, 0));
        }
    }

    /// Ends the exchange; the application is through with it.
    fn end(&self, reactor: &Reactor, py: Python<'_>) {
        self.ended.store(true, Relaxed);
        self.exchange.keep();
        let (status, refused) = {
            let state = self.exchange.lock();
            (state.response.status, state.refused().is_some())
        };
        if refused {
            self.log(status);
        }
        reactor.ended(py, self.entry, status, self.exchange.started_us);
        // Calls of receive() that other tasks still wait in see the end.
        reactor.wake(py, &self.exchange);
        reactor.after_send(py, 0);
    }

    /// The application has had its time. Returns whether it has not answered completely,
    /// so that it is to be cancelled.
    pub(crate) fn time_out(&self) -> bool {
        if matches!(self.exchange.lock().response.stage, Stage::Complete) {
            return false;
        }
        self.timed_out.store(true, Relaxed);
        self.give_up(StatusCode::GATEWAY_TIMEOUT);
        true
    }

    /// Takes a message that is a part of a response; see [`Self::send`].
    pub(super) fn respond(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        kind: &str,
        message: &Bound<'_, PyDict>,
    ) -> PyResult<Py<PyAny>> {
        match self.take_part(py, reactor, kind, message) {
            Ok(awaitable) => Ok(awaitable),
            Err(Refusal::Gone) => awaitable::gone(py),
            Err(Refusal::Wrong(error)) => Err(error),
        }
    }

    fn take_part(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        kind: &str,
        message: &Bound<'_, PyDict>,
    ) -> Result<Py<PyAny>, Refusal> {
        match kind {
            "http.response.start" => self.start(message)?,
            "http.response.body" => {
                let (wait, length) = self.body(message)?;
                if wait {
                    let source = Source::Http(Arc::clone(&self.exchange));
                    let room = awaitable::room(py, &source)?;
                    reactor.after_send(py, length);
                    return Ok(room);
                }
                reactor.after_send(py, length);
            }
            "http.response.pathsend" => {
                self.file(message)?;
                reactor.after_send(py, 0);
            }
            other => {
                let text = format!("unknown ASGI message \"{other}\"");
                return Err(PyRuntimeError::new_err(text).into());
            }
        }
        Ok(reactor.done(py))
    }

    /// Gives up on the response: see [`State::fail`].
    fn give_up(&self, status: StatusCode) {
        if let Some(status) = self.exchange.give_up(status) {
            self.log(status);
        }
    }
}

fn head(state: &State, headers: HeaderMap) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = state.response.status;
    *head.headers_mut() = headers;
    head
}

/// Refuses body bytes that do not fit the announced length, before any of them are
/// on their way. Errors name the message, or the call, `kind`.
pub(crate) fn check_length(state: &State, part: &Part, kind: &str) -> PyResult<()> {
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
        "{kind}: the body is {problem} than its content-length: {total} bytes, \
         not {declared}"
    )))
}

impl Outlet for Cycle {
    fn reactor(&self) -> PyResult<Rc<Reactor>> {
        reactor::serving(self.server)
    }

    fn take(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        message: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let (message, kind) = message::open(message)?;
        self.respond(py, reactor, kind.to_str()?, message)
    }
}

#[pymethods]
impl Cycle {
    /// Returns an awaitable of the next event: `http.request` or `http.disconnect`.
    fn receive(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let source = Source::Http(Arc::clone(&self.exchange));
        deferred::receive(py, source, self.reactor().is_ok())
    }

    /// Takes an event of the application and returns an awaitable, which is done when
    /// more may be sent.
    fn send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        deferred::send(slf, message)
    }

    /// What an RSGI application is called with.
    fn protocol(slf: &Bound<'_, Self>) -> HttpProtocol {
        HttpProtocol::new(slf)
    }

    /// The application has raised; `scope` is what it was called with.
    pub(super) fn fail(&self, py: Python<'_>, error: &Bound<'_, PyAny>, scope: &Bound<'_, PyAny>) {
        // A request that has outlived its worker's serving has nobody to answer to.
        let Ok(reactor) = self.reactor() else {
            return;
        };
        let gone = self.exchange.lock().closed;
        let was_cancelled = self.timed_out.load(Relaxed) || self.exchange.is_orphan();
        let cancelled = was_cancelled && error.is_instance_of::<CancelledError>();
        if reactor.is_stopping() || cancelled || (gone && reactor.is_disconnect(error)) {
            tracing::debug!("a request ended early: {error}");
        } else {
            reactor.report(error, scope);
        }
        let status = if cancelled && self.exchange.is_orphan() {
            client_closed_request()
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        self.give_up(status);
        self.end(&reactor, py);
    }

    /// Gives the application so many seconds more than `--request-timeout`: the
    /// `extend` of the scope's extension `rsgun.timeout`, for any thread.
    fn extend(&self, seconds: f64) -> PyResult<()> {
        let more = Duration::try_from_secs_f64(seconds).map_err(|_| {
            PyValueError::new_err(format!("{seconds} is not a number of seconds to add"))
        })?;
        let milliseconds = u64::try_from(more.as_millis()).unwrap_or(u64::MAX);
        self.exchange.extend_deadline(milliseconds);
        Ok(())
    }

    /// The application has returned.
    pub(super) fn finish(&self, py: Python<'_>) {
        let Ok(reactor) = self.reactor() else {
            return;
        };
        if reactor.has_ended_streams() {
            self.end_events();
        }
        let (problem, disconnected) = {
            let state = self.exchange.lock();
            let problem = match state.response.stage {
                Stage::Complete | Stage::Failed => None,
                Stage::Streaming if self.has_transport.load(Relaxed) => None,
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
            self.give_up(StatusCode::INTERNAL_SERVER_ERROR);
        }
        self.end(&reactor, py);
    }
}

/// What nginx logs for a request whose client did not wait for the answer.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

pub(super) fn unexpected(kind: &str, why: &str) -> PyErr {
    PyRuntimeError::new_err(format!("unexpected ASGI message \"{kind}\": {why}"))
}

pub(super) fn gone(py: Python<'_>) -> PyErr {
    match reactor::current() {
        Ok(reactor) => reactor.disconnected_error(py),
        Err(error) => error,
    }
}
