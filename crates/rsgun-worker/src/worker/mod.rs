//! PROCESS 3, the worker: serves the application.
//!
//! Life: greet the master and wait until it knows the pid; import the application,
//! unless it was preloaded; run `serve.py`, which runs the lifespan startup, starts
//! the reactor, waits until it is told to stop, and runs the lifespan shutdown. Then
//! the interpreter ends as usual, exit handlers included.
//!
//! The channel to the master is read by the event loop. Its end means that the master
//! is gone, unless that is still the parent: the worker closes the listeners, so that a
//! new master can bind them, drains, and leaves.

mod breakpoint;
pub(crate) mod callbacks;
pub(crate) mod heartbeat;
pub(crate) mod keeper;

use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::config::{Lifespan, Settings, Size, WorkerCount};
use rsgun_core::ipc::{
    ChannelError, DRAIN_MARGIN_MS, DrainReason, FromWorker, Identity, Role, ToWorker,
};
use rsgun_core::log::Level;
use rsgun_core::log::output::{self, Files};
use rsgun_core::roster::Roster;
use rsgun_core::scoreboard::{Phase, Scoreboard, now_ms};
use rsgun_core::sys::shared::Shared;
use rsgun_core::sys::{channel, parent_death, process, title};
use rsgun_websocket::close;

use self::callbacks::Callbacks;
use self::heartbeat::Rhythm;
use self::keeper::{Keeper, Master};
use crate::asgi::scope::ScopeMaker;
use crate::forkserver::hooks::Hooks;
use crate::forkserver::{self, Application, Loaded, Served};
use crate::glue;
use crate::http::websocket::Limits;
use crate::reactor::accept::Gate;
use crate::reactor::bridge::{Bridge, Ends};
use crate::reactor::engine;
use crate::reactor::quota::Quota;
use crate::reactor::{self, Parts, Reactor};
use crate::wsgi::environ::Plan;
use crate::wsgi::service::{self as wsgi, Service};

/// Seconds that a worker with a signal of its own waits for an order of the master.
const HEARSAY: f64 = 0.3;
/// Seconds after the end of its channel in which a worker comes to know whether the master
/// is gone: a process closes its channels before its children get another parent. If it is
/// there still, it has given up this worker alone, or was only a candidate.
const INHERITANCE: f64 = 0.1;
/// How long a new worker waits to become the master's child, milliseconds.
const REPARENTING_MS: u32 = 1_000;

/// What the master hands to each worker, in this order.
struct Inheritance {
    master: Master,
    board: Shared<Scoreboard>,
    roster: Shared<Roster>,
    stack_report: OwnedFd,
    /// Each with what it is to this worker.
    listeners: Vec<(OwnedFd, Role)>,
}

impl Inheritance {
    fn new(fds: Vec<OwnedFd>, roles: &[Role]) -> std::io::Result<Self> {
        let mut fds = fds.into_iter();
        let mut next = || {
            fds.next()
                .ok_or_else(|| std::io::Error::other("too few descriptors"))
        };
        let master = Master::new(next()?);
        let board = Shared::open(next()?)?;
        let roster = Shared::open(next()?)?;
        let stack_report = next()?;
        Ok(Self {
            master,
            board,
            roster,
            stack_report,
            listeners: fds.zip(roles.iter().copied()).collect(),
        })
    }
}

