//! `receive` and `send` of one WebSocket, and what becomes of it.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, StatusCode};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use rsgun_websocket::{Kind, close};

use super::awaitable::{self, Source};
use super::cycle::{Cycle, gone, unexpected};
use super::deferred::{self, Outlet};
use super::exchange::Stage as ResponseStage;
use super::message;
use super::session::{Received, SharedSession, Stage};
use super::socket_message::{self, Accept};
use crate::http::access_log;
use crate::http::body::ResponseBody;
use crate::reactor::{self, Reactor};
use crate::rsgi::WebSocketProtocol;

/// One call of the application: its `receive` and `send` callables.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Socket {
    pub(crate) session: SharedSession,
    /// The handshake, as the request that it is.
    request: Cycle,
    place: Mutex<Place>,
    /// The application has returned or raised.
    ended: AtomicBool,
}

/// Where the reactor keeps the task.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// Among the requests, during the handshake.
    Request(usize),
    /// Among the open WebSockets.
    Open(usize),
}

impl Socket {
    pub(crate) fn new(session: SharedSession, request: Cycle, entry: usize) -> Self {
        Self {
            session,
            request,
            place: Mutex::new(Place::Request(entry)),
            ended: AtomicBool::new(false),
        }
    }

    /// Where the task belongs; `None` when the application has returned or raised.
    pub(crate) fn place(&self) -> Option<Place> {
        let place = *self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let has_ended = self.ended.load(Relaxed) || self.request.has_ended();
        (!has_ended).then_some(place)
    }

    /// Answers the handshake with 101.
    pub(crate) fn accept(&self, py: Python<'_>, reactor: &Reactor, accept: Accept) -> PyResult<()> {
        self.expect_handshake("websocket.accept")?;
        {
            let exchange = self.session.exchange.lock();
            if exchange.closed || exchange.disconnected {
                drop(exchange);
                return Err(gone(py));
            }
        }
        let handshake = &self.session.handshake;
        let offered = &handshake.subprotocols;
        let subprotocol = accept.subprotocol.filter(|chosen| {
            let is_offered = offered.iter().any(|name| chosen == name.as_str());
            if !is_offered {
                // A browser would drop the connection over it (RFC 6455, 4.1).
                tracing::warn!(
                    "websocket.accept: the subprotocol {chosen:?} was not offered by the \
                     client, which goes without"
                );
            }
            is_offered
        });
        let mut headers = accept.headers;
        handshake.answer(&mut headers, subprotocol.as_ref());
        let mut answer = Response::new(ResponseBody::Empty);
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        self.session.lock().stage = Stage::Open;
        self.answer(answer);
        if let Some(entry) = self.request.take_log() {
            access_log::accepted(&entry);
        }
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Request(entry) = *place {
            let started_us = self.session.exchange.started_us;
            *place = Place::Open(reactor.accepted(entry, started_us));
        }
        Ok(())
    }

    /// Answers the handshake with a refusal.
    pub(crate) fn reject(&self, status: StatusCode) {
        self.session.lock().stage = Stage::Rejected;
        let text = status.canonical_reason().unwrap_or_default();
        self.answer(ResponseBody::plain(status, text, false));
        self.request.log(status);
    }

    /// Answers the handshake.
    fn answer(&self, answer: Response<ResponseBody>) {
        let mut exchange = self.session.exchange.lock();
        exchange.response.status = answer.status();
        exchange.response.stage = ResponseStage::Complete;
        exchange.respond(answer);
    }

    fn expect_handshake(&self, kind: &str) -> PyResult<()> {
        match self.session.lock().stage {
            Stage::Handshake => Ok(()),
            Stage::Rejected => Err(unexpected(kind, "the WebSocket has been rejected")),
            _ => Err(unexpected(kind, "the WebSocket has been accepted already")),
        }
    }

    /// Sends a message; returns the awaitable for the application.
    pub(crate) fn transmit(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        kind: Kind,
        data: Bytes,
    ) -> PyResult<Py<PyAny>> {
        let length = data.len();
        let mut state = self.session.lock();
        let problem = match state.stage {
            Stage::Open => None,
            Stage::Handshake => Some("websocket.accept comes first"),
            Stage::Rejected => Some("the WebSocket has been rejected"),
            Stage::ClosedHere => Some("the application has closed the WebSocket"),
            Stage::ClosedThere => {
                drop(state);
                return Err(gone(py));
            }
        };
        if let Some(problem) = problem {
            return Err(unexpected("websocket.send", problem));
        }
        let wait = state.send(kind, data);
        drop(state);
        if !wait {
            reactor.after_send(py, length);
            return Ok(reactor.done(py));
        }
        let room = awaitable::room(py, &Source::WebSocket(Arc::clone(&self.session)))?;
        reactor.after_send(py, length);
        Ok(room)
    }

    /// Closes the WebSocket, or refuses the handshake.
    pub(crate) fn close(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        code: u16,
        reason: String,
    ) -> PyResult<()> {
        let mut state = self.session.lock();
        match state.stage {
            Stage::Handshake => {
                drop(state);
                self.reject(StatusCode::FORBIDDEN);
            }
            Stage::Open => {
                state.close(code, reason);
                drop(state);
                reactor.wake_session(py, &self.session);
            }
            // It is closed already, which is what was asked for.
            Stage::ClosedThere => {}
            Stage::Rejected | Stage::ClosedHere => {
                return Err(unexpected(
                    "websocket.close",
                    "the application has closed the WebSocket already",
                ));
            }
        }
        Ok(())
    }

