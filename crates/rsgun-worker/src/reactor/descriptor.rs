//! The runtime, and the descriptor of its epoll.
//!
//! tokio does not tell the descriptor of its driver. It can be known all the same:
//! the kernel gives every new descriptor the lowest free number, the runtime opens its
//! epoll first, and `/proc` says what stands at that number afterwards, and whether it
//! watches a descriptor that was registered with the runtime. Anything else is refused
//! rather than guessed. In a program with threads of its own another descriptor may have
//! come in between, so it is tried more than once.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use rsgun_core::sys::process;
use tokio::io::Interest;
use tokio::runtime::{Builder, EnterGuard, Runtime};

use crate::ffi;

/// How often it is tried.
const TRIES: usize = 100;

/// Threads that wait for disks at the same time.
const THREADS: usize = 32;
/// As many of them may write request bodies: the others are there for other disks.
pub(crate) const WRITERS: usize = THREADS / 2;

/// A runtime whose end waits for nothing that such a thread does: the disk may never answer.
pub(super) struct Driver(Option<Runtime>);

impl Driver {
    /// Makes it the runtime of this thread, as long as the value that is returned lives.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    /// Looks once, without waiting, which descriptors are ready.
    pub(super) fn poll(&self) {
        if let Some(runtime) = &self.0 {
            // A yielding task lets `block_on` poll the driver with a time-out of zero.
            runtime.block_on(tokio::task::yield_now());
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Builds the runtime of this thread. The descriptor is a duplicate of its epoll.
///
/// # Errors
/// What the system returns, or that tokio no longer opens its epoll first.
pub(super) fn build() -> io::Result<(Driver, OwnedFd)> {
    for _ in 0..TRIES {
        let number = process::next_fd_number()?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .thread_name("rsgun-files")
            .max_blocking_threads(THREADS)
            .build()?;
        if is_epoll_of(&runtime, number)? {
            return Ok((Driver(Some(runtime)), ffi::duplicate(number)?.into()));
        }
    }
    if let Err(error) = std::fs::metadata("/proc/self/fdinfo") {
        return Err(io::Error::other(format!(
            "a worker needs /proc, and cannot read it: {error}; mount it (`mount -t proc proc \
             /proc`)"
        )));
    }
    Err(io::Error::other(
        "the epoll of tokio's driver cannot be found among the descriptors of this process",
    ))
}

/// Whether the descriptor is the epoll that the runtime registers with.
fn is_epoll_of(runtime: &Runtime, number: RawFd) -> io::Result<bool> {
    let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}")) else {
        return Ok(false);
    };
    if target.as_os_str() != "anon_inode:[eventpoll]" {
        return Ok(false);
    }
    let (probe, _writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let probe_number = probe.as_raw_fd().to_string();
    let _context = runtime.enter();
    let _registered = ffi::register(probe, Interest::READABLE)?;
    // Lines such as `tfd:        9 events:       19 data: ...` (proc(5)).
    let watched = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    Ok(watched.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("tfd:") && words.next() == Some(&probe_number)
    }))
}
