//! Signals as a queue: the handlers only write the signal's number, and who sent it, to a
//! pipe.
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

/// Bytes of an entry of the queue: the number of the signal and the sender's process id.
/// Far below what a pipe takes in one piece.
pub(super) const ENTRY: usize = 8;

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Which one.
    pub signal: Signal,
    /// Who sent it.
    pub sender: Sender,
}

/// Who sends a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The kernel of its own accord: a terminal was closed, or a key was pressed in it.
    Kernel,
    /// A process with this id; 0 if it is in another namespace.
    Process(i32),
}

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
            // SAFETY: the action calls only write(2), which is async-signal-safe, on a
            // descriptor that it keeps open, and puts errno back.
            unsafe {
                signal_hook_registry::register_sigaction(number, move |info| {
                    let errno = Errno::last_raw();
                    let entry = pack(number, sender_of(info));
                    // A full pipe loses a signal of which hundreds wait already.
                    libc::write(sender.as_raw_fd(), entry.as_ptr().cast(), ENTRY);
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
    pub fn next(&self) -> io::Result<Option<Arrived>> {
        take(self.pipe.as_fd())
    }
}

/// Takes the oldest entry out of a pipe that handlers write to.
pub(super) fn take(pipe: BorrowedFd<'_>) -> io::Result<Option<Arrived>> {
    let mut entry = [0_u8; ENTRY];
    loop {
        match nix::unistd::read(pipe, &mut entry) {
            Ok(0) | Err(Errno::EAGAIN) => return Ok(None),
            Ok(_) => {
                let (number, pid) = unpack(entry);
                let signal = Signal::try_from(number)?;
                let sender = match pid {
                    -1 => Sender::Kernel,
                    pid => Sender::Process(pid),
                };
                return Ok(Some(Arrived { signal, sender }));
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
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

/// Whether a signal is ignored at present, as `nohup` does with SIGHUP for the program
/// that it starts.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: an all-zero sigaction is valid, and without a new one the call only fills
    // it in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as i32, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// The process that has sent a signal; -1 for the kernel.
pub(super) fn sender_of(info: &libc::siginfo_t) -> i32 {
    // Positive codes are the kernel's own.
    if info.si_code > 0 {
        return -1;
    }
    // SAFETY: the field is valid for every signal that a process has sent.
    unsafe { info.si_pid() }
}

pub(super) fn pack(number: i32, pid: i32) -> [u8; ENTRY] {
    (u64::from(number.cast_unsigned()) << 32 | u64::from(pid.cast_unsigned())).to_ne_bytes()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is taken on purpose"
)]
fn unpack(entry: [u8; ENTRY]) -> (i32, i32) {
    let both = u64::from_ne_bytes(entry);
    (
        ((both >> 32) as u32).cast_signed(),
        (both as u32).cast_signed(),
    )
}

/// Holds back signals of this thread until it is dropped.
///
/// A child between fork and exec still has the handlers of its parent: a signal to
/// the whole group would be queued twice. So forks happen with signals held back.
#[derive(Debug)]
pub struct HeldBack {
    before: SigSet,
}

impl HeldBack {
    /// Starts to hold all signals back.
    ///
    /// # Errors
    /// What `pthread_sigmask(3)` returns.
    pub fn start() -> io::Result<Self> {
        Self::those(&SigSet::all())
    }

    /// Starts to hold SIGTTOU back. The kernel then lets a process in the background write
    /// to its terminal, also one that stops such processes (`stty tostop`).
    ///
    /// # Errors
    /// What `pthread_sigmask(3)` returns.
    pub fn for_terminal() -> io::Result<Self> {
        Self::those(&SigSet::from(Signal::SIGTTOU))
    }

    fn those(signals: &SigSet) -> io::Result<Self> {
        Ok(Self {
            before: signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?,
        })
    }
}

/// Lets all signals in: those that the program before has held back, or that the parent
/// has left blocked.
///
/// # Errors
/// What `pthread_sigmask(3)` returns.
pub fn let_signals_in() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
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
        let own = Sender::Process(std::process::id().cast_signed());
        for signal in [Signal::SIGURG, Signal::SIGUSR1, Signal::SIGURG] {
            let sender = own;
            assert_eq!(queue.next().unwrap(), Some(Arrived { signal, sender }));
        }
        assert_eq!(queue.next().unwrap(), None);
    }

    #[test]
    fn a_signal_that_is_held_back_arrives_afterwards() {
        let queue = SignalQueue::install(&[Signal::SIGUSR2]).unwrap();
        let held = HeldBack::start().unwrap();
        signal_hook::low_level::raise(Signal::SIGUSR2 as i32).unwrap();
        assert_eq!(queue.next().unwrap(), None);
        drop(held);
        assert_eq!(
            queue.next().unwrap().map(|arrived| arrived.signal),
            Some(Signal::SIGUSR2)
        );
    }
}
