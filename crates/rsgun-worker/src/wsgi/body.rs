//! The iterable that an application returns.

use bytes::Bytes;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::file_wrapper::FileWrapper;
use super::response::{StartResponse, Unsent};
use crate::asgi::message;

/// Sends everything that an application has returned.
pub(crate) fn send(result: &Bound<'_, PyAny>, answer: &StartResponse) -> Result<(), Unsent> {
    let py = result.py();
    if let Ok(list) = result.cast_exact::<PyList>() {
        return send_all(py, list.iter(), answer);
    }
    if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        return send_all(py, tuple.iter(), answer);
    }
    if let Ok(file) = result.cast_exact::<FileWrapper>()
        && !answer.is_sent()
        && let Some(part) = file.get().part(py)
    {
        return answer.send_file(part);
    }
    if result.is_instance_of::<PyBytes>() || result.is_instance_of::<PyString>() {
        return Err(Unsent::Wrong(PyTypeError::new_err(format!(
            "the application must return an iterable of bytes, such as [body], not {}",
            result.get_type().name()?
        ))));
    }
    for part in result.try_iter()? {
        let part = take(&part?)?;
        // The head waits for the first byte.
        if !part.is_empty() {
            answer.send(py, part, false)?;
        }
    }
    answer.send(py, Bytes::new(), true)
}

/// Sends parts that are all there: so their length is known.
fn send_all<'py>(
    py: Python<'py>,
    parts: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
    answer: &StartResponse,
) -> Result<(), Unsent> {
    let mut bytes = Vec::with_capacity(parts.len());
    for part in parts {
        bytes.push(take(&part)?);
    }
    let whole = match bytes.len() {
        0 => Bytes::new(),
        1 => bytes.swap_remove(0),
        _ => bytes.concat().into(),
    };
    answer.send(py, whole, true)
}

fn take(part: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    message::take_bytes(
        part,
        "the application returned an iterable: each part of it",
    )
}
