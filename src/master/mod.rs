//! The master process: how it boots, and the parts that it is made of.
//!
//! # Theory of operation
//!
//! [`State`] decides, [`Effects`] does, and [`event_loop`] stands between them and all that
//! happens. There is one thread, but for the moment in which a reload looks up a host. It
//! never loads Python, never forks without exec (but once, at the start, for [`daemon`]), and
//! never sleeps.
//!
//! The order of the boot: signal handlers first, so that no signal is lost however slow the
//! rest is; then the configuration, for which a fork server is started if it is Python
//! ([`evaluation`]); then the way into the background; then log files, pidfile and listeners,
//! so that what is wrong with them is told before the application is imported; then the fork
//! server.

mod activation;
mod arrivals;
#[cfg(test)]
mod boot_tests;
mod cgroup;
mod daemon;
mod deaths;
mod effects;
mod evaluation;
mod event;
mod event_loop;
mod exit;
mod generation;
mod health;
#[cfg(test)]
mod health_tests;
mod hooks;
#[cfg(test)]
mod hooks_tests;
mod link;
mod memory;
mod moment;
mod news;
#[cfg(test)]
mod news_tests;
mod notice;
mod pauses;
#[cfg(test)]
mod pauses_tests;
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
mod state_world;
mod status;
mod stop;
#[cfg(test)]
mod stop_tests;
mod supervision;
#[cfg(test)]
mod supervision_tests;
mod terminal;
mod upgrade;
mod wishes;
#[cfg(test)]
mod wishes_tests;
mod worker;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use rsgun_core::config::{ConfigError, Settings, Source};
use rsgun_core::listeners::{self, Address, ListenError};
use rsgun_core::log;
use rsgun_core::log::output::{self, Files, LogFileError};
use rsgun_core::sys::signals::{SignalQueue, let_signals_in};
use rsgun_core::sys::{process, title};
use tokio::sync::mpsc::unbounded_channel;

use self::daemon::{Detached, Launcher};
use self::effects::{Effects, Foundation, manner, own_title};
use self::evaluation::{Prepared, Step, Watch};
pub use self::event::Command;
use self::event_loop::Begun;
use self::moment::Moment;
use self::pidfile::PidFile;
pub use self::pidfile::PidFileError;
use self::state::State;
use self::terminal::Terminal;
use self::upgrade::Kind;
pub use self::upgrade::{DirectoryError, Invocation, Purpose};
use crate::control::socket::ControlSocket;
pub use crate::control::socket::ControlSocketError;
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
    /// The directory that it was started in is gone.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The configuration is a file of Python that could not be evaluated.
    #[error("{0}")]
    Evaluation(String),
    /// The system refuses what the master cannot do without.
    #[error(
        "the system refuses what the master needs: {0}{advice}",
        advice = process::scarcity(.0)
            .map(|advice| format!("\n{advice}"))
            .unwrap_or_default()
    )]
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
            | Self::Directory(_)
            | Self::Evaluation(_)
            | Self::System(_) => 1,
        }
    }
}

/// Does what this program was started for: serves until the server is told to stop, or
/// cannot start. Returns the exit code; the reason of one that is not zero has been logged.
///
/// # Errors
/// [`MasterError`] before anything was started; it has not been logged.
pub fn run(source: Source, invocation: Invocation, purpose: Purpose) -> Result<u8, MasterError> {
    log::put::hurry();
    match purpose.kind() {
        Kind::Serve => boot(source, invocation),
        Kind::Prove(channel) => upgrade::candidate::run(source, invocation, channel),
        Kind::TakeOver(passage) => upgrade::successor::run(source, invocation, passage),
    }
}