/// Runs a worker to its end; returns the exit code.
pub(crate) fn main(
    native: &Bound<'_, PyModule>,
    loaded: Loaded,
    identity: Identity,
    roles: &[Role],
    fds: Vec<OwnedFd>,
) -> PyResult<i32> {
    let py = native.py();
    let Inheritance {
        master,
        board,
        roster,
        stack_report,
        listeners,
    } = Inheritance::new(fds, roles)?;
    title::set(&format!(
        "rsgun: worker {} [{}]",
        identity.slot,
        forkserver::label(&loaded.settings, loaded.generation)
    ));
    let stacks = glue::stacks(py)?;
    glue::write_stacks_to(&stacks, stack_report)?;
    stacks.call_method0("end_on_abort")?;
    if !is_expected(py, &master) {
        return Ok(0);
    }
    let created: Vec<_> = listeners
        .iter()
        .filter(|(_, role)| !role.inherited)
        .map(|(listener, _)| listener.as_fd())
        .collect();
    parent_death::watch_listeners(&created);
    if !bind_to_master(&master, &loaded)? {
        return Ok(0);
    }
    board.beat(now_ms());
    let keeper = Arc::new(Keeper::Master(master));
    breakpoint::watch(py, Arc::clone(&keeper))?;
    if let Some(hooks) = &loaded.hooks {
        hooks.observe(Shared::open(board.file().try_clone_to_owned()?)?);
    }
    let Loaded {
        settings,
        app,
        loader,
        hooks,
        ..
    } = loaded;
    let hooks = hooks.map(Arc::new);
    let _farewell = Farewell(hooks.clone());
    if let Some(hooks) = &hooks {
        hooks.after_fork(py, identity, &stacks)?;
    }
    let app = match app {
        Some(app) => app,
        None => {
            board.set_phase(Phase::Importing);
            match forkserver::load(loader.bind(py), &settings) {
                Ok(app) => app,
                Err(error) => return Ok(report(py, &keeper, &error)),
            }
        }
    };
    if let Some(hooks) = &hooks {
        hooks.loaded(py, &app.callable);
    }
    let serve = glue::serve(py)?;
    let gate = Gate::new(listeners, roster, identity.seat, Arc::clone(&keeper))?;
    let lifespan = lifespan_name(&settings);
    let event_loop = settings.event_loop.clone();
    let worker = Worker::new(py, Arc::clone(&keeper), &app, settings, board, gate)?;
    let worker = Bound::new(py, worker.with_hooks(hooks))?;
    let result = match app.interface {
        Served::Asgi(version) => {
            let arguments = (&worker, app.callable, version, event_loop, lifespan);
            serve.call_method1("main", arguments)
        }
        Served::Wsgi => serve.call_method1("main_of_wsgi", (&worker,)),
    };
    // The event loop has put the handlers back that Python has.
    process::ignore_master_signals()?;
    match result {
        Ok(_) => Ok(0),
        Err(error) => Ok(report(py, &keeper, &error)),
    }
}

/// What serve.py calls the setting.
pub(crate) fn lifespan_name(settings: &Settings) -> &'static str {
    match settings.lifespan {
        Lifespan::Auto => "auto",
        Lifespan::On => "on",
        Lifespan::Off => "off",
    }
}

/// Calls the hook for the end of a worker when it is dropped.
struct Farewell(Option<Arc<Hooks>>);

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(hooks) = &self.0 {
            Python::attach(|py| hooks.leaving(py));
        }
    }
}

/// How long an orphan drains: the kernel ends it after the whole graceful time-out, so
/// that cleaning up and the lifespan shutdown must fit in as well.
fn orphan_drain_ms(graceful_ms: u64) -> u64 {
    graceful_ms
        .checked_sub(DRAIN_MARGIN_MS)
        .filter(|rest| *rest >= DRAIN_MARGIN_MS)
        .unwrap_or(graceful_ms / 2)
}

/// Tells the master this worker's pid and waits for its answer; `false` when the
/// master does not want it any more.
fn is_expected(py: Python<'_>, master: &Master) -> bool {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    if master.send(&FromWorker::Hello { pid }, &[]).is_err() {
        return false;
    }
    loop {
        match py.detach(|| master.recv(None)) {
            Ok(Some(message)) if message.body == ToWorker::ChangeLogs => change_logs(message.fds),
            Ok(Some(message)) => return message.body == ToWorker::Acknowledge,
            Ok(None) | Err(_) => return false,
        }
    }
}

/// Logs to the files that came with an order.
fn change_logs(fds: Vec<OwnedFd>) {
    if let Some(logs) = Files::from_fds(fds) {
        output::replace(&logs);
    }
}

/// Sees to it that this worker does not outlive the master, even if it hangs; `false`
/// when the master is gone already.
fn bind_to_master(channel: &Master, loaded: &Loaded) -> PyResult<bool> {
    let grace = Duration::from_secs(u64::from(loaded.settings.graceful_timeout).max(1));
    for _ in 0..REPARENTING_MS {
        if parent_death::limit(loaded.master, loaded.heir, grace)? {
            return Ok(true);
        }
        // The intermediate process of the double fork has not quite ended.
        channel::wait_readable(channel.as_fd(), Some(1))?;
    }
    Ok(false)
}

/// Tells the master why the application does not run; returns the exit code.
fn report(py: Python<'_>, keeper: &Keeper, error: &PyErr) -> i32 {
    let failure = glue::failure(py, error);
    let code = i32::from(failure.kind.exit_code());
    if keeper.tell(&FromWorker::Failed(failure)).is_err() {
        tracing::debug!("the master is gone before it could be told of a failure");
    }
    code
}

