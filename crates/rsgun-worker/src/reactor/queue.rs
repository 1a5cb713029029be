//! What the read and write phases leave for the run phase.
//!
//! The connections may not touch Python. They queue here what the application is
//! to be told, and what was sent straight from Python's memory and must be given
//! back.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use pyo3::pybacked::PyBackedBytes;
use pyo3::{Py, PyAny};

use crate::asgi::exchange::SharedExchange;
use crate::asgi::session::Session;
use crate::http::access_log;
use crate::http::handover::Offer;
use crate::http::shared::Shared;
use crate::wsgi::collecting::Kept;

thread_local! {
    static WORK: RefCell<VecDeque<Work>> = const { RefCell::new(VecDeque::new()) };
}

/// Python objects that no longer serve, from any thread.
static DISCARDED: Mutex<Vec<Discarded>> = Mutex::new(Vec::new());
/// Spares the lock when there are none.
static HAS_DISCARDED: AtomicBool = AtomicBool::new(false);

/// What a phase without Python has finished with.
#[derive(Debug)]
pub(crate) enum Discarded {
    /// Any object.
    Object(#[expect(dead_code, reason = "only dropped")] Py<PyAny>),
    /// A body that was sent from Python's memory.
    Bytes(#[expect(dead_code, reason = "only dropped")] PyBackedBytes),
}

/// One thing for the run phase.
#[derive(Debug)]
pub(crate) enum Work {
    /// Call the application.
    Request(Box<NewRequest>),
    /// Count and log a request that was answered without the application.
    Refused(Box<Refused>),
    /// Something has changed for calls of `receive()` or `send()` that wait.
    Receive(SharedExchange),
    /// The same for a WebSocket.
    Session(Arc<Session>),
    /// A part of a request body was written to disk.
    Kept(Box<Kept>),
}

/// A request whose head has arrived.
#[derive(Debug)]
pub(crate) struct NewRequest {
    pub(crate) parts: http::request::Parts,
    pub(crate) exchange: SharedExchange,
    pub(crate) connection: Rc<Shared>,
    /// It opens a WebSocket.
    pub(crate) session: Option<Arc<Session>>,
    /// The application may take the connection.
    pub(crate) offer: Option<Offer>,
}

/// A request that the server has refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// Its line in the access log.
    pub(crate) entry: access_log::Entry,
}

/// The two ends of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Address of the client; `None` on a UNIX socket.
    pub(crate) client: Option<SocketAddr>,
    /// Address that the client has connected to.
    pub(crate) server: ServerAddress,
    /// `client` and `server` as the scope shows them, made at the first request.
    pub(crate) python: OnceCell<(Py<PyAny>, Py<PyAny>)>,
}

/// The local end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    /// Internet protocol.
    Ip(SocketAddr),
    /// Path, or `@NAME` of an abstract socket.
    Unix(Arc<str>),
}

impl Peer {
    /// The client as logs name it.
    pub(crate) fn label(&self) -> String {
        self.client
            .map_or_else(|| "unix".to_owned(), |address| address.to_string())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some((client, server)) = self.python.take() {
            discard(Discarded::Object(client));
            discard(Discarded::Object(server));
        }
    }
}

/// Leaves something for the run phase.
pub(crate) fn push(work: Work) {
    WORK.with_borrow_mut(|queue| queue.push_back(work));
}

/// Tells a waiting `send()` that there is room again.
pub(crate) fn resume_sender(exchange: &SharedExchange) {
    push(Work::Receive(Arc::clone(exchange)));
}

/// Takes the next thing to do.
pub(crate) fn pop() -> Option<Work> {
    WORK.with_borrow_mut(VecDeque::pop_front)
}

/// Forgets what is left to do: the reactor ends, and the next one has work of its own.
pub(super) fn clear() {
    let rest = WORK.take();
    // What is in it may queue as it goes.
    drop(rest);
}

/// Whether nothing is left to do.
pub(crate) fn is_empty() -> bool {
    WORK.with_borrow(VecDeque::is_empty)
}

/// Gives back a Python object from a place that must not touch Python.
pub(crate) fn discard(object: Discarded) {
    DISCARDED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(object);
    HAS_DISCARDED.store(true, Relaxed);
}

/// Drops what was given back; only for the run phase.
pub(crate) fn drop_discarded() {
    if HAS_DISCARDED.load(Relaxed) {
        HAS_DISCARDED.store(false, Relaxed);
        let discarded =
            std::mem::take(&mut *DISCARDED.lock().unwrap_or_else(PoisonError::into_inner));
        drop(discarded);
    }
}
