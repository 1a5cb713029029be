//! Time-outs without a busy tick: one timerfd in tokio's epoll for all of them.
//!
//! tokio's own timers fire only while its driver is polled with a time-out, which a
//! driver that is polled without blocking never is. Here the earliest deadline is set
//! on a timerfd, whose readiness ends the event loop's wait like any socket's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;

use super::clock;
use crate::ffi;

thread_local! {
    static DEADLINES: RefCell<Deadlines> = RefCell::new(Deadlines::default());
}

#[derive(Default)]
struct Deadlines {
    waiting: BTreeMap<Key, Waker>,
    next_id: u64,
    timer: Option<TimerFd>,
    /// What the timer is set to.
    armed: Option<u64>,
}

/// When it is due, milliseconds of the reactor's clock, and a number of its own.
type Key = (u64, u64);

/// One user's deadline. It may be moved at no cost: a registration that has become
/// too early only wakes the task once, which then asks again.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    registered: Option<Key>,
}

impl Alarm {
    /// Ready when `when` (milliseconds of the reactor's clock) has come.
    pub(crate) fn poll_at(&mut self, when: u64, cx: &Context<'_>) -> Poll<()> {
        let now = clock::now_ms();
        if now >= when {
            self.cancel();
            return Poll::Ready(());
        }
        match self.registered {
            Some((earlier, _)) if earlier <= when && earlier > now => {}
            _ => {
                self.cancel();
                self.registered =
                    DEADLINES.with_borrow_mut(|all| Some(all.register(when, cx.waker().clone())));
            }
        }
        Poll::Pending
    }

    fn cancel(&mut self) {
        if let Some(key) = self.registered.take() {
            DEADLINES.with_borrow_mut(|all| all.waiting.remove(&key));
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Deadlines {
    fn register(&mut self, when: u64, waker: Waker) -> Key {
        self.next_id += 1;
        let key = (when, self.next_id);
        self.waiting.insert(key, waker);
        self.arm();
        key
    }

    /// Sets the timer to the earliest deadline, if that is not what it is set to.
    fn arm(&mut self) {
        let Some(&(earliest, _)) = self.waiting.keys().next() else {
            return;
        };
        if self.armed.is_some_and(|armed| armed <= earliest) {
            return;
        }
        let Some(timer) = &self.timer else { return };
        let wait = Duration::from_millis(earliest.saturating_sub(clock::now_ms()).max(1));
        let set = timer.set(
            Expiration::OneShot(TimeSpec::from_duration(wait)),
            TimerSetTimeFlags::empty(),
        );
        // A timer of a valid duration is not refused.
        self.armed = set.is_ok().then_some(earliest);
    }

    fn fire(&mut self) -> Vec<Waker> {
        self.armed = None;
        let later = self.waiting.split_off(&(clock::now_ms() + 1, 0));
        let due = std::mem::replace(&mut self.waiting, later);
        self.arm();
        due.into_values().collect()
    }
}

/// Makes the timer of this thread and returns the task that serves it.
///
/// # Errors
/// What `timerfd_create(2)` or `epoll_ctl(2)` return.
pub(crate) fn start() -> io::Result<impl Future<Output = ()>> {
    let timer = TimerFd::new(
        ClockId::CLOCK_MONOTONIC,
        TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
    )?;
    let handle = timer.as_fd().try_clone_to_owned()?;
    DEADLINES.with_borrow_mut(|all| {
        all.timer = Some(timer);
        all.armed = None;
        all.arm();
    });
    let ready = ffi::register(handle, Interest::READABLE)?;
    Ok(async move {
        while let Ok(mut guard) = ready.readable().await {
            // Reading resets the readiness; how often it went off does not matter.
            DEADLINES.with_borrow(|all| {
                let _ = all.timer.as_ref().map(TimerFd::wait);
            });
            guard.clear_ready();
            let due = DEADLINES.with_borrow_mut(Deadlines::fire);
            due.into_iter().for_each(Waker::wake);
        }
    })
}
