//! Accepting connections, and sharing them fairly with the sibling workers.
//!
//! All workers poll the same listeners, level-triggered, through the event loop. A
//! worker takes one connection at a time. When a sibling that is alive holds fewer
//! connections, it first looks away for a moment, so that the sibling can take this
//! one; afterwards it takes what is still there. So the gate delays by about a
//! millisecond and never refuses.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use pyo3::prelude::*;
use rsgun_core::listeners;
use rsgun_core::scoreboard::{Roster, now_ms};
use rsgun_core::sys::parent_death;
use rsgun_core::sys::shared::Shared;
use socket2::{SockAddr, Socket};

use super::bridge::Bridge;
use super::queue::{Peer, ServerAddress};
use super::{Reactor, clock};

/// Seconds that a worker looks away in favour of a sibling.
const YIELD: f64 = 0.001;
/// Seconds without accepting after the system has run out of descriptors.
const EXHAUSTED: f64 = 0.1;
/// Milliseconds between two complaints about that.
const COMPLAINT_MS: u64 = 10_000;
/// A sibling whose last sign of life is older than this takes nothing, milliseconds.
const ALIVE_MS: u64 = 2_500;
/// Connections taken at a time when there is no sibling.
const ALONE: usize = 16;

/// The listeners of a worker, and its place among its siblings.
pub(crate) struct Gate {
    listeners: RefCell<Vec<Listener>>,
    roster: Shared<Roster>,
    seat: u32,
    closed: Cell<bool>,
    complain_again_at: Cell<u64>,
}

struct Listener {
    socket: Socket,
    /// Address of a UNIX listener; an accepted TCP socket knows its own.
    unix: Option<Arc<str>>,
    /// It belongs to others too.
    inherited: bool,
    /// The gate has looked away already: take what is there.
    yielded: Cell<bool>,
}

impl Gate {
    /// Takes the listeners that the master has handed over.
    pub(crate) fn new(
        listeners: Vec<(OwnedFd, bool)>,
        roster: Shared<Roster>,
        seat: u32,
    ) -> io::Result<Self> {
        let listeners = listeners
            .into_iter()
            .map(|(fd, inherited)| {
                let socket = Socket::from(fd);
                let unix = socket.local_addr()?.as_unix_name();
                Ok(Listener {
                    socket,
                    unix,
                    inherited,
                    yielded: Cell::new(false),
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            listeners: RefCell::new(listeners),
            roster,
            seat,
            closed: Cell::new(false),
            complain_again_at: Cell::new(0),
        })
    }

    /// Tells the siblings how many connections this worker holds.
    pub(super) fn report_connections(&self, count: u32) {
        self.roster.set_connections(self.seat, count);
    }

    /// A sign of life for the siblings.
    pub(crate) fn beat(&self, connections: u32) {
        if !self.closed.get() {
            self.roster.report(self.seat, now_ms(), connections);
        }
    }

    /// Logs why nothing can be accepted, now and then while it lasts.
    fn complain(&self, error: &io::Error) {
        let now = clock::now_ms();
        if self.complain_again_at.get() <= now {
            self.complain_again_at.set(now + COMPLAINT_MS);
            tracing::error!(
                "cannot accept connections: {error}; trying again every {EXHAUSTED} s \
                 (for \"too many open files\" raise the limit: ulimit -n, LimitNOFILE=)"
            );
        }
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.listeners
            .borrow()
            .iter()
            .map(|listener| listener.socket.as_raw_fd())
            .collect()
    }

    /// Stops accepting, for good.
    pub(super) fn close(&self, py: Python<'_>, bridge: &Bridge) {
        if self.closed.replace(true) {
            return;
        }
        self.roster.leave(self.seat);
        for number in self.descriptors() {
            bridge.remove_reader(py, number);
        }
    }

    /// Lets the kernel refuse new clients from now on: nobody would accept them. What
    /// waits was taken just before.
    pub(crate) fn shut(&self) {
        for listener in self.listeners.borrow().iter() {
            if !listener.inherited {
                // A sibling was faster.
                let _ = listener.socket.shutdown(std::net::Shutdown::Both);
            }
        }
    }

    /// Closes this worker's copies of the listeners.
    pub(crate) fn drop_listeners(&self) {
        parent_death::forget_listeners();
        self.listeners.borrow_mut().clear();
    }
}

impl Reactor {
    /// Starts to accept.
    pub(crate) fn open_gate(&self, py: Python<'_>) -> PyResult<()> {
        self.gate.beat(self.open_connections());
        for (index, number) in self.gate.descriptors().into_iter().enumerate() {
            self.bridge.add_accept(py, number, index)?;
        }
        Ok(())
    }

    /// A listener is ready.
    pub(crate) fn accept(self: &Rc<Self>, py: Python<'_>, index: usize) {
        clock::refresh();
        if self.gate.closed.get() {
            return;
        }
        let fewest = self
            .gate
            .roster
            .fewest_of_others(self.gate.seat, now_ms().saturating_sub(ALIVE_MS));
        let yielded = self
            .gate
            .listeners
            .borrow()
            .get(index)
            .is_some_and(|listener| listener.yielded.replace(false));
        if !yielded && fewest.is_some_and(|fewest| fewest < self.open_connections()) {
            self.look_away(py, index, YIELD);
            return;
        }
        let most = if fewest.is_none() { ALONE } else { 1 };
        for _ in 0..most {
            match self.accept_one(index) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.gate.complain(&error);
                    self.look_away(py, index, EXHAUSTED);
                    break;
                }
            }
        }
        self.turn(py);
    }

