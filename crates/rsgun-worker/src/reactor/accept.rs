//! Accepting connections, and sharing them fairly with the sibling workers.
//!
//! All workers poll the same listeners, level-triggered. A worker takes connections until
//! it holds more than the sibling that holds the fewest. Then it first looks away for a
//! moment, so that the sibling can take the next, and for some moments if the difference
//! is great; afterwards it takes one of those that are still there. So the gate delays by
//! milliseconds and never refuses. A sibling that is blocked is soon not waited for any
//! more ([`rsgun_core::roster`], which decides).
//!
//! With `--reuse-port` each slot has a queue of its own, among which the kernel
//! spreads the clients. Each worker polls all of them: it comes first at its own, and
//! takes from another's what is still there a moment later, or at once if it holds
//! fewer connections than anybody else. So nobody waits in the queue of a worker that is
//! blocked, dead, or gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pyo3::prelude::*;
use rsgun_core::ipc::{FromWorker, Role};
use rsgun_core::listeners;
use rsgun_core::roster::{self, AT_A_TIME, Roster, Share, Siblings};
use rsgun_core::scoreboard::now_ms;
use rsgun_core::sys::parent_death;
use rsgun_core::sys::shared::Shared;
use socket2::{SockAddr, Socket};

use super::engine::Engine;
use super::queue::{Peer, ServerAddress};
use super::{Reactor, clock};
use crate::http::shared::Use;
use crate::worker::keeper::Keeper;

/// How long a worker looks away in favour of a sibling.
pub(crate) const YIELD: Duration = Duration::from_millis(1);
/// How long nothing is accepted after the system has run out of descriptors.
pub(crate) const EXHAUSTED: Duration = Duration::from_millis(100);
/// Milliseconds between two complaints about that.
const COMPLAINT_MS: u64 = 10_000;
/// A sibling whose last sign of life is older than this takes nothing, milliseconds.
const ALIVE_MS: u64 = 2_500;

/// The listeners of a worker, and its place among its siblings.
pub(crate) struct Gate {
    listeners: RefCell<Vec<Listener>>,
    roster: Shared<Roster>,
    seat: u32,
    siblings: RefCell<Siblings>,
    keeper: Arc<Keeper>,
    closed: Cell<bool>,
    /// Closed, but clients that are about to arrive are taken still.
    pub(super) last_call: Cell<bool>,
    /// Those of workers of an earlier configuration, the same way: each last call with its
    /// listeners, the earliest first.
    pub(super) retired: RefCell<VecDeque<Vec<Listener>>>,
    complain_again_at: Cell<u64>,
}

pub(super) struct Listener {
    pub(super) socket: Arc<Socket>,
    /// Address of a UNIX listener; an accepted TCP socket knows its own.
    pub(super) unix: Option<Arc<str>>,
    pub(super) role: Role,
    /// How often the gate has looked away from what waits here.
    yields: Cell<u32>,
}

/// A listener that the event loop does not poll for a moment.
pub(super) struct Away {
    index: usize,
    /// With a load below this one it is polled again before the moment is over.
    below: u32,
}

/// A connection, its client, and the address of the listener if that is a UNIX one.
type Arrival = (Socket, SockAddr, Option<Arc<str>>);

impl Listener {
    pub(super) fn new(fd: OwnedFd, role: Role) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let unix = socket.local_addr()?.as_unix_name();
        Ok(Self {
            socket: Arc::new(socket),
            unix,
            role,
            yields: Cell::new(0),
        })
    }

    pub(super) fn accept(&self) -> io::Result<Arrival> {
        let (socket, address) = self.socket.accept()?;
        Ok((socket, address, self.unix.clone()))
    }
}

