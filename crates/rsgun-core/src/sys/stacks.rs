//! The Python stacks of a process that hangs, written by itself at the request of
//! another one.
//!
//! Each process of Python shares a memory file with the master, its *report*. A signal
//! of our own ([`signal_number`]) makes CPython's `faulthandler` write the stacks of all
//! threads into it from the native handler, so also when the interpreter's lock is
//! held by code in C. Python code that runs afterwards, if it can, adds the asyncio
//! tasks and ends the report with a NUL. A memory file is never full and never makes
//! the writer wait, and the master may read it when it likes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::foreign::printable;

/// The last byte of a report that is complete.
pub const END: u8 = 0;
/// No more than this is read of a report, bytes.
const REPORT_MAX: usize = 256 * 1024;

/// The signal that asks a process for its stacks.
#[must_use]
pub fn signal_number() -> i32 {
    libc::SIGRTMAX() - 2
}

/// Asks a process that was prepared for it to write its report; others are ended by
/// the signal.
///
/// # Errors
/// What `kill(2)` returns, chiefly `ESRCH`.
pub fn ask(pid: i32) -> io::Result<()> {
    // SAFETY: sending a signal touches no memory of this process.
    if unsafe { libc::kill(pid, signal_number()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The memory file that a process writes its stacks to, on the side of the reader.
#[derive(Debug)]
pub struct Report {
    file: File,
}

impl Report {
    /// Makes an empty report.
    ///
    /// # Errors
    /// What `memfd_create(2)` returns, chiefly `EMFILE`.
    pub fn create() -> io::Result<Self> {
        let file = memfd_create(c"rsgun-stacks", MFdFlags::MFD_CLOEXEC)?;
        Ok(Self { file: file.into() })
    }

    /// Another handle of the same report.
    ///
    /// # Errors
    /// `EMFILE` when no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        Ok(Self { file })
    }

    /// How many bytes have been written so far: what an answer begins after.
    #[must_use]
    pub fn length(&self) -> u64 {
        // A file that cannot be looked at holds nothing of use.
        self.file.metadata().map_or(0, |data| data.len())
    }

    /// What has been written after the first `start` bytes, made printable, and whether that
    /// is all.
    #[must_use]
    pub fn read(&self, start: u64) -> (String, bool) {
        let mut bytes = vec![0; REPORT_MAX];
        let length = self.file.read_at(&mut bytes, start).unwrap_or(0);
        bytes.truncate(length);
        let is_complete = length == REPORT_MAX || bytes.contains(&END);
        bytes.retain(|byte| *byte != END);
        let text = String::from_utf8_lossy(&bytes);
        (printable(&text).into_owned(), is_complete)
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<OwnedFd> for Report {
    /// The report that another program of this process has made.
    fn from(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }
}

impl From<Report> for OwnedFd {
    fn from(report: Report) -> Self {
        report.file.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_report_is_read_while_it_is_written() {
        let report = Report::create().unwrap();
        assert_eq!(report.read(0), (String::new(), false));
        let mut writer: File = report.as_fd().try_clone_to_owned().unwrap().into();
        writer.write_all(b"Thread 1\n").unwrap();
        assert_eq!(report.read(0), ("Thread 1\n".to_owned(), false));
        writer.write_all(b"Task\n\0").unwrap();
        assert_eq!(report.read(0), ("Thread 1\nTask\n".to_owned(), true));
        let start = report.length();
        assert_eq!(report.read(start), (String::new(), false));
        writer.write_all(b"Thread 2\n\0").unwrap();
        assert_eq!(report.read(start), ("Thread 2\n".to_owned(), true));
    }

    #[test]
    fn a_report_that_does_not_end_is_cut() {
        let report = Report::create().unwrap();
        let mut writer: File = report.as_fd().try_clone_to_owned().unwrap().into();
        writer.write_all(&vec![b'x'; REPORT_MAX + 5]).unwrap();
        let (text, is_complete) = report.read(0);
        assert_eq!((text.len(), is_complete), (REPORT_MAX, true));
    }
}
