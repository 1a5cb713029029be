//! The messages between the processes, one enum for each direction.
//!
//! ```text
//!   master ── ToForkServer ──▶ fork server          master ── ToWorker ──▶ worker
//!          ◀─ FromForkServer ─                             ◀─ FromWorker ─
//! ```
//!
//! A message is JSON in one datagram of a [`crate::sys::channel`]; descriptors
//! travel beside it. The types of the two ends are mirrored, so that a message
//! cannot be sent the wrong way: [`Channel<ToWorker, FromWorker>`](Channel) sends
//! the first and receives the second. End-of-file means that the peer is gone.
//!
//! What comes from below is not trusted ([`Post::FREIGHT`]): it is plain freight, its texts
//! are read by [`crate::foreign`], and its sender is the one that the kernel names.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{PythonFile, PythonSource, Settings};
use crate::foreign;
use crate::hooks::Call;
use crate::sys::channel::{self, Freight};
use crate::sys::credentials::Credentials;

/// Number that a worker never shares with another one of the same master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// How long requests that were cancelled at the end of the graceful time-out may take
/// to clean up, milliseconds.
pub const CLEAN_UP_MS: u64 = 2_000;

/// What a worker has beyond its graceful time-out before it is killed, milliseconds:
/// for cancelled requests to clean up, and for the lifespan shutdown.
pub const DRAIN_MARGIN_MS: u64 = CLEAN_UP_MS + 3_000;

/// Who a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Unique over the life of the master.
    pub id: WorkerId,
    /// The slot that it fills; old and new worker of a slot live side by side.
    pub slot: u32,
    /// The load of the code that it runs.
    pub generation: u32,
    /// Its place in the [`crate::roster::Roster`].
    pub seat: u32,
}

/// What a listener is to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// The master has inherited it: it is others' too, and must never be shut down.
    pub inherited: bool,
    /// This worker comes first here: the queue is its own, or everybody's.
    pub own: bool,
}

/// Master to fork server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToForkServer {
    /// Comes first if the configuration is a file of Python: evaluate it, and answer with
    /// [`FromForkServer::Evaluated`].
    Evaluate {
        /// The load of the code that this fork server stands for.
        generation: u32,
        /// The file.
        file: PythonSource,
    },
    /// What to load, and how. Carries the log files
    /// ([`crate::log::output::Files`]), then the fork server's
    /// [`crate::sys::stacks::Report`], if there could be one.
    Configure {
        /// The load of the code that this fork server stands for.
        generation: u32,
        /// All settings.
        settings: Box<Settings>,
        /// The process that takes the workers over if this master ends because it has
        /// handed everything over: the one whose binary is being exchanged.
        heir: Option<i32>,
        /// How many workers there are to be.
        workers: u32,
        /// What this process could not be started with.
        belated: Belated,
    },
    /// Fork one worker. Carries, in this order: the worker's end of its channel, its
    /// [`crate::scoreboard::Scoreboard`], the [`crate::roster::Roster`], its
    /// [`crate::sys::stacks::Report`], and all listeners.
    Spawn {
        /// Who the new worker will be.
        identity: Identity,
        /// What each listener is to this worker.
        listeners: Vec<Role>,
    },
    /// Log to other files from now on, which it carries.
    ChangeLogs,
    /// Call a hook, or only note what has happened if there is none.
    Call(Call),
}

/// What a fork server makes of itself when it is configured, as only the file that it has
/// evaluated tells so; nothing if it was started with all that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Belated {
    /// Whom it becomes.
    pub run_as: Option<Credentials>,
    /// Its mask for the modes of new files.
    pub umask: Option<u32>,
    /// Variables for it and all its children, `NAME=VALUE`.
    pub variables: Vec<String>,
}

