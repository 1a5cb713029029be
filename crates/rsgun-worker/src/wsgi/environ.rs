//! The environ of a request (PEP 3333, "`environ` Variables"; RFC 3875).

use std::borrow::Cow;
use std::os::fd::IntoRawFd;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Version};
use percent_encoding::percent_decode;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::file_wrapper::FileWrapper;
use super::pool::{Body, Job};
use crate::reactor::queue::ServerAddress;

/// Header names that are kept as Python objects, a power of two.
const NAMES: usize = 256;
/// Values up to this length are kept, one for each name.
const VALUE_MAX: usize = 256;

/// What makes an environ, the same for all requests.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `SCRIPT_NAME`: the path under which the application is mounted, a [`mount_point`].
    pub(crate) root_path: String,
    pub(crate) multithread: bool,
    pub(crate) multiprocess: bool,
}

/// Makes environs; each Python thread has its own.
pub(crate) struct EnvironMaker {
    /// The keys that never change; copied for each request.
    template: Py<PyDict>,
    bytes_io: Py<PyAny>,
    open: Py<PyAny>,
    root_path: String,
    names: Vec<Option<Known>>,
    client: Option<(std::net::IpAddr, Py<PyString>)>,
    server: Option<(ServerAddress, Py<PyString>, Py<PyString>)>,
}

/// A header that was seen before.
struct Known {
    name: HeaderName,
    key: Py<PyString>,
    /// Its last value.
    value: Option<(Vec<u8>, Py<PyString>)>,
}

/// `--root-path` as a `SCRIPT_NAME`: empty, or with a slash at the beginning and none at
/// the end, since the rest of the path begins with one.
pub(crate) fn mount_point(root_path: &str) -> String {
    let inner = root_path.trim_end_matches('/');
    if inner.is_empty() || inner.starts_with('/') {
        return inner.to_owned();
    }
    format!("/{inner}")
}

