//! The response's half of an exchange: head and body, from the application to the
//! connection.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use pyo3::{Py, PyAny};

use super::overflow::Overflow;
use super::{Exchange, PART_COST, State};
use crate::http::body::ResponseBody;
use crate::http::file_part::FilePart;
use crate::http::spool::Spool;

/// `send()` waits when this much of a streamed response is waiting for the client.
const SEND_HIGH_WATER: usize = 64 * 1024;

/// Of a streamed response that no thread waits for, this much stays in memory.
const MEMORY_MAX: usize = 256 * 1024;

/// The response on its way to the client.
#[derive(Debug)]
pub(crate) struct ResponseState {
    pub(crate) stage: Stage,
    /// Informational responses that are to go out before it.
    interim: Vec<Bytes>,
    /// Whole response or head, until hyper takes it.
    ready: Option<Result<Response<ResponseBody>, Aborted>>,
    pub(crate) status: StatusCode,
    /// `Content-Length` as the application gave it.
    pub(crate) declared: Option<u64>,
    /// Body bytes that the application has sent.
    pub(crate) sent: u64,
    /// The body must not go out: HEAD, 1xx, 204, 304.
    pub(crate) bodiless: bool,
    /// It lasts until somebody ends it.
    pub(crate) is_event_stream: bool,
    chunks: VecDeque<Bytes>,
    /// What the chunks count.
    buffered: usize,
    /// What follows the chunks, and was too much for memory.
    overflow: Overflow,
    /// A thread waits for room on the disk.
    is_blocked: bool,
    end: End,
}

/// How far the application has come with its response.
#[derive(Debug)]
pub(crate) enum Stage {
    /// No `http.response.start` yet.
    Waiting,
    /// The head is held back until the first body message.
    Head(HeaderMap),
    /// The head is out, more body may come.
    Streaming,
    /// Everything was sent.
    Complete,
    /// The server has given up on it.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Clean,
    Aborted,
}

/// How much of the request's body has not arrived when its answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    Nothing,
    /// The rest may still come, before the next request.
    Some,
    /// The connection ends with the answer: the rest is too much, or might never come.
    TooMuch,
}

/// The response ends here: the connection must be closed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the application did not complete its response")]
pub(crate) struct Aborted;

impl Exchange {
    // === the application's side ===

    /// Whether an answer with this status has no body on the wire, whatever the
    /// application sends.
    pub(crate) fn has_no_body(&self, status: StatusCode) -> bool {
        self.is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
    }