    /// Takes everything that is waiting, before the listeners go for good.
    pub(crate) fn accept_rest(self: &Rc<Self>) {
        clock::refresh();
        let count = self.gate.listeners.borrow().len();
        for index in 0..count {
            while let Ok(true) = self.accept_one(index) {}
        }
    }

    /// Takes one connection; `false` when none is waiting.
    fn accept_one(self: &Rc<Self>, index: usize) -> io::Result<bool> {
        let (socket, address, unix) = {
            let listeners = self.gate.listeners.borrow();
            let Some(listener) = listeners.get(index) else {
                return Ok(false);
            };
            match listener.socket.accept() {
                Ok((socket, address)) => (socket, address, listener.unix.clone()),
                Err(error) => return after_error(error),
            }
        };
        if let Err(error) = socket.set_nonblocking(true) {
            tracing::debug!("a connection was lost at once: {error}");
            return Ok(true);
        }
        match peer(&socket, &address, unix) {
            Ok(peer) => self.serve(socket, peer),
            // The client has left between the two calls.
            Err(error) => tracing::debug!("a connection was lost at once: {error}"),
        }
        Ok(true)
    }

    /// Polls a listener no more for a moment.
    fn look_away(&self, py: Python<'_>, index: usize, seconds: f64) {
        // Not borrowed while Python runs, which may fork and then drop the listeners.
        let number = self.gate.listeners.borrow().get(index).map(|listener| {
            listener.yielded.set(true);
            listener.socket.as_raw_fd()
        });
        if let Some(number) = number {
            self.bridge.remove_reader(py, number);
            self.bridge.resume_later(py, seconds, index);
        }
    }

    /// Polls a listener again.
    pub(crate) fn look_again(&self, py: Python<'_>, index: usize) -> PyResult<()> {
        if self.gate.closed.get() {
            return Ok(());
        }
        let number = self.gate.descriptors().get(index).copied();
        number.map_or(Ok(()), |number| self.bridge.add_accept(py, number, index))
    }
}

/// What an error of accept means for those that wait: go on, nothing there, or trouble.
fn after_error(error: io::Error) -> io::Result<bool> {
    match error.kind() {
        // That client has given up; the next one may not have.
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => Ok(true),
        // A sibling was faster; or it has shut the listener down, because all stop.
        io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput => Ok(false),
        _ => Err(error),
    }
}

fn peer(socket: &Socket, address: &SockAddr, unix: Option<Arc<str>>) -> io::Result<Peer> {
    let (client, server) = match unix {
        Some(path) => (None, ServerAddress::Unix(path)),
        None => {
            // Small answers go out at once; they are whole already.
            socket.set_tcp_nodelay(true)?;
            let local = socket.local_addr()?.as_socket().map(unmapped);
            let local = local.ok_or_else(|| io::Error::other("an address of no known family"))?;
            (address.as_socket().map(unmapped), ServerAddress::Ip(local))
        }
    };
    Ok(Peer {
        client,
        server,
        python: std::cell::OnceCell::new(),
    })
}

/// Shows an IPv4 client of a dual-stack listener as IPv4.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

trait UnixName {
    /// Path, or `@NAME`; `None` for other families.
    fn as_unix_name(&self) -> Option<Arc<str>>;
}

impl UnixName for SockAddr {
    fn as_unix_name(&self) -> Option<Arc<str>> {
        if !self.is_unix() {
            return None;
        }
        if let Some(path) = self.as_pathname() {
            return Some(listeners::final_path(path).to_string_lossy().into());
        }
        let name = self.as_abstract_namespace().unwrap_or_default();
        Some(format!("@{}", String::from_utf8_lossy(name)).into())
    }
}
