//! Processes that the application forks, on whatever thread: they must not keep what is
//! the worker's. A listener that one of them has would go on listening when all of the
//! server is gone, with nobody to answer, and keep its address from the next server.

use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::sys::{parent_death, process};
use socket2::Socket;

use super::keeper::Keeper;
use crate::reactor::accept::Gate;

/// Is called in every such process, before it goes on.
#[pyclass(frozen, module = "rsgun._rsgun")]
struct LetGo {
    keeper: Arc<Keeper>,
    /// Not what the gate knows: that belongs to the thread of the connections, which such
    /// a process does not have.
    listeners: Vec<Weak<Socket>>,
}

#[pymethods]
impl LetGo {
    fn __call__(&self) {
        parent_death::forget_listeners();
        for listener in self.listeners.iter().filter_map(Weak::upgrade) {
            if let Err(error) = process::blank_out(listener.as_fd()) {
                tracing::debug!("a forked process keeps a listener: {error}");
            }
        }
        if let Keeper::Master(master) = &*self.keeper {
            let alone = process::blank_out(master.as_fd());
            // Python's handlers for the others stand for the worker.
            if let Err(error) = alone.and_then(|()| process::ignore_master_signals()) {
                tracing::debug!("a forked process keeps what is its worker's: {error}");
            }
        }
    }
}

/// Sees to it that processes which are forked from now on let go of the listeners and of
/// the master.
pub(super) fn watch(py: Python<'_>, keeper: Arc<Keeper>, gate: &Gate) -> PyResult<()> {
    let listeners = gate.sockets();
    let keywords = PyDict::new(py);
    keywords.set_item("after_in_child", LetGo { keeper, listeners })?;
    py.import("os")?
        .call_method("register_at_fork", (), Some(&keywords))?;
    Ok(())
}
