//! The protocol object of a request: takes its body, and answers it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue};
use http::{Response, StatusCode};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::body::Intake;
use super::{closed, head, misuse};
use crate::asgi::awaitable::{self, Source};
use crate::asgi::cycle::{Cycle, check_length};
use crate::asgi::deferred::{self, Outlet};
use crate::asgi::exchange::{Stage, State};
use crate::asgi::message::{self, Part, Start};
use crate::http::access_log;
use crate::http::body::ResponseBody;
use crate::http::file_part::FilePart;

/// `protocol` of a request.
#[pyclass(frozen, name = "RSGIHTTPProtocol", module = "rsgun._rsgun")]
pub(crate) struct HttpProtocol {
    cycle: Py<Cycle>,
    intake: Arc<Intake>,
}

/// What `response_stream()` returns. The body ends when nobody holds it any more: at the
/// end of the application as a rule, or of another task that goes on with it.
#[pyclass(frozen, name = "RSGIHTTPStreamTransport", module = "rsgun._rsgun")]
pub(crate) struct StreamTransport {
    cycle: Py<Cycle>,
}

#[pymethods]
impl HttpProtocol {
    /// Returns an awaitable of the whole body.
    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.intake.expect_whole(py)?;
        self.receive(py, Source::Body(Arc::clone(&self.intake)))
    }

    fn __aiter__(slf: Py<Self>, py: Python<'_>) -> PyResult<Py<Self>> {
        slf.get().intake.begin_parts(py)?;
        Ok(slf)
    }

    /// Returns an awaitable of the next part of the body.
    fn __anext__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.intake.expect_part(py)?;
        self.receive(py, Source::Part(Arc::clone(&self.intake)))
    }

    /// Returns an awaitable that is done when the client has left, or has its answer.
    fn client_disconnect(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.receive(py, Source::Leave(Arc::clone(&self.intake.exchange)))
    }

    /// Answers without a body.
    #[pyo3(
        signature = (status=None, headers=None),
        text_signature = "($self, status=200, headers=())"
    )]
    fn response_empty(
        &self,
        py: Python<'_>,
        status: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let start = self.head("response_empty()", status, headers)?;
        self.respond(py, "response_empty()", start, Bytes::new())
    }

    /// Answers with text.
    #[pyo3(
        signature = (status=None, headers=None, body=None),
        text_signature = "($self, status=200, headers=(), body='')"
    )]
    fn response_str(
        &self,
        py: Python<'_>,
        status: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
        body: Option<&Bound<'_, PyString>>,
    ) -> PyResult<()> {
        let start = self.head("response_str()", status, headers)?;
        let text = body.map_or(Ok(""), |text| text.to_str())?;
        let data = Bytes::copy_from_slice(text.as_bytes());
        self.respond(py, "response_str()", start, data)
    }

    /// Answers with bytes.
    #[pyo3(
        signature = (status=None, headers=None, body=None),
        text_signature = "($self, status=200, headers=(), body=b'')"
    )]
    fn response_bytes(
        &self,
        py: Python<'_>,
        status: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
        body: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let start = self.head("response_bytes()", status, headers)?;
        let data = match body {
            Some(body) => message::take_bytes(body, "response_bytes(): body")?,
            None => Bytes::new(),
        };
        self.respond(py, "response_bytes()", start, data)
    }

    /// Answers with a file; with 404 if there is no such file.
    #[expect(clippy::needless_pass_by_value, reason = "an argument from Python")]
    fn response_file(
        &self,
        py: Python<'_>,
        status: &Bound<'_, PyAny>,
        headers: &Bound<'_, PyAny>,
        file: PathBuf,
    ) -> PyResult<()> {
        let start = self.head("response_file()", Some(status), Some(headers))?;
        self.respond_with_file(py, "response_file()", start, &file, None);
        Ok(())
    }

    /// Answers with the bytes of a file from `start` on and before `end`; with 416 if it
    /// ends before `start`.
    #[expect(clippy::needless_pass_by_value, reason = "an argument from Python")]
    fn response_file_range(
        &self,
        py: Python<'_>,
        status: &Bound<'_, PyAny>,
        headers: &Bound<'_, PyAny>,
        file: PathBuf,
        start: u64,
        end: u64,
    ) -> PyResult<()> {
        let call = "response_file_range()";
        let head = self.head(call, Some(status), Some(headers))?;
        if start >= end {
            return Err(PyValueError::new_err(format!(
                "{call}: the range must end after its start: from {start} to before {end}"
            )));
        }
        self.respond_with_file(py, call, head, &file, Some((start, end)));
        Ok(())
    }

    /// Begins an answer whose body is sent through the transport that is returned.
    #[pyo3(
        signature = (status=None, headers=None),
        text_signature = "($self, status=200, headers=())"
    )]
    fn response_stream(
        &self,
        py: Python<'_>,
        status: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<StreamTransport> {
        let start = self.head("response_stream()", status, headers)?;
        let cycle = self.cycle.get();
        let state = cycle.exchange.lock();
        match state.response.stage {
            Stage::Waiting => {
                if !state.closed {
                    cycle.expect_transport();
                    self.begin(py, state, start, Bytes::new(), true);
                }
            }
            // What is sent through it has nobody to reach.
            Stage::Failed => {}
            Stage::Head(_) | Stage::Streaming | Stage::Complete => {
                drop(state);
                return Err(misuse(
                    py,
                    "response_stream(): the response has begun already",
                ));
            }
        }
        Ok(StreamTransport {
            cycle: self.cycle.clone_ref(py),
        })
    }
}

