//! Debuggers in a worker on a terminal: `breakpoint()`, and whatever opens a prompt of pdb.
//!
//! A debugger at its prompt holds up the event loop, as a worker that hangs does. So the
//! master is told that somebody is there, before the debugger takes over.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use rsgun_core::ipc::FromWorker;

use super::keeper::Keeper;
use crate::glue;

/// Tells the master of a debugger; once, since it then knows for good.
#[pyclass(frozen, module = "rsgun._rsgun")]
struct DebuggerNotice {
    keeper: Arc<Keeper>,
    told: AtomicBool,
}

#[pymethods]
impl DebuggerNotice {
    fn __call__(&self) {
        if self.told.swap(true, Relaxed) || !std::io::stdin().is_terminal() {
            return;
        }
        if let Err(error) = self.keeper.tell(&FromWorker::Debugged) {
            tracing::debug!("the master cannot be told of a debugger: {error}");
        }
    }
}

/// Stands in front of `sys.breakpointhook`. Being native it has no frame of Python, so
/// that a debugger that stops in its caller's frame stops in the application.
#[pyclass(frozen, module = "rsgun._rsgun")]
struct BreakpointHook {
    notice: Py<DebuggerNotice>,
    original: Py<PyAny>,
}

#[pymethods]
impl BreakpointHook {
    #[pyo3(signature = (*arguments, **keywords))]
    fn __call__(
        &self,
        py: Python<'_>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let is_off = std::env::var_os("PYTHONBREAKPOINT").is_some_and(|name| name == "0");
        if !is_off {
            self.notice.get().__call__();
        }
        self.original.call(py, arguments, keywords)
    }
}

/// Tells `keeper` of the debuggers of this process.
pub(super) fn watch(py: Python<'_>, keeper: Arc<Keeper>) -> PyResult<()> {
    let notice = DebuggerNotice {
        keeper,
        told: AtomicBool::new(false),
    };
    let notice = Py::new(py, notice)?;
    if std::io::stdin().is_terminal() {
        glue::debuggers(py)?.call_method1("watch", (&notice,))?;
    }
    let sys = py.import("sys")?;
    let original = sys.getattr("breakpointhook")?.unbind();
    sys.setattr("breakpointhook", BreakpointHook { notice, original })
}
