//! The application: how it is imported, and found out to be of which kind.

use pyo3::prelude::*;
use rsgun_core::config::Settings;

use super::hooks::Hooks;
use crate::glue;

/// The application, and what it is.
pub(crate) struct Application {
    /// As it was found.
    pub(crate) found: Py<PyAny>,
    /// As it is called.
    pub(crate) callable: Py<PyAny>,
    pub(crate) interface: Served,
}

/// The kinds of application as they are called in a worker: ASGI 2 is made to look like
/// ASGI 3 when it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// Version 3 or 2, as the scope is to say.
    Asgi(&'static str),
    Rsgi,
    Wsgi,
}

/// Has the application imported, unless a hook has done that, and finds out what it is.
pub(crate) fn load(
    loader: &Bound<'_, PyModule>,
    settings: &Settings,
    hooks: Option<&Hooks>,
) -> PyResult<Application> {
    let (app, name) = match hooks {
        Some(hooks) => hooks.application(loader.py())?,
        None => import(loader, settings)?,
    };
    Application::new(&app, &name, settings)
}

/// Imports the application; returns it and what errors call it.
pub(super) fn import<'py>(
    loader: &Bound<'py, PyModule>,
    settings: &Settings,
) -> PyResult<(Bound<'py, PyAny>, String)> {
    let target = match settings.django_settings() {
        Some(module) => {
            let arguments = (module, &settings.app_dir, settings.interface.name());
            let target: String = glue::django(loader.py())?
                .call_method1("application", arguments)?
                .extract()?;
            tracing::debug!("the application of {module} is {target}");
            target
        }
        None => settings.app.clone(),
    };
    let app = loader.call_method1("load", (&target, &settings.app_dir, settings.factory))?;
    let modules = loader.py().import("sys")?.getattr("modules")?;
    // Not at the start of every other application, which has no need of that module.
    if modules.contains("django")? {
        glue::django(loader.py())?.call_method1("import_views", (&settings.app_dir,))?;
    }
    Ok((app, format!("\"{target}\"")))
}

impl Application {
    /// Finds out what an application is, which errors call by its `name`.
    ///
    /// # Errors
    /// `InterfaceError` of interface.py; `LoadError` of patches.py.
    pub(crate) fn new(app: &Bound<'_, PyAny>, name: &str, settings: &Settings) -> PyResult<Self> {
        let arguments = (app, name, settings.interface.name(), settings.factory);
        let (callable, interface) = glue::interface(app.py())?
            .call_method1("classify", arguments)?
            .extract::<(Py<PyAny>, String)>()?;
        let interface = match interface.as_str() {
            "wsgi" => Served::Wsgi,
            "rsgi" => Served::Rsgi,
            "asgi2" => Served::Asgi("2.0"),
            _ => Served::Asgi("3.0"),
        };
        if interface == Served::Wsgi && may_have_patched_threads(app.py())? {
            glue::patches(app.py())?.call_method0("refuse_green_threads")?;
        }
        Ok(Self {
            found: app.clone().unbind(),
            callable,
            interface,
        })
    }
}

/// Whether a library that can patch threads is there: most applications have none, and
/// need not be looked at.
fn may_have_patched_threads(py: Python<'_>) -> PyResult<bool> {
    let modules = py.import("sys")?.getattr("modules")?;
    Ok(modules.contains("gevent")? || modules.contains("eventlet")?)
}
