//! The access log: one line a request on standard output, written once a turn.
//!
//! Lines are collected and written in pieces of at most `PIPE_BUF` bytes that end
//! at a line end, so that lines of several workers on one pipe do not tear.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use http::{StatusCode, Version};

/// Largest write to a pipe that is atomic (`PIPE_BUF` on Linux).
const PIPE_BUF: usize = 4096;

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the log line of a request needs when its answer is known.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `ADDRESS:PORT`, or what stands for it.
    pub(crate) client: String,
    /// Method and target as they came.
    pub(crate) request: String,
    pub(crate) version: Version,
}

/// Adds the line of a request.
pub(crate) fn add(entry: &Entry, status: StatusCode) {
    let colors = colors();
    let phrase = status.canonical_reason().unwrap_or("");
    LINES.with_borrow_mut(|lines| {
        // Writing to a Vec cannot fail.
        let _ = write!(
            lines,
            "{}{} - \"{} {:?}\" ",
            rsgun_core::log::prefix(tracing::Level::INFO, colors),
            entry.client,
            escape(&entry.request),
            entry.version,
        );
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
        let mut out = std::io::stdout().lock();
        let mut rest = lines.as_slice();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(whole_lines(rest));
            // A log that cannot be written (full disk, closed pipe) must not stop
            // the server.
            let _ = out.write_all(piece);
            rest = later;
        }
        let _ = out.flush();
        lines.clear();
    });
}

/// How many bytes of `lines` to write at once: as many whole lines as stay atomic on
/// a pipe, at least one.
fn whole_lines(lines: &[u8]) -> usize {
    let atomic = &lines[..lines.len().min(PIPE_BUF)];
    let end = atomic
        .iter()
        .rposition(|byte| *byte == b'\n')
        .or_else(|| lines.iter().position(|byte| *byte == b'\n'));
    end.map_or(lines.len(), |position| position + 1)
}

/// Makes control characters and quotes harmless in a terminal and for parsers.
fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    if text
        .bytes()
        .all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"')
    {
        return text.into();
    }
    text.escape_debug().to_string().into()
}

fn colors() -> bool {
    static COLORS: OnceLock<bool> = OnceLock::new();
    *COLORS.get_or_init(|| std::io::stdout().is_terminal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_end_at_a_line_end_and_fit_a_pipe() {
        let line = format!("{}\n", "x".repeat(99));
        let lines = line.repeat(60);
        assert_eq!(whole_lines(lines.as_bytes()), 4000);
        assert_eq!(whole_lines(&lines.as_bytes()[4000..]), 2000);
        let long = format!("{}\nshort\n", "y".repeat(5000));
        assert_eq!(whole_lines(long.as_bytes()), 5001);
    }

    #[test]
    fn a_hostile_target_stays_on_its_line() {
        assert_eq!(escape("GET /a\x1b[2J\n\""), "GET /a\\u{1b}[2J\\n\\\"");
        assert_eq!(escape("GET /plain?x=1"), "GET /plain?x=1");
    }
}
