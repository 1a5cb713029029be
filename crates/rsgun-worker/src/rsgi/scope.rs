//! What an application learns of a request. Strings are made when they are asked for.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::{Method, Uri, Version};
use percent_encoding::percent_decode;
use pyo3::prelude::*;

use super::headers::Headers;
use crate::http::access_log;
use crate::reactor::queue::{Peer, ServerAddress};

/// Version of RSGI that is served.
const VERSION: &str = "1.6";

/// The scope of a request or a WebSocket.
#[pyclass(frozen, name = "RSGIScope", module = "rsgun._rsgun")]
pub(crate) struct Scope {
    /// `http`, or `ws`.
    #[pyo3(get)]
    proto: &'static str,
    version: Version,
    method: Method,
    uri: Uri,
    client: Option<SocketAddr>,
    server: ServerAddress,
    #[pyo3(get)]
    headers: Py<Headers>,
}

impl Scope {
    /// The scope of the protocol `proto`.
    pub(crate) fn make<'py>(
        py: Python<'py>,
        proto: &'static str,
        parts: http::request::Parts,
        peer: &Peer,
    ) -> PyResult<Bound<'py, PyAny>> {
        let scope = Self {
            proto,
            version: parts.version,
            method: parts.method,
            uri: parts.uri,
            client: peer.client,
            server: peer.server.clone(),
            headers: Py::new(py, Headers::new(parts.headers))?,
        };
        Ok(Bound::new(py, scope)?.into_any())
    }

    /// The method, or `WebSocket`, and the target, as in the access log.
    pub(crate) fn request(&self) -> String {
        let method = match self.proto {
            "ws" => "WebSocket",
            _ => self.method.as_str(),
        };
        format!("{method} {}", access_log::target(&self.uri))
    }
}

#[pymethods]
#[expect(clippy::unused_self, reason = "attributes")]
impl Scope {
    #[getter]
    fn rsgi_version(&self) -> &'static str {
        VERSION
    }

    #[getter]
    fn http_version(&self) -> &'static str {
        match self.version {
            Version::HTTP_10 => "1",
            Version::HTTP_2 => "2",
            _ => "1.1",
        }
    }

    #[getter]
    fn scheme(&self) -> &'static str {
        "http"
    }

    #[getter]
    fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Without the query, percent-decoded.
    #[getter]
    fn path(&self) -> Cow<'_, str> {
        percent_decode(self.uri.path().as_bytes()).decode_utf8_lossy()
    }

    #[getter]
    fn query_string(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }

    /// What an absolute request target names; `None` for the usual ones.
    #[getter]
    fn authority(&self) -> Option<&str> {
        self.uri.authority().map(http::uri::Authority::as_str)
    }

    /// `ADDRESS:PORT`; empty on a UNIX socket.
    #[getter]
    fn client(&self) -> String {
        self.client
            .map_or_else(String::new, |address| address.to_string())
    }

    /// `ADDRESS:PORT`, or the path of a UNIX socket.
    #[getter]
    fn server(&self) -> String {
        match &self.server {
            ServerAddress::Ip(address) => address.to_string(),
            ServerAddress::Unix(path) => path.as_ref().to_owned(),
        }
    }
}