/// Fork server to master.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromForkServer {
    /// The first message, sent before anything of the application is loaded.
    Hello {
        /// The version of the extension: [`crate::VERSION`] on its side.
        #[serde(deserialize_with = "foreign::read_line")]
        version: String,
        /// The interpreter's version, such as `3.12.1`.
        #[serde(deserialize_with = "foreign::read_line")]
        python: String,
    },
    /// This interpreter cannot load the extension: too old, or none is installed. The
    /// fork server ends.
    Unsuitable {
        /// What is wrong and what to do, for the user.
        #[serde(deserialize_with = "foreign::read_message")]
        reason: String,
    },
    /// The answer to [`ToForkServer::Evaluate`]; one that could not be evaluated is
    /// [`FromForkServer::Failed`].
    Evaluated(PythonFile),
    /// Ready to fork; with `--preload` the application is imported.
    Loaded,
    /// The application could not be loaded (`--preload` only), or the configuration could
    /// not be evaluated. The fork server ends.
    Failed(Failure),
    /// The hook `on_starting` has decided that the server is not to start. The fork server
    /// ends.
    Declined {
        /// The exit code for the master.
        code: u8,
        /// A sentence for the user.
        reason: String,
    },
    /// Threads existed when a worker was about to be forked.
    Threads {
        /// How many besides the main one.
        count: usize,
        /// What Python calls those that it knows.
        #[serde(deserialize_with = "foreign::read_names")]
        names: Vec<String>,
        /// Whether the worker was forked all the same (`--preload`) or started by exec.
        forked: bool,
    },
    /// A worker could not be made.
    SpawnFailed {
        /// The one that was asked for.
        id: WorkerId,
        /// What the system said.
        #[serde(deserialize_with = "foreign::read_line")]
        error: String,
    },
}

/// Master to worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The master knows the pid from [`FromWorker::Hello`]: go on.
    Acknowledge,
    /// The whole server stops in a while: go on, but let each answer end its connection.
    StopsSoon,
    /// Stop accepting, answer what was accepted, run the lifespan shutdown, exit. Sent
    /// again it only gives more time.
    Drain {
        /// Milliseconds after which what still runs is cancelled.
        within_ms: u64,
        /// Why, for the application and the log.
        reason: DrainReason,
    },
    /// Cancel what runs, run the lifespan shutdown, exit.
    Quit,
    /// Log to other files from now on, which it carries
    /// ([`crate::log::output::Files`]).
    ChangeLogs,
    /// Go on, but first take whoever waits at the listeners that it carries, and let the
    /// kernel refuse whoever comes later: those who served them are gone.
    LastCall,
}

/// Why a worker is told to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainReason {
    /// The whole server stops.
    Stop,
    /// Another worker takes over the slot.
    Replaced,
}

/// Worker to master.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// The first message; the worker waits for [`ToWorker::Acknowledge`].
    Hello {
        /// Its process id; the master believes only the kernel about it.
        pid: i32,
    },
    /// The application is imported and started, the worker accepts connections.
    Ready,
    /// The application could not be loaded or started. The worker ends.
    Failed(Failure),
    /// It has answered as many requests as it was to, and serves on until it is replaced.
    Spent {
        /// How many it was to answer, jitter included.
        requests: u64,
    },
    /// A thread of it hangs in a request that has taken longer than `--request-timeout`. It
    /// serves on until it is replaced.
    Hung {
        /// Method and path.
        #[serde(deserialize_with = "foreign::read_line")]
        request: String,
    },
    /// The worker has stopped accepting, by order or on a signal of its own.
    Draining,
    /// USR1 was sent to this worker: it wants its log files opened anew.
    WantsLogs,
    /// It stops in a debugger, on a terminal: somebody takes their time.
    Debugged,
}

/// What passes through a [`Channel`] in one direction.
pub trait Post: Serialize + DeserializeOwned {
    /// What may come with it.
    const FREIGHT: Freight;

    /// Whether it makes an earlier message needless that was not sent yet. Without this, a
    /// peer that asks and does not read would have its answers pile up.
    fn supersedes(&self, earlier: &Self) -> bool {
        let _ = earlier;
        false
    }
}

