//! The clock of the reactor: read a few times a turn, not for every use.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

thread_local! {
    static NOW_US: Cell<u64> = const { Cell::new(0) };
}

/// Reads the clock and keeps what it says; returns it in microseconds.
pub(crate) fn refresh() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    let now = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    NOW_US.set(now);
    now
}

/// What the clock said when it was last read, microseconds.
pub(crate) fn now_us() -> u64 {
    NOW_US.get()
}

/// The same in milliseconds.
pub(crate) fn now_ms() -> u64 {
    NOW_US.get() / 1000
}
