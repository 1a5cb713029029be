//! One WebSocket, between the connection and the application.
//!
//! Until the application accepts it, a WebSocket is a request like any other, and its
//! [`Exchange`](super::exchange::Exchange) carries the answer: 101, or a refusal. From
//! then on the [`Session`] carries messages, both ways and bounded both ways: the
//! connection stops reading while too much waits for the application, and `send()`
//! waits while too much waits for the client.
//!
//! When the client closes while messages of it still wait, the answer to its close
//! frame waits too: the application sees the messages first and may answer them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;
use pyo3::{Py, PyAny};
use rsgun_websocket::Kind;
use rsgun_websocket::close;
use rsgun_websocket::handshake::Handshake;

use super::exchange::{SharedExchange, Stage as ResponseStage, take_out};

/// `send()` waits when this much is waiting for the client, in bytes.
const SEND_HIGH_WATER: usize = 64 * 1024;
/// What a waiting message counts besides its bytes.
const MESSAGE_COST: usize = 64;

/// A WebSocket from its handshake to its end.
#[derive(Debug)]
pub(crate) struct Session {
    /// The request that has opened it.
    pub(crate) exchange: SharedExchange,
    pub(crate) handshake: Handshake,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) stage: Stage,
    /// `websocket.connect` has been handed out.
    connect_given: bool,
    incoming: VecDeque<(Kind, Bytes)>,
    incoming_bytes: usize,
    outgoing: VecDeque<Outgoing>,
    outgoing_bytes: usize,
    /// What `websocket.disconnect` says, once the end is known.
    end: Option<(u16, String)>,
    /// The application has seen it, or has ended.
    end_seen: bool,
    receivers: Vec<Py<PyAny>>,
    pub(crate) senders: Vec<Py<PyAny>>,
    /// The task that drives the connection.
    connection: Option<Waker>,
}

/// How far a WebSocket has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The application has not answered the handshake.
    Handshake,
    /// It answers with a response of its own.
    Rejected,
    /// Messages go both ways.
    Open,
    /// The application has closed it.
    ClosedHere,
    /// The client, or the server, has closed it, or the connection is lost.
    ClosedThere,
}

/// What the connection is to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(Kind, Bytes),
    Close(u16, String),
}

/// What `receive()` finds.
#[derive(Debug)]
pub(crate) enum Received {
    Connect,
    Message(Kind, Bytes),
    Disconnect(u16, String),
    /// Nothing yet.
    Pending,
}

impl Session {
    pub(crate) fn new(exchange: SharedExchange, handshake: Handshake) -> Self {
        Self {
            exchange,
            handshake,
            state: Mutex::new(State {
                stage: Stage::Handshake,
                connect_given: false,
                incoming: VecDeque::new(),
                incoming_bytes: 0,
                outgoing: VecDeque::new(),
                outgoing_bytes: 0,
                end: None,
                end_seen: false,
                receivers: Vec::new(),
                senders: Vec::new(),
                connection: None,
            }),
        }
    }

    /// Locks the state. A panic elsewhere while it was locked left it usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the application has accepted it.
    pub(crate) fn is_accepted(&self) -> bool {
        !matches!(self.lock().stage, Stage::Handshake | Stage::Rejected)
    }

    // === the connection's side ===

    /// Hands a message to the application. Returns whether it waits for one.
    pub(crate) fn push(&self, kind: Kind, data: Bytes) -> bool {
        let mut state = self.lock();
        state.incoming_bytes += data.len();
        state.incoming.push_back((kind, data));
        !state.receivers.is_empty()
    }

    /// Whether as much waits for the application as may.
    pub(crate) fn is_full(&self, messages: usize, bytes: usize) -> bool {
        let state = self.lock();
        state.incoming.len() >= messages || state.incoming_bytes >= bytes
    }

