//! What of a streamed response is too much for memory.
//!
//! It goes to disk, and the last of it waits in memory until it is worth that: an
//! application may send parts of any size, and each write costs a call of the system.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use crate::http::spool::Spool;

/// So much goes to disk at a time, or more.
const TAIL_MAX: usize = 64 * 1024;
/// And so much is there at most.
const SPOOL_MAX: u64 = 1024 * 1024 * 1024;

/// Bytes on disk, and what follows them.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    disk: Disk,
    /// What comes behind that, and is not worth a write yet.
    tail: BytesMut,
}

#[derive(Debug, Default)]
enum Disk {
    #[default]
    Empty,
    Holds(Box<Spool>),
    /// A thread writes: it has the spool for itself, so that nobody waits for the disk who
    /// wants something else of the exchange.
    Writing,
}

/// What a thread that writes has for itself, with what is being read of it.
#[derive(Debug)]
pub(super) struct Portion {
    spool: Box<Spool>,
    tail: BytesMut,
}

impl Overflow {
    /// Whether all of it has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.tail.is_empty()
            && match &self.disk {
                Disk::Empty => true,
                Disk::Holds(spool) => spool.unread() == 0,
                Disk::Writing => false,
            }
    }

    /// Whether a thread has the spool.
    pub(super) fn is_being_written(&self) -> bool {
        matches!(self.disk, Disk::Writing)
    }

    /// Adds a part behind all others; `false` when it is to be written.
    pub(super) fn add(&mut self, part: &[u8]) -> bool {
        let is_short = self.tail.len() + part.len() < TAIL_MAX;
        if is_short {
            self.tail.extend_from_slice(part);
        }
        is_short
    }

    /// Hands out what is there, for so many bytes `more` to be written behind it. `None`:
    /// somebody writes already, or that would be too much.
    pub(super) fn take(&mut self, more: usize) -> Option<Portion> {
        let more = self.tail.len() + more;
        let has_room = match &self.disk {
            Disk::Empty => true,
            Disk::Holds(spool) => spool.has_room(more as u64, SPOOL_MAX),
            Disk::Writing => false,
        };
        if !has_room {
            return None;
        }
        let spool = match std::mem::replace(&mut self.disk, Disk::Writing) {
            Disk::Holds(spool) => spool,
            Disk::Empty | Disk::Writing => Box::default(),
        };
        Some(Portion {
            spool,
            tail: std::mem::take(&mut self.tail),
        })
    }

    /// Takes the spool again when it was written to.
    pub(super) fn put_back(&mut self, spool: Box<Spool>) {
        self.disk = Disk::Holds(spool);
    }

    /// What comes next; `None` if there is nothing.
    ///
    /// # Errors
    /// What `preadv2(2)` returns.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match &mut self.disk {
            Disk::Empty => {}
            Disk::Writing => return Poll::Pending,
            Disk::Holds(spool) => {
                if let Some(piece) = ready!(spool.poll_next(cx))? {
                    return Poll::Ready(Ok(Some(piece)));
                }
            }
        }
        let tail = std::mem::take(&mut self.tail);
        Poll::Ready(Ok((!tail.is_empty()).then(|| tail.freeze())))
    }
}

impl Portion {
    /// Writes all of it, and a part behind it. Waits for the disk.
    ///
    /// # Errors
    /// See [`Spool::append`].
    pub(super) fn write(mut self, part: &[u8]) -> io::Result<Box<Spool>> {
        if part.len() < TAIL_MAX {
            self.tail.extend_from_slice(part);
            self.spool.append(&self.tail)?;
        } else {
            self.spool.append(&self.tail)?;
            self.spool.append(part)?;
        }
        Ok(self.spool)
    }
}
