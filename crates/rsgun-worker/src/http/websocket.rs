//! A connection after its upgrade: drives the frames of one WebSocket.
//!
//! It runs in the read and write phases and does not touch Python. What arrives is
//! read into a buffer that all connections share, decoded and handed to the
//! [`Session`]; what the session holds for the client is encoded and written. An idle
//! WebSocket so holds no buffer at all.
//!
//! How it ends, whoever begins: the end is known to the session, so that the
//! application is told; messages that it has not taken yet go first
//! ([`Phase::Ending`]); the close frame goes out; then the client has a moment for its
//! own ([`Phase::Closing`]), unless that came first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::Write as _;
use rsgun_core::config::{Settings, WebSockets};
use rsgun_websocket::close;
use rsgun_websocket::decoder::{Decoder, Event};
use rsgun_websocket::encoder::{self, Encoder};

use super::connection::Common;
use super::io::Io;
use crate::asgi::session::{Outgoing, Session};
use crate::reactor::clock;
use crate::reactor::deadlines::Alarm;
use crate::reactor::queue::{self, Work};

/// Size of the shared read buffer.
const READ_BYTES: usize = 64 * 1024;
/// Bytes read of one connection before others get their turn.
const READ_AT_ONCE: usize = 4 * READ_BYTES;
/// Encoded bytes that may wait for the socket before no more is encoded.
const WRITE_HIGH_WATER: usize = 64 * 1024;
/// Slices of one write.
const SLICES: usize = 16;
/// How long the application has to take what came before the end, milliseconds.
const SETTLE_MS: u64 = 2_000;
/// How long the client has to answer a close frame, milliseconds.
const CLOSE_MS: u64 = 5_000;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

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
    /// Those of the settings; `None` if WebSockets are not served.
    pub(crate) fn of(settings: &Settings) -> Option<Self> {
        (settings.ws == WebSockets::Auto).then_some(Self {
            max_size: usize::try_from(settings.ws_max_size).unwrap_or(usize::MAX),
            max_queue: usize::try_from(settings.ws_max_queue).unwrap_or(usize::MAX),
            ping_interval_ms: settings.ws_ping_interval,
            ping_timeout_ms: settings.ws_ping_timeout,
            deflate: settings.ws_per_message_deflate,
        })
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
    out: Out,
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
            out: Out::default(),
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
                    self.out = Out::default();
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
            self.end(code, reason, code, reason, true);
        }
        if at_once && !matches!(self.phase, Phase::Finishing { .. }) {
            self.session.shut();
            self.send_close();
            let until = clock::now_ms() + CLOSE_MS;
            self.phase = Phase::Finishing { until };
        }
    }

    /// The end is known: `code` and `reason` for the application, the others for the
    /// close frame.
    fn end(&mut self, code: u16, reason: &str, sent: u16, said: &str, expects_answer: bool) {
        self.tell(|session| session.end(code, reason));
        self.phase = Phase::Ending {
            code: sent,
            reason: said.to_owned(),
            until: clock::now_ms() + SETTLE_MS,
            expects_answer,
        };
    }

    // === in ===

    /// Whether what arrives is still decoded.
    fn listens(&self) -> bool {
        match self.phase {
            Phase::Open => !self
                .session
                .is_full(self.limits.max_queue, self.limits.max_size),
            Phase::Closing { .. } => true,
            Phase::Ending { .. } | Phase::Finishing { .. } => false,
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        if !self.unread.is_empty() {
            let mut unread = std::mem::take(&mut self.unread);
            let taken = self.decode(&mut unread);
            unread.drain(..taken);
            self.unread = unread;
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut total = 0;
            while self.unread.is_empty() && self.listens() {
                if total >= READ_AT_ONCE {
                    cx.waker().wake_by_ref();
                    break;
                }
                match self.io.poll_read_into(cx, buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0) | Err(_)) => return Err(Lost),
                    Poll::Ready(Ok(length)) => {
                        total += length;
                        self.heard_at = clock::now_ms();
                        self.pinged_at = None;
                        let taken = self.decode(&mut buffer[..length]);
                        self.unread.extend_from_slice(&buffer[taken..length]);
                    }
                }
            }
            Ok(())
        })
    }

    /// Decodes until the input or the room for it is used up. Returns how much was
    /// taken.
    fn decode(&mut self, input: &mut [u8]) -> usize {
        let mut position = 0;
        while position < input.len() && self.listens() {
            match self.decoder.decode(&mut input[position..]) {
                Ok((taken, event)) => {
                    position += taken;
                    if let Some(event) = event {
                        self.take(event);
                    }
                }
                Err(violation) => {
                    tracing::debug!("a WebSocket client broke the protocol: {violation}");
                    let (code, reason) = (violation.code, violation.reason);
                    match self.phase {
                        Phase::Open => self.end(code, reason, code, reason, false),
                        _ => self.finish(),
                    }
                    return input.len();
                }
            }
        }
        position
    }

    fn take(&mut self, event: Event) {
        let is_open = matches!(self.phase, Phase::Open);
        match event {
            Event::Message(kind, data) if is_open => {
                self.tell(|session| session.push(kind, data));
            }
            Event::Ping(data) if is_open => {
                if self.out.length() < WRITE_HIGH_WATER {
                    encoder::pong(&data, self.out.tail());
                } else {
                    // A client that does not read gets one answer for many pings
                    // (RFC 6455, 5.5.3), or they would pile up.
                    self.unanswered = Some(data);
                }
            }
            Event::Close(code, reason) if is_open => self.end(code, &reason, code, "", false),
            Event::Close(..) => self.finish(),
            // The answer to a ping counts as a sign of life, as all that arrives; and
            // what follows the close frame of this side comes too late.
            Event::Message(..) | Event::Ping(_) | Event::Pong => {}
        }
    }

    // === out ===

    /// Sends the close frame when nothing holds it back any more.
    fn settle(&mut self, cx: &Context<'_>) {
        if matches!(self.phase, Phase::Ending { .. }) && self.session.is_settled() {
            self.encode(cx, usize::MAX);
            self.send_close();
        }
    }

    /// Sends the close frame of [`Phase::Ending`]; another one may be out already.
    fn send_close(&mut self) {
        if let Phase::Ending {
            code,
            reason,
            expects_answer,
            ..
        } = &self.phase
        {
            encoder::close(*code, reason, self.out.tail());
            let until = clock::now_ms() + CLOSE_MS;
            self.phase = if *expects_answer {
                Phase::Closing { until }
            } else {
                Phase::Finishing { until }
            };
        }
    }

    /// Nothing more is to be exchanged.
    fn finish(&mut self) {
        let until = clock::now_ms() + CLOSE_MS;
        self.phase = Phase::Finishing { until };
    }

    /// Encodes what waits in the session, as long as less than `limit` bytes wait for
    /// the socket.
    fn encode(&mut self, cx: &Context<'_>, limit: usize) {
        if self.out.length() < limit
            && let Some(data) = self.unanswered.take()
        {
            encoder::pong(&data, self.out.tail());
        }
        while self.out.length() < limit {
            let (outgoing, resume) = self.session.pop_outgoing(cx);
            if resume {
                queue::push(Work::Session(Arc::clone(&self.session)));
            }
            match outgoing {
                None => return,
                Some(Outgoing::Message(kind, data)) => {
                    if let Some(payload) = self.encoder.message(kind, data, self.out.tail()) {
                        self.out.push(payload);
                    }
                }
                Some(Outgoing::Close(code, reason)) => {
                    let answers = match &self.phase {
                        Phase::Open => false,
                        Phase::Ending { expects_answer, .. } => !expects_answer,
                        Phase::Closing { .. } | Phase::Finishing { .. } => return,
                    };
                    encoder::close(code, &reason, self.out.tail());
                    let until = clock::now_ms() + CLOSE_MS;
                    self.phase = if answers {
                        Phase::Finishing { until }
                    } else {
                        Phase::Closing { until }
                    };
                }
            }
        }
    }

    /// Encodes and writes until nothing is left, or the socket takes no more; returns
    /// whether nothing is left.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Result<bool, Lost> {
        loop {
            self.encode(cx, WRITE_HIGH_WATER);
            if self.out.length() == 0 {
                return Ok(true);
            }
            match self.out.poll_write(&mut self.io, cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Lost),
            }
        }
    }

    // === time ===

    /// When something is to be done, milliseconds.
    fn due(&self) -> Option<u64> {
        match (&self.phase, self.pinged_at) {
            (
                Phase::Ending { until, .. } | Phase::Closing { until } | Phase::Finishing { until },
                _,
            ) => Some(*until),
            (Phase::Open, None) => match self.limits.ping_interval_ms {
                0 => None,
                interval => Some(self.heard_at + interval),
            },
            (Phase::Open, Some(pinged_at)) => match self.limits.ping_timeout_ms {
                0 => None,
                timeout => Some(pinged_at + timeout),
            },
        }
    }

    fn overdue(&mut self) -> Result<(), Lost> {
        let now = clock::now_ms();
        match self.phase {
            Phase::Open if !self.listens() => {
                // The application is slow: the client may well have answered.
                self.heard_at = now;
                self.pinged_at = None;
            }
            Phase::Open if self.pinged_at.is_none() => {
                encoder::ping(b"", self.out.tail());
                self.pinged_at = Some(now);
            }
            Phase::Open => {
                let reason = "no answer to a ping";
                self.end(
                    close::ABNORMAL,
                    reason,
                    close::INTERNAL_ERROR,
                    reason,
                    false,
                );
                self.session.shut();
            }
            Phase::Ending { .. } => {
                // The application had its time.
                self.session.shut();
            }
            Phase::Closing { .. } => self.finish(),
            Phase::Finishing { .. } => return Err(Lost),
        }
        Ok(())
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let open = self.common.websockets.get();
        self.common.websockets.set(open.saturating_sub(1));
        self.tell(Session::lost);
    }
}

/// Bytes on their way to the socket.
#[derive(Debug, Default)]
struct Out {
    parts: VecDeque<Bytes>,
    /// Bytes of all parts.
    sealed: usize,
    /// What comes after the parts.
    tail: Vec<u8>,
}

impl Out {
    /// Where small things are appended.
    fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Adds something large, which is not copied.
    fn push(&mut self, part: Bytes) {
        self.seal();
        self.sealed += part.len();
        self.parts.push_back(part);
    }

    fn length(&self) -> usize {
        self.sealed + self.tail.len()
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.sealed += tail.len();
            self.parts.push_back(tail.into());
        }
    }

    fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal();
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        let poll = Pin::new(io).poll_write_vectored(cx, &slices[..count]);
        poll.map_ok(|mut written| {
            self.sealed -= written;
            while let Some(part) = self.parts.front_mut() {
                if written < part.len() {
                    part.advance(written);
                    break;
                }
                written -= part.len();
                self.parts.pop_front();
            }
            if self.parts.is_empty() {
                // An idle connection holds no memory.
                self.parts = VecDeque::new();
            }
        })
    }
}
