//! The orders that a worker gets, and how it carries them out.
//!
//! They come from the master over the channel, from signals to this worker alone, from the
//! program that is its own worker, and from the end of the channel. One that comes before
//! anything is served is kept until then.

use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use pyo3::prelude::*;
use rsgun_core::ipc::{BEREFT, ChannelError, DRAIN_MARGIN_MS, DrainReason, ToWorker};
use rsgun_core::scoreboard::Phase;
use rsgun_core::sys::parent_death;
use rsgun_websocket::close;

use super::Worker;
use crate::worker::change_logs;
use crate::worker::keeper::Keeper;
use crate::wsgi::service::Service;

/// Seconds after the end of its channel in which a worker comes to know whether the master
/// is gone: a process closes its channels before its children get another parent. If it is
/// there still, it has given up this worker alone, or was only a candidate.
const INHERITANCE: f64 = 0.1;
/// Seconds until a worker asks again for log files for which it had no descriptors.
const ANOTHER_TRY: f64 = 1.0;

/// What makes a worker stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Drain {
        within_ms: u64,
        sweep: bool,
        orphaned: bool,
    },
    Quit,
}

impl Worker {
    /// Reads what the master has sent.
    pub(super) fn receive(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Keeper::Master(master) = &*this.keeper else {
            return Ok(());
        };
        loop {
            let order = match master.try_recv() {
                Ok(Some(message)) => match message.body {
                    ToWorker::Acknowledge => continue,
                    ToWorker::ChangeLogs if message.bereft => {
                        if !mem::replace(&mut this.lock().lacks_logs, true) {
                            tracing::warn!("the log files stay as they are for now: {BEREFT}");
                        }
                        Self::call_later(slf, ANOTHER_TRY, "reopen_logs")?;
                        continue;
                    }
                    ToWorker::ChangeLogs => {
                        change_logs(message.fds);
                        this.lock().lacks_logs = false;
                        continue;
                    }
                    ToWorker::LastCall if message.bereft => {
                        tracing::warn!("clients of a former address may be lost: {BEREFT}");
                        continue;
                    }
                    ToWorker::LastCall => {
                        if let Some(service) = this.service(py) {
                            service.get().last_call_at(message.fds);
                        } else if let Ok(reactor) = this.reactor() {
                            reactor.last_call_at(py, message.fds);
                        }
                        continue;
                    }
                    ToWorker::StopsSoon => {
                        if let Some(service) = this.service(py) {
                            service.get().announce_stop();
                        } else if let Ok(reactor) = this.reactor() {
                            reactor.engine.announce_stop();
                        }
                        continue;
                    }
                    ToWorker::Quit => Order::Quit,
                    ToWorker::Drain { within_ms, reason } => Order::Drain {
                        within_ms,
                        sweep: reason == DrainReason::Stop,
                        orphaned: false,
                    },
                },
                Ok(None) => {
                    this.stop_listening(py, master.as_fd());
                    return Self::call_later(slf, INHERITANCE, "_drain_abandoned");
                }
                Err(ChannelError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(());
                }
                Err(error @ (ChannelError::Format(_) | ChannelError::Damaged(_))) => {
                    tracing::error!("ignoring what the master has sent: {error}");
                    continue;
                }
                Err(ChannelError::Io(error)) => {
                    tracing::error!("the channel to the master is broken: {error}");
                    this.stop_listening(py, master.as_fd());
                    return Ok(());
                }
            };
            this.carry_out(py, order);
        }
    }

    fn stop_listening(&self, py: Python<'_>, fd: BorrowedFd<'_>) {
        let event_loop = self
            .lock()
            .ends
            .as_ref()
            .map(|(event_loop, _)| event_loop.clone_ref(py));
        if let Some(event_loop) = event_loop
            && let Err(error) = event_loop.call_method1(py, "remove_reader", (fd.as_raw_fd(),))
        {
            tracing::debug!("the channel could not be taken off: {}", error.value(py));
        }
    }

    /// Finishes what is left: nobody is there any more who could give orders. Unless the
    /// whole server has lost its master, others go on with the listeners.
    pub(super) fn drain_abandoned(&self, py: Python<'_>) {
        let orphaned = !parent_death::is_provided_for();
        if orphaned {
            tracing::warn!("the master is gone: finishing what is left, then leaving");
        }
        self.carry_out(
            py,
            Order::Drain {
                within_ms: orphan_drain_ms(self.graceful_ms),
                sweep: false,
                orphaned,
            },
        );
    }

    /// Stops serving as ordered. Before anything is served the order is kept, and whoever
    /// waits for the end of serving goes on.
    pub(super) fn carry_out(&self, py: Python<'_>, order: Order) {
        let service = self.service(py);
        if order == Order::Quit
            && !mem::replace(&mut self.lock().quits, true)
            && (service.is_some() || self.reactor().is_ok())
            && let Some(hooks) = &self.hooks
        {
            hooks.interrupted(py);
        }
        if let Some(service) = service {
            if let Err(error) = carry_out_wsgi(&service, order) {
                tracing::error!("an order of the master failed: {}", error.value(py));
            }
            return;
        }
        let Ok(reactor) = self.reactor() else {
            let mut state = self.lock();
            state.order = Some(order);
            let stopped = state
                .ends
                .as_ref()
                .map(|(_, stopped)| stopped.clone_ref(py));
            drop(state);
            if let Some(stopped) = stopped
                && let Err(error) = stopped.call_method1(py, "set_result", (py.None(),))
            {
                tracing::debug!("the worker was told to stop twice: {}", error.value(py));
            }
            return;
        };
        match order {
            Order::Drain {
                within_ms,
                sweep,
                orphaned,
            } => {
                let code = if sweep {
                    close::GOING_AWAY
                } else {
                    close::SERVICE_RESTART
                };
                if reactor.drain(py, within_ms, code, sweep || orphaned) {
                    reactor.engine.board.set_phase(Phase::Draining);
                }
                if orphaned {
                    reactor.engine.let_go();
                }
            }
            Order::Quit => reactor.quit(py),
        }
    }
}

fn carry_out_wsgi(service: &Bound<'_, Service>, order: Order) -> PyResult<()> {
    match order {
        Order::Drain {
            within_ms,
            sweep,
            orphaned,
        } => {
            if Service::drain(service, within_ms, sweep, orphaned)? {
                service.get().board().set_phase(Phase::Draining);
            }
            Ok(())
        }
        Order::Quit => Service::quit(service),
    }
}

/// How long an orphan drains: the kernel ends it after the whole graceful time-out, so
/// that cleaning up and the lifespan shutdown must fit in as well.
fn orphan_drain_ms(graceful_ms: u64) -> u64 {
    graceful_ms
        .checked_sub(DRAIN_MARGIN_MS)
        .filter(|rest| *rest >= DRAIN_MARGIN_MS)
        .unwrap_or(graceful_ms / 2)
}
