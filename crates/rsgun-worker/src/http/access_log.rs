//! The access log: one line a request, written once a turn.
//!
//! Lines are collected, and written together.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write;

use http::{StatusCode, Uri, Version};
use rsgun_core::log::access::escape;
use rsgun_core::log::output;

use crate::reactor::queue::Peer;

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the log line of a request needs when its answer is known.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `ADDRESS:PORT`, or what stands for it.
    pub(crate) client: String,
    /// Method, or `WebSocket`, and target as they came.
    pub(crate) request: String,
    /// What follows them; `None` for a WebSocket.
    pub(crate) version: Option<Version>,
}

impl Entry {
    /// That of a request.
    pub(crate) fn of(peer: &Peer, parts: &http::request::Parts) -> Self {
        Self {
            client: peer.label(),
            request: format!("{} {}", parts.method, target(&parts.uri)),
            version: Some(parts.version),
        }
    }
}

/// The target of a request, without the password that an absolute one may carry
/// (RFC 9110, 4.2.4).
pub(crate) fn target(uri: &Uri) -> Cow<'_, str> {
    let secret = uri.authority().and_then(|it| it.as_str().rsplit_once('@'));
    match secret {
        Some((secret, _)) => Cow::Owned(uri.to_string().replacen(&format!("{secret}@"), "", 1)),
        None => Cow::Owned(uri.to_string()),
    }
}

/// Adds the line of a WebSocket that the application has accepted.
pub(crate) fn accepted(entry: &Entry) {
    LINES.with_borrow_mut(|lines| {
        begin(lines, entry, output::access_has_colors());
        lines.extend_from_slice(b"[accepted]\n");
    });
}

/// The part before the outcome.
fn begin(lines: &mut Vec<u8>, entry: &Entry, colors: bool) {
    let prefix = rsgun_core::log::prefix(tracing::Level::INFO, colors);
    let request = escape(&entry.request);
    // Writing to a Vec cannot fail.
    let _ = match entry.version {
        Some(version) => write!(
            lines,
            "{prefix}{} - \"{request} {version:?}\" ",
            entry.client
        ),
        None => write!(lines, "{prefix}{} - \"{request}\" ", entry.client),
    };
}

/// Adds the line of a request.
pub(crate) fn add(entry: &Entry, status: StatusCode) {
    let colors = output::access_has_colors();
    let phrase = status.canonical_reason().unwrap_or("");
    LINES.with_borrow_mut(|lines| {
        begin(lines, entry, colors);
        let _ = if colors {
            let color = match status.as_u16() / 100 {
                2 => 32,
                3 => 33,
                4 => 31,
                5 => 91,
                _ => 37,
            };
            write!(lines, "\x1b[{color}m{} {phrase}\x1b[0m", status.as_u16())
        } else {
            write!(lines, "{} {phrase}", status.as_u16())
        };
        while lines.last() == Some(&b' ') {
            lines.pop();
        }
        lines.push(b'\n');
    });
}

/// Writes all collected lines.
pub(crate) fn flush() {
    LINES.with_borrow_mut(|lines| {
        if lines.is_empty() {
            return;
        }
        output::write_access(lines);
        lines.clear();
    });
}
