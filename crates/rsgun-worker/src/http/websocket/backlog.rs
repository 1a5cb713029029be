//! Bytes on their way to the socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::Write as _;

use crate::http::io::Io;

/// Slices of one write.
const SLICES: usize = 16;

/// What is encoded and not written yet: small things one after the other, large ones as
/// they are.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    parts: VecDeque<Bytes>,
    /// Bytes of all parts.
    sealed: usize,
    /// What comes after the parts.
    tail: Vec<u8>,
}

impl Backlog {
    /// Where small things are appended.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Adds something large, which is not copied.
    pub(super) fn push(&mut self, part: Bytes) {
        self.seal();
        self.sealed += part.len();
        self.parts.push_back(part);
    }

    /// Bytes that are still to be written.
    pub(super) fn length(&self) -> usize {
        self.sealed + self.tail.len()
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.sealed += tail.len();
            self.parts.push_back(tail.into());
        }
    }

    /// Writes once, as much as the socket takes.
    pub(super) fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal();
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        let poll = Pin::new(io).poll_write_vectored(cx, &slices[..count]);
        poll.map_ok(|mut written| {
            self.sealed -= written;
            while let Some(part) = self.parts.front_mut() {
                if written < part.len() {
                    part.advance(written);
                    break;
                }
                written -= part.len();
                self.parts.pop_front();
            }
            if self.parts.is_empty() {
                // An idle connection holds no memory.
                self.parts = VecDeque::new();
            }
        })
    }
}
