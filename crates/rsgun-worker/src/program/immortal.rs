//! For threads whose event loop is the program's.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use crate::ffi::Immortal;

/// A context manager around serving: the program may end meanwhile, and the frames of this
/// extension on the thread must not be unwound then.
#[pyclass(frozen, name = "_ImmortalThread", module = "rsgun._rsgun")]
#[derive(Default)]
pub(crate) struct ImmortalThread(Mutex<Option<Immortal>>);

#[pymethods]
impl ImmortalThread {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn __enter__(&self) {
        self.set(Some(Immortal::new()));
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        self.set(None);
    }
}

impl ImmortalThread {
    fn set(&self, immortal: Option<Immortal>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = immortal;
    }
}
