//! When a drain ends for what still runs: a time that the master may put off.
//!
//! If the whole server did not run for a while, paused with its container, the master gives
//! the time back with a second order. The worker could not tell by itself whether it was
//! stopped, or its application has blocked the event loop. So one that finds itself late
//! waits a moment for the master's word before it ends anything.

/// A deadline that is missed by so many milliseconds may have passed during a pause.
const LATE_MS: u64 = 50;
/// How long the word of the master may take, milliseconds.
const WORD_MS: u64 = 300;

/// The deadline of a drain, on the clock of the scoreboard.
#[derive(Debug, Clone, Copy, Default)]
pub struct DrainDeadline {
    due_ms: u64,
    has_waited: bool,
}

impl DrainDeadline {
    /// Sets it, or puts it off.
    pub fn set(&mut self, now_ms: u64, within_ms: u64) {
        self.due_ms = self.due_ms.max(now_ms.saturating_add(within_ms));
        self.has_waited = false;
    }

    /// Milliseconds after which to look again; `None` if it has come.
    #[must_use]
    pub fn left_ms(&mut self, now_ms: u64) -> Option<u64> {
        if now_ms >= self.due_ms + LATE_MS && !self.has_waited {
            self.has_waited = true;
            self.due_ms = now_ms + WORD_MS;
        }
        self.due_ms
            .checked_sub(now_ms)
            .filter(|left_ms| *left_ms > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_ends_in_time() {
        let mut deadline = DrainDeadline::default();
        deadline.set(1_000, 500);
        assert_eq!(deadline.left_ms(1_499), Some(1));
        assert_eq!(deadline.left_ms(1_500), None);
    }

    #[test]
    fn the_master_may_only_put_it_off() {
        let mut deadline = DrainDeadline::default();
        deadline.set(1_000, 500);
        deadline.set(1_100, 100);
        assert_eq!(deadline.left_ms(1_200), Some(300));
        deadline.set(1_200, 5_000);
        assert_eq!(deadline.left_ms(1_500), Some(4_700));
    }

    #[test]
    fn one_that_is_late_waits_once_for_the_word_of_the_master() {
        let mut deadline = DrainDeadline::default();
        deadline.set(1_000, 500);
        assert_eq!(deadline.left_ms(9_000), Some(WORD_MS));
        let mut told = deadline;
        told.set(9_100, 400);
        assert_eq!(told.left_ms(9_300), Some(200));
        // No word has come, and the loop is late once more.
        assert_eq!(deadline.left_ms(9_900), None);
    }
}
