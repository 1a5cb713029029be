//! The connection scope of a request (ASGI HTTP 2.5).
//!
//! Starlette, and with it `FastAPI`, takes `spec_version` for a choice: from 2.4 on its
//! streamed responses do not listen for `http.disconnect` any more and learn that the client
//! has left by the `OSError` of `send()`. A stream that waits for its next event sends
//! nothing, so it would never learn it, hold its resources for ever, and hold up each stop;
//! and every client that leaves another stream is an error of the application. To an
//! application that has loaded it, HTTP requests say 2.3 therefore, as they do under
//! uvicorn. `send()` raises all the same.

use std::cell::RefCell;

use http::{Method, Version};
use percent_encoding::percent_decode;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::http::tap::Order;
use crate::reactor::queue::{Peer, ServerAddress};

/// Version of the ASGI HTTP specification that is served.
const SPEC_VERSION: &str = "2.5";
/// The last one that lets Starlette listen for the end of a connection.
const SPEC_VERSION_FOR_STARLETTE: &str = "2.3";
/// The module of Starlette that makes the difference.
const STARLETTE: &str = "starlette.responses";
/// Header names that are kept as Python objects, a power of two.
const NAMES: usize = 256;
/// Longer names are not kept.
const NAME_MAX: usize = 40;

/// Makes scopes; holds what is the same in all of them.
pub(crate) struct ScopeMaker {
    /// The keys that never change; copied for each request.
    template: Py<PyDict>,
    /// The same for WebSockets.
    websocket_template: Py<PyDict>,
    /// The `asgi` entry; copied, since middleware may write to it.
    asgi: Py<PyDict>,
    /// The same for WebSockets.
    websocket_asgi: Py<PyDict>,
    /// What is offered beyond the specification; copied for the same reason.
    extensions: Py<PyDict>,
    websocket_extensions: Py<PyDict>,
    /// The lifespan state; each request gets a shallow copy.
    state: Py<PyDict>,
    root_path: String,
    /// Header names seen before, found by a few of their bytes.
    names: RefCell<Vec<Option<Py<PyBytes>>>>,
}

impl ScopeMaker {
    /// `version` is that of ASGI which the application, loaded by now, is written for.
    pub(crate) fn new(
        py: Python<'_>,
        version: &str,
        root_path: &str,
        state: Py<PyDict>,
    ) -> PyResult<Self> {
        let asgi = PyDict::new(py);
        asgi.set_item("version", version)?;
        asgi.set_item("spec_version", SPEC_VERSION)?;
        let websocket_asgi = asgi.copy()?;
        let modules = py.import("sys")?.getattr("modules")?;
        if modules.contains(STARLETTE)? {
            asgi.set_item("spec_version", SPEC_VERSION_FOR_STARLETTE)?;
        }
        let template = PyDict::new(py);
        template.set_item(pyo3::intern!(py, "type"), pyo3::intern!(py, "http"))?;
        template.set_item(pyo3::intern!(py, "asgi"), py.None())?;
        template.set_item(pyo3::intern!(py, "http_version"), pyo3::intern!(py, "1.1"))?;
        template.set_item(pyo3::intern!(py, "method"), py.None())?;
        template.set_item(pyo3::intern!(py, "scheme"), pyo3::intern!(py, "http"))?;
        template.set_item(pyo3::intern!(py, "path"), py.None())?;
        template.set_item(pyo3::intern!(py, "raw_path"), py.None())?;
        template.set_item(pyo3::intern!(py, "query_string"), PyBytes::new(py, b""))?;
        template.set_item(pyo3::intern!(py, "root_path"), root_path)?;
        template.set_item(pyo3::intern!(py, "headers"), py.None())?;
        template.set_item(pyo3::intern!(py, "client"), py.None())?;
        template.set_item(pyo3::intern!(py, "server"), py.None())?;
        template.set_item(pyo3::intern!(py, "state"), py.None())?;
        template.set_item(pyo3::intern!(py, "extensions"), py.None())?;
        let websocket_template = template.copy()?;
        websocket_template.set_item(pyo3::intern!(py, "type"), pyo3::intern!(py, "websocket"))?;
        websocket_template.set_item(pyo3::intern!(py, "scheme"), pyo3::intern!(py, "ws"))?;
        websocket_template.del_item(pyo3::intern!(py, "method"))?;
        websocket_template.set_item(pyo3::intern!(py, "subprotocols"), py.None())?;
        let extensions = PyDict::new(py);
        extensions.set_item("http.response.pathsend", PyDict::new(py))?;
        let websocket_extensions = PyDict::new(py);
        websocket_extensions.set_item("websocket.http.response", PyDict::new(py))?;
        Ok(Self {
            template: template.unbind(),
            websocket_template: websocket_template.unbind(),
            asgi: asgi.unbind(),
            websocket_asgi: websocket_asgi.unbind(),
            extensions: extensions.unbind(),
            websocket_extensions: websocket_extensions.unbind(),
            state,
            root_path: root_path.to_owned(),
            names: RefCell::new((0..NAMES).map(|_| None).collect()),
        })
    }

