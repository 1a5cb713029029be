//! What the event loop calls: thin methods that find their reactor.

use std::rc::Rc;

use pyo3::prelude::*;

use super::heartbeat;
use crate::reactor::{self, Reactor};

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

    fn answer_bell(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.answer_bell(py);
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

    fn refuse_retired(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.refuse_retired(py);
        }
    }

    fn drain_deadline(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.drain_deadline(py);
        }
    }

    fn end_streams(&self, py: Python<'_>) {
        if let Some(reactor) = self.serving() {
            reactor.end_streams(py);
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
            heartbeat::beat(py, &reactor);
        }
    }
}
