//! One request and its response, between the connection and the application.
//!
//! An [`Exchange`] has two users. The connection (read and write phases) feeds the
//! request body in and takes the response out; it never touches Python. The
//! application (run phase), through [`super::cycle::Cycle`], takes the body and
//! gives the response. Both sides lock it for a few instructions. Python objects
//! that wait here are only ever created, resolved and dropped by the run phase.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use pyo3::{Py, PyAny};

use crate::http::body::ResponseBody;
use crate::http::spool::Spool;

/// The connection stops reading the request body when this much is waiting for the
/// application, in bytes.
pub(crate) const BODY_HIGH_WATER: usize = 64 * 1024;
/// `send()` waits when this much of a streamed response is waiting for the client.
pub(crate) const SEND_HIGH_WATER: usize = 64 * 1024;

/// Of a streamed response that no thread waits for, this much stays in memory.
const MEMORY_MAX: usize = 256 * 1024;
/// And this much goes to disk, before the thread waits after all.
const SPOOL_MAX: u64 = 1024 * 1024 * 1024;

/// A request and its response.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: Mutex<State>,
    /// There is room in the spool again, or the end has come.
    room: Condvar,
    /// The answer has no body, whatever the application sends.
    pub(crate) is_head: bool,
    /// When the request was read, microseconds of the reactor's clock.
    pub(crate) started_us: u64,
    /// When the application has had its time, milliseconds of the reactor's clock; 0: it
    /// may take any time. The application moves it from any thread.
    deadline_ms: AtomicU64,
    /// What becomes of the request when its client leaves.
    orphan: AtomicUsize,
}

/// Values of [`Exchange::orphan`] besides the number of the request and 2: the application
/// decides by itself, or the request was cancelled.
const KEPT: usize = 0;
const CANCELLED: usize = 1;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) request: RequestBody,
    pub(crate) response: ResponseState,
    /// The request body is collected before the application is called: every part is news.
    collects: bool,
    /// Futures of `receive()` calls that wait for something new.
    pub(crate) receivers: Vec<Py<PyAny>>,
    /// Futures of `send()` calls that wait for the client.
    pub(crate) senders: Vec<Py<PyAny>>,
    /// The peer has closed its sending side, or is gone altogether.
    pub(crate) disconnected: bool,
    /// The connection cannot take anything any more.
    pub(crate) closed: bool,
    /// The task that drives the connection.
    connection: Option<Waker>,
}

/// The request body on its way to the application.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    /// Reading makes hyper send `100 Continue`, so it must wait for `receive()`.
    wants_continue: bool,
    chunks: VecDeque<Bytes>,
    buffered: usize,
    /// It broke off before its end.
    truncated: bool,
    /// `more_body: False` has been handed out.
    pub(crate) delivered: bool,
}

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
    chunks: VecDeque<Bytes>,
    buffered: usize,
    /// What follows the chunks, and was too much for memory.
    spool: Option<Spool>,
    /// A thread waits for room in the spool.
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

/// The response ends here: the connection must be closed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the application did not complete its response")]
pub(crate) struct Aborted;

/// What moving the request body on has led to.
#[derive(Debug)]
pub(crate) struct Pumped {
    /// The application waits and must be told.
    pub(crate) tell: bool,
    /// The body has been read from the socket to its end.
    pub(crate) is_read: bool,
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
    pub(crate) fn new(
        method: &Method,
        incoming: Incoming,
        wants_continue: bool,
        started_us: u64,
    ) -> Self {
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        Self {
            state: Mutex::new(State {
                request: RequestBody {
                    incoming,
                    wants_continue,
                    chunks: VecDeque::new(),
                    buffered: 0,
                    truncated: false,
                    delivered: false,
                },
                response: ResponseState {
                    stage: Stage::Waiting,
                    interim: Vec::new(),
                    ready: None,
                    status: StatusCode::OK,
                    declared: None,
                    sent: 0,
                    bodiless: false,
                    chunks: VecDeque::new(),
                    buffered: 0,
                    spool: None,
                    is_blocked: false,
                    end: End::Open,
                },
                collects: false,
                receivers: Vec::new(),
                senders: Vec::new(),
                disconnected: false,
                closed: false,
                connection: None,
            }),
            room: Condvar::new(),
            is_head: method == Method::HEAD,
            started_us,
            deadline_ms: AtomicU64::new(0),
            orphan: AtomicUsize::new(KEPT),
        }
    }

