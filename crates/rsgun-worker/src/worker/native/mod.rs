//! The native side of a worker: what `serve.py` calls.

mod orders;
mod start;

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::config::Settings;
use rsgun_core::ipc::FromWorker;
use rsgun_core::scoreboard::{Phase, Scoreboard};
use rsgun_core::sys::shared::Shared;

use self::orders::Order;
use super::keeper::Keeper;
use crate::forkserver::hooks::Hooks;
use crate::forkserver::{Application, Served};
use crate::reactor::accept::Gate;
use crate::reactor::{self, Reactor};
use crate::wsgi::service::Service;
use crate::{collector, glue};

/// Seconds that a worker with a signal of its own waits for an order of the master.
const HEARSAY: f64 = 0.3;

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

pub(super) struct State {
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
    /// New log files could not be received.
    lacks_logs: bool,
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

    /// Starts listening to the master, if there is one, on the running event loop. `stopped`
    /// is resolved when serving is over.
    fn attach(slf: &Bound<'_, Self>, event_loop: Py<PyAny>, stopped: Py<PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if let Keeper::Master(master) = &*this.keeper {
            let callback = slf.getattr("_on_message")?;
            event_loop.call_method1(py, "add_reader", (master.as_raw_fd(), callback))?;
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
        let imported_here = matches!(*self.keeper, Keeper::Master(_)) && !settings.preload;
        if imported_here && collector::is_enabled(py)? {
            collector::freeze(py)?;
        }
        match self.interface {
            Served::Asgi(_) | Served::Rsgi => {
                let inside = (event_loop, stopped, state);
                self.start_tasks(py, &settings, board, gate, inside)
            }
            Served::Wsgi => self.start_wsgi(py, &settings, board, gate, event_loop, stopped),
        }
    }

    /// Ends the reactor; connections that are still open are closed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(service) = self.service(py) {
            service.get().close(py);
            return Ok(());
        }
        let reactor = self.reactor()?;
        reactor.flush(py);
        reactor.engine.gate.drop_listeners();
        reactor.uninstall(py);
        if !matches!(*self.keeper, Keeper::Master(_)) {
            glue::streams(py)?.call_method0("resume")?;
        }
        Ok(())
    }

    /// Waits for a moment, on any thread, for what was closed; returns whether nothing of
    /// the application runs any more in a thread of ours.
    fn wait(&self, py: Python<'_>) -> bool {
        self.service(py)
            .is_none_or(|service| service.get().wait(py))
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

    /// The master has sent something.
    fn _on_message(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::receive(slf)
    }

    /// The channel has ended a moment ago.
    fn _drain_abandoned(&self, py: Python<'_>) {
        self.drain_abandoned(py);
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
                lacks_logs: false,
            }),
        })
    }

    /// The same with the hooks of its configuration.
    pub(super) fn with_hooks(self, hooks: Option<Arc<Hooks>>) -> Self {
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
}
