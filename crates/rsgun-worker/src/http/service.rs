//! What hyper serves: queues each request for the application, and waits for its answer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::service::Service;
use rsgun_http::{persistence, policy};
use rsgun_websocket::handshake::{self, Handshake, Refusal};

use super::access_log;
use super::body::ResponseBody;
use super::handover::{NearEnd, Offer};
use super::io::Io;
use super::shared::{Shared, Upgrades};
use crate::asgi::exchange::{Aborted, Exchange, RequestBody, SharedExchange, Unread};
use crate::asgi::session::Session;
use crate::reactor::clock;
use crate::reactor::queue::{self, Work};

/// hyper's service: queues the request, and waits for the answer.
pub(super) struct Exchanges {
    shared: Rc<Shared>,
    io: Io,
}

impl Service<Request<Incoming>> for Exchanges {
    type Response = Response<TrackedBody>;
    type Error = Aborted;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let (mut parts, body) = request.into_parts();
        if let Some(order) = self.io.tap().head(&parts) {
            parts.extensions.insert(order);
        }
        let version = parts.version;
        if let Err(unfit) = policy::check(&mut parts) {
            tracing::warn!(
                "invalid HTTP request from {}: {unfit}",
                self.shared.peer.label()
            );
            return self.refuse(&parts, unfit.status(), &unfit, HeaderMap::new());
        }
        let body_max = self.shared.common.body_max;
        if body_max.is_some_and(|most| body.size_hint().lower() > most) {
            tracing::warn!(
                "request of {} refused: its body is larger than limit-request-body",
                self.shared.peer.label()
            );
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            let reason = "the request body is too large";
            return self.refuse(&parts, status, &reason, HeaderMap::new());
        }
        let handshake = match self.examine(&parts) {
            Ok(handshake) => handshake,
            Err(refusal) => {
                tracing::warn!(
                    "invalid WebSocket handshake from {}: {refusal}",
                    self.shared.peer.label()
                );
                let headers = refusal.headers().into_iter().collect();
                return self.refuse(&parts, refusal.status(), &refusal, headers);
            }
        };
        let wants_continue = version == Version::HTTP_11
            && parts
                .headers
                .get(EXPECT)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let keeps_rest =
            !body.is_end_stream() && persistence::is_kept(parts.version, &parts.headers);
        let exchange = Arc::new(Exchange::new(
            &parts.method,
            RequestBody::new(body, body_max, wants_continue),
            clock::now_us(),
        ));
        let (near_end, offer) = self.offer(&parts).unzip();
        let session =
            handshake.map(|handshake| Arc::new(Session::new(Arc::clone(&exchange), handshake)));
        self.shared
            .begin(Arc::clone(&exchange), session.clone(), near_end);
        queue::push(Work::Request(Box::new(queue::NewRequest {
            parts,
            exchange: Arc::clone(&exchange),
            connection: Rc::clone(&self.shared),
            session,
            offer,
        })));
        Answer {
            version,
            refused: None,
            tracker: Some(Tracker {
                exchange,
                shared: Rc::clone(&self.shared),
                keeps_rest,
            }),
        }
    }
}

impl Exchanges {
    pub(super) fn new(shared: Rc<Shared>, io: Io) -> Self {
        Self { shared, io }
    }

    /// Looks whether a request wants a WebSocket and gets one.
    fn examine(&self, parts: &http::request::Parts) -> Result<Option<Handshake>, Refusal> {
        match &self.shared.common.upgrades {
            Upgrades::None | Upgrades::Handovers => Ok(None),
            Upgrades::WebSockets(_) if self.is_too_old(parts) => Ok(None),
            Upgrades::WebSockets(limits) => handshake::examine(parts, limits.deflate).transpose(),
        }
    }

    /// Whether a request wants a WebSocket in HTTP/1.0, which is a word in the log.
    fn is_too_old(&self, parts: &http::request::Parts) -> bool {
        let is_too_old = handshake::is_too_old(parts);
        if is_too_old {
            tracing::warn!(
                "WebSocket handshake from {} in HTTP/1.0 is served as an ordinary request: a \
                 proxy in between must use HTTP/1.1 (proxy_http_version 1.1 in nginx)",
                self.shared.peer.label()
            );
        }
        is_too_old
    }