    /// The request, which the reactor keeps under this number, is to be cancelled when its
    /// client leaves before the answer is complete.
    pub(crate) fn cancel_if_left(&self, entry: usize) {
        self.orphan.store(entry + 2, Relaxed);
    }

    /// The number of the request if it is to be cancelled now; once.
    pub(crate) fn take_orphan(&self) -> Option<usize> {
        let entry = self.orphan.load(Relaxed).checked_sub(2)?;
        let state = self.lock();
        let is_left =
            state.disconnected && !matches!(state.response.stage, Stage::Complete | Stage::Failed);
        drop(state);
        if is_left {
            self.orphan.store(CANCELLED, Relaxed);
        }
        is_left.then_some(entry)
    }

    /// Whether the request was cancelled because its client has left.
    pub(crate) fn is_orphan(&self) -> bool {
        self.orphan.load(Relaxed) == CANCELLED
    }

    /// The application is through with the request, whose number will be another's.
    pub(crate) fn keep(&self) {
        self.orphan.store(KEPT, Relaxed);
    }

    /// Whether the reactor wants to know that the client has left.
    fn may_be_orphan(&self) -> bool {
        self.orphan.load(Relaxed) > CANCELLED
    }

    /// Locks the state. A panic elsewhere while it was locked left it usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the application has had its time; see the field.
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.deadline_ms.load(Relaxed)
    }

    /// Sets it.
    pub(crate) fn set_deadline_ms(&self, deadline_ms: u64) {
        self.deadline_ms.store(deadline_ms, Relaxed);
    }

    /// Gives the application so much more time, if it is limited.
    pub(crate) fn extend_deadline(&self, milliseconds: u64) {
        // Without a deadline there is nothing to be done.
        let _ = self
            .deadline_ms
            .fetch_update(Relaxed, Relaxed, |deadline| match deadline {
                0 => None,
                _ => Some(deadline.saturating_add(milliseconds)),
            });
    }

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
        } else if self.is_head && !more && response.declared.is_none() {
            // What a GET would have said.
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

    /// Adds a part to a streamed body, for a thread that is not to wait for the client:
    /// what is too much for memory goes to disk. `false` when that is full, too.
    pub(crate) fn try_spool(&self, chunk: &Bytes) -> bool {
        let mut state = self.lock();
        if state.closed || matches!(state.response.stage, Stage::Failed) {
            return true;
        }
        let has_room = state.response.spool_has_room(chunk.len());
        if has_room {
            state.spool(chunk.clone());
        }
        has_room
    }

    /// The same, but waits for room.
    pub(crate) fn spool(&self, chunk: &Bytes) {
        while !self.try_spool(chunk) {
            let mut state = self.lock();
            if state.response.spool_has_room(chunk.len()) || state.closed {
                continue;
            }
            state.response.is_blocked = true;
            drop(self.room.wait(state));
        }
    }

    /// Lets a thread that waits in [`Self::push_through`] look again.
    fn unblock(&self, state: &mut State) {
        if std::mem::take(&mut state.response.is_blocked) {
            self.room.notify_all();
        }
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
    ) -> Poll<Result<Response<ResponseBody>, Aborted>> {
        let mut state = self.lock();
        match state.response.ready.take() {
            Some(response) => Poll::Ready(response),
            None => {
                state.park(cx);
                Poll::Pending
            }
        }
    }

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
                        state.request.buffered += data.len();
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
                    state.request.incoming = None;
                    state.request.truncated = true;
                    state.disconnected = true;
                    state.refuse(self.is_head);
                    error = Some(problem);
                }
                Poll::Ready(None) => state.request.incoming = None,
            }
        }
        let is_read = state.request.incoming.is_none();
        if !is_read {
            state.park(cx);
        }
        let tell = state.is_awaited()
            && (state.disconnected || state.request.chunks.len() > before || (had_body && is_read));
        Pumped {
            tell,
            is_read,
            error,
        }
    }

    /// The peer has closed its sending side. Returns whether that is news to an
    /// application that waits, or to the reactor.
    pub(crate) fn peer_left(&self) -> bool {
        let mut state = self.lock();
        !std::mem::replace(&mut state.disconnected, true)
            && (state.is_awaited() || self.may_be_orphan())
    }

    /// The connection has ended. Returns whether the application waits for something, or the
    /// reactor wants to know.
    pub(crate) fn connection_lost(&self) -> bool {
        let mut state = self.lock();
        state.disconnected = true;
        state.closed = true;
        state.connection = None;
        state.request.truncated |= state.request.incoming.take().is_some();
        state.response.ready = None;
        state.response.chunks.clear();
        state.response.buffered = 0;
        state.response.spool = None;
        self.unblock(&mut state);
        state.is_awaited() || !state.senders.is_empty() || self.may_be_orphan()
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
            state.response.buffered -= chunk.len();
            let resume = !state.senders.is_empty() && state.response.buffered < SEND_HIGH_WATER / 2;
            return (Poll::Ready(Some(Ok(chunk))), resume);
        }
        if let Some(spool) = &mut state.response.spool {
            let piece = spool.next();
            self.unblock(&mut state);
            match piece {
                Ok(Some(piece)) => return (Poll::Ready(Some(Ok(piece))), false),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("a response that was kept on disk cannot be read: {error}");
                    return (Poll::Ready(Some(Err(Aborted))), false);
                }
            }
        }
        match state.response.end {
            End::Clean => (Poll::Ready(None), false),
            End::Aborted => (Poll::Ready(Some(Err(Aborted))), false),
            End::Open => {
                state.park(cx);
                (Poll::Pending, false)
            }
        }
    }
}

