//! A file as the body of a response.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nix::fcntl::OFlag;

use super::disk::Reader;

/// A part of a file that is to be sent.
#[derive(Debug)]
pub(crate) struct FilePart {
    reader: Reader,
    left: u64,
}

impl FilePart {
    /// What a file has from `offset` on; `None` unless it is a regular file.
    ///
    /// # Errors
    /// What `fstat(2)` returns.
    pub(crate) fn new(file: File, offset: u64) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then(|| Self {
            reader: Reader::new(file, offset),
            left: metadata.len().saturating_sub(offset),
        }))
    }

    /// The whole of a file; `None` unless it is a regular file.
    ///
    /// # Errors
    /// What `open(2)` and `fstat(2)` return.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        // Who opens a pipe would wait for its writer.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = options.read(true).custom_flags(flags).open(path)?;
        Self::new(file, 0)
    }

    /// How many bytes have not been read yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// As much of it as was `declared`: a file may have grown since its length was asked
    /// for.
    ///
    /// # Errors
    /// Both lengths, if the file has less.
    pub(crate) fn fitted(mut self, declared: Option<u64>) -> Result<Self, (u64, u64)> {
        let declared = declared.unwrap_or(self.left);
        if declared > self.left {
            return Err((self.left, declared));
        }
        self.left = declared;
        Ok(self)
    }

    /// What lies between two positions in it, the first of which is not behind the second,
    /// and the second not behind the end.
    pub(crate) fn between(mut self, from: u64, to: u64) -> Self {
        self.reader.seek(self.reader.offset().saturating_add(from));
        self.left = to.saturating_sub(from);
        self
    }

    /// Reads on; `None` at the end.
    ///
    /// # Errors
    /// What `preadv2(2)` returns, and `UnexpectedEof` when the file has become shorter.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        let read = ready!(self.reader.poll_next(self.left, cx));
        Poll::Ready(read.map(|piece| {
            self.left -= piece.len() as u64;
            Some(piece)
        }))
    }
}