impl Post for ToForkServer {
    const FREIGHT: Freight = Freight::Descriptors;

    fn supersedes(&self, earlier: &Self) -> bool {
        matches!((self, earlier), (Self::ChangeLogs, Self::ChangeLogs))
    }
}

impl Post for FromForkServer {
    const FREIGHT: Freight = Freight::Plain;
}

impl Post for ToWorker {
    const FREIGHT: Freight = Freight::Descriptors;

    fn supersedes(&self, earlier: &Self) -> bool {
        matches!((self, earlier), (Self::ChangeLogs, Self::ChangeLogs))
    }
}

impl Post for FromWorker {
    const FREIGHT: Freight = Freight::Plain;
}

/// Why an application does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// One or more lines for the user: the thing, and what to do.
    #[serde(deserialize_with = "foreign::read_message")]
    pub message: String,
    /// The application's own traceback, if an exception was raised in its code.
    #[serde(default, deserialize_with = "foreign::read_traceback")]
    pub traceback: Option<String>,
}

/// The kinds of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The module does not exist.
    ModuleNotFound,
    /// Importing the module raised an exception.
    ImportRaised,
    /// The module has no such attribute.
    AttributeMissing,
    /// The attribute is not an application.
    NotCallable,
    /// The factory raised an exception.
    FactoryRaised,
    /// The lifespan startup failed or raised.
    LifespanFailed,
    /// The event loop could not be made.
    LoopFailed,
    /// The configuration file is not there, or raised an exception.
    Configuration,
    /// A hook has decided that the worker is not to start.
    Declined,
    /// Something in the worker itself.
    Internal,
}

impl FailureKind {
    /// The exit code of the master when this ends the first boot, as gunicorn's: 4
    /// for a missing attribute, 1 for the configuration, 3 for everything else.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::AttributeMissing => 4,
            Self::Configuration => 1,
            _ => 3,
        }
    }
}

/// How the extension reaches a freshly started interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extension {
    /// A shared object, loaded as `rsgun._rsgun`.
    File(PathBuf),
    /// `import rsgun._rsgun` finds it.
    Installed,
}

/// What can go wrong on a [`Channel`].
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The system call failed.
    #[error("the channel failed: {0}")]
    Io(#[from] io::Error),
    /// The peer sent something else than the type of this end. The next message may be
    /// right.
    #[error("the channel carried a message that this version does not know: {0}")]
    Format(#[from] serde_json::Error),
    /// A message could not be received. The next one may be right.
    #[error("{0}")]
    Damaged(#[source] io::Error),
}

/// One typed end of a channel: sends `Out`, receives `In`.
#[derive(Debug)]
pub struct Channel<Out, In> {
    fd: OwnedFd,
    marker: PhantomData<fn(Out) -> In>,
}

/// A received message and the descriptors that came with it.
#[derive(Debug)]
pub struct Message<T> {
    /// The message.
    pub body: T,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
    /// There were more of them than this process may still open, and it has got none.
    pub bereft: bool,
    /// The process that has sent it, if the kernel has said so: where plain freight comes.
    pub sender: Option<i32>,
}

/// What the user is told of a message whose descriptors did not come.
pub const BEREFT: &str = "no descriptor is left for what the master has sent: raise `ulimit -n`, \
                          under systemd LimitNOFILE=";

impl<Out: Post, In: Post> Channel<Out, In> {
    /// Takes one end of a pair made by [`channel::pair`].
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        // Fails for what is no channel, and then so does the first message.
        let _ = channel::prepare(fd.as_fd(), In::FREIGHT);
        Self {
            fd,
            marker: PhantomData,
        }
    }

    /// Sends a message; never waits.
    ///
    /// # Errors
    /// [`ChannelError::Io`] with `WouldBlock` when the queue of the peer is full,
    /// `BrokenPipe` when the peer is gone, and `InvalidInput` when the message is too large.
    pub fn send(&self, message: &Out, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let payload = serde_json::to_vec(message)?;
        Ok(channel::send(self.fd.as_fd(), &payload, fds, Out::FREIGHT)?)
    }

    /// Receives a message if there is one; `Ok(None)` means that the peer is gone.
    ///
    /// # Errors
    /// [`ChannelError::Io`] with `WouldBlock` when there is none,
    /// [`ChannelError::Format`] and [`ChannelError::Damaged`] when it cannot be understood.
    pub fn try_recv(&self) -> Result<Option<Message<In>>, ChannelError> {
        let received = channel::recv(self.fd.as_fd(), In::FREIGHT);
        let Some(received) = received.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => ChannelError::Damaged(error),
            _ => ChannelError::Io(error),
        })?
        else {
            return Ok(None);
        };
        let body = serde_json::from_slice(&received.payload)?;
        Ok(Some(Message {
            body,
            fds: received.fds,
            bereft: received.bereft,
            sender: received.sender,
        }))
    }

    /// Waits for the next message, at most `timeout_ms` milliseconds (`None`: for
    /// ever); `Ok(None)` means that the peer is gone.
    ///
    /// # Errors
    /// As [`Self::try_recv`]; `TimedOut` when nothing came.
    pub fn recv(&self, timeout_ms: Option<u16>) -> Result<Option<Message<In>>, ChannelError> {
        loop {
            match self.try_recv() {
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = channel::wait_readable(self.fd.as_fd(), timeout_ms)?;
                    if !ready && timeout_ms.is_some() {
                        return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                    }
                }
                other => return other,
            }
        }
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<Out, In> std::os::fd::AsRawFd for Channel<Out, In> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

