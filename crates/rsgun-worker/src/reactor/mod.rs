//! The reactor: tokio inside the Python event loop, in three phases a turn.
//!
//! A `current_thread` runtime and the connection tasks live on the Python main
//! thread. The runtime's epoll descriptor is registered with the event loop, which
//! calls [`turn`] when a socket is ready:
//!
//! 1. **Read.** The driver polls once without blocking, the connections run until
//!    they are idle. hyper parses what has arrived; requests are queued, Python is not
//!    touched.
//! 2. **Run.** The queued requests are handed to the application, one after the
//!    other. `send()` only stores the response.
//! 3. **Write.** The connections run again; hyper writes all answers.
//!
//! The phases alternate for a whole batch instead of for each request, because
//! CPython and the kernel's network code would otherwise evict each other from the
//! processor's caches. The batch is bounded ([`BATCH`], [`BATCH_BYTES`],
//! [`BATCH_US`]), so that neither a slow application nor large answers hold back what
//! is ready. A response that is sent outside a turn, by an application that has
//! awaited something, arms one flush for the whole iteration of the event loop.

pub(crate) mod accept;
pub(crate) mod bridge;
pub(crate) mod clock;
pub(crate) mod deadlines;
pub(crate) mod descriptor;
pub(crate) mod engine;
pub(crate) mod last_call;
pub(crate) mod pending;
pub(crate) mod queue;
pub(crate) mod quota;
mod requests;
pub(crate) mod stop;
pub(crate) mod timeouts;

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use self::bridge::Bridge;
use self::engine::Engine;
use self::queue::Work;
use self::requests::Running;
use crate::asgi::exchange::SharedExchange;
use crate::asgi::session::Session;
use crate::http::websocket::Farewell;

/// Requests that are run before answers are written.
const BATCH: usize = 32;
/// Response bytes after which answers are written.
const BATCH_BYTES: usize = 64 * 1024;
/// Microseconds of running after which answers are written. They pass for a worker that
/// has lost its processor as well: with a shorter time such a one falls back to answers
/// one by one just when the machine is busy.
const BATCH_US: u64 = 4_000;
/// Microseconds of a turn, after which timers and waiting tasks get their share; a
/// batch that has been begun ends by its own bounds.
const TURN_US: u64 = 4_000;

thread_local! {
    /// Not dropped with its thread: Python ends those that are left at its exit wherever
    /// they are, and what a reactor holds would then look for the rest of the thread.
    static CURRENT: RefCell<ManuallyDrop<Option<Rc<Reactor>>>> =
        const { RefCell::new(ManuallyDrop::new(None)) };
}

fn set_current(reactor: Option<Rc<Reactor>>) {
    drop(ManuallyDrop::into_inner(
        CURRENT.replace(ManuallyDrop::new(reactor)),
    ));
}

/// The reactor of this thread.
///
/// # Errors
/// `RuntimeError` on a thread that has none: `receive` and `send` belong to the
/// thread of the event loop.
pub(crate) fn current() -> PyResult<Rc<Reactor>> {
    CURRENT
        .with_borrow(|current| (**current).clone())
        .ok_or_else(not_here)
}

/// The reactor of this thread, if it is the one of that number: what has outlived its
/// own reactor must not meddle with the next one.
///
/// # Errors
/// As [`current`].
pub(crate) fn serving(number: u64) -> PyResult<Rc<Reactor>> {
    let reactor = current()?;
    if reactor.number == number {
        Ok(reactor)
    } else {
        Err(not_here())
    }
}

fn not_here() -> PyErr {
    PyRuntimeError::new_err(
        "receive() and send() belong to the event loop's thread and end with the worker",
    )
}

/// The number of the next reactor of this process.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A number for a reactor to be.
pub(crate) fn new_number() -> u64 {
    NEXT_NUMBER.fetch_add(1, Relaxed)
}

/// What a reactor is made of.
pub(crate) struct Parts {
    /// From [`new_number`].
    pub(crate) number: u64,
    pub(crate) engine: engine::Parts,
    pub(crate) bridge: Bridge,
    pub(crate) access_log: bool,
    pub(crate) quota: quota::Quota,
    /// Milliseconds that a request may take; 0: any time.
    pub(crate) request_timeout_ms: u64,
    /// Requests of clients that have left are cancelled.
    pub(crate) cancels_orphans: bool,
}