fn carry_out_wsgi(service: &Bound<'_, Service>, order: Order) -> PyResult<()> {
    match order {
        Order::Drain {
            within_ms,
            sweep,
            orphaned,
        } => {
            if Service::drain(service, within_ms, sweep, orphaned)? {
                service.get().board().set_phase(Phase::Draining);
            }
            Ok(())
        }
        Order::Quit => Service::quit(service),
    }
}

fn logs_requests(settings: &Settings) -> bool {
    settings.access_log && settings.log_level >= Level::Info
}

/// The native side of a worker, as `serve.py` sees it.
#[pyclass(frozen, module = "rsgun._rsgun")]
pub(crate) struct Worker {
    /// Of its reactor.
    number: u64,
    serve: Py<PyModule>,
    stacks: Py<PyModule>,
    keeper: Arc<Keeper>,
    app: Py<PyAny>,
    interface: Served,
    /// Time-out of a drain that the master has not ordered, milliseconds.
    graceful_ms: u64,
    hooks: Option<Arc<Hooks>>,
    state: Mutex<State>,
}

struct State {
    /// Until the reactor is started with them.
    settings: Option<(Settings, Shared<Scoreboard>, Gate)>,
    /// The event loop and the future that ends serving.
    ends: Option<(Py<PyAny>, Py<PyAny>)>,
    /// An order that came before the reactor was started.
    order: Option<Order>,
    /// What serves a WSGI application, once it is started.
    service: Option<Py<Service>>,
    /// Requests in flight are cancelled.
    quits: bool,
}

/// What makes a worker stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Drain {
        within_ms: u64,
        sweep: bool,
        orphaned: bool,
    },
    Quit,
}

#[pymethods]
impl Worker {
    /// Writes a log line; `level` is `error`, `info` or `debug`. The traceback of `error`
    /// follows it, and is made only if it is seen.
    #[pyo3(signature = (level, text, error=None))]
    fn log(&self, level: &str, text: &str, error: Option<&Bound<'_, PyAny>>) {
        let is_seen = match level {
            "error" => true,
            "info" => tracing::enabled!(tracing::Level::INFO),
            _ => tracing::enabled!(tracing::Level::DEBUG),
        };
        if !is_seen {
            return;
        }
        let text = match error {
            Some(error) => format!("{text}\n{}", glue::describe(&self.serve, error)),
            None => text.trim_end().to_owned(),
        };
        match level {
            "error" => tracing::error!("{text}"),
            "info" => tracing::info!("{text}"),
            _ => tracing::debug!("{text}"),
        }
    }

    /// Announces `startup` or `shutdown` of the lifespan.
    fn phase(&self, name: &str) {
        let phase = if name == "startup" {
            Phase::Startup
        } else {
            Phase::Shutdown
        };
        let state = self.lock();
        if let Some((_, board, _)) = &state.settings {
            board.set_phase(phase);
        } else if let Some(service) = &state.service {
            service.get().board().set_phase(phase);
        } else if let Ok(reactor) = self.reactor() {
            reactor.engine.board.set_phase(phase);
        }
    }

