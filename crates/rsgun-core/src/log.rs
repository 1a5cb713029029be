//! The log lines that rsgun itself writes: `INFO:     message key=value`.
//!
//! Each line is one `write`, so that lines of different processes do not mix. The
//! prefix is uvicorn's, with its padding. Where they go is [`output`]'s.

pub mod access;
mod outlet;
pub mod output;
pub mod put;

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level as TracingLevel, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use self::output::Files;

/// The levels of `--log-level`, uvicorn's and gunicorn's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Only what ends the server.
    Critical,
    /// What went wrong.
    Error,
    /// What may go wrong.
    Warning,
    /// The life of the server.
    Info,
    /// What it decides, and why.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    const ALL: [Self; 6] = [
        Self::Critical,
        Self::Error,
        Self::Warning,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    fn admits(self, level: TracingLevel) -> bool {
        let least = match self {
            Self::Critical | Self::Error => TracingLevel::ERROR,
            Self::Warning => TracingLevel::WARN,
            Self::Info => TracingLevel::INFO,
            Self::Debug => TracingLevel::DEBUG,
            Self::Trace => TracingLevel::TRACE,
        };
        level <= least
    }
}

/// Starts logging to `files`; a second call in the same process is ignored. With
/// `captures`, standard output and standard error lead to the file of the server's own
/// lines from now on.
pub fn init(level: Level, files: Files, captures: bool) {
    if output::install(level, files, captures) {
        // Only fails when somebody else has set a subscriber, who then has the lines.
        let _ =
            tracing::subscriber::set_global_default(tracing_subscriber::registry().with(LineLayer));
    }
}

struct LineLayer;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        output::admits(*metadata.level())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut visitor = Line {
            message: String::new(),
            fields: String::new(),
        };
        event.record(&mut visitor);
        visitor.message.push_str(&visitor.fields);
        output::write(*event.metadata().level(), &visitor.message);
    }
}

/// The padded level name that starts a line.
#[must_use]
pub fn prefix(level: TracingLevel, colors: bool) -> &'static str {
    match (level, colors) {
        (TracingLevel::ERROR, false) => "ERROR:    ",
        (TracingLevel::WARN, false) => "WARNING:  ",
        (TracingLevel::INFO, false) => "INFO:     ",
        (TracingLevel::DEBUG, false) => "DEBUG:    ",
        (TracingLevel::TRACE, false) => "TRACE:    ",
        (TracingLevel::ERROR, true) => "\x1b[31mERROR\x1b[0m:    ",
        (TracingLevel::WARN, true) => "\x1b[33mWARNING\x1b[0m:  ",
        (TracingLevel::INFO, true) => "\x1b[32mINFO\x1b[0m:     ",
        (TracingLevel::DEBUG, true) => "\x1b[36mDEBUG\x1b[0m:    ",
        (TracingLevel::TRACE, true) => "\x1b[34mTRACE\x1b[0m:    ",
    }
}

/// Indents the second and further lines of a message as far as the level name
/// indents the first.
#[must_use]
pub fn continued(message: &str) -> String {
    let mut lines = message.trim_end().lines();
    let mut text = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        text.push('\n');
        if !line.is_empty() {
            text.push_str("          ");
            text.push_str(line);
        }
    }
    text
}

struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }
}