impl State {
    fn park(&mut self, cx: &Context<'_>) {
        match &self.connection {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => self.connection = Some(cx.waker().clone()),
        }
    }

    fn wake_connection(&self) {
        if let Some(waker) = &self.connection {
            waker.wake_by_ref();
        }
    }

    // === the application's side ===

    /// Whether anybody waits for what comes from the client.
    fn is_awaited(&self) -> bool {
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

    /// Adds a part to a streamed body: to memory, or behind what is on disk already.
    fn spool(&mut self, chunk: Bytes) {
        let response = &mut self.response;
        let on_disk = response
            .spool
            .as_ref()
            .is_some_and(|spool| spool.unread() > 0);
        if on_disk || response.buffered >= MEMORY_MAX {
            let spool = match response.spool.take() {
                Some(spool) => Ok(spool),
                None => Spool::new(),
            };
            let kept = spool.and_then(|mut spool| {
                spool.append(&chunk)?;
                Ok(spool)
            });
            match kept {
                Ok(spool) => response.spool = Some(spool),
                Err(error) => {
                    tracing::error!(
                        "a response for a slow client cannot be kept on disk: {error}; its \
                         connection is closed"
                    );
                    response.stage = Stage::Failed;
                    response.end = End::Aborted;
                }
            }
        } else {
            response.buffered += chunk.len();
            response.chunks.push_back(chunk);
        }
        self.wake_connection();
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

    /// Hands the head with the first (or only) part of the body to the connection.
    pub(crate) fn respond(&mut self, response: Response<ResponseBody>) {
        self.response.ready = Some(Ok(response));
        self.wake_connection();
    }

    /// Answers 400 to a request whose body cannot be read.
    fn refuse(&mut self, is_head: bool) {
        if matches!(self.response.stage, Stage::Waiting | Stage::Head(_)) {
            let status = StatusCode::BAD_REQUEST;
            self.response.stage = Stage::Failed;
            self.response.status = status;
            let mut answer = ResponseBody::plain(status, "Bad Request", is_head);
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
            self.response.buffered += chunk.len();
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
                self.response.stage = Stage::Complete;
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
    fn spool_has_room(&self, length: usize) -> bool {
        let unread = self.spool.as_ref().map_or(0, Spool::unread);
        unread == 0 || unread + length as u64 <= SPOOL_MAX
    }
}

impl RequestBody {
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

/// The HTTP version as ASGI writes it.
pub(crate) fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// A shared exchange.
pub(crate) type SharedExchange = Arc<Exchange>;
