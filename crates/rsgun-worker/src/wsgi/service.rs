//! The main thread's side of a WSGI worker: orders, heartbeat, and the life of threads.
//!
//! The event loop of the main thread waits for the channel to the master, for signals,
//! and for the bell of the [`Outbox`]. Orders go to the I/O thread through the
//! [`Mailbox`].
//!
//! What the event loop calls finds the service as long as it is not closed. The loop may be
//! a program's, which goes on, and would keep the service for its timers otherwise.

use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::drain::DrainDeadline;
use rsgun_core::ipc::{CLEAN_UP_MS, FromWorker};
use rsgun_core::scoreboard::{Phase, Scoreboard, now_ms};
use rsgun_core::sys::shared::Shared;
use rsgun_websocket::close;

use super::environ::Plan;
use super::intake::Intake;
use super::io_thread::IoThread;
use super::pool::Pool;
use super::post::{Command, Mailbox, Outbox, Overdue};
use super::thread::{self, Shop};
use crate::reactor::engine::{self, Engine};
use crate::reactor::queue;
use crate::reactor::quota::Quota;

use crate::worker::heartbeat::Rhythm;
use crate::worker::keeper::Keeper;

/// How long threads that are idle have to go home.
const GOING_HOME: Duration = Duration::from_millis(500);

/// What a service is made of.
pub(crate) struct Parts {
    pub(crate) engine: engine::Parts,
    pub(crate) quota: Quota,
    pub(crate) access_log: bool,
    pub(crate) request_timeout_ms: u64,
    pub(crate) threads: usize,
    pub(crate) app: Py<PyAny>,
    pub(crate) serve_module: Py<PyModule>,
    pub(crate) plan: Plan,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) event_loop: Py<PyAny>,
    /// The future that ends serving.
    pub(crate) stopped: Py<PyAny>,
    pub(crate) rhythm: Rhythm,
}

/// Where the callbacks of a service find it, until it is closed.
type Home = Arc<Mutex<Option<Py<Service>>>>;

/// Calls a method of the service, if it is still there.
#[pyclass(frozen, module = "rsgun._rsgun")]
struct Callback {
    home: Home,
    method: &'static str,
}

#[pymethods]
impl Callback {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let service = {
            let home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
            home.as_ref().map(|service| service.clone_ref(py))
        };
        match service {
            Some(service) => service.call_method0(py, self.method).map(drop),
            None => Ok(()),
        }
    }
}

/// A WSGI worker's service, in the main thread.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Service {
    shop: Shop,
    mailbox: Arc<Mailbox>,
    outbox: Arc<Outbox>,
    board: Shared<Scoreboard>,
    keeper: Arc<Keeper>,
    event_loop: Py<PyAny>,
    stopped: Py<PyAny>,
    home: Home,
    io_thread: Mutex<Option<JoinHandle<()>>>,
    /// How many threads there may be.
    most: usize,
    stops_soon: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    draining: bool,
    deadline: DrainDeadline,
    threads_started: usize,
    rhythm: Rhythm,
    /// What the pool had got done at the last heartbeat.
    progress: Option<u64>,
    /// That no thread is left for requests was said.
    told_of_websockets: bool,
}

impl Service {
    /// Starts the I/O thread and the first Python thread.
    pub(crate) fn start(py: Python<'_>, parts: Parts) -> PyResult<Bound<'_, Self>> {
        let board = Shared::open(parts.engine.board.file().try_clone_to_owned()?)?;
        let outbox = Arc::new(Outbox::new()?);
        let (report, started) = mpsc::sync_channel(1);
        let io_thread = {
            let outbox = Arc::clone(&outbox);
            let (engine, quota) = (parts.engine, parts.quota);
            let (access_log, limit_ms) = (parts.access_log, parts.request_timeout_ms);
            let threads = parts.threads;
            let serve = move || {
                let made = make(engine, quota, access_log, limit_ms, threads, &outbox);
                let io_thread = match made {
                    Ok((io_thread, pool, mailbox)) => {
                        // The main thread waits for it.
                        let _ = report.send(Ok((pool, mailbox)));
                        io_thread
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                        return;
                    }
                };
                if catch_unwind(AssertUnwindSafe(|| io_thread.run())).is_err() {
                    tracing::error!("the I/O thread has failed: this worker ends");
                    outbox.drained();
                }
            };
            std::thread::Builder::new()
                .name("rsgun-io".to_owned())
                .spawn(serve)?
        };
        let (pool, mailbox) = py
            .detach(move || started.recv())
            .map_err(|_| PyRuntimeError::new_err("the I/O thread could not be started"))??;
        let service = Self {
            shop: Shop {
                pool,
                app: parts.app,
                serve_module: parts.serve_module,
                plan: parts.plan,
                extends_timeouts: parts.request_timeout_ms > 0,
            },
            mailbox,
            outbox,
            board,
            keeper: parts.keeper,
            event_loop: parts.event_loop,
            stopped: parts.stopped,
            home: Home::default(),
            io_thread: Mutex::new(Some(io_thread)),
            most: parts.threads,
            stops_soon: AtomicBool::new(false),
            state: Mutex::new(State {
                draining: false,
                deadline: DrainDeadline::default(),
                threads_started: 0,
                rhythm: parts.rhythm,
                progress: None,
                told_of_websockets: false,
            }),
        };
        let service = Bound::new(py, service)?;
        let this = service.get();
        *this.home() = Some(service.clone().unbind());
        if let Err(error) = Self::begin(&service) {
            this.close(py);
            this.wait(py);
            return Err(error);
        }
        Ok(service)
    }

    /// What there is to do on the thread of the event loop.
    fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let bell = this.outbox.bell().as_raw_fd();
        let arguments = (bell, this.callback("_on_bell"));
        this.event_loop.call_method1(py, "add_reader", arguments)?;
        this.shop.pool.begin();
        Self::start_thread(slf)?;
        Self::_beat(slf)
    }

