//! What is left of a request body that nobody reads any more.
//!
//! An application may answer without having read the body of the request: "not found"
//! needs none. Its client may not have sent all of it by then, and what follows belongs
//! to the same message still. So the connection reads on, and throws it away, before it
//! takes the next request (RFC 9112, 9.3). Where that is too much, the connection ends
//! instead, and the answer says so if it is known in time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Body as _;
use hyper::body::Incoming;

/// An answer that is complete announces the end of its connection when its client has more
/// than this left to send, in bytes.
const WORTHWHILE_MAX: u64 = 256 * 1024;
/// This much is read if the end was not announced: the client may not have told the length
/// of its body, or the answer had begun before it was known whether the body is read.
const PROMISED_MAX: u64 = 16 * 1024 * 1024;

/// The rest of a request body.
#[derive(Debug)]
pub(crate) struct Rest {
    incoming: Incoming,
    /// Bytes that may follow.
    room: u64,
}

impl Rest {
    /// `None` if the client has announced more of it than will be read.
    pub(crate) fn new(incoming: Incoming) -> Option<Self> {
        let room = PROMISED_MAX;
        (incoming.size_hint().lower() <= room).then_some(Self { incoming, room })
    }

    /// Throws away what has arrived. `Ready` when that was all, or it is too much.
    ///
    /// # Errors
    /// Why it has broken off.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        while let Some(frame) = ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            let length = frame?.data_ref().map_or(0, bytes::Bytes::len);
            match self.room.checked_sub(length as u64) {
                Some(room) if !self.incoming.is_end_stream() => self.room = room,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether so much of a body was announced, and has not arrived, that it is not waited for.
pub(crate) fn is_too_much(incoming: &Incoming) -> bool {
    incoming.size_hint().lower() > WORTHWHILE_MAX
}
