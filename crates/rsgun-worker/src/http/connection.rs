//! One client connection from accept to close.
//!
//! The task polls hyper, and between hyper's reads it does what hyper does not:
//! moves the request body on to the application as far as there is room, throws away
//! what nobody reads of it, notices a peer that leaves while the application works, and
//! watches the clock. An answer that breaks off is written as far as it goes before the
//! connection ends. A connection that this side closes first lingers: it reads until the
//! peer has closed too, or else the kernel would reset it and the peer lose the end of
//! the answer (RFC 9112, 9.6).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::Write as _;
use hyper::server::conn::http1;

use super::io::Io;
use super::service::Exchanges;
use super::shared::Shared;
use super::tunnel::Tunnel;
use super::websocket::WebSocket;
use crate::asgi::exchange::SharedExchange;
use crate::reactor::clock;
use crate::reactor::deadlines::Alarm;
use crate::reactor::queue::{self, Work};

/// How long a connection that this side has closed waits for the peer to close, or to
/// send on: one that is in the middle of an upload reads its answer afterwards.
const LINGER_MS: u64 = 1_000;
/// How long it does so in all.
const LINGER_MAX_MS: u64 = 15_000;
/// And for how many bytes.
const LINGER_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// How long a draining worker waits for one more request on an idle connection.
const DRAIN_LINGER_MS: u64 = 2_000;
/// Bytes that hyper buffers at most, in either direction.
const BUFFER_MAX: usize = 64 * 1024;

/// How long a closed connection still waits, milliseconds of the reactor's clock.
#[derive(Debug, Clone, Copy)]
struct Linger {
    until: u64,
    at_most: u64,
    /// Bytes that have come.
    taken: u64,
}

/// What a connection has become.
enum Upgraded {
    WebSocket(Box<WebSocket>),
    Tunnel(Box<Tunnel>),
}

impl Upgraded {
    fn poll(&mut self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::WebSocket(websocket) => websocket.poll(alarm, cx),
            Self::Tunnel(tunnel) => tunnel.poll(alarm, cx),
        }
    }
}

