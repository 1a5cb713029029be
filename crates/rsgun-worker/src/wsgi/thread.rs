//! What a Python thread does: call the application, send what it returns, close it.

use std::sync::Arc;

use http::{StatusCode, Version};
use pyo3::exceptions::{PyBrokenPipeError, PyConnectionResetError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::log::access;

use super::body;
use super::environ::{EnvironMaker, Plan};
use super::lent_socket::LentSocket;
use super::pool::{self, Job, Pool};
use super::response::{self, StartResponse, Unsent};
use crate::ffi::Immortal;
use crate::glue;
use crate::reactor::pending::Pending;
use crate::reactor::queue;

/// What every Python thread needs.
pub(crate) struct Shop {
    pub(crate) pool: Arc<Pool>,
    pub(crate) app: Py<PyAny>,
    /// serve.py.
    pub(crate) serve_module: Py<PyModule>,
    pub(crate) plan: Plan,
    /// Applications can ask for more time than `--request-timeout`.
    pub(crate) extends_timeouts: bool,
}

/// Works until the pool stops.
pub(crate) fn work(py: Python<'_>, shop: &Shop) -> PyResult<()> {
    // A program may end while an application still works on a request.
    let _immortal = Immortal::new();
    // The pool rings for this thread.
    Pending::defer();
    let ident: u64 = py
        .import("threading")?
        .call_method0("get_ident")?
        .extract()?;
    let gone = shop.serve_module.getattr(py, "ClientDisconnected")?;
    let mut maker = EnvironMaker::new(py, &shop.plan)?;
    while let Some(job) = shop.pool.next(py, ident) {
        serve(py, shop, &mut maker, &gone, job);
        queue::drop_discarded();
    }
    Ok(())
}

/// Serves one request; nothing that the application raises gets out.
fn serve(py: Python<'_>, shop: &Shop, maker: &mut EnvironMaker, gone: &Py<PyAny>, mut job: Job) {
    let called_us = pool::now_us();
    let exchange = Arc::clone(&job.exchange);
    let (entry, queued_us) = (job.entry, job.queued_us);
    let is_wanted = {
        let state = exchange.lock();
        !state.closed && state.refused().is_none()
    };
    if is_wanted {
        let start = StartResponse::new(
            Arc::clone(&exchange),
            Arc::clone(&shop.pool),
            gone.clone_ref(py),
            job.offer.as_ref().map(|offer| Arc::clone(&offer.handover)),
        );
        let outcome = Bound::new(py, start).and_then(|start| {
            let environ = maker.make(py, &mut job)?;
            let is_http_1_0 = job.parts.version == Version::HTTP_10;
            response::add_extensions(&environ, &start, shop.extends_timeouts, is_http_1_0)?;
            let offer = job.offer.take();
            drop(job);
            let lent = offer
                .map(|offer| LentSocket::lend(&environ, offer))
                .transpose()?;
            let outcome = call(py, shop, &environ, &start);
            report(py, shop, &environ, &start, outcome);
            if let Some(lent) = lent {
                lent.take_back();
            }
            Ok(())
        });
        if let Err(error) = outcome {
            tracing::error!("a request could not be started: {error}");
            exchange.give_up(StatusCode::INTERNAL_SERVER_ERROR);
        }
    } else {
        // To close the file of a large body takes as long as the disk does.
        py.detach(|| drop(job));
    }
    let status = exchange.lock().response.status;
    shop.pool.finish(entry, status, queued_us, called_us);
}

/// Calls the application, sends what it returns, and closes it whatever happens.
fn call(
    py: Python<'_>,
    shop: &Shop,
    environ: &Bound<'_, PyDict>,
    start: &Bound<'_, StartResponse>,
) -> Result<(), Unsent> {
    let result = shop.app.bind(py).call1((environ, start))?;
    let sent = if start.get().is_taken() {
        // It may be nothing that can be sent.
        Ok(())
    } else {
        body::send(&result, start.get())
    };
    if let Ok(close) = result.getattr_opt(pyo3::intern!(py, "close"))
        && let Some(close) = close
    {
        // It may take its time; what was sent need not wait for it.
        shop.pool.pending.announce();
        if let Err(error) = close.call0() {
            let (request, text) = (label(environ), describe(py, shop, &error));
            tracing::error!(
                "exception in the close() of the application's iterable{request}\n{text}"
            );
        }
    }
    sent
}

/// Logs how a request went wrong, if it did, and answers it.
fn report(
    py: Python<'_>,
    shop: &Shop,
    environ: &Bound<'_, PyDict>,
    start: &Bound<'_, StartResponse>,
    outcome: Result<(), Unsent>,
) {
    let exchange = start.get().exchange();
    match outcome {
        Ok(()) => return,
        Err(Unsent::Wrong(error)) if start.get().is_taken() && is_an_end(py, &error) => {
            tracing::debug!("a connection that the application had taken ended: {error}");
            return;
        }
        Err(Unsent::Gone) => tracing::debug!("a request ended early: its client has left"),
        Err(Unsent::Wrong(error)) => {
            let is_gone =
                exchange.lock().closed && glue::is_disconnect(&shop.serve_module, error.value(py));
            if is_gone {
                tracing::debug!("a request ended early: {error}");
            } else {
                let (request, text) = (label(environ), describe(py, shop, &error));
                tracing::error!("exception in the application{request}\n{text}");
            }
        }
    }
    exchange.give_up(StatusCode::INTERNAL_SERVER_ERROR);
}

/// How an application leaves a connection that it has taken: by what tells gunicorn not to
/// answer in its place, or because its client has left.
fn is_an_end(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyStopIteration>(py)
        || error.is_instance_of::<PyBrokenPipeError>(py)
        || error.is_instance_of::<PyConnectionResetError>(py)
}

/// What the error log calls a request, after a comma.
///
/// They are asked of the environ, which is there anyhow; an application that has spoilt it
/// goes without.
fn label(environ: &Bound<'_, PyDict>) -> String {
    let text = |key: &str| {
        let value = environ.get_item(key).ok()??.extract::<String>().ok()?;
        // Each character is a byte of what came.
        let bytes: Result<Vec<u8>, _> = value.chars().map(u8::try_from).collect();
        Some(String::from_utf8_lossy(&bytes.ok()?).into_owned())
    };
    match (text("REQUEST_METHOD"), text("RAW_URI")) {
        (Some(method), Some(target)) => {
            format!(", {}", access::name(&format!("{method} {target}")))
        }
        _ => String::new(),
    }
}

fn describe(py: Python<'_>, shop: &Shop, error: &PyErr) -> String {
    // Only so does the value know its traceback.
    let error = error.clone_ref(py).into_value(py).into_bound(py);
    glue::describe(&shop.serve_module, error.as_any())
}
