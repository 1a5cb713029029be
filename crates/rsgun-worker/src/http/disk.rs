//! What may have to wait for a disk, beside the thread of the connections.
//!
//! A disk, or a server of files on the network, may be slow or not answer at all. Whoever
//! waits for it on the thread of the connections waits for everybody. So that reads only
//! what is in memory already, which `RWF_NOWAIT` of `preadv2(2)` tells. The rest is for
//! the threads of tokio's pool.

use std::convert::identity;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::ffi::{self, Wait};

/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;

/// Does on a thread of the pool what may wait for a disk.
///
/// # Errors
/// That there is no such thread, and none can be had. The work is queued all the same, for
/// the next one that there is, and nobody will know what came of it.
pub(crate) fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // tokio has no other way to say so than to panic.
    catch_unwind(AssertUnwindSafe(|| spawn_blocking(work))).map_err(|_| {
        io::Error::other("no thread can be started for it; raise the limit (ulimit -u, pids.max)")
    })
}

/// A file that is read from some place on.
#[derive(Debug)]
pub(crate) struct Reader {
    file: Arc<File>,
    offset: u64,
    /// The file system cannot tell what is in memory.
    always_waits: bool,
    /// What a thread reads at the moment.
    reading: Option<JoinHandle<io::Result<BytesMut>>>,
}

impl Reader {
    pub(super) fn new(file: File, offset: u64) -> Self {
        Self {
            file: Arc::new(file),
            offset,
            always_waits: false,
            reading: None,
        }
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where it reads on.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes to another place. Nothing may be being read.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The file, if nobody reads it at the moment.
    pub(super) fn into_file(self) -> Option<File> {
        Arc::into_inner(self.file)
    }

    /// Reads on: a piece of the `left` bytes that there are, one at least.
    ///
    /// # Errors
    /// What `preadv2(2)` returns, and `UnexpectedEof` when the file has become shorter.
    pub(super) fn poll_next(&mut self, left: u64, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = match self.in_memory(room) {
            Some(read) => read,
            None => ready!(self.poll_thread(room, cx)),
        };
        Poll::Ready(read.and_then(|piece| self.passed(piece)))
    }

    /// What comes next, if it can be had without waiting.
    fn in_memory(&mut self, room: usize) -> Option<io::Result<BytesMut>> {
        if self.always_waits || self.reading.is_some() {
            return None;
        }
        match ffi::read_at(&self.file, room, self.offset, Wait::Never) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if cannot_tell(&error) => {
                self.always_waits = true;
                None
            }
            read => Some(read),
        }
    }

    fn poll_thread(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
        let reading = match &mut self.reading {
            Some(reading) => reading,
            None => {
                let (file, offset) = (Arc::clone(&self.file), self.offset);
                let work = move || ffi::read_at(&file, room, offset, Wait::Disk);
                self.reading.insert(apart(work)?)
            }
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map_err(io::Error::other).and_then(identity))
    }

    fn passed(&mut self, piece: BytesMut) -> io::Result<Bytes> {
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += piece.len() as u64;
        Ok(piece.freeze())
    }
}

fn cannot_tell(error: &io::Error) -> bool {
    let codes = [Errno::EOPNOTSUPP, Errno::ENOSYS].map(|code| Some(code as i32));
    codes.contains(&error.raw_os_error())
}
