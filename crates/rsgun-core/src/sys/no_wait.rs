//! Writing without waiting to a pipe that is shared with others.
//!
//! `O_NONBLOCK` belongs to the open file, and so to everybody who has it. The flag of a
//! single write is the writer's own; the kernel has it for pipes since Linux 6.4.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Writes what there is room for.
///
/// # Errors
/// `EAGAIN` when there is no room; `EOPNOTSUPP` where only `O_NONBLOCK` would help.
pub fn write_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel reads one description of the bytes, and the bytes, before the call
    // returns. -1 stands for where the file is, as with write(2).
    let written =
        unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    Errno::result(written).map(|count| usize::try_from(count).unwrap_or_default())
}
