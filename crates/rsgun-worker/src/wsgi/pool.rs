//! The queue between the I/O thread and the Python threads.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use pyo3::Python;

use crate::asgi::exchange::SharedExchange;
use crate::http::handover::Offer;
use crate::reactor::clock;
use crate::reactor::pending::Pending;
use crate::reactor::queue::ServerAddress;

/// A request that is complete, on its way to the application.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its number among the requests in flight.
    pub(crate) entry: usize,
    pub(crate) parts: http::request::Parts,
    pub(crate) exchange: SharedExchange,
    /// Address of the client; `None` on a UNIX socket.
    pub(crate) client: Option<SocketAddr>,
    pub(crate) server: ServerAddress,
    pub(crate) body: Body,
    /// The application may take the connection.
    pub(crate) offer: Option<Offer>,
    /// When it was queued, microseconds.
    pub(crate) queued_us: u64,
}

/// A request body.
#[derive(Debug)]
pub(crate) enum Body {
    /// In memory.
    Memory(Bytes),
    /// On disk, with its length.
    Disk(std::fs::File, u64),
}

impl Body {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk(_, length) => *length,
        }
    }
}

/// A request that the application is through with.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) entry: usize,
    pub(crate) status: StatusCode,
    /// How long it waited for a thread, microseconds.
    pub(crate) waited_us: u64,
}

/// A request that a Python thread is working on.
#[derive(Debug)]
struct Working {
    entry: usize,
    /// `threading.get_ident()`.
    ident: u64,
    /// The application may take its connection.
    offered: Option<SharedExchange>,
}

/// The queue and what is known about the threads.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    ready: Condvar,
    /// The waker of the I/O thread.
    pub(crate) pending: Arc<Pending>,
    finished: Mutex<Vec<Finished>>,
    /// Counts everything that a Python thread gets done.
    progress: AtomicU64,
    /// Threads that wait for a client to take what it has asked for, or for the disk that
    /// is to keep it.
    held_up: AtomicUsize,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that wait for a job.
    idle: usize,
    /// Threads that there are, or are being started.
    threads: usize,
    working: Vec<Working>,
    /// The I/O thread is rung when so many jobs are left.
    ring_at: usize,
    stopping: bool,
}

/// How the pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) queued: usize,
    pub(crate) threads: usize,
    pub(crate) idle: usize,
    /// When the first job in the queue was queued, microseconds.
    pub(crate) oldest_us: Option<u64>,
}

impl Pool {
    /// A pool of at most `most` threads.
    pub(crate) fn new(most: usize, pending: Arc<Pending>) -> Self {
        Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            pending,
            finished: Mutex::default(),
            progress: AtomicU64::new(0),
            held_up: AtomicUsize::new(0),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === the I/O thread's side ===

    /// Queues jobs, and wakes threads that are idle.
    pub(crate) fn push(&self, jobs: &mut Vec<Job>) {
        let mut state = self.lock();
        state.queue.extend(jobs.drain(..));
        state.ring_at = state.queue.len() / 2;
        let wake = state.queue.len().min(state.idle);
        drop(state);
        for _ in 0..wake {
            self.ready.notify_one();
        }
    }

    /// Takes what the threads are through with.
    pub(crate) fn take_finished(&self) -> Vec<Finished> {
        std::mem::take(&mut *self.finished.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn standing(&self) -> Standing {
        let state = self.lock();
        Standing {
            queued: state.queue.len(),
            threads: state.threads,
            idle: state.idle,
            oldest_us: state.queue.front().map(|job| job.queued_us),
        }
    }

    /// Whether there may be more threads than there are.
    pub(crate) fn may_grow(&self, standing: &Standing) -> bool {
        standing.threads < self.most
    }

    /// The thread that works on a request.
    pub(crate) fn thread_of(&self, entry: usize) -> Option<u64> {
        let state = self.lock();
        let working = state.working.iter().find(|each| each.entry == entry);
        working.map(|each| each.ident)
    }

    // === the main thread's side ===

    /// How many threads to start now: one for each job that finds none idle.
    pub(crate) fn grow(&self) -> usize {
        let mut state = self.lock();
        let wanted = state.queue.len().saturating_sub(state.idle);
        let more = wanted.min(self.most - state.threads.min(self.most));
        state.threads += more;
        more
    }

    /// The first thread, which is there from the start.
    pub(crate) fn begin(&self) {
        self.lock().threads += 1;
    }

    /// A thread could not be started, or has ended.
    pub(crate) fn lost_thread(&self) {
        let mut state = self.lock();
        state.threads = state.threads.saturating_sub(1);
    }

    /// Sends idle threads home; jobs that are still queued are dropped.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        drop(dropped);
        self.ready.notify_all();
    }

    /// Waits until all threads have gone home, for a moment at most; `false` if some have
    /// not.
    pub(crate) fn wait_for_end(&self, patience: std::time::Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .ready
            .wait_timeout_while(state, patience, |state| state.threads > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.threads == 0
    }

    /// What is worked on, and a number that differs when anything has got done since.
    pub(crate) fn progress(&self) -> (usize, u64) {
        (self.lock().working.len(), self.progress.load(Relaxed))
    }

    /// How many threads have a connection to themselves.
    pub(crate) fn taken(&self) -> usize {
        let state = self.lock();
        let offered = state.working.iter().filter_map(|it| it.offered.as_ref());
        offered.filter(|exchange| exchange.is_handed_over()).count()
    }

    /// How many threads wait for their clients: the application is not to blame for that.
    pub(crate) fn held_up(&self) -> usize {
        self.held_up.load(Relaxed)
    }

    // === a Python thread's side ===

    /// Takes the next job, waiting for one if need be; `None` when the thread is to end.
    ///
    /// A thread that waits has the interpreter's lock again before it takes a job: one
    /// that only waits for the lock must not keep a job from those that have it.
    pub(crate) fn next(&self, py: Python<'_>, ident: u64) -> Option<Job> {
        loop {
            let mut state = self.lock();
            if state.stopping {
                state.threads = state.threads.saturating_sub(1);
                drop(state);
                self.ready.notify_all();
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                let left = state.queue.len();
                let is_half = left > 0 && left == state.ring_at;
                let entry = job.entry;
                let offered = job.offer.as_ref().map(|_| Arc::clone(&job.exchange));
                state.working.push(Working {
                    entry,
                    ident,
                    offered,
                });
                drop(state);
                self.progress.fetch_add(1, Relaxed);
                if is_half {
                    self.pending.hurry();
                } else {
                    self.pending.announce();
                }
                return Some(job);
            }
            drop(state);
            self.pending.hurry();
            py.detach(|| self.wait());
        }
    }

    fn wait(&self) {
        let mut state = self.lock();
        state.idle += 1;
        while state.queue.is_empty() && !state.stopping {
            state = self
                .ready
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.idle -= 1;
    }

    /// Waits for a client, or for the disk.
    pub(crate) fn while_held_up(&self, wait: impl FnOnce()) {
        self.held_up.fetch_add(1, Relaxed);
        wait();
        self.note_progress();
        self.held_up.fetch_sub(1, Relaxed);
    }

    /// Something has got done.
    pub(crate) fn note_progress(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    /// The thread is through with a request.
    pub(crate) fn finish(&self, job: usize, status: StatusCode, queued_us: u64, called_us: u64) {
        self.lock().working.retain(|each| each.entry != job);
        self.finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Finished {
                entry: job,
                status,
                waited_us: called_us.saturating_sub(queued_us),
            });
        self.pending.mark();
    }
}

/// What the clock says now, microseconds.
pub(crate) fn now_us() -> u64 {
    clock::refresh()
}
