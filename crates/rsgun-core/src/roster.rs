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
//! Fair is what differs by little: among workers that hold dozens of connections each,
//! some more or fewer do not matter, and a worker under load looks at its listeners only
//! once in a round of its event loop. One connection in each round would make the last
//! of a burst wait for dozens of rounds ([`share`]).
//!
//! Times are milliseconds of `CLOCK_MONOTONIC`, as in the scoreboard.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Seats of a [`Roster`]: the most workers, old and new together, of one master.
pub const SEATS: usize = 1024;
/// Who has missed so many chances in a row is absent.
const CHANCES: u32 = 32;
/// A worker may hold this part of a sibling's connections more: one in so many, but no
/// more than [`AT_A_TIME`].
const TOLERANCE: u32 = 8;
/// How often a worker looks away for each connection that it holds too many, beyond the
/// first, and how often at most before it takes what is still there.
const YIELDS: u32 = 4;
const YIELDS_MAX: u32 = 16;
/// Connections that a worker takes at a time, at most.
pub const AT_A_TIME: u32 = 16;

/// What a worker that is busy whatever it holds reports beside its connections: one that
/// is free comes first, and how many connections they hold decides between two busy ones.
pub const BUSY: u32 = 1 << 20;

/// What a worker does when connections wait at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// It takes up to so many.
    Take(u32),
    /// It looks away for a moment, so that a sibling can take them, but no longer than
    /// until it holds fewer than `below` itself.
    LookAway {
        /// Connections, as the worker reports them.
        below: u32,
    },
}

/// The siblings of a worker, as far as they may take connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// No other worker accepts.
    Nobody,
    /// Those that accept do not come, though they will sooner or later.
    Absent,
    /// What the one reports that holds the fewest.
    Fewest(u32),
}

