//! Bytes on disk that are too many for memory.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::ffi::{self, Wait};

/// Bytes that are read from a file at a time.
const PIECE: usize = 64 * 1024;
/// Bytes that were read and are given back to the disk at a time.
const HOLE: u64 = 4 * 1024 * 1024;

/// A file without a name, in the directory for temporary files (`TMPDIR`), that is
/// written at the end and read from the start.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    written: u64,
    read: u64,
    /// Up to here the file has been given back to the disk.
    freed: u64,
    /// The file system cannot do that.
    keeps_all: bool,
}

impl Spool {
    /// An empty one.
    ///
    /// # Errors
    /// What the system returns when the file cannot be made.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            written: 0,
            read: 0,
            freed: 0,
            keeps_all: false,
        })
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// What `pwrite(2)` returns, such as that the disk is full.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes have not been read yet.
    pub(crate) fn unread(&self) -> u64 {
        self.written - self.read
    }

    /// How many bytes it takes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.written - self.freed
    }

    /// How many bytes were written.
    pub(crate) fn length(&self) -> u64 {
        self.written
    }

    /// Reads on; `None` at the end of what was written.
    ///
    /// # Errors
    /// What `pread(2)` returns.
    pub(crate) fn next(&mut self) -> io::Result<Option<Bytes>> {
        let length = usize::try_from(self.unread()).unwrap_or(PIECE).min(PIECE);
        let piece = ffi::read_at(&self.file, length, self.read, Wait::Disk)?.freeze();
        self.read += piece.len() as u64;
        if self.unread() == 0 {
            // The space can be used again.
            self.file.set_len(0)?;
            (self.read, self.written, self.freed) = (0, 0, 0);
        } else if self.read - self.freed >= HOLE && !self.keeps_all {
            self.free();
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Gives what was read back to the disk.
    fn free(&mut self) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let hole = (
            i64::try_from(self.freed),
            i64::try_from(self.read - self.freed),
        );
        let done = match hole {
            (Ok(start), Ok(length)) => fallocate(&self.file, flags, start, length).is_ok(),
            _ => false,
        };
        if done {
            self.freed = self.read;
        } else {
            self.keeps_all = true;
        }
    }

    /// The file, at its start.
    ///
    /// # Errors
    /// What `lseek(2)` returns.
    pub(crate) fn into_file(mut self) -> io::Result<File> {
        self.file.rewind()?;
        Ok(self.file)
    }
}
