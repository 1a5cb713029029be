//! The sign of life of a worker: the event loop comes round, and how busy it is.
//!
//! The load of an event loop is the share of time in which a task that is ready has to
//! wait. The heartbeat is such a task: it is due at a certain time, and comes late when
//! the loop is busy then. That also finds what no clock of the processor shows, such as a
//! database driver that blocks. A loop that computes, but in small portions, is found by
//! the processor time of the process. For this the heart beats more often where the
//! number of workers follows the load; otherwise it would cost idle workers for nothing.

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use pyo3::prelude::*;
use rsgun_core::config::Settings;
use rsgun_core::scoreboard::{self, Scoreboard, now_ms};

use crate::reactor::Reactor;

/// Milliseconds between two heartbeats, at most.
const BEAT_MS: u64 = 1_000;
/// The same while the load is of interest.
const SAMPLE_MS: u64 = 100;
/// Milliseconds by which a heartbeat of an idle loop may be late.
const TOLERANCE_MS: u64 = 5;

/// The rhythm of a worker's heart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    /// Milliseconds between two heartbeats.
    interval_ms: u64,
    /// When the last one was.
    last_ms: u64,
    /// When the next one is due.
    due_ms: u64,
    /// The processor time of the process at the last one, microseconds.
    processor_us: u64,
}

impl Rhythm {
    /// The rhythm for these settings, from now on.
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut interval_ms = BEAT_MS;
        if settings.timeout > 0 {
            interval_ms = interval_ms.min(u64::from(settings.timeout) * 1000 / 4);
        }
        if settings.min_workers > 0 || settings.max_workers > 0 {
            interval_ms = interval_ms.min(SAMPLE_MS);
        }
        let now = now_ms();
        Self {
            interval_ms,
            last_ms: now,
            due_ms: now,
            processor_us: processor_us(),
        }
    }

    /// Notes a heartbeat, and how busy the worker was since the last one; `is_full` says
    /// that it can take no more, whatever the clocks show. Returns the time until the
    /// next one.
    pub(crate) fn beat(&mut self, board: &Scoreboard, is_full: bool) -> Duration {
        let now = now_ms();
        let processor_us = processor_us();
        let late_ms = now.saturating_sub(self.due_ms);
        let elapsed_us = now.saturating_sub(self.last_ms) * 1000;
        let worked_us = processor_us.saturating_sub(self.processor_us);
        let busy_us = if is_full {
            elapsed_us
        } else {
            scoreboard::busy_us(elapsed_us, worked_us, late_ms >= TOLERANCE_MS)
        };
        scoreboard::add(&board.busy_us, busy_us);
        board.loop_lag_us.store(late_ms * 1000, Relaxed);
        self.last_ms = now;
        self.due_ms = now + self.interval_ms;
        self.processor_us = processor_us;
        Duration::from_millis(self.interval_ms)
    }
}

thread_local! {
    static RHYTHM: Cell<Option<Rhythm>> = const { Cell::new(None) };
}

/// Starts the heartbeat of this worker.
pub(crate) fn start(py: Python<'_>, reactor: &Reactor, settings: &Settings) {
    RHYTHM.set(Some(Rhythm::new(settings)));
    beat(py, reactor);
}

/// Says that the event loop has come round, and arms the next time.
pub(crate) fn beat(py: Python<'_>, reactor: &Reactor) {
    let Some(mut rhythm) = RHYTHM.get() else {
        return;
    };
    let board = &reactor.engine.board;
    let wait = rhythm.beat(board, false);
    board.beat(now_ms());
    reactor.engine.gate.beat(reactor.engine.load());
    RHYTHM.set(Some(rhythm));
    let seconds = wait.as_secs_f64();
    reactor.bridge.call_later(py, seconds, &reactor.bridge.beat);
}

fn processor_us() -> u64 {
    // The clock cannot fail on Linux; zero would only look like an idle process.
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000
            + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000
    })
}
