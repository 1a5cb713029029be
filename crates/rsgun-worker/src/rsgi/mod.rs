//! RSGI 1.6, the interface of granian: `app(scope, protocol)`.
//!
//! An application is called in a task, as one of ASGI is, and a request or WebSocket is
//! the same object here: a [`Cycle`](crate::asgi::cycle::Cycle) or
//! [`Socket`](crate::asgi::socket::Socket), with the same exchange, session, time-outs and
//! counts behind it. What is different is what the application holds: objects with methods
//! instead of messages.
//!
//! ```text
//!  scope      Scope, Headers      what was asked for, made into Python objects on demand
//!  protocol   HttpProtocol        the body; the response, whole or as a StreamTransport
//!             WebSocketProtocol   accept() → WebSocketTransport, close()
//! ```
//!
//! The methods that answer are no coroutines, and applications call them on threads of
//! their own as well: an exchange can be answered on any thread. The others are awaited on
//! the event loop's thread and put off until then when they are called elsewhere, as
//! `receive()` and `send()` of ASGI are.
//!
//! What is raised, and what is called before and after serving, is in `rsgi.py`.

mod body;
mod head;
mod headers;
mod http;
pub(crate) mod scope;
mod websocket;

use pyo3::prelude::*;

pub(crate) use self::body::{Intake, leave, part, whole};
pub(crate) use self::http::HttpProtocol;
pub(crate) use self::websocket::{WebSocketProtocol, message};
use crate::glue;

/// Adds the classes that applications see to the extension, and where their errors are.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(errors, module)?)?;
    module.add_class::<scope::Scope>()?;
    module.add_class::<headers::Headers>()?;
    module.add_class::<HttpProtocol>()?;
    module.add_class::<http::StreamTransport>()?;
    module.add_class::<WebSocketProtocol>()?;
    module.add_class::<websocket::WebSocketTransport>()?;
    module.add_class::<websocket::Message>()
}

/// The module of what is raised to applications.
#[pyfunction]
#[pyo3(name = "_rsgi_errors")]
fn errors(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    glue::rsgi(py)
}

/// The `ProtocolError` for a call that does not fit what was called before.
fn misuse(py: Python<'_>, text: &str) -> PyErr {
    raised(py, "misuse", text)
}

/// The `ProtocolClosed` of a call that cannot reach the client any more.
fn closed(py: Python<'_>) -> PyErr {
    raised(py, "closed", "the client has closed the connection")
}

fn raised(py: Python<'_>, function: &str, text: &str) -> PyErr {
    let error = glue::rsgi(py).and_then(|module| module.call_method1(function, (text,)));
    match error {
        Ok(error) => PyErr::from_value(error),
        Err(problem) => problem,
    }
}