impl Gate {
    /// Takes the listeners that the keeper has handed over.
    pub(crate) fn new(
        listeners: Vec<(OwnedFd, Role)>,
        roster: Shared<Roster>,
        seat: u32,
        keeper: Arc<Keeper>,
    ) -> io::Result<Self> {
        let listeners = listeners
            .into_iter()
            .map(|(fd, role)| Listener::new(fd, role))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            listeners: RefCell::new(listeners),
            roster,
            seat,
            siblings: RefCell::default(),
            keeper,
            closed: Cell::new(false),
            last_call: Cell::new(false),
            retired: RefCell::default(),
            complain_again_at: Cell::new(0),
        })
    }

    /// Tells the siblings how many connections this worker holds, or counts as holding.
    pub(super) fn report_load(&self, load: u32) {
        self.roster.set_connections(self.seat, load);
    }

    /// A sign of life for the siblings.
    pub(crate) fn beat(&self, load: u32) {
        if !self.closed.get() {
            self.roster.report(self.seat, now_ms(), load);
        }
    }

    /// Logs why nothing can be accepted, now and then while it lasts.
    pub(crate) fn complain(&self, error: &io::Error) {
        let now = clock::now_ms();
        if self.complain_again_at.get() <= now {
            self.complain_again_at.set(now + COMPLAINT_MS);
            tracing::error!(
                "cannot accept connections: {error}; trying again every {} s \
                 (for \"too many open files\" raise the limit: ulimit -n, LimitNOFILE=)",
                EXHAUSTED.as_secs_f64()
            );
        }
    }

    /// The listeners, for as long as this worker has not let go of them.
    pub(super) fn listeners(&self) -> std::cell::Ref<'_, [Listener]> {
        std::cell::Ref::map(self.listeners.borrow(), Vec::as_slice)
    }

    /// Whether clients that are about to arrive are waited for.
    pub(crate) fn is_last_call(&self) -> bool {
        self.last_call.get() || !self.retired.borrow().is_empty()
    }

    /// Whether no more connections are accepted.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// What a worker with this load does about a listener that is ready: where there are
    /// siblings it takes `at_a_time` at most. It looks away for [`YIELD`].
    pub(crate) fn share(&self, index: usize, load: u32, at_a_time: u32) -> Share {
        self.roster.look(self.seat);
        let listeners = self.listeners.borrow();
        let Some(listener) = listeners.get(index) else {
            return Share::Take(0);
        };
        let alive_since = now_ms().saturating_sub(ALIVE_MS);
        let mut siblings = self.siblings.borrow_mut();
        let others = siblings.others(&self.roster, self.seat, alive_since);
        let yields = listener.yields.get();
        let share = roster::share(others, load, listener.role.own, yields, at_a_time);
        match share {
            Share::Take(_) => listener.yields.set(0),
            Share::LookAway { .. } => {
                siblings.give_chance(&self.roster, self.seat);
                listener.yields.set(yields + 1);
            }
        }
        share
    }

    /// Tells the keeper that this worker takes no more connections.
    pub(crate) fn tell_closed(&self) {
        if let Err(error) = self.keeper.tell(&FromWorker::Draining) {
            // Its end of the channel says so too, and that is acted on.
            tracing::debug!("the keeper of this worker cannot be told anything: {error}");
        }
    }

    /// Stops accepting, for good. Returns whether it had not before.
    pub(crate) fn close(&self) -> bool {
        let closes = !self.closed.replace(true);
        if closes {
            self.roster.leave(self.seat);
        }
        closes
    }

    /// Calls back with the listeners, in their order.
    pub(crate) fn with_listeners<R>(
        &self,
        look: impl FnOnce(&mut dyn Iterator<Item = BorrowedFd<'_>>) -> R,
    ) -> R {
        let listeners = self.listeners.borrow();
        look(&mut listeners.iter().map(|listener| listener.socket.as_fd()))
    }

    /// The listeners, held by nobody: a process that the application forks, which it may
    /// do whenever Python runs, must not keep them.
    pub(crate) fn sockets(&self) -> Vec<Weak<Socket>> {
        self.listeners
            .borrow()
            .iter()
            .map(|listener| Arc::downgrade(&listener.socket))
            .collect()
    }

    /// Closes this worker's copies of the listeners.
    pub(crate) fn drop_listeners(&self) {
        parent_death::forget_listeners();
        self.listeners.borrow_mut().clear();
    }
}

