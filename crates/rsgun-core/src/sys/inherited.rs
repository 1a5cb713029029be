//! Descriptors that the parent process has passed on by number.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Copies get numbers from here up, out of the way of those with a meaning.
const FIRST_COPY: RawFd = 64;

/// A descriptor that came over the exec, found but not yet taken.
#[derive(Debug)]
pub struct Inherited {
    number: RawFd,
    copy: OwnedFd,
}

impl Inherited {
    /// Looks at a number that the parent may have passed on.
    ///
    /// Until [`Self::take`] nothing has changed for anybody who uses the number.
    ///
    /// # Errors
    /// `EBADF` when nothing is open there, or when it is close-on-exec: then it
    /// cannot have come over the exec, it belongs to this very process.
    pub fn find(number: RawFd) -> io::Result<Self> {
        // SAFETY: F_GETFD on a number only tells about it, and harms nothing if
        // nobody has it open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags == -1 {
            return Err(io::Error::last_os_error());
        }
        if flags & libc::FD_CLOEXEC != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let copy = copy_of(number)?;
        Ok(Self { number, copy })
    }

    /// Takes the descriptor: the copy is the caller's, and the old number becomes
    /// `/dev/null`. A number that is merely closed would be given to the next file
    /// that is opened, and 0 to 2 must never be just any file.
    ///
    /// # Errors
    /// When `/dev/null` cannot be opened; then the old number is as it was.
    pub fn take(self) -> io::Result<OwnedFd> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        let flags = if self.number <= 2 { 0 } else { libc::O_CLOEXEC };
        // SAFETY: nothing in this process owns the number: all that Rust code opens is
        // close-on-exec, and `find` has seen that this is not.
        if unsafe { libc::dup3(null.as_raw_fd(), self.number, flags) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(self.copy)
    }
}

/// Copies the descriptor at a number that others use and keep, close-on-exec.
///
/// # Errors
/// `EBADF` when nothing is open there; `EMFILE`.
pub fn copy_of(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC makes a new number and leaves the old; it fails if nobody
    // has that open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST_COPY) };
    if copy == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this number, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

impl AsFd for Inherited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.copy.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_number_becomes_dev_null() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        // SAFETY: makes a new number without close-on-exec, as an exec leaves it.
        let number = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 200) };
        let taken = Inherited::find(number).unwrap().take().unwrap();
        assert!(taken.as_raw_fd() >= FIRST_COPY);
        let target = |fd: RawFd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        assert_eq!(target(number), std::path::Path::new("/dev/null"));
        assert!(target(taken.as_raw_fd()).ends_with("stat"));
        assert!(
            Inherited::find(number).is_err(),
            "the second time it is this process's own"
        );
    }

    #[test]
    fn what_this_process_opened_or_nobody_did_is_not_inherited() {
        let file = std::fs::File::open("/dev/null").unwrap();
        for number in [file.as_raw_fd(), 999_999, -1] {
            let error = Inherited::find(number).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{number}");
        }
    }
}
