//! The connections of a thread, and the runtime that drives them by hand.
//!
//! A `current_thread` runtime and a `LocalSet` of connection tasks. Nothing here ever
//! waits: whoever owns the engine waits for its epoll descriptor and its bell, polls
//! the driver and then the connections, and does in between what the connections have
//! left in the [`queue`](super::queue). The owner is the event loop of a worker for
//! ASGI ([`Reactor`](super::Reactor)), or a thread of its own for WSGI
//! ([`crate::wsgi`]). Nothing here touches Python.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use http::StatusCode;
use rsgun_core::scoreboard::Scoreboard;
use rsgun_core::sys::shared::Shared as SharedMemory;
use tokio::runtime::EnterGuard;
use tokio::task::{AbortHandle, LocalSet};

use super::accept::Gate;
use super::descriptor::Driver;
use super::pending::Pending;
use super::queue::{self, Peer};
use super::{clock, deadlines, descriptor};
use crate::http::access_log;
use crate::http::connection::Connection;
use crate::http::io::{self as traffic, Io};
use crate::http::shared::{Common, Shared, Upgrades, Use};
use crate::http::websocket::Farewell;

/// Times that the connections are polled at once, before others get their share.
const POLLS: usize = 16;

/// What an engine is made of.
pub(crate) struct Parts {
    pub(crate) board: SharedMemory<Scoreboard>,
    pub(crate) gate: Gate,
    pub(crate) keep_alive_ms: u64,
    /// 0: no limit.
    pub(crate) client_timeout_ms: u64,
    /// Bytes that a request body may have.
    pub(crate) body_max: Option<u64>,
    pub(crate) upgrades: Upgrades,
}

/// The connections of this thread.
pub(crate) struct Engine {
    driver: Driver,
    epoll: OwnedFd,
    /// Polled by this thread only, by hand.
    connections: RefCell<Pin<Box<LocalSet>>>,
    /// A connection has something to do.
    pub(crate) pending: Arc<Pending>,
    pub(crate) board: SharedMemory<Scoreboard>,
    pub(crate) gate: Gate,
    common: Rc<Common>,
    /// Connections, for waking them when the worker stops.
    open: RefCell<Vec<Weak<Shared>>>,
    open_count: Cell<u32>,
    /// What counts for the siblings as if so many connections more were open.
    burden: Cell<u32>,
}

impl Engine {
    /// Makes the engine of this thread.
    ///
    /// # Errors
    /// What the system returns when descriptors cannot be had.
    pub(crate) fn new(parts: Parts) -> io::Result<Rc<Self>> {
        let (driver, epoll) = descriptor::build()?;
        clock::refresh();
        let engine = Rc::new(Self {
            driver,
            epoll,
            connections: RefCell::new(Box::pin(LocalSet::new())),
            pending: Arc::new(Pending::new()?),
            board: parts.board,
            gate: parts.gate,
            common: Rc::new(Common {
                keep_alive_ms: parts.keep_alive_ms,
                client_timeout_ms: (parts.client_timeout_ms > 0).then_some(parts.client_timeout_ms),
                body_max: parts.body_max,
                draining_since: Cell::new(None),
                stops_soon: Cell::new(false),
                upgrades: parts.upgrades,
                farewell: Cell::new(None),
                websockets: Cell::new(0),
            }),
            open: RefCell::new(Vec::new()),
            open_count: Cell::new(0),
            burden: Cell::new(0),
        });
        let deadlines = {
            let _context = engine.driver.enter();
            deadlines::start()?
        };
        engine.connections.borrow().spawn_local(deadlines);
        Ok(engine)
    }

