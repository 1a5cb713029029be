//! The only `unsafe` of this crate: what PyO3 and hyper offer no safe way for.
#![expect(unsafe_code, reason = "the one module of this crate that may")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use hyper::rt::ReadBufCursor;
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets `read` fill the free part of hyper's buffer, shows `look` what it has
/// written, and returns how many bytes that were.
///
/// # Errors
/// What `read` returns.
pub(crate) fn fill(
    cursor: &mut ReadBufCursor<'_>,
    read: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
    look: impl FnOnce(&[u8]),
) -> io::Result<usize> {
    // SAFETY: `read` can only store into the slice (the system call behind it writes
    // initialised bytes), it cannot make initialised bytes uninitialised again
    // in a way that matters, since nothing before the cursor is exposed.
    let free = unsafe { cursor.as_mut() };
    let length = read(free)?;
    let written = &free[..length];
    // SAFETY: the callback has just written these bytes.
    look(unsafe { std::slice::from_raw_parts(written.as_ptr().cast(), length) });
    // SAFETY: as before.
    unsafe { cursor.advance(length) };
    Ok(length)
}

/// Descriptors that stay what they are while they are registered.
pub(crate) trait Registrable: AsRawFd {}

impl Registrable for Socket {}
impl Registrable for OwnedFd {}

/// Registers a descriptor with the runtime of this thread.
///
/// # Errors
/// What `epoll_ctl(2)` returns.
pub(crate) fn register<T: Registrable>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: both implementors own their descriptor, keep it for their whole life, and
    // are only reached through `&` afterwards.
    let registered = unsafe { AsyncFd::register_with_interest(inner, interest) };
    registered.map_err(Into::into)
}

/// Duplicates the descriptor of a file object of Python.
///
/// # Errors
/// `EBADF` for a number that no file has, and what `fcntl(2)` returns.
pub(crate) fn duplicate(number: RawFd) -> io::Result<File> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(nix::libc::EBADF));
    }
    // SAFETY: not -1, and only used for this call: the system checks the number, and a
    // duplicate of any file is a file.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned().map(File::from)
}
