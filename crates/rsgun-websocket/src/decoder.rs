//! What the client sends: frames into whole messages.
//!
//! The decoder keeps no input: it takes what was read as far as it can, unmasks it in
//! place and moves it on. Text is checked while it arrives, compressed data are
//! expanded while they arrive, so that neither a broken nor a huge message is
//! collected first.

use bytes::Bytes;

use crate::Kind;
use crate::close::{self, Violation};
use crate::deflate::Inflater;
use crate::extension::Agreement;
use crate::frame::{HEADER_MAX, Header, Opcode, unmask};

/// What has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole message; text is valid UTF-8.
    Message(Kind, Bytes),
    /// A ping, to be answered with the same data.
    Ping(Bytes),
    /// The answer to a ping.
    Pong,
    /// The client closes: code (1005 if it gave none) and reason.
    Close(u16, String),
}

/// Takes frames apart and puts messages together.
pub struct Decoder {
    /// The header that has not arrived completely.
    partial: [u8; HEADER_MAX],
    partial_length: usize,
    frame: Option<Frame>,
    message: Option<Message>,
    /// Payload of the control frame in progress.
    control: Vec<u8>,
    inflater: Option<Box<Inflater>>,
    limit: usize,
}

/// The frame in progress.
struct Frame {
    header: Header,
    taken: u64,
}

/// The message in progress.
struct Message {
    kind: Kind,
    is_compressed: bool,
    data: Vec<u8>,
    /// How much of the text is known to be valid.
    valid: usize,
}

impl Decoder {
    /// Makes one for a connection with this compression; no message may have more
    /// than `limit` bytes, compressed or not.
    #[must_use]
    pub fn new(compression: Option<Agreement>, limit: usize) -> Self {
        Self {
            partial: [0; HEADER_MAX],
            partial_length: 0,
            frame: None,
            message: None,
            control: Vec::new(),
            inflater: compression.map(|agreement| Box::new(Inflater::new(agreement))),
            limit,
        }
    }

    /// Takes input up to the next event. Returns how many bytes were taken (all, if
    /// there is no event) and the event. The input is overwritten.
    ///
    /// # Errors
    /// The client has broken the protocol: it is to be told why, and nothing more that
    /// it sends counts.
    pub fn decode(&mut self, input: &mut [u8]) -> Result<(usize, Option<Event>), Violation> {
        let mut position = 0;
        loop {
            let Some(frame) = &mut self.frame else {
                position += self.header(&input[position..])?;
                if self.frame.is_none() {
                    return Ok((position, None));
                }
                continue;
            };
            let left = frame.header.length - frame.taken;
            let rest = &mut input[position..];
            let length = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
            let part = &mut rest[..length];
            unmask(part, frame.header.mask, frame.taken);
            frame.taken += length as u64;
            let header = frame.header;
            let is_whole = frame.taken == header.length;
            position += length;
            if header.opcode.is_control() {
                self.control.extend_from_slice(part);
            } else if !part.is_empty() {
                self.data(part)?;
            }
            if !is_whole {
                return Ok((position, None));
            }
            self.frame = None;
            if let Some(event) = self.end(header)? {
                return Ok((position, Some(event)));
            }
        }
    }

    /// Takes the bytes of a header; begins the frame when it is complete.
    fn header(&mut self, input: &[u8]) -> Result<usize, Violation> {
        let mut taken = 0;
        loop {
            let bytes = &self.partial[..self.partial_length];
            let wanted = Header::length_of(bytes);
            if self.partial_length == wanted {
                break;
            }
            let missing = wanted - self.partial_length;
            let part = &input[taken..];
            let part = &part[..missing.min(part.len())];
            self.partial[self.partial_length..self.partial_length + part.len()]
                .copy_from_slice(part);
            self.partial_length += part.len();
            taken += part.len();
            if self.partial_length >= 2 && self.partial_length - part.len() < 2 {
                // A client that breaks the protocol need not send the rest.
                self.check_start()?;
            }
            if part.len() < missing {
                return Ok(taken);
            }
        }
        let header = Header::read(&self.partial[..self.partial_length])?;
        self.partial_length = 0;
        self.begin(header)?;
        self.frame = Some(Frame { header, taken: 0 });
        Ok(taken)
    }

