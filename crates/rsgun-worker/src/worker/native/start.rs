//! How a worker begins to serve: the reactor for ASGI and RSGI, or the service for WSGI.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::config::{Settings, Size, WorkerCount};
use rsgun_core::ipc::FromWorker;
use rsgun_core::log::Level;
use rsgun_core::scoreboard::{Phase, Scoreboard};
use rsgun_core::sys::shared::Shared;

use crate::asgi::scope::ScopeMaker;
use crate::http::shared::Upgrades;
use crate::reactor::accept::Gate;
use crate::reactor::bridge::{Bridge, Ends, Scopes};
use crate::reactor::engine;
use crate::reactor::quota::Quota;
use crate::reactor::{Parts, Reactor};
use crate::worker::callbacks::Callbacks;
use crate::worker::heartbeat::{self, Rhythm};
use crate::worker::keeper::Keeper;
use crate::wsgi::environ::{self, Plan};
use crate::wsgi::service::{self as wsgi, Service};

use super::Worker;
use crate::forkserver::Served;
use crate::glue;

/// What differs between the interfaces whose calls are tasks.
struct Calls {
    /// `run(app, scope, cycle)`.
    run: Py<PyAny>,
    app: Py<PyAny>,
    scopes: Scopes,
    gone: Py<PyAny>,
}

impl Worker {
    /// Starts to serve an application whose calls are tasks of the event loop.
    pub(super) fn start_tasks(
        &self,
        py: Python<'_>,
        settings: &Settings,
        board: Shared<Scoreboard>,
        gate: Gate,
        inside: (Py<PyAny>, Py<PyAny>, Py<PyDict>),
    ) -> PyResult<()> {
        let (event_loop, stopped, state) = inside;
        let Calls {
            run,
            app,
            scopes,
            gone,
        } = self.calls(py, settings, state)?;
        let bridge = Bridge::new(
            py,
            Ends {
                event_loop: event_loop.into_bound(py),
                run,
                app,
                serve_module: self.serve.bind(py).clone().into_any(),
                callbacks: Bound::new(py, Callbacks::new(self.number))?,
                stacks: self.stacks.bind(py).clone().into_any(),
                extends_timeouts: settings.request_timeout > 0,
                scopes,
                gone,
            },
        )?;
        let parts = Parts {
            number: self.number,
            engine: engine_parts(settings, board, gate, Upgrades::of(settings)),
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

    /// How the application is called.
    fn calls(&self, py: Python<'_>, settings: &Settings, state: Py<PyDict>) -> PyResult<Calls> {
        let Served::Asgi(version) = self.interface else {
            let rsgi = glue::rsgi(py)?;
            let run = rsgi.getattr("run")?.unbind();
            let run = match &self.hooks {
                Some(hooks) => hooks.around_rsgi(py, run)?,
                None => run,
            };
            return Ok(Calls {
                run,
                app: rsgi.call_method1("entry", (&self.app,))?.unbind(),
                scopes: Scopes::Rsgi,
                gone: rsgi.getattr("closed")?.unbind(),
            });
        };
        let run = self.serve.getattr(py, "run")?;
        let run = match &self.hooks {
            Some(hooks) => hooks.around_asgi(py, run)?,
            None => run,
        };
        let scopes = ScopeMaker::new(py, version, &settings.root_path, state)?;
        Ok(Calls {
            run,
            app: self.app.clone_ref(py),
            scopes: Scopes::Asgi(scopes),
            gone: self.serve.getattr(py, "ClientDisconnected")?,
        })
    }

    /// Starts to serve a WSGI application.
    pub(super) fn start_wsgi(
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
            engine: engine_parts(settings, board, gate, Upgrades::of_wsgi(settings)),
            quota: self.quota(settings),
            access_log: logs_requests(settings),
            request_timeout_ms: u64::from(settings.request_timeout) * 1000,
            threads: usize::try_from(settings.threads).unwrap_or(1),
            app,
            serve_module: self.serve.clone_ref(py),
            plan: Plan {
                root_path: environ::mount_point(&settings.root_path),
                multithread: settings.threads > 1,
                multiprocess: has_siblings(settings),
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
}

/// What the connections need, whatever the application is.
fn engine_parts(
    settings: &Settings,
    board: Shared<Scoreboard>,
    gate: Gate,
    upgrades: Upgrades,
) -> engine::Parts {
    engine::Parts {
        board,
        gate,
        keep_alive_ms: u64::from(settings.keep_alive) * 1000,
        client_timeout_ms: u64::from(settings.client_timeout) * 1000,
        body_max: settings.limit_request_body.map(Size::bytes),
        upgrades,
    }
}

/// Whether there may be other workers, as far as the settings say: `TTIN` and the moments
/// of a replacement, when there are two, do not count.
fn has_siblings(settings: &Settings) -> bool {
    match (settings.min_workers, settings.max_workers) {
        (min, 0) => settings.workers != WorkerCount::Fixed(1) || min > 1,
        (_, max) => max > 1,
    }
}

fn logs_requests(settings: &Settings) -> bool {
    settings.access_log && settings.log_level >= Level::Info
}
