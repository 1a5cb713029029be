//! Response bodies as hyper takes them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use crate::asgi::exchange::{Aborted, SharedExchange};
use crate::http::file_part::FilePart;
use crate::reactor::queue;

/// The body of a response.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Nothing.
    Empty,
    /// All of it at once; `None` when hyper has taken it.
    Full(Option<Bytes>),
    /// Parts as the application sends them, and the length if it is known.
    Stream(SharedExchange, Option<u64>),
    /// A part of a file.
    File(FilePart),
    /// What cannot go on, and must not look complete.
    BrokenOff,
}

impl ResponseBody {
    /// A short text answer of the server itself.
    pub(crate) fn plain(status: StatusCode, text: &'static str, is_head: bool) -> Response<Self> {
        let body = if is_head {
            Self::Empty
        } else {
            Self::full(Bytes::from_static(text.as_bytes()))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response
    }

    /// All of a body at once.
    pub(crate) fn full(data: Bytes) -> Self {
        if data.is_empty() {
            Self::Full(None)
        } else {
            Self::Full(Some(data))
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::BrokenOff => Poll::Pending,
            Self::Full(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Self::File(part) => Poll::Ready(match ready!(part.poll_next(cx)) {
                Ok(piece) => piece.map(|piece| Ok(Frame::data(piece))),
                Err(error) => {
                    tracing::error!("a file that is being sent cannot be read: {error}");
                    Some(Err(Aborted))
                }
            }),
            Self::Stream(exchange, _) => {
                let (chunk, resume) = exchange.poll_chunk(cx);
                if resume {
                    queue::resume_sender(exchange);
                }
                Poll::Ready(ready!(chunk).map(|chunk| chunk.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Full(None) => true,
            Self::File(part) => part.left() == 0,
            Self::Full(Some(_)) | Self::Stream(..) | Self::BrokenOff => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(data)) => SizeHint::with_exact(data.len() as u64),
            Self::File(part) => SizeHint::with_exact(part.left()),
            Self::Stream(_, Some(length)) => SizeHint::with_exact(*length),
            Self::Stream(_, None) | Self::BrokenOff => SizeHint::default(),
        }
    }
}
