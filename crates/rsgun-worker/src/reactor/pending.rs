//! The waker of all connections: "somebody has something to do".
//!
//! Nearly all wakes come from the reactor's own thread, which looks at the flag before
//! it gives up control. A thread of the application that lets go of a request wakes
//! too: it rings a bell, an eventfd that the event loop watches.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Wake;
use std::thread::{self, ThreadId};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// The flag and the bell.
pub(super) struct Pending {
    set: AtomicBool,
    rung: AtomicBool,
    bell: EventFd,
    home: ThreadId,
}

impl Pending {
    /// Makes the waker of the reactor of this thread.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            set: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            bell: EventFd::from_value_and_flags(0, flags)?,
            home: thread::current().id(),
        })
    }

    /// Whether a connection was woken since [`Self::clear`].
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Relaxed)
    }

    /// Forgets earlier wakes.
    pub(super) fn clear(&self) {
        self.set.store(false, Relaxed);
    }

    /// The number of the descriptor that other threads make readable.
    pub(super) fn bell(&self) -> RawFd {
        self.bell.as_fd().as_raw_fd()
    }

    /// Makes the bell ready for the next ring.
    pub(super) fn answer_bell(&self) {
        if self.rung.load(Relaxed) {
            self.rung.store(false, Relaxed);
            // Nothing to read means that it was answered already.
            let _ = self.bell.read();
        }
    }
}

impl Wake for Pending {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set.store(true, Relaxed);
        if thread::current().id() != self.home {
            self.rung.store(true, Relaxed);
            // A full counter means that it is ringing.
            let _ = self.bell.write(1);
        }
    }
}