impl Engine {
    /// Takes up to `most` connections.
    ///
    /// # Errors
    /// What `accept4(2)` returns when there is trouble.
    pub(crate) fn accept(self: &Rc<Self>, index: usize, most: u32) -> io::Result<()> {
        for _ in 0..most {
            if !self.accept_one(index)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes one connection; `false` when none is waiting.
    pub(super) fn accept_one(self: &Rc<Self>, index: usize) -> io::Result<bool> {
        let arrival = match self.gate.listeners.borrow().get(index) {
            Some(listener) => listener.accept(),
            None => return Ok(false),
        };
        self.welcome(arrival, Use::Many)
    }

    /// Serves a connection that was taken; `false` when none was waiting.
    pub(super) fn welcome(
        self: &Rc<Self>,
        arrival: io::Result<Arrival>,
        kept_for: Use,
    ) -> io::Result<bool> {
        let (socket, address, unix) = match arrival {
            Ok(arrival) => arrival,
            Err(error) => return after_error(error),
        };
        if let Err(error) = socket.set_nonblocking(true) {
            tracing::debug!("a connection was lost at once: {error}");
            return Ok(true);
        }
        match peer(&socket, &address, unix) {
            Ok(peer) => self.serve(socket, peer, kept_for),
            // The client has left between the two calls.
            Err(error) => tracing::debug!("a connection was lost at once: {error}"),
        }
        Ok(true)
    }
}

impl Reactor {
    /// Starts to accept.
    pub(crate) fn open_gate(&self, py: Python<'_>) -> PyResult<()> {
        self.engine.gate.beat(self.engine.load());
        for (index, listener) in self.engine.gate.sockets().iter().enumerate() {
            self.bridge.add_accept(py, listener, index)?;
        }
        Ok(())
    }

    /// Stops accepting, for good.
    pub(super) fn close_gate(&self, py: Python<'_>) {
        if self.engine.gate.close() {
            for listener in self.engine.gate.sockets() {
                self.bridge.remove_accept(py, &listener);
            }
        }
    }

    /// A listener is ready.
    pub(crate) fn accept(&self, py: Python<'_>, index: usize) {
        clock::refresh();
        let gate = &self.engine.gate;
        if gate.is_closed() {
            return;
        }
        let most = match gate.share(index, self.engine.load(), AT_A_TIME) {
            Share::Take(most) => most,
            Share::LookAway { below } => {
                self.look_away(py, Away { index, below }, YIELD);
                return;
            }
        };
        if let Err(error) = self.engine.accept(index, most) {
            gate.complain(&error);
            self.look_away(py, Away { index, below: 0 }, EXHAUSTED);
        }
        self.turn(py);
    }

    /// Polls a listener no more for a moment.
    fn look_away(&self, py: Python<'_>, away: Away, time: Duration) {
        if let Some(listener) = self.engine.gate.sockets().get(away.index) {
            self.bridge.remove_accept(py, listener);
            self.bridge.resume_later(py, time.as_secs_f64(), away.index);
            self.away.borrow_mut().push(away);
        }
    }

    /// Polls a listener again, unless it is polled already.
    pub(crate) fn look_again(&self, py: Python<'_>, index: usize) -> PyResult<()> {
        let is_away = |away: &mut Away| away.index == index;
        let is_polled = self.away.borrow_mut().extract_if(.., is_away).count() == 0;
        if is_polled || self.engine.gate.is_closed() {
            return Ok(());
        }
        match self.engine.gate.sockets().get(index) {
            Some(listener) => self.bridge.add_accept(py, listener, index),
            None => Ok(()),
        }
    }

    /// Polls listeners again if there is no reason to look away any more: clients that
    /// come for one request each are gone before the moment is over.
    pub(super) fn look_again_if_eased(&self, py: Python<'_>) {
        let load = self.engine.load();
        let away = self.away.borrow();
        let eased = away.iter().filter(|away| load < away.below);
        let eased: Vec<usize> = eased.map(|away| away.index).collect();
        drop(away);
        for index in eased {
            if let Err(error) = self.look_again(py, index) {
                // The end of the moment is still to come.
                self.away.borrow_mut().push(Away { index, below: 0 });
                tracing::debug!("a listener cannot be polled: {error}");
            }
        }
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
