//! The thread of the connections of a WSGI worker, without Python. It waits for sockets only,
//! never for a disk.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::{TimeSpec, TimeValLike};
use rsgun_core::roster::{BUSY, Share};

use super::intake::Intake;
use super::pool::{Pool, Standing};
use super::post::{Command, Mailbox, Outbox};
use crate::http::websocket::Farewell;
use crate::reactor::accept::{EXHAUSTED, YIELD};
use crate::reactor::clock;
use crate::reactor::engine::Engine;
use crate::reactor::last_call::HANDSHAKE;
use crate::reactor::pending::Sleep;

/// How long the thread dozes while the Python threads have enough to do: answers that are
/// ready wait for it. Each look around takes the processor's caches from the application,
/// where both have to share one.
const DOZE: Duration = Duration::from_millis(4);
/// A request that has waited so long for a thread gets one more.
const GROW_AFTER_US: u64 = 500;
/// Milliseconds between two signs of life for the sibling workers.
const BEAT_MS: u64 = 1_000;

/// The thread's state.
pub(crate) struct IoThread {
    engine: Rc<Engine>,
    intake: Intake,
    pool: Arc<Pool>,
    mailbox: Arc<Mailbox>,
    outbox: Arc<Outbox>,
    /// How long each listener is not looked at.
    away: Vec<Away>,
    /// When the listeners were looked at last, microseconds.
    looked_at_us: u64,
    beat_at_ms: u64,
    /// When clients that were on the way have arrived, microseconds.
    last_call_until_us: u64,
    /// The same for each last call at listeners of an earlier configuration.
    retired_until_us: VecDeque<u64>,
    /// The Python threads have got something done, or new work, since the last doze.
    lively: bool,
    stage: Stage,
}

/// How long a listener is not looked at.
#[derive(Debug, Default, Clone, Copy)]
struct Away {
    /// Until then, microseconds.
    until_us: u64,
    /// Or until the load is below this.
    below: u32,
}

/// How far the service has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Preparing,
    Serving,
    /// Finishes what was accepted.
    Draining,
    /// Waits for running requests only.
    Quitting,
    /// The main thread knows that there is nothing left.
    Ended,
    Closing,
}

impl IoThread {
    pub(crate) fn new(
        engine: Rc<Engine>,
        intake: Intake,
        pool: Arc<Pool>,
        mailbox: Arc<Mailbox>,
        outbox: Arc<Outbox>,
    ) -> Self {
        let listeners = engine.gate.sockets().len();
        Self {
            engine,
            intake,
            pool,
            mailbox,
            outbox,
            away: vec![Away::default(); listeners],
            looked_at_us: 0,
            beat_at_ms: 0,
            last_call_until_us: 0,
            retired_until_us: VecDeque::new(),
            lively: false,
            stage: Stage::Preparing,
        }
    }

    /// Serves until it is told to close.
    pub(crate) fn run(mut self) {
        leave_signals_to_others();
        let engine = Rc::clone(&self.engine);
        // Files that are done with are closed by the pool, wherever that turns out.
        let _context = engine.enter();
        while self.stage < Stage::Closing {
            clock::refresh();
            self.engine.poll_driver();
            self.engine.poll_connections();
            self.take_commands();
            self.end_last_calls();
            if self.intake.take_finished() {
                self.lively = true;
            }
            if self.intake.take_work() {
                self.lively = true;
            }
            self.intake.look_at_deadlines();
            let standing = self.pool.standing();
            self.intake.report(&standing);
            self.beat(&standing);
            self.engine.report();
            self.settle_stop();
            self.sleep(&standing);
        }
        engine.close_connections();
        drop(self);
    }

    /// Whoever was on the way has arrived.
    fn end_last_calls(&mut self) {
        let now_us = clock::now_us();
        let mut over = false;
        while (self.retired_until_us.front()).is_some_and(|until| *until <= now_us) {
            self.retired_until_us.pop_front();
            self.engine.end_last_call_at_retired();
            over = true;
        }
        if self.last_call_until_us <= now_us {
            over |= self.engine.end_last_call();
        }
        if over {
            self.engine.poll_connections();
        }
    }

    fn take_commands(&mut self) {
        for command in self.mailbox.take() {
            match command {
                Command::Announce => self.engine.announce_stop(),
                Command::Open => self.reach(Stage::Serving),
                Command::LastCall { retired } => {
                    if self.engine.begin_last_call_at(retired) {
                        self.retired_until_us
                            .push_back(clock::now_us() + as_us(HANDSHAKE));
                    }
                }
                Command::Drain {
                    sweep,
                    orphaned,
                    code,
                } => {
                    self.engine.gate.close();
                    if !sweep && !orphaned {
                        self.engine.gate.tell_closed();
                    } else if self.engine.begin_last_call() {
                        self.last_call_until_us = clock::now_us() + as_us(HANDSHAKE);
                    }
                    self.reach(Stage::Draining);
                    self.engine.begin_drain(Farewell {
                        code,
                        at_once: false,
                    });
                    if orphaned {
                        self.engine.let_go();
                    }
                }
                Command::Quit { code } => {
                    self.engine.gate.close();
                    self.reach(Stage::Quitting);
                    self.engine.begin_drain(Farewell {
                        code,
                        at_once: true,
                    });
                }
                Command::Close => {
                    self.engine.poll_connections();
                    self.engine.gate.drop_listeners();
                    self.reach(Stage::Closing);
                }
            }
            // What that has woken is seen at once.
            self.engine.pending.mark();
        }
    }