/// The task of one connection.
pub(crate) struct Connection {
    hyper: Option<Box<http1::Connection<Io, Exchanges>>>,
    /// What follows hyper when the connection was upgraded.
    upgraded: Option<Upgraded>,
    io: Io,
    shared: Rc<Shared>,
    alarm: Alarm,
    peer_left: bool,
    /// hyper had something left to write when it was last looked at.
    was_behind: bool,
    /// Since when nothing has come of a request body that is awaited, milliseconds.
    silent_since: Option<u64>,
    /// When the head that is not complete was first seen, milliseconds.
    head_since: Option<u64>,
    /// Closed by this side; waits for the peer.
    lingers: Option<Linger>,
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
            upgraded: None,
            io,
            shared,
            alarm: Alarm::default(),
            peer_left: false,
            was_behind: false,
            silent_since: None,
            head_since: None,
            lingers: None,
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
            self.upgraded = Some(Upgraded::WebSocket(Box::new(websocket)));
        }
    }

    /// Goes on as a tunnel, if the application has taken the connection.
    fn hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        // The answers to earlier requests go first.
        if self.io.behind_since_ms().is_some() || !self.is_taken(cx) {
            return false;
        }
        let (Some(near_end), Some(hyper)) = (self.shared.offered.take(), self.hyper.take()) else {
            return false;
        };
        let early = hyper.into_parts().read_buf;
        self.io.drop_tap();
        let common = Rc::clone(&self.shared.common);
        let tunnel = Tunnel::new(self.io.clone(), near_end, common, &early);
        self.upgraded = Some(Upgraded::Tunnel(Box::new(tunnel)));
        true
    }

    fn is_taken(&self, cx: &mut Context<'_>) -> bool {
        let (offered, current) = (self.shared.offered.borrow(), self.shared.current.borrow());
        match (&*offered, &*current) {
            (Some(offered), Some(exchange)) => offered.poll_taken(exchange, cx),
            _ => false,
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

    /// Takes what has arrived of a body that nobody reads any more.
    fn discard_rest(&self, cx: &mut Context<'_>) {
        let mut rest = self.shared.rest.borrow_mut();
        if let Some(left) = &mut *rest
            && let Poll::Ready(end) = left.poll_discard(cx)
        {
            // If there is more, hyper closes the connection now.
            *rest = None;
            self.shared.idle_since.set(clock::now_ms());
            if let Err(error) = end {
                report(&error, &self.shared.peer);
            }
        }
    }

    /// Does for the exchange in progress what hyper does not, or for the last one.
    fn attend(&mut self, cx: &mut Context<'_>) {
        self.discard_rest(cx);
        let Some(exchange) = self.shared.current.borrow().clone() else {
            self.silent_since = None;
            return;
        };
        let pumped = exchange.pump(cx);
        if let Some(error) = pumped.error {
            report(&error, &self.shared.peer);
        }
        if !pumped.awaits_client {
            self.silent_since = None;
        } else if pumped.has_come || self.silent_since.is_none() {
            self.silent_since = Some(clock::now_ms());
        }
        let is_watched = !pumped.awaits_client && !self.peer_left;
        self.peer_left = self.peer_left || (is_watched && self.io.poll_peer_closed(cx).is_ready());
        if pumped.tell || (self.peer_left && exchange.peer_left()) {
            queue::push(Work::Receive(exchange));
        }
    }

    /// Whether all has been written of an answer that breaks off.
    fn is_broken_off(&self) -> bool {
        self.shared.is_broken_off.get() && self.io.behind_since_ms().is_none()
    }

    /// Makes sure that an answer which has not come to its end does not look complete. Returns
    /// whether the connection must not end in the usual way for that.
    fn ends_with_reset(&self) -> bool {
        let is_unframed = self.shared.ends_with_connection.get();
        if is_unframed {
            self.io.reset_on_close();
        }
        is_unframed
    }

    /// Whether the connection has had its time.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(since) = self.io.behind_since_ms() {
            return self.is_stuck(since, cx);
        }
        if std::mem::take(&mut self.was_behind) {
            self.shared.idle_since.set(clock::now_ms());
        }
        let current = self.shared.current.borrow().clone();
        match current {
            Some(exchange) => {
                self.look_at_body(&exchange, cx);
                false
            }
            None => self.is_idle_for_too_long(cx),
        }
    }

    /// Whether the client has not taken anything of its answer for too long. Until it has
    /// taken all of it the connection is not idle, although hyper may be through.
    fn is_stuck(&mut self, since: u64, cx: &mut Context<'_>) -> bool {
        self.was_behind = true;
        let Some(patience) = self.shared.common.client_timeout_ms else {
            return false;
        };
        let is_stuck = self.alarm.poll_at(since + patience, cx).is_ready();
        if is_stuck {
            tracing::debug!("{} takes nothing of its answer", self.shared.peer.label());
            self.io.reset_on_close();
        }
        is_stuck
    }

    /// Stops waiting for a request body that does not come.
    fn look_at_body(&mut self, exchange: &SharedExchange, cx: &mut Context<'_>) {
        if let (Some(since), Some(patience)) =
            (self.silent_since, self.shared.common.client_timeout_ms)
            && self.alarm.poll_at(since + patience, cx).is_ready()
        {
            tracing::debug!("{} does not send its request", self.shared.peer.label());
            self.silent_since = None;
            if exchange.stop_waiting() {
                queue::push(Work::Receive(Arc::clone(exchange)));
            }
        }
    }

    /// Whether no request was in progress for too long, or its head is not complete.
    fn is_idle_for_too_long(&mut self, cx: &mut Context<'_>) -> bool {
        let awaits_rest = self.shared.rest.borrow().is_some();
        let has_begun = !awaits_rest && {
            let mut tap = self.io.tap();
            tap.begin();
            tap.has_begun()
        };
        let now = clock::now_ms();
        let idle = self.shared.idle_since.get();
        let common = &self.shared.common;
        let mut until = if has_begun {
            let since = *self.head_since.get_or_insert(now);
            common.client_timeout_ms.map(|patience| since + patience)
        } else {
            self.head_since = None;
            // Browsers open connections ahead of time; and who still sends is not idle.
            let first = common.client_timeout_ms.unwrap_or(0);
            let is_idle = self.shared.has_served.get() && !awaits_rest;
            let patience = common.keep_alive_ms.max(if is_idle { 0 } else { first });
            Some(idle + patience)
        };
        if let Some(since) = common.draining_since.get() {
            let linger = since.max(idle) + DRAIN_LINGER_MS;
            until = Some(until.map_or(linger, |until| until.min(linger)));
        }
        until.is_some_and(|until| self.alarm.poll_at(until, cx).is_ready())
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
        this.hand_over(cx);
        if let Some(hyper) = &mut this.hyper {
            let result = Pin::new(hyper).poll(cx);
            match result {
                Poll::Pending => {
                    this.attend(cx);
                    // hyper may just have read the request with which it can be taken.
                    if this.hand_over(cx) {
                        // The tunnel goes on without it.
                    } else if this.is_broken_off() {
                        if this.ends_with_reset() {
                            return Poll::Ready(());
                        }
                    } else if !this.is_overdue(cx) {
                        return Poll::Pending;
                    } else if this.was_behind {
                        // There is nothing to wait for.
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(result) => {
                    // The last bytes of a request body may be waiting still.
                    this.attend(cx);
                    match result {
                        Ok(()) => this.upgrade(),
                        Err(error) => {
                            report(&error, &this.shared.peer);
                            if this.ends_with_reset() {
                                return Poll::Ready(());
                            }
                        }
                    }
                }
            }
            // Ends the exchange in progress, if there is one.
            this.hyper = None;
        }
        if let Some(upgraded) = &mut this.upgraded {
            ready!(upgraded.poll(&mut this.alarm, cx));
            this.upgraded = None;
        }
        let linger = match &mut this.lingers {
            Some(linger) => linger,
            None => {
                this.shared.abandon_session();
                // A peer that was faster makes this fail, which changes nothing.
                let _ = Pin::new(&mut this.io).poll_shutdown(cx);
                if this.io.has_ended() {
                    return Poll::Ready(());
                }
                let now = clock::now_ms();
                this.lingers.insert(Linger {
                    until: now + LINGER_MS,
                    at_most: now + LINGER_MAX_MS,
                    taken: 0,
                })
            }
        };
        let taken = linger.taken;
        let end = this.io.poll_discard(cx, &mut linger.taken);
        if linger.taken > taken {
            linger.until = linger.at_most.min(clock::now_ms() + LINGER_MS);
        }
        let is_over = linger.taken > LINGER_MAX_BYTES;
        if is_over || this.alarm.poll_at(linger.until, cx).is_ready() {
            return Poll::Ready(());
        }
        end
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let is_writing =
            self.shared.current.borrow().is_some() || self.io.behind_since_ms().is_some();
        if self.hyper.is_some() && is_writing && self.shared.ends_with_connection.get() {
            self.io.reset_on_close();
        }
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
