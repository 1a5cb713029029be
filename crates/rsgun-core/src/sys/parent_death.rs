//! A process that must not outlive its parent, even when it hangs.
//!
//! A worker learns from its channel that the master is gone, but one that hangs reads
//! nothing. So the kernel is asked for a signal at the death of the parent
//! (`PR_SET_PDEATHSIG`). Its native handler sees to it that no new client arrives, and
//! starts two timers that were made before. The first leaves the process the time to take
//! who waits and to shut the listeners down; the handler then does it, so that a new
//! master can bind their addresses. The second ends the process with SIGKILL. Nothing of
//! it needs the interpreter.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Pid, getpid, getppid};

use super::handshakes;

/// Listeners that the handler can shut down; a worker with more keeps the rest until
/// it reads the end of its channel.
const LISTENERS_MAX: usize = 64;
/// No descriptor, and no process.
const NONE: i32 = -1;
/// After so many milliseconds nobody listens any more.
const SHUT_MS: i64 = 400;

/// The timers, for the handler, once [`TIMERS_OF`] is this process: a fork has none of
/// those of its parent. They are opaque numbers in the shape of a pointer, and zero is a
/// valid one.
static SHUT_TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
static KILL_TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
static TIMERS_OF: AtomicI32 = AtomicI32::new(0);
/// The handler has seen the death.
static ORPHANED: AtomicBool = AtomicBool::new(false);
/// How long the process is given, milliseconds.
static GRACE_MS: AtomicI64 = AtomicI64::new(0);
/// Whose death it is about.
static PARENT: AtomicI32 = AtomicI32::new(0);
/// Who may become the parent without anything being wrong.
static HEIR: AtomicI32 = AtomicI32::new(NONE);
/// What the handler shuts down.
static LISTENERS: [AtomicI32; LISTENERS_MAX] = [const { AtomicI32::new(NONE) }; LISTENERS_MAX];

/// Gives this process `grace` to end by itself once `parent` has died; then it is
/// killed. Returns `false`, having done nothing, when `parent` is not the parent yet,
/// or not any more.
///
/// Call it after any change of user, which would take the request back.
///
/// # Errors
/// What `timer_create(2)`, `sigaction(2)` or `prctl(2)` return.
pub fn limit(parent: Pid, heir: Option<Pid>, grace: Duration) -> io::Result<bool> {
    // Asking while an intermediate process is the parent would ask for its death.
    if getppid() != parent {
        return Ok(false);
    }
    PARENT.store(parent.as_raw(), Ordering::Relaxed);
    HEIR.store(heir.map_or(NONE, Pid::as_raw), Ordering::Relaxed);
    let milliseconds = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX).max(1);
    GRACE_MS.store(milliseconds, Ordering::Relaxed);
    let signal = libc::SIGRTMAX() - 1;
    let own = getpid().as_raw();
    if TIMERS_OF.load(Ordering::Relaxed) != own {
        SHUT_TIMER.store(make_timer(signal)?, Ordering::Relaxed);
        KILL_TIMER.store(make_timer(libc::SIGKILL)?, Ordering::Relaxed);
        TIMERS_OF.store(own, Ordering::Release);
    }
    // SAFETY: an all-zero sigaction is valid; the handler only uses atomics and calls
    // getpid, getppid, setsockopt, shutdown and timer_settime, all of which are
    // async-signal-safe, and puts errno back, which these set.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_parent_death as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == -1 {
            return Err(io::Error::last_os_error());
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, signal) == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // It may have died just before the request.
    Ok(getppid() == parent)
}

/// Whether the process has the parent that it had at first, or its heir.
pub fn is_provided_for() -> bool {
    let parent = getppid().as_raw();
    parent == PARENT.load(Ordering::Relaxed) || parent == HEIR.load(Ordering::Relaxed)
}

/// Names the listeners that the handler shuts down; they must stay open until
/// [`forget_listeners`]. Inherited sockets do not belong here: they are others' too.
pub fn watch_listeners(listeners: &[BorrowedFd<'_>]) {
    for (entry, listener) in LISTENERS.iter().zip(listeners) {
        entry.store(listener.as_raw_fd(), Ordering::Relaxed);
    }
}

/// The listeners are about to be closed: their numbers will be others'.
pub fn forget_listeners() {
    for entry in &LISTENERS {
        entry.store(NONE, Ordering::Relaxed);
    }
}

fn make_timer(signal: libc::c_int) -> io::Result<*mut libc::c_void> {
    let mut timer = MaybeUninit::uninit();
    // SAFETY: an all-zero sigevent is valid, and the kernel fills in the timer when the
    // call succeeds.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr()) == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(timer.assume_init())
    }
}

extern "C" fn on_parent_death(_: libc::c_int) {
    // The signal can be anybody's.
    if is_provided_for() {
        return;
    }
    let errno = Errno::last_raw();
    let first = !ORPHANED.swap(true, Ordering::Relaxed);
    for entry in &LISTENERS {
        let number = entry.load(Ordering::Relaxed);
        if number == NONE {
            continue;
        }
        if first {
            handshakes::attach(number);
        } else {
            // SAFETY: acts on a socket that is open as long as it is listed here.
            unsafe { libc::shutdown(number, libc::SHUT_RDWR) };
        }
    }
    if first && TIMERS_OF.load(Ordering::Acquire) == getpid().as_raw() {
        start_timer(&SHUT_TIMER, SHUT_MS);
        start_timer(&KILL_TIMER, GRACE_MS.load(Ordering::Relaxed));
    }
    Errno::set_raw(errno);
}

fn start_timer(timer: &AtomicPtr<libc::c_void>, milliseconds: i64) {
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = libc::itimerspec {
        it_interval: zero,
        it_value: libc::timespec {
            tv_sec: milliseconds / 1000,
            tv_nsec: (milliseconds % 1000) * 1_000_000,
        },
    };
    let timer = timer.load(Ordering::Relaxed);
    // SAFETY: the timer was made by `make_timer` and is never deleted; the call is
    // async-signal-safe. There is nothing to do about an error in here.
    unsafe {
        libc::timer_settime(timer, 0, &raw const value, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handler_leaves_no_trace_in_what_it_interrupts() {
        // No descriptor has this number: shutting it down fails, and sets errno.
        LISTENERS[0].store(i32::MAX, Ordering::Relaxed);
        assert!(!is_provided_for());
        for _ in 0..2 {
            Errno::set_raw(libc::EXDEV);
            on_parent_death(0);
            assert_eq!(Errno::last(), Errno::EXDEV);
        }
        forget_listeners();
    }
}
