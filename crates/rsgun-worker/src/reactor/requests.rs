//! The requests of a worker: each from the call of the application to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use pyo3::prelude::*;
use rsgun_core::scoreboard;

use super::bridge::Scopes;
use super::queue::{self, NewRequest};
use super::{Reactor, clock};
use crate::asgi::cycle::Cycle;
use crate::asgi::exchange::SharedExchange;
use crate::asgi::session::Session;
use crate::asgi::socket::{Place, Socket};
use crate::http::access_log;
use crate::rsgi::scope::Scope;

/// Requests that the application works on.
#[derive(Default)]
pub(super) struct Running {
    /// The task of each, `None` for a free entry or one that has no task yet.
    pub(super) tasks: Vec<Option<Py<PyAny>>>,
    free: Vec<usize>,
}

impl Running {
    pub(super) fn enter(&mut self, task: Option<Py<PyAny>>) -> usize {
        match self.free.pop() {
            Some(entry) => {
                self.tasks[entry] = task;
                entry
            }
            None => {
                self.tasks.push(task);
                self.tasks.len() - 1
            }
        }
    }

    pub(super) fn leave(&mut self, entry: usize) -> Option<Py<PyAny>> {
        self.free.push(entry);
        self.tasks.get_mut(entry).and_then(Option::take)
    }

    pub(super) fn count(&self) -> usize {
        self.tasks.len() - self.free.len()
    }
}

impl Reactor {
    /// Calls the application for one request.
    pub(super) fn call(&self, py: Python<'_>, request: NewRequest) {
        let NewRequest {
            parts,
            exchange,
            connection,
            session,
            ..
        } = request;
        let log = self.access_log.then(|| match &session {
            None => access_log::Entry::of(&connection.peer, &parts),
            Some(_) => access_log::Entry {
                client: connection.peer.label(),
                request: format!("WebSocket {}", parts.uri),
                version: None,
            },
        });
        let (is_closed, refused) = {
            let state = exchange.lock();
            (state.closed, state.refused())
        };
        if let Some(status) = refused {
            self.engine.count_refused(status, log.as_ref());
        }
        if is_closed || refused.is_some() {
            return;
        }
        let entry = self.enter(&parts);
        let cycle = Cycle::new(self.number, Arc::clone(&exchange), entry, log);
        let peer = &connection.peer;
        let started = match session {
            None => {
                self.watch(py, entry, &parts, &exchange);
                if self.cancels_orphans {
                    exchange.cancel_if_left(entry);
                }
                self.start(py, parts, peer, cycle, entry)
            }
            Some(session) => self.start_websocket(py, parts, peer, session, cycle, entry),
        };
        match started {
            // The client may have left before.
            Ok(()) => self.cancel_orphan(py, &exchange),
            Err(error) => {
                tracing::error!("a request could not be started: {error}");
                let error = StatusCode::INTERNAL_SERVER_ERROR;
                let status = exchange.lock().fail(exchange.is_head, error);
                self.ended(py, entry, status.unwrap_or_default(), exchange.started_us);
            }
        }
    }

    fn start(
        &self,
        py: Python<'_>,
        parts: http::request::Parts,
        peer: &queue::Peer,
        cycle: Cycle,
        entry: usize,
    ) -> PyResult<()> {
        let cycle = Bound::new(py, cycle)?;
        let scope = match &self.bridge.scopes {
            Scopes::Asgi(scopes) => {
                let scope = scopes.make(py, &parts, peer)?;
                self.bridge.offer_extension(py, &scope, &cycle)?;
                scope.into_any()
            }
            Scopes::Rsgi => Scope::make(py, "http", parts, peer)?,
        };
        let task = self.bridge.start(scope, cycle.as_any())?;
        if !cycle.get().has_ended() {
            self.timeouts.attach(entry, &cycle);
            self.running.borrow_mut().tasks[entry] = Some(task);
        }
        Ok(())
    }

    fn start_websocket(
        &self,
        py: Python<'_>,
        parts: http::request::Parts,
        peer: &queue::Peer,
        session: Arc<Session>,
        cycle: Cycle,
        entry: usize,
    ) -> PyResult<()> {
        let subprotocols = &session.handshake.subprotocols;
        let scope = match &self.bridge.scopes {
            Scopes::Asgi(scopes) => scopes
                .make_websocket(py, &parts, peer, subprotocols)?
                .into_any(),
            Scopes::Rsgi => Scope::make(py, "ws", parts, peer)?,
        };
        let socket = Bound::new(py, Socket::new(session, cycle, entry))?;
        let task = self.bridge.start(scope, socket.as_any())?;
        match socket.get().place() {
            Some(Place::Request(entry)) => self.running.borrow_mut().tasks[entry] = Some(task),
            Some(Place::Open(index)) => self.sockets.borrow_mut().tasks[index] = Some(task),
            None => {}
        }
        Ok(())
    }

    /// Cancels a request whose client has left, if that was asked for.
    pub(super) fn cancel_orphan(&self, py: Python<'_>, exchange: &SharedExchange) {
        if let Some(entry) = exchange.take_orphan()
            && let Some(task) = self.task(py, entry)
        {
            // Not at once: a task that was never run would not tell that it was cancelled.
            match task.getattr(py, pyo3::intern!(py, "cancel")) {
                Ok(cancel) => self.bridge.call_soon(py, &cancel),
                Err(error) => tracing::debug!("a request cannot be cancelled: {error}"),
            }
        }
    }

    fn enter(&self, parts: &http::request::Parts) -> usize {
        let entry = self.running.borrow_mut().enter(None);
        let target = parts
            .uri
            .path_and_query()
            .map_or("*", http::uri::PathAndQuery::as_str);
        self.engine.board.begin(
            entry,
            scoreboard::now_ms(),
            parts.method.as_str().as_bytes(),
            target.as_bytes(),
        );
        self.report_active();
        entry
    }

    fn report_active(&self) {
        let active = self.running.borrow().count();
        self.engine
            .board
            .active
            .store(u32::try_from(active).unwrap_or(u32::MAX), Relaxed);
    }

    /// A request is done with: counts it and frees its entry.
    pub(crate) fn ended(&self, py: Python<'_>, entry: usize, status: StatusCode, started_us: u64) {
        let task = self.leave(entry, status, started_us);
        drop(task);
        self.quota.count();
        self.settle_stop(py);
    }

    /// Counts a request and frees its entry; returns its task.
    fn leave(&self, entry: usize, status: StatusCode, started_us: u64) -> Option<Py<PyAny>> {
        let task = self.running.borrow_mut().leave(entry);
        self.report_active();
        self.timeouts.forget(entry);
        self.engine.board.end(entry);
        self.engine
            .board
            .count(status.as_u16(), clock::refresh().saturating_sub(started_us));
        task
    }

    /// The application has accepted a WebSocket: as a request it is done with. Returns
    /// its index among the WebSockets.
    pub(crate) fn accepted(&self, entry: usize, started_us: u64) -> usize {
        let task = self.leave(entry, StatusCode::SWITCHING_PROTOCOLS, started_us);
        self.sockets.borrow_mut().enter(task)
    }

    /// The application is through with an open WebSocket.
    pub(crate) fn left(&self, py: Python<'_>, index: usize) {
        let task = self.sockets.borrow_mut().leave(index);
        drop(task);
        self.quota.count();
        self.settle_stop(py);
    }

    /// The task of a running request.
    pub(super) fn task(&self, py: Python<'_>, entry: usize) -> Option<Py<PyAny>> {
        let running = self.running.borrow();
        let task = running.tasks.get(entry)?.as_ref()?;
        Some(task.clone_ref(py))
    }
}
