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
//! There is one thread. It never loads Python, never forks without exec (but once, at
//! the start, for [`daemon`]), and never sleeps. The order of the boot: signal handlers
//! first, so that no signal is lost however slow the rest is; then the configuration;
//! then the way into the background; then log files, pidfile and listeners, so that what
//! is wrong with them is told before the application is imported; then the fork server.

mod cgroup;
mod daemon;
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
mod pidfile;
mod processors;
mod recycle;
mod reload;
#[cfg(test)]
mod reload_tests;
mod roll;
#[cfg(test)]
mod roll_tests;
mod scale;
mod scaling;
#[cfg(test)]
mod scaling_tests;
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
mod status;
mod stop;
#[cfg(test)]
mod stop_tests;
mod supervision;
mod terminal;
mod worker;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use rsgun_core::config::{ConfigError, Settings, Source};
use rsgun_core::listeners::{self, Address, ListenError};
use rsgun_core::log;
use rsgun_core::log::output::{self, Files, LogFileError};
use rsgun_core::sys::signals::{Arrived, SignalQueue};
use rsgun_core::sys::{process, title};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel, unbounded_channel};

use self::daemon::{Detached, Launcher};
use self::effects::{Effects, Foundation, manner, own_title};
pub use self::event::Command;
use self::event::{Action, Event, Policy};
use self::moment::Moment;
use self::pidfile::PidFile;
pub use self::pidfile::PidFileError;
use self::state::State;
use self::terminal::Terminal;
pub use crate::control::socket::ControlSocketError;
use crate::control::socket::{ControlSocket, Question};
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
    /// A log file cannot be opened.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// The pidfile cannot be written.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    ControlSocket(#[from] ControlSocketError),
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
            Self::Listen(_)
            | Self::LogFile(_)
            | Self::PidFile(_)
            | Self::ControlSocket(_)
            | Self::Python(_)
            | Self::System(_) => 1,
        }
    }
}

/// Serves until the server is told to stop, or cannot start. Returns the exit code;
/// the reason of one that is not zero has been logged.
///
/// # Errors
/// [`MasterError`] before anything was started; it has not been logged.
pub fn run(source: Source) -> Result<u8, MasterError> {
    let terminal = Terminal::of_process();
    let signals = SignalQueue::install(&signals::HANDLED).map_err(MasterError::System)?;
    let surroundings = Surroundings::of_process();
    let settings = source.resolve()?;
    let directory = std::env::current_dir().map_err(MasterError::System)?;
    let mut terminal = Some(terminal);
    let mut launcher = None;
    if settings.daemon {
        match daemon::detach().map_err(MasterError::System)? {
            Detached::Launcher(code) => return Ok(code),
            Detached::Master(line) => launcher = Some(line),
        }
        terminal = None;
    }
    // Before the first file is made.
    if let Some(mask) = settings.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    let logs = start_logging(&settings, &directory, launcher.as_ref())?;
    title::set(&own_title(&settings));
    process::become_subreaper().map_err(MasterError::System)?;
    let _pidfile = (settings.pid.as_deref())
        .map(|path| PidFile::create(&directory.join(path)))
        .transpose()?;
    let control = (settings.control_socket.as_deref())
        .map(|path| ControlSocket::open(&directory.join(path)))
        .transpose()?;
    let manner = manner(&settings, settings.umask);
    let listeners = listeners::open_all(&settings.bind, manner)?;
    let (sender, queue) = unbounded_channel();
    let foundation = Foundation {
        surroundings,
        directory,
        settings,
        logs,
        listeners,
        launcher,
    };
    let (effects, policy) = Effects::new(source, foundation, sender)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(MasterError::System)?;
    runtime
        .block_on(async {
            let questions = control.as_ref().map(ControlSocket::listen).transpose()?;
            let questions = questions.unwrap_or_else(nobody);
            serve(signals, terminal, queue, questions, effects, policy).await
        })
        .map_err(MasterError::System)
}

/// Opens the log files and sets up logging. As long as the server does not serve, errors
/// and warnings are shown in the terminal as well, through the launcher if there is one.
fn start_logging(
    settings: &Settings,
    directory: &Path,
    launcher: Option<&Launcher>,
) -> Result<Files, MasterError> {
    let to_file = settings.error_logfile.is_file();
    if let Some(launcher) = launcher {
        output::show_to(launcher.line().map_err(MasterError::System)?);
    } else if to_file {
        let terminal = io::stderr().as_fd().try_clone_to_owned();
        output::show_to(terminal.map_err(MasterError::System)?);
    }
    if launcher.is_some() {
        let keep_input = settings.bind.contains(&Address::Fd(0));
        daemon::leave_streams(keep_input).map_err(MasterError::System)?;
    }
    let logs = Files::open(settings, directory)?;
    let own = logs.try_clone().map_err(MasterError::System)?;
    // In the foreground only the application's output is captured, not what its
    // interpreter says before it has been told of a log.
    log::init(settings.log_level, own, launcher.is_some() && to_file);
    if settings.worker_tmp_dir.is_some() {
        tracing::debug!(
            "--worker-tmp-dir is not needed: workers show that they live in shared memory, not \
             in a file"
        );
    }
    Ok(logs)
}

/// Nobody who asks for the status.
fn nobody() -> Receiver<Question> {
    channel(1).1
}

/// The event loop.
async fn serve(
    signals: SignalQueue,
    terminal: Option<Terminal>,
    mut queue: UnboundedReceiver<Event>,
    mut questions: Receiver<Question>,
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
                        Some(Arrived { signal: Signal::SIGCHLD, .. }) => {
                            known.extend(effects.reap());
                        }
                        Some(arrived) => {
                            known.extend(command(arrived, terminal).map(Event::Command));
                        }
                    }
                }
                // The sender lives in `effects`: the queue does not end.
                Some(event) = queue.recv() => known.push_back(event),
                Some(question) = questions.recv() => {
                    question.answer(&effects.status(&state, Moment::now()));
                }
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

/// What a signal asks for, depending on the terminal of a master in the foreground.
fn command(arrived: Arrived, terminal: Option<Terminal>) -> Option<Command> {
    match (arrived.signal, terminal) {
        (Signal::SIGHUP, Some(terminal)) => terminal.hang_up(arrived.sender),
        // It has another size.
        (Signal::SIGWINCH, Some(_)) => None,
        (signal, _) => signals::command(signal),
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
