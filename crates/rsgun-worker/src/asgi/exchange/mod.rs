//! One request and its response, between the connection and the application.
//!
//! An [`Exchange`] has two users. The connection (read and write phases) feeds the
//! request body in and takes the response out; it never touches Python. The
//! application (run phase), through [`super::cycle::Cycle`], takes the body and
//! gives the response. Both sides lock it for a few instructions. Python objects
//! that wait here are only ever created, resolved and dropped by the run phase.

mod overflow;
mod request;
mod response;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use http::Method;
use pyo3::{Py, PyAny};

pub(crate) use self::request::{Received, RequestBody};
use self::response::ResponseState;
pub(crate) use self::response::{Aborted, Stage, Unread};
use crate::http::rest::Rest;

/// A request and its response.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: Mutex<State>,
    /// There is room on the disk again, or the end has come.
    room: Condvar,
    /// The answer has no body, whatever the application sends.
    pub(crate) is_head: bool,
    /// When the request was read, microseconds of the reactor's clock.
    pub(crate) started_us: u64,
    /// When the application has had its time, milliseconds of the reactor's clock; 0: it
    /// may take any time. The application moves it from any thread.
    deadline_ms: AtomicU64,
    /// What becomes of the request when its client leaves.
    orphan: AtomicUsize,
    /// The application has taken the connection; only set while the state is locked.
    handed_over: AtomicBool,
}

/// What a waiting part of a body counts besides its bytes. Whoever sends the parts decides
/// how small they are, and the memory that each takes has a bound as well.
const PART_COST: usize = 64;

/// Values of [`Exchange::orphan`] besides the number of the request and 2: the application
/// decides by itself, or the request was cancelled.
const KEPT: usize = 0;
const CANCELLED: usize = 1;

/// How both stand.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) request: RequestBody,
    pub(crate) response: ResponseState,
    /// The request body is collected before the application is called: every part is news.
    collects: bool,
    /// Futures of `receive()` calls that wait for something new.
    pub(crate) receivers: Vec<Py<PyAny>>,
    /// Futures of `send()` calls that wait for the client.
    pub(crate) senders: Vec<Py<PyAny>>,
    /// The peer has closed its sending side, or is gone altogether.
    pub(crate) disconnected: bool,
    /// The connection cannot take anything any more.
    pub(crate) closed: bool,
    /// The task that drives the connection.
    connection: Option<Waker>,
}

impl Exchange {
    pub(crate) fn new(method: &Method, request: RequestBody, started_us: u64) -> Self {
        Self {
            state: Mutex::new(State {
                request,
                response: ResponseState::new(),
                collects: false,
                receivers: Vec::new(),
                senders: Vec::new(),
                disconnected: false,
                closed: false,
                connection: None,
            }),
            room: Condvar::new(),
            is_head: method == Method::HEAD,
            started_us,
            deadline_ms: AtomicU64::new(0),
            orphan: AtomicUsize::new(KEPT),
            handed_over: AtomicBool::new(false),
        }
    }

    /// The request, which the reactor keeps under this number, is to be cancelled when its
    /// client leaves before the answer is complete.
    pub(crate) fn cancel_if_left(&self, entry: usize) {
        self.orphan.store(entry + 2, Relaxed);
    }

    /// The number of the request if it is to be cancelled now; once.
    pub(crate) fn take_orphan(&self) -> Option<usize> {
        let entry = self.orphan.load(Relaxed).checked_sub(2)?;
        let state = self.lock();
        // One that the server has answered itself runs on for nothing all the more.
        let is_left = state.disconnected && !matches!(state.response.stage, Stage::Complete);
        drop(state);
        if is_left {
            self.orphan.store(CANCELLED, Relaxed);
        }
        is_left.then_some(entry)
    }

    /// Whether the request was cancelled because its client has left.
    pub(crate) fn is_orphan(&self) -> bool {
        self.orphan.load(Relaxed) == CANCELLED
    }

    /// The application is through with the request, whose number will be another's.
    pub(crate) fn keep(&self) {
        self.orphan.store(KEPT, Relaxed);
    }

    /// Whether the reactor wants to know that the client has left.
    fn may_be_orphan(&self) -> bool {
        self.orphan.load(Relaxed) > CANCELLED
    }

    /// Locks the state. A panic elsewhere while it was locked left it usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the application has had its time; see the field.
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.deadline_ms.load(Relaxed)
    }

    /// Sets it.
    pub(crate) fn set_deadline_ms(&self, deadline_ms: u64) {
        self.deadline_ms.store(deadline_ms, Relaxed);
    }

    /// Gives the application so much more time, if it is limited.
    pub(crate) fn extend_deadline(&self, milliseconds: u64) {
        // Without a deadline there is nothing to be done.
        let _ = self
            .deadline_ms
            .fetch_update(Relaxed, Relaxed, |deadline| match deadline {
                0 => None,
                _ => Some(deadline.saturating_add(milliseconds)),
            });
    }

    /// The connection has ended, or goes on without this exchange. Returns whether the
    /// application waits for something, or the reactor wants to know; and what the client may
    /// still send of the request's body.
    pub(crate) fn connection_lost(&self) -> (bool, Option<Rest>) {
        let mut state = self.lock();
        state.disconnected = true;
        state.closed = true;
        state.connection = None;
        let rest = state.request.take_rest();
        state.response.abandon();
        self.unblock(&mut state);
        let tell = state.is_awaited() || !state.senders.is_empty() || self.may_be_orphan();
        (tell, rest)
    }
}

impl State {
    /// Takes a future out of those that wait.
    pub(crate) fn forget(&mut self, future: &Py<PyAny>) -> Option<Py<PyAny>> {
        take_out(&mut self.receivers, future).or_else(|| take_out(&mut self.senders, future))
    }

    fn park(&mut self, cx: &Context<'_>) {
        match &self.connection {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => self.connection = Some(cx.waker().clone()),
        }
    }

    fn wake_connection(&self) {
        if let Some(waker) = &self.connection {
            waker.wake_by_ref();
        }
    }
}

/// A shared exchange.
pub(crate) type SharedExchange = Arc<Exchange>;

/// Takes an object out of a list, if it is there.
pub(super) fn take_out(list: &mut Vec<Py<PyAny>>, object: &Py<PyAny>) -> Option<Py<PyAny>> {
    let position = list.iter().position(|other| other.is(object))?;
    Some(list.swap_remove(position))
}
