//! What the server sends: whole messages in one frame each, control frames.

use bytes::Bytes;

use crate::Kind;
use crate::close;
use crate::deflate::Deflater;
use crate::extension::Agreement;
use crate::frame::{Opcode, write_header};

/// Messages below this length are not compressed: they go out in one packet either
/// way, and the context costs more than it saves.
const COMPRESS_FROM: usize = 64;
/// Payloads from this size on are sent from where they are.
const COPY_BELOW: usize = 8 * 1024;

/// Makes frames.
#[derive(Default)]
pub struct Encoder {
    deflater: Option<Box<Deflater>>,
}

impl Encoder {
    /// Makes one for a connection with this compression.
    #[must_use]
    pub fn new(compression: Option<Agreement>) -> Self {
        Self {
            deflater: compression.map(|agreement| Box::new(Deflater::new(agreement))),
        }
    }

    /// Adds a message to `out`. Returns its payload if that is better sent from where
    /// it is, after everything in `out`.
    pub fn message(&mut self, kind: Kind, data: Bytes, out: &mut Vec<u8>) -> Option<Bytes> {
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let compressed = match &mut self.deflater {
            Some(deflater) if data.len() >= COMPRESS_FROM => deflater.message(&data),
            _ => None,
        };
        let is_compressed = compressed.is_some();
        let payload = compressed.map_or(data, Bytes::from);
        write_header(out, opcode, is_compressed, payload.len());
        if payload.len() < COPY_BELOW {
            out.extend_from_slice(&payload);
            None
        } else {
            Some(payload)
        }
    }
}

/// Adds a ping to `out`.
pub fn ping(data: &[u8], out: &mut Vec<u8>) {
    control(Opcode::Ping, data, out);
}

/// Adds the answer to a ping to `out`.
pub fn pong(data: &[u8], out: &mut Vec<u8>) {
    control(Opcode::Pong, data, out);
}

/// Adds a close frame to `out`; [`close::NO_STATUS`] makes one without a code.
pub fn close(code: u16, reason: &str, out: &mut Vec<u8>) {
    control(Opcode::Close, &close::payload(code, reason), out);
}

fn control(opcode: Opcode, data: &[u8], out: &mut Vec<u8>) {
    write_header(out, opcode, false, data.len());
    out.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_standard_shows_them() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(None);
        assert!(
            encoder
                .message(Kind::Text, Bytes::from_static(b"Hello"), &mut out)
                .is_none()
        );
        assert_eq!(out, b"\x81\x05Hello");
        out.clear();
        ping(b"Hello", &mut out);
        assert_eq!(out, b"\x89\x05Hello");
        out.clear();
        close(1001, "x", &mut out);
        assert_eq!(out, b"\x88\x03\x03\xe9x");
        out.clear();
        close(close::NO_STATUS, "", &mut out);
        assert_eq!(out, b"\x88\x00");
    }

    #[test]
    fn a_large_message_is_not_copied() {
        let data = Bytes::from(vec![7; 100_000]);
        let mut out = Vec::new();
        let rest = Encoder::new(None).message(Kind::Binary, data.clone(), &mut out);
        assert_eq!(out, [0x82, 127, 0, 0, 0, 0, 0, 1, 0x86, 0xa0]);
        assert_eq!(rest.map(|rest| rest.as_ptr()), Some(data.as_ptr()));
    }
}
