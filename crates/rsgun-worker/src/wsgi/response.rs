//! `start_response`, and how an answer gets from the application to the connection.
//!
//! The head is held back until the first bytes of the body (PEP 3333, "The
//! `start_response()` Callable"), so that an application can replace it until then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::head::{self, header, is_hop_by_hop};
use super::pool::Pool;
use crate::asgi::exchange::{SharedExchange, Stage};
use crate::asgi::message;
use crate::http::file_part::FilePart;
use crate::http::handover::Handover;

/// Why nothing more can be sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The client has left, was answered by the server because of a time-out, or by the
    /// application on its socket.
    Gone,
    /// The application has done something wrong.
    Wrong(PyErr),
}

impl From<PyErr> for Unsent {
    fn from(error: PyErr) -> Self {
        Self::Wrong(error)
    }
}

/// The callable `start_response` of one request.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct StartResponse {
    exchange: SharedExchange,
    pool: Arc<Pool>,
    head: Mutex<Head>,
    /// The error of `write()` when the client is gone.
    gone: Py<PyAny>,
    /// Where the application may answer by itself instead.
    handover: Option<Arc<Handover>>,
}

#[derive(Debug, Default)]
struct Head {
    /// Given, but not yet sent.
    waiting: Option<Response<()>>,
    declared: Option<u64>,
    started: bool,
    sent: bool,
    /// Bytes of the body so far.
    length: u64,
}

#[pymethods]
impl StartResponse {
    #[pyo3(signature = (status, headers, exc_info=None))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let exc_info = exc_info.filter(|given| !given.is_none());
        {
            let head = this.lock();
            if let Some(exc_info) = exc_info {
                if head.sent {
                    drop(head);
                    return Err(raised(exc_info)?);
                }
            } else if head.started {
                return Err(PyRuntimeError::new_err(
                    "start_response() was called before; only an error handler may call it \
                     again, with exc_info",
                ));
            }
        }
        let (response, declared) = head::parse(status, headers)?;
        let mut head = this.lock();
        head.waiting = Some(response);
        head.declared = declared;
        head.started = true;
        drop(head);
        slf.getattr(pyo3::intern!(py, "write"))
    }

    /// Sends bytes at once: for applications that know no other way.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = message::take_bytes(data, "write(): data")?;
        match self.send(py, data, false) {
            Ok(()) => Ok(()),
            Err(Unsent::Wrong(error)) => Err(error),
            Err(Unsent::Gone) => Err(PyErr::from_value(
                self.gone
                    .bind(py)
                    .call1(("the client has closed the connection",))?,
            )),
        }
    }

    /// Sends `103 Early Hints` with these headers (RFC 8297), which browsers load links
    /// from while the application works on its answer.
    fn early_hints(&self, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut hints = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
        for pair in headers.try_iter()? {
            let (name, value) = header(&pair?)?;
            if is_hop_by_hop(&name) || name == CONTENT_LENGTH {
                continue;
            }
            hints.extend_from_slice(name.as_str().as_bytes());
            hints.extend_from_slice(b": ");
            hints.extend_from_slice(value.as_bytes());
            hints.extend_from_slice(b"\r\n");
        }
        hints.extend_from_slice(b"\r\n");
        self.exchange.inform(hints.into());
        self.pool.pending.announce();
        Ok(())
    }

    /// Gives this request so many seconds more than `--request-timeout`.
    fn extend(&self, seconds: f64) -> PyResult<()> {
        let more = std::time::Duration::try_from_secs_f64(seconds).map_err(|_| {
            PyValueError::new_err(format!("{seconds} is not a number of seconds to add"))
        })?;
        let milliseconds = u64::try_from(more.as_millis()).unwrap_or(u64::MAX);
        self.exchange.extend_deadline(milliseconds);
        Ok(())
    }
}

impl StartResponse {
    pub(crate) fn new(
        exchange: SharedExchange,
        pool: Arc<Pool>,
        gone: Py<PyAny>,
        handover: Option<Arc<Handover>>,
    ) -> Self {
        Self {
            exchange,
            pool,
            head: Mutex::default(),
            gone,
            handover,
        }
    }

    /// Whether the application has answered by itself, on the socket that it was lent.
    pub(crate) fn is_taken(&self) -> bool {
        let handover = self.handover.as_ref();
        handover.is_some_and(|handover| handover.is_taken(&self.exchange))
    }