    /// Hands the head to the connection, with the first part of the body, after which
    /// there may be `more`. Returns the part if it is to be pushed.
    pub(crate) fn begin(
        self: &Arc<Self>,
        state: &mut State,
        mut head: Response<()>,
        data: Bytes,
        more: bool,
    ) -> Option<Bytes> {
        let response = &mut state.response;
        let status = head.status();
        response.bodiless = self.has_no_body(status);
        response.status = status;
        if status == StatusCode::NO_CONTENT {
            // RFC 9110, 8.6.
            head.headers_mut().remove(CONTENT_LENGTH);
        } else if self.is_head
            && !more
            && response.declared.is_none()
            && !data.is_empty()
            && status != StatusCode::NOT_MODIFIED
        {
            // What a GET would have said; of one that leaves its body out nothing is known.
            head.headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(data.len()));
        }
        let (bodiless, declared) = (response.bodiless, response.declared);
        response.stage = if more {
            Stage::Streaming
        } else {
            Stage::Complete
        };
        let (body, rest) = if bodiless {
            (ResponseBody::Empty, None)
        } else if more {
            (ResponseBody::Stream(Arc::clone(self), declared), Some(data))
        } else {
            (ResponseBody::full(data), None)
        };
        state.respond(head.map(|()| body));
        rest
    }

    /// Hands the head to the connection, with a part of a file as the whole body.
    pub(crate) fn begin_file(&self, state: &mut State, mut head: Response<()>, part: FilePart) {
        let response = &mut state.response;
        let status = head.status();
        response.bodiless = self.has_no_body(status);
        response.status = status;
        response.stage = Stage::Complete;
        let body = if response.bodiless {
            if status == StatusCode::NO_CONTENT {
                // RFC 9110, 8.6.
                head.headers_mut().remove(CONTENT_LENGTH);
            } else if status != StatusCode::NOT_MODIFIED {
                head.headers_mut()
                    .insert(CONTENT_LENGTH, HeaderValue::from(part.left()));
            }
            ResponseBody::Empty
        } else {
            ResponseBody::File(part)
        };
        state.respond(head.map(|()| body));
    }

    /// Sends an informational response, if the final one has not begun.
    pub(crate) fn inform(&self, response: Bytes) {
        let mut state = self.lock();
        if matches!(state.response.stage, Stage::Waiting) && !state.closed {
            state.response.interim.push(response);
            state.wake_connection();
        }
    }

    /// Takes the informational responses that are to be written now.
    pub(crate) fn take_interim(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.lock().response.interim)
    }

    /// Adds a part to a streamed body, for a thread that is not to wait for the client.
    /// `false` when it is too much for memory: see [`Self::spool`].
    pub(crate) fn hold(&self, chunk: &Bytes) -> bool {
        let mut state = self.lock();
        state.is_unwanted() || state.hold(chunk)
    }

    /// The same for a part that may go to disk. It waits for that and, when so much is
    /// there that nothing more may be, for the client.
    pub(crate) fn spool(&self, chunk: &Bytes) {
        let mut state = self.lock();
        let portion = loop {
            if state.is_unwanted() || state.hold(chunk) {
                return;
            }
            if let Some(portion) = state.response.overflow.take(chunk.len()) {
                break portion;
            }
            state.response.is_blocked = true;
            state = self
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let written = portion.write(chunk);
        let mut state = self.lock();
        let left_over = state.put_back(written);
        self.unblock(&mut state);
        drop(state);
        // To close it may take as long as to write it.
        drop(left_over);
    }

    /// Lets a thread that waits in [`Self::spool`] look again.
    pub(super) fn unblock(&self, state: &mut State) {
        if std::mem::take(&mut state.response.is_blocked) {
            self.room.notify_all();
        }
    }

    /// The application has taken the connection, and answered by itself with this status.
    /// `false` if there was an answer before.
    pub(crate) fn hand_over(&self, status: StatusCode) -> bool {
        let response = &mut self.lock().response;
        if matches!(response.stage, Stage::Waiting) {
            response.stage = Stage::Complete;
            response.status = status;
            self.handed_over.store(true, Relaxed);
        }
        self.is_handed_over()
    }

    /// Whether the connection was taken.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Relaxed)
    }

    /// Gives up on the response; see [`State::fail`].
    pub(crate) fn give_up(&self, status: StatusCode) -> Option<StatusCode> {
        let mut state = self.lock();
        self.unblock(&mut state);
        state.fail(self.is_head, status)
    }

    // === the connection's side ===

    /// Waits for the head of the response, or the whole of it.
    pub(crate) fn poll_response(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<ResponseBody>, Unread), Aborted>> {
        let mut state = self.lock();
        match state.response.ready.take() {
            Some(response) => Poll::Ready(response.map(|response| (response, state.unread()))),
            None => {
                state.park(cx);
                Poll::Pending
            }
        }
    }

    /// The next part of a streamed response; `None` ends it.
    ///
    /// The second value tells that a waiting `send()` may go on.
    pub(crate) fn poll_chunk(
        &self,
        cx: &mut Context<'_>,
    ) -> (Poll<Option<Result<Bytes, Aborted>>>, bool) {
        let mut state = self.lock();
        if let Some(chunk) = state.response.chunks.pop_front() {
            state.response.buffered -= chunk.len() + PART_COST;
            let resume = !state.senders.is_empty() && state.response.buffered < SEND_HIGH_WATER / 2;
            return (Poll::Ready(Some(Ok(chunk))), resume);
        }
        let next = state.response.overflow.poll_next(cx);
        self.unblock(&mut state);
        let response = &state.response;
        let end = match (next, response.end) {
            (Poll::Ready(Ok(Some(piece))), _) => Some(Ok(piece)),
            (Poll::Ready(Ok(None)), End::Clean) => None,
            (Poll::Ready(Ok(None)), End::Aborted) => Some(Err(Aborted)),
            // Nobody waits for what is still being written then.
            (Poll::Pending, End::Aborted) if response.overflow.is_being_written() => {
                Some(Err(Aborted))
            }
            (Poll::Ready(Err(error)), _) => {
                tracing::error!("a response that was kept on disk cannot be read: {error}");
                Some(Err(Aborted))
            }
            (Poll::Ready(Ok(None)), End::Open) | (Poll::Pending, _) => {
                state.park(cx);
                return (Poll::Pending, false);
            }
        };
        (Poll::Ready(end), false)
    }
}

impl State {
    /// Whether nothing more of a streamed body is to be sent.
    fn is_unwanted(&self) -> bool {
        self.closed || matches!(self.response.stage, Stage::Failed)
    }