/// The reactor of a worker.
pub(crate) struct Reactor {
    number: u64,
    pub(crate) engine: Rc<Engine>,
    pub(crate) bridge: Bridge,
    access_log: bool,
    running: RefCell<Running>,
    /// WebSockets that the application has accepted. Apart from the requests, so that
    /// those keep the few entries of the scoreboard.
    sockets: RefCell<Running>,
    /// In a phase: the next one must not begin inside.
    busy: Cell<bool>,
    flush_armed: Cell<bool>,
    turn_armed: Cell<bool>,
    /// Response bytes that were sent but not yet written.
    unwritten: Cell<usize>,
    pub(crate) stop: stop::Stop,
    quota: quota::Quota,
    timeouts: timeouts::Timeouts,
    /// The listeners that are not polled for a moment.
    away: RefCell<Vec<accept::Away>>,
    cancels_orphans: bool,
}

impl Reactor {
    /// Makes the reactor of this thread and registers it with the event loop.
    pub(crate) fn install(py: Python<'_>, parts: Parts) -> PyResult<Rc<Self>> {
        if current().is_ok() {
            return Err(PyRuntimeError::new_err(
                "another server has started on this thread meanwhile",
            ));
        }
        let engine = Engine::new(parts.engine)?;
        let reactor = Rc::new(Self {
            number: parts.number,
            engine,
            bridge: parts.bridge,
            access_log: parts.access_log,
            running: RefCell::new(Running::default()),
            sockets: RefCell::new(Running::default()),
            busy: Cell::new(false),
            flush_armed: Cell::new(false),
            turn_armed: Cell::new(false),
            unwritten: Cell::new(0),
            stop: stop::Stop::default(),
            quota: parts.quota,
            timeouts: timeouts::Timeouts::new(parts.request_timeout_ms),
            away: RefCell::default(),
            cancels_orphans: parts.cancels_orphans,
        });
        set_current(Some(Rc::clone(&reactor)));
        let (bridge, engine) = (&reactor.bridge, &reactor.engine);
        bridge.add_reader(py, engine.epoll(), &bridge.turn)?;
        bridge.add_reader(py, engine.pending.bell(), &bridge.answer_bell)?;
        reactor.arm_turn(py);
        Ok(reactor)
    }

    /// Takes the reactor off this thread; the connections are closed.
    pub(crate) fn uninstall(&self, py: Python<'_>) {
        self.bridge.remove_readers(py);
        set_current(None);
        self.engine.close_connections();
        queue::drop_discarded();
    }

    /// Tells every connection that the worker drains from now on, and WebSockets how
    /// they end.
    pub(crate) fn begin_drain(&self, py: Python<'_>, farewell: Farewell) {
        self.engine.begin_drain(farewell);
        self.arm_turn(py);
    }

    /// Cancels the tasks of all running requests.
    pub(crate) fn cancel_running(&self, py: Python<'_>) {
        let tasks: Vec<_> = {
            let (running, sockets) = (self.running.borrow(), self.sockets.borrow());
            running
                .tasks
                .iter()
                .chain(&sockets.tasks)
                .flatten()
                .map(|task| task.clone_ref(py))
                .collect()
        };
        for task in tasks {
            self.bridge
                .ignore(py, task.call_method0(py, pyo3::intern!(py, "cancel")));
        }
    }

    // === phases ===

    /// One turn; see the module's head.
    pub(crate) fn turn(&self, py: Python<'_>) {
        self.turn_armed.set(false);
        if self.busy.replace(true) {
            // Called from inside a phase (a nested event loop): it will be looked at
            // when the phase is over.
            return;
        }
        let until = clock::refresh() + TURN_US;
        self.engine.poll_driver();
        self.poll_connections();
        while !queue::is_empty() && clock::now_us() < until {
            self.run(py);
            self.poll_connections();
        }
        self.settle(py);
    }

