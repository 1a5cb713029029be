//! Requests in flight, as the I/O thread sees them: body, queue, time, and end.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use rsgun_core::log::access::escape;
use rsgun_core::scoreboard;
use tokio::sync::Semaphore;

use super::collecting::{Collecting, Kept, Progress};
use super::pool::{Body, Finished, Job, Pool};
use super::post::{Outbox, Overdue};
use crate::asgi::exchange::{Exchange, SharedExchange, Stage};
use crate::http::access_log;
use crate::reactor::clock;
use crate::reactor::descriptor::WRITERS;
use crate::reactor::engine::Engine;
use crate::reactor::queue::{self, NewRequest, Work};
use crate::reactor::quota::Quota;

/// What the I/O thread knows about requests.
pub(crate) struct Intake {
    engine: Rc<Engine>,
    pool: Arc<Pool>,
    outbox: Arc<Outbox>,
    quota: Quota,
    access_log: bool,
    /// Milliseconds that a request may take; 0: any time.
    limit_ms: u64,
    /// Bodies that have not arrived completely, by the address of their exchange.
    collecting: HashMap<*const Exchange, Collecting>,
    /// What may be written to disk at the same time.
    writers: Arc<Semaphore>,
    /// Complete requests that are about to be queued.
    jobs: Vec<Job>,
    running: Vec<Option<Running>>,
    free: Vec<usize>,
    /// Requests that nobody waits for any more although their thread does not end.
    abandoned: usize,
    /// When a request may be due, milliseconds.
    next_look_ms: Option<u64>,
}

struct Running {
    exchange: SharedExchange,
    log: Option<access_log::Entry>,
    request: String,
    since_ms: u64,
    abandoned: bool,
}

impl Intake {
    pub(crate) fn new(
        engine: Rc<Engine>,
        pool: Arc<Pool>,
        outbox: Arc<Outbox>,
        quota: Quota,
        access_log: bool,
        limit_ms: u64,
    ) -> Self {
        Self {
            engine,
            pool,
            outbox,
            quota,
            access_log,
            limit_ms,
            collecting: HashMap::new(),
            writers: Arc::new(Semaphore::new(WRITERS)),
            jobs: Vec::new(),
            running: Vec::new(),
            free: Vec::new(),
            abandoned: 0,
            next_look_ms: None,
        }
    }

    /// How many requests the drain has to wait for.
    pub(crate) fn left(&self) -> usize {
        self.running.len() - self.free.len() - self.abandoned
    }

    /// How many requests the threads have or are to get. One that is finished does not
    /// count, although its thread may need a moment to say that it is idle.
    pub(crate) fn active(&self) -> usize {
        self.running.len() - self.free.len()
    }

    /// When [`Self::look_at_deadlines`] has something to do, milliseconds.
    pub(crate) fn next_look_ms(&self) -> Option<u64> {
        self.next_look_ms
    }

    /// Does what the connections have left in the queue. Returns whether requests were
    /// handed to the threads.
    pub(crate) fn take_work(&mut self) -> bool {
        while let Some(work) = queue::pop() {
            match work {
                Work::Request(request) => self.take_request(request),
                Work::Refused(refused) => {
                    let log = self.access_log.then_some(&refused.entry);
                    self.engine.count_refused(refused.status, log);
                }
                Work::Receive(exchange) => self.take_more(&exchange),
                Work::Kept(kept) => self.take_kept(*kept),
                // WebSockets are not served here: a handshake is a request like others.
                Work::Session(_) => {}
            }
        }
        let any = !self.jobs.is_empty();
        if any {
            self.pool.push(&mut self.jobs);
        }
        any
    }

    fn take_request(&mut self, request: Box<NewRequest>) {
        let (is_closed, refused) = {
            let mut state = request.exchange.lock();
            state.collect();
            (state.closed, state.refused())
        };
        if let Some(status) = refused {
            let log = self.log_entry(&request);
            return self.engine.count_refused(status, log.as_ref());
        }
        if !is_closed {
            self.collect(Collecting::new(request));
        }
    }

    fn take_more(&mut self, exchange: &SharedExchange) {
        if let Some(collecting) = self.collecting.remove(&Arc::as_ptr(exchange)) {
            self.collect(collecting);
        }
    }

    /// A part of a body is on disk, or cannot be kept there.
    fn take_kept(&mut self, kept: Kept) {
        // Otherwise its client has left meanwhile.
        if let Some(mut collecting) = self.collecting.remove(&Arc::as_ptr(&kept.exchange)) {
            match collecting.go_on(kept) {
                Ok(()) => self.collect(collecting),
                Err(error) => self.cannot_keep(collecting.request(), &error),
            }
        }
    }

    /// Takes what has arrived of a body; queues the request if that is all of it.
    fn collect(&mut self, mut collecting: Collecting) {
        match collecting.take() {
            Progress::Complete => {
                collecting.exchange().lock().stop_collecting();
                let (request, body) = collecting.into_parts();
                self.queue(*request, body);
            }
            Progress::Full => {
                collecting.write(&self.engine, &self.writers);
                self.wait_for(collecting);
            }
            Progress::Waiting => self.wait_for(collecting),
            Progress::Gone => {
                let refused = collecting.exchange().lock().refused();
                if let Some(status) = refused {
                    let log = self.log_entry(collecting.request());
                    self.engine.count_refused(status, log.as_ref());
                }
            }
        }
    }

