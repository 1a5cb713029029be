//! A connection that an application takes over by its socket.
//!
//! WSGI knows no WebSockets. Libraries that serve them all the same (simple-websocket, and
//! with it Flask-Sock and Flask-SocketIO) look for the socket of the connection in the
//! environ, where gunicorn puts it as `gunicorn.socket`, and speak the protocol
//! themselves, the answer to the handshake included. Here the connection belongs to a
//! thread without Python, so the application gets one end of a pair of sockets:
//!
//! ```text
//! client ◀── socket ──▶ Connection ◀── near end │ far end ──▶ gunicorn.socket
//! ```
//!
//! As long as nothing was written there, the request is one like others, and may be
//! answered like others. With the first byte the application has taken the connection
//! ([`Handover::is_taken`], which either side may find out first): hyper is taken off, and
//! the [`Tunnel`](super::tunnel::Tunnel) carries bytes both ways until an end is closed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use http::StatusCode;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::asgi::exchange::Exchange;
use crate::ffi;

/// `HTTP/1.1 101`.
const STATUS_LINE: usize = 12;

/// The near end, as both sides know it.
#[derive(Debug)]
pub(crate) struct Handover {
    near: Socket,
    /// The request is over.
    is_over: AtomicBool,
    /// Who wants to know that.
    watcher: Mutex<Option<Waker>>,
}

/// What the application is offered with a request.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) handover: Arc<Handover>,
    /// The far end, which blocks.
    pub(crate) socket: OwnedFd,
}

impl Handover {
    /// Whether the application has taken the connection, whose `exchange` is then complete
    /// with the status that it has written.
    ///
    /// Of an answer in the usual way, or one that the server has given in its place, it
    /// cannot go back to that.
    pub(crate) fn is_taken(&self, exchange: &Exchange) -> bool {
        let mut line = [0; STATUS_LINE];
        match recv(self.near.as_raw_fd(), &mut line, MsgFlags::MSG_PEEK) {
            Ok(length @ 1..) => exchange.hand_over(status(&line[..length])),
            // Nothing is read before it is known to be taken.
            _ => exchange.is_handed_over(),
        }
    }

    /// The request is over: nothing more is to come but what is on its way.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(waker) = self.watcher().take() {
            waker.wake();
        }
    }

    fn watcher(&self) -> MutexGuard<'_, Option<Waker>> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRawFd for Handover {
    fn as_raw_fd(&self) -> RawFd {
        self.near.as_raw_fd()
    }
}

/// What the application answers by itself, as far as that can be seen of its first bytes.
fn status(line: &[u8]) -> StatusCode {
    line.strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| StatusCode::from_bytes(digits).ok())
        .unwrap_or(StatusCode::SWITCHING_PROTOCOLS)
}

/// The near end, as the connection holds it. When it goes, the far end has ended.
#[derive(Debug)]
pub(super) struct NearEnd(AsyncFd<Arc<Handover>>);

impl NearEnd {
    /// Makes a pair of sockets, and registers the near end with the runtime of this thread.
    ///
    /// # Errors
    /// What `socketpair(2)` and `epoll_ctl(2)` return.
    pub(super) fn open() -> io::Result<(Self, Offer)> {
        let (near, far) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        near.set_nonblocking(true)?;
        let handover = Arc::new(Handover {
            near,
            is_over: AtomicBool::new(false),
            watcher: Mutex::default(),
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let near_end = Self(ffi::register(Arc::clone(&handover), interest)?);
        let socket = far.into();
        Ok((near_end, Offer { handover, socket }))
    }

    /// Whether the application has taken the connection; if not, it is looked at again when
    /// it may have.
    pub(super) fn poll_taken(&self, exchange: &Exchange, cx: &mut Context<'_>) -> bool {
        loop {
            // Whatever epoll has told so far: the answer may be there already.
            if self.0.get_ref().is_taken(exchange) {
                return true;
            }
            let Poll::Ready(Ok(mut guard)) = self.0.poll_read_ready(cx) else {
                return false;
            };
            if guard.ready().is_read_closed() {
                // Which stays so, and nothing more will come.
                return self.0.get_ref().is_taken(exchange);
            }
            guard.clear_ready();
        }
    }

    /// Reads what the application has written; 0 is its end.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let read = guard.try_io(|near| io::Read::read(&mut &near.get_ref().near, buffer));
            if let Ok(read) = read {
                return Poll::Ready(read);
            }
        }
    }

    /// Writes what the client has sent.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|near| near.get_ref().near.send(bytes)) {
                return Poll::Ready(written);
            }
        }
    }

    /// Whether the request is over; if not, it is looked at again when it is.
    pub(super) fn is_over(&self, cx: &Context<'_>) -> bool {
        let handover = self.0.get_ref();
        *handover.watcher() = Some(cx.waker().clone());
        handover.is_over.load(Ordering::Acquire)
    }

    /// The application will read nothing more.
    pub(super) fn end(&self) {
        // Fails when it has gone before.
        let _ = self.0.get_ref().near.shutdown(std::net::Shutdown::Write);
    }
}

impl Drop for NearEnd {
    fn drop(&mut self) {
        // A thread may know the socket still, which therefore stays open.
        let _ = self.0.get_ref().near.shutdown(std::net::Shutdown::Both);
    }
}
