//! WSGI (PEP 3333): connections on one thread without Python, the application on others.
//!
//! ```text
//!  I/O thread                              Python threads, at most --threads
//!  connections, bodies  ── jobs ──▶ queue ──▶ application
//!         ▲                                        │ response: exchange
//!         └──────────── bell, finished ◀───────────┘
//!                                    main thread: orders of the master, signals
//! ```
//!
//! The [`io_thread`] drives the same connections as an ASGI worker's event loop does. It
//! reads a request to the end of its body, keeps a large one on disk, and only then queues
//! it in the [`pool`]. A Python thread ([`thread`]) calls the application, stores the
//! answer in the [`Exchange`](crate::asgi::exchange::Exchange), and goes on with the next
//! request; what a slow client has not taken waits in memory and on disk. So no client
//! ever holds a Python thread.
//!
//! Threads that wake each other for every request spend more time on that than on the
//! request. So both sides take what is there, and sleep when there is nothing: jobs are
//! queued in batches, and as long as some are left the I/O thread dozes, looks by itself
//! after a moment, and is rung when half of the batch is done.
//!
//! The Python main thread runs an event loop that only serves the master's orders,
//! signals, the heartbeat, and the wish for more threads ([`service`]).

mod body;
pub(crate) mod collecting;
pub(crate) mod environ;
mod file_wrapper;
mod head;
mod intake;
mod io_thread;
mod lent_socket;
mod pool;
mod post;
mod response;
pub(crate) mod service;
mod thread;

use pyo3::prelude::*;
use pyo3::types::PyModule;

/// Adds the classes that applications see to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<file_wrapper::FileWrapper>()
}
