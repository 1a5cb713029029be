//! What the main thread and the I/O thread tell each other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::reactor::pending::Pending;

/// An order to the I/O thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start to accept.
    Open,
    /// Let each answer end its connection from now on.
    Announce,
    /// Take whoever waits at these listeners, and let the kernel refuse whoever comes later.
    LastCall { retired: Vec<OwnedFd> },
    /// Stop accepting, serve what is there.
    Drain {
        /// Nobody listens any more afterwards: take whoever waits.
        sweep: bool,
        /// Close the listeners at once.
        orphaned: bool,
        /// What WebSockets would be told.
        code: u16,
    },
    /// The same, and close idle connections.
    Quit {
        /// What WebSockets would be told.
        code: u16,
    },
    /// Close everything and end.
    Close,
}

/// Orders on their way to the I/O thread.
#[derive(Debug)]
pub(crate) struct Mailbox {
    commands: Mutex<Vec<Command>>,
    pending: Arc<Pending>,
}

impl Mailbox {
    /// Orders for whom `pending` wakes.
    pub(super) fn new(pending: Arc<Pending>) -> Self {
        Self {
            commands: Mutex::default(),
            pending,
        }
    }

    /// Gives an order.
    pub(super) fn put(&self, command: Command) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(command);
        self.pending.mark();
        self.pending.hurry();
    }

    /// Takes all of them.
    pub(crate) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request that has taken longer than `--request-timeout`, and was answered.
#[derive(Debug)]
pub(crate) struct Overdue {
    /// Method and path.
    pub(crate) request: String,
    pub(crate) age_ms: u64,
    /// The thread that works on it; `None`: it was still in the queue.
    pub(crate) ident: Option<u64>,
}

/// What the I/O thread has to say to the main thread.
#[derive(Debug)]
pub(crate) struct Outbox {
    bell: EventFd,
    news: Mutex<News>,
}

/// What has come up since the last time.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) grow: bool,
    pub(super) ended: bool,
    pub(super) overdue: Vec<Overdue>,
}

impl Outbox {
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            bell: EventFd::from_value_and_flags(0, flags)?,
            news: Mutex::default(),
        })
    }

    /// What becomes readable when there is news.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        // A full counter means that it is ringing.
        let _ = self.bell.write(1);
    }

    /// Takes what there is.
    pub(super) fn take(&self) -> News {
        // Nothing to read means that it was read already.
        let _ = self.bell.read();
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request waits and no thread is idle.
    pub(crate) fn grow(&self) {
        self.tell(|news| news.grow = true);
    }

    /// Serving is over.
    pub(crate) fn drained(&self) {
        self.tell(|news| news.ended = true);
    }

    /// A request has had its time.
    pub(crate) fn overdue(&self, overdue: Overdue) {
        self.tell(|news| news.overdue.push(overdue));
    }
}