    fn wait_for(&mut self, collecting: Collecting) {
        let exchange = Arc::as_ptr(collecting.exchange());
        self.collecting.insert(exchange, collecting);
    }

    fn cannot_keep(&self, request: &NewRequest, error: &io::Error) {
        tracing::error!(
            "the body of {} {} cannot be kept on disk: {error}; is there room in {}? (TMPDIR)",
            request.parts.method,
            escape(request.parts.uri.path()),
            std::env::temp_dir().display()
        );
        let exchange = &request.exchange;
        exchange.lock().stop_collecting();
        let status = exchange.give_up(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(status) = status {
            let log = self.log_entry(request);
            self.engine.count_refused(status, log.as_ref());
        }
    }

    fn log_entry(&self, request: &NewRequest) -> Option<access_log::Entry> {
        self.access_log
            .then(|| access_log::Entry::of(&request.connection.peer, &request.parts))
    }

    fn queue(&mut self, request: NewRequest, body: Body) {
        let log = self.log_entry(&request);
        let NewRequest {
            parts,
            exchange,
            connection,
            offer,
            ..
        } = request;
        let now_ms = clock::now_ms();
        if self.limit_ms > 0 {
            exchange.set_deadline_ms(now_ms + self.limit_ms);
            self.next_look_ms.get_or_insert(now_ms + self.limit_ms);
        }
        let running = Running {
            exchange: Arc::clone(&exchange),
            log,
            request: if self.limit_ms > 0 {
                escape(&format!("{} {}", parts.method, parts.uri.path())).into_owned()
            } else {
                String::new()
            },
            since_ms: now_ms,
            abandoned: false,
        };
        let entry = self.free.pop().unwrap_or_else(|| {
            self.running.push(None);
            self.running.len() - 1
        });
        self.running[entry] = Some(running);
        let target = parts.uri.path_and_query().map_or("*", |it| it.as_str());
        self.engine.board.begin(
            entry,
            scoreboard::now_ms(),
            parts.method.as_str().as_bytes(),
            target.as_bytes(),
        );
        self.jobs.push(Job {
            entry,
            parts,
            exchange,
            client: connection.peer.client,
            server: connection.peer.server.clone(),
            body,
            offer,
            queued_us: clock::now_us(),
        });
    }

    /// Counts and forgets what the threads are through with. Returns whether there was
    /// any.
    pub(crate) fn take_finished(&mut self) -> bool {
        let finished = self.pool.take_finished();
        let any = !finished.is_empty();
        for each in finished {
            self.end(&each);
        }
        let active = self.active();
        self.engine
            .board
            .active
            .store(u32::try_from(active).unwrap_or(u32::MAX), Relaxed);
        any
    }

    fn end(&mut self, finished: &Finished) {
        let Some(running) = self.running.get_mut(finished.entry).and_then(Option::take) else {
            return;
        };
        self.free.push(finished.entry);
        self.abandoned -= usize::from(running.abandoned);
        let board = &self.engine.board;
        board.end(finished.entry);
        let started_us = running.exchange.started_us;
        board.count(
            finished.status.as_u16(),
            clock::now_us().saturating_sub(started_us),
        );
        board.count_wait(finished.waited_us);
        // Nothing was answered to a client that had left while its request was queued.
        let answered = !matches!(running.exchange.lock().response.stage, Stage::Waiting);
        if let Some(entry) = running.log.filter(|_| answered) {
            access_log::add(&entry, finished.status);
        }
        self.quota.count();
    }

    /// Answers in the application's place to requests that take too long.
    pub(crate) fn look_at_deadlines(&mut self) {
        let now = clock::now_ms();
        if self.next_look_ms.is_none_or(|next| next > now) {
            return;
        }
        let mut next: Option<u64> = None;
        for (entry, running) in self.running.iter_mut().enumerate() {
            let Some(running) = running.as_mut().filter(|running| !running.abandoned) else {
                continue;
            };
            let deadline = running.exchange.deadline_ms();
            if deadline > now {
                let look = deadline.min(now + self.limit_ms);
                next = Some(next.map_or(look, |next| next.min(look)));
                continue;
            }
            // What an application does after its answer is complete is its own affair.
            if matches!(running.exchange.lock().response.stage, Stage::Complete) {
                running.exchange.set_deadline_ms(u64::MAX);
                continue;
            }
            let status = running.exchange.give_up(StatusCode::GATEWAY_TIMEOUT);
            if let (Some(status), Some(entry)) = (status, running.log.take()) {
                access_log::add(&entry, status);
            }
            running.abandoned = true;
            self.abandoned += 1;
            self.outbox.overdue(Overdue {
                request: std::mem::take(&mut running.request),
                age_ms: now.saturating_sub(running.since_ms),
                ident: self.pool.thread_of(entry),
            });
        }
        self.next_look_ms = next;
    }

    /// Shows the siblings and the master how busy the threads are.
    pub(crate) fn report(&self, standing: &super::pool::Standing) {
        let board = &self.engine.board;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        board.queued.store(count(standing.queued), Relaxed);
        board.threads.store(count(standing.threads), Relaxed);
        board.idle_threads.store(count(standing.idle), Relaxed);
    }
}