    /// Where the application may take the connection of a client that wants a WebSocket. How
    /// it likes the handshake is left to it.
    fn offer(&self, parts: &http::request::Parts) -> Option<(NearEnd, Offer)> {
        let is_asked_for = matches!(self.shared.common.upgrades, Upgrades::Handovers)
            && !self.is_too_old(parts)
            && handshake::examine(parts, false).is_some();
        if !is_asked_for {
            return None;
        }
        NearEnd::open()
            .inspect_err(|error| {
                tracing::error!(
                    "{} wants a WebSocket, and the application cannot be offered its socket: \
                     {error}",
                    self.shared.peer.label()
                );
            })
            .ok()
    }

    /// Answers a request that must not reach the application, and ends the connection.
    fn refuse(
        &self,
        parts: &http::request::Parts,
        status: StatusCode,
        reason: &dyn std::fmt::Display,
        headers: HeaderMap,
    ) -> Answer {
        queue::push(Work::Refused(Box::new(queue::Refused {
            status,
            entry: access_log::Entry::of(&self.shared.peer, parts),
        })));
        let mut response = Response::new(ResponseBody::full(Bytes::from(reason.to_string())));
        *response.status_mut() = status;
        response.headers_mut().extend(headers);
        let connection = if status == StatusCode::UPGRADE_REQUIRED {
            // What `Upgrade` needs beside it (RFC 9110, 7.8).
            HeaderValue::from_static("close, upgrade")
        } else {
            HeaderValue::from_static("close")
        };
        response.headers_mut().insert(CONNECTION, connection);
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        Answer {
            version: parts.version,
            refused: Some(response),
            tracker: None,
        }
    }
}

/// Ties an exchange to the life of its answer on the connection.
struct Tracker {
    exchange: SharedExchange,
    shared: Rc<Shared>,
    /// What is left of the request's body is read when the answer is complete, since the
    /// connection goes on.
    keeps_rest: bool,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let (tell, rest) = self.exchange.connection_lost();
        if tell {
            queue::push(Work::Receive(Arc::clone(&self.exchange)));
        }
        let rest = rest.filter(|_| self.keeps_rest);
        self.shared.finished(&self.exchange, rest);
    }
}

/// The pending answer to one request.
pub(super) struct Answer {
    version: Version,
    /// An answer that needs no application.
    refused: Option<Response<ResponseBody>>,
    tracker: Option<Tracker>,
}

impl Future for Answer {
    type Output = Result<Response<TrackedBody>, Aborted>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(response) = self.refused.take() {
            let tracker = None;
            return Poll::Ready(Ok(response.map(|body| TrackedBody { body, tracker })));
        }
        let version = self.version;
        let Some(tracker) = &mut self.tracker else {
            return Poll::Ready(Err(Aborted));
        };
        let (mut response, unread) = ready!(tracker.exchange.poll_response(cx))?;
        tracker.shared.withdraw_offer();
        let status = response.status();
        if status.canonical_reason().is_none()
            && response.extensions().get::<ReasonPhrase>().is_none()
        {
            // hyper would make one up.
            response
                .extensions_mut()
                .insert(ReasonPhrase::from_static(b""));
        }
        let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
        let closes = unread == Unread::TooMuch || tracker.shared.closes_after_answer();
        if !is_upgrade && closes {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if unread != Unread::Nothing {
            let ends = is_upgrade || persistence::is_closed(response.headers());
            tracker.keeps_rest &= !ends;
        }
        let is_unframed =
            version == Version::HTTP_10 && matches!(response.body(), ResponseBody::Stream(_, None));
        if version == Version::HTTP_10
            && (is_unframed || response.headers().contains_key(CONNECTION))
        {
            // hyper promises a client of HTTP/1.0 to keep the connection otherwise.
            *response.version_mut() = Version::HTTP_10;
        }
        tracker.shared.answer_ends_with_connection(is_unframed);
        let tracker = self.tracker.take();
        Poll::Ready(Ok(response.map(|body| TrackedBody { body, tracker })))
    }
}

/// A response body that notices when hyper is done with it.
pub(super) struct TrackedBody {
    body: ResponseBody,
    /// Its drop says that hyper is done with the body.
    tracker: Option<Tracker>,
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(Err(_)), Some(tracker)) = (&frame, &self.tracker) {
            // Of an error hyper would learn before it has written what came before: the
            // connection ends when that has gone out.
            tracker.shared.break_off();
            self.body = ResponseBody::BrokenOff;
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
