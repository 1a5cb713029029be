//! A connection after its upgrade: drives the frames of one WebSocket.
//!
//! It runs in the read and write phases and does not touch Python. What arrives is
//! read into a buffer that all connections share, decoded and handed to the
//! [`Session`] (`input`); what the session holds for the client is encoded and written
//! (`output`, `backlog`). An idle WebSocket so holds no buffer at all. Pings and all
//! time limits hang on one alarm (`timing`).
//!
//! How it ends, whoever begins: the end is known to the session, so that the
//! application is told; messages that it has not taken yet go first, and where this side
//! begins, the news of the end ([`Phase::Ending`]); the close frame goes out; then the client has a moment for its
//! own ([`Phase::Closing`]), unless that came first.

mod backlog;
mod input;
mod output;
mod timing;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rsgun_core::config::Settings;
use rsgun_websocket::close;
use rsgun_websocket::decoder::Decoder;
use rsgun_websocket::encoder::Encoder;

use self::backlog::Backlog;
use super::io::Io;
use super::shared::Common;
use crate::asgi::session::Session;
use crate::reactor::clock;
use crate::reactor::deadlines::Alarm;
use crate::reactor::queue::{self, Work};

/// How long the application has to take what came before the end, milliseconds.
const SETTLE_MS: u64 = 2_000;
/// How long the client has to answer a close frame, milliseconds.
const CLOSE_MS: u64 = 5_000;

/// What holds for the WebSockets of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a message.
    pub(crate) max_size: usize,
    /// Messages that may wait for the application.
    pub(crate) max_queue: usize,
    /// Milliseconds between pings; 0: none.
    pub(crate) ping_interval_ms: u64,
    /// Milliseconds until a ping must be answered; 0: no limit.
    pub(crate) ping_timeout_ms: u64,
    /// Whether compression is offered.
    pub(crate) deflate: bool,
}

impl Limits {
    /// Those of the settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            max_size: usize::try_from(settings.ws_max_size).unwrap_or(usize::MAX),
            max_queue: usize::try_from(settings.ws_max_queue).unwrap_or(usize::MAX),
            ping_interval_ms: settings.ws_ping_interval,
            ping_timeout_ms: settings.ws_ping_timeout,
            deflate: settings.ws_per_message_deflate,
        }
    }
}

/// How the WebSockets of a worker that stops are closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Farewell {
    /// The code of the close frame.
    pub(crate) code: u16,
    /// Without waiting for the client.
    pub(crate) at_once: bool,
}

/// How far a connection has come.
#[derive(Debug)]
enum Phase {
    Open,
    /// The close frame waits until the application has taken what came before.
    Ending {
        code: u16,
        reason: String,
        until: u64,
        /// The client will answer it.
        expects_answer: bool,
    },
    /// The close frame is out, the client's is not there.
    Closing {
        until: u64,
    },
    /// Only what is encoded is still to be written.
    Finishing {
        until: u64,
    },
}

impl Phase {
    /// The one that follows a close frame of this side, which goes out now.
    fn after_close(expects_answer: bool) -> Self {
        let until = clock::now_ms() + CLOSE_MS;
        if expects_answer {
            Self::Closing { until }
        } else {
            Self::Finishing { until }
        }
    }
}

/// The driver of one WebSocket.
pub(crate) struct WebSocket {
    io: Io,
    session: Arc<Session>,
    common: Rc<Common>,
    limits: Limits,
    decoder: Decoder,
    encoder: Encoder,
    /// Read, but not decoded since too much waits for the application.
    unread: Vec<u8>,
    backlog: Backlog,
    /// The last ping that came while too much waited for the socket.
    unanswered: Option<Bytes>,
    phase: Phase,
    /// When the client was last heard, milliseconds.
    heard_at: u64,
    /// When it was asked for a sign of life since then.
    pinged_at: Option<u64>,
}

/// The connection is lost.
struct Lost;

impl WebSocket {
    /// Takes over a connection; `early` was sent by the client before it had the
    /// answer to its handshake.
    pub(crate) fn new(
        io: Io,
        session: Arc<Session>,
        common: Rc<Common>,
        limits: Limits,
        early: &[u8],
    ) -> Self {
        let compression = session.handshake.compression;
        common.websockets.set(common.websockets.get() + 1);
        Self {
            io,
            session,
            common,
            limits,
            decoder: Decoder::new(compression, limits.max_size),
            encoder: Encoder::new(compression),
            unread: early.to_vec(),
            backlog: Backlog::default(),
            unanswered: None,
            phase: Phase::Open,
            heard_at: clock::now_ms(),
            pinged_at: None,
        }
    }

    /// Moves on what can be moved; `Ready` when nothing more is to be sent.
    pub(crate) fn poll(&mut self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<()> {
        self.say_farewell();
        let result = self.advance(alarm, cx);
        match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                if result.is_err() {
                    self.backlog = Backlog::default();
                }
                self.tell(Session::lost);
                Poll::Ready(())
            }
        }
    }

    fn advance(&mut self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        loop {
            self.receive(cx)?;
            self.settle(cx);
            let is_written = self.transmit(cx)?;
            if is_written && matches!(self.phase, Phase::Finishing { .. }) {
                return Poll::Ready(Ok(()));
            }
            let Some(due) = self.due() else {
                return Poll::Pending;
            };
            if alarm.poll_at(due, cx).is_pending() {
                return Poll::Pending;
            }
            self.overdue()?;
        }
    }

    /// Tells the session something and, if it waits, the application.
    fn tell(&self, what: impl FnOnce(&Session) -> bool) {
        if what(&self.session) {
            queue::push(Work::Session(Arc::clone(&self.session)));
        }
    }

    /// The worker stops: this WebSocket ends.
    fn say_farewell(&mut self) {
        let Some(Farewell { code, at_once }) = self.common.farewell.get() else {
            return;
        };
        if matches!(self.phase, Phase::Open) {
            let reason = if code == close::SERVICE_RESTART {
                "the server restarts"
            } else {
                "the server stops"
            };
            // It is told first, so that it knows of the end when the client does.
            self.tell(|session| session.announce_end(code, reason));
            self.await_settling(code, reason, true);
        }
        if at_once && !matches!(self.phase, Phase::Finishing { .. }) {
            self.session.shut();
            self.send_close();
            self.finish();
        }
    }

    /// The end is known: `code` and `reason` for the application, the others for the
    /// close frame.
    fn end(&mut self, code: u16, reason: &str, sent: u16, said: &str, expects_answer: bool) {
        self.tell(|session| session.end(code, reason));
        self.await_settling(sent, said, expects_answer);
    }

    /// The close frame goes out when the application has taken what comes before it.
    fn await_settling(&mut self, code: u16, reason: &str, expects_answer: bool) {
        self.phase = Phase::Ending {
            code,
            reason: reason.to_owned(),
            until: clock::now_ms() + SETTLE_MS,
            expects_answer,
        };
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let open = self.common.websockets.get();
        self.common.websockets.set(open.saturating_sub(1));
        self.tell(Session::lost);
    }
}
