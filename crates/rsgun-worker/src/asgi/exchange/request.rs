//! The request's half of an exchange: the body, from the connection to the application.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body as _;
use hyper::body::Incoming;

use super::{Exchange, PART_COST, Stage, State};
use crate::http::rest::{self, Rest};

/// The connection stops reading the request body when this much is waiting for the
/// application, in bytes.
const BODY_HIGH_WATER: usize = 64 * 1024;

/// The request body on its way to the application.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    /// Bytes that may follow.
    room: u64,
    /// Reading makes hyper send `100 Continue`, so it must wait for `receive()`.
    wants_continue: bool,
    chunks: VecDeque<Bytes>,
    /// What the chunks count.
    buffered: usize,
    /// It broke off before its end.
    truncated: bool,
    /// `more_body: False` has been handed out.
    pub(crate) delivered: bool,
}

/// What moving the request body on has led to.
#[derive(Debug)]
pub(crate) struct Pumped {
    /// The application waits and must be told.
    pub(crate) tell: bool,
    /// More of it was there.
    pub(crate) has_come: bool,
    /// There is room for more, which the client has to send.
    pub(crate) awaits_client: bool,
    /// Why it broke off.
    pub(crate) error: Option<hyper::Error>,
}

/// What `receive()` finds.
#[derive(Debug)]
pub(crate) enum Received {
    /// Part of the body; `true` when more may come.
    Body(Bytes, bool),
    /// The client is gone or the response is complete.
    Disconnect,
    /// Nothing yet.
    Pending,
}

impl Exchange {
    /// Moves what has arrived of the request body into the buffer.
    ///
    /// A body that breaks off is refused with 400, if nothing was answered yet.
    pub(crate) fn pump(&self, cx: &mut Context<'_>) -> Pumped {
        let mut state = self.lock();
        let state = &mut *state;
        let before = state.request.chunks.len();
        let had_body = state.request.incoming.is_some();
        let mut error = None;
        while let Some(incoming) = &mut state.request.incoming {
            if state.request.wants_continue || state.request.buffered >= BODY_HIGH_WATER {
                break;
            }
            match Pin::new(incoming).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are not part of ASGI.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        let Some(room) = state.request.room.checked_sub(data.len() as u64) else {
                            state.break_off(self.is_head, StatusCode::PAYLOAD_TOO_LARGE);
                            break;
                        };
                        state.request.room = room;
                        state.request.buffered += data.len() + PART_COST;
                        state.request.chunks.push_back(data);
                    }
                    if state
                        .request
                        .incoming
                        .as_ref()
                        .is_some_and(Incoming::is_end_stream)
                    {
                        state.request.incoming = None;
                    }
                }
                Poll::Ready(Some(Err(problem))) => {
                    state.break_off(self.is_head, StatusCode::BAD_REQUEST);
                    error = Some(problem);
                }
                Poll::Ready(None) => state.request.incoming = None,
            }
        }
        let is_read = state.request.incoming.is_none();
        let has_come = state.request.chunks.len() > before;
        let awaits_client =
            !is_read && !state.request.wants_continue && state.request.buffered < BODY_HIGH_WATER;
        if !is_read {
            state.park(cx);
        }
        let tell = state.is_awaited() && (state.disconnected || has_come || (had_body && is_read));
        Pumped {
            tell,
            has_come,
            awaits_client,
            error,
        }
    }

    /// The client has stopped sending the body: it is answered with 408, if nothing was
    /// answered yet. Returns whether the application waits and must be told.
    pub(crate) fn stop_waiting(&self) -> bool {
        let mut state = self.lock();
        state.break_off(self.is_head, StatusCode::REQUEST_TIMEOUT);
        state.is_awaited()
    }

    /// The peer has closed its sending side. Returns whether that is news to an
    /// application that waits, or to the reactor.
    pub(crate) fn peer_left(&self) -> bool {
        let mut state = self.lock();
        !std::mem::replace(&mut state.disconnected, true)
            && (state.is_awaited() || self.may_be_orphan())
    }
}

impl State {
    /// Nothing more of the request body is read; the client is told why.
    fn break_off(&mut self, is_head: bool, status: StatusCode) {
        self.request.break_off();
        self.disconnected = true;
        self.refuse(is_head, status);
    }

    /// Whether anybody waits for what comes from the client.
    pub(super) fn is_awaited(&self) -> bool {
        self.collects || !self.receivers.is_empty()
    }

    /// From now on every part of the request body is news, until it has been taken
    /// completely.
    pub(crate) fn collect(&mut self) {
        self.collects = true;
    }

    /// Nobody collects the body any more.
    pub(crate) fn stop_collecting(&mut self) {
        self.collects = false;
    }

    /// Takes what `receive()` returns next, as ASGI's `http.request` wants it: all
    /// that is buffered, joined.
    pub(crate) fn receive(&mut self) -> Received {
        if self.request.delivered {
            let gone = self.disconnected
                || self.closed
                || matches!(self.response.stage, Stage::Complete | Stage::Failed);
            return if gone {
                Received::Disconnect
            } else {
                Received::Pending
            };
        }
        let request = &mut self.request;
        if request.chunks.is_empty() && request.incoming.is_none() {
            if request.truncated {
                return Received::Disconnect;
            }
            request.delivered = true;
            return Received::Body(Bytes::new(), false);
        }
        if request.chunks.is_empty() {
            if std::mem::take(&mut request.wants_continue) {
                self.wake_connection();
            }
            return Received::Pending;
        }
        let data = request.take_all();
        let more = request.incoming.is_some() || request.truncated;
        request.delivered = !more;
        if more {
            // There is room again: let the connection read on.
            self.wake_connection();
        }
        Received::Body(data, more)
    }
}

impl RequestBody {
    /// A body of at most `most` bytes.
    pub(crate) fn new(incoming: Incoming, most: Option<u64>, wants_continue: bool) -> Self {
        Self {
            incoming: (!incoming.is_end_stream()).then_some(incoming),
            room: most.unwrap_or(u64::MAX),
            wants_continue,
            chunks: VecDeque::new(),
            buffered: 0,
            truncated: false,
            delivered: false,
        }
    }

    /// Nothing more comes of it.
    pub(super) fn break_off(&mut self) {
        self.truncated |= self.incoming.take().is_some();
    }

    /// The same; returns what the client sends on, if that is worth reading. One that waits to
    /// be asked for its body may send it or not.
    pub(super) fn take_rest(&mut self) -> Option<Rest> {
        let incoming = self.incoming.take();
        self.truncated |= incoming.is_some();
        incoming
            .filter(|_| !self.wants_continue)
            .and_then(Rest::new)
    }

    /// Whether something of it has not arrived.
    pub(super) fn is_unread(&self) -> bool {
        self.incoming.is_some()
    }

    /// Whether that is not waited for, if the application `is_through` with the request.
    pub(super) fn is_given_up(&self, is_through: bool) -> bool {
        let incoming = self.incoming.as_ref();
        incoming.is_some_and(|incoming| {
            self.wants_continue || (is_through && rest::is_too_much(incoming))
        })
    }

    fn take_all(&mut self) -> Bytes {
        self.buffered = 0;
        if self.chunks.len() == 1 {
            return self.chunks.pop_front().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(self.chunks.iter().map(Bytes::len).sum());
        for chunk in self.chunks.drain(..) {
            joined.extend_from_slice(&chunk);
        }
        joined.freeze()
    }
}
