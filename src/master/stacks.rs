//! Getting the stacks of a process that hangs, without waiting for it.
//!
//! The process writes its report at a pace of its own, and possibly only part of it:
//! see [`rsgun_core::sys::stacks`]. A task looks at the report now and then until it is
//! complete, or nothing is added any more.

use std::time::Duration;

use rsgun_core::sys::process;
use rsgun_core::sys::stacks::{self, Report};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, interval};

use super::event::{Asked, Event};

/// Time between two looks at the report.
const LOOK: Duration = Duration::from_millis(50);
/// A report that has not grown for this long is all there will be: what Python adds to
/// it needs the interpreter's lock.
const QUIET: Duration = Duration::from_millis(400);
/// The end of all patience; below the one of the state machine.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Asks a process for its stacks. An event follows, or is returned when there is nothing
/// to wait for.
pub(super) fn ask(
    of: Asked,
    pid: i32,
    report: Option<Report>,
    events: UnboundedSender<Event>,
) -> Option<Event> {
    let nothing = Event::Stacks { of, stacks: None };
    let Some(report) = report else {
        return Some(nothing);
    };
    if !process::is_descendant(pid) {
        return Some(nothing);
    }
    let start = report.length();
    if let Err(error) = stacks::ask(pid) {
        tracing::debug!("the process {pid} cannot be asked for its stacks: {error}");
        return Some(nothing);
    }
    tokio::spawn(async move {
        let text = collect(&report, start).await;
        let stacks = (!text.is_empty()).then_some(text);
        // The loop ends before its queue does only when the master ends.
        let _ = events.send(Event::Stacks { of, stacks });
    });
    None
}

async fn collect(report: &Report, start: u64) -> String {
    let began = Instant::now();
    let mut changed = began;
    let mut length = 0;
    let mut looks = interval(LOOK);
    loop {
        let now = looks.tick().await;
        let (text, is_complete) = report.read(start);
        if text.len() != length {
            length = text.len();
            changed = now;
        }
        let is_quiet = length > 0 && now - changed >= QUIET;
        if is_complete || is_quiet || now - began >= PATIENCE {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    async fn collected(written: &[u8]) -> (String, Duration) {
        let report = Report::create().unwrap();
        let mut writer: File = report.as_fd().try_clone_to_owned().unwrap().into();
        writer.write_all(written).unwrap();
        let began = Instant::now();
        (collect(&report, 0).await, began.elapsed())
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_complete_report_is_taken_at_once() {
        let (text, after) = collected(b"Thread\nTask\n\0").await;
        assert_eq!(text, "Thread\nTask\n");
        assert_eq!(after, Duration::ZERO);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn what_does_not_grow_any_more_is_all() {
        let (text, after) = collected(b"Thread\n").await;
        assert_eq!(text, "Thread\n");
        assert_eq!(after, QUIET);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_process_that_writes_nothing_is_not_waited_for() {
        let (text, after) = collected(b"").await;
        assert_eq!(text, "");
        assert_eq!(after, PATIENCE);
    }
}
