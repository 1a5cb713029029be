//! The runtime, and the descriptor of its epoll.
//!
//! tokio does not tell the descriptor of its driver. It can be known all the same:
//! the kernel gives every new descriptor the lowest free number, the runtime opens its
//! epoll first, and `/proc` says what stands at that number afterwards. Anything else
//! is refused rather than guessed.

use std::io;
use std::os::fd::RawFd;

use rsgun_core::sys::process;
use tokio::runtime::{Builder, Runtime};

/// Builds the runtime of this thread; the descriptor lives as long as it.
///
/// # Errors
/// What the system returns, or that tokio no longer opens its epoll first.
pub(super) fn build() -> io::Result<(Runtime, RawFd)> {
    let number = process::next_fd_number()?;
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let target = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
    if target.as_os_str() != "anon_inode:[eventpoll]" {
        return Err(io::Error::other(format!(
            "descriptor {number} is {} and not the epoll of tokio's driver",
            target.display()
        )));
    }
    Ok((runtime, number))
}