impl HttpProtocol {
    pub(crate) fn new(cycle: &Bound<'_, Cycle>) -> Self {
        Self {
            intake: Arc::new(Intake::new(Arc::clone(&cycle.get().exchange))),
            cycle: cycle.clone().unbind(),
        }
    }

    fn head(
        &self,
        call: &str,
        status: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Start> {
        head::parse(&self.cycle.get().exchange, call, status, headers)
    }

    fn receive(&self, py: Python<'_>, source: Source) -> PyResult<Py<PyAny>> {
        deferred::receive(py, source, self.cycle.get().reactor().is_ok())
    }

    fn respond(&self, py: Python<'_>, call: &str, start: Start, data: Bytes) -> PyResult<()> {
        let mut state = self.cycle.get().exchange.lock();
        if !may_answer(&state, call) {
            return Ok(());
        }
        state.response.bodiless = start.bodiless;
        state.response.declared = start.declared;
        let part = Part { data, more: false };
        check_length(&state, &part, call)?;
        self.begin(py, state, start, part.data, false);
        Ok(())
    }

    fn respond_with_file(
        &self,
        py: Python<'_>,
        call: &str,
        mut start: Start,
        path: &Path,
        range: Option<(u64, u64)>,
    ) {
        let cycle = self.cycle.get();
        let opened = FilePart::open(path)
            .and_then(|file| file.ok_or_else(|| io::Error::other("it is not a regular file")));
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                tracing::info!("{call}: cannot open {}: {error}", path.display());
                self.refuse(py, call, StatusCode::NOT_FOUND, None);
                return;
            }
        };
        let size = file.left();
        let (from, to) = range.map_or((0, size), |(from, end)| (from, end.min(size)));
        if range.is_some() && from >= size {
            let size = format!("bytes */{size}");
            self.refuse(py, call, StatusCode::RANGE_NOT_SATISFIABLE, Some(size));
            return;
        }
        let headers = &mut start.headers;
        // The file may have changed since the application has looked at it.
        headers.remove(CONTENT_LENGTH);
        if start.status == StatusCode::PARTIAL_CONTENT && !headers.contains_key(CONTENT_RANGE) {
            let last = to.saturating_sub(1);
            if let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{last}/{size}")) {
                headers.insert(CONTENT_RANGE, value);
            }
        }
        let mut state = cycle.exchange.lock();
        if !may_answer(&state, call) {
            return;
        }
        let (status, mut head) = (start.status, Response::new(()));
        *head.status_mut() = status;
        *head.headers_mut() = start.headers;
        let part = file.between(from, to);
        cycle.exchange.begin_file(&mut state, head, part);
        drop(state);
        self.sent(py, status, 0);
    }

    /// Answers in the application's place.
    fn refuse(&self, py: Python<'_>, call: &str, status: StatusCode, range: Option<String>) {
        let text = status.canonical_reason().unwrap_or_default();
        let is_head = self.cycle.get().exchange.is_head;
        let mut answer = ResponseBody::plain(status, text, is_head);
        if let Some(value) = range.and_then(|range| HeaderValue::from_str(&range).ok()) {
            answer.headers_mut().insert(CONTENT_RANGE, value);
        }
        self.put(py, call, answer);
    }

    /// Hands a complete answer to the connection.
    fn put(&self, py: Python<'_>, call: &str, answer: Response<ResponseBody>) {
        let cycle = self.cycle.get();
        let mut state = cycle.exchange.lock();
        if !may_answer(&state, call) {
            return;
        }
        let status = answer.status();
        state.response.status = status;
        state.response.stage = Stage::Complete;
        state.respond(answer);
        drop(state);
        self.sent(py, status, 0);
    }

    /// Sends the head, with all of the body unless there is `more`.
    fn begin(
        &self,
        py: Python<'_>,
        mut state: std::sync::MutexGuard<'_, State>,
        start: Start,
        data: Bytes,
        more: bool,
    ) {
        let length = data.len();
        state.response.status = start.status;
        state.response.declared = start.declared;
        state.response.sent = length as u64;
        let part = Part { data, more };
        self.cycle.get().begin(&mut state, start.headers, part);
        drop(state);
        self.sent(py, start.status, length);
    }

    /// The head is on its way: sees to the access log, and that it is written soon.
    fn sent(&self, py: Python<'_>, status: StatusCode, length: usize) {
        let cycle = self.cycle.get();
        cycle.log(status);
        match cycle.reactor() {
            Ok(reactor) => reactor.after_send(py, length),
            // The connection was woken. Each thread collects lines of its own.
            Err(_) => access_log::flush(),
        }
    }
}

