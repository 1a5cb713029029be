//! What the event loop calls: thin functions that find the reactor of their thread.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyModule;
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

/// Adds the callbacks to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(turn, module)?)?;
    module.add_function(wrap_pyfunction!(flush, module)?)?;
    module.add_function(wrap_pyfunction!(accept, module)?)?;
    module.add_function(wrap_pyfunction!(look_again, module)?)?;
    module.add_function(wrap_pyfunction!(refuse, module)?)?;
    module.add_function(wrap_pyfunction!(drain_deadline, module)?)?;
    module.add_function(wrap_pyfunction!(stop_now, module)?)?;
    module.add_function(wrap_pyfunction!(expire, module)?)?;
    module.add_function(wrap_pyfunction!(beat, module)?)
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

/// The reactor, unless the worker has stopped serving: a call that was on its way
/// then has nothing to do.
fn serving() -> Option<Rc<Reactor>> {
    reactor::current().ok()
}

#[pyfunction]
#[pyo3(name = "_turn")]
fn turn(py: Python<'_>) {
    if let Some(reactor) = serving() {
        reactor.turn(py);
    }
}

#[pyfunction]
#[pyo3(name = "_flush")]
fn flush(py: Python<'_>) {
    if let Some(reactor) = serving() {
        reactor.flush(py);
    }
}

#[pyfunction]
#[pyo3(name = "_accept")]
fn accept(py: Python<'_>, index: usize) {
    if let Some(reactor) = serving() {
        reactor.accept(py, index);
    }
}

#[pyfunction]
#[pyo3(name = "_look_again")]
fn look_again(py: Python<'_>, index: usize) -> PyResult<()> {
    serving().map_or(Ok(()), |reactor| reactor.look_again(py, index))
}

#[pyfunction]
#[pyo3(name = "_refuse")]
fn refuse(py: Python<'_>) {
    if let Some(reactor) = serving() {
        reactor.refuse(py);
    }
}

#[pyfunction]
#[pyo3(name = "_drain_deadline")]
fn drain_deadline(py: Python<'_>) {
    if let Some(reactor) = serving() {
        reactor.drain_deadline(py);
    }
}

#[pyfunction]
#[pyo3(name = "_stop_now")]
fn stop_now(py: Python<'_>) {
    if let Some(reactor) = serving() {
        reactor.stop_now(py);
    }
}

#[pyfunction]
#[pyo3(name = "_expire")]
fn expire(py: Python<'_>) {
    if let Some(reactor) = serving() {
        reactor.expire(py);
    }
}

#[pyfunction]
#[pyo3(name = "_beat")]
fn beat(py: Python<'_>) {
    if let Some(reactor) = serving() {
        show_alive(&reactor);
        beat_later(py, &reactor);
    }
}
