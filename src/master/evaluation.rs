//! The boot with a configuration that is a file of Python.
//!
//! What the master must know before it does anything else, where to listen, say, or
//! whether to go into the background, may stand in a file that only Python can read. So
//! the first fork server is started first of all and evaluates it, before the
//! event loop runs; afterwards it is handed over to the loop like any other one. A reload
//! does the same from within the loop. The candidate of an upgrade boots like a master.
//!
//! Signals are watched meanwhile: one that ends the server ends the boot, and what others
//! ask for waits until the loop runs.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rsgun_core::config::{Configured, PythonFile, PythonSource, Settings, Source};
use rsgun_core::ipc::{ChannelError, FromForkServer, ToForkServer};
use rsgun_core::sys::signals::SignalQueue;

use super::MasterError;
use super::arrivals::{self, Authority};
use super::deaths::ended_early;
use super::effects::interpreter;
use super::event::Command;
use super::exit::Exit;
use super::spawn::{Interpreter, ServerChannel};
use crate::python::Surroundings;

/// A fork server that has evaluated the configuration and waits for its settings.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) pid: i32,
    pub(super) channel: ServerChannel,
    /// Its greeting, for the loop.
    pub(super) hello: FromForkServer,
    /// What it was started with.
    pub(super) interpreter: Interpreter,
    pub(super) file: PythonFile,
}

/// How an evaluation went.
enum Outcome {
    /// It has gone well.
    Done(Box<Early>),
    /// A signal has ended the boot.
    Stopped,
}

/// Who is listened to while the loop does not run yet.
pub(super) struct Watch<'a> {
    pub(super) signals: &'a SignalQueue,
    pub(super) authority: Authority,
    /// What was asked for that can wait.
    pub(super) postponed: &'a mut Vec<Command>,
}

/// A fork server in the making.
struct Candidate {
    pid: Pid,
    channel: ServerChannel,
    /// Its channel has ended.
    closed: bool,
    /// It was reaped.
    exit: Option<Exit>,
}

/// What is heard of a candidate.
enum Heard {
    Message(FromForkServer),
    /// It has ended.
    End(Exit),
    /// A signal has come that ends the server.
    Stop,
    TooLate,
}

/// The settings, and what it took to know them.
pub(super) struct Prepared {
    pub(super) settings: Settings,
    /// About settings that have no effect.
    pub(super) warnings: Vec<String>,
    /// The fork server that has evaluated the configuration, if that is Python.
    pub(super) early: Option<Box<Early>>,
}

/// How far [`prepare`] has come.
pub(super) enum Step {
    Prepared(Box<Prepared>),
    /// The server is to run in the background, and more is not known without Python.
    Background,
    /// A signal has ended the boot.
    Stopped,
}

impl Prepared {
    /// Ends the fork server, if there is one; the settings are then to be found out again.
    pub(super) fn without_fork_server(mut self: Box<Self>) -> Option<Box<Self>> {
        match self.early.take() {
            None => Some(self),
            Some(early) => {
                early.abandon();
                None
            }
        }
    }
}

/// Finds out the settings, if need be with the fork server of this generation. In the
/// background nothing may hold on to the terminal.
///
/// # Errors
/// What is wrong with the settings, or keeps a fork server from starting.
pub(super) fn prepare(
    source: &Source,
    surroundings: &Surroundings,
    watch: &mut Watch<'_>,
    generation: u32,
    in_background: bool,
) -> Result<Step, MasterError> {
    let (file, known) = match source.look()? {
        Configured::Completely { settings, warnings } => {
            return Ok(Step::Prepared(Box::new(Prepared {
                settings: *settings,
                warnings,
                early: None,
            })));
        }
        Configured::But { known, .. } if known.daemon && !in_background => {
            return Ok(Step::Background);
        }
        Configured::But { file, known } => (file, known),
    };
    let mut interpreter = interpreter(&known, surroundings)?;
    // A candidate has the streams of its master, which has left the terminal if it should.
    interpreter.quiet = in_background && !matches!(watch.authority, Authority::Master(_));
    let outcome =
        evaluate(interpreter, &file, &known, generation, watch).map_err(MasterError::Evaluation)?;
    let early = match outcome {
        Outcome::Stopped => return Ok(Step::Stopped),
        Outcome::Done(early) => early,
    };
    match source.complete(&early.file) {
        Ok((settings, warnings)) => Ok(Step::Prepared(Box::new(Prepared {
            settings,
            warnings,
            early: Some(early),
        }))),
        Err(error) => {
            early.abandon();
            Err(error.into())
        }
    }
}

