//! The status as one JSON document: what the control socket answers with, and what
//! `rsgunctl` reads.
//!
//! Times are in seconds, counted back from the moment of the answer, so that nobody has
//! to compare clocks. New fields may come with any version; readers ignore those that
//! they do not know.

use serde::{Deserialize, Serialize};

/// The state of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the master.
    pub version: String,
    /// The process id of the master.
    pub pid: u32,
    /// `--name`, or the application.
    pub name: String,
    /// How long the master has run.
    pub uptime_s: f64,
    /// What the server is in the middle of.
    pub phase: Phase,
    /// Why it serves with less than it should, one sentence each; empty if it does not.
    pub degraded: Vec<String>,
    /// The generation that new workers come from.
    pub generation: u32,
    /// How many workers there should be.
    pub workers_wanted: u32,
    /// How many slots have a worker that serves.
    pub workers_serving: u32,
    /// Where it listens.
    pub listeners: Vec<String>,
    /// The places for workers.
    pub slots: Vec<Slot>,
    /// All worker processes, also those that start or drain.
    pub workers: Vec<Worker>,
    /// What all workers have done, those that have ended included.
    pub totals: Totals,
    /// The last reload that is over.
    pub last_reload: Option<Renewal>,
    /// The last upgrade that is over. One that was complete is the last reload as well.
    #[serde(default)]
    pub last_upgrade: Option<Renewal>,
}

/// The document that a client gets: the state, and what follows from it.
#[derive(Debug, Serialize)]
pub(crate) struct Answer<'a> {
    /// [`Status::is_ready`].
    ready: bool,
    #[serde(flatten)]
    status: &'a Status,
}

impl<'a> From<&'a Status> for Answer<'a> {
    fn from(status: &'a Status) -> Self {
        Self {
            ready: status.is_ready(),
            status,
        }
    }
}

impl Status {
    /// Whether to send requests to the server: it serves, means to go on, and has a
    /// worker to do so.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self.phase {
            // The phase tells what the server means to do, which it also does while it
            // has no worker.
            Phase::Serving | Phase::Degraded | Phase::Reloading => self.workers_serving > 0,
            Phase::Booting | Phase::Draining | Phase::Stopping => false,
        }
    }
}

/// What a server is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No worker has been ready yet.
    Booting,
    /// It serves, and knows of no trouble.
    Serving,
    /// Workers are missing that cannot be started, or keep dying.
    Degraded,
    /// A new generation is on its way.
    Reloading,
    /// It was told to stop, and goes on for `--drain-delay`.
    Draining,
    /// It finishes what it has accepted.
    Stopping,
}

impl Phase {
    /// The word for it, as the document has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Serving => "serving",
            Self::Degraded => "degraded",
            Self::Reloading => "reloading",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// A place for a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Its number, from 1.
    pub slot: u32,
    /// How many of its workers have been lost: have died, were killed, or could not
    /// start.
    pub restarts: u64,
    /// How the last one of them was lost.
    pub last_exit: Option<Ended>,
    /// When the next worker is started, if that waits because they keep failing.
    pub retry_in_s: Option<f64>,
}

/// The end of a worker that should have gone on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// How it ended: `was killed by SIGSEGV (core dumped)`.
    pub reason: String,
    /// How long ago.
    pub seconds_ago: f64,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its slot.
    pub slot: u32,
    /// Its process id, once it has told.
    pub pid: Option<i32>,
    /// The load of the code that it runs.
    pub generation: u32,
    /// What it is in the middle of: `starting`, `importing`, `startup`, `serving`,
    /// `draining`, `shutdown`, `exiting`, `stuck` or `killed`.
    pub phase: String,
    /// How long ago it was started.
    pub uptime_s: f64,
    /// How long ago its event loop last came round; `None` before the first time.
    pub silent_s: Option<f64>,
    /// The share of time in which its event loop is busy, 0 to 1; `None` before it was
    /// looked at twice.
    pub busy: Option<f64>,
    /// Requests that it has answered.
    pub requests: u64,
    /// Requests that the application is working on.
    pub active: u32,
    /// Open connections.
    pub connections: u32,
    /// Those of them that are WebSockets.
    pub websockets: u32,
    /// Its threads, if it runs a WSGI application.
    pub threads: Option<Threads>,
    /// Its resident memory.
    pub rss_bytes: Option<u64>,
    /// The request that it has worked on for longest.
    pub oldest_request: Option<Request>,
}

/// The threads of a worker that run a WSGI application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Threads {
    /// How many there are.
    pub count: u32,
    /// Those of them that have nothing to do.
    pub idle: u32,
    /// Requests that wait for one.
    pub queued: u32,
    /// Requests that have got one.
    pub waits: u64,
    /// How long these have waited for it, together.
    pub waited_s: f64,
}

/// A request in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Method and target, control characters escaped.
    pub line: String,
    /// How long ago it began.
    pub age_s: f64,
}

/// What all workers have done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Workers that were started.
    pub workers_started: u64,
    /// Workers that were lost.
    pub restarts: u64,
    /// Requests answered.
    pub requests: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub status: [u64; 5],
    /// Requests that have got a thread to run a WSGI application in.
    #[serde(default)]
    pub waits: u64,
    /// How long these have waited for it, together.
    #[serde(default)]
    pub waited_s: f64,
}

/// A reload or an upgrade that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    /// The generation that it was to bring.
    pub generation: u32,
    /// Whether it did.
    pub ok: bool,
    /// When it was over.
    pub seconds_ago: f64,
    /// Why it failed.
    pub message: Option<String>,
    /// The application's traceback, or the stacks of the worker that was stuck.
    pub traceback: Option<String>,
}