    /// Starts listening to the master, if there is one, on the running event loop. `stopped` is resolved
    /// when serving is over.
    fn attach(slf: &Bound<'_, Self>, event_loop: Py<PyAny>, stopped: Py<PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if let Keeper::Master(master) = &*this.keeper {
            let callback = slf.getattr("_on_message")?;
            event_loop.call_method1(py, "add_reader", (master.as_raw_fd(), callback))?;
            let forget = slf.getattr("_forget")?;
            let keywords = PyDict::new(py);
            keywords.set_item("after_in_child", forget)?;
            py.import("os")?
                .call_method("register_at_fork", (), Some(&keywords))?;
        }
        this.lock().ends = Some((event_loop, stopped));
        Ok(())
    }

    /// Starts to serve. `state` is what the lifespan startup has filled in.
    fn start(&self, py: Python<'_>, state: Py<PyDict>) -> PyResult<()> {
        let mut guard = self.lock();
        let (Some((settings, board, gate)), Some((event_loop, stopped))) =
            (guard.settings.take(), guard.ends.as_ref())
        else {
            return Err(PyRuntimeError::new_err("the worker was started twice"));
        };
        let (event_loop, stopped) = (event_loop.clone_ref(py), stopped.clone_ref(py));
        drop(guard);
        match self.interface {
            Served::Asgi(version) => {
                let inside = (event_loop, stopped, state);
                self.start_asgi(py, &settings, board, gate, version, inside)
            }
            Served::Wsgi => self.start_wsgi(py, &settings, board, gate, event_loop, stopped),
        }
    }

    /// Ends the reactor; connections that are still open are closed.
    ///
    /// Returns whether nothing of the application runs any more in a thread of ours.
    fn close(&self, py: Python<'_>) -> PyResult<bool> {
        if let Some(service) = self.service(py) {
            return Ok(service.get().close(py));
        }
        let reactor = self.reactor()?;
        reactor.flush(py);
        reactor.engine.gate.drop_listeners();
        reactor.uninstall(py);
        Ok(true)
    }

    /// SIGTERM was sent to this worker. If it was sent to the whole group, the master is
    /// about to say so, and knows what is to become of waiting connections; if it was
    /// for this worker alone, it drains, and the master replaces it.
    fn terminate(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::call_later(slf, HEARSAY, "_drain_alone")
    }

    /// SIGINT or SIGQUIT was sent to this worker: a key in the terminal sends it to the
    /// whole group, and the master as well. Otherwise this worker alone stops quickly.
    fn interrupt(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::call_later(slf, HEARSAY, "_quit_alone")
    }

    /// The master has not said anything about the SIGINT.
    fn _quit_alone(&self, py: Python<'_>) {
        if self.lock().quits {
            return;
        }
        if self.service(py).is_some() || self.reactor().is_ok() {
            // The master starts the next one already.
            self.tell(&FromWorker::Draining);
        }
        self.carry_out(py, Order::Quit);
    }

    /// The master has not said anything about the SIGTERM, or only that the server
    /// stops soon, which is what the signal was about.
    fn _drain_alone(&self, py: Python<'_>) {
        let stops_soon = match self.service(py) {
            Some(service) => service.get().stops_soon(),
            None => self
                .reactor()
                .is_ok_and(|reactor| reactor.engine.stops_soon()),
        };
        if stops_soon {
            return;
        }
        let within_ms = self.graceful_ms;
        self.carry_out(
            py,
            Order::Drain {
                within_ms,
                sweep: false,
                orphaned: false,
            },
        );
    }

    /// SIGUSR1 was sent to this worker alone: the master opens its log files anew, which
    /// another user than this worker's may be needed for.
    fn reopen_logs(&self) {
        self.tell(&FromWorker::WantsLogs);
    }

    /// Stops serving; `quick` cancels what runs.
    fn stop(&self, py: Python<'_>, quick: bool) {
        let order = if quick {
            Order::Quit
        } else {
            Order::Drain {
                within_ms: self.graceful_ms,
                sweep: true,
                orphaned: false,
            }
        };
        self.carry_out(py, order);
    }

    /// Reads what the master has sent.
    fn _on_message(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Keeper::Master(master) = &*this.keeper else {
            return Ok(());
        };
        loop {
            let order = match master.try_recv() {
                Ok(Some(message)) => match message.body {
                    ToWorker::Acknowledge => continue,
                    ToWorker::ChangeLogs => {
                        change_logs(message.fds);
                        continue;
                    }
                    ToWorker::StopsSoon => {
                        if let Some(service) = this.service(py) {
                            service.get().announce_stop();
                        } else if let Ok(reactor) = this.reactor() {
                            reactor.engine.announce_stop();
                        }
                        continue;
                    }
                    ToWorker::Quit => Order::Quit,
                    ToWorker::Drain { within_ms, reason } => Order::Drain {
                        within_ms,
                        sweep: reason == DrainReason::Stop,
                        orphaned: false,
                    },
                },
                Ok(None) => {
                    this.stop_listening(py, master.as_raw_fd());
                    return Self::call_later(slf, INHERITANCE, "_drain_abandoned");
                }
                Err(ChannelError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(());
                }
                Err(ChannelError::Format(error)) => {
                    tracing::error!("the master has sent something unknown: {error}");
                    continue;
                }
                Err(ChannelError::Io(error)) => {
                    tracing::error!("the channel to the master is broken: {error}");
                    this.stop_listening(py, master.as_raw_fd());
                    return Ok(());
                }
            };
            this.carry_out(py, order);
        }
    }

    /// The channel has ended a moment ago.
    fn _drain_abandoned(&self, py: Python<'_>) {
        self.drain_abandoned(py);
    }

    /// In a process that the application has forked: lets go of what is the worker's.
    fn _forget(&self, py: Python<'_>) {
        if let Some(service) = self.service(py) {
            service.get().forget();
        } else if let Ok(reactor) = self.reactor() {
            reactor.engine.gate.drop_listeners();
        }
        if let Keeper::Master(master) = &*self.keeper {
            let alone = process::blank_out(master.as_fd());
            // Python's handlers for the others stand for the worker.
            if let Err(error) = alone.and_then(|()| process::ignore_master_signals()) {
                tracing::debug!("a forked process keeps what is its worker's: {error}");
            }
        }
    }
}