fn boot(source: Source, invocation: Invocation) -> Result<u8, MasterError> {
    let terminal = Terminal::of_process();
    let signals = SignalQueue::install(&signals::HANDLED).map_err(MasterError::System)?;
    // Whoever has started this program may have blocked some.
    let_signals_in().map_err(MasterError::System)?;
    let surroundings = Surroundings::of_process();
    let directory = invocation.directory().to_owned();
    let mut terminal = Some(terminal);
    let mut postponed = Vec::new();
    let mut prepare = |terminal, in_background| {
        let mut watch = Watch {
            signals: &signals,
            authority: arrivals::Authority::Anybody(terminal),
            postponed: &mut postponed,
        };
        evaluation::prepare(&source, &surroundings, &mut watch, 1, in_background)
    };
    let mut launcher = None;
    let prepared = match prepare(terminal, false)? {
        Step::Stopped => return Ok(0),
        Step::Prepared(prepared) => Some(prepared),
        Step::Background => None,
    };
    let prepared = match prepared {
        Some(prepared) if !prepared.settings.daemon => prepared,
        prepared => {
            // A process that belongs to this one must not be the master's.
            let settled = prepared.and_then(Prepared::without_fork_server);
            match daemon::detach().map_err(MasterError::System)? {
                Detached::Launcher(code) => return Ok(code),
                Detached::Master(line) => {
                    output::show_to(line.line().map_err(MasterError::System)?);
                    launcher = Some(line);
                }
            }
            terminal = None;
            match settled {
                Some(settled) => settled,
                None => match prepare(terminal, true)? {
                    Step::Prepared(prepared) => prepared,
                    Step::Stopped | Step::Background => return Ok(0),
                },
            }
        }
    };
    let Prepared {
        settings,
        warnings,
        early,
    } = *prepared;
    // Before the first file is made.
    if let Some(mask) = settings.umask {
        set_umask(mask);
    }
    let logs = start_logging(&settings, &directory, launcher.as_ref(), |error| {
        error.located(&source, early.as_ref().map(|early| &early.file))
    })?;
    for note in source.notes() {
        tracing::info!("{note}");
    }
    let overlooked = activation::overlooked(source.sockets(), &settings.bind);
    let unread = source.unread().into_iter();
    for warning in unread.chain(warnings.iter().cloned()).chain(overlooked) {
        tracing::warn!("{warning}");
    }
    title::set(&own_title(&settings));
    process::become_subreaper().map_err(MasterError::System)?;
    let pidfile = (settings.pid.as_deref())
        .map(|path| PidFile::create(&directory.join(path)))
        .transpose()?;
    let control = (settings.control_socket.as_deref())
        .map(|path| ControlSocket::open(&directory.join(path)))
        .transpose()?;
    let manner = manner(&settings, settings.umask);
    let listeners = listeners::open_all(&settings.bind, manner)?;
    let (sender, queue) = unbounded_channel();
    let foundation = Foundation {
        launcher,
        pidfile,
        terminal,
        early,
        warned: warnings,
        ..Foundation::new(surroundings, invocation, settings, logs, listeners)
    };
    let (effects, policy) = Effects::new(source, foundation, 1, sender)?;
    let begun = State::boot(Moment::now(), policy);
    let begun = Begun { begun, postponed };
    event_loop::run(
        &event_loop::runtime()?,
        signals,
        control.as_ref(),
        queue,
        effects,
        begun,
    )
}

fn set_umask(mask: u32) {
    umask(Mode::from_bits_truncate(mask));
}

/// Opens the log files and sets up logging. As long as the server does not serve, errors
/// and warnings are shown in the terminal as well, through the launcher if there is one.
fn start_logging(
    settings: &Settings,
    directory: &Path,
    launcher: Option<&Launcher>,
    located: impl FnOnce(LogFileError) -> LogFileError,
) -> Result<Files, MasterError> {
    let to_file = settings.error_logfile.is_file();
    if to_file && launcher.is_none() {
        let terminal = io::stderr().as_fd().try_clone_to_owned();
        output::show_to(terminal.map_err(MasterError::System)?);
    }
    if launcher.is_some() {
        let keep_input = settings.bind.contains(&Address::Fd(0));
        daemon::leave_streams(keep_input).map_err(MasterError::System)?;
    }
    let logs = Files::open(settings, directory).map_err(located)?;
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
