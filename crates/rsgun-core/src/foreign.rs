//! Text that another process has sent: bounded, and fit for a log and a terminal.
//!
//! A worker may run anything, as another user than the master, whose log may be a terminal
//! of root. So text from there is made printable and is cut where it is read, by its type,
//! before anybody can do something else with it. Whoever sends it does the same, so that
//! the message has the length that a channel takes.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Deserializer};

/// The longest text of one line, in bytes: a name, a version, the reason of the system.
const LINE_MAX: usize = 1024;
/// The longest message for the user, in bytes.
const MESSAGE_MAX: usize = 8 * 1024;
/// The longest traceback, in bytes. With a message, and all of it escaped in JSON, it is
/// below [`PLAIN_MAX`](crate::sys::channel::PLAIN_MAX).
const TRACEBACK_MAX: usize = 48 * 1024;
/// The most names of a list.
const NAMES_MAX: usize = 1024;

/// Text of several lines without control characters but for the ends of lines and tabs.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |it: char| !it.is_control() || matches!(it, '\n' | '\t');
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for it in text.chars() {
        if is_plain(it) {
            shown.push(it);
        } else {
            shown.extend(it.escape_default());
        }
    }
    Cow::Owned(shown)
}

/// A message for the user as it may be sent and shown.
#[must_use]
pub fn message(text: &str) -> String {
    cut(&printable(text), MESSAGE_MAX)
}

/// A traceback as it may be sent and shown.
#[must_use]
pub fn traceback(text: &str) -> String {
    cut(&printable(text), TRACEBACK_MAX)
}

/// One line as it may be sent and shown.
#[must_use]
pub fn line(text: &str) -> String {
    cut(&printable(text).replace('\n', "\\n"), LINE_MAX)
}

/// Leaves out the middle of what is longer than `max` bytes: what is at the end of a
/// traceback says the most, and at its beginning where it comes from.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    // Of what is left a bit is for the words in the middle.
    let half = max / 2 - 32;
    let is_boundary = |index: &usize| text.is_char_boundary(*index);
    let head = &text[..(0..=half).rev().find(is_boundary).unwrap_or(0)];
    let mut later = text.len() - half..text.len();
    let tail = &text[later.find(is_boundary).unwrap_or(text.len())..];
    let mut short = head.to_owned();
    // Writing to a String cannot fail.
    let _ = write!(
        short,
        " [... {} bytes left out ...] {tail}",
        text.len() - head.len() - tail.len()
    );
    short
}

pub(crate) fn read_line<'a, D: Deserializer<'a>>(source: D) -> Result<String, D::Error> {
    Ok(line(&String::deserialize(source)?))
}

pub(crate) fn read_message<'a, D: Deserializer<'a>>(source: D) -> Result<String, D::Error> {
    Ok(message(&String::deserialize(source)?))
}

pub(crate) fn read_traceback<'a, D: Deserializer<'a>>(
    source: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(source)?;
    Ok(text.as_deref().map(traceback))
}

pub(crate) fn read_names<'a, D: Deserializer<'a>>(source: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(source)?;
    Ok(names.iter().take(NAMES_MAX).map(|it| line(it)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        let hostile = "\u{1b}]0;title\u{7}\u{9b}2J\r\tone\ntwo\u{7f}\0";
        let shown = "\\u{1b}]0;title\\u{7}\\u{9b}2J\\r\tone\ntwo\\u{7f}\\u{0}";
        assert_eq!(printable(hostile), shown);
        assert_eq!(line("one\nERROR: two"), "one\\nERROR: two");
        assert!(matches!(printable("für alle\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_text_keeps_both_ends() {
        let text = format!("first{}last", "\u{e9}".repeat(TRACEBACK_MAX));
        let short = traceback(&text);
        assert!(short.len() <= TRACEBACK_MAX, "{}", short.len());
        assert!(short.starts_with("first") && short.ends_with("last"));
        assert!(short.contains("bytes left out"));
        assert_eq!(traceback(&short), short, "cut once");
        let fits = "x".repeat(MESSAGE_MAX);
        assert_eq!(message(&fits), fits);
    }
}
