//! The messages that an application sends on a WebSocket, checked.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString};
use rsgun_websocket::{Kind, close};

use super::message;

/// `websocket.accept`.
#[derive(Debug, Default)]
pub(crate) struct Accept {
    pub(crate) subprotocol: Option<HeaderValue>,
    pub(crate) headers: HeaderMap,
}

impl Accept {
    /// Reads the message (ASGI WebSocket, "Accept").
    ///
    /// # Errors
    /// `TypeError` and `ValueError` that name the key and the value.
    pub(crate) fn parse(message: &Bound<'_, PyDict>) -> PyResult<Self> {
        let subprotocol = match given(message, "subprotocol")? {
            None => None,
            Some(name) => {
                let text = name.cast::<PyString>().map_err(|_| {
                    PyTypeError::new_err("websocket.accept: subprotocol must be a string")
                })?;
                let value = HeaderValue::from_str(text.to_str()?).map_err(|_| {
                    PyValueError::new_err(format!(
                        "websocket.accept: illegal subprotocol {}",
                        text.as_any()
                    ))
                })?;
                Some(value)
            }
        };
        let mut headers = HeaderMap::new();
        if let Some(list) = given(message, "headers")? {
            for header in list.try_iter()? {
                let (name, value) = message::header(&header?, "websocket.accept")?;
                if name.as_str().starts_with("sec-websocket-") {
                    return Err(PyValueError::new_err(format!(
                        "websocket.accept: the header {name} is the server's; the subprotocol \
                         has a key of its own"
                    )));
                }
                // These belong to the handshake.
                if ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(&name) {
                    headers.append(name, value);
                }
            }
        }
        Ok(Self {
            subprotocol,
            headers,
        })
    }
}

/// Reads `websocket.send` (ASGI WebSocket, "Send").
///
/// # Errors
/// `ValueError` unless there is either text or bytes, `TypeError` for other types.
pub(crate) fn data(message: &Bound<'_, PyDict>) -> PyResult<(Kind, Bytes)> {
    match (given(message, "text")?, given(message, "bytes")?) {
        (Some(text), None) => {
            let text = text
                .cast::<PyString>()
                .map_err(|_| PyTypeError::new_err("websocket.send: text must be a string"))?;
            let text = Bytes::copy_from_slice(text.to_str()?.as_bytes());
            Ok((Kind::Text, text))
        }
        (None, Some(bytes)) => Ok((
            Kind::Binary,
            message::take_bytes(&bytes, "websocket.send: bytes")?,
        )),
        _ => Err(PyValueError::new_err(
            "websocket.send: exactly one of text and bytes must be given",
        )),
    }
}

/// Reads `websocket.close` (ASGI WebSocket, "Close"): code and reason.
///
/// # Errors
/// `ValueError` for a code that may not be sent, `TypeError` for other types.
pub(crate) fn close(message: &Bound<'_, PyDict>) -> PyResult<(u16, String)> {
    let code = match given(message, "code")? {
        None => close::NORMAL,
        Some(code) => code
            .cast::<PyInt>()
            .ok()
            .and_then(|code| code.extract::<u16>().ok())
            .filter(|code| close::is_sendable(*code) || *code == close::NO_STATUS)
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "websocket.close: {code} is not a code that may be sent: 1000 to 1003, 1007 \
                     to 1014, 3000 to 4999"
                ))
            })?,
    };
    let reason = match given(message, "reason")? {
        None => String::new(),
        Some(reason) => reason
            .extract()
            .map_err(|_| PyTypeError::new_err("websocket.close: reason must be a string"))?,
    };
    Ok((code, reason))
}

/// A value that is there and not None.
fn given<'py>(message: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(message.get_item(key)?.filter(|value| !value.is_none()))
}