    /// Makes the scope of one request.
    pub(crate) fn make<'py>(
        &self,
        py: Python<'py>,
        parts: &http::request::Parts,
        peer: &Peer,
    ) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.template.bind(py).copy()?;
        scope.set_item(pyo3::intern!(py, "method"), method_name(py, &parts.method))?;
        self.complete(&scope, &self.asgi, parts, peer)?;
        let extensions = self.extensions.bind(py).copy()?;
        scope.set_item(pyo3::intern!(py, "extensions"), extensions)?;
        Ok(scope)
    }

    /// Makes the scope of one WebSocket (ASGI WebSocket, "Connection Scope").
    pub(crate) fn make_websocket<'py>(
        &self,
        py: Python<'py>,
        parts: &http::request::Parts,
        peer: &Peer,
        subprotocols: &[String],
    ) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.websocket_template.bind(py).copy()?;
        let subprotocols = PyList::new(py, subprotocols)?;
        scope.set_item(pyo3::intern!(py, "subprotocols"), subprotocols)?;
        self.complete(&scope, &self.websocket_asgi, parts, peer)?;
        let extensions = self.websocket_extensions.bind(py).copy()?;
        scope.set_item(pyo3::intern!(py, "extensions"), extensions)?;
        Ok(scope)
    }

    /// The method, or `WebSocket`, and the target of a scope, as in the access log. The
    /// application may have changed it: `None` if it says nothing any more.
    pub(crate) fn request(&self, scope: &Bound<'_, PyAny>) -> Option<String> {
        let scope = scope.cast::<PyDict>().ok()?;
        let text = |key| scope.get_item(key).ok()?.map(|value| value.to_string());
        let bytes = |key| {
            let value = scope.get_item(key).ok()??;
            let value = value.cast::<PyBytes>().ok()?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let method = match text("type")?.as_str() {
            "websocket" => "WebSocket".to_owned(),
            _ => text("method")?,
        };
        let path = bytes("raw_path")?;
        // It is not part of what was asked for.
        let path = path.strip_prefix(&self.root_path).unwrap_or(&path);
        Some(match bytes("query_string").filter(|it| !it.is_empty()) {
            Some(query) => format!("{method} {path}?{query}"),
            None => format!("{method} {path}"),
        })
    }

    /// Adds what requests and WebSockets have in common.
    fn complete(
        &self,
        scope: &Bound<'_, PyDict>,
        asgi: &Py<PyDict>,
        parts: &http::request::Parts,
        peer: &Peer,
    ) -> PyResult<()> {
        let py = scope.py();
        scope.set_item(pyo3::intern!(py, "asgi"), asgi.bind(py).copy()?)?;
        if parts.version != Version::HTTP_11 {
            scope.set_item(
                pyo3::intern!(py, "http_version"),
                version_name(parts.version),
            )?;
        }
        let (path, raw_path) = self.paths(py, parts.uri.path().as_bytes());
        scope.set_item(pyo3::intern!(py, "path"), path)?;
        scope.set_item(pyo3::intern!(py, "raw_path"), raw_path)?;
        if let Some(query) = parts.uri.query()
            && !query.is_empty()
        {
            scope.set_item(
                pyo3::intern!(py, "query_string"),
                PyBytes::new(py, query.as_bytes()),
            )?;
        }
        scope.set_item(pyo3::intern!(py, "headers"), self.headers(py, parts)?)?;
        let (client, server) = ends(py, peer)?;
        scope.set_item(pyo3::intern!(py, "client"), client)?;
        scope.set_item(pyo3::intern!(py, "server"), server)?;
        scope.set_item(pyo3::intern!(py, "state"), self.state.bind(py).copy()?)?;
        Ok(())
    }

    /// `path` and `raw_path`; both begin with the root path, under which the
    /// application is mounted (`root_path` of ASGI HTTP).
    fn paths<'py>(
        &self,
        py: Python<'py>,
        raw: &[u8],
    ) -> (Bound<'py, PyString>, Bound<'py, PyBytes>) {
        let decoded = percent_decode(raw).decode_utf8_lossy();
        if self.root_path.is_empty() {
            return (PyString::new(py, &decoded), PyBytes::new(py, raw));
        }
        let path = PyString::new(py, &format!("{}{decoded}", self.root_path));
        let raw_path = PyBytes::new(py, &[self.root_path.as_bytes(), raw].concat());
        (path, raw_path)
    }

    fn headers<'py>(
        &self,
        py: Python<'py>,
        parts: &http::request::Parts,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut pairs = Vec::with_capacity(parts.headers.len());
        let mut names = self.names.borrow_mut();
        for (name, value) in &parts.headers {
            let name = name_object(py, &mut names, name.as_str().as_bytes());
            let value = PyBytes::new(py, value.as_bytes());
            pairs.push(PyTuple::new(py, [name, value])?);
        }
        match parts.extensions.get::<Order>() {
            None => PyList::new(py, pairs),
            Some(order) => {
                let ordered = order.iter().filter_map(|index| pairs.get(*index));
                // What the server has made of the target stands behind them.
                let added = pairs.get(order.len()..).unwrap_or_default();
                PyList::new(py, ordered.chain(added).collect::<Vec<_>>())
            }
        }
    }
}

