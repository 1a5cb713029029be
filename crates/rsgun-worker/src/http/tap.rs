//! The order of header fields as they came.
//!
//! A `HeaderMap` keeps the values of one name together, so `a: 1`, `b: 2`, `a: 3`
//! comes out of hyper as `a: 1`, `a: 3`, `b: 2`. ASGI wants the order of the request.
//! The tap keeps the bytes of request heads as they are read; only when a head has
//! repeated names (which few have) it is parsed a second time. What it finds must be
//! the very fields that hyper has found, or hyper's order stands.

use http::HeaderMap;
use http::request::Parts;

/// Bytes of heads that are kept at most.
const KEPT_MAX: usize = 16 * 1024;
/// Fields that hyper lets through at most.
const FIELDS_MAX: usize = 100;

/// The head bytes that hyper has not asked about yet.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    kept: Vec<u8>,
    /// Body bytes of the last request that are still to come.
    skip: u64,
    /// The framing was lost (chunked body, too long a head): begin anew with the next
    /// request.
    lost: bool,
}

/// Header fields in their order: positions in the map's own order.
pub(crate) type Order = Vec<usize>;

impl Tap {
    /// Takes what was read from the socket.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        if self.skip > 0 {
            let body = usize::try_from(self.skip)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            self.skip -= body as u64;
            bytes = &bytes[body..];
        }
        if self.lost || bytes.is_empty() {
            return;
        }
        if self.kept.len() + bytes.len() > KEPT_MAX {
            self.lose();
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// The connection waits for a new request: nothing of an old one is on its way.
    pub(crate) fn begin(&mut self) {
        if self.lost {
            self.lost = false;
            self.skip = 0;
        }
    }

    /// Whether part of a head has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        !self.kept.is_empty()
    }

    /// hyper has found a request head. Returns the order of its fields, if it is not
    /// the map's.
    pub(crate) fn head(&mut self, parts: &Parts) -> Option<Order> {
        let has_repeats = parts.headers.len() != parts.headers.keys_len();
        let end = find_end(&self.kept);
        let order = match end {
            Some(end) if has_repeats => order(&self.kept[..end], &parts.headers),
            _ => None,
        };
        match (end, body_length(&parts.headers)) {
            (Some(end), Some(length)) => self.advance(end, length),
            _ => self.lose(),
        }
        order
    }

    /// Goes to the end of a message.
    fn advance(&mut self, head: usize, body: u64) {
        let rest = self.kept.len() - head;
        let in_rest = usize::try_from(body).unwrap_or(usize::MAX).min(rest);
        self.skip = body - in_rest as u64;
        if in_rest == rest {
            self.kept.clear();
        } else {
            self.kept.drain(..head + in_rest);
        }
    }

    fn lose(&mut self) {
        self.kept.clear();
        self.lost = true;
    }
}

/// Where the first head ends.
fn find_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|position| position + 4)
}

/// Length of the body; `None` when only its end will tell.
fn body_length(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key(http::header::TRANSFER_ENCODING) {
        return None;
    }
    match headers.get(http::header::CONTENT_LENGTH) {
        Some(value) => value.to_str().ok()?.parse().ok(),
        None => Some(0),
    }
}

/// The fields of a raw head as positions in the map's iteration order.
fn order(head: &[u8], headers: &HeaderMap) -> Option<Order> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(head).ok()?;
    if request.headers.len() != headers.len() {
        return None;
    }
    let mut left: Vec<Option<(&[u8], &[u8])>> = headers
        .iter()
        .map(|(name, value)| Some((name.as_str().as_bytes(), value.as_bytes())))
        .collect();
    let mut order = Vec::with_capacity(left.len());
    for field in request.headers {
        // Of equal fields the first is meant: their order among themselves is kept.
        let position = left.iter().position(|entry| {
            entry.is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case(field.name.as_bytes()) && value == field.value
            })
        })?;
        left[position] = None;
        order.push(position);
    }
    Some(order)
}
