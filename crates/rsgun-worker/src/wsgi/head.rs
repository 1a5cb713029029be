//! The head of an answer as applications write it: a status line and a list of tuples.

use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

/// Reads the arguments of `start_response`.
///
/// # Errors
/// `TypeError` and `ValueError` that show what is wrong.
pub(super) fn parse(
    status: &Bound<'_, PyAny>,
    headers: &Bound<'_, PyAny>,
) -> PyResult<(Response<()>, Option<u64>)> {
    let mut response = Response::new(());
    parse_status(status, &mut response)?;
    let mut declared = None;
    let list = headers.cast::<PyList>().map_err(|_| {
        PyTypeError::new_err(format!(
            "start_response(): headers must be a list of tuples, not {}",
            type_name(headers)
        ))
    })?;
    response.headers_mut().reserve(list.len() + 1);
    for pair in list.iter() {
        let (name, value) = header(&pair)?;
        if name == CONTENT_LENGTH {
            let length = length(&value, declared)?;
            declared = Some(length);
            response.headers_mut().insert(CONTENT_LENGTH, value);
        } else if !is_hop_by_hop(&name) {
            response.headers_mut().append(name, value);
        }
    }
    Ok((response, declared))
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value
        .get_type()
        .name()
        .map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}

/// `"200 OK"`: a number of three digits, a space, and a phrase (PEP 3333).
fn parse_status(status: &Bound<'_, PyAny>, response: &mut Response<()>) -> PyResult<()> {
    let Ok(text) = status.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!(
            "start_response(): status must be a str such as \"200 OK\", not {}",
            type_name(status)
        )));
    };
    let text = text.to_str()?;
    let (number, phrase) = text.split_once(' ').unwrap_or((text, ""));
    let code = (number.len() == 3)
        .then(|| number.parse::<u16>().ok())
        .flatten()
        .filter(|code| (200..=999).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok());
    let phrase_is_legal = phrase
        .chars()
        .all(|character| character == '\t' || (character >= ' ' && character != '\x7f'));
    let (Some(code), true) = (code, phrase_is_legal) else {
        return Err(PyValueError::new_err(format!(
            "start_response(): illegal status {}; it is a number from 200 to 999, a space and a \
             phrase, such as \"200 OK\"",
            status.repr()?
        )));
    };
    *response.status_mut() = code;
    let phrase = phrase.trim();
    if !phrase.is_empty() && code.canonical_reason() != Some(phrase) {
        let phrase = latin1(phrase).ok_or_else(|| not_latin1("status", status))?;
        if let Ok(phrase) = ReasonPhrase::try_from(phrase) {
            response.extensions_mut().insert(phrase);
        }
    }
    Ok(())
}

/// Reads a name and a value.
///
/// # Errors
/// As [`parse`].
pub(super) fn header(pair: &Bound<'_, PyAny>) -> PyResult<(HeaderName, HeaderValue)> {
    let parts = pair.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
    let Some(parts) = parts else {
        return Err(PyTypeError::new_err(format!(
            "start_response(): a header must be a tuple of two str, not {}",
            pair.repr()?
        )));
    };
    let (name, value) = (parts.get_item(0)?, parts.get_item(1)?);
    let (Ok(name_text), Ok(value_text)) = (name.cast::<PyString>(), value.cast::<PyString>())
    else {
        return Err(PyTypeError::new_err(format!(
            "start_response(): name and value of a header must be str, not {}",
            pair.repr()?
        )));
    };
    let header_name = HeaderName::from_bytes(name_text.to_str()?.as_bytes()).map_err(|_| {
        PyValueError::new_err(format!("start_response(): illegal header name {name}"))
    })?;
    let text = value_text.to_str()?;
    let value = if text.is_ascii() {
        HeaderValue::from_str(text).ok()
    } else {
        let bytes = latin1(text).ok_or_else(|| not_latin1("header value", &value))?;
        HeaderValue::from_bytes(&bytes).ok()
    };
    let value = value.ok_or_else(|| {
        PyValueError::new_err(format!(
            "start_response(): illegal value of the header {name}: {}",
            parts
                .get_item(1)
                .and_then(|value| value.repr())
                .map_or_else(|_| String::new(), |repr| repr.to_string())
        ))
    })?;
    Ok((header_name, value))
}

fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).ok())
        .collect()
}

fn not_latin1(what: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let shown = value
        .repr()
        .map_or_else(|_| String::new(), |repr| repr.to_string());
    PyValueError::new_err(format!(
        "start_response(): the {what} {shown} has characters outside of latin-1; encode it to \
         UTF-8 and decode that as latin-1 (PEP 3333, \"Unicode Issues\")"
    ))
}

fn length(value: &HeaderValue, earlier: Option<u64>) -> PyResult<u64> {
    let text = value.as_bytes();
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|length| earlier.is_none_or(|earlier| earlier == *length))
        .ok_or_else(|| {
            PyValueError::new_err(format!(
                "start_response(): illegal or contradictory Content-Length {value:?}"
            ))
        })
}

/// Headers that are between a client and the server, and so not the application's (PEP
/// 3333, "Other HTTP Features").
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "trailers"
            | "transfer-encoding"
            | "upgrade"
    )
}
