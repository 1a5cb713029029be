//! Signals as a queue: the handlers only write the signal's number to a pipe.
//!
//! Order and count are kept as far as the kernel keeps them, which flags that a
//! loop polls would not: TERM followed by INT means something else than INT
//! followed by TERM.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// The reading end of the queue.
#[derive(Debug)]
pub struct SignalQueue {
    pipe: OwnedFd,
}

impl SignalQueue {
    /// Installs a handler for each of `signals`, for the rest of the process.
    ///
    /// # Errors
    /// What `pipe2(2)` or `sigaction(2)` return.
    pub fn install(signals: &[Signal]) -> io::Result<Self> {
        let (pipe, sender) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let sender = Arc::new(sender);
        for signal in signals {
            let sender = Arc::clone(&sender);
            let number = *signal as i32;
            // Signal numbers are below 65.
            let byte = [u8::try_from(number).unwrap_or(0)];
            // SAFETY: the action calls only write(2), which is async-signal-safe, on a
            // descriptor that it keeps open, and puts errno back.
            unsafe {
                signal_hook::low_level::register(number, move || {
                    let errno = Errno::last_raw();
                    // A full pipe loses a signal of which thousands wait already.
                    libc::write(sender.as_raw_fd(), byte.as_ptr().cast(), 1);
                    Errno::set_raw(errno);
                })?;
            }
        }
        Ok(Self { pipe })
    }

    /// Takes the oldest signal off the queue; `None` when it is empty.
    ///
    /// # Errors
    /// What `read(2)` returns.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let mut byte = [0_u8; 1];
        loop {
            match nix::unistd::read(&self.pipe, &mut byte) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(None),
                Ok(_) => return Ok(Some(Signal::try_from(i32::from(byte[0]))?)),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl AsRawFd for SignalQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
}

/// Holds back all signals of this thread until it is dropped.
///
/// A child between fork and exec still has the handlers of its parent: a signal to
/// the whole group would be queued twice. So forks happen with signals held back.
#[derive(Debug)]
pub struct HeldBack {
    before: SigSet,
}

impl HeldBack {
    /// Starts to hold signals back.
    ///
    /// # Errors
    /// What `pthread_sigmask(3)` returns.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            before: SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?,
        })
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        // Fails only for an invalid `how`.
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_come_out_in_their_order() {
        let queue = SignalQueue::install(&[Signal::SIGUSR1, Signal::SIGURG]).unwrap();
        for signal in [Signal::SIGURG, Signal::SIGUSR1, Signal::SIGURG] {
            signal_hook::low_level::raise(signal as i32).unwrap();
        }
        assert_eq!(queue.next().unwrap(), Some(Signal::SIGURG));
        assert_eq!(queue.next().unwrap(), Some(Signal::SIGUSR1));
        assert_eq!(queue.next().unwrap(), Some(Signal::SIGURG));
        assert_eq!(queue.next().unwrap(), None);
    }

    #[test]
    fn a_signal_that_is_held_back_arrives_afterwards() {
        let queue = SignalQueue::install(&[Signal::SIGUSR2]).unwrap();
        let held = HeldBack::start().unwrap();
        signal_hook::low_level::raise(Signal::SIGUSR2 as i32).unwrap();
        assert_eq!(queue.next().unwrap(), None);
        drop(held);
        assert_eq!(queue.next().unwrap(), Some(Signal::SIGUSR2));
    }
}