    /// Can be read when the driver has something to do.
    pub(crate) fn epoll(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Serves a connection that was accepted.
    pub(crate) fn serve(self: &Rc<Self>, socket: socket2::Socket, peer: Peer, kept_for: Use) {
        let _context = self.driver.enter();
        let io = match Io::new(socket) {
            Ok(io) => io,
            Err(error) => {
                tracing::warn!("connection of {} dropped: {error}", peer.label());
                return;
            }
        };
        let shared = Rc::new(Shared::new(peer, Rc::clone(&self.common), kept_for));
        self.opened(&shared);
        let connection = Connection::new(io, shared);
        let engine = Rc::downgrade(self);
        self.connections.borrow().spawn_local(async move {
            connection.await;
            if let Some(engine) = engine.upgrade() {
                engine.closed();
            }
        });
    }

    /// While the value that is returned lives, whatever is called finds the runtime, and its
    /// pool of threads.
    pub(crate) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.driver.enter()
    }

    /// Runs something beside the connections.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        self.connections.borrow().spawn_local(task).abort_handle()
    }

    fn opened(&self, shared: &Rc<Shared>) {
        self.open_count.set(self.open_count.get() + 1);
        self.report_connections();
        let mut open = self.open.borrow_mut();
        if open.len() == open.capacity() {
            open.retain(|connection| connection.strong_count() > 0);
        }
        open.push(Rc::downgrade(shared));
    }

    fn closed(&self) {
        self.open_count.set(self.open_count.get().saturating_sub(1));
        self.report_connections();
    }

    fn report_connections(&self) {
        self.board.connections.store(self.open_count.get(), Relaxed);
        self.gate.report_load(self.load());
    }

    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> u32 {
        self.open_count.get()
    }

    /// What the siblings compare with their own.
    pub(crate) fn load(&self) -> u32 {
        self.open_count.get().saturating_add(self.burden.get())
    }

    /// Makes this worker count as if it had so many connections more.
    pub(crate) fn set_burden(&self, burden: u32) {
        if self.burden.replace(burden) != burden {
            self.report_connections();
        }
    }

    /// Ends each connection with its next answer, although the worker goes on.
    pub(crate) fn announce_stop(&self) {
        self.common.stops_soon.set(true);
    }

    /// Whether the stop of the server was announced.
    pub(crate) fn stops_soon(&self) -> bool {
        self.common.stops_soon.get()
    }

    /// Tells every connection that the worker drains from now on, and WebSockets how
    /// they end.
    pub(crate) fn begin_drain(&self, farewell: Farewell) {
        self.common.farewell.set(Some(farewell));
        if self.common.draining_since.get().is_none() {
            self.common.draining_since.set(Some(clock::now_ms()));
        }
        for connection in self.open.borrow().iter().filter_map(Weak::upgrade) {
            connection.wake();
        }
    }

    /// Closes all connections at once.
    pub(crate) fn close_connections(&self) {
        let _context = self.driver.enter();
        let set = std::mem::replace(
            &mut *self.connections.borrow_mut(),
            Box::pin(LocalSet::new()),
        );
        drop(set);
        access_log::flush();
        queue::clear();
    }

    /// Lets tokio look once, without waiting, which sockets are ready.
    pub(crate) fn poll_driver(&self) {
        self.driver.poll();
    }

    /// Runs the connections until none has anything to do.
    pub(crate) fn poll_connections(&self) {
        let _context = self.driver.enter();
        let waker = Waker::from(Arc::clone(&self.pending));
        let mut cx = Context::from_waker(&waker);
        let mut set = self.connections.borrow_mut();
        for _ in 0..POLLS {
            self.pending.clear();
            // Ready means that there is no task, which the deadlines' never allows.
            let _: Poll<()> = set.as_mut().poll(&mut cx);
            if !self.pending.is_set() {
                break;
            }
        }
    }

    /// Counts a request that was answered without the application, and logs it.
    pub(crate) fn count_refused(&self, status: StatusCode, log: Option<&access_log::Entry>) {
        self.board.count(status.as_u16(), 0);
        if let Some(entry) = log {
            access_log::add(entry, status);
        }
    }

    /// Writes out what was collected since the last time: log lines and counters.
    pub(crate) fn report(&self) {
        access_log::flush();
        traffic::report_traffic(&self.board);
        self.board
            .websockets
            .store(self.common.websockets.get(), Relaxed);
    }
}
