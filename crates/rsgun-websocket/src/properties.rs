//! Properties of the codec as a whole.

use bytes::Bytes;
use proptest::prelude::*;

use crate::Kind;
use crate::decoder::{Decoder, Event};
use crate::deflate::Deflater;
use crate::extension::Agreement;
use crate::frame::unmask;

/// A frame of a client.
fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut out = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => out.push(0x80 | short),
        (_, Ok(middle)) => {
            out.push(0xfe);
            out.extend(middle.to_be_bytes());
        }
        _ => {
            out.push(0xff);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], mask, 0);
    out
}

/// Decodes an input that arrives in pieces, up to the first violation.
fn decode(decoder: &mut Decoder, input: &mut [u8], piece: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for part in input.chunks_mut(piece) {
        let mut position = 0;
        while position < part.len() {
            let Ok((taken, event)) = decoder.decode(&mut part[position..]) else {
                return events;
            };
            position += taken;
            events.extend(event);
        }
    }
    events
}

proptest! {
    #[test]
    fn every_message_arrives_whole_however_it_is_cut(
        messages in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..3000), any::<bool>()), 1..6),
        mask in any::<[u8; 4]>(),
        fragment in 1_usize..2000,
        piece in 1_usize..5000,
        bits in 9_u8..=15,
        no_takeover in any::<bool>(),
    ) {
        let mut deflater = Deflater::new(Agreement::alike(bits, no_takeover));
        let mut input = Vec::new();
        let mut expected = Vec::new();
        for (data, is_compressed) in messages {
            let payload = if is_compressed {
                deflater.message(&data).unwrap()
            } else {
                data.clone()
            };
            let mut parts: Vec<&[u8]> = payload.chunks(fragment).collect();
            if parts.is_empty() {
                parts.push(b"");
            }
            let last = parts.len() - 1;
            for (index, part) in parts.into_iter().enumerate() {
                let mut first = if index == 0 { 0x02 } else { 0x00 };
                if index == 0 && is_compressed {
                    first |= 0x40;
                }
                if index == last {
                    first |= 0x80;
                }
                input.extend(masked(first, part, mask));
                input.extend(masked(0x89, b"still there?", mask));
            }
            expected.push(Event::Message(Kind::Binary, Bytes::from(data)));
        }
        let mut decoder = Decoder::new(Some(Agreement::alike(bits, no_takeover)), 3000);
        let mut events = decode(&mut decoder, &mut input, piece);
        events.retain(|event| !matches!(event, Event::Ping(_)));
        prop_assert_eq!(events, expected);
    }

    #[test]
    fn text_is_accepted_exactly_if_it_is_utf8(
        text in "\\PC{0,40}",
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        piece in 1_usize..40,
    ) {
        let mut bytes = text.into_bytes();
        if let Some((index, byte)) = damage && !bytes.is_empty() {
            let place = index.index(bytes.len());
            bytes[place] = byte;
        }
        let mut input = masked(0x81, &bytes, [9, 8, 7, 6]);
        let events = decode(&mut Decoder::new(None, 1000), &mut input, piece);
        prop_assert_eq!(events.len() == 1, std::str::from_utf8(&bytes).is_ok());
    }

    #[test]
    fn no_input_makes_it_fail_or_exceed_its_limit(
        mut input in prop::collection::vec(any::<u8>(), 0..600),
        compression in prop::option::of(9_u8..=15),
        piece in 1_usize..600,
    ) {
        let compression = compression.map(|bits| Agreement::alike(bits, false));
        let mut decoder = Decoder::new(compression, 200);
        for event in decode(&mut decoder, &mut input, piece) {
            if let Event::Message(_, data) = event {
                prop_assert!(data.len() <= 200);
            }
        }
    }
}