/// Decides about connections that wait, for a worker that holds `held` and has looked
/// away from them `yields` times; `own` is whether the queue is the worker's as much as
/// anybody's. It takes `at_a_time` at most where somebody else could take the others.
#[must_use]
pub fn share(others: Others, held: u32, own: bool, yields: u32, at_a_time: u32) -> Share {
    let fewest = match others {
        Others::Nobody => return Share::Take(AT_A_TIME),
        Others::Absent => return Share::Take(1),
        Others::Fewest(fewest) => fewest,
    };
    let (fewest, held, burden) = match (fewest.checked_sub(BUSY), held.checked_sub(BUSY)) {
        // With the first it may be as busy as they are.
        (Some(_), None) => return Share::Take(1),
        (Some(fewest), Some(held)) => (fewest, held, BUSY),
        (None, _) => (fewest, held, 0),
    };
    let fair = fewest.saturating_add((fewest / TOLERANCE).min(AT_A_TIME));
    let patience = if held > fair {
        (held - fair - 1)
            .saturating_mul(YIELDS)
            .saturating_add(1)
            .min(YIELDS_MAX)
    } else {
        // The owner of a queue comes first, unless it holds more.
        u32::from(held >= fewest && !own)
    };
    // It takes at once what leaves it with no more than `most`.
    let most = |waited: bool| {
        if own || waited {
            fair.saturating_add(1)
        } else {
            fewest
        }
    };
    if yields < patience {
        return Share::LookAway {
            below: most(false).saturating_add(burden),
        };
    }
    let room = most(yields > 0).saturating_sub(held);
    Share::Take(room.min(at_a_time).max(1))
}

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
    /// The others that are alive since `alive_since_ms`, without those known to be absent.
    #[must_use]
    pub fn others(&self, roster: &Roster, own: u32, alive_since_ms: u64) -> Others {
        let mut others = Others::Nobody;
        for (seat, held, looks) in roster.others(own, alive_since_ms) {
            let known = self.known.get(seat);
            let is_absent = known.is_some_and(|known| known.is_absent(looks));
            others = match (others, is_absent) {
                (Others::Fewest(fewest), true) => Others::Fewest(fewest),
                (_, true) => Others::Absent,
                (Others::Fewest(fewest), false) => Others::Fewest(fewest.min(held)),
                (_, false) => Others::Fewest(held),
            };
        }
        others
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
    fn a_worker_takes_until_it_holds_more_than_a_sibling() {
        use Share::{LookAway, Take};
        let take = |held, fewest| share(Others::Fewest(fewest), held, true, 0, AT_A_TIME);
        // One by one among workers that hold few.
        assert_eq!(take(0, 0), Take(1));
        assert_eq!(take(1, 0), LookAway { below: 1 });
        assert_eq!(take(7, 7), Take(1));
        assert_eq!(take(0, 3), Take(4));
        // Among those that hold many a few make no difference.
        assert_eq!(take(40, 40), Take(6));
        assert_eq!(take(45, 40), Take(1));
        assert_eq!(take(46, 40), LookAway { below: 46 });
        assert_eq!(take(0, 200), Take(AT_A_TIME));
        assert_eq!(take(1017, 1000), LookAway { below: 1017 });
        assert_eq!(take(u32::MAX, u32::MAX), Take(AT_A_TIME));
    }

    #[test]
    fn only_who_is_alone_takes_what_there_is() {
        for at_a_time in [1, AT_A_TIME] {
            let take = |others| share(others, 100, true, 0, at_a_time);
            assert_eq!(take(Others::Nobody), Share::Take(AT_A_TIME));
            assert_eq!(take(Others::Absent), Share::Take(1));
        }
    }

    #[test]
    fn who_takes_one_at_a_time_looks_away_as_often_as_others() {
        for (held, own, yields) in [(0, true, 0), (45, true, 0), (9, false, 0), (46, false, 9)] {
            let decide = |at_a_time| share(Others::Fewest(40), held, own, yields, at_a_time);
            assert!(matches!(decide(AT_A_TIME), Share::Take(_)), "{held}");
            assert_eq!(decide(1), Share::Take(1), "{held}");
        }
        for (held, own, yields) in [(46, true, 0), (40, false, 0), (48, true, 4)] {
            let decide = |at_a_time| share(Others::Fewest(40), held, own, yields, at_a_time);
            assert!(matches!(decide(1), Share::LookAway { .. }), "{held}");
            assert_eq!(decide(1), decide(AT_A_TIME), "{held}");
        }
    }

    #[test]
    fn who_is_free_comes_before_who_is_busy() {
        use Share::{LookAway, Take};
        let take = |held, fewest| share(Others::Fewest(fewest), held, true, 0, AT_A_TIME);
        assert_eq!(take(9, BUSY), Take(1));
        assert_eq!(take(BUSY, 9), LookAway { below: 11 });
        assert_eq!(take(BUSY + 3, BUSY + 3), Take(1));
        let below = BUSY + 4;
        assert_eq!(take(BUSY + 4, BUSY + 3), LookAway { below });
        assert_eq!(take(BUSY, BUSY + 3), Take(4));
    }

    #[test]
    fn the_more_a_worker_holds_the_longer_it_looks_away() {
        let looks = |held, fewest| {
            let others = Others::Fewest(fewest);
            let decide = |yields: &u32| share(others, held, true, *yields, AT_A_TIME);
            (0..=YIELDS_MAX + 1)
                .take_while(|yields| matches!(decide(yields), Share::LookAway { .. }))
                .count()
        };
        assert_eq!(looks(0, 0), 0);
        assert_eq!(looks(1, 0), 1);
        assert_eq!(looks(2, 0), 5);
        assert_eq!(looks(1000, 0), 16);
        assert_eq!(looks(BUSY, 0), 16);
        let at_last = share(Others::Fewest(0), 1000, true, 16, AT_A_TIME);
        assert_eq!(at_last, Share::Take(1));
    }

    #[test]
    fn the_owner_of_a_queue_comes_first_unless_it_holds_more() {
        let other =
            |held, fewest, yields| share(Others::Fewest(fewest), held, false, yields, AT_A_TIME);
        assert_eq!(other(9, 9, 0), Share::LookAway { below: 9 });
        assert_eq!(other(0, 0, 0), Share::LookAway { below: 0 });
        assert_eq!(other(9, 9, 1), Share::Take(2));
        assert_eq!(other(8, 9, 0), Share::Take(1));
        assert_eq!(other(4, 9, 0), Share::Take(5));
    }

    #[test]
    fn only_siblings_that_accept_and_live_count() {
        let roster = roster();
        let siblings = Siblings::default();
        let others = |since| siblings.others(&roster, 0, since);
        assert_eq!(others(0), Others::Nobody);
        roster.report(0, 100, 9);
        roster.report(1, 100, 5);
        roster.report(2, 10, 1);
        assert_eq!(others(50), Others::Fewest(5));
        roster.set_connections(1, 7);
        assert_eq!(others(50), Others::Fewest(7));
        roster.leave(1);
        assert_eq!(others(50), Others::Nobody);
        assert_eq!(others(0), Others::Fewest(1));
    }

    #[test]
    fn a_sibling_that_does_not_come_is_not_waited_for_until_it_looks() {
        let roster = roster();
        let mut siblings = Siblings::default();
        roster.report(0, 100, 9);
        roster.report(1, 100, 5);
        roster.report(2, 100, 6);
        for _ in 0..CHANCES {
            assert_eq!(siblings.others(&roster, 0, 0), Others::Fewest(5));
            roster.look(2);
            siblings.give_chance(&roster, 0);
        }
        assert_eq!(siblings.others(&roster, 0, 0), Others::Fewest(6));
        roster.leave(2);
        assert_eq!(siblings.others(&roster, 0, 0), Others::Absent);
        roster.look(1);
        assert_eq!(siblings.others(&roster, 0, 0), Others::Fewest(5));
        siblings.give_chance(&roster, 0);
        assert_eq!(siblings.others(&roster, 0, 0), Others::Fewest(5));
    }
}
