//! The master process: boot order, and the one event loop.
//!
//! # Theory of operation
//!
//! Everything that happens, be it a signal, a message on a channel, the end of a child
//! or a deadline, becomes one `Event` in one queue. `State` decides
//! what to do about it, without touching anything; `Effects` does it. The
//! loop knows neither.
//!
//! ```text
//!   signals ──▶ pipe ─┐
//!   channels ─▶ tasks ┼─▶ queue ─▶ State::step ─▶ actions ─▶ Effects::perform
//!   deadline ─▶ timer ┘     ▲                                     │
//!                           └──────── what is known at once ◀─────┘
//! ```
//!
//! There is one thread. It never loads Python, never forks without exec, and never
//! sleeps. The order of the boot: signal handlers first, so that no signal is lost
//! however slow the rest is; then the configuration; then the listeners, so that an
//! address in use is told before the application is imported; then the fork server.

mod cgroup;
mod deaths;
mod effects;
mod event;
mod exit;
mod generation;
mod health;
#[cfg(test)]
mod health_tests;
mod link;
mod memory;
mod moment;
mod notice;
mod recycle;
mod reload;
#[cfg(test)]
mod reload_tests;
mod slot;
mod spawn;
mod stacks;
mod state;
#[cfg(test)]
mod state_properties;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod state_world;
mod stop;
mod supervision;
mod worker;

use std::collections::VecDeque;
use std::io;

use nix::sys::signal::Signal;
use rsgun_core::config::{ConfigError, Source};
use rsgun_core::listeners::{self, ListenError};
use rsgun_core::log;
use rsgun_core::sys::signals::SignalQueue;
use rsgun_core::sys::{process, title};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::effects::Effects;
pub use self::event::Command;
use self::event::{Action, Event, Policy};
use self::moment::Moment;
use self::state::State;
use crate::python::{PythonError, Surroundings};
use crate::signals;

/// What keeps the master from starting.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// The settings are wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no interpreter.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The system refuses what the master cannot do without.
    #[error("the system refuses what the master needs: {0}")]
    System(#[source] io::Error),
}

impl MasterError {
    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(error) => error.exit_code(),
            Self::Listen(_) | Self::Python(_) | Self::System(_) => 1,
        }
    }
}

/// Serves until the server is told to stop, or cannot start. Returns the exit code;
/// the reason of one that is not zero has been logged.
///
/// # Errors
/// [`MasterError`] before anything was started; it has not been logged.
pub fn run(source: Source) -> Result<u8, MasterError> {
    let signals = SignalQueue::install(&signals::HANDLED).map_err(MasterError::System)?;
    let surroundings = Surroundings::of_process();
    let settings = source.resolve()?;
    log::init(settings.log_level);
    title::set(&format!("rsgun: master [{}]", settings.app));
    process::become_subreaper().map_err(MasterError::System)?;
    let directory = std::env::current_dir().map_err(MasterError::System)?;
    let listeners = listeners::open_all(&settings.bind, settings.backlog)?;
    let (sender, queue) = unbounded_channel();
    let (effects, policy) =
        Effects::new(source, surroundings, directory, settings, listeners, sender)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(MasterError::System)?;
    runtime
        .block_on(serve(signals, queue, effects, policy))
        .map_err(MasterError::System)
}

/// The event loop.
async fn serve(
    signals: SignalQueue,
    mut queue: UnboundedReceiver<Event>,
    mut effects: Effects,
    policy: Policy,
) -> io::Result<u8> {
    let signals = link::watch(signals)?;
    let (mut state, actions) = State::boot(Moment::now(), policy);
    let mut known = VecDeque::new();
    if let Some(code) = perform(&mut effects, actions, &mut known) {
        return Ok(code);
    }
    loop {
        if known.is_empty() {
            let deadline = state.next_deadline();
            let pause = deadline.map(|deadline| deadline.since(Moment::now()));
            tokio::select! {
                ready = signals.readable() => {
                    let mut ready = ready?;
                    match signals.get_ref().next()? {
                        None => ready.clear_ready(),
                        Some(Signal::SIGCHLD) => known.extend(effects.reap()),
                        Some(signal) => {
                            known.extend(signals::command(signal).map(Event::Command));
                        }
                    }
                }
                // The sender lives in `effects`: the queue does not end.
                Some(event) = queue.recv() => known.push_back(event),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    known.push_back(Event::Tick);
                }
            }
        }
        while let Some(event) = known.pop_front() {
            tracing::trace!("event: {event:?}");
            let actions = state.step(Moment::now(), event);
            if let Some(code) = perform(&mut effects, actions, &mut known) {
                return Ok(code);
            }
        }
    }
}

/// Carries out actions; what is known at once about them is put in front of the other
/// events. Returns the exit code when the master is to end.
fn perform(effects: &mut Effects, actions: Vec<Action>, known: &mut VecDeque<Event>) -> Option<u8> {
    let mut at_once = VecDeque::new();
    for action in actions {
        tracing::trace!("action: {action:?}");
        if let Action::Exit { code } = action {
            return Some(code);
        }
        at_once.extend(effects.perform(action));
    }
    at_once.append(known);
    *known = at_once;
    None
}