    /// Ends an open WebSocket; the application is through with it.
    fn end(&self, py: Python<'_>, reactor: &Reactor, index: usize, code: u16) {
        self.ended.store(true, Relaxed);
        {
            let mut state = self.session.lock();
            if state.has_end() {
                state.see_end();
            } else if state.stage == Stage::Open {
                state.close(code, String::new());
            }
        }
        reactor.left(py, index);
        reactor.wake_session(py, &self.session);
        reactor.after_send(py, 0);
    }

    fn open_place(&self) -> Option<usize> {
        match *self.place.lock().unwrap_or_else(PoisonError::into_inner) {
            Place::Open(index) => Some(index),
            Place::Request(_) => None,
        }
    }
}

impl Outlet for Socket {
    fn reactor(&self) -> PyResult<Rc<Reactor>> {
        self.request.reactor()
    }

    fn take(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        message: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let (message, kind) = message::open(message)?;
        match kind.to_str()? {
            "websocket.send" => {
                let (kind, data) = socket_message::data(message)?;
                return self.transmit(py, reactor, kind, data);
            }
            "websocket.accept" => self.accept(py, reactor, Accept::parse(message)?)?,
            "websocket.close" => {
                let (code, reason) = socket_message::close(message)?;
                self.close(py, reactor, code, reason)?;
            }
            kind @ "websocket.http.response.start" => {
                self.expect_handshake(kind)?;
                let part = "http.response.start";
                let taken = self.request.respond(py, reactor, part, message)?;
                self.session.lock().stage = Stage::Rejected;
                return Ok(taken);
            }
            "websocket.http.response.body" => {
                let part = "http.response.body";
                return self.request.respond(py, reactor, part, message);
            }
            other => {
                return Err(PyRuntimeError::new_err(format!(
                    "unknown ASGI message \"{other}\""
                )));
            }
        }
        reactor.after_send(py, 0);
        Ok(reactor.done(py))
    }
}

#[pymethods]
impl Socket {
    /// Returns an awaitable of the next event: `websocket.connect`,
    /// `websocket.receive` or `websocket.disconnect`.
    fn receive(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let source = Source::WebSocket(Arc::clone(&self.session));
        deferred::receive(py, source, self.reactor().is_ok())
    }

    /// Takes an event of the application and returns an awaitable, which is done when
    /// more may be sent.
    fn send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        deferred::send(slf, message)
    }

    /// What an RSGI application is called with.
    fn protocol(slf: &Bound<'_, Self>) -> WebSocketProtocol {
        WebSocketProtocol::new(slf)
    }

    /// The application has raised; `scope` is what it was called with.
    fn fail(&self, py: Python<'_>, error: &Bound<'_, PyAny>, scope: &Bound<'_, PyAny>) {
        let Some(index) = self.open_place() else {
            self.request.fail(py, error, scope);
            return;
        };
        // A WebSocket that has outlived its worker's serving has nobody to tell.
        let Ok(reactor) = self.request.reactor() else {
            return;
        };
        let is_over = self.session.lock().has_end();
        if reactor.is_stopping() || (is_over && reactor.is_disconnect(error)) {
            tracing::debug!("a WebSocket ended early: {error}");
        } else {
            reactor.report(error, scope);
        }
        self.end(py, &reactor, index, close::INTERNAL_ERROR);
    }

    /// The application has returned.
    fn finish(&self, py: Python<'_>) {
        match (self.open_place(), self.request.reactor()) {
            (None, _) => self.request.finish(py),
            (Some(index), Ok(reactor)) => self.end(py, &reactor, index, close::NORMAL),
            (Some(_), Err(_)) => {}
        }
    }
}

/// The message of what is there for a `receive()`; `None` for nothing. The
/// connection, which may read on now, gets its turn.
pub(super) fn event(py: Python<'_>, session: &SharedSession) -> PyResult<Option<Py<PyAny>>> {
    let received = session.receive();
    reactor::current()?.after_send(py, 0);
    let message = PyDict::new(py);
    let kind = pyo3::intern!(py, "type");
    match received {
        Received::Pending => return Ok(None),
        Received::Connect => message.set_item(kind, pyo3::intern!(py, "websocket.connect"))?,
        Received::Message(form, data) => {
            message.set_item(kind, pyo3::intern!(py, "websocket.receive"))?;
            match form {
                Kind::Text => {
                    let text = PyString::from_bytes(py, &data)?;
                    message.set_item(pyo3::intern!(py, "text"), text)?;
                }
                Kind::Binary => {
                    let bytes = PyBytes::new(py, &data);
                    message.set_item(pyo3::intern!(py, "bytes"), bytes)?;
                }
            }
        }
        Received::Disconnect(code, reason) => {
            message.set_item(kind, pyo3::intern!(py, "websocket.disconnect"))?;
            message.set_item(pyo3::intern!(py, "code"), code)?;
            message.set_item(pyo3::intern!(py, "reason"), reason)?;
        }
    }
    Ok(Some(message.into_any().unbind()))
}