    /// Another thread has something for the connections.
    pub(crate) fn answer_bell(&self, py: Python<'_>) {
        self.engine.pending.answer_bell();
        self.turn(py);
    }

    /// A write phase on its own, for responses sent outside a turn.
    pub(crate) fn flush(&self, py: Python<'_>) {
        self.flush_armed.set(false);
        if self.busy.replace(true) {
            return;
        }
        clock::refresh();
        self.poll_connections();
        self.settle(py);
    }

    /// Ends a turn or flush: what the phases leave over.
    fn settle(&self, py: Python<'_>) {
        queue::drop_discarded();
        self.engine.report();
        self.busy.set(false);
        if !queue::is_empty() || self.engine.pending.is_set() {
            self.arm_turn(py);
        }
        self.look_again_if_eased(py);
        self.settle_stop(py);
    }

    fn poll_connections(&self) {
        self.unwritten.set(0);
        self.engine.poll_connections();
    }

    /// Hands queued requests and events to the application, within the bounds.
    fn run(&self, py: Python<'_>) {
        let until = clock::refresh() + BATCH_US;
        for _ in 0..BATCH {
            match queue::pop() {
                Some(Work::Request(request)) => self.call(py, *request),
                Some(Work::Refused(refused)) => {
                    let log = self.access_log.then_some(&refused.entry);
                    self.engine.count_refused(refused.status, log);
                }
                Some(Work::Receive(exchange)) => {
                    self.wake(py, &exchange);
                    self.cancel_orphan(py, &exchange);
                }
                Some(Work::Session(session)) => self.wake_session(py, &session),
                // Nobody collects bodies here: the application takes them as they come.
                Some(Work::Kept(_)) => {}
                None => return,
            }
            if self.unwritten.get() >= BATCH_BYTES || clock::refresh() >= until {
                return;
            }
        }
    }

    /// Lets `receive()` and `send()` calls of a WebSocket that wait look again.
    pub(crate) fn wake_session(&self, py: Python<'_>, session: &Session) {
        for future in session.take_waiting() {
            self.bridge.resolve(py, &future);
        }
    }

    /// Lets waiting `receive()` and `send()` calls look again.
    pub(crate) fn wake(&self, py: Python<'_>, exchange: &SharedExchange) {
        let (receivers, senders) = {
            let mut state = exchange.lock();
            (
                std::mem::take(&mut state.receivers),
                state.resumed_senders(),
            )
        };
        for future in receivers.into_iter().chain(senders) {
            self.bridge.resolve(py, &future);
        }
    }

    // === what the application's side calls ===

    /// A message was sent: sees to it that it is written soon.
    pub(crate) fn after_send(&self, py: Python<'_>, bytes: usize) {
        let unwritten = self.unwritten.get().saturating_add(bytes);
        self.unwritten.set(unwritten);
        if self.busy.get() {
            return;
        }
        if unwritten >= BATCH_BYTES {
            self.flush(py);
        } else if self.engine.pending.is_set() && !self.flush_armed.replace(true) {
            self.bridge.call_soon(py, &self.bridge.flush);
        }
    }

    fn arm_turn(&self, py: Python<'_>) {
        if !self.turn_armed.replace(true) {
            self.bridge.call_soon(py, &self.bridge.turn);
        }
    }

    /// A new future of the event loop.
    pub(crate) fn future(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.bridge.future(py)
    }

    /// The awaitable that is done.
    pub(crate) fn done(&self, py: Python<'_>) -> Py<PyAny> {
        self.bridge.done.clone_ref(py)
    }

    /// Whether requests are being cancelled, so that what they raise is no news.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelling()
    }

    /// Whether an error comes from a client that has left.
    pub(crate) fn is_disconnect(&self, error: &Bound<'_, PyAny>) -> bool {
        self.bridge.is_disconnect(error)
    }

    /// Logs what the application has raised for the request with this scope.
    pub(crate) fn report(&self, error: &Bound<'_, PyAny>, scope: &Bound<'_, PyAny>) {
        self.bridge.report(error, scope);
    }

    /// The error of `send()` when the client is gone.
    pub(crate) fn disconnected_error(&self, py: Python<'_>) -> PyErr {
        self.bridge.disconnected_error(py)
    }
}