impl<Out, In> From<Channel<Out, In>> for OwnedFd {
    fn from(channel: Channel<Out, In>) -> Self {
        channel.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_messages_cross_a_channel() {
        let (left, right) = channel::pair().unwrap();
        let master = Channel::<ToWorker, FromWorker>::new(left);
        let worker = Channel::<FromWorker, ToWorker>::new(right);
        worker.send(&FromWorker::Hello { pid: 42 }, &[]).unwrap();
        master
            .send(
                &ToWorker::Drain {
                    within_ms: 30_000,
                    reason: DrainReason::Replaced,
                },
                &[],
            )
            .unwrap();
        let hello = master.try_recv().unwrap().unwrap();
        assert!(matches!(hello.body, FromWorker::Hello { pid: 42 }));
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(hello.sender, Some(own), "whatever it says");
        assert_eq!(
            worker.recv(Some(1000)).unwrap().unwrap().body,
            ToWorker::Drain {
                within_ms: 30_000,
                reason: DrainReason::Replaced
            }
        );
        drop(worker);
        assert!(master.try_recv().unwrap().is_none());
    }

    #[test]
    fn the_largest_failure_fits_and_a_hostile_one_is_tamed() {
        let (left, right) = channel::pair().unwrap();
        let master = Channel::<ToWorker, FromWorker>::new(left);
        let worker = Channel::<FromWorker, ToWorker>::new(right);
        let failure = |text: &str| Failure {
            kind: FailureKind::ImportRaised,
            message: foreign::message(text),
            traceback: Some(foreign::traceback(text)),
        };
        let told = |message: &FromWorker| {
            worker.send(message, &[]).unwrap();
            match master.try_recv().unwrap().unwrap().body {
                FromWorker::Failed(failure) => failure,
                other => panic!("{other:?}"),
            }
        };
        let largest = failure(&"\"".repeat(1 << 20));
        assert_eq!(told(&FromWorker::Failed(largest.clone())), largest);
        let hostile = "\u{1b}[2J".repeat(1 << 12);
        let raw = Failure {
            kind: FailureKind::ImportRaised,
            message: hostile.clone(),
            traceback: Some(hostile.clone()),
        };
        assert_eq!(told(&FromWorker::Failed(raw)), failure(&hostile));
    }
}
