//! What the client sends: from the socket through the decoder to the session.

use std::cell::RefCell;
use std::task::{Context, Poll};

use rsgun_websocket::decoder::Event;
use rsgun_websocket::encoder;

use super::output::HIGH_WATER;
use super::{Lost, Phase, WebSocket};
use crate::reactor::clock;

/// Size of the shared read buffer.
const READ_BYTES: usize = 64 * 1024;
/// Bytes read of one connection before others get their turn.
const READ_AT_ONCE: usize = 4 * READ_BYTES;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

impl WebSocket {
    /// Whether what arrives is still decoded.
    pub(super) fn listens(&self) -> bool {
        match self.phase {
            Phase::Open => !self
                .session
                .is_full(self.limits.max_queue, self.limits.max_size),
            Phase::Closing { .. } => true,
            Phase::Ending { .. } | Phase::Finishing { .. } => false,
        }
    }

    /// Reads and decodes what is there.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
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
                if self.backlog.length() < HIGH_WATER {
                    encoder::pong(&data, self.backlog.tail());
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
}
