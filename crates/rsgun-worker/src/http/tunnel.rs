//! A connection after an application has taken it: carries bytes both ways.
//!
//! What an application of WSGI speaks with its client is its own affair (see
//! [`handover`](super::handover)). Each side is read only when the other one has taken
//! what came before, so whoever is slow holds up who writes to it, and an idle tunnel
//! holds no buffer. When the client ends, or the worker stops, the application reads its
//! end, and may still say its last word; when the application ends, the connection does.
//! What is left of it when its request is over, such as a thread of its own, has a moment
//! for that.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::Write as _;

use super::handover::NearEnd;
use super::io::Io;
use super::shared::Common;
use crate::reactor::clock;
use crate::reactor::deadlines::Alarm;

/// How long the connection outlives the request, milliseconds.
const LAST_WORDS_MS: u64 = 1_000;
/// Bytes that are carried at a time.
const PIECE: usize = 16 * 1024;

/// One side cannot be reached any more.
struct Lost;

impl From<std::io::Error> for Lost {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

/// Bytes that were read, and not written yet.
#[derive(Debug, Default)]
struct Rest {
    bytes: Vec<u8>,
    written: usize,
}

impl Rest {
    fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            written: 0,
        }
    }

    /// Writes all of it, or as much as is taken.
    fn poll_write(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Poll<std::io::Result<usize>>,
    ) -> Poll<Result<(), Lost>> {
        while self.written < self.bytes.len() {
            match write(&self.bytes[self.written..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Lost)),
                Poll::Ready(Ok(written)) => self.written += written,
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}

/// The driver of one connection that an application has taken.
#[derive(Debug)]
pub(super) struct Tunnel {
    io: Io,
    near: NearEnd,
    common: Rc<Common>,
    to_application: Rest,
    to_client: Rest,
    /// The application was told that nothing more comes.
    is_ended: bool,
    /// When the connection ends after its request, milliseconds.
    until: Option<u64>,
}

impl Tunnel {
    /// Takes over a connection; `early` was sent by the client after its request.
    pub(super) fn new(io: Io, near: NearEnd, common: Rc<Common>, early: &[u8]) -> Self {
        common.websockets.set(common.websockets.get() + 1);
        Self {
            io,
            near,
            common,
            to_application: Rest::new(early),
            to_client: Rest::default(),
            is_ended: false,
            until: None,
        }
    }

    /// Moves on what can be moved; `Ready` when nothing more is to be sent.
    pub(super) fn poll(&mut self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<()> {
        if self.common.farewell.get().is_some_and(|it| it.at_once) {
            return Poll::Ready(());
        }
        if self.carry_down(cx).is_ready()
            || self.carry_up(cx).is_err()
            || self.is_overdue(alarm, cx)
        {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// From the application to the client; `Ready` at the end of either.
    fn carry_down(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut piece = [0; PIECE];
        loop {
            let io = &mut self.io;
            let written = self
                .to_client
                .poll_write(|bytes| Pin::new(&mut *io).poll_write(cx, bytes));
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(Lost)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            match self.near.poll_read(cx, &mut piece) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(length)) => self.to_client = Rest::new(&piece[..length]),
            }
        }
    }

    /// From the client to the application, until that is told of the end.
    ///
    /// # Errors
    /// The client cannot be reached any more.
    fn carry_up(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        let mut piece = [0; PIECE];
        while !self.is_ended {
            let near = &self.near;
            match self
                .to_application
                .poll_write(|bytes| near.poll_write(cx, bytes))
            {
                Poll::Pending => return Ok(()),
                // It has closed its end, which is read as such when all it wrote is.
                Poll::Ready(Err(Lost)) => self.is_ended = true,
                Poll::Ready(Ok(())) if self.common.farewell.get().is_some() => self.end(),
                Poll::Ready(Ok(())) => match self.io.poll_read_into(cx, &mut piece) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(0)) => self.end(),
                    Poll::Ready(length) => self.to_application = Rest::new(&piece[..length?]),
                },
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        self.near.end();
        self.is_ended = true;
    }

    /// Whether the client has not taken anything for too long, or the application has not
    /// come to its end.
    fn is_overdue(&mut self, alarm: &mut Alarm, cx: &mut Context<'_>) -> bool {
        let is_over = self.near.is_over(cx);
        let behind_since = self.io.behind_since_ms();
        let due = match behind_since {
            Some(since) => self
                .common
                .client_timeout_ms
                .map(|patience| since + patience),
            None if is_over => Some(*self.until.get_or_insert(clock::now_ms() + LAST_WORDS_MS)),
            None => None,
        };
        let is_overdue = due.is_some_and(|due| alarm.poll_at(due, cx).is_ready());
        if is_overdue && behind_since.is_some() {
            self.io.reset_on_close();
        }
        is_overdue
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let open = self.common.websockets.get();
        self.common.websockets.set(open.saturating_sub(1));
    }
}
