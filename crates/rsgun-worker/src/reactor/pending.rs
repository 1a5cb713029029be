//! The waker of all connections: "somebody has something to do".
//!
//! Wakes from the thread of the connections are seen before it gives up control. Other
//! threads ring a bell, an eventfd that it waits for, unless it is awake. It may also
//! *doze*: it will look by itself within a moment, and is only to be rung when there
//! is nothing else to do. A thread that *defers* decides itself when to ring for what
//! it has woken.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::AcqRel, Ordering::SeqCst};
use std::task::Wake;
use std::thread::{self, ThreadId};

use nix::sys::eventfd::{EfdFlags, EventFd};

thread_local! {
    /// This thread rings by itself.
    static DEFERS: Cell<bool> = const { Cell::new(false) };
}

/// How much the thread of the connections hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Sleep {
    /// It is at work and looks at the flag before it sleeps.
    Awake = 0,
    /// It looks within a moment.
    Dozing = 1,
    /// Only the bell wakes it.
    Asleep = 2,
}

/// The flag and the bell.
#[derive(Debug)]
pub(crate) struct Pending {
    set: AtomicBool,
    /// Somebody rings, or has rung: one is enough.
    rung: AtomicBool,
    sleep: AtomicU8,
    bell: EventFd,
    home: ThreadId,
}

impl Pending {
    /// Makes the waker of the connections of this thread. Until it says otherwise, the
    /// thread counts as asleep whenever another one wakes it.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            set: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            sleep: AtomicU8::new(Sleep::Asleep as u8),
            bell: EventFd::from_value_and_flags(0, flags)?,
            home: thread::current().id(),
        })
    }

    /// Whether somebody was woken since [`Self::clear`].
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(SeqCst)
    }

    /// Forgets earlier wakes.
    pub(super) fn clear(&self) {
        self.set.store(false, SeqCst);
    }

    /// The descriptor that other threads make readable.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Makes the bell ready for the next ring: whenever it was found readable, and only
    /// then. Who has begun to ring may be heard late; that the flag says so already does
    /// not mean that there is anything to read.
    pub(crate) fn answer_bell(&self) {
        // Nothing to read means that it was answered already.
        let _ = self.bell.read();
        // Who has found it ringing until now is seen with what follows.
        self.rung.swap(false, AcqRel);
    }

    // === sleeping ===

    /// The thread of the connections is about to sleep, or awake again. Returns whether
    /// it was woken meanwhile, and must not sleep.
    pub(crate) fn set_sleep(&self, sleep: Sleep) -> bool {
        // Either the other thread sees this, or this sees the other's flag.
        self.sleep.store(sleep as u8, SeqCst);
        self.is_set()
    }

    /// From now on this thread wakes without ringing; see [`Self::announce`] and
    /// [`Self::hurry`].
    pub(crate) fn defer() {
        DEFERS.set(true);
    }

    /// Rings for what was woken, if only that would be heard.
    pub(crate) fn announce(&self) {
        if self.sleep.load(SeqCst) == Sleep::Asleep as u8 && self.is_set() {
            self.ring();
        }
    }

    /// Rings for what was woken, unless the thread of the connections is at work.
    pub(crate) fn hurry(&self) {
        if self.sleep.load(SeqCst) != Sleep::Awake as u8 && self.is_set() {
            self.ring();
        }
    }

    /// Says that there is something to do for the thread of the connections itself.
    pub(crate) fn mark(&self) {
        self.set.store(true, SeqCst);
    }

    fn ring(&self) {
        if !self.rung.swap(true, AcqRel) {
            // A full counter means that it is ringing.
            let _ = self.bell.write(1);
        }
    }
}

impl Wake for Pending {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mark();
        if !DEFERS.get() && thread::current().id() != self.home {
            self.announce();
        }
    }
}
