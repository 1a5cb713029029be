//! `wsgi.file_wrapper`: files that go out without passing through Python.

use std::os::fd::RawFd;

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi;
use crate::http::file_part::FilePart;

/// What `environ["wsgi.file_wrapper"]` is: an iterable over a file in blocks (PEP 3333,
/// "Optional Platform-Specific File Handling").
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct FileWrapper {
    #[pyo3(get)]
    filelike: Py<PyAny>,
    #[pyo3(get)]
    blksize: usize,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize=8192))]
    fn new(filelike: Py<PyAny>, blksize: usize) -> Self {
        Self { filelike, blksize }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let block = self
            .filelike
            .bind(py)
            .call_method1(pyo3::intern!(py, "read"), (self.blksize,))?;
        Ok(block.is_truthy()?.then_some(block))
    }

    /// The `close` of the file; there is none if that has none.
    #[getter]
    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.filelike
            .getattr(py, pyo3::intern!(py, "close"))
            .map_err(|_| PyAttributeError::new_err("close"))
    }
}

impl FileWrapper {
    /// What is left of the file from where it stands, if it is a regular file of the
    /// system; anything else has to be iterated over.
    pub(crate) fn part(&self, py: Python<'_>) -> Option<FilePart> {
        let file = self.filelike.bind(py);
        let number: RawFd = file
            .call_method0(pyo3::intern!(py, "fileno"))
            .ok()?
            .extract()
            .ok()?;
        // What Python has buffered counts as read by the kernel, but not by `tell()`.
        let offset: u64 = file
            .call_method0(pyo3::intern!(py, "tell"))
            .ok()?
            .extract()
            .ok()?;
        let is_binary = file
            .call_method1(pyo3::intern!(py, "read"), (0,))
            .is_ok_and(|nothing| nothing.is_instance_of::<PyBytes>());
        if !is_binary {
            return None;
        }
        FilePart::new(ffi::duplicate(number).ok()?, offset).ok()?
    }
}