impl Worker {
    /// Calls a method after so many seconds.
    fn call_later(slf: &Bound<'_, Self>, seconds: f64, method: &str) -> PyResult<()> {
        let py = slf.py();
        let ends = slf.get().lock();
        let event_loop = ends.ends.as_ref().map(|(it, _)| it.clone_ref(py));
        drop(ends);
        if let Some(event_loop) = event_loop {
            let method = slf.getattr(method)?;
            event_loop.call_method1(py, "call_later", (seconds, method))?;
        }
        Ok(())
    }

    /// Finishes what is left: nobody is there any more who could give orders. Unless the
    /// whole server has lost its master, others go on with the listeners.
    fn drain_abandoned(&self, py: Python<'_>) {
        let orphaned = !parent_death::is_provided_for();
        if orphaned {
            tracing::warn!("the master is gone: finishing what is left, then leaving");
        }
        self.carry_out(
            py,
            Order::Drain {
                within_ms: orphan_drain_ms(self.graceful_ms),
                sweep: false,
                orphaned,
            },
        );
    }

    /// A worker that serves `app` as soon as serve.py says so.
    pub(crate) fn new(
        py: Python<'_>,
        keeper: Arc<Keeper>,
        app: &Application,
        settings: Settings,
        board: Shared<Scoreboard>,
        gate: Gate,
    ) -> PyResult<Self> {
        Ok(Self {
            number: reactor::new_number(),
            serve: glue::serve(py)?.unbind(),
            stacks: glue::stacks(py)?.unbind(),
            keeper,
            app: app.callable.clone_ref(py),
            interface: app.interface,
            graceful_ms: u64::from(settings.graceful_timeout) * 1000,
            hooks: None,
            state: Mutex::new(State {
                settings: Some((settings, board, gate)),
                ends: None,
                order: None,
                service: None,
                quits: false,
            }),
        })
    }

    /// The same with the hooks of its configuration.
    fn with_hooks(self, hooks: Option<Arc<Hooks>>) -> Self {
        Self { hooks, ..self }
    }

    /// Its reactor, while it serves.
    fn reactor(&self) -> PyResult<Rc<Reactor>> {
        reactor::serving(self.number)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, message: &FromWorker) {
        if let Err(error) = self.keeper.tell(message) {
            // The end of a channel says so too, and that is acted on.
            tracing::debug!("the keeper of this worker cannot be told anything: {error}");
        }
    }

    fn service<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Service>> {
        let state = self.lock();
        state
            .service
            .as_ref()
            .map(|service| service.bind(py).clone())
    }

    fn carry_out(&self, py: Python<'_>, order: Order) {
        let service = self.service(py);
        if order == Order::Quit
            && !mem::replace(&mut self.lock().quits, true)
            && (service.is_some() || self.reactor().is_ok())
            && let Some(hooks) = &self.hooks
        {
            hooks.interrupted(py);
        }
        if let Some(service) = service {
            if let Err(error) = carry_out_wsgi(&service, order) {
                tracing::error!("an order of the master failed: {}", error.value(py));
            }
            return;
        }
        let Ok(reactor) = self.reactor() else {
            let mut state = self.lock();
            state.order = Some(order);
            let stopped = state
                .ends
                .as_ref()
                .map(|(_, stopped)| stopped.clone_ref(py));
            drop(state);
            if let Some(stopped) = stopped
                && let Err(error) = stopped.call_method1(py, "set_result", (py.None(),))
            {
                tracing::debug!("the worker was told to stop twice: {}", error.value(py));
            }
            return;
        };
        match order {
            Order::Drain {
                within_ms,
                sweep,
                orphaned,
            } => {
                let code = if sweep {
                    close::GOING_AWAY
                } else {
                    close::SERVICE_RESTART
                };
                if reactor.drain(py, within_ms, code, sweep || orphaned) {
                    reactor.engine.board.set_phase(Phase::Draining);
                }
                if orphaned {
                    reactor.engine.let_go();
                }
            }
            Order::Quit => reactor.quit(py),
        }
    }

