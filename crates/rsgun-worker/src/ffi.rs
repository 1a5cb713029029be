//! The only `unsafe` of this crate: what PyO3 and hyper offer no safe way for.
#![expect(unsafe_code, reason = "the one module of this crate that may")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use bytes::BytesMut;
use hyper::rt::ReadBufCursor;
use nix::libc::{self, c_int, c_void};
use pyo3::Python;
use rsgun_core::sys::fork::Orphaned;
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::http::handover::Handover;

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

/// What a read may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The disk, or whoever keeps the file.
    Disk,
    /// Nothing: what is not in memory is `WouldBlock`, and what cannot tell
    /// `EOPNOTSUPP`.
    Never,
}

/// Reads up to `room` bytes of a file, into memory that is not set to zero first.
///
/// # Errors
/// What `preadv2(2)` returns.
pub(crate) fn read_at(file: &File, room: usize, offset: u64, wait: Wait) -> io::Result<BytesMut> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let flags = match wait {
        Wait::Disk => 0,
        Wait::Never => libc::RWF_NOWAIT,
    };
    let mut bytes = BytesMut::with_capacity(room);
    let target = libc::iovec {
        iov_base: bytes.spare_capacity_mut().as_mut_ptr().cast(),
        iov_len: room,
    };
    loop {
        // SAFETY: there is room for so many bytes, and nobody else knows of it.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const target, 1, offset, flags) };
        if let Ok(length) = usize::try_from(read) {
            // SAFETY: so many have just been written.
            unsafe { bytes.set_len(length) };
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Descriptors that stay what they are while they are registered.
pub(crate) trait Registrable: AsRawFd {}

impl Registrable for Socket {}
impl Registrable for OwnedFd {}
impl Registrable for Arc<Handover> {}

/// Registers a descriptor with the runtime of this thread.
///
/// # Errors
/// What `epoll_ctl(2)` returns.
pub(crate) fn register<T: Registrable>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: all implementors own their descriptor, or share in it, keep it for their whole life, and
    // are only reached through `&` afterwards.
    let registered = unsafe { AsyncFd::register_with_interest(inner, interest) };
    registered.map_err(Into::into)
}

/// Duplicates a descriptor of which only the number is known.
///
/// # Errors
/// `EBADF` for a number that no file has, and what `fcntl(2)` returns.
pub(crate) fn duplicate(number: RawFd) -> io::Result<File> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: not -1, and only used for this call: the system checks the number, and a
    // duplicate of any file is a file.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned().map(File::from)
}

/// While it lives, its thread stops for ever where it would be ended from within.
///
/// CPython before 3.14 ends a thread that wants the interpreter's lock while the
/// interpreter ends by `pthread_exit(3)`, which unwinds the stack. Here that would drop
/// what Rust holds of Python, without the lock, in an interpreter that is being taken
/// apart, and then meet frames that must not be unwound: the process would die of it. A
/// clean-up handler of the C library that does not return keeps the stack as it is, as
/// 3.14 does by itself.
///
/// It belongs around whatever calls Python on a thread that need not be the main one.
/// Where the frames below are a scope of ours, it lives for that. In an event loop of the
/// program's there is no such scope, but callbacks that come and go: there it lives from
/// one of them to a later one.
pub(crate) struct Immortal(NonNull<CleanUp>);

/// What the C library keeps of a handler: routine, argument, with glibc a word of its own,
/// and the record that was pushed before.
#[repr(C)]
struct CleanUp([*mut c_void; 4]);

/// Where that is.
const PREVIOUS: usize = if cfg!(target_env = "musl") { 2 } else { 3 };

// The functions behind `pthread_cleanup_push(3)` of programs that cannot be unwound.
unsafe extern "C" {
    fn _pthread_cleanup_push(
        record: *mut CleanUp,
        handler: extern "C" fn(*mut c_void),
        argument: *mut c_void,
    );
    fn _pthread_cleanup_pop(record: *mut CleanUp, run: c_int);
}

extern "C" fn stop_for_ever(_: *mut c_void) {
    loop {
        nix::unistd::pause();
    }
}

impl CleanUp {
    const fn new() -> Self {
        Self([ptr::null_mut(); 4])
    }

    /// The record that this thread has pushed last.
    fn last() -> *mut Self {
        let mut probe = Self::new();
        // SAFETY: pushed, and popped at once by the same thread.
        unsafe {
            _pthread_cleanup_push(&raw mut probe, stop_for_ever, ptr::null_mut());
            _pthread_cleanup_pop(&raw mut probe, 0);
        }
        probe.0[PREVIOUS].cast()
    }
}

impl Immortal {
    /// For the running thread.
    pub(crate) fn new() -> Self {
        // glibc calls a handler when the unwinding leaves the frame that holds its record.
        // One that is not on the stack is called first, before any frame is touched.
        let record = NonNull::from(Box::leak(Box::new(CleanUp::new())));
        // SAFETY: the record is large enough, and stays where it is until it is popped.
        unsafe { _pthread_cleanup_push(record.as_ptr(), stop_for_ever, ptr::null_mut()) };
        Self(record)
    }
}

impl Drop for Immortal {
    fn drop(&mut self) {
        // A record is taken off together with all that were pushed later, and leads to the
        // one before it, which may be gone with a scope that has ended first. So only the
        // last one goes. Any other stays, and the thread as it is: an event loop may be
        // left in the middle, and what it was at be dropped later, on any thread.
        if CleanUp::last() == self.0.as_ptr() {
            // SAFETY: it is the last one of this thread, so nobody else knows it.
            unsafe {
                _pthread_cleanup_pop(self.0.as_ptr(), 0);
                drop(Box::from_raw(self.0.as_ptr()));
            }
        }
    }
}

// SAFETY: nothing can be done with one but to drop it, and on another thread that leaves it
// alone, as its record is not among those of that thread.
unsafe impl Send for Immortal {}
// SAFETY: as before.
unsafe impl Sync for Immortal {}

/// Calls `fork` with what Python and libraries want done around it, on both sides.
pub(crate) fn around_fork(_: Python<'_>, fork: impl FnOnce() -> Orphaned) -> Orphaned {
    // SAFETY: the interpreter is attached to this thread. These are the calls that
    // CPython documents for whoever forks by himself: one before, and one after it in
    // each process.
    unsafe {
        pyo3::ffi::PyOS_BeforeFork();
        let forked = fork();
        match forked {
            Orphaned::Grandchild => pyo3::ffi::PyOS_AfterFork_Child(),
            Orphaned::Torn(_) => {}
            Orphaned::Made(_) | Orphaned::Refused | Orphaned::Failed(_) => {
                pyo3::ffi::PyOS_AfterFork_Parent();
            }
        }
        forked
    }
}
