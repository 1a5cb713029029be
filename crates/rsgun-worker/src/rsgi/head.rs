//! Status and headers of an answer as RSGI applications give them.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::asgi::exchange::Exchange;
use crate::asgi::message::Start;

/// Reads the first two arguments of the method `call`; without a status it is 200.
///
/// # Errors
/// `TypeError` and `ValueError` that show what is wrong.
pub(super) fn parse(
    exchange: &Exchange,
    call: &str,
    status: Option<&Bound<'_, PyAny>>,
    headers: Option<&Bound<'_, PyAny>>,
) -> PyResult<Start> {
    let status = match status {
        Some(status) => Start::status(status, call)?,
        None => StatusCode::OK,
    };
    let mut start = Start::new(status, exchange);
    if let Some(headers) = headers {
        for pair in headers.try_iter()? {
            let (name, value) = header(&pair?, call)?;
            start.put(name, value, call)?;
        }
    }
    Ok(start)
}

/// A pair of strings. What is beyond ASCII goes out as UTF-8, as granian does it.
fn header(pair: &Bound<'_, PyAny>, call: &str) -> PyResult<(HeaderName, HeaderValue)> {
    let parts = (pair.get_item(0), pair.get_item(1));
    let (Ok(name), Ok(value)) = parts else {
        return Err(no_pair(pair, call)?);
    };
    let (Ok(name), Ok(value)) = (name.cast::<PyString>(), value.cast::<PyString>()) else {
        return Err(no_pair(pair, call)?);
    };
    let header = HeaderName::from_bytes(name.to_str()?.as_bytes())
        .map_err(|_| PyValueError::new_err(format!("{call}: illegal header name {name:?}")))?;
    let value = HeaderValue::from_bytes(value.to_str()?.as_bytes()).map_err(|_| {
        PyValueError::new_err(format!("{call}: illegal value {value:?} of header {name}"))
    })?;
    Ok((header, value))
}

fn no_pair(pair: &Bound<'_, PyAny>, call: &str) -> PyResult<PyErr> {
    Ok(PyTypeError::new_err(format!(
        "{call}: a header must be a pair of str, not {}",
        pair.repr()?
    )))
}