    fn lock(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exchange that it answers.
    pub(crate) fn exchange(&self) -> &SharedExchange {
        &self.exchange
    }

    /// Whether the head is on its way.
    pub(crate) fn is_sent(&self) -> bool {
        self.lock().sent
    }

    /// Sends bytes of the body, and the head before the first of them. `whole` means that
    /// nothing follows.
    pub(crate) fn send(&self, py: Python<'_>, data: Bytes, whole: bool) -> Result<(), Unsent> {
        if self.is_taken() {
            return Err(Unsent::Gone);
        }
        let mut head = self.lock();
        if !head.started {
            return Err(wrong(
                "the application sends a body before it has called start_response()",
            ));
        }
        let total = head.length + data.len() as u64;
        let mut data = data;
        let mut problem = None;
        let waiting = head.waiting.take();
        let has_body = match &waiting {
            Some(response) => !self.exchange.has_no_body(response.status()),
            None => !self.exchange.lock().response.bodiless,
        };
        if let Some(declared) = head.declared.filter(|_| has_body) {
            if total > declared {
                let room = usize::try_from(declared - head.length).unwrap_or(usize::MAX);
                data.truncate(room);
                problem = Some(mismatch("longer", total, declared));
            } else if whole && total < declared {
                if waiting.is_none() {
                    self.exchange.give_up(StatusCode::INTERNAL_SERVER_ERROR);
                }
                return Err(mismatch("shorter", total, declared));
            }
        }
        head.length += data.len() as u64;
        let is_complete =
            whole || (has_body && head.declared == Some(head.length)) || problem.is_some();
        head.sent = true;
        let declared = head.declared;
        drop(head);
        match waiting {
            Some(response) => self.begin(py, response, declared, data, !is_complete)?,
            None => self.go_on(py, &data, is_complete)?,
        }
        self.pool.note_progress();
        if !whole {
            self.pool.pending.announce();
        }
        problem.map_or(Ok(()), Err)
    }

    fn begin(
        &self,
        py: Python<'_>,
        head: Response<()>,
        declared: Option<u64>,
        data: Bytes,
        more: bool,
    ) -> Result<(), Unsent> {
        let rest = {
            let mut state = self.exchange.lock();
            if state.closed || matches!(state.response.stage, Stage::Failed) {
                return Err(Unsent::Gone);
            }
            state.response.declared = declared;
            self.exchange.begin(&mut state, head, data, more)
        };
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            self.spool(py, &rest);
        }
        Ok(())
    }

    fn go_on(&self, py: Python<'_>, data: &Bytes, is_complete: bool) -> Result<(), Unsent> {
        let (gone, is_open) = {
            let state = self.exchange.lock();
            let is_open = matches!(state.response.stage, Stage::Streaming);
            let is_failed = matches!(state.response.stage, Stage::Failed);
            (is_failed || (state.closed && is_open), is_open)
        };
        if gone {
            return Err(Unsent::Gone);
        }
        if is_open && !data.is_empty() && !self.exchange.lock().response.bodiless {
            self.spool(py, data);
        }
        if is_open && is_complete {
            self.exchange.lock().complete();
        }
        Ok(())
    }

    fn spool(&self, py: Python<'_>, data: &Bytes) {
        if !self.exchange.hold(data) {
            py.detach(|| {
                self.pool.while_held_up(|| self.exchange.spool(data));
                // Another thread may have the interpreter for long.
                self.pool.pending.announce();
            });
        }
    }

    /// Sends a part of a file as the body, if nothing was sent yet. Returns the part if the
    /// application has not called `start_response`, or has written something.
    pub(crate) fn send_file(&self, part: FilePart) -> Result<(), Unsent> {
        if self.is_taken() {
            return Err(Unsent::Gone);
        }
        let mut head = self.lock();
        let Some(response) = head.waiting.take() else {
            return Err(wrong(
                "the application returns a file before it has called start_response()",
            ));
        };
        let part = part
            .fitted(head.declared)
            .map_err(|(has, declared)| mismatch("shorter", has, declared))?;
        head.sent = true;
        head.length = part.left();
        drop(head);
        let mut state = self.exchange.lock();
        if state.closed || matches!(state.response.stage, Stage::Failed) {
            return Err(Unsent::Gone);
        }
        self.exchange.begin_file(&mut state, response, part);
        Ok(())
    }
}

fn wrong(text: &'static str) -> Unsent {
    Unsent::Wrong(PyRuntimeError::new_err(text))
}

fn mismatch(how: &str, total: u64, declared: u64) -> Unsent {
    Unsent::Wrong(PyRuntimeError::new_err(format!(
        "the body is {how} than its Content-Length: {total} bytes, not {declared}"
    )))
}

/// The exception of an `exc_info`, to be raised again.
fn raised(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let value = exc_info.get_item(1)?;
    let traceback = exc_info.get_item(2)?;
    let error = value.call_method1(pyo3::intern!(exc_info.py(), "with_traceback"), (traceback,))?;
    Ok(PyErr::from_value(error))
}

/// The optional keys of the environ that belong to one request.
pub(crate) fn add_extensions(
    environ: &Bound<'_, PyDict>,
    start_response: &Bound<'_, StartResponse>,
    extends_timeouts: bool,
    is_http_1_0: bool,
) -> PyResult<()> {
    let py = environ.py();
    if !is_http_1_0 {
        let early_hints = start_response.getattr(pyo3::intern!(py, "early_hints"))?;
        environ.set_item(pyo3::intern!(py, "wsgi.early_hints"), early_hints)?;
    }
    if extends_timeouts {
        let extend = start_response.getattr(pyo3::intern!(py, "extend"))?;
        environ.set_item(pyo3::intern!(py, "rsgun.timeout.extend"), extend)?;
    }
    Ok(())
}