impl EnvironMaker {
    pub(crate) fn new(py: Python<'_>, plan: &Plan) -> PyResult<Self> {
        let template = PyDict::new(py);
        let set = |key: &str, value: Bound<'_, PyAny>| {
            template.set_item(PyString::intern(py, key), value)
        };
        set("REQUEST_METHOD", py.None().into_bound(py))?;
        set(
            "SCRIPT_NAME",
            PyString::new(py, &latin1(plan.root_path.as_bytes())).into_any(),
        )?;
        set("PATH_INFO", py.None().into_bound(py))?;
        set("QUERY_STRING", PyString::new(py, "").into_any())?;
        set("REQUEST_URI", py.None().into_bound(py))?;
        set("RAW_URI", py.None().into_bound(py))?;
        set("SERVER_NAME", py.None().into_bound(py))?;
        set("SERVER_PORT", py.None().into_bound(py))?;
        set(
            "SERVER_PROTOCOL",
            PyString::intern(py, "HTTP/1.1").into_any(),
        )?;
        set(
            "SERVER_SOFTWARE",
            PyString::new(py, &format!("rsgun/{}", rsgun_core::VERSION)).into_any(),
        )?;
        set("GATEWAY_INTERFACE", PyString::new(py, "CGI/1.1").into_any())?;
        set("REMOTE_ADDR", PyString::new(py, "").into_any())?;
        set("wsgi.version", (1, 0).into_pyobject(py)?.into_any())?;
        set("wsgi.url_scheme", PyString::intern(py, "http").into_any())?;
        set("wsgi.input", py.None().into_bound(py))?;
        set(
            "wsgi.input_terminated",
            true.into_pyobject(py)?.to_owned().into_any(),
        )?;
        set("wsgi.errors", py.import("sys")?.getattr("stderr")?)?;
        let flag = |value: bool| {
            value
                .into_pyobject(py)
                .map(|value| value.to_owned().into_any())
        };
        set("wsgi.multithread", flag(plan.multithread)?)?;
        set("wsgi.multiprocess", flag(plan.multiprocess)?)?;
        set("wsgi.run_once", flag(false)?)?;
        set("wsgi.file_wrapper", py.get_type::<FileWrapper>().into_any())?;
        let io = py.import("io")?;
        Ok(Self {
            template: template.unbind(),
            bytes_io: io.getattr("BytesIO")?.unbind(),
            open: io.getattr("open")?.unbind(),
            root_path: plan.root_path.clone(),
            names: (0..NAMES).map(|_| None).collect(),
            client: None,
            server: None,
        })
    }

    /// Makes the environ of a request, which gives up its body for it.
    pub(crate) fn make<'py>(
        &mut self,
        py: Python<'py>,
        job: &mut Job,
    ) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.template.bind(py).copy()?;
        let parts = &job.parts;
        environ.set_item(
            pyo3::intern!(py, "REQUEST_METHOD"),
            method(py, &parts.method),
        )?;
        self.set_paths(&environ, &parts.uri)?;
        if parts.version == Version::HTTP_10 {
            environ.set_item(pyo3::intern!(py, "SERVER_PROTOCOL"), "HTTP/1.0")?;
        }
        self.set_server(&environ, &job.server, &parts.headers)?;
        if let Some(client) = job.client {
            self.set_client(&environ, client)?;
        }
        self.set_headers(&environ, &parts.headers)?;
        self.set_body(&environ, job)?;
        Ok(environ)
    }

    /// The path is what follows the root path, whether the proxy in front has taken that
    /// off or not.
    fn set_paths(&self, environ: &Bound<'_, PyDict>, uri: &http::Uri) -> PyResult<()> {
        let py = environ.py();
        let raw = uri.path().as_bytes();
        let decoded: Cow<'_, [u8]> = if raw.contains(&b'%') {
            percent_decode(raw).into()
        } else {
            Cow::Borrowed(raw)
        };
        let path = decoded
            .strip_prefix(self.root_path.as_bytes())
            .filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
            .unwrap_or(&decoded);
        let is_whole = path.len() == raw.len();
        let path = text(py, path);
        let target = match uri.path_and_query() {
            Some(target) if uri.query().is_none() && is_whole && target.as_str() == uri.path() => {
                path.clone()
            }
            Some(target) if target.as_str().starts_with('?') => {
                // Written out it has the path that it lacks.
                text(py, target.to_string().as_bytes())
            }
            Some(target) => text(py, target.as_str().as_bytes()),
            None => PyString::new(py, "*"),
        };
        environ.set_item(pyo3::intern!(py, "PATH_INFO"), path)?;
        environ.set_item(pyo3::intern!(py, "REQUEST_URI"), &target)?;
        environ.set_item(pyo3::intern!(py, "RAW_URI"), target)?;
        if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
            environ.set_item(
                pyo3::intern!(py, "QUERY_STRING"),
                text(py, query.as_bytes()),
            )?;
        }
        Ok(())
    }

    fn set_client(
        &mut self,
        environ: &Bound<'_, PyDict>,
        client: std::net::SocketAddr,
    ) -> PyResult<()> {
        let py = environ.py();
        let address = match &self.client {
            Some((known, address)) if *known == client.ip() => address.bind(py).clone(),
            _ => {
                let address = PyString::new(py, &client.ip().to_string());
                self.client = Some((client.ip(), address.clone().unbind()));
                address
            }
        };
        environ.set_item(pyo3::intern!(py, "REMOTE_ADDR"), address)?;
        environ.set_item(
            pyo3::intern!(py, "REMOTE_PORT"),
            PyString::new(py, &client.port().to_string()),
        )
    }

    fn set_server(
        &mut self,
        environ: &Bound<'_, PyDict>,
        server: &ServerAddress,
        headers: &HeaderMap,
    ) -> PyResult<()> {
        let py = environ.py();
        let known = self.server.as_ref().filter(|(known, _, _)| known == server);
        let (name, port) = match (known, server) {
            (Some((_, name, port)), _) => (name.bind(py).clone(), port.bind(py).clone()),
            (None, ServerAddress::Ip(address)) => {
                let name = PyString::new(py, &address.ip().to_string());
                let port = PyString::new(py, &address.port().to_string());
                self.server = Some((server.clone(), name.clone().unbind(), port.clone().unbind()));
                (name, port)
            }
            (None, ServerAddress::Unix(_)) => {
                // A UNIX socket has neither; what the client calls the server is closest.
                let host = headers.get(HOST).and_then(|host| host.to_str().ok());
                let (name, port) = split_host(host.unwrap_or_default());
                (PyString::new(py, name), PyString::new(py, port))
            }
        };
        environ.set_item(pyo3::intern!(py, "SERVER_NAME"), name)?;
        environ.set_item(pyo3::intern!(py, "SERVER_PORT"), port)
    }

    fn set_headers(&mut self, environ: &Bound<'_, PyDict>, headers: &HeaderMap) -> PyResult<()> {
        let py = environ.py();
        let has_repeats = headers.len() != headers.keys_len();
        let mut last: Option<&HeaderName> = None;
        for (name, value) in headers {
            if has_repeats && last == Some(name) {
                continue;
            }
            last = Some(name);
            if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                // Of the message, not of what is read from `wsgi.input`.
                continue;
            }
            // `X_A` and `X-A` would have the same key, and a proxy watches over one of
            // them only.
            if name.as_str().contains('_') {
                continue;
            }
            if has_repeats && headers.get_all(name).iter().count() > 1 {
                let joined = join(name, headers);
                let key = self.known(py, name).key.clone_ref(py);
                environ.set_item(key, text(py, &joined))?;
                continue;
            }
            let known = self.known(py, name);
            let bytes = value.as_bytes();
            match &known.value {
                Some((last, value)) if last == bytes => environ.set_item(&known.key, value)?,
                _ => {
                    let value = text(py, bytes);
                    environ.set_item(&known.key, &value)?;
                    if bytes.len() <= VALUE_MAX {
                        known.value = Some((bytes.to_owned(), value.unbind()));
                    }
                }
            }
        }
        Ok(())
    }

    fn known(&mut self, py: Python<'_>, name: &HeaderName) -> &mut Known {
        let entry = &mut self.names[hash(name.as_str().as_bytes())];
        match entry {
            Some(known) if known.name == *name => {}
            _ => *entry = None,
        }
        entry.get_or_insert_with(|| Known {
            name: name.clone(),
            // Not interned: CPython 3.12 keeps that for ever, and the client chooses names.
            key: PyString::new(py, &key(name)).unbind(),
            value: None,
        })
    }

    fn set_body(&self, environ: &Bound<'_, PyDict>, job: &mut Job) -> PyResult<()> {
        let py = environ.py();
        let length = job.body.length();
        let was_framed = job.parts.headers.contains_key(CONTENT_LENGTH)
            || job.parts.headers.contains_key(TRANSFER_ENCODING);
        if was_framed {
            // Known for a chunked body, too: applications take a missing length for none.
            environ.set_item(
                pyo3::intern!(py, "CONTENT_LENGTH"),
                PyString::new(py, &length.to_string()),
            )?;
        }
        let body = std::mem::replace(&mut job.body, Body::Memory(bytes::Bytes::new()));
        let input = match body {
            Body::Memory(bytes) if bytes.is_empty() => self.bytes_io.bind(py).call0()?,
            Body::Memory(bytes) => {
                let bytes = PyBytes::new(py, &bytes);
                self.bytes_io.bind(py).call1((bytes,))?
            }
            Body::Disk(file, _) => self.open.bind(py).call1((file.into_raw_fd(), "rb"))?,
        };
        environ.set_item(pyo3::intern!(py, "wsgi.input"), input)
    }
}

