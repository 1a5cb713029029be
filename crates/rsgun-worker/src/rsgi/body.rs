//! The body of a request as RSGI applications take it: whole, or part by part.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{closed, misuse};
use crate::asgi::awaitable;
use crate::asgi::exchange::{Received, SharedExchange, Stage};

/// The body of one request, and how far it was taken.
pub(crate) struct Intake {
    pub(crate) exchange: SharedExchange,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// What has arrived for a call that wants all of it. A call that is cancelled while it
    /// waits leaves it to the next one.
    parts: BytesMut,
    /// It is taken part by part.
    by_parts: bool,
    /// All of it was taken.
    is_over: bool,
}

impl Intake {
    pub(super) fn new(exchange: SharedExchange) -> Self {
        Self {
            exchange,
            progress: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of it can be taken at once.
    ///
    /// # Errors
    /// `ProtocolError` if that was begun in another way, or is done.
    pub(super) fn expect_whole(&self, py: Python<'_>) -> PyResult<()> {
        let progress = self.lock();
        if progress.by_parts || progress.is_over {
            drop(progress);
            return Err(misuse(py, "the body of the request has been taken already"));
        }
        Ok(())
    }

    /// From now on it is taken part by part.
    ///
    /// # Errors
    /// `ProtocolError` if that was begun before.
    pub(super) fn begin_parts(&self, py: Python<'_>) -> PyResult<()> {
        self.expect_whole(py)?;
        self.lock().by_parts = true;
        Ok(())
    }

    /// Whether the next part can be asked for.
    ///
    /// # Errors
    /// `ProtocolError` unless it is taken part by part, `StopAsyncIteration` at its end.
    pub(super) fn expect_part(&self, py: Python<'_>) -> PyResult<()> {
        let progress = self.lock();
        let (by_parts, is_over) = (progress.by_parts, progress.is_over);
        drop(progress);
        match (by_parts, is_over) {
            (false, _) => Err(misuse(py, "the body is iterated over with `async for`")),
            (true, true) => Err(PyStopAsyncIteration::new_err(())),
            (true, false) => Ok(()),
        }
    }
}

/// All of the body; `None` while more has to arrive.
pub(crate) fn whole(py: Python<'_>, intake: &Intake) -> PyResult<Option<Py<PyAny>>> {
    loop {
        match awaitable::take(py, &intake.exchange)? {
            Received::Pending => return Ok(None),
            Received::Disconnect => return Err(closed(py)),
            Received::Body(data, more) => {
                let mut progress = intake.lock();
                if more {
                    progress.parts.extend_from_slice(&data);
                    continue;
                }
                progress.is_over = true;
                let parts = std::mem::take(&mut progress.parts);
                drop(progress);
                if parts.is_empty() {
                    return Ok(Some(PyBytes::new(py, &data).into_any().unbind()));
                }
                let body = [parts.as_ref(), data.as_ref()].concat();
                return Ok(Some(PyBytes::new(py, &body).into_any().unbind()));
            }
        }
    }
}

/// The next part of the body; `None` while it has to arrive.
pub(crate) fn part(py: Python<'_>, intake: &Intake) -> PyResult<Option<Py<PyAny>>> {
    match awaitable::take(py, &intake.exchange)? {
        Received::Pending => Ok(None),
        Received::Disconnect => Err(closed(py)),
        Received::Body(data, more) => {
            intake.lock().is_over = !more;
            if data.is_empty() && !more {
                return Err(PyStopAsyncIteration::new_err(()));
            }
            Ok(Some(PyBytes::new(py, &data).into_any().unbind()))
        }
    }
}

/// Python's None when the client has left, or has its answer; `None` before.
pub(crate) fn leave(py: Python<'_>, exchange: &SharedExchange) -> Option<Py<PyAny>> {
    let state = exchange.lock();
    let is_over =
        state.disconnected || state.closed || matches!(state.response.stage, Stage::Failed);
    is_over.then(|| py.None())
}
