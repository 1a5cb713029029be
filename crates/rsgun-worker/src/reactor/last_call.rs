//! The end of listening, without a client that is reset.
//!
//! When the server stops, or its master is gone, whoever waits in a queue is served, and whoever comes later is
//! refused. Between the two lies a trap: closing or shutting down a TCP listener makes
//! the kernel reset those that have just arrived in its queue. So it is done in two
//! steps. First the listener's packets go through a filter that drops only `SYN`, the
//! first packet of a new client, which the client sends again a second later. Whoever has
//! got an answer to its own is let in. After the time that such a handshake takes to
//! complete nobody is on the way any more: the queue is emptied for the last time, and
//! the listener is shut down.
//!
//! A UNIX listener needs none of it: what waits in its queue can be accepted after it was
//! shut down.
//!
//! Listeners that a reload or an upgrade has removed end in the same way. Their own
//! workers have stopped accepting by then, or were killed; so the master hands them to the
//! new workers, which serve whoever waits there, one request each, and go on.

use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use pyo3::prelude::*;
use rsgun_core::ipc::Role;
use rsgun_core::sys::handshakes;

use super::Reactor;
use super::accept::Listener;
use super::engine::Engine;
use crate::http::shared::Use;

/// How long the last packet of a handshake may be on its way.
pub(crate) const HANDSHAKE: Duration = Duration::from_millis(50);

impl Engine {
    /// Takes everything that waits, and ends listening for all workers. Those that were
    /// inherited by the master are others' too and are left alone.
    ///
    /// Returns whether some may be on the way still: [`Self::end_last_call`] is due after
    /// [`HANDSHAKE`].
    pub(crate) fn begin_last_call(self: &Rc<Self>) -> bool {
        let waits = leave_out_new_clients(&self.gate.listeners());
        self.accept_rest();
        if waits {
            self.gate.last_call.set(true);
        } else {
            self.shut();
        }
        waits
    }

    /// Whoever was on the way has arrived. Returns whether there was a last call.
    pub(crate) fn end_last_call(self: &Rc<Self>) -> bool {
        let was_called = self.gate.last_call.replace(false);
        if was_called {
            self.accept_rest();
            self.shut();
        }
        was_called
    }

    /// The same at listeners of an earlier configuration, whose workers are gone or drain:
    /// this one goes on.
    ///
    /// Returns whether [`Self::end_last_call_at_retired`] is due after [`HANDSHAKE`].
    pub(crate) fn begin_last_call_at(self: &Rc<Self>, retired: Vec<OwnedFd>) -> bool {
        let role = Role {
            inherited: false,
            own: true,
        };
        let retired: Vec<Listener> = retired
            .into_iter()
            .filter_map(|fd| Listener::new(fd, role).ok())
            .collect();
        let waits = leave_out_new_clients(&retired);
        self.accept_rest_at(&retired);
        if waits {
            self.gate.retired.borrow_mut().push_back(retired);
        } else {
            shut(&retired);
        }
        waits
    }

    /// Whoever was on the way to the listeners of the earliest of these last calls has
    /// arrived.
    pub(crate) fn end_last_call_at_retired(self: &Rc<Self>) {
        let retired = self.gate.retired.borrow_mut().pop_front();
        if let Some(retired) = retired {
            self.accept_rest_at(&retired);
            shut(&retired);
        }
    }

    /// Lets go of the listeners, unless that comes by itself in a moment.
    pub(crate) fn let_go(&self) {
        if !self.gate.last_call.get() {
            self.gate.drop_listeners();
        }
    }

    /// Lets the kernel refuse new clients from now on, and lets go of the listeners.
    fn shut(&self) {
        shut(&self.gate.listeners());
        self.gate.tell_closed();
        self.gate.drop_listeners();
    }

    fn accept_rest(self: &Rc<Self>) {
        let count = self.gate.listeners().len();
        for index in 0..count {
            while let Ok(true) = self.accept_one(index) {}
        }
    }

    fn accept_rest_at(self: &Rc<Self>, listeners: &[Listener]) {
        for listener in listeners {
            while let Ok(true) = self.welcome(listener.accept(), Use::Once) {}
        }
    }
}

/// Keeps new clients from what will be shut down. Returns whether some may be on the way
/// still.
fn leave_out_new_clients(listeners: &[Listener]) -> bool {
    let mut waits = false;
    for listener in listeners {
        if listener.role.inherited {
            continue;
        }
        if listener.unix.is_some() {
            // A sibling was faster.
            let _ = listener.socket.shutdown(Shutdown::Both);
        } else {
            match handshakes::leave_out_new_clients(listener.socket.as_fd()) {
                Ok(()) => waits = true,
                // A sibling has shut it down already, or there are no filters here.
                Err(error) => tracing::debug!("new clients may be reset: {error}"),
            }
        }
    }
    waits
}

fn shut(listeners: &[Listener]) {
    for listener in listeners {
        if !listener.role.inherited {
            // A sibling was faster.
            let _ = listener.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Reactor {
    /// Takes everything that waits, and ends listening for all workers.
    pub(super) fn last_call(&self, py: Python<'_>) {
        if self.engine.begin_last_call() {
            let seconds = HANDSHAKE.as_secs_f64();
            self.bridge.call_later(py, seconds, &self.bridge.refuse);
        }
    }

    /// Whoever was on the way has arrived.
    pub(crate) fn refuse(&self, py: Python<'_>) {
        if self.engine.end_last_call() {
            self.turn(py);
        }
    }

    /// Takes everything that waits at listeners that are no longer wanted, and ends those.
    pub(crate) fn last_call_at(&self, py: Python<'_>, retired: Vec<OwnedFd>) {
        if self.engine.begin_last_call_at(retired) {
            let seconds = HANDSHAKE.as_secs_f64();
            self.bridge
                .call_later(py, seconds, &self.bridge.refuse_retired);
        }
        self.turn(py);
    }

    /// Whoever was on the way there has arrived.
    pub(crate) fn refuse_retired(&self, py: Python<'_>) {
        self.engine.end_last_call_at_retired();
        self.turn(py);
    }
}
