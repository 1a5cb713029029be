//! Keyword arguments as settings.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use rsgun_core::config::program::{self, Value};
use rsgun_core::config::{Layer, ProcessEnvironment, Settings, Source};

use super::config_error;

/// What a program says about the settings.
#[pyclass(frozen, name = "_Arguments", module = "rsgun._rsgun")]
pub(crate) struct Arguments {
    layer: Layer,
}

#[pymethods]
impl Arguments {
    /// Reads keyword arguments for `app`, `MODULE:ATTRIBUTE`. `None` means that an
    /// argument is not given.
    #[new]
    fn new(app: &str, given: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = given.py();
        let mut values = Vec::new();
        for (name, value) in given {
            let name: String = name.extract()?;
            if !value.is_none() {
                let value = self::value(&name, &value)?;
                values.push((name, value));
            }
        }
        let layer = program::layer(app, values).map_err(|error| config_error(py, &error))?;
        Ok(Self { layer })
    }

    /// The command line that says the same.
    fn command_line(&self) -> Vec<String> {
        self.layer.to_arguments()
    }
}

impl Arguments {
    /// Resolves the settings of a process without a master.
    pub(super) fn settings(&self, py: Python<'_>) -> PyResult<Settings> {
        let resolved = self.layer.without_master().and_then(|()| {
            let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
            let source = Source::new(self.layer.clone(), ProcessEnvironment, directory);
            source.look()?.without_python()
        });
        resolved.map_err(|error| config_error(py, &error))
    }
}

fn value(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_instance_of::<PyBool>() {
        return Ok(Value::Switch(value.extract()?));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(Value::Integer(value.str()?.extract()?));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(Value::Decimal(value.extract()?));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let texts = value.try_iter()?.map(|item| text(name, &item?));
        return Ok(Value::List(texts.collect::<PyResult<_>>()?));
    }
    text(name, value).map(Value::Text)
}

/// A string, or the path of an `os.PathLike`.
fn text(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_instance_of::<PyString>() {
        return value.extract();
    }
    let path: Option<PathBuf> = value.extract().ok();
    match path
        .map(PathBuf::into_os_string)
        .map(std::ffi::OsString::into_string)
    {
        Some(Ok(path)) => Ok(path),
        _ => Err(PyTypeError::new_err(format!(
            "the argument {name} has a value of the type {}, which no setting has",
            value.get_type().name()?
        ))),
    }
}