    fn home(&self) -> std::sync::MutexGuard<'_, Option<Py<Self>>> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn callback(&self, method: &'static str) -> Callback {
        let home = Arc::clone(&self.home);
        Callback { home, method }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scoreboard of this worker.
    pub(crate) fn board(&self) -> &Shared<Scoreboard> {
        &self.board
    }

    /// Starts to accept.
    pub(crate) fn open(&self) {
        self.mailbox.put(Command::Open);
        self.board.set_phase(Phase::Serving);
    }

    /// One more Python thread.
    fn start_thread(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let number = {
            let mut state = slf.get().lock();
            state.threads_started += 1;
            state.threads_started
        };
        let keywords = PyDict::new(py);
        let work = slf.getattr("_work")?;
        if slf.get().most == 1 {
            // What was set while the application was imported, such as the precision of
            // decimals, holds in the requests, as if the main thread ran them. Several
            // threads would share the objects that it refers to.
            let context = py.import("contextvars")?.call_method0("copy_context")?;
            keywords.set_item("target", context.getattr("run")?)?;
            keywords.set_item("args", (work,))?;
        } else {
            keywords.set_item("target", work)?;
        }
        keywords.set_item("name", format!("rsgun-{number}"))?;
        // One that hangs must not hold up the end of the process.
        keywords.set_item("daemon", true)?;
        let thread = py
            .import("threading")?
            .getattr("Thread")?
            .call((), Some(&keywords))?;
        let started = thread.call_method0("start");
        if started.is_err() {
            slf.get().shop.pool.lost_thread();
        }
        started.map(drop)
    }

    fn call_later(slf: &Bound<'_, Self>, wait: Duration, method: &'static str) -> PyResult<()> {
        let this = slf.get();
        let arguments = (wait.as_secs_f64(), this.callback(method));
        this.event_loop
            .call_method1(slf.py(), "call_later", arguments)?;
        Ok(())
    }

    // === stopping ===

    /// Ends each connection with its next answer, although the worker goes on.
    pub(crate) fn announce_stop(&self) {
        self.stops_soon.store(true, Relaxed);
        self.mailbox.put(Command::Announce);
    }

    /// Takes whoever waits at listeners that are no longer wanted, and ends those.
    pub(crate) fn last_call_at(&self, retired: Vec<OwnedFd>) {
        self.mailbox.put(Command::LastCall { retired });
    }

    /// Whether the stop of the server was announced.
    pub(crate) fn stops_soon(&self) -> bool {
        self.stops_soon.load(Relaxed)
    }

    /// Begins to drain; what still runs after `within_ms` is left behind. Returns whether
    /// it had not begun before; a second order only puts the end off.
    pub(crate) fn drain(
        slf: &Bound<'_, Self>,
        within_ms: u64,
        sweep: bool,
        orphaned: bool,
    ) -> PyResult<bool> {
        let this = slf.get();
        {
            let mut state = this.lock();
            state.deadline.set(now_ms(), within_ms);
            if std::mem::replace(&mut state.draining, true) {
                return Ok(false);
            }
        }
        let code = if sweep {
            close::GOING_AWAY
        } else {
            close::SERVICE_RESTART
        };
        this.mailbox.put(Command::Drain {
            sweep,
            orphaned,
            code,
        });
        Self::call_later(slf, Duration::from_millis(within_ms), "_drain_deadline")?;
        Ok(true)
    }

    /// Stops serving as soon as no request runs, and after a moment in any case.
    pub(crate) fn quit(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().lock().draining = true;
        slf.get().mailbox.put(Command::Quit {
            code: close::GOING_AWAY,
        });
        Self::call_later(slf, Duration::from_millis(CLEAN_UP_MS), "_stop_now")
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let stopped = self.stopped.bind(py);
        if !stopped.call_method0("done")?.is_truthy()? {
            stopped.call_method1("set_result", (py.None(),))?;
        }
        Ok(())
    }

    /// Sends the threads home, and lets go of the event loop, on whose thread it is called.
    pub(crate) fn close(&self, py: Python<'_>) {
        let bell = self.outbox.bell().as_raw_fd();
        if let Err(error) = self.event_loop.call_method1(py, "remove_reader", (bell,)) {
            tracing::debug!("the bell could not be taken off: {}", error.value(py));
        }
        let this = self.home().take();
        drop(this);
        self.mailbox.put(Command::Close);
        self.shop.pool.stop();
    }

    /// Waits for the threads, after [`Self::close`]. Returns whether all of them have ended:
    /// one that hangs must not meet the end of the interpreter.
    pub(crate) fn wait(&self, py: Python<'_>) -> bool {
        let io_thread = self
            .io_thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        py.detach(|| {
            if let Some(io_thread) = io_thread {
                // Its panic was logged where it happened.
                let _ = io_thread.join();
            }
            self.shop.pool.wait_for_end(GOING_HOME)
        })
    }

    // === news ===

    fn report_overdue(&self, py: Python<'_>, overdue: &Overdue) {
        let Overdue {
            request,
            age_ms,
            ident,
        } = overdue;
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let age = *age_ms as f64 / 1000.0;
        let Some(ident) = ident else {
            tracing::error!(
                "{request} waited for a thread for longer than --request-timeout allows \
                 ({age:.1} s), not run; more --threads or workers would help"
            );
            return;
        };
        let stack = self
            .shop
            .serve_module
            .call_method1(py, "stack_of_thread", (*ident,))
            .and_then(|text| text.extract::<String>(py))
            .unwrap_or_else(|problem| format!("(no stack: {problem})"));
        tracing::error!(
            "{request} took longer than --request-timeout allows, answered after {age:.1} s; its \
             thread cannot be cancelled\n{}",
            stack.trim_end()
        );
        let message = FromWorker::Hung {
            request: request.clone(),
        };
        if let Err(error) = self.keeper.tell(&message) {
            tracing::debug!("the keeper cannot be told of a thread that hangs: {error}");
        }
    }
}