    /// Starts to serve an ASGI application.
    fn start_asgi(
        &self,
        py: Python<'_>,
        settings: &Settings,
        board: Shared<Scoreboard>,
        gate: Gate,
        version: &'static str,
        inside: (Py<PyAny>, Py<PyAny>, Py<PyDict>),
    ) -> PyResult<()> {
        let (event_loop, stopped, state) = inside;
        let run = self.serve.getattr(py, "run")?;
        let run = match &self.hooks {
            Some(hooks) => hooks.around_asgi(py, run)?,
            None => run,
        };
        let bridge = Bridge::new(
            py,
            Ends {
                event_loop: event_loop.into_bound(py),
                run,
                app: self.app.clone_ref(py),
                serve_module: self.serve.bind(py).clone().into_any(),
                callbacks: Bound::new(py, Callbacks::new(self.number))?,
                stacks: self.stacks.bind(py).clone().into_any(),
                extends_timeouts: settings.request_timeout > 0,
                scopes: ScopeMaker::new(py, version, &settings.root_path, state)?,
            },
        )?;
        let parts = Parts {
            number: self.number,
            engine: engine::Parts {
                board,
                gate,
                keep_alive_ms: u64::from(settings.keep_alive) * 1000,
                client_timeout_ms: u64::from(settings.client_timeout) * 1000,
                body_max: settings.limit_request_body.map(Size::bytes),
                websocket: Limits::of(settings),
            },
            bridge,
            access_log: logs_requests(settings),
            quota: self.quota(settings),
            request_timeout_ms: u64::from(settings.request_timeout) * 1000,
            cancels_orphans: settings.cancel_on_disconnect,
        };
        let reactor = Reactor::install(py, parts)?;
        reactor.stop.set_future(stopped);
        if matches!(*self.keeper, Keeper::Master(_)) {
            heartbeat::start(py, &reactor, settings);
        }
        let order = self.lock().order.take();
        if let Some(order) = order {
            self.carry_out(py, order);
            return Ok(());
        }
        reactor.open_gate(py)?;
        reactor.engine.board.set_phase(Phase::Serving);
        self.tell(&FromWorker::Ready);
        Ok(())
    }

    /// Starts to serve a WSGI application.
    fn start_wsgi(
        &self,
        py: Python<'_>,
        settings: &Settings,
        board: Shared<Scoreboard>,
        gate: Gate,
        event_loop: Py<PyAny>,
        stopped: Py<PyAny>,
    ) -> PyResult<()> {
        let app = self.app.clone_ref(py);
        let app = match &self.hooks {
            Some(hooks) => hooks.around_wsgi(py, app)?,
            None => app,
        };
        let parts = wsgi::Parts {
            engine: engine::Parts {
                board,
                gate,
                keep_alive_ms: u64::from(settings.keep_alive) * 1000,
                client_timeout_ms: u64::from(settings.client_timeout) * 1000,
                body_max: settings.limit_request_body.map(Size::bytes),
                websocket: None,
            },
            quota: self.quota(settings),
            access_log: logs_requests(settings),
            request_timeout_ms: u64::from(settings.request_timeout) * 1000,
            threads: usize::try_from(settings.threads).unwrap_or(1),
            app,
            serve_module: self.serve.clone_ref(py),
            plan: Plan {
                root_path: settings.root_path.clone(),
                multithread: settings.threads > 1,
                multiprocess: settings.workers != WorkerCount::Fixed(1),
            },
            keeper: Arc::clone(&self.keeper),
            event_loop,
            stopped,
            rhythm: Rhythm::new(settings),
        };
        let service = Service::start(py, parts)?;
        let order = {
            let mut state = self.lock();
            state.service = Some(service.clone().unbind());
            state.order.take()
        };
        match order {
            Some(order) => self.carry_out(py, order),
            None => {
                service.get().open();
                self.tell(&FromWorker::Ready);
            }
        }
        Ok(())
    }

    fn quota(&self, settings: &Settings) -> Quota {
        Quota::new(
            settings.max_requests,
            settings.max_requests_jitter,
            Arc::clone(&self.keeper),
        )
    }

    fn stop_listening(&self, py: Python<'_>, number: RawFd) {
        let event_loop = self
            .lock()
            .ends
            .as_ref()
            .map(|(event_loop, _)| event_loop.clone_ref(py));
        if let Some(event_loop) = event_loop
            && let Err(error) = event_loop.call_method1(py, "remove_reader", (number,))
        {
            tracing::debug!("the channel could not be taken off: {}", error.value(py));
        }
    }
}
