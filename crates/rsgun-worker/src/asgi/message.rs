//! The messages that an application sends, checked.
//!
//! Nothing of an illegal message reaches the wire: it raises in the application's
//! `send()`, whose traceback then shows where it was made.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};
use nix::errno::Errno;
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyString};

use super::exchange::Exchange;
use crate::http::file_part::FilePart;
use crate::reactor::queue::{self, Discarded};

/// What errors call the first message.
const START: &str = "http.response.start";

/// Bodies from this size on go out straight from Python's memory; below it a copy
/// is cheaper than giving the object back later.
const COPY_BELOW: usize = 4096;

/// `http.response.start`, and what stands for it elsewhere.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The value of `Content-Length`.
    pub(crate) declared: Option<u64>,
    /// No body goes out, whatever the application sends.
    pub(crate) bodiless: bool,
    /// Server-sent events.
    pub(crate) is_event_stream: bool,
}

/// `http.response.body`.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) data: Bytes,
    pub(crate) more: bool,
}

impl Start {
    /// Reads the message (ASGI HTTP, "Response Start").
    ///
    /// # Errors
    /// `TypeError` and `ValueError` that name the key and the value.
    pub(crate) fn parse(message: &Bound<'_, PyDict>, exchange: &Exchange) -> PyResult<Self> {
        let py = message.py();
        let status = message
            .get_item(pyo3::intern!(py, "status"))?
            .ok_or_else(|| PyValueError::new_err("http.response.start without \"status\""))?;
        let mut start = Self::new(Self::status(&status, START)?, exchange);
        let Some(headers) = message.get_item(pyo3::intern!(py, "headers"))? else {
            return Ok(start);
        };
        if let Ok(list) = headers.cast_exact::<PyList>() {
            start.headers.reserve(list.len() + 1);
            for header in list.iter() {
                start.add(&header)?;
            }
        } else {
            for header in headers.try_iter()? {
                start.add(&header?)?;
            }
        }
        Ok(start)
    }

    /// A head without headers.
    pub(crate) fn new(status: StatusCode, exchange: &Exchange) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            declared: None,
            bodiless: exchange.has_no_body(status),
            is_event_stream: false,
        }
    }

    /// Reads a status; errors name the message, or the call, `kind`.
    ///
    /// # Errors
    /// `ValueError` for what is no status of a final response.
    pub(crate) fn status(status: &Bound<'_, PyAny>, kind: &str) -> PyResult<StatusCode> {
        let number = status
            .cast::<PyInt>()
            .ok()
            .and_then(|number| number.extract::<u16>().ok())
            .filter(|number| (200..=999).contains(number));
        let Some(status) = number.and_then(|number| StatusCode::from_u16(number).ok()) else {
            return Err(PyValueError::new_err(format!(
                "{kind}: status must be an integer from 200 to 999, not {}",
                status.repr()?
            )));
        };
        Ok(status)
    }

    fn add(&mut self, header: &Bound<'_, PyAny>) -> PyResult<()> {
        let (name, value) = self::header(header, START)?;
        self.put(name, value, START)
    }

    /// Adds a header.
    ///
    /// # Errors
    /// `ValueError` for a length that is none, or another one than before, unless there is no
    /// body that either could be wrong about.
    pub(crate) fn put(&mut self, name: HeaderName, value: HeaderValue, kind: &str) -> PyResult<()> {
        if name == CONTENT_LENGTH {
            return self.set_length(&value, kind);
        }
        if name == CONTENT_TYPE {
            self.is_event_stream = value.as_bytes().starts_with(b"text/event-stream");
        }
        // Framing is the server's (RFC 9112, 6.1): it knows what the client can read.
        if name != TRANSFER_ENCODING {
            self.headers.append(name, value);
        }
        Ok(())
    }

    fn set_length(&mut self, value: &HeaderValue, kind: &str) -> PyResult<()> {
        let length = std::str::from_utf8(value.as_bytes())
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse::<u64>().ok());
        match (length, self.declared) {
            (Some(length), Some(earlier)) if length != earlier && self.bodiless => {
                // Some frameworks answer HEAD with the length of the file, and then with that
                // of what they send.
                tracing::debug!("{kind}: content-length {earlier} stays, {length} is ignored");
            }
            (Some(length), earlier) if earlier.is_none_or(|earlier| earlier == length) => {
                self.declared = Some(length);
                self.headers.insert(CONTENT_LENGTH, value.clone());
            }
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{kind}: illegal or contradictory content-length {value:?}"
                )));
            }
        }
        Ok(())
    }
}

