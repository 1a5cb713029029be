//! Everything that a master has, in a form that another program can take over.
//!
//! Descriptors are listed in [`Luggage`]; a [`Snapshot`] refers to them by place. Between
//! two processes they travel with a message, and are close-on-exec as all others. Over the
//! exec inside one process they pass as copies that lack this mark ([`Luggage::inheritable`]),
//! made right before: whatever is started while such copies are open inherits them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rsgun_core::config::PythonSource;
use rsgun_core::ipc::{Identity, Post, WorkerId};
use rsgun_core::listeners::{Address, Record};
use rsgun_core::sys::channel::Freight;
use rsgun_core::sys::credentials::Credentials;
use rsgun_core::sys::handover;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::orphans::Offspring;
use super::record::StateRecord;
use crate::control::document::Totals;
use crate::master::event::ConfigurationFile;
use crate::master::generation::Cause;
use crate::master::terminal::Terminal;

/// The number of the format: of what is in this file and in `record.rs`, of the layout of
/// scoreboards and roster up to what is appended to them, and of the messages that a
/// worker of another version must understand to be ended. Another number is refused.
///
/// What is new needs no other number if it may be missing: `#[serde(default)]`.
pub(in crate::master) const FORMAT: u32 = 1;

/// The place of a descriptor in the luggage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct Fd(usize);

/// Descriptors on their way to another program.
#[derive(Debug, Default)]
pub(in crate::master) struct Luggage(pub(in crate::master) Vec<OwnedFd>);

impl Luggage {
    /// Adds a copy.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(in crate::master) fn pack(&mut self, fd: BorrowedFd<'_>) -> io::Result<Fd> {
        self.0.push(fd.try_clone_to_owned()?);
        Ok(Fd(self.0.len() - 1))
    }

    /// The same, of copies that stay open over an exec.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(in crate::master) fn inheritable(self) -> io::Result<Self> {
        // One after the other: there may be few descriptors left.
        let copies = (self.0.into_iter()).map(|fd| handover::inheritable(fd.as_fd()));
        Ok(Self(copies.collect::<io::Result<_>>()?))
    }

    /// Takes a copy out, close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`; `InvalidData` when there is no such descriptor.
    pub(in crate::master) fn unpack(&self, fd: Fd) -> io::Result<OwnedFd> {
        let Some(found) = self.0.get(fd.0) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a descriptor is missing",
            ));
        };
        found.try_clone()
    }

    /// What two programs have brought, the second one's places after the first one's.
    pub(in crate::master) fn append(&mut self, other: Vec<OwnedFd>) -> usize {
        let offset = self.0.len();
        self.0.extend(other);
        offset
    }

    /// The luggage of the second program alone.
    pub(in crate::master) fn split_off(&mut self, offset: usize) -> Self {
        Self(self.0.split_off(offset.min(self.0.len())))
    }
}

/// What a master is and has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::master) struct Snapshot {
    /// What it knows and has decided.
    pub(in crate::master) state: StateRecord,
    /// What it listens on.
    pub(in crate::master) listeners: Vec<ListenerRecord>,
    /// The roster.
    pub(in crate::master) roster: Fd,
    /// Its generations.
    pub(in crate::master) generations: Vec<ResourcesRecord>,
    /// Its workers whose end of life was not seen yet.
    pub(in crate::master) workers: Vec<HandleRecord>,
    /// The pidfile that it has written.
    pub(in crate::master) pidfile: Option<PathBuf>,
    /// What workers have done that are gone.
    pub(in crate::master) dead: Totals,
    /// The terminal that it was started in.
    pub(in crate::master) terminal: Option<Terminal>,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct ListenerRecord {
    pub(in crate::master) record: Record,
    pub(in crate::master) fd: Fd,
}

/// A change of the listeners that is prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct ChangeRecord {
    pub(in crate::master) wanted: Vec<Address>,
    pub(in crate::master) opened: Vec<ListenerRecord>,
}

/// What a generation is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct ResourcesRecord {
    pub(in crate::master) number: u32,
    /// For a program of the same version only.
    pub(in crate::master) settings: Value,
    pub(in crate::master) python: PathBuf,
    /// The file of the extension; `None`: the installed one.
    pub(in crate::master) extension: Option<PathBuf>,
    /// Whom the interpreter is started as.
    pub(in crate::master) run_as: Option<Credentials>,
    /// The configuration, if a fork server has to evaluate it, and what is known of it.
    pub(in crate::master) file: Option<PythonSource>,
    pub(in crate::master) known: ConfigurationFile,
    pub(in crate::master) logs: Vec<Fd>,
    pub(in crate::master) change: Option<ChangeRecord>,
    pub(in crate::master) server: Option<ChannelRecord>,
    pub(in crate::master) report: Option<Fd>,
}

/// A channel, with what could not be sent yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct ChannelRecord {
    pub(in crate::master) channel: Fd,
    pub(in crate::master) unsent: Vec<(Value, Vec<Fd>)>,
}

/// What belongs to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::master) struct HandleRecord {
    pub(in crate::master) id: WorkerId,
    pub(in crate::master) generation: u32,
    /// `None`: the worker has closed it.
    pub(in crate::master) channel: Option<ChannelRecord>,
    pub(in crate::master) scoreboard: Fd,
    pub(in crate::master) report: Fd,
}

/// Master to candidate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::master) enum ToCandidate {
    /// Prove yourself. Carries the descriptors of the snapshot.
    Begin {
        /// [`FORMAT`].
        format: u32,
        /// The version of the master.
        version: String,
        /// A [`Snapshot`] without workers and generations: they follow the candidate's
        /// proof, over the exec.
        snapshot: Box<Value>,
        /// The worker to start.
        identity: Identity,
    },
}

/// Candidate to master.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::master) enum FromCandidate {
    /// It understands and boots.
    Boots {
        /// Its version.
        version: String,
        /// What it gives its processes at most, milliseconds; `None`: no limit.
        within_ms: Option<u64>,
        /// What its worker may take to finish requests in flight, milliseconds.
        #[serde(default)]
        grace_ms: u64,
    },
    /// It has started somebody, or somebody has ended. Comes before the former run anything
    /// of the application.
    Offspring(Offspring),
    /// It has failed, or refuses, and ends.
    Failed(Cause),
    /// It is ready and exits. Carries its program, then the descriptors of the snapshot.
    Ready {
        /// A [`Snapshot`] of a master with one worker.
        snapshot: Box<Value>,
    },
}

impl Post for ToCandidate {
    const FREIGHT: Freight = Freight::Descriptors;
}

impl Post for FromCandidate {
    // A master itself, which is to be this process.
    const FREIGHT: Freight = Freight::Descriptors;
}

/// What an exec leads from one program to the next.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::master) struct Passage {
    /// The numbers of all descriptors: first those of the master, then the candidate's.
    pub(in crate::master) numbers: Vec<i32>,
    /// How many of them are the master's.
    pub(in crate::master) descriptors_of_master: usize,
    /// The program before, for a way back.
    pub(in crate::master) program: Fd,
    /// The version of the program before.
    pub(in crate::master) version: String,
    /// The master's [`Snapshot`].
    pub(in crate::master) master: Value,
    /// The candidate's.
    pub(in crate::master) candidate: Value,
    /// Why the program that was to take over has given up and gone back.
    #[serde(default)]
    pub(in crate::master) returned: Option<String>,
}
