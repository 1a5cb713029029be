//! `gunicorn.socket`: the connection, for an application that speaks for itself on it.

use std::os::fd::IntoRawFd;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::glue;
use crate::http::handover::{Handover, Offer};

/// The socket in the environ of a request.
pub(crate) struct LentSocket<'py> {
    socket: Bound<'py, PyAny>,
    handover: Arc<Handover>,
}

impl<'py> LentSocket<'py> {
    /// Puts the socket into the environ.
    pub(crate) fn lend(environ: &Bound<'py, PyDict>, offer: Offer) -> PyResult<Self> {
        let py = environ.py();
        let Offer { handover, socket } = offer;
        let class = glue::lent_socket(py)?.getattr("LentSocket")?;
        let socket = class.call1((socket.into_raw_fd(),))?;
        environ.set_item(pyo3::intern!(py, "gunicorn.socket"), &socket)?;
        Ok(Self { socket, handover })
    }

    /// Ends the connection with the request. A thread of the application's own that reads
    /// from it is woken, and may still answer what it has just read, such as a close frame.
    pub(crate) fn take_back(self) {
        if let Err(error) = self.socket.call_method0("end") {
            tracing::debug!("gunicorn.socket could not be ended: {error}");
        }
        self.handover.end();
    }
}
