//! How a worker stops serving.
//!
//! *Drain*: no new connections, every open one may finish what it has begun; when the
//! last is closed and the application has returned from every call, the worker goes on
//! to the lifespan shutdown. What still runs at the deadline is cancelled, and is given a
//! moment to clean up. Streams that would last until then are ended before, as far as we know
//! their library. *Quit*: cancels at once and waits for running requests only.

use std::cell::{Cell, OnceCell};

use pyo3::prelude::*;
use rsgun_core::drain::DrainDeadline;
use rsgun_core::ipc::CLEAN_UP_MS;
use rsgun_core::scoreboard::now_ms;
use rsgun_websocket::close;

use super::Reactor;
use super::bridge::Bridge;
use crate::glue;
use crate::http::websocket::Farewell;

/// The part of the graceful time-out, one in so many, after which a worker that is replaced
/// ends streams that would never end: some of their library do, such as the answers of an MCP
/// server, and nobody waits for this worker.
const STREAMS_PART: u64 = 10;

/// The state of stopping.
#[derive(Default)]
pub(crate) struct Stop {
    /// The future that `serve.py` waits for.
    stopped: OnceCell<Py<PyAny>>,
    draining: Cell<bool>,
    deadline: Cell<DrainDeadline>,
    cancelling: Cell<bool>,
    ended_streams: Cell<bool>,
}

impl Stop {
    /// Sets the future that is resolved when serving is over.
    pub(crate) fn set_future(&self, future: Py<PyAny>) {
        // A worker starts serving once.
        let _ = self.stopped.set(future);
    }

    /// Whether running requests have been cancelled.
    pub(crate) fn is_cancelling(&self) -> bool {
        self.cancelling.get()
    }

    /// Serving is over.
    fn drained(&self, py: Python<'_>, bridge: &Bridge) {
        if let Some(future) = self.stopped.get() {
            bridge.resolve(py, future);
        }
    }
}

impl Reactor {
    /// Begins to drain; what still runs after `within_ms` is cancelled. WebSockets are
    /// closed with `code`. If this is the `end` of the server, whoever waits is taken
    /// before nobody listens any more.
    ///
    /// Returns whether it had not begun before; a second order only puts the end off.
    pub(crate) fn drain(&self, py: Python<'_>, within_ms: u64, code: u16, end: bool) -> bool {
        let mut deadline = self.stop.deadline.get();
        deadline.set(now_ms(), within_ms);
        self.stop.deadline.set(deadline);
        if end {
            self.end_streams(py);
        }
        if self.stop.draining.replace(true) {
            return false;
        }
        self.close_gate(py);
        if end {
            self.last_call(py);
        } else {
            self.engine.gate.tell_closed();
            let streams_ms = within_ms / STREAMS_PART;
            self.bridge
                .call_later(py, seconds(streams_ms), &self.bridge.end_streams);
        }
        let farewell = Farewell {
            code,
            at_once: false,
        };
        self.begin_drain(py, farewell);
        self.bridge
            .call_later(py, seconds(within_ms), &self.bridge.drain_deadline);
        self.settle_stop(py);
        true
    }

    /// Ends what would last until the deadline, as far as we know its library.
    pub(crate) fn end_streams(&self, py: Python<'_>) {
        let ended = glue::streams(py)
            .and_then(|streams| streams.call_method0("end"))
            .and_then(|ended| ended.is_truthy());
        match ended {
            Ok(ended) => self.stop.ended_streams.set(ended),
            Err(error) => tracing::debug!("streams could not be ended: {error}"),
        }
    }

    /// Whether applications may have been told to end their streams where they are.
    pub(crate) fn has_ended_streams(&self) -> bool {
        self.stop.ended_streams.get()
    }

    /// Ends serving when there is nothing left to wait for: no connection, and no call of
    /// the application, which may well work on after its response (background tasks).
    /// Once requests are cancelled, connections are not waited for.
    pub(super) fn settle_stop(&self, py: Python<'_>) {
        let may_end = self.stop.cancelling.get()
            || (self.stop.draining.get()
                && self.engine.open_connections() == 0
                && !self.engine.gate.is_last_call());
        if may_end && self.is_idle() {
            self.stop.drained(py, &self.bridge);
        }
    }

    /// Cancels what runs and stops serving.
    pub(crate) fn quit(&self, py: Python<'_>) {
        self.stop.draining.set(true);
        self.close_gate(py);
        let farewell = Farewell {
            code: close::GOING_AWAY,
            at_once: true,
        };
        self.begin_drain(py, farewell);
        self.stop.cancelling.set(true);
        self.cancel_running(py);
        if self.is_idle() {
            self.stop.drained(py, &self.bridge);
        } else {
            self.bridge
                .call_later(py, seconds(CLEAN_UP_MS), &self.bridge.stop_now);
        }
    }

    /// The deadline of a drain has come, unless it was put off.
    pub(crate) fn drain_deadline(&self, py: Python<'_>) {
        let mut deadline = self.stop.deadline.get();
        let left_ms = deadline.left_ms(now_ms());
        self.stop.deadline.set(deadline);
        if let Some(left_ms) = left_ms {
            self.bridge
                .call_later(py, seconds(left_ms), &self.bridge.drain_deadline);
            return;
        }
        let left = self.running_count();
        if left > 0 {
            tracing::warn!("{left} request(s) did not end within the graceful time-out, cancelled");
        }
        self.quit(py);
    }

    /// Cancelled requests have had their time.
    pub(crate) fn stop_now(&self, py: Python<'_>) {
        self.stop.drained(py, &self.bridge);
    }

    /// How many requests the application is working on.
    pub(crate) fn running_count(&self) -> usize {
        self.running.borrow().count() + self.sockets.borrow().count()
    }

    fn is_idle(&self) -> bool {
        self.running_count() == 0
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a time-out")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}