    /// Says that serving is over when there is nothing left to wait for.
    fn settle_stop(&mut self) {
        let may_end = match self.stage {
            Stage::Draining => {
                self.engine.open_connections() == 0 && !self.engine.gate.is_last_call()
            }
            Stage::Quitting => true,
            _ => false,
        };
        if may_end && self.intake.left() == 0 {
            self.reach(Stage::Ended);
            self.outbox.drained();
        }
    }

    fn reach(&mut self, stage: Stage) {
        self.stage = self.stage.max(stage);
    }

    fn beat(&mut self, standing: &Standing) {
        // Nothing wakes this thread when another one becomes idle.
        let is_busy = self.intake.active() >= standing.threads && !self.pool.may_grow(standing);
        self.engine.set_burden(if is_busy { BUSY } else { 0 });
        let now = clock::now_ms();
        if self.stage == Stage::Serving && now >= self.beat_at_ms {
            self.beat_at_ms = now + BEAT_MS;
            self.engine.gate.beat(self.engine.load());
        }
    }

    // === sleeping ===

    fn sleep(&mut self, standing: &Standing) {
        let pending = Arc::clone(&self.engine.pending);
        let dozes = standing.queued > 0 && std::mem::take(&mut self.lively);
        let (sleep, patience) = if dozes {
            (Sleep::Dozing, DOZE)
        } else {
            (Sleep::Asleep, self.patience(standing))
        };
        let is_rung = if !pending.set_sleep(sleep) {
            self.wait(pending.bell(), !dozes, patience)
        } else if clock::now_us() >= self.looked_at_us + as_us(DOZE) {
            // Whoever wants to connect does not wait until those who are connected are idle.
            self.wait(pending.bell(), false, Duration::ZERO)
        } else {
            false
        };
        pending.set_sleep(Sleep::Awake);
        if is_rung {
            pending.answer_bell();
        }
    }

    /// How long to wait for an event.
    fn patience(&self, standing: &Standing) -> Duration {
        let now_us = clock::refresh();
        let mut until_us = now_us + BEAT_MS * 1000;
        if let Some(look) = self.intake.next_look_ms() {
            until_us = until_us.min(look * 1000);
        }
        if self.last_call_until_us > now_us {
            until_us = until_us.min(self.last_call_until_us);
        }
        if let Some(until) = self.retired_until_us.front() {
            until_us = until_us.min(*until);
        }
        if let Some(oldest) = standing.oldest_us
            && standing.idle == 0
            && self.pool.may_grow(standing)
        {
            let grow_at = oldest + GROW_AFTER_US;
            if grow_at <= now_us {
                self.outbox.grow();
            } else {
                until_us = until_us.min(grow_at);
            }
        }
        for away in self.away.iter().filter(|away| away.until_us > now_us) {
            until_us = until_us.min(away.until_us);
        }
        Duration::from_micros(until_us.saturating_sub(now_us))
    }

    /// Waits for the bell, a listener, or, `with_sockets`, a connection, and takes new
    /// connections. Returns whether the bell has rung.
    fn wait(&mut self, bell: BorrowedFd<'_>, with_sockets: bool, patience: Duration) -> bool {
        let now_us = clock::now_us();
        self.looked_at_us = now_us;
        let load = self.engine.load();
        for away in self.away.iter_mut().filter(|away| load < away.below) {
            *away = Away::default();
        }
        let mut ready = Vec::new();
        let is_rung = self.engine.gate.with_listeners(|listeners| {
            let mut polled = vec![PollFd::new(bell, PollFlags::POLLIN)];
            let mut indices = Vec::new();
            if self.stage == Stage::Serving {
                for (index, listener) in listeners.enumerate() {
                    if self
                        .away
                        .get(index)
                        .is_some_and(|away| away.until_us <= now_us)
                    {
                        polled.push(PollFd::new(listener, PollFlags::POLLIN));
                        indices.push(index);
                    }
                }
            }
            if with_sockets {
                polled.push(PollFd::new(self.engine.epoll(), PollFlags::POLLIN));
            }
            poll(&mut polled, patience);
            let listeners = polled.iter().skip(1).zip(indices);
            ready.extend(
                listeners
                    .filter(|(polled, _)| is_ready(polled))
                    .map(|(_, index)| index),
            );
            is_ready(&polled[0])
        });
        for index in ready {
            self.accept(index);
        }
        is_rung
    }

    /// A listener is ready.
    fn accept(&mut self, index: usize) {
        let now_us = clock::refresh();
        let gate = &self.engine.gate;
        // One at a time: it may be all that the Python threads can begin with.
        let (time, below) = match gate.share(index, self.engine.load(), 1) {
            Share::LookAway { below } => (YIELD, below),
            Share::Take(most) => match self.engine.accept(index, most) {
                Ok(()) => return,
                Err(error) => {
                    gate.complain(&error);
                    (EXHAUSTED, 0)
                }
            },
        };
        if let Some(away) = self.away.get_mut(index) {
            let until_us = now_us + as_us(time);
            *away = Away { until_us, below };
        }
    }
}

fn as_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Waits for one of the descriptors. That it was interrupted is a reason to look around
/// like any other.
fn poll(polled: &mut [PollFd<'_>], patience: Duration) {
    let microseconds = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX);
    let _ = ppoll(polled, Some(TimeSpec::microseconds(microseconds)), None);
}

fn is_ready(polled: &PollFd<'_>) -> bool {
    polled.any().unwrap_or(false)
}

/// Lets the Python main thread have the signals of this process, but for those that say
/// that this thread itself is broken.
fn leave_signals_to_others() {
    let mut mask = SigSet::all();
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGABRT,
    ] {
        mask.remove(signal);
    }
    if let Err(error) = mask.thread_block() {
        tracing::debug!("signals may interrupt the I/O thread: {error}");
    }
}
