//! One client connection from accept to close.
//!
//! The task polls hyper, and between hyper's reads it does what hyper does not:
//! moves the request body on to the application as far as there is room, notices a
//! peer that leaves while the application works, and watches the clock. A
//! connection that this side closes first lingers: it reads until the peer has
//! closed too, or else the kernel would reset it and the peer lose the end of the
//! answer (RFC 9112, 9.6).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::Write as _;
use hyper::server::conn::http1;

use super::io::Io;
use super::service::Exchanges;
use super::websocket::{Farewell, Limits, WebSocket};
use crate::asgi::exchange::{Pumped, SharedExchange};
use crate::asgi::session::Session;
use crate::reactor::clock;
use crate::reactor::deadlines::Alarm;
use crate::reactor::queue::{self, Work};

/// How long a connection that this side has closed waits for the peer to close.
const LINGER_MS: u64 = 1_000;
/// How long a draining worker waits for one more request on an idle connection.
const DRAIN_LINGER_MS: u64 = 2_000;
/// How long a connection may take at least to send its first request, or the rest of
/// one that it has begun.
const FIRST_REQUEST_MS: u64 = 60_000;
/// Bytes that hyper buffers at most, in either direction.
const BUFFER_MAX: usize = 64 * 1024;

/// What all connections of a worker have in common.
#[derive(Debug)]
pub(crate) struct Common {
    /// How long an idle connection is kept, milliseconds; 0: not at all.
    pub(crate) keep_alive_ms: u64,
    /// When the worker began to drain, milliseconds of the reactor's clock.
    pub(crate) draining_since: Cell<Option<u64>>,
    /// The worker is about to drain: no connection is kept for another request.
    pub(crate) stops_soon: Cell<bool>,
    /// `None`: WebSockets are not served.
    pub(crate) websocket: Option<Limits>,
    /// How WebSockets are closed, once the worker drains.
    pub(crate) farewell: Cell<Option<Farewell>>,
    /// Open WebSockets.
    pub(crate) websockets: Cell<u32>,
}

impl Common {
    pub(super) fn closes_after_answer(&self) -> bool {
        self.keep_alive_ms == 0 || self.stops_soon.get() || self.draining_since.get().is_some()
    }
}

/// What the layers of one connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The two ends, for the scope and the log.
    pub(crate) peer: queue::Peer,
    pub(super) common: Rc<Common>,
    /// The exchange in progress.
    current: RefCell<Option<SharedExchange>>,
    idle_since: Cell<u64>,
    has_served: Cell<bool>,
    /// Only the end of the connection will tell the end of the answer (RFC 9112, 6.3):
    /// one that breaks off must not look complete.
    ends_with_connection: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// The WebSocket that the last request opens.
    session: RefCell<Option<Arc<Session>>>,
}

impl Shared {
    pub(crate) fn new(peer: queue::Peer, common: Rc<Common>) -> Self {
        Self {
            peer,
            common,
            current: RefCell::new(None),
            idle_since: Cell::new(clock::now_ms()),
            has_served: Cell::new(false),
            ends_with_connection: Cell::new(false),
            waker: RefCell::new(None),
            session: RefCell::new(None),
        }
    }

    /// Makes the task of the connection look around.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// A request has been read, and perhaps opens a WebSocket.
    pub(super) fn begin(&self, exchange: SharedExchange, session: Option<Arc<Session>>) {
        self.current.replace(Some(exchange));
        self.session.replace(session);
    }

    /// How the end of the answer will be told.
    pub(super) fn answer_ends_with_connection(&self, does: bool) {
        self.ends_with_connection.set(does);
    }

    /// The WebSocket that this connection has become.
    fn upgraded(&self) -> Option<(Arc<Session>, Limits)> {
        let limits = self.common.websocket?;
        let session = self.session.take()?;
        session.is_accepted().then_some((session, limits))
    }

    /// The connection ends before its WebSocket could begin.
    fn abandon_session(&self) {
        if let Some(session) = self.session.take()
            && session.is_accepted()
            && session.lost()
        {
            queue::push(Work::Session(session));
        }
    }

    /// hyper is through with an exchange.
    pub(super) fn finished(&self, exchange: &SharedExchange) {
        let mut current = self.current.borrow_mut();
        if current
            .as_ref()
            .is_some_and(|other| Arc::ptr_eq(other, exchange))
        {
            *current = None;
            self.idle_since.set(clock::now_ms());
            self.has_served.set(true);
        }
    }
}

/// The task of one connection.
pub(crate) struct Connection {
    hyper: Option<Box<http1::Connection<Io, Exchanges>>>,
    /// What follows hyper when the connection was upgraded.
    websocket: Option<Box<WebSocket>>,
    io: Io,
    shared: Rc<Shared>,
    alarm: Alarm,
    peer_left: bool,
    /// Closed by this side; waits for the peer.
    lingers_until: Option<u64>,
}

