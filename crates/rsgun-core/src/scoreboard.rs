//! The scoreboard: what a worker is doing, readable while it hangs.
//!
//! One [`Scoreboard`] belongs to one worker process, not to a slot, since the old
//! and the new worker of a slot live side by side. The worker writes it with
//! relaxed atomics on the hot path; the master reads it for liveness and reports,
//! also when the worker is stuck or dead. What workers tell each other is in the
//! [`crate::roster`].
//!
//! Times are milliseconds of `CLOCK_MONOTONIC`, which all processes share.

use std::sync::atomic::{
    AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence,
};

use nix::time::{ClockId, clock_gettime};

/// How many running requests a scoreboard names; further ones are only counted.
pub const RUNNING: usize = 32;
/// Bytes of a request line that are kept.
pub const LINE_BYTES: usize = 104;
const LINE_WORDS: usize = LINE_BYTES / 8;
/// How often a reader tries to get a consistent request line.
const READ_TRIES: usize = 8;

/// Upper bounds of the latency buckets in microseconds; the last one has none.
pub const LATENCY_BOUNDS_US: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// Milliseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn now_ms() -> u64 {
    // The clock cannot fail on Linux; zero would only look like "long ago".
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1000
            + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}

/// What a worker is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Phase {
    /// Asked for, not yet heard of.
    Starting = 0,
    /// Importing the application.
    Importing = 1,
    /// In the lifespan startup.
    Startup = 2,
    /// Accepting connections.
    Serving = 3,
    /// No longer accepting, answering what was accepted.
    Draining = 4,
    /// In the lifespan shutdown.
    Shutdown = 5,
    /// About to exit.
    Exiting = 6,
}

impl Phase {
    /// The word used in logs and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Importing => "importing",
            Self::Startup => "startup",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Shutdown => "shutdown",
            Self::Exiting => "exiting",
        }
    }

    fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Importing,
            2 => Self::Startup,
            3 => Self::Serving,
            4 => Self::Draining,
            5 => Self::Shutdown,
            6 => Self::Exiting,
            _ => Self::Starting,
        }
    }
}

/// The shared page of one worker. All zero is the initial state, and everything in it is
/// an atomic, as [`Shareable`](crate::sys::shared::Shareable) promises for it.
#[derive(Debug)]
#[repr(C)]
pub struct Scoreboard {
    /// Last time the event loop came round.
    heartbeat_ms: AtomicU64,
    phase: AtomicU32,
    /// Open connections.
    pub connections: AtomicU32,
    /// Connections that are WebSockets.
    pub websockets: AtomicU32,
    /// Requests that the application is working on.
    pub active: AtomicU32,
    /// Requests answered or given up.
    pub requests: AtomicU64,
    /// Bytes read from clients.
    pub bytes_in: AtomicU64,
    /// Bytes written to clients.
    pub bytes_out: AtomicU64,
    /// Answers by class: 1xx to 5xx.
    pub status: [AtomicU64; 5],
    /// Answers by latency; bucket bounds in [`LATENCY_BOUNDS_US`].
    pub latency: [AtomicU64; 16],
    /// Sum of all latencies, microseconds.
    pub latency_sum_us: AtomicU64,
    /// Time in which the event loop was busy, microseconds.
    pub busy_us: AtomicU64,
    /// How late the last heartbeat of the event loop was, microseconds.
    pub loop_lag_us: AtomicU64,
    /// WSGI: requests that wait for a thread.
    pub queued: AtomicU32,
    /// WSGI: threads that run the application.
    pub threads: AtomicU32,
    /// WSGI: those of them that wait for a request.
    pub idle_threads: AtomicU32,
    /// WSGI: requests that have got a thread.
    pub waits: AtomicU64,
    /// WSGI: sum of how long they waited for it, microseconds.
    pub wait_sum_us: AtomicU64,
    running: [Running; RUNNING],
}

/// One running request: a start time, and its line under a sequence lock.
#[derive(Debug)]
#[repr(C)]
struct Running {
    /// When it began; 0 means that the entry is free.
    started_ms: AtomicU64,
    /// Odd while the line is being written.
    sequence: AtomicU32,
    length: AtomicU32,
    line: [AtomicU64; LINE_WORDS],
}

/// A request in flight as the scoreboard shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningRequest {
    /// When it began, milliseconds of `CLOCK_MONOTONIC`.
    pub started_ms: u64,
    /// Method and target, cut at [`LINE_BYTES`]; `None` when it was being written.
    pub line: Option<String>,
}

impl Scoreboard {
    /// Says that the event loop has come round.
    pub fn beat(&self, now_ms: u64) {
        self.heartbeat_ms.store(now_ms, Relaxed);
    }

    /// When the event loop last came round; 0 before the first time.
    #[must_use]
    pub fn heartbeat_ms(&self) -> u64 {
        self.heartbeat_ms.load(Relaxed)
    }

