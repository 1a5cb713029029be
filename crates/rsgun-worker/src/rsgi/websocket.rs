//! The protocol object of a WebSocket.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use rsgun_websocket::{Kind, close};

use super::{closed, misuse};
use crate::asgi::awaitable::{self, Source};
use crate::asgi::deferred::{self, Outlet};
use crate::asgi::message;
use crate::asgi::session::{Received, SharedSession, Stage};
use crate::asgi::socket::Socket;
use crate::asgi::socket_message::Accept;
use crate::reactor::{self, Reactor};

/// Values of [`Message::kind`].
const CLOSE: u8 = 0;
const BYTES: u8 = 1;
const TEXT: u8 = 2;

/// `protocol` of a WebSocket.
#[pyclass(frozen, name = "RSGIWebsocketProtocol", module = "rsgun._rsgun")]
pub(crate) struct WebSocketProtocol(Py<Socket>);

/// What `accept()` leads to.
#[pyclass(frozen, name = "RSGIWebsocketTransport", module = "rsgun._rsgun")]
pub(crate) struct WebSocketTransport(Py<Socket>);

/// What `receive()` leads to.
#[pyclass(frozen, name = "RSGIWebsocketMessage", module = "rsgun._rsgun")]
pub(crate) struct Message {
    /// 0: the WebSocket is closed; 1: bytes; 2: text.
    #[pyo3(get)]
    kind: u8,
    /// `bytes`, `str`, or None.
    #[pyo3(get)]
    data: Option<Py<PyAny>>,
}

impl WebSocketProtocol {
    pub(crate) fn new(socket: &Bound<'_, Socket>) -> Self {
        Self(socket.clone().unbind())
    }
}

#[pymethods]
impl WebSocketProtocol {
    /// Accepts the WebSocket; returns an awaitable of its transport.
    fn accept(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let socket = self.0.clone_ref(py);
        let accept = move |py: Python<'_>| {
            let reactor = socket.get().reactor()?;
            let stage = socket.get().session.lock().stage;
            if stage != Stage::Handshake {
                let text = "accept(): the WebSocket has been accepted or closed already";
                return Err(misuse(py, text));
            }
            socket.get().accept(py, &reactor, Accept::default())?;
            reactor.after_send(py, 0);
            let transport = Bound::new(py, WebSocketTransport(socket))?;
            awaitable::ready(py, transport.into_any().unbind())
        };
        if self.0.get().reactor().is_ok() {
            accept(py)
        } else {
            deferred::later(py, accept)
        }
    }

    /// Closes the WebSocket with `status`. One that was not accepted is refused: `status` is
    /// one of HTTP then, 403 if it cannot be.
    #[pyo3(signature = (status=None))]
    fn close(&self, py: Python<'_>, status: Option<i64>) -> PyResult<()> {
        let socket = self.0.get();
        let reactor = socket.reactor()?;
        let stage = socket.session.lock().stage;
        match stage {
            Stage::Handshake => socket.reject(refusal(status)),
            Stage::Open => socket.close(py, &reactor, code(status), String::new())?,
            // It is closed, which is what was asked for.
            Stage::Rejected | Stage::ClosedHere | Stage::ClosedThere => {}
        }
        reactor.after_send(py, 0);
        Ok(())
    }
}

fn refusal(status: Option<i64>) -> StatusCode {
    status
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| (300..=599).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::FORBIDDEN)
}

/// The code of a close frame. Frameworks give a status of HTTP as well, whether or not the
/// WebSocket was accepted.
fn code(status: Option<i64>) -> u16 {
    match status.and_then(|status| u16::try_from(status).ok()) {
        Some(code) if close::is_sendable(code) => code,
        Some(400..=499) => close::POLICY_VIOLATION,
        Some(500..=599) => close::INTERNAL_ERROR,
        _ => close::NORMAL,
    }
}

#[pymethods]
impl WebSocketTransport {
    /// Returns an awaitable of the next message.
    fn receive(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let socket = self.0.get();
        let source = Source::Message(Arc::clone(&socket.session));
        deferred::receive(py, source, socket.reactor().is_ok())
    }

    /// Sends bytes; returns an awaitable, which is done when more may be sent.
    fn send_bytes(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        deferred::send(slf, data)
    }

    /// The same for text.
    fn send_str(slf: &Bound<'_, Self>, data: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        deferred::send(slf, data.as_any())
    }
}

impl Outlet for WebSocketTransport {
    fn reactor(&self) -> PyResult<Rc<Reactor>> {
        self.0.get().reactor()
    }

    fn take(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let (kind, data) = match data.cast::<PyString>() {
            Ok(text) => {
                let text = Bytes::copy_from_slice(text.to_str()?.as_bytes());
                (Kind::Text, text)
            }
            Err(_) => {
                let data = message::take_bytes(data, "send_bytes(): data")?;
                (Kind::Binary, data)
            }
        };
        let stage = self.0.get().session.lock().stage;
        if stage == Stage::ClosedHere {
            let text = "the application has closed the WebSocket";
            return Err(misuse(py, text));
        }
        self.0.get().transmit(py, reactor, kind, data)
    }
}

/// The next message of a WebSocket; `None` while there is none.
pub(crate) fn message(py: Python<'_>, session: &SharedSession) -> PyResult<Option<Py<PyAny>>> {
    if session.lock().has_seen_end() {
        return Err(closed(py));
    }
    let (kind, data) = loop {
        let received = session.receive();
        reactor::current()?.after_send(py, 0);
        match received {
            // It was told of by the call of the application.
            Received::Connect => {}
            Received::Pending => return Ok(None),
            Received::Message(Kind::Text, data) => {
                break (TEXT, Some(PyString::from_bytes(py, &data)?.into_any()));
            }
            Received::Message(Kind::Binary, data) => {
                break (BYTES, Some(PyBytes::new(py, &data).into_any()));
            }
            Received::Disconnect(..) => break (CLOSE, None),
        }
    };
    let data = data.map(Bound::unbind);
    Ok(Some(Py::new(py, Message { kind, data })?.into_any()))
}
