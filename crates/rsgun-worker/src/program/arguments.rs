//! Keyword arguments as settings.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use rsgun_core::config::{Layer, ProcessEnvironment, Settings, Source, Value, program};

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
                let value = self::value(&value)?;
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
    /// Resolves the settings of a process without a master, and returns the warnings.
    pub(super) fn settings(&self, py: Python<'_>) -> PyResult<(Settings, Vec<String>)> {
        let resolved = self
            .layer
            .without_master()
            .and_then(|()| self.source().look()?.without_python());
        resolved.map_err(|error| config_error(py, &error))
    }

    /// What the user may believe to be read, and is not.
    pub(super) fn unread(&self) -> Vec<String> {
        self.source().unread()
    }

    pub(super) fn source(&self) -> Source {
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        Source::new(self.layer.clone(), ProcessEnvironment::default(), directory)
    }
}

/// A value as one of a setting. Whether there is a setting of that kind is another question.
fn value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_instance_of::<PyBool>() {
        return Ok(Value::Switch(value.extract()?));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(Value::Number(value.str()?.extract()?));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(Value::Decimal(value.extract::<f64>()?.to_string()));
    }
    let list = value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>();
    let known = if list {
        let items = value.try_iter()?.map(|item| item.map(|item| text(&item)));
        items.collect::<PyResult<Option<_>>>()?.map(Value::List)
    } else {
        text(value).map(Value::Text)
    };
    match known {
        Some(known) => Ok(known),
        None => Ok(Value::Other(value.get_type().name()?.extract()?)),
    }
}

/// A string, or the path of an `os.PathLike`.
fn text(value: &Bound<'_, PyAny>) -> Option<String> {
    if value.is_instance_of::<PyString>() {
        return value.extract().ok();
    }
    let path: PathBuf = value.extract().ok()?;
    path.into_os_string().into_string().ok()
}