impl Connection {
    pub(crate) fn new(io: Io, shared: Rc<Shared>) -> Self {
        let service = Exchanges::new(Rc::clone(&shared), io.clone());
        let hyper = http1::Builder::new()
            .half_close(true)
            .max_buf_size(BUFFER_MAX)
            .serve_connection(io.clone(), service);
        Self {
            hyper: Some(Box::new(hyper)),
            websocket: None,
            io,
            shared,
            alarm: Alarm::default(),
            peer_left: false,
            lingers_until: None,
        }
    }

    /// Goes on as a WebSocket, if that is what hyper has ended with.
    fn upgrade(&mut self) {
        let Some((session, limits)) = self.shared.upgraded() else {
            return;
        };
        if let Some(hyper) = self.hyper.take() {
            let early = hyper.into_parts().read_buf;
            self.io.drop_tap();
            let websocket = WebSocket::new(
                self.io.clone(),
                session,
                Rc::clone(&self.shared.common),
                limits,
                &early,
            );
            self.websocket = Some(Box::new(websocket));
        }
    }

    /// Writes informational responses of the exchange in progress.
    fn send_interim(&self) {
        if let Some(exchange) = &*self.shared.current.borrow() {
            for interim in exchange.take_interim() {
                self.io.send_between(&interim);
            }
        }
    }

    /// Does for the exchange in progress what hyper does not.
    fn attend(&mut self, cx: &mut Context<'_>) {
        let Some(exchange) = self.shared.current.borrow().clone() else {
            return;
        };
        let Pumped {
            tell,
            is_read,
            error,
        } = exchange.pump(cx);
        if let Some(error) = error {
            report(&error, &self.shared.peer);
        }
        self.peer_left = self.peer_left || (is_read && self.io.poll_peer_closed(cx).is_ready());
        if tell || (self.peer_left && exchange.peer_left()) {
            queue::push(Work::Receive(exchange));
        }
    }

    /// Whether an idle connection has been idle for long enough.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if self.shared.current.borrow().is_some() {
            return false;
        }
        let has_begun = {
            let mut tap = self.io.tap();
            tap.begin();
            tap.has_begun()
        };
        let idle = self.shared.idle_since.get();
        let common = &self.shared.common;
        let keeps = self.shared.has_served.get() && !has_begun;
        let patience = if keeps {
            common.keep_alive_ms
        } else {
            common.keep_alive_ms.max(FIRST_REQUEST_MS)
        };
        let mut until = idle + patience;
        if let Some(since) = common.draining_since.get() {
            until = until.min(since.max(idle) + DRAIN_LINGER_MS);
        }
        self.alarm.poll_at(until, cx).is_ready()
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.shared.waker.borrow().is_none() {
            *this.shared.waker.borrow_mut() = Some(cx.waker().clone());
        }
        // Before hyper, which may write the final response now.
        this.send_interim();
        if let Some(hyper) = &mut this.hyper {
            let result = Pin::new(hyper).poll(cx);
            match result {
                Poll::Pending => {
                    this.attend(cx);
                    if !this.is_overdue(cx) {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(result) => {
                    // The last bytes of a request body may be waiting still.
                    this.attend(cx);
                    match result {
                        Ok(()) => this.upgrade(),
                        Err(error) => {
                            report(&error, &this.shared.peer);
                            if this.shared.ends_with_connection.get() {
                                this.io.reset_on_close();
                                return Poll::Ready(());
                            }
                        }
                    }
                }
            }
            // Ends the exchange in progress, if there is one.
            this.hyper = None;
        }
        if let Some(websocket) = &mut this.websocket {
            ready!(websocket.poll(&mut this.alarm, cx));
            this.websocket = None;
        }
        let until = match this.lingers_until {
            Some(until) => until,
            None => {
                this.shared.abandon_session();
                // A peer that was faster makes this fail, which changes nothing.
                let _ = Pin::new(&mut this.io).poll_shutdown(cx);
                if this.io.has_ended() {
                    return Poll::Ready(());
                }
                *this.lingers_until.insert(clock::now_ms() + LINGER_MS)
            }
        };
        if this.alarm.poll_at(until, cx).is_ready() {
            return Poll::Ready(());
        }
        this.io.poll_discard(cx)
    }
}

/// Says in the log why a connection or a request body broke off. That the client has
/// left, or the application gave up, is no news; that what it sent is not HTTP, is.
fn report(error: &hyper::Error, peer: &queue::Peer) {
    let source = std::error::Error::source(error);
    let reason = source.map_or_else(|| error.to_string(), ToString::to_string);
    let is_malformed = source
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidInput);
    if error.is_parse() || is_malformed {
        tracing::warn!("invalid HTTP request from {}: {reason}", peer.label());
    } else {
        tracing::debug!("connection of {} ended: {error}", peer.label());
    }
}
