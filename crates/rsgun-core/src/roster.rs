//! The roster: what the workers tell each other, so that they share connections fairly.
//!
//! All workers write into one [`Roster`], each into its own seat: that it accepts and
//! is alive, how many connections it holds, and how often it has looked for new ones.
//! [`Siblings`] is what one worker makes of it when a connection waits: is there another
//! one that holds fewer and would take it?
//!
//! A sibling that is blocked (a sleep in an `async` function, a long computation) holds
//! few connections and still has a fresh sign of life. So whoever does not come when it
//! is given chances is not waited for any more until it has been seen to look: it costs
//! some moments in all, not one for each connection. They are enough for a sibling that
//! is only waiting for a processor.
//!
//! Times are milliseconds of `CLOCK_MONOTONIC`, as in the scoreboard.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Seats of a [`Roster`]: the most workers, old and new together, of one master.
pub const SEATS: usize = 1024;
/// Who has missed so many chances in a row is absent.
const CHANCES: u32 = 32;

/// What each worker tells its siblings. All zero is the initial state, and everything in
/// it is an atomic, as [`Shareable`](crate::sys::shared::Shareable) promises for it.
#[derive(Debug)]
#[repr(C)]
pub struct Roster {
    seats: [Seat; SEATS],
    /// No seat at or above this number was ever taken.
    limit: AtomicU32,
}

/// One worker's line in the roster, a cache line of its own.
#[derive(Debug)]
#[repr(C, align(64))]
struct Seat {
    /// Last sign of life while accepting; 0: not accepting.
    alive_ms: AtomicU64,
    connections: AtomicU32,
    /// How often it has looked for new connections; wraps around.
    looks: AtomicU32,
}

impl Roster {
    /// A worker reports: it accepts, it is alive, it holds so many connections.
    pub fn report(&self, seat: u32, now_ms: u64, connections: u32) {
        if let Some(entry) = self.seat(seat) {
            entry.connections.store(connections, Relaxed);
            entry.alive_ms.store(now_ms.max(1), Relaxed);
            self.limit.fetch_max(seat + 1, Relaxed);
        }
    }

    /// A worker has accepted or closed a connection.
    pub fn set_connections(&self, seat: u32, connections: u32) {
        if let Some(entry) = self.seat(seat) {
            entry.connections.store(connections, Relaxed);
        }
    }

    /// A worker looks for new connections at this moment.
    pub fn look(&self, seat: u32) {
        if let Some(entry) = self.seat(seat) {
            // Its only writer is the worker that has the seat.
            let looks = entry.looks.load(Relaxed).wrapping_add(1);
            entry.looks.store(looks, Relaxed);
        }
    }

    /// A seat no longer accepts: its worker drains or is dead.
    pub fn leave(&self, seat: u32) {
        if let Some(entry) = self.seat(seat) {
            entry.alive_ms.store(0, Relaxed);
        }
    }

    /// The others that accept and have shown themselves alive since `alive_since_ms`:
    /// seat, connections, looks.
    fn others(&self, seat: u32, alive_since_ms: u64) -> impl Iterator<Item = (usize, u32, u32)> {
        let limit = usize::try_from(self.limit.load(Relaxed))
            .unwrap_or(SEATS)
            .min(SEATS);
        let own = usize::try_from(seat).unwrap_or(SEATS);
        self.seats[..limit]
            .iter()
            .enumerate()
            .filter(move |(index, entry)| {
                let alive = entry.alive_ms.load(Relaxed);
                *index != own && alive != 0 && alive >= alive_since_ms
            })
            .map(|(index, entry)| {
                let looks = entry.looks.load(Relaxed);
                (index, entry.connections.load(Relaxed), looks)
            })
    }

    fn seat(&self, seat: u32) -> Option<&Seat> {
        self.seats.get(usize::try_from(seat).ok()?)
    }
}

/// What one worker knows of its siblings.
#[derive(Debug, Default)]
pub struct Siblings {
    known: Vec<Known>,
}

/// A sibling when it was last given a chance.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    looks: u32,
    /// Chances since it has looked.
    missed: u32,
}

impl Known {
    fn is_absent(self, looks: u32) -> bool {
        self.looks == looks && self.missed >= CHANCES
    }
}

impl Siblings {
    /// The fewest connections that any sibling holds which is alive since
    /// `alive_since_ms` and not known to be absent; `None` when there is no such one.
    #[must_use]
    pub fn fewest(&self, roster: &Roster, own: u32, alive_since_ms: u64) -> Option<u32> {
        roster
            .others(own, alive_since_ms)
            .filter(|(seat, _, looks)| {
                let known = self.known.get(*seat);
                !known.is_some_and(|known| known.is_absent(*looks))
            })
            .map(|(_, connections, _)| connections)
            .min()
    }

    /// The siblings get a chance to take a connection.
    pub fn give_chance(&mut self, roster: &Roster, own: u32) {
        for (seat, _, looks) in roster.others(own, 0) {
            if self.known.len() <= seat {
                self.known.resize(seat + 1, Known::default());
            }
            let known = &mut self.known[seat];
            if known.looks == looks {
                known.missed = known.missed.saturating_add(1);
            } else {
                *known = Known { looks, missed: 0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shared::Shared;

    fn roster() -> Shared<Roster> {
        Shared::create(c"test").unwrap()
    }

    #[test]
    fn only_siblings_that_accept_and_live_count() {
        let roster = roster();
        let siblings = Siblings::default();
        let fewest = |since| siblings.fewest(&roster, 0, since);
        assert_eq!(fewest(0), None);
        roster.report(0, 100, 9);
        roster.report(1, 100, 5);
        roster.report(2, 10, 1);
        assert_eq!(fewest(50), Some(5));
        roster.set_connections(1, 7);
        assert_eq!(fewest(50), Some(7));
        roster.leave(1);
        assert_eq!(fewest(50), None);
        assert_eq!(fewest(0), Some(1));
    }

    #[test]
    fn a_sibling_that_does_not_come_is_not_waited_for_until_it_looks() {
        let roster = roster();
        let mut siblings = Siblings::default();
        roster.report(0, 100, 9);
        roster.report(1, 100, 5);
        roster.report(2, 100, 6);
        for _ in 0..CHANCES {
            assert_eq!(siblings.fewest(&roster, 0, 0), Some(5));
            roster.look(2);
            siblings.give_chance(&roster, 0);
        }
        assert_eq!(siblings.fewest(&roster, 0, 0), Some(6));
        roster.look(1);
        assert_eq!(siblings.fewest(&roster, 0, 0), Some(5));
        siblings.give_chance(&roster, 0);
        assert_eq!(siblings.fewest(&roster, 0, 0), Some(5));
    }
}