/// Starts a fork server and has it evaluate `file`. `known` are the settings without it.
///
/// # Errors
/// A text for the user: why there is no fork server, or what is wrong with the file.
fn evaluate(
    interpreter: Interpreter,
    file: &PythonSource,
    known: &Settings,
    generation: u32,
    watch: &mut Watch<'_>,
) -> Result<Outcome, String> {
    let limit = Duration::from_secs(known.boot_timeout.into());
    let by = (!limit.is_zero()).then(|| Instant::now() + limit);
    let (pid, channel) = interpreter.launch()?;
    let mut candidate = Candidate {
        pid: Pid::from_raw(pid),
        channel,
        closed: false,
        exit: None,
    };
    let mut hello = None;
    loop {
        let message = match watch.hear(&mut candidate, by)? {
            Heard::Message(message) => interpreter.check(message),
            Heard::Stop => {
                candidate.abandon();
                return Ok(Outcome::Stopped);
            }
            Heard::End(exit) => {
                candidate.abandon();
                return Err(if hello.is_some() {
                    format!("The interpreter {exit} while it evaluated {file}")
                } else {
                    ended_early(interpreter.python.display(), exit)
                });
            }
            Heard::TooLate => {
                candidate.abandon();
                return Err(format!(
                    "{file} was not evaluated within {} s: see what it does, or raise --boot-timeout",
                    limit.as_secs()
                ));
            }
        };
        match message {
            FromForkServer::Hello { .. } => {
                hello = Some(message);
                let order = ToForkServer::Evaluate {
                    generation,
                    file: file.clone(),
                };
                // If it is gone, the next thing that is heard of it is its end.
                let _ = candidate.channel.send(&order, &[]);
            }
            FromForkServer::Evaluated(file) => {
                if let Some(hello) = hello {
                    return Ok(Outcome::Done(Box::new(Early {
                        pid,
                        channel: candidate.channel,
                        hello,
                        interpreter,
                        file,
                    })));
                }
            }
            FromForkServer::Unsuitable { reason } => {
                candidate.abandon();
                return Err(reason);
            }
            FromForkServer::Failed(failure) => {
                candidate.abandon();
                let traceback = failure.traceback.unwrap_or_default();
                return Err(format!("{}\n{traceback}", failure.message));
            }
            // It has been told nothing that would make it say this.
            FromForkServer::Loaded
            | FromForkServer::Declined { .. }
            | FromForkServer::Threads { .. }
            | FromForkServer::SpawnFailed { .. } => {}
        }
    }
}

impl Early {
    /// Ends a fork server that has shown that another process must be the master.
    pub(super) fn abandon(self) {
        let candidate = Candidate {
            pid: Pid::from_raw(self.pid),
            channel: self.channel,
            closed: false,
            exit: None,
        };
        candidate.abandon();
    }
}

impl Candidate {
    /// Ends it, whatever it does.
    fn abandon(self) {
        if self.exit.is_none() && kill(self.pid, Signal::SIGKILL).is_ok() {
            // SIGKILL leaves nothing to wait for but the kernel.
            let _ = waitpid(self.pid, None);
        }
    }

    /// The next message, if there is one.
    fn message(&mut self) -> Option<FromForkServer> {
        while !self.closed {
            match self.channel.try_recv() {
                Ok(Some(message)) => return Some(message.body),
                Err(ChannelError::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(None) | Err(ChannelError::Io(_)) => self.closed = true,
                // Nonsense is not an answer; the next message may be one.
                Err(ChannelError::Format(_) | ChannelError::Damaged(_)) => {}
            }
        }
        None
    }

    fn reap(&mut self) {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) => self.exit = Exit::from_wait(status).map(|(_, exit)| exit),
            Err(Errno::EINTR) => {}
            Err(_) => self.exit = Some(Exit::Unknown),
        }
    }
}

impl Watch<'_> {
    /// Waits for the candidate to say something, to end, or to be given up.
    fn hear(&mut self, candidate: &mut Candidate, by: Option<Instant>) -> Result<Heard, String> {
        loop {
            if self.stop_wanted()? {
                return Ok(Heard::Stop);
            }
            if let Some(message) = candidate.message() {
                return Ok(Heard::Message(message));
            }
            if let Some(exit) = candidate.exit {
                return Ok(Heard::End(exit));
            }
            candidate.reap();
            if candidate.exit.is_some() {
                // It may have said something in the last moment.
                continue;
            }
            let left = by.map(|by| by.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Heard::TooLate);
            }
            self.wait(candidate, left)?;
        }
    }

    /// Takes note of the signals that have come; whether one of them ends the server.
    fn stop_wanted(&mut self) -> Result<bool, String> {
        while let Some(arrived) = self.signals.next().map_err(refused)? {
            match arrivals::command(arrived, self.authority) {
                Some(Command::Stop | Command::StopQuickly) => return Ok(true),
                Some(command) => self.postponed.push(command),
                None => {}
            }
        }
        Ok(false)
    }

    fn wait(&self, candidate: &Candidate, left: Option<Duration>) -> Result<(), String> {
        let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if !candidate.closed {
            sources.push(PollFd::new(candidate.channel.as_fd(), PollFlags::POLLIN));
        }
        // A longer wait is begun anew.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            let rounded = left + Duration::from_millis(1);
            PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut sources, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }
}

fn refused(error: impl std::fmt::Display) -> String {
    format!("the system refuses what the master needs: {error}")
}
