//! What the event loop calls: thin methods that find their reactor.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::prelude::*;
use rsgun_core::scoreboard::now_ms;

use crate::reactor::{self, Reactor};

/// Milliseconds between two heartbeats, at most.
const BEAT_MS: u64 = 1_000;

thread_local! {
    /// When the next heartbeat is due, milliseconds.
    static DUE_MS: Cell<u64> = const { Cell::new(0) };
    /// Milliseconds between two heartbeats of this worker.
    static INTERVAL_MS: Cell<u64> = const { Cell::new(BEAT_MS) };
}

/// Starts the heartbeat of this worker, which is missed after `timeout` seconds; 0:
/// never.
pub(crate) fn start_beating(py: Python<'_>, reactor: &Reactor, timeout: u32) {
    if timeout > 0 {
        INTERVAL_MS.set(BEAT_MS.min(u64::from(timeout) * 1000 / 4));
    }
    DUE_MS.set(now_ms());
    show_alive(reactor);
    beat_later(py, reactor);
}

fn beat_later(py: Python<'_>, reactor: &Reactor) {
    let seconds = Duration::from_millis(INTERVAL_MS.get()).as_secs_f64();
    reactor.bridge.call_later(py, seconds, &reactor.bridge.beat);
}

fn show_alive(reactor: &Reactor) {
    let now = now_ms();
    let late = now.saturating_sub(DUE_MS.get());
    reactor.board().loop_lag_us.store(late * 1000, Relaxed);
    reactor.board().beat(now);
    reactor.gate.beat(reactor.open_connections());
    DUE_MS.set(now + INTERVAL_MS.get());
}

/// The callbacks of one reactor. The event loop may call them when that one has ended,
/// and even when the thread has another one by then: they have nothing to do then.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Callbacks {
    number: u64,
}

impl Callbacks {
    /// Those of the reactor with this number.
    pub(crate) fn new(number: u64) -> Self {
        Self { number }
    }

    fn serving(&self) -> Option<Rc<Reactor>> {
        reactor::serving(self.number).ok()
    }
}

#[pymethods]
impl Callbacks {
    fn turn(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.turn(py);
        }
    }

    fn flush(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.flush(py);
        }
    }

    fn accept(&self, py: Python<'_>, index: usize) {
        if let Some(reactor) = self.serving() {
            reactor.accept(py, index);
        }
    }

    fn look_again(&self, py: Python<'_>, index: usize) -> PyResult<()> {
        self.serving()
            .map_or(Ok(()), |reactor| reactor.look_again(py, index))
    }

    fn refuse(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.refuse(py);
        }
    }

    fn drain_deadline(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.drain_deadline(py);
        }
    }

    fn stop_now(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.stop_now(py);
        }
    }

    fn expire(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.expire(py);
        }
    }

    fn beat(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            show_alive(&reactor);
            beat_later(py, &reactor);
        }
    }
}