    /// Adds a part to what is in memory; `false` when that is too much.
    fn hold(&mut self, chunk: &Bytes) -> bool {
        let response = &mut self.response;
        if response.overflow.is_empty() && response.buffered < MEMORY_MAX {
            response.buffered += chunk.len() + PART_COST;
            response.chunks.push_back(chunk.clone());
        } else if !response.overflow.add(chunk) {
            return false;
        }
        self.wake_connection();
        true
    }

    /// Takes the spool again that was written to. Returns it if nobody wants it any more.
    fn put_back(&mut self, written: io::Result<Box<Spool>>) -> Option<Box<Spool>> {
        match written {
            Ok(spool) if self.is_unwanted() => {
                self.response.overflow = Overflow::default();
                return Some(spool);
            }
            Ok(spool) => self.response.overflow.put_back(spool),
            Err(error) => {
                tracing::error!(
                    "a response for a slow client cannot be kept on disk: {error}; its connection \
                     is closed"
                );
                self.response.overflow = Overflow::default();
                self.response.stage = Stage::Failed;
                self.response.end = End::Aborted;
            }
        }
        self.wake_connection();
        None
    }

    /// What the connection has to expect of the request's body.
    fn unread(&self) -> Unread {
        // Who has not completed the answer may read on.
        let is_through = matches!(self.response.stage, Stage::Complete | Stage::Failed);
        if !self.request.is_unread() {
            Unread::Nothing
        } else if self.request.is_given_up(is_through) {
            Unread::TooMuch
        } else {
            Unread::Some
        }
    }

    /// Hands the head with the first (or only) part of the body to the connection.
    pub(crate) fn respond(&mut self, response: Response<ResponseBody>) {
        self.response.ready = Some(Ok(response));
        self.wake_connection();
    }

    /// Answers a request whose body cannot be read.
    pub(super) fn refuse(&mut self, is_head: bool, status: StatusCode) {
        if matches!(self.response.stage, Stage::Waiting | Stage::Head(_)) {
            self.response.stage = Stage::Failed;
            self.response.status = status;
            let text = status.canonical_reason().unwrap_or_default();
            let mut answer = ResponseBody::plain(status, text, is_head);
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            self.respond(answer);
        }
    }

    /// The status, if the server has answered in the application's place.
    pub(crate) fn refused(&self) -> Option<StatusCode> {
        matches!(self.response.stage, Stage::Failed).then_some(self.response.status)
    }

    /// Adds a part to a streamed body. Returns whether `send()` should wait.
    pub(crate) fn push(&mut self, chunk: Bytes) -> bool {
        if !chunk.is_empty() {
            self.response.buffered += chunk.len() + PART_COST;
            self.response.chunks.push_back(chunk);
            self.wake_connection();
        }
        self.response.buffered >= SEND_HIGH_WATER
    }

    /// Ends a streamed body.
    pub(crate) fn complete(&mut self) {
        self.response.end = End::Clean;
        self.response.stage = Stage::Complete;
        self.wake_connection();
    }

    /// Gives up on the response: `status` if the head is not out, else the connection is
    /// closed without a proper end. Returns the status if an answer could be sent.
    pub(crate) fn fail(&mut self, is_head: bool, status: StatusCode) -> Option<StatusCode> {
        let stage = std::mem::replace(&mut self.response.stage, Stage::Failed);
        match stage {
            Stage::Waiting | Stage::Head(_) => {
                self.response.status = status;
                let text = status.canonical_reason().unwrap_or_default();
                self.respond(ResponseBody::plain(status, text, is_head));
                Some(status)
            }
            Stage::Streaming => {
                self.response.end = End::Aborted;
                self.wake_connection();
                None
            }
            Stage::Complete => {
                self.response.stage = stage;
                None
            }
            Stage::Failed => None,
        }
    }

    /// Takes the waiting `send()` calls that may go on.
    pub(crate) fn resumed_senders(&mut self) -> Vec<Py<PyAny>> {
        if self.closed || self.response.buffered < SEND_HIGH_WATER / 2 {
            std::mem::take(&mut self.senders)
        } else {
            Vec::new()
        }
    }
}

impl ResponseState {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Waiting,
            interim: Vec::new(),
            ready: None,
            status: StatusCode::OK,
            declared: None,
            sent: 0,
            bodiless: false,
            is_event_stream: false,
            chunks: VecDeque::new(),
            buffered: 0,
            overflow: Overflow::default(),
            is_blocked: false,
            end: End::Open,
        }
    }

    /// Drops what cannot be written any more.
    pub(super) fn abandon(&mut self) {
        self.ready = None;
        self.chunks.clear();
        self.buffered = 0;
        self.overflow = Overflow::default();
    }
}