/// Where a header name is kept.
fn hash(name: &[u8]) -> usize {
    let at = |index: usize| usize::from(name.get(index).copied().unwrap_or_default());
    let last = name.len().saturating_sub(1);
    (at(0) * 31 + at(last) * 7 + at(name.len() / 2) + name.len()) % NAMES
}

/// `HTTP_` and the name, but for two headers.
fn key(name: &HeaderName) -> String {
    if name == CONTENT_TYPE {
        return "CONTENT_TYPE".to_owned();
    }
    let mut key = String::with_capacity(5 + name.as_str().len());
    key.push_str("HTTP_");
    key.extend(name.as_str().chars().map(|character| match character {
        '-' => '_',
        other => other.to_ascii_uppercase(),
    }));
    key
}

/// All values of a header as one (RFC 9110, 5.3; cookies: RFC 6265, 5.4).
fn join(name: &HeaderName, headers: &HeaderMap) -> Vec<u8> {
    let separator: &[u8] = if name == COOKIE { b"; " } else { b"," };
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(http::HeaderValue::as_bytes)
        .collect();
    values.join(separator)
}

/// Bytes as a native string of WSGI: each is the character of the same number.
fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    PyString::new(py, &latin1(bytes))
}

fn latin1(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// Name and port of a `Host` header; neither is ever empty.
fn split_host(host: &str) -> (&str, &str) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    };
    (
        if name.is_empty() { "localhost" } else { name },
        if port.is_empty() { "80" } else { port },
    )
}

/// The method as the client has sent it, since methods are case-sensitive (RFC 9110,
/// section 9.1) and PEP 3333 does not say otherwise; so does gunicorn, unless its
/// `casefold_http_method` is set.
fn method<'py>(py: Python<'py>, method: &Method) -> Bound<'py, PyString> {
    match *method {
        Method::GET => pyo3::intern!(py, "GET").clone(),
        Method::POST => pyo3::intern!(py, "POST").clone(),
        Method::HEAD => pyo3::intern!(py, "HEAD").clone(),
        _ => PyString::new(py, method.as_str()),
    }
}