    /// The end is known. Returns whether the application waits for it.
    ///
    /// As long as earlier messages wait it may still send; otherwise no more.
    pub(crate) fn end(&self, code: u16, reason: &str) -> bool {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some((code, reason.to_owned()));
        }
        if state.incoming.is_empty() {
            state.shut();
        }
        !state.receivers.is_empty() || !state.senders.is_empty()
    }

    /// The end is known, and nobody waits for the client: unlike with [`end`](Self::end) the
    /// application sees it first, and may send until then. Returns whether it waits.
    pub(crate) fn announce_end(&self, code: u16, reason: &str) -> bool {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some((code, reason.to_owned()));
        }
        !state.receivers.is_empty()
    }

    /// Whether the application has seen all that came before the end, or cannot send
    /// any more for another reason.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.lock();
        state.stage != Stage::Open || (state.incoming.is_empty() && state.end_seen)
    }

    /// The connection is gone. Returns whether the application waits for something.
    pub(crate) fn lost(&self) -> bool {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some((close::ABNORMAL, String::new()));
        }
        state.shut();
        state.connection = None;
        state.outgoing.clear();
        state.outgoing_bytes = 0;
        !state.receivers.is_empty() || !state.senders.is_empty()
    }

    /// The application may not send any more.
    pub(crate) fn shut(&self) {
        self.lock().shut();
    }

    /// Takes the next thing to send. The second value tells that a waiting `send()`
    /// may go on.
    pub(crate) fn pop_outgoing(&self, cx: &Context<'_>) -> (Option<Outgoing>, bool) {
        let mut state = self.lock();
        let outgoing = state.outgoing.pop_front();
        match &outgoing {
            Some(Outgoing::Message(_, data)) => {
                state.outgoing_bytes -= data.len() + MESSAGE_COST;
            }
            Some(Outgoing::Close(..)) => {}
            None => match &state.connection {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => state.connection = Some(cx.waker().clone()),
            },
        }
        let resume = !state.senders.is_empty() && state.has_room();
        (outgoing, resume)
    }

    // === the application's side ===

    /// Keeps a future to be resolved when something new is there.
    pub(crate) fn wait(&self, future: Py<PyAny>) {
        let mut state = self.lock();
        if matches!(state.stage, Stage::Handshake | Stage::Rejected) {
            drop(state);
            self.exchange.lock().receivers.push(future);
        } else {
            state.receivers.push(future);
        }
    }

    /// Takes a future out of those that wait.
    pub(crate) fn forget(&self, future: &Py<PyAny>) -> Option<Py<PyAny>> {
        let found = {
            let mut state = self.lock();
            take_out(&mut state.receivers, future).or_else(|| take_out(&mut state.senders, future))
        };
        found.or_else(|| self.exchange.lock().forget(future))
    }

    /// Takes what `receive()` returns next.
    pub(crate) fn receive(&self) -> Received {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.connect_given, true) {
            return Received::Connect;
        }
        if let Some((kind, data)) = state.incoming.pop_front() {
            state.incoming_bytes -= data.len();
            // There is room again: let the connection read on.
            state.wake_connection();
            return Received::Message(kind, data);
        }
        if let Some((code, reason)) = state.end.clone() {
            state.see_end();
            return Received::Disconnect(code, reason);
        }
        let stage = state.stage;
        drop(state);
        if matches!(stage, Stage::Handshake | Stage::Rejected) {
            let exchange = self.exchange.lock();
            let is_over = exchange.disconnected
                || exchange.closed
                || matches!(
                    exchange.response.stage,
                    ResponseStage::Complete | ResponseStage::Failed
                );
            if is_over {
                return Received::Disconnect(close::ABNORMAL, String::new());
            }
        }
        Received::Pending
    }

    /// Futures that are to be resolved now: something is there, or there is room.
    pub(crate) fn take_waiting(&self) -> Vec<Py<PyAny>> {
        let mut state = self.lock();
        let mut waiting = std::mem::take(&mut state.receivers);
        if state.has_room() || state.stage != Stage::Open {
            waiting.append(&mut state.senders);
        }
        waiting
    }
}

impl State {
    /// Adds a message. Returns whether `send()` should wait.
    pub(crate) fn send(&mut self, kind: Kind, data: Bytes) -> bool {
        self.outgoing_bytes += data.len() + MESSAGE_COST;
        self.outgoing.push_back(Outgoing::Message(kind, data));
        self.wake_connection();
        self.outgoing_bytes >= SEND_HIGH_WATER
    }

    /// The application closes.
    pub(crate) fn close(&mut self, code: u16, reason: String) {
        self.stage = Stage::ClosedHere;
        self.incoming.clear();
        self.incoming_bytes = 0;
        if self.end.is_none() {
            self.end = Some((code, reason.clone()));
        }
        self.outgoing.push_back(Outgoing::Close(code, reason));
        self.wake_connection();
    }

    /// The application has seen the end, or has ended itself.
    pub(crate) fn see_end(&mut self) {
        self.end_seen = true;
        self.shut();
        self.wake_connection();
    }

    /// Whether the end is known, even if the application has not seen it.
    pub(crate) fn has_end(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the application has seen it, or has ended.
    pub(crate) fn has_seen_end(&self) -> bool {
        self.end_seen
    }

    fn shut(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::ClosedThere;
        }
    }

    fn has_room(&self) -> bool {
        self.outgoing_bytes < SEND_HIGH_WATER / 2
    }

    fn wake_connection(&self) {
        if let Some(waker) = &self.connection {
            waker.wake_by_ref();
        }
    }
}

/// A shared session.
pub(crate) type SharedSession = Arc<Session>;
