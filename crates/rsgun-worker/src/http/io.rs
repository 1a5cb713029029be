//! The bottom layer of a connection: the socket, driven by tokio's readiness.
//!
//! It differs from tokio's own streams in two points. It knows when the peer has
//! closed its side while hyper is not reading (the kernel says so with
//! `EPOLLRDHUP`), which is how `http.disconnect` is noticed at once. And a short read
//! or write counts as "drained": epoll is edge-triggered, so asking again would only
//! cost a system call that says so.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use rsgun_core::scoreboard::{Scoreboard, add};
use rsgun_core::sys::shared::Shared;
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::tap::Tap;
use crate::ffi;
use crate::reactor::clock;

/// Bytes that are thrown away at a time.
const SCRATCH: usize = 8192;

thread_local! {
    /// Bytes read and written since the scoreboard was last told.
    static TRAFFIC: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Adds the traffic of this thread to its scoreboard.
pub(crate) fn report_traffic(board: &Shared<Scoreboard>) {
    let (read, written) = TRAFFIC.replace((0, 0));
    if read > 0 {
        add(&board.bytes_in, read);
    }
    if written > 0 {
        add(&board.bytes_out, written);
    }
}

/// A connected socket; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Io(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: AsyncFd<Socket>,
    /// The readiness was taken by [`Io::poll_peer_closed`], but data may be waiting.
    unread: AtomicBool,
    /// hyper has something that it could not write yet.
    behind: AtomicBool,
    /// Since when nothing of that has gone out, milliseconds of the reactor's clock.
    behind_since_ms: AtomicU64,
    /// The peer has closed its sending side, and all it sent was read.
    ended: AtomicBool,
    /// Keeps request heads.
    tap: Mutex<Tap>,
}

impl Io {
    /// Registers a connected, non-blocking socket with the runtime of this thread.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` returns.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Self(Arc::new(Inner {
            socket: ffi::register(socket, interest)?,
            unread: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            behind_since_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            tap: Mutex::new(Tap::default()),
        })))
    }

    /// What was read of request heads.
    pub(crate) fn tap(&self) -> MutexGuard<'_, Tap> {
        self.0.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the close a reset, which the peer cannot take for a proper end.
    pub(crate) fn reset_on_close(&self) {
        // Fails on a UNIX socket, which has no such thing.
        let _ = self
            .0
            .socket
            .get_ref()
            .set_linger(Some(std::time::Duration::ZERO));
    }

    /// Sends an informational response (RFC 9110, 15.2), which hyper knows nothing of, while
    /// it waits for the final one. Left out when something of an earlier response waits
    /// still, or the peer does not take it.
    pub(crate) fn send_between(&self, response: &[u8]) {
        if self.0.behind.load(Relaxed) {
            return;
        }
        match self.0.socket.get_ref().send(response) {
            Ok(written) if written < response.len() => {
                // Half of it cannot be taken back, nor can anything follow it.
                self.reset_on_close();
                let _ = self.0.socket.get_ref().shutdown(std::net::Shutdown::Both);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!("an informational response was left out: {error}"),
        }
    }

    /// Since when nothing of what hyper wants to write has gone out, milliseconds of the
    /// reactor's clock; `None` if everything has.
    pub(crate) fn behind_since_ms(&self) -> Option<u64> {
        let is_behind = self.0.behind.load(Relaxed);
        is_behind.then(|| self.0.behind_since_ms.load(Relaxed))
    }

    fn fall_behind(&self) {
        if !self.0.behind.load(Relaxed) {
            self.0.behind.store(true, Relaxed);
            self.0.behind_since_ms.store(clock::now_ms(), Relaxed);
        }
    }

    /// Forgets what was kept of request heads: no more will come.
    pub(crate) fn drop_tap(&self) {
        *self.tap() = Tap::default();
    }

    /// Whether everything that the peer will ever send has been read.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.ended.load(Relaxed)
    }

    /// Waits until the peer has closed its sending side, or the whole connection.
    ///
    /// Only to be polled while hyper is not reading.
    pub(crate) fn poll_peer_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut guard) = ready!(self.0.socket.poll_read_ready(cx)) else {
                return Poll::Ready(());
            };
            let ready = guard.ready();
            if ready.is_read_closed() || ready.is_error() {
                return Poll::Ready(());
            }
            // The next request is waiting: remember it, and wait for what comes next.
            self.0.unread.store(true, Relaxed);
            guard.clear_ready();
        }
    }

    /// Reads and throws away until the peer closes; `Ready` then or on an error. Adds the
    /// bytes to `count`.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>, count: &mut u64) -> Poll<()> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); SCRATCH];
        loop {
            match ready!(self.poll_recv(cx, |socket| socket.recv(&mut scratch), SCRATCH)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(length) => *count += length as u64,
            }
        }
    }

    /// Reads into a buffer; 0 is the end.
    pub(crate) fn poll_read_into(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let room = buffer.len();
        let length =
            ready!(self.poll_recv(cx, |mut socket| io::Read::read(&mut socket, buffer), room))?;
        self.count_read(length, room);
        Poll::Ready(Ok(length))
    }

    fn count_read(&self, length: usize, room: usize) {
        if length == 0 && room > 0 {
            self.0.ended.store(true, Relaxed);
        }
        TRAFFIC.with(|cell| {
            let (total, written) = cell.get();
            cell.set((total + length as u64, written));
        });
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        mut recv: impl FnMut(&Socket) -> io::Result<usize>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        if self.0.unread.swap(false, Relaxed) {
            match recv(self.0.socket.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => {
                    // More may be there than fitted: the readiness is gone, so look again.
                    if matches!(other, Ok(length) if length == room) {
                        self.0.unread.store(true, Relaxed);
                    }
                    return Poll::Ready(other);
                }
            }
        }
        loop {
            let mut guard = ready!(self.0.socket.poll_read_ready(cx))?;
            match recv(guard.get_inner()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(length) => {
                    if length > 0 && length < room {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(length));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        mut send: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.fall_behind();
        loop {
            let mut guard = ready!(self.0.socket.poll_write_ready(cx))?;
            match send(guard.get_inner()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => {
                    self.0.behind.store(false, Relaxed);
                    if written < length {
                        self.fall_behind();
                    }
                    if written > 0 && written < length {
                        guard.clear_ready();
                    }
                    TRAFFIC.with(|cell| {
                        let (read, total) = cell.get();
                        cell.set((read, total + written as u64));
                    });
                    return Poll::Ready(Ok(written));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let room = cursor.remaining();
        let io = &*self;
        let length = ready!(io.poll_recv(
            cx,
            |socket| {
                ffi::fill(
                    &mut cursor,
                    |free| socket.recv(free),
                    |read| io.tap().read(read),
                )
            },
            room
        ))?;
        self.count_read(length, room);
        Poll::Ready(Ok(()))
    }
}

impl Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes.len(), |socket| socket.send(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.socket.get_ref().shutdown(std::net::Shutdown::Write) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_send(cx, length, |socket| socket.send_vectored(slices))
    }
}
