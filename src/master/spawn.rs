//! How processes are made: the fork server by exec, a worker by asking for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rsgun_core::bootstrap;
use rsgun_core::ipc::{
    Channel, Extension, FromForkServer, FromWorker, Identity, Message, Role, ToForkServer,
    ToWorker, WorkerId,
};
use rsgun_core::listeners::{Listener, Origin};
use rsgun_core::roster::Roster;
use rsgun_core::scoreboard::Scoreboard;
use rsgun_core::sys::credentials::Credentials;
use rsgun_core::sys::shared::Shared;
use rsgun_core::sys::signals::HeldBack;
use rsgun_core::sys::stacks::Report;
use rsgun_core::sys::{channel, process};
use tokio::sync::mpsc::UnboundedSender;

use super::activation;
use super::event::Event;
use super::link::Link;

/// The master's end of the channel of a fork server.
pub(super) type ServerChannel = Channel<ToForkServer, FromForkServer>;

/// What a fork server is started with.
#[derive(Debug, Clone)]
pub(super) struct Interpreter {
    /// The Python.
    pub(super) python: PathBuf,
    /// How it finds rsgun.
    pub(super) extension: Extension,
    /// Variables for it, `NAME=VALUE`.
    pub(super) variables: Vec<String>,
    /// Whom it runs as, if not as the master does.
    pub(super) run_as: Option<Credentials>,
    /// Its standard streams lead nowhere until it is configured.
    pub(super) quiet: bool,
}

impl Interpreter {
    /// Starts a fork server and connects it with the loop. Returns its pid and the
    /// master's end of its channel.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn start(
        &self,
        generation: u32,
        events: UnboundedSender<Event>,
    ) -> Result<(i32, Link<ToForkServer>), String> {
        let (pid, channel) = self.launch()?;
        let link = self
            .link(generation, channel, events)
            .map_err(|error| self.failed(&error))?;
        Ok((pid, link))
    }

    /// Starts a fork server. Returns its pid and the master's end of its channel.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn launch(&self) -> Result<(i32, ServerChannel), String> {
        let start = || {
            let (ours, theirs) = channel::pair()?;
            let pid = self.exec(theirs)?;
            Ok((pid, Channel::new(ours)))
        };
        start().map_err(|error: io::Error| self.failed(&error))
    }

    /// The master's end of the channel to a fork server that runs.
    ///
    /// # Errors
    /// What the registration with the loop returns.
    pub(super) fn link(
        &self,
        generation: u32,
        channel: ServerChannel,
        events: UnboundedSender<Event>,
    ) -> io::Result<Link<ToForkServer>> {
        let version_of = self.clone();
        Link::open(
            channel,
            events,
            move |message| Event::ForkServer {
                generation,
                message: version_of.check(message.body),
            },
            Event::ForkServerClosed { generation },
        )
    }

    fn failed(&self, error: &io::Error) -> String {
        let advice = process::scarcity(error).unwrap_or("Name another one with --python.");
        let as_whom = self.run_as.as_ref().map(|run_as| {
            format!(
                " as user {} and group {}, who must be able to reach and execute it",
                run_as.uid, run_as.gid
            )
        });
        format!(
            "cannot start the interpreter {}{}: {error}\n{advice}",
            self.python.display(),
            as_whom.unwrap_or_default()
        )
    }

    fn exec(&self, channel: OwnedFd) -> io::Result<i32> {
        // Rust reports a failed exec through a pipe of its own, which must not get the
        // number at which the child expects its channel.
        let _placeholder = (process::next_fd_number()? <= bootstrap::CHANNEL_FD)
            .then(process::placeholder)
            .transpose()?;
        let mut command = Command::new(&self.python);
        command
            .arg("-c")
            .arg(bootstrap::SCRIPT)
            .arg(bootstrap::FORK_SERVER);
        command.arg(bootstrap::CHANNEL_FD.to_string());
        match &self.extension {
            Extension::File(path) => command.arg(path),
            Extension::Installed => command.arg("-"),
        };
        for name in activation::VARIABLES {
            command.env_remove(name);
        }
        let variables = self
            .variables
            .iter()
            .filter_map(|text| text.split_once('='));
        command.envs(variables);
        if self.quiet {
            command.stdin(Stdio::null());
            command.stdout(Stdio::null());
            command.stderr(Stdio::null());
        }
        process::prepare_child(
            &mut command,
            vec![(channel, bootstrap::CHANNEL_FD)],
            self.run_as.clone(),
        );
        let _held_back = HeldBack::start()?;
        // Dropping the handle neither kills nor reaps: the one reaper of the master does.
        let child = command.spawn()?;
        i32::try_from(child.id()).map_err(io::Error::other)
    }

    /// Turns the greeting of another version into a refusal.
    pub(super) fn check(&self, message: FromForkServer) -> FromForkServer {
        match message {
            FromForkServer::Hello { version, .. } if version != rsgun_core::VERSION => {
                FromForkServer::Unsuitable {
                    reason: self.other_version(&version),
                }
            }
            other => other,
        }
    }

    fn other_version(&self, version: &str) -> String {
        let ours = rsgun_core::VERSION;
        match &self.extension {
            Extension::File(path) => format!(
                "this rsgun is version {ours}, but its extension {} is version {version}\n\
                 Build both anew: cargo build.",
                path.display()
            ),
            Extension::Installed => format!(
                "this rsgun is version {ours}, but the one that {} imports is version {version}\n\
                 Run the rsgun of that environment, install rsgun {ours} into it, or name \
                 another interpreter with --python.",
                self.python.display()
            ),
        }
    }
}

