//! The headers of a request: a mapping whose keys may have several values.

use http::{HeaderMap, HeaderValue};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyString};

/// `scope.headers`. Names are found in any case, and shown in lower case.
#[pyclass(frozen, mapping, name = "RSGIHeaders", module = "rsgun._rsgun")]
pub(crate) struct Headers(HeaderMap);

impl Headers {
    pub(super) fn new(map: HeaderMap) -> Self {
        Self(map)
    }
}

#[pymethods]
impl Headers {
    fn __len__(&self) -> usize {
        self.0.keys_len()
    }

    fn __contains__(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn __getitem__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyString>> {
        match self.0.get(name) {
            Some(value) => Ok(text(py, value)),
            None => Err(PyKeyError::new_err(name.to_owned())),
        }
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.keys())?.try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "<Headers {}>",
            PyList::new(py, self.items(py))?.repr()?
        ))
    }

    /// The names, each once.
    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }

    /// The values of all headers.
    fn values<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyString>> {
        self.0.values().map(|value| text(py, value)).collect()
    }

    /// Name and value of each header, also where names are repeated.
    fn items<'py>(&self, py: Python<'py>) -> Vec<(&str, Bound<'py, PyString>)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), text(py, value)))
            .collect()
    }

    /// The first value of a header, or `default`.
    #[pyo3(signature = (name, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> Option<Bound<'py, PyAny>> {
        match self.0.get(name) {
            Some(value) => Some(text(py, value).into_any()),
            None => default,
        }
    }

    /// All values of a header.
    fn get_all<'py>(&self, py: Python<'py>, name: &str) -> Vec<Bound<'py, PyString>> {
        self.0
            .get_all(name)
            .iter()
            .map(|value| text(py, value))
            .collect()
    }
}

/// A value as text: what is beyond ASCII is taken for latin-1, which loses nothing.
fn text<'py>(py: Python<'py>, value: &HeaderValue) -> Bound<'py, PyString> {
    match value.to_str() {
        Ok(ascii) => PyString::new(py, ascii),
        Err(_) => {
            let text: String = value.as_bytes().iter().copied().map(char::from).collect();
            PyString::new(py, &text)
        }
    }
}
