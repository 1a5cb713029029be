//! Frame headers (RFC 6455, 5.2) and masking.

use crate::close::Violation;

/// Longest header: two bytes, eight of length, four of mask.
pub(crate) const HEADER_MAX: usize = 14;
/// Longest payload of a control frame.
pub(crate) const CONTROL_MAX: u64 = 125;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn read(byte: u8) -> Option<Self> {
        Some(match byte & 0x0f {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn number(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The header of a frame from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) is_final: bool,
    /// The first reserved bit: compressed.
    pub(crate) is_compressed: bool,
    pub(crate) opcode: Opcode,
    pub(crate) length: u64,
    pub(crate) mask: [u8; 4],
}

impl Header {
    /// How long the header is that begins with these bytes, as far as they tell.
    pub(crate) fn length_of(bytes: &[u8]) -> usize {
        match bytes.get(1).map(|second| second & 0x7f) {
            None => 2,
            Some(126) => 8,
            Some(127) => HEADER_MAX,
            Some(_) => 6,
        }
    }

    /// Checks the first two bytes, which is all that some violations need.
    ///
    /// # Errors
    /// What RFC 6455, 5.2 and 5.5 do not allow.
    pub(crate) fn check_start(first: u8, second: u8) -> Result<Opcode, Violation> {
        let Some(opcode) = Opcode::read(first) else {
            return Err(Violation::protocol("reserved opcode"));
        };
        if first & 0x30 != 0 {
            return Err(Violation::protocol("reserved bit"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::protocol("frame without a mask"));
        }
        if opcode.is_control() {
            if first & 0x80 == 0 {
                return Err(Violation::protocol("fragmented control frame"));
            }
            if u64::from(second & 0x7f) > CONTROL_MAX {
                return Err(Violation::protocol("control frame too long"));
            }
        }
        Ok(opcode)
    }

    /// Reads a whole header, of which [`Self::length_of`] says how long it is.
    ///
    /// # Errors
    /// Those of [`Self::check_start`], and a length that is not written in the shortest
    /// way.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Violation> {
        let [first, second, rest @ ..] = bytes else {
            return Err(Violation::protocol("incomplete header"));
        };
        let opcode = Self::check_start(*first, *second)?;
        let (length, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => {
                let length = u64::from(u16::from_be_bytes([*a, *b]));
                if length < 126 {
                    return Err(Violation::protocol("length is not minimal"));
                }
                (length, rest)
            }
            (127, rest) => {
                let (length, rest) = rest
                    .split_first_chunk()
                    .ok_or(Violation::protocol("incomplete header"))?;
                let length = u64::from_be_bytes(*length);
                if u16::try_from(length).is_ok() || length >> 63 != 0 {
                    return Err(Violation::protocol("length is not minimal"));
                }
                (length, rest)
            }
            (length, rest) => (u64::from(length), rest),
        };
        let Ok(mask) = <[u8; 4]>::try_from(rest) else {
            return Err(Violation::protocol("incomplete header"));
        };
        Ok(Self {
            is_final: first & 0x80 != 0,
            is_compressed: first & 0x40 != 0,
            opcode,
            length,
            mask,
        })
    }
}

/// Applies a mask to the part of a payload that begins at `offset`.
pub(crate) fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: u64) {
    let mut key = mask;
    key.rotate_left(usize::from(offset.to_le_bytes()[0] % 4));
    let word = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Writes the header of a frame from the server, in one piece and not masked.
pub(crate) fn write_header(out: &mut Vec<u8>, opcode: Opcode, is_compressed: bool, length: usize) {
    let compressed = if is_compressed { 0x40 } else { 0 };
    out.push(0x80 | compressed | opcode.number());
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(short),
        (_, Ok(middle)) => {
            out.push(126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let header = Header::read(&[0xc2, 0xfe, 0x01, 0x00, 1, 2, 3, 4]).unwrap();
        assert_eq!(
            header,
            Header {
                is_final: true,
                is_compressed: true,
                opcode: Opcode::Binary,
                length: 256,
                mask: [1, 2, 3, 4],
            }
        );
    }

    #[test]
    fn what_the_protocol_does_not_allow_is_refused() {
        let wrong: [(&str, &[u8]); 10] = [
            ("reserved opcode", &[0x83, 0x80]),
            ("reserved opcode", &[0x8f, 0x80]),
            ("reserved bit", &[0xa1, 0x80]),
            ("reserved bit", &[0x91, 0x80]),
            ("frame without a mask", &[0x81, 0x05]),
            ("fragmented control frame", &[0x09, 0x80]),
            ("control frame too long", &[0x88, 0xfe]),
            ("control frame too long", &[0x89, 0xff]),
            ("length is not minimal", &[0x81, 0xfe, 0, 125, 0, 0, 0, 0]),
            (
                "length is not minimal",
                &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
            ),
        ];
        for (reason, bytes) in wrong {
            let violation = Header::read(bytes).unwrap_err();
            assert_eq!((violation.code, violation.reason), (1002, reason));
        }
        let negative = [0x81, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert!(Header::read(&negative).is_err());
    }

    #[test]
    fn a_mask_goes_on_where_it_was() {
        let mask = [1, 2, 3, 4];
        let mut whole: Vec<u8> = (0..50).collect();
        unmask(&mut whole, mask, 0);
        let mut parts: Vec<u8> = (0..50).collect();
        unmask(&mut parts[..13], mask, 0);
        unmask(&mut parts[13..], mask, 13);
        assert_eq!(whole, parts);
        assert_eq!(whole[..5], [1, 1 ^ 2, 2 ^ 3, 3 ^ 4, 4 ^ 1]);
    }

    #[test]
    fn headers_are_as_short_as_they_can_be() {
        for (length, size) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            write_header(&mut out, Opcode::Text, false, length);
            assert_eq!(out.len(), size);
            assert_eq!(out[0], 0x81);
        }
    }
}
