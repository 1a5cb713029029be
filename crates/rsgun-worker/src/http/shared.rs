//! What connections have in common: all of a worker, and the layers of one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use rsgun_core::config::{Settings, WebSockets};

use super::handover::NearEnd;
use super::rest::Rest;
use super::websocket::{Farewell, Limits};
use crate::asgi::exchange::SharedExchange;
use crate::asgi::session::Session;
use crate::reactor::clock;
use crate::reactor::queue::{self, Work};

/// What all connections of a worker have in common.
#[derive(Debug)]
pub(crate) struct Common {
    /// How long an idle connection is kept, milliseconds; 0: not at all.
    pub(crate) keep_alive_ms: u64,
    /// How long a client may send and take nothing of what is on its way, milliseconds;
    /// `None`: for ever.
    pub(crate) client_timeout_ms: Option<u64>,
    /// Bytes that a request body may have.
    pub(crate) body_max: Option<u64>,
    /// When the worker began to drain, milliseconds of the reactor's clock.
    pub(crate) draining_since: Cell<Option<u64>>,
    /// The worker is about to drain: no connection is kept for another request.
    pub(crate) stops_soon: Cell<bool>,
    pub(crate) upgrades: Upgrades,
    /// How WebSockets are closed, once the worker drains.
    pub(crate) farewell: Cell<Option<Farewell>>,
    /// Open WebSockets.
    pub(crate) websockets: Cell<u32>,
}

/// What a connection becomes whose client asks for a WebSocket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Upgrades {
    /// Nothing else: its request is one like others.
    None,
    /// A WebSocket that the server speaks.
    WebSockets(Limits),
    /// The application's, if it wants that.
    Handovers,
}

impl Upgrades {
    /// With an application that is called with the messages of WebSockets.
    pub(crate) fn of(settings: &Settings) -> Self {
        match settings.ws {
            WebSockets::Auto => Self::WebSockets(Limits::of(settings)),
            WebSockets::None => Self::None,
        }
    }

    /// With one of WSGI.
    pub(crate) fn of_wsgi(settings: &Settings) -> Self {
        match settings.ws {
            WebSockets::Auto => Self::Handovers,
            WebSockets::None => Self::None,
        }
    }
}

/// For how many requests a connection is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// As many as its client has.
    Many,
    /// One: the address that it came to is no longer served.
    Once,
}

/// What the layers of one connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The two ends, for the scope and the log.
    pub(crate) peer: queue::Peer,
    pub(super) common: Rc<Common>,
    kept_for: Use,
    /// The exchange in progress.
    pub(super) current: RefCell<Option<SharedExchange>>,
    /// What comes before the next request.
    pub(super) rest: RefCell<Option<Rest>>,
    pub(super) idle_since: Cell<u64>,
    pub(super) has_served: Cell<bool>,
    /// Only the end of the connection will tell the end of the answer (RFC 9112, 6.3):
    /// one that breaks off must not look complete.
    pub(super) ends_with_connection: Cell<bool>,
    /// The answer does not go on: the connection ends when what there is of it is written.
    pub(super) is_broken_off: Cell<bool>,
    pub(super) waker: RefCell<Option<Waker>>,
    /// The WebSocket that the last request opens.
    session: RefCell<Option<Arc<Session>>>,
    /// Where the application may take the connection with the exchange in progress.
    pub(super) offered: RefCell<Option<NearEnd>>,
}

impl Shared {
    pub(crate) fn new(peer: queue::Peer, common: Rc<Common>, kept_for: Use) -> Self {
        Self {
            peer,
            common,
            kept_for,
            current: RefCell::new(None),
            rest: RefCell::new(None),
            idle_since: Cell::new(clock::now_ms()),
            has_served: Cell::new(false),
            ends_with_connection: Cell::new(false),
            is_broken_off: Cell::new(false),
            waker: RefCell::new(None),
            session: RefCell::new(None),
            offered: RefCell::new(None),
        }
    }

    pub(super) fn closes_after_answer(&self) -> bool {
        let common = &self.common;
        self.kept_for == Use::Once
            || common.keep_alive_ms == 0
            || common.stops_soon.get()
            || common.draining_since.get().is_some()
    }

    /// Makes the task of the connection look around.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// A request has been read, and perhaps opens a WebSocket, which the server or the
    /// application speaks.
    pub(super) fn begin(
        &self,
        exchange: SharedExchange,
        session: Option<Arc<Session>>,
        offered: Option<NearEnd>,
    ) {
        self.current.replace(Some(exchange));
        self.session.replace(session);
        self.offered.replace(offered);
    }

    /// The request was answered in the usual way.
    pub(super) fn withdraw_offer(&self) {
        let offered = self.offered.take();
        drop(offered);
    }

    /// How the end of the answer will be told.
    pub(super) fn answer_ends_with_connection(&self, does: bool) {
        self.ends_with_connection.set(does);
    }

    /// The answer ends here, and must not look complete.
    pub(super) fn break_off(&self) {
        self.is_broken_off.set(true);
    }

    /// The WebSocket that this connection has become.
    pub(super) fn upgraded(&self) -> Option<(Arc<Session>, Limits)> {
        let Upgrades::WebSockets(limits) = self.common.upgrades else {
            return None;
        };
        let session = self.session.take()?;
        session.is_accepted().then_some((session, limits))
    }

    /// The connection ends before its WebSocket could begin.
    pub(super) fn abandon_session(&self) {
        if let Some(session) = self.session.take()
            && session.is_accepted()
            && session.lost()
        {
            queue::push(Work::Session(session));
        }
    }

    /// hyper is through with an exchange. Its client may still send the `rest` of a body.
    pub(super) fn finished(&self, exchange: &SharedExchange, rest: Option<Rest>) {
        let mut current = self.current.borrow_mut();
        if current
            .as_ref()
            .is_some_and(|other| Arc::ptr_eq(other, exchange))
        {
            *current = None;
            *self.rest.borrow_mut() = rest;
            self.idle_since.set(clock::now_ms());
            self.has_served.set(true);
        }
    }
}
