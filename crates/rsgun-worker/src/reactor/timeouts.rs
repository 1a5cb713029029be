//! `--request-timeout`: requests that the application takes too long for.
//!
//! The deadline of a request is a number in its exchange, which the application may
//! move from any thread. One timer of the event loop looks at all requests in flight
//! and is set again to the earliest deadline, but never to more than the limit: so no
//! request that begins later can be due before it goes off. A request costs a store
//! when it begins and one when it ends, and nothing without a limit.

use std::cell::{Cell, RefCell};

use http::{Method, Uri};
use pyo3::prelude::*;
use rsgun_core::log::access::escape;

use super::{Reactor, clock};
use crate::asgi::cycle::Cycle;
use crate::asgi::exchange::SharedExchange;

/// The time between two reports of a request that goes on doubles this many times.
const REPORTS_SLOW_DOWN: u32 = 10;

/// The requests in flight, and their limit.
pub(crate) struct Timeouts {
    /// Milliseconds that a request may take; 0: any time.
    limit_ms: u64,
    /// By the entry of the request.
    watched: RefCell<Vec<Option<Watched>>>,
    /// The timer is set.
    armed: Cell<bool>,
}

struct Watched {
    exchange: SharedExchange,
    method: Method,
    uri: Uri,
    started_ms: u64,
    /// How often it was cancelled.
    cancelled: u32,
    /// Known once the application was called.
    cycle: Option<Py<Cycle>>,
}

/// A request whose deadline has passed.
struct Overdue {
    entry: usize,
    request: String,
    age_ms: u64,
    /// How often it was cancelled before.
    cancelled: u32,
    cycle: Py<Cycle>,
}

impl Timeouts {
    pub(crate) fn new(limit_ms: u64) -> Self {
        Self {
            limit_ms,
            watched: RefCell::new(Vec::new()),
            armed: Cell::new(false),
        }
    }

    /// Stops watching a request, which has ended.
    pub(super) fn forget(&self, entry: usize) {
        if self.limit_ms > 0 {
            let forgotten = self
                .watched
                .borrow_mut()
                .get_mut(entry)
                .and_then(Option::take);
            drop(forgotten);
        }
    }

    /// The application was called and has not ended.
    pub(super) fn attach(&self, entry: usize, cycle: &Bound<'_, Cycle>) {
        if let Some(Some(watched)) = self.watched.borrow_mut().get_mut(entry) {
            watched.cycle = Some(cycle.clone().unbind());
        }
    }

    /// The requests that are due, with a new deadline each, and the time until the next
    /// look.
    fn due(&self, py: Python<'_>, now: u64) -> (Vec<Overdue>, Option<u64>) {
        let mut due = Vec::new();
        let mut next: Option<u64> = None;
        for (entry, watched) in self.watched.borrow_mut().iter_mut().enumerate() {
            let Some(watched) = watched else { continue };
            let mut deadline = watched.exchange.deadline_ms();
            if deadline <= now {
                // What does not let itself be cancelled is reported at growing intervals.
                deadline = now + (self.limit_ms << watched.cancelled.min(REPORTS_SLOW_DOWN));
                watched.exchange.set_deadline_ms(deadline);
                if let Some(cycle) = &watched.cycle {
                    due.push(Overdue {
                        entry,
                        request: escape(&format!("{} {}", watched.method, watched.uri.path()))
                            .into_owned(),
                        age_ms: now.saturating_sub(watched.started_ms),
                        cancelled: watched.cancelled,
                        cycle: cycle.clone_ref(py),
                    });
                    watched.cancelled += 1;
                }
            }
            let wait = (deadline - now).min(self.limit_ms);
            next = Some(next.map_or(wait, |next| next.min(wait)));
        }
        (due, next)
    }
}

impl Reactor {
    /// Watches a request, which is about to be handed to the application.
    pub(super) fn watch(
        &self,
        py: Python<'_>,
        entry: usize,
        parts: &http::request::Parts,
        exchange: &SharedExchange,
    ) {
        let timeouts = &self.timeouts;
        if timeouts.limit_ms == 0 {
            return;
        }
        let now = clock::now_ms();
        exchange.set_deadline_ms(now + timeouts.limit_ms);
        let mut watched = timeouts.watched.borrow_mut();
        if watched.len() <= entry {
            watched.resize_with(entry + 1, || None);
        }
        watched[entry] = Some(Watched {
            exchange: SharedExchange::clone(exchange),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            started_ms: now,
            cancelled: 0,
            cycle: None,
        });
        drop(watched);
        if !timeouts.armed.get() {
            self.arm_timeouts(py, timeouts.limit_ms);
        }
    }

    fn arm_timeouts(&self, py: Python<'_>, milliseconds: u64) {
        self.timeouts.armed.set(true);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a time-out")]
        let seconds = milliseconds as f64 / 1000.0;
        self.bridge.call_later(py, seconds, &self.bridge.expire);
    }

    /// The timer has gone off: ends what is overdue.
    pub(crate) fn expire(&self, py: Python<'_>) {
        self.timeouts.armed.set(false);
        let now = clock::refresh() / 1000;
        let (due, next) = self.timeouts.due(py, now);
        if let Some(wait) = next {
            self.arm_timeouts(py, wait.max(1));
        }
        for overdue in due {
            self.end_overdue(py, &overdue);
        }
        self.after_send(py, 0);
    }

    /// Answers in the application's place and cancels its task.
    fn end_overdue(&self, py: Python<'_>, overdue: &Overdue) {
        // What an application does after its answer is complete is its own affair.
        if !overdue.cycle.get().time_out() {
            return;
        }
        let Some(task) = self.task(py, overdue.entry) else {
            return;
        };
        let stack = self.bridge.describe_task(py, &task);
        let request = &overdue.request;
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let age = overdue.age_ms as f64 / 1000.0;
        let stack = stack.trim_end();
        if overdue.cancelled > 0 {
            tracing::warn!(
                "{request} has been cancelled and goes on after {age:.1} s; cancelled again\n{stack}"
            );
        } else {
            tracing::error!(
                "{request} took longer than --request-timeout allows, cancelled after {age:.1} s\
                 \n{stack}"
            );
        }
        self.bridge
            .ignore(py, task.call_method0(py, pyo3::intern!(py, "cancel")));
    }
}
