//! Compression and decompression of messages (RFC 7692, 7.2).
//!
//! Contexts are made when the first message needs them: most connections are idle,
//! and many clients never compress. Without context takeover a context lasts for one
//! message.

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use crate::close::Violation;
use crate::extension::Agreement;

/// What a sender leaves off the end of each message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Level of compression: above this, it costs much more time than it saves.
const LEVEL: i32 = 5;
/// Size of the compressor's tables; with a window of 12 bits 32 KiB in all.
const MEM_LEVEL: i32 = 5;
/// Bytes made at a time.
const STEP: usize = 16 * 1024;

/// Makes messages of the client readable.
pub(crate) struct Inflater {
    context: Option<Inflate>,
    window_bits: u8,
    keeps: bool,
}

impl Inflater {
    pub(crate) fn new(agreement: Agreement) -> Self {
        Self {
            context: None,
            window_bits: agreement.client_window_bits.max(9),
            keeps: !agreement.client_no_context_takeover,
        }
    }

    /// Adds what `input` stands for to `message`, as long as that has at most `limit`
    /// bytes.
    pub(crate) fn part(
        &mut self,
        mut input: &[u8],
        message: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), Violation> {
        let window_bits = self.window_bits;
        let context = self
            .context
            .get_or_insert_with(|| Inflate::new(false, window_bits));
        let mut step = [0; STEP];
        loop {
            let before = (context.total_in(), context.total_out());
            let status = context
                .decompress(input, &mut step, InflateFlush::SyncFlush)
                .map_err(|_| Violation::COMPRESSED)?;
            let read = distance(before.0, context.total_in());
            let made = distance(before.1, context.total_out());
            input = &input[read..];
            if message.len() + made > limit {
                return Err(Violation::BIG);
            }
            message.extend_from_slice(&step[..made]);
            match status {
                // The client has ended the stream (RFC 7692, 7.2.3.5): the next block
                // begins a new one.
                Status::StreamEnd => {
                    *context = Inflate::new(false, window_bits);
                    if input.is_empty() {
                        return Ok(());
                    }
                }
                _ if made < STEP && (input.is_empty() || read == 0) => {
                    return if input.is_empty() {
                        Ok(())
                    } else {
                        Err(Violation::COMPRESSED)
                    };
                }
                _ => {}
            }
        }
    }

    /// Ends a message.
    pub(crate) fn finish(&mut self, message: &mut Vec<u8>, limit: usize) -> Result<(), Violation> {
        self.part(&TAIL, message, limit)?;
        if !self.keeps {
            self.context = None;
        }
        Ok(())
    }
}

/// Compresses messages for the client.
pub(crate) struct Deflater {
    context: Option<Deflate>,
    window_bits: u8,
    keeps: bool,
}

impl Deflater {
    pub(crate) fn new(agreement: Agreement) -> Self {
        Self {
            context: None,
            window_bits: agreement.server_window_bits,
            keeps: !agreement.server_no_context_takeover,
        }
    }

    /// A message, compressed; `None` if the compressor fails, which needs memory that
    /// cannot be had.
    pub(crate) fn message(&mut self, mut input: &[u8]) -> Option<Vec<u8>> {
        let config = DeflateConfig {
            level: LEVEL,
            window_bits: -i32::from(self.window_bits),
            mem_level: MEM_LEVEL,
            ..DeflateConfig::default()
        };
        let context = self
            .context
            .get_or_insert_with(|| Deflate::new_with_config(config));
        let mut out = Vec::new();
        let mut step = [0; STEP];
        loop {
            let before = (context.total_in(), context.total_out());
            context
                .compress(input, &mut step, DeflateFlush::SyncFlush)
                .ok()?;
            let read = distance(before.0, context.total_in());
            let made = distance(before.1, context.total_out());
            input = &input[read..];
            out.extend_from_slice(&step[..made]);
            if input.is_empty() && made < STEP {
                break;
            }
        }
        if !self.keeps {
            self.context = None;
        }
        out.truncate(out.len().saturating_sub(TAIL.len()));
        if out.is_empty() {
            // Nothing to flush since the last message: an empty block (7.2.3.6).
            out.push(0);
        }
        Some(out)
    }
}

/// How far a counter has moved within one call, which has worked on slices.
fn distance(before: u64, after: u64) -> usize {
    usize::try_from(after - before).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_with_every_window() {
        let text: Vec<u8> = (0..60_000_u32)
            .flat_map(|number| (number % 977).to_be_bytes())
            .collect();
        for bits in 9..=15 {
            for no_takeover in [false, true] {
                let mut deflater = Deflater::new(Agreement::alike(bits, no_takeover));
                let mut inflater = Inflater::new(Agreement::alike(bits, no_takeover));
                for part in [&text[..], b"", b"x", &text[..STEP], &text[1..]] {
                    let packed = deflater.message(part).unwrap();
                    let mut message = Vec::new();
                    inflater.part(&packed, &mut message, part.len()).unwrap();
                    inflater.finish(&mut message, part.len()).unwrap();
                    assert!(message == part, "window {bits}, {} bytes", part.len());
                }
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = Deflater::new(Agreement::alike(15, true))
            .message(&vec![0; 50 << 20])
            .unwrap();
        assert!(bomb.len() < 100_000);
        let mut message = Vec::new();
        let mut inflater = Inflater::new(Agreement::alike(15, true));
        assert_eq!(
            inflater.part(&bomb, &mut message, 1 << 20),
            Err(Violation::BIG)
        );
        assert!(message.len() <= 1 << 20);
    }

    #[test]
    fn garbage_is_refused() {
        let mut inflater = Inflater::new(Agreement::alike(15, false));
        let refused = inflater.part(&[0xff; 20], &mut Vec::new(), 1000);
        assert_eq!(refused, Err(Violation::COMPRESSED));
    }

    #[test]
    fn a_client_may_end_the_stream_with_each_message() {
        // The example of RFC 7692, 7.2.3.5.
        let packed = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let mut inflater = Inflater::new(Agreement::alike(15, false));
        for _ in 0..2 {
            let mut message = Vec::new();
            inflater.part(&packed, &mut message, 100).unwrap();
            inflater.finish(&mut message, 100).unwrap();
            assert_eq!(message, b"Hello");
        }
    }
}
