//! The WebSocket protocol: RFC 6455 and, for compression, RFC 7692.
//!
//! A pure part: bytes go in, events and bytes come out. It knows neither sockets nor
//! Python, so that every rule can be tested by itself.
//!
//! * [`handshake`]: whether a request opens a WebSocket, and the fields of the answer;
//! * [`extension`]: which compression both sides agree on;
//! * [`decoder`]: what the client sends, as whole messages and control frames;
//! * [`encoder`]: what the server sends;
//! * [`close`]: the codes with which a connection ends.
//!
//! A server of Python applications has reasons not to use one of the existing
//! crates: a connection that is idle must cost next to nothing (the decoder works on
//! a read buffer that all connections of a worker share, and has none of its own),
//! the limit of a message must hold for what comes out of the decompression while it
//! runs, and messages must be checked strictly.

pub mod close;
pub mod decoder;
mod deflate;
pub mod encoder;
pub mod extension;
mod frame;
pub mod handshake;
#[cfg(test)]
mod properties;

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}
