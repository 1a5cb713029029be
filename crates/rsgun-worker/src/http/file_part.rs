//! A file as the body of a response.
//!
//! The thread of the connections reads what is in memory already, which `RWF_NOWAIT` of
//! `preadv2(2)` tells. For the rest it would wait for the disk, or for a server of files
//! on the network, and everybody with it: a thread of tokio's pool reads that.

use std::convert::identity;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::ffi::{self, Wait};

/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;

/// A part of a file that is to be sent.
#[derive(Debug)]
pub(crate) struct FilePart {
    file: Arc<File>,
    offset: u64,
    left: u64,
    /// The file system cannot tell what is in memory.
    always_waits: bool,
    /// What a thread reads at the moment.
    reading: Option<JoinHandle<io::Result<BytesMut>>>,
}

impl FilePart {
    /// What a file has from `offset` on; `None` unless it is a regular file.
    ///
    /// # Errors
    /// What `fstat(2)` returns.
    pub(crate) fn new(file: File, offset: u64) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then(|| Self {
            file: Arc::new(file),
            offset,
            left: metadata.len().saturating_sub(offset),
            always_waits: false,
            reading: None,
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
        self.offset = self.offset.saturating_add(from);
        self.left = to.saturating_sub(from);
        self
    }

    /// Reads on; `None` at the end.
    ///
    /// # Errors
    /// What `pread(2)` returns, and `UnexpectedEof` when the file has become shorter.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        let read = match self.in_memory() {
            Some(read) => read,
            None => ready!(self.poll_thread(cx)),
        };
        Poll::Ready(read.and_then(|piece| self.passed(piece).map(Some)))
    }

    /// What comes next, if it can be had without waiting.
    fn in_memory(&mut self) -> Option<io::Result<BytesMut>> {
        if self.always_waits || self.reading.is_some() {
            return None;
        }
        match ffi::read_at(&self.file, self.room(), self.offset, Wait::Never) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if cannot_tell(&error) => {
                self.always_waits = true;
                None
            }
            read => Some(read),
        }
    }

    fn poll_thread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
        let (room, offset) = (self.room(), self.offset);
        let reading = self.reading.get_or_insert_with(|| {
            let file = Arc::clone(&self.file);
            spawn_blocking(move || ffi::read_at(&file, room, offset, Wait::Disk))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map_err(io::Error::other).and_then(identity))
    }

    /// How much is read next.
    fn room(&self) -> usize {
        usize::try_from(self.left).unwrap_or(PIECE).min(PIECE)
    }

    fn passed(&mut self, piece: BytesMut) -> io::Result<Bytes> {
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += piece.len() as u64;
        self.left -= piece.len() as u64;
        Ok(piece.freeze())
    }
}

fn cannot_tell(error: &io::Error) -> bool {
    let codes = [Errno::EOPNOTSUPP, Errno::ENOSYS].map(|code| Some(code as i32));
    codes.contains(&error.raw_os_error())
}