/// Whether an answer is still wanted. granian, too, ignores one that comes too late.
fn may_answer(state: &State, call: &str) -> bool {
    match state.response.stage {
        Stage::Waiting => !state.closed,
        Stage::Failed => false,
        Stage::Head(_) | Stage::Streaming | Stage::Complete => {
            if !state.closed {
                tracing::warn!(
                    "{call} is ignored: the application has answered this request before"
                );
            }
            false
        }
    }
}

#[pymethods]
impl StreamTransport {
    /// Sends bytes; returns an awaitable, which is done when more may be sent.
    fn send_bytes(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        deferred::send(slf, data)
    }

    /// The same for text.
    fn send_str(slf: &Bound<'_, Self>, data: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        deferred::send(slf, data.as_any())
    }
}

impl Outlet for StreamTransport {
    fn reactor(&self) -> PyResult<std::rc::Rc<crate::reactor::Reactor>> {
        self.cycle.get().reactor()
    }

    fn take(
        &self,
        py: Python<'_>,
        reactor: &crate::reactor::Reactor,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let data = match data.cast::<PyString>() {
            Ok(text) => Bytes::copy_from_slice(text.to_str()?.as_bytes()),
            Err(_) => message::take_bytes(data, "send_bytes(): data")?,
        };
        let exchange = &self.cycle.get().exchange;
        let mut state = exchange.lock();
        if state.closed || !matches!(state.response.stage, Stage::Streaming) {
            drop(state);
            return Err(closed(py));
        }
        let part = Part { data, more: true };
        check_length(&state, &part, "send_bytes()")?;
        let length = part.data.len();
        state.response.sent += length as u64;
        let waits = !state.response.bodiless && state.push(part.data);
        drop(state);
        let sent = if waits {
            awaitable::room(py, &Source::Http(Arc::clone(exchange)))?
        } else {
            reactor.done(py)
        };
        reactor.after_send(py, length);
        Ok(sent)
    }
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        self.cycle.get().end_stream();
    }
}