impl Part {
    /// Reads the message (ASGI HTTP, "Response Body").
    ///
    /// # Errors
    /// `TypeError` when the body is not bytes.
    pub(crate) fn parse(message: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = message.py();
        let data = match message.get_item(pyo3::intern!(py, "body"))? {
            Some(body) => take_bytes(&body, "http.response.body: body")?,
            None => Bytes::new(),
        };
        let more = match message.get_item(pyo3::intern!(py, "more_body"))? {
            Some(more) => more.is_truthy()?,
            None => false,
        };
        Ok(Self { data, more })
    }
}

/// Reads `http.response.pathsend` (ASGI extensions, "Path Send") and opens the file.
///
/// # Errors
/// `TypeError` and `ValueError` for what is no path of a regular file, and `OSError` when
/// it cannot be opened.
pub(crate) fn open_path(message: &Bound<'_, PyDict>) -> PyResult<FilePart> {
    let py = message.py();
    let path = message
        .get_item(pyo3::intern!(py, "path"))?
        .ok_or_else(|| PyValueError::new_err("http.response.pathsend without \"path\""))?;
    let Ok(name) = path.extract::<PathBuf>() else {
        return Err(PyTypeError::new_err(format!(
            "http.response.pathsend: path must be a string, not {}",
            path.get_type().name()?
        )));
    };
    match FilePart::open(&name) {
        Ok(Some(part)) => Ok(part),
        Ok(None) => Err(PyValueError::new_err(format!(
            "http.response.pathsend: {} is not a regular file",
            name.display()
        ))),
        Err(error) => Err(match error.raw_os_error() {
            // Python finds the class by the number.
            Some(number) => {
                let text = Errno::from_raw(number).desc();
                PyOSError::new_err((number, text, path.unbind()))
            }
            None => error.into(),
        }),
    }
}

/// Reads one header of the message `kind`.
///
/// # Errors
/// `TypeError` unless it is a pair of bytes, `ValueError` if HTTP does not allow it.
pub(super) fn header(header: &Bound<'_, PyAny>, kind: &str) -> PyResult<(HeaderName, HeaderValue)> {
    let (name, value) = (header.get_item(0)?, header.get_item(1)?);
    let (Ok(name), Ok(value)) = (name.cast::<PyBytes>(), value.cast::<PyBytes>()) else {
        return Err(PyTypeError::new_err(format!(
            "{kind}: header name and value must be bytes, not {}",
            header.repr()?
        )));
    };
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| PyValueError::new_err(format!("{kind}: illegal header name {name}")))?;
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
        PyValueError::new_err(format!("{kind}: illegal value {value} of header {name}"))
    })?;
    Ok((name, value))
}

/// Takes bytes of the application; `what` names them in errors.
///
/// # Errors
/// `TypeError` for anything else.
pub(crate) fn take_bytes(body: &Bound<'_, PyAny>, what: &str) -> PyResult<Bytes> {
    if let Ok(bytes) = body.cast::<PyBytes>() {
        return Ok(share(bytes));
    }
    if body.is_instance_of::<PyString>() || body.is_instance_of::<PyInt>() || body.is_none() {
        return Err(PyTypeError::new_err(format!(
            "{what} must be bytes, not {}",
            body.get_type().name()?
        )));
    }
    // bytearray, memoryview and whatever else has a buffer: it may change later, so
    // it is copied.
    let copy = body
        .py()
        .get_type::<PyBytes>()
        .call1((body,))
        .map_err(|_| PyTypeError::new_err(format!("{what} must be bytes or bytes-like")))?;
    Ok(share(copy.cast::<PyBytes>()?))
}

/// Bytes that live in a Python object, which is given back through the run phase.
struct Borrowed(Option<PyBackedBytes>);

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(bytes) = self.0.take() {
            queue::discard(Discarded::Bytes(bytes));
        }
    }
}

fn share(bytes: &Bound<'_, PyBytes>) -> Bytes {
    let data = bytes.as_bytes();
    if data.len() < COPY_BELOW {
        return Bytes::copy_from_slice(data);
    }
    Bytes::from_owner(Borrowed(Some(bytes.clone().into())))
}

/// Opens what an application has sent: the message and its type.
///
/// # Errors
/// `TypeError` when it is no dict, or its type is missing or no string.
pub(crate) fn open<'a, 'py>(
    message: &'a Bound<'py, PyAny>,
) -> PyResult<(&'a Bound<'py, PyDict>, Bound<'py, PyString>)> {
    let Ok(message) = message.cast::<PyDict>() else {
        return Err(PyTypeError::new_err(format!(
            "an ASGI message is a dict, not {}",
            message.get_type().name()?
        )));
    };
    let kind = message
        .get_item(pyo3::intern!(message.py(), "type"))?
        .ok_or_else(|| PyTypeError::new_err("an ASGI message needs a \"type\""))?;
    Ok((message, kind.cast_into::<PyString>()?))
}
