//! The native side of a worker: what `serve.py` calls, and the orders of the master.

mod start;

use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::config::Settings;
use rsgun_core::ipc::{BEREFT, ChannelError, DRAIN_MARGIN_MS, DrainReason, FromWorker, ToWorker};
use rsgun_core::scoreboard::{Phase, Scoreboard};
use rsgun_core::sys::parent_death;
use rsgun_core::sys::shared::Shared;
use rsgun_websocket::close;

use super::keeper::Keeper;
use crate::forkserver::hooks::Hooks;
use crate::forkserver::{Application, Served};
use crate::glue;
use crate::reactor::accept::Gate;
use crate::reactor::{self, Reactor};
use crate::wsgi::service::Service;

/// Seconds that a worker with a signal of its own waits for an order of the master.
const HEARSAY: f64 = 0.3;
/// Seconds after the end of its channel in which a worker comes to know whether the master
/// is gone: a process closes its channels before its children get another parent. If it is
/// there still, it has given up this worker alone, or was only a candidate.
const INHERITANCE: f64 = 0.1;

/// Seconds until a worker asks again for log files for which it had no descriptors.
const ANOTHER_TRY: f64 = 1.0;

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
                    ToWorker::ChangeLogs if message.bereft => {
                        if !mem::replace(&mut this.lock().lacks_logs, true) {
                            tracing::warn!("the log files stay as they are for now: {BEREFT}");
                        }
                        Self::call_later(slf, ANOTHER_TRY, "reopen_logs")?;
                        continue;
                    }
                    ToWorker::ChangeLogs => {
                        crate::worker::change_logs(message.fds);
                        this.lock().lacks_logs = false;
                        continue;
                    }
                    ToWorker::LastCall if message.bereft => {
                        tracing::warn!("clients of a former address may be lost: {BEREFT}");
                        continue;
                    }
                    ToWorker::LastCall => {
                        if let Some(service) = this.service(py) {
                            service.get().last_call_at(message.fds);
                        } else if let Ok(reactor) = this.reactor() {
                            reactor.last_call_at(py, message.fds);
                        }
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
                    this.stop_listening(py, master.as_fd());
                    return Self::call_later(slf, INHERITANCE, "_drain_abandoned");
                }
                Err(ChannelError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(());
                }
                Err(error @ (ChannelError::Format(_) | ChannelError::Damaged(_))) => {
                    tracing::error!("ignoring what the master has sent: {error}");
                    continue;
                }
                Err(ChannelError::Io(error)) => {
                    tracing::error!("the channel to the master is broken: {error}");
                    this.stop_listening(py, master.as_fd());
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

    fn stop_listening(&self, py: Python<'_>, fd: BorrowedFd<'_>) {
        let event_loop = self
            .lock()
            .ends
            .as_ref()
            .map(|(event_loop, _)| event_loop.clone_ref(py));
        if let Some(event_loop) = event_loop
            && let Err(error) = event_loop.call_method1(py, "remove_reader", (fd.as_raw_fd(),))
        {
            tracing::debug!("the channel could not be taken off: {}", error.value(py));
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