    fn check_start(&self) -> Result<(), Violation> {
        let opcode = Header::check_start(self.partial[0], self.partial[1])?;
        let is_compressed = self.partial[0] & 0x40 != 0;
        if is_compressed
            && (self.inflater.is_none() || !matches!(opcode, Opcode::Text | Opcode::Binary))
        {
            return Err(Violation::protocol("reserved bit"));
        }
        match (opcode, &self.message) {
            (Opcode::Continuation, None) => Err(Violation::protocol("continuation of no message")),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                Err(Violation::protocol("message inside a message"))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, header: Header) -> Result<(), Violation> {
        let kind = match header.opcode {
            Opcode::Text => Some(Kind::Text),
            Opcode::Binary => Some(Kind::Binary),
            _ => None,
        };
        if let Some(kind) = kind {
            self.message = Some(Message {
                kind,
                is_compressed: header.is_compressed,
                data: Vec::new(),
                valid: 0,
            });
        }
        if header.opcode.is_control() {
            return Ok(());
        }
        if let Some(message) = &self.message
            && !message.is_compressed
            && header.length > (self.limit - message.data.len()) as u64
        {
            return Err(Violation::BIG);
        }
        Ok(())
    }

    /// Takes a part of the payload of a message.
    fn data(&mut self, part: &[u8]) -> Result<(), Violation> {
        let Some(message) = &mut self.message else {
            return Ok(());
        };
        match &mut self.inflater {
            Some(inflater) if message.is_compressed => {
                inflater.part(part, &mut message.data, self.limit)?;
            }
            _ => message.data.extend_from_slice(part),
        }
        message.check_text()
    }

    /// The end of a frame.
    fn end(&mut self, header: Header) -> Result<Option<Event>, Violation> {
        if header.opcode.is_control() {
            let data = std::mem::take(&mut self.control);
            return Ok(Some(match header.opcode {
                Opcode::Ping => Event::Ping(data.into()),
                Opcode::Pong => Event::Pong,
                _ => {
                    let (code, reason) = close::read(&data)?;
                    Event::Close(code, reason)
                }
            }));
        }
        if !header.is_final {
            return Ok(None);
        }
        let Some(mut message) = self.message.take() else {
            return Ok(None);
        };
        if let Some(inflater) = &mut self.inflater
            && message.is_compressed
        {
            inflater.finish(&mut message.data, self.limit)?;
            message.check_text()?;
        }
        if message.kind == Kind::Text && message.valid != message.data.len() {
            return Err(Violation::TEXT);
        }
        Ok(Some(Event::Message(message.kind, message.data.into())))
    }
}

impl Message {
    /// Checks what has come since the last check; a character that is cut in two is
    /// checked when its rest is there.
    fn check_text(&mut self) -> Result<(), Violation> {
        if self.kind == Kind::Binary {
            return Ok(());
        }
        match std::str::from_utf8(&self.data[self.valid..]) {
            Ok(_) => self.valid = self.data.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(Violation::TEXT),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            short @ 0..=125 => out.push(0x80 | u8::try_from(short).unwrap()),
            length => {
                out.push(0xfe);
                out.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        out.extend(mask);
        let start = out.len();
        out.extend(payload);
        unmask(&mut out[start..], mask, 0);
        out
    }

    /// All events of an input that arrives in pieces.
    fn events(mut input: Vec<u8>, piece: usize) -> (Vec<Event>, Option<Violation>) {
        let mut decoder = Decoder::new(None, 1000);
        let mut events = Vec::new();
        for part in input.chunks_mut(piece) {
            let mut position = 0;
            while position < part.len() {
                match decoder.decode(&mut part[position..]) {
                    Ok((taken, event)) => {
                        position += taken;
                        events.extend(event);
                    }
                    Err(violation) => return (events, Some(violation)),
                }
            }
        }
        (events, None)
    }

    fn text(text: &str) -> Event {
        Event::Message(Kind::Text, text.to_owned().into())
    }

    #[test]
    fn fragments_and_control_frames_may_be_interleaved() {
        let input = [
            frame(0x01, "gr".as_bytes()),
            frame(0x89, b"ping"),
            frame(0x00, b"\xc3"),
            frame(0x8a, b""),
            frame(0x80, b"\xbcn"),
            frame(0x82, &[0; 200]),
            frame(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        let expected = vec![
            Event::Ping(Bytes::from_static(b"ping")),
            Event::Pong,
            text("grün"),
            Event::Message(Kind::Binary, vec![0; 200].into()),
            Event::Close(1000, "bye".to_owned()),
        ];
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(events(input.clone(), piece), (expected.clone(), None));
        }
    }

    #[test]
    fn violations_have_their_codes() {
        let cases: [(u16, Vec<u8>); 12] = [
            (1002, frame(0x80, b"x")),
            (1002, frame(0x00, b"x")),
            (1002, [frame(0x01, b"x"), frame(0x81, b"y")].concat()),
            (1002, frame(0xc1, b"x")),
            (1002, frame(0xc9, b"x")),
            (1002, frame(0x88, b"x")),
            (1002, frame(0x88, b"\x03\xed")),
            (1007, frame(0x88, b"\x03\xe8\xff")),
            (1007, frame(0x81, b"\xed\xa0\x80")),
            (1007, frame(0x81, b"\xc3")),
            (1009, frame(0x82, &[0; 1001])),
            (1009, [frame(0x02, &[0; 999]), frame(0x80, b"xx")].concat()),
        ];
        for (code, input) in cases {
            for piece in [1, 1000] {
                let (_, violation) = events(input.clone(), piece);
                let found = violation.map(|violation| violation.code);
                assert_eq!(found, Some(code), "{input:x?}");
            }
        }
    }

    #[test]
    fn bad_text_is_found_before_its_frame_is_complete() {
        let whole = frame(0x81, &[b"caf\xff".as_slice(), &[b'x'; 100]].concat());
        let (_, violation) = events(whole[..10].to_vec(), 1);
        assert_eq!(violation, Some(Violation::TEXT));
    }

    #[test]
    fn an_unmasked_frame_is_refused_at_its_second_byte() {
        let (_, violation) = events(vec![0x81, 0x01], 1);
        assert_eq!(violation.map(|violation| violation.code), Some(1002));
    }
}