/// The Python object of a header name, kept for the next request with the same one.
fn name_object<'py>(
    py: Python<'py>,
    names: &mut [Option<Py<PyBytes>>],
    name: &[u8],
) -> Bound<'py, PyBytes> {
    let (Some(first), Some(last)) = (name.first(), name.last()) else {
        return PyBytes::new(py, name);
    };
    if name.len() > NAME_MAX {
        return PyBytes::new(py, name);
    }
    let middle = name[name.len() / 2];
    let hash = usize::from(*first) * 31 + usize::from(*last) * 7 + usize::from(middle) + name.len();
    let Some(entry) = names.get_mut(hash % NAMES) else {
        return PyBytes::new(py, name);
    };
    match entry {
        Some(known) if known.as_bytes(py) == name => known.bind(py).clone(),
        Some(_) => PyBytes::new(py, name),
        None => {
            let object = PyBytes::new(py, name);
            *entry = Some(object.clone().unbind());
            object
        }
    }
}

/// "The HTTP method name, uppercased" (ASGI HTTP, "Connection Scope").
fn method_name<'py>(py: Python<'py>, method: &Method) -> Bound<'py, PyString> {
    match *method {
        Method::GET => pyo3::intern!(py, "GET").clone(),
        Method::POST => pyo3::intern!(py, "POST").clone(),
        Method::PUT => pyo3::intern!(py, "PUT").clone(),
        Method::DELETE => pyo3::intern!(py, "DELETE").clone(),
        Method::HEAD => pyo3::intern!(py, "HEAD").clone(),
        Method::OPTIONS => pyo3::intern!(py, "OPTIONS").clone(),
        Method::PATCH => pyo3::intern!(py, "PATCH").clone(),
        _ => PyString::new(py, &method.as_str().to_ascii_uppercase()),
    }
}

/// `client` and `server`, made once for each connection.
fn ends<'a, 'py>(
    py: Python<'py>,
    peer: &'a Peer,
) -> PyResult<(&'a Bound<'py, PyAny>, &'a Bound<'py, PyAny>)> {
    if peer.python.get().is_none() {
        let client = match peer.client {
            Some(address) => (address.ip().to_string(), address.port())
                .into_pyobject(py)?
                .into_any()
                .unbind(),
            None => py.None(),
        };
        let server = match &peer.server {
            ServerAddress::Ip(address) => (address.ip().to_string(), address.port())
                .into_pyobject(py)?
                .into_any()
                .unbind(),
            ServerAddress::Unix(path) => (path.as_ref(), py.None())
                .into_pyobject(py)?
                .into_any()
                .unbind(),
        };
        // Nobody else can have set it meanwhile: this is the only place.
        let _ = peer.python.set((client, server));
    }
    peer.python
        .get()
        .map(|(client, server)| (client.bind(py), server.bind(py)))
        .ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("the connection has no addresses"))
}

/// The HTTP version as ASGI writes it.
fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
