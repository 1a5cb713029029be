//! Bytes on disk that are too many for memory.
//!
//! A thread that may wait for the disk writes them; the thread of the connections, which may
//! not, reads them back, and only lets others do what takes as long as the disk does:
//!
//! * To read what is not in memory any more is for the pool ([`super::disk`]).
//! * So is giving back to the disk what was read, while there is more: the file system may
//!   have to wait for its journal, and for what is being written of the file.
//! * To begin anew when everything was read is left to whoever writes next: most spools are
//!   closed then.
//! * To close the file frees all of it, which may take the longest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::disk::{self, Reader};

/// Bytes that were read and are given back to the disk at a time.
const HOLE: u64 = 4 * 1024 * 1024;

/// A file without a name, in the directory for temporary files (`TMPDIR`), that is
/// written at the end and read from the start.
#[derive(Debug, Default)]
pub(crate) struct Spool {
    /// `None`: nothing was written yet.
    reader: Option<Reader>,
    written: u64,
    /// Up to here the file has been given back to the disk.
    freed: u64,
    /// Up to where it is being given back, and whether that works.
    freeing: Option<(u64, JoinHandle<bool>)>,
    /// The file system cannot do that.
    keeps_all: bool,
    /// A hole may still be made in the file, nobody knows when.
    is_stale: bool,
}

impl Spool {
    /// Adds bytes at the end. Waits for the disk.
    ///
    /// # Errors
    /// What the system returns when the file cannot be made, and what `pwrite(2)` does, such
    /// as that the disk is full.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.begin_anew()?;
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(Reader::new(tempfile::tempfile()?, 0)),
        };
        reader.file().write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file empty, if all of it was read and that is worth it.
    fn begin_anew(&mut self) -> io::Result<()> {
        if self.written < HOLE {
            return Ok(());
        }
        let is_being_freed = |(_, freeing): &(u64, JoinHandle<bool>)| !freeing.is_finished();
        if self.unread() > 0 || self.freeing.as_ref().is_some_and(is_being_freed) {
            return Ok(());
        }
        if self.is_stale {
            // What is written from here on is for another file.
            *self = Self::default();
        } else if let Some(reader) = &mut self.reader {
            reader.file().set_len(0)?;
            reader.seek(0);
            (self.written, self.freed, self.freeing) = (0, 0, None);
        }
        Ok(())
    }

    fn read(&self) -> u64 {
        self.reader.as_ref().map_or(0, Reader::offset)
    }

    /// How many bytes have not been read yet.
    pub(crate) fn unread(&self) -> u64 {
        self.written - self.read()
    }

    /// Whether so many bytes more take no more than `most` of the disk.
    pub(crate) fn has_room(&self, more: u64, most: u64) -> bool {
        self.unread() == 0 || self.written - self.freed + more <= most
    }

    /// How many bytes were written.
    pub(crate) fn length(&self) -> u64 {
        self.written
    }

    /// Reads on; `None` at the end of what was written.
    ///
    /// # Errors
    /// What `preadv2(2)` returns.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let unread = self.unread();
        let Some(reader) = self.reader.as_mut().filter(|_| unread > 0) else {
            return Poll::Ready(Ok(None));
        };
        let piece = ready!(reader.poll_next(unread, cx))?;
        self.free(cx);
        Poll::Ready(Ok(Some(piece)))
    }

    /// Gives what was read back to the disk.
    fn free(&mut self, cx: &mut Context<'_>) {
        if let Some((until, freeing)) = &mut self.freeing {
            let Poll::Ready(done) = Pin::new(freeing).poll(cx) else {
                return;
            };
            if matches!(done, Ok(true)) {
                self.freed = *until;
            } else {
                self.keeps_all = true;
            }
            self.freeing = None;
        }
        let until = self.read();
        let hole = self.freed..until;
        if self.keeps_all || hole.end - hole.start < HOLE {
            return;
        }
        if let Some(reader) = &self.reader {
            let file = Arc::clone(reader.file());
            match disk::apart(move || punch(&file, hole.start, hole.end - hole.start)) {
                Ok(freeing) => self.freeing = Some((until, freeing)),
                Err(_) => (self.keeps_all, self.is_stale) = (true, true),
            }
        }
    }

    /// The file, at its start, and its length; `None` if nothing was written.
    pub(crate) fn into_file(mut self) -> Option<(File, u64)> {
        let file = self.reader.take().and_then(Reader::into_file)?;
        Some((file, self.written))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Only where there is no pool may anybody wait.
        if let Some(reader) = self.reader.take()
            && Handle::try_current().is_ok()
        {
            // Without a thread it is for the next one that there is.
            let _ = disk::apart(move || drop(reader));
        }
    }
}

/// Makes a part of a file a hole. Returns whether that was possible.
fn punch(file: &File, start: u64, length: u64) -> bool {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match (i64::try_from(start), i64::try_from(length)) {
        (Ok(start), Ok(length)) => fallocate(file, flags, start, length).is_ok(),
        _ => false,
    }
}