#[pymethods]
impl Service {
    /// What each Python thread runs.
    fn _work(&self, py: Python<'_>) -> PyResult<()> {
        let worked = thread::work(py, &self.shop);
        if worked.is_err() {
            self.shop.pool.lost_thread();
        }
        worked
    }

    /// The I/O thread has news.
    fn _on_bell(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let news = this.outbox.take();
        if news.grow {
            for _ in 0..this.shop.pool.grow() {
                if let Err(error) = Self::start_thread(slf) {
                    tracing::error!("a thread could not be started: {}", error.value(py));
                }
            }
        }
        for overdue in &news.overdue {
            this.report_overdue(py, overdue);
        }
        if news.ended {
            this.finish(py)?;
        }
        Ok(())
    }

    /// Gives a sign of life, unless the only thread hangs.
    fn _beat(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let (working, progress) = this.shop.pool.progress();
        let (hangs, wait) = {
            let mut state = this.lock();
            // The load of a worker is that of its threads.
            let wait = state.rhythm.beat(&this.board, working >= this.most);
            let before = state.progress.replace(progress);
            // Whoever has a client's connection to himself waits for it as long as he likes.
            let taken = this.shop.pool.taken();
            if taken >= this.most && !std::mem::replace(&mut state.told_of_websockets, true) {
                tracing::warn!(
                    "every thread of this worker is held by a WebSocket ({taken}): other requests \
                     wait until one ends; more --threads would help"
                );
            }
            let waiting = this.shop.pool.held_up() + taken;
            let stands_still = working > waiting && before == Some(progress);
            let hangs = this.most == 1 && stands_still;
            (hangs, wait)
        };
        if !hangs {
            this.board.beat(now_ms());
        }
        queue::drop_discarded();
        Self::call_later(slf, wait, "_beat")
    }

    /// The deadline of a drain has come, unless it was put off.
    fn _drain_deadline(slf: &Bound<'_, Self>) -> PyResult<()> {
        let left_ms = slf.get().lock().deadline.left_ms(now_ms());
        if let Some(left_ms) = left_ms {
            return Self::call_later(slf, Duration::from_millis(left_ms), "_drain_deadline");
        }
        let (left, _) = slf.get().shop.pool.progress();
        if left > 0 {
            tracing::warn!("{left} request(s) did not end within the graceful time-out");
        }
        Self::quit(slf)
    }

    /// Requests that go on have had their time.
    fn _stop_now(&self, py: Python<'_>) -> PyResult<()> {
        self.finish(py)
    }
}

type Made = (IoThread, Arc<Pool>, Arc<Mailbox>);

/// Makes the state of the I/O thread, in that thread.
fn make(
    engine: engine::Parts,
    quota: Quota,
    access_log: bool,
    limit_ms: u64,
    threads: usize,
    outbox: &Arc<Outbox>,
) -> std::io::Result<Made> {
    let engine = Engine::new(engine)?;
    let pool = Arc::new(Pool::new(threads, Arc::clone(&engine.pending)));
    let mailbox = Arc::new(Mailbox::new(Arc::clone(&engine.pending)));
    let intake = Intake::new(
        Rc::clone(&engine),
        Arc::clone(&pool),
        Arc::clone(outbox),
        quota,
        access_log,
        limit_ms,
    );
    let io_thread = IoThread::new(
        engine,
        intake,
        Arc::clone(&pool),
        Arc::clone(&mailbox),
        Arc::clone(outbox),
    );
    Ok((io_thread, pool, mailbox))
}
