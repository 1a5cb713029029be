//! What the client gets: from the session through the encoder to the socket, and the
//! close frame at its place.

use std::sync::Arc;
use std::task::{Context, Poll};

use rsgun_websocket::encoder;

use super::{Lost, Phase, WebSocket};
use crate::asgi::session::Outgoing;
use crate::reactor::queue::{self, Work};

/// Encoded bytes that may wait for the socket before no more is encoded.
pub(super) const HIGH_WATER: usize = 64 * 1024;

impl WebSocket {
    /// Sends the close frame when nothing holds it back any more.
    pub(super) fn settle(&mut self, cx: &Context<'_>) {
        if matches!(self.phase, Phase::Ending { .. }) && self.session.is_settled() {
            self.encode(cx, usize::MAX);
            self.send_close();
        }
    }

    /// Sends the close frame of [`Phase::Ending`]; another one may be out already.
    pub(super) fn send_close(&mut self) {
        if let Phase::Ending {
            code,
            reason,
            expects_answer,
            ..
        } = &self.phase
        {
            encoder::close(*code, reason, self.backlog.tail());
            self.phase = Phase::after_close(*expects_answer);
        }
    }

    /// Nothing more is to be exchanged.
    pub(super) fn finish(&mut self) {
        self.phase = Phase::after_close(false);
    }

    /// Encodes what waits in the session, as long as less than `limit` bytes wait for
    /// the socket.
    fn encode(&mut self, cx: &Context<'_>, limit: usize) {
        if self.backlog.length() < limit
            && let Some(data) = self.unanswered.take()
        {
            encoder::pong(&data, self.backlog.tail());
        }
        while self.backlog.length() < limit {
            let (outgoing, resume) = self.session.pop_outgoing(cx);
            if resume {
                queue::push(Work::Session(Arc::clone(&self.session)));
            }
            match outgoing {
                None => return,
                Some(Outgoing::Message(kind, data)) => {
                    if let Some(payload) = self.encoder.message(kind, data, self.backlog.tail()) {
                        self.backlog.push(payload);
                    }
                }
                Some(Outgoing::Close(code, reason)) => {
                    let expects_answer = match self.phase {
                        Phase::Open => true,
                        Phase::Ending { expects_answer, .. } => expects_answer,
                        Phase::Closing { .. } | Phase::Finishing { .. } => return,
                    };
                    encoder::close(code, &reason, self.backlog.tail());
                    self.phase = Phase::after_close(expects_answer);
                }
            }
        }
    }

    /// Encodes and writes until nothing is left, or the socket takes no more; returns
    /// whether nothing is left.
    pub(super) fn transmit(&mut self, cx: &mut Context<'_>) -> Result<bool, Lost> {
        loop {
            self.encode(cx, HIGH_WATER);
            if self.backlog.length() == 0 {
                return Ok(true);
            }
            match self.backlog.poll_write(&mut self.io, cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Lost),
            }
        }
    }
}