/// The master's side of a worker.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    pub(super) generation: u32,
    pub(super) link: Link<ToWorker>,
    pub(super) scoreboard: Shared<Scoreboard>,
    /// Where it writes its stacks.
    pub(super) report: Report,
}

impl WorkerHandle {
    /// Makes channel and scoreboard of a new worker and asks its fork server for it.
    ///
    /// # Errors
    /// What the system calls return, chiefly `EMFILE`.
    pub(super) fn ask(
        server: &Link<ToForkServer>,
        identity: Identity,
        roster: &Shared<Roster>,
        listeners: &[&Listener],
        events: UnboundedSender<Event>,
    ) -> io::Result<Self> {
        let id = identity.id;
        let (ours, theirs) = channel::pair()?;
        let scoreboard = Shared::<Scoreboard>::create(c"rsgun-scoreboard")?;
        let report = Report::create()?;
        let mut fds = vec![
            theirs,
            copy(scoreboard.file())?,
            copy(roster.file())?,
            copy(report.as_fd())?,
        ];
        for listener in listeners {
            fds.push(copy(listener.as_fd())?);
        }
        let link = Self::link(id, Channel::new(ours), events)?;
        let listeners = roles(listeners, identity.slot);
        server.send(
            ToForkServer::Spawn {
                identity,
                listeners,
            },
            fds,
        );
        Ok(Self {
            generation: identity.generation,
            link,
            scoreboard,
            report,
        })
    }

    /// The master's end of the channel to a worker.
    ///
    /// # Errors
    /// What the registration with the loop returns.
    pub(super) fn link(
        id: WorkerId,
        channel: Channel<ToWorker, FromWorker>,
        events: UnboundedSender<Event>,
    ) -> io::Result<Link<ToWorker>> {
        Link::open(
            channel,
            events,
            move |message| Event::Worker {
                id,
                message: attested(message),
            },
            Event::WorkerClosed { id },
        )
    }
}

/// What a worker says, but who it is in the words of the kernel: it could name any process,
/// and have the master kill that. 0 stands for nobody.
fn attested(message: Message<FromWorker>) -> FromWorker {
    match message.body {
        FromWorker::Hello { .. } => FromWorker::Hello {
            pid: message.sender.unwrap_or(0),
        },
        other => other,
    }
}

/// What each listener is to the worker of a slot. Of several sockets with the same
/// address each belongs to a slot, in turn; a slot's next worker gets the same one.
fn roles(listeners: &[&Listener], slot: u32) -> Vec<Role> {
    let turn = usize::try_from(slot.saturating_sub(1)).unwrap_or(0);
    let same = |one: &Listener, other: &Listener| {
        one.local() == other.local() && one.requested() == other.requested()
    };
    let role = |(index, listener): (usize, &&Listener)| {
        let before = (listeners[..index].iter())
            .filter(|other| same(other, listener))
            .count();
        let all = listeners
            .iter()
            .filter(|other| same(other, listener))
            .count();
        Role {
            inherited: listener.origin() == Origin::Inherited,
            own: turn % all == before,
        }
    };
    listeners.iter().enumerate().map(role).collect()
}

fn copy(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn advice_is_about_what_is_missing() {
        let interpreter = Interpreter {
            python: "/venv/bin/python3".into(),
            extension: Extension::Installed,
            variables: Vec::new(),
            run_as: None,
            quiet: false,
        };
        let text = |errno: Errno| interpreter.failed(&errno.into());
        assert!(text(Errno::EMFILE).contains("`ulimit -n`"));
        assert!(text(Errno::EAGAIN).contains("`ulimit -u`"));
        assert!(text(Errno::ENOENT).contains("--python"));
    }

    #[test]
    fn another_version_is_refused_with_advice() {
        let interpreter = Interpreter {
            python: "/venv/bin/python3".into(),
            extension: Extension::Installed,
            variables: Vec::new(),
            run_as: None,
            quiet: false,
        };
        let hello = |version: &str| FromForkServer::Hello {
            version: version.to_owned(),
            python: "3.12.1".to_owned(),
        };
        assert!(matches!(
            interpreter.check(hello(rsgun_core::VERSION)),
            FromForkServer::Hello { .. }
        ));
        let FromForkServer::Unsuitable { reason } = interpreter.check(hello("0.0.9")) else {
            panic!("the version was accepted");
        };
        assert!(
            reason.contains("0.0.9") && reason.contains("/venv/bin/python3"),
            "{reason}"
        );
    }
}