    /// Announces a phase; call it only when it is true.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Release);
    }

    /// The announced phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::from_u32(self.phase.load(Acquire))
    }

    /// Counts an answer.
    pub fn count(&self, status: u16, latency_us: u64) {
        let class = usize::from(status / 100).saturating_sub(1).min(4);
        add(&self.status[class], 1);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < latency_us);
        add(&self.latency[bucket], 1);
        add(&self.latency_sum_us, latency_us);
        add(&self.requests, 1);
    }

    /// Counts a request that has got a thread after so many microseconds.
    pub fn count_wait(&self, waited_us: u64) {
        add(&self.waits, 1);
        add(&self.wait_sum_us, waited_us);
    }

    /// Notes a running request in entry `index`; the entry must be free.
    pub fn begin(&self, index: usize, now_ms: u64, method: &[u8], target: &[u8]) {
        let Some(entry) = self.running.get(index) else {
            return;
        };
        let mut text = [0_u8; LINE_BYTES];
        let mut length = 0;
        for part in [method, b" ", target] {
            let take = part.len().min(LINE_BYTES - length);
            text[length..length + take].copy_from_slice(&part[..take]);
            length += take;
        }
        let sequence = entry.sequence.load(Relaxed);
        entry.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        let (words, _) = text.as_chunks::<8>();
        for (word, chunk) in entry.line.iter().zip(&words[..length.div_ceil(8)]) {
            word.store(u64::from_le_bytes(*chunk), Relaxed);
        }
        entry
            .length
            .store(u32::try_from(length).unwrap_or(0), Relaxed);
        entry.started_ms.store(now_ms.max(1), Relaxed);
        entry.sequence.store(sequence.wrapping_add(2), Release);
    }

    /// Frees entry `index`.
    pub fn end(&self, index: usize) {
        if let Some(entry) = self.running.get(index) {
            entry.started_ms.store(0, Relaxed);
        }
    }

    /// The requests in flight, oldest first, at most [`RUNNING`].
    #[must_use]
    pub fn running(&self) -> Vec<RunningRequest> {
        let mut list: Vec<RunningRequest> = self.running.iter().filter_map(Running::read).collect();
        list.sort_by_key(|request| request.started_ms);
        list
    }
}

impl Running {
    fn read(&self) -> Option<RunningRequest> {
        let mut started_ms = self.started_ms.load(Relaxed);
        if started_ms == 0 {
            return None;
        }
        for _ in 0..READ_TRIES {
            let before = self.sequence.load(Acquire);
            let length = usize::try_from(self.length.load(Relaxed))
                .unwrap_or(0)
                .min(LINE_BYTES);
            started_ms = self.started_ms.load(Relaxed);
            let mut text = Vec::with_capacity(LINE_BYTES);
            for word in &self.line {
                text.extend_from_slice(&word.load(Relaxed).to_le_bytes());
            }
            fence(Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Relaxed) == before {
                if started_ms == 0 {
                    return None;
                }
                text.truncate(length);
                let line = String::from_utf8_lossy(&text).escape_debug().to_string();
                return Some(RunningRequest {
                    started_ms,
                    line: Some(line),
                });
            }
        }
        Some(RunningRequest {
            started_ms,
            line: None,
        })
    }
}

/// For how long, of the time between two heartbeats, an event loop counts as busy: while
/// it computes, and all of the time if it `is_late` for its timers.
#[must_use]
pub fn busy_us(elapsed_us: u64, worked_us: u64, is_late: bool) -> u64 {
    if is_late {
        elapsed_us
    } else {
        // Several threads may have worked at once.
        worked_us.min(elapsed_us)
    }
}

/// Adds to a counter that has one writer: a load and a store are cheaper than a
/// locked instruction, and no other writer can be lost.
pub fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shared::Shared;
    use std::os::fd::AsFd;

    fn board() -> Shared<Scoreboard> {
        Shared::create(c"test").unwrap()
    }

    #[test]
    fn a_second_mapping_sees_what_the_first_writes() {
        let ours = board();
        let theirs: Shared<Scoreboard> =
            Shared::open(ours.file().try_clone_to_owned().unwrap()).unwrap();
        theirs.set_phase(Phase::Serving);
        theirs.begin(3, 77, b"GET", b"/slow?x=1");
        theirs.count(204, 700);
        assert_eq!(ours.phase(), Phase::Serving);
        assert_eq!(
            ours.running(),
            [RunningRequest {
                started_ms: 77,
                line: Some("GET /slow?x=1".into())
            }]
        );
        assert_eq!(ours.status[1].load(Relaxed), 1);
        assert_eq!(ours.latency[1].load(Relaxed), 1);
        theirs.end(3);
        assert!(ours.running().is_empty());
    }

    #[test]
    fn a_worker_cannot_shrink_what_the_master_reads() {
        let ours = board();
        let copy = ours.file().as_fd().try_clone_to_owned().unwrap();
        assert!(nix::unistd::ftruncate(&copy, 0).is_err());
        assert_eq!(ours.phase(), Phase::Starting);
    }

    #[test]
    fn an_unsealed_file_is_refused() {
        let file =
            nix::sys::memfd::memfd_create(c"x", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&file, 1 << 20).unwrap();
        assert!(Shared::<Scoreboard>::open(file).is_err());
    }

    #[test]
    fn a_reader_gives_up_on_a_line_that_never_settles() {
        let ours = board();
        ours.begin(0, 5, b"GET", b"/");
        ours.running[0].sequence.store(7, Relaxed);
        assert_eq!(
            ours.running(),
            [RunningRequest {
                started_ms: 5,
                line: None
            }]
        );
    }

    #[test]
    fn a_long_or_hostile_line_is_cut_and_escaped() {
        let ours = board();
        ours.begin(0, 1, b"GET", &[b'a'; 500]);
        ours.begin(1, 2, b"GET", b"/\x1b[2J\n");
        let lines: Vec<_> = ours.running().into_iter().filter_map(|r| r.line).collect();
        assert_eq!(lines[0].len(), LINE_BYTES);
        assert_eq!(lines[1], "GET /\\u{1b}[2J\\n");
    }

    #[test]
    fn a_loop_is_busy_when_it_computes_or_comes_late() {
        assert_eq!(busy_us(100_000, 30_000, false), 30_000);
        assert_eq!(busy_us(100_000, 250_000, false), 100_000);
        assert_eq!(busy_us(350_000, 0, true), 350_000);
    }
}
