//! The master's side: it starts the candidate, and runs the new program in its place.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rsgun_core::bootstrap::CHANNEL_FD;
use rsgun_core::ipc::{Channel, Identity, Message};
use rsgun_core::sys::signals::HeldBack;
use rsgun_core::sys::{channel, handover, process};
use serde_json::Value;

use super::orphans::Offspring;
use super::record::StateRecord;
use super::snapshot::{FORMAT, FromCandidate, Luggage, Passage, ToCandidate};
use super::{CANDIDATE, UpgradeEvent, VARIABLE};
use crate::master::effects::Effects;
use crate::master::event::Event;
use crate::master::link::Link;
use crate::master::state::State;

/// The candidate, as the master sees it.
#[derive(Debug)]
pub(in crate::master) struct Companion {
    pid: i32,
    /// Dropped, it ends the candidate.
    link: Option<Link<ToCandidate>>,
    heard: Arc<Mutex<Heard>>,
}

/// What a candidate has said that is no event.
#[derive(Debug, Default)]
struct Heard {
    handed: Option<Handed>,
    offspring: Offspring,
}

impl Companion {
    /// Tells the candidate to end, and drops what it has handed over.
    pub(in crate::master) fn dismiss(&mut self) {
        self.link = None;
        lock(&self.heard).handed = None;
    }

    /// If this was the end of the candidate: those of its processes that are children of
    /// this one now.
    pub(in crate::master) fn orphans(&self, ended: i32) -> Option<Offspring> {
        let offspring = lock(&self.heard).offspring;
        (ended == self.pid).then(|| offspring.only(process::is_child))
    }
}

/// What a candidate has handed over.
#[derive(Debug)]
struct Handed {
    snapshot: Value,
    fds: Vec<OwnedFd>,
}

impl Effects {
    /// Starts the new program beside this one and tells it to prove itself.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(in crate::master) fn start_candidate(
        &mut self,
        state: &StateRecord,
        identity: Identity,
    ) -> Result<i32, String> {
        self.invocation
            .enter_directory()
            .map_err(|error| error.to_string())?;
        let program = self.invocation.program()?;
        let failed = |error: io::Error| {
            let advice = process::scarcity(&error).map(|advice| format!("\n{advice}"));
            let program = program.display();
            format!(
                "cannot start {program}: {error}{}",
                advice.unwrap_or_default()
            )
        };
        let (ours, theirs) = channel::pair().map_err(failed)?;
        let mut luggage = Luggage::default();
        let snapshot = self.outline(state, &mut luggage).map_err(failed)?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let into = Arc::clone(&heard);
        let link = Link::open(
            Channel::<ToCandidate, FromCandidate>::new(ours),
            self.events.clone(),
            move |message| hear(message, &into),
            Event::Upgrade(UpgradeEvent::Closed),
        )
        .map_err(failed)?;
        // As in `spawn.rs`: Rust's own pipe must not get the number of the channel.
        let next = process::next_fd_number().map_err(failed)?;
        let _placeholder = (next <= CHANNEL_FD)
            .then(process::placeholder)
            .transpose()
            .map_err(failed)?;
        let mut command = Command::new(&program);
        if let Some((name, rest)) = self.invocation.arguments().split_first() {
            command.arg0(name).args(rest);
        }
        command.env(VARIABLE, CANDIDATE);
        process::prepare_child(&mut command, vec![(theirs, CHANNEL_FD)], None);
        process::die_with_parent(&mut command);
        let _held_back = HeldBack::start().map_err(failed)?;
        let child = command.spawn().map_err(failed)?;
        let snapshot = serde_json::to_value(&snapshot)
            .map_err(io::Error::other)
            .map_err(failed)?;
        let begin = ToCandidate::Begin {
            format: FORMAT,
            version: rsgun_core::VERSION.to_owned(),
            snapshot: Box::new(snapshot),
            identity,
        };
        link.send(begin, luggage.0);
        let pid = i32::try_from(child.id()).map_err(|error| failed(io::Error::other(error)))?;
        self.companion = Some(Companion {
            pid,
            link: Some(link),
            heard,
        });
        Ok(pid)
    }

    /// Runs the new program. Returns only if that fails, with the reason.
    ///
    /// Channels are paused and signals held back. The fork servers still have their
    /// channels: a hook of the configuration that is to run right before the exec belongs
    /// here, as a last message to the current one.
    pub(in crate::master) async fn exec(&mut self, state: &State) -> String {
        let failed = |error: io::Error| format!("cannot run the new program: {error}");
        let handed = self
            .companion
            .as_ref()
            .and_then(|companion| lock(&companion.heard).handed.take());
        let Some(Handed { snapshot, mut fds }) = handed else {
            return "the new program has handed nothing over".to_owned();
        };
        if fds.is_empty() {
            return "the new program has not said which file it is".to_owned();
        }
        let program = fds.remove(0);
        let passage = match self.passage(state, snapshot, fds).await {
            Ok(passage) => passage,
            Err(error) => return failed(error),
        };
        let (file, _luggage) = passage;
        let number = file.as_raw_fd().to_string();
        // A symbolic link in its name may lead elsewhere than when the candidate was started.
        if let Err(error) = self.invocation.enter_directory() {
            return error.to_string();
        }
        failed(handover::exec(
            program.as_fd(),
            self.invocation.arguments(),
            VARIABLE,
            OsStr::new(&number),
        ))
    }

    async fn passage(
        &self,
        state: &State,
        candidate: Value,
        fds: Vec<OwnedFd>,
    ) -> io::Result<(OwnedFd, Luggage)> {
        let mut luggage = Luggage::default();
        let master = self.pack(state, &mut luggage).await?;
        let program = luggage.pack(handover::own_program()?.as_fd())?;
        let descriptors_of_master = luggage.append(fds);
        let luggage = luggage.inheritable()?;
        let passage = Passage {
            numbers: luggage.0.iter().map(AsRawFd::as_raw_fd).collect(),
            descriptors_of_master,
            program,
            version: rsgun_core::VERSION.to_owned(),
            master: serde_json::to_value(master)?,
            candidate,
            returned: None,
        };
        Ok((written(&serde_json::to_vec(&passage)?)?, luggage))
    }
}

/// A memory file that stays open over an exec.
pub(super) fn written(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"rsgun-upgrade", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text)?;
    // The reader shares the position.
    file.rewind()?;
    handover::inheritable(file.as_fd())
}

/// What the candidate says, as an event; what only the effects need is put aside.
fn hear(message: Message<FromCandidate>, into: &Mutex<Heard>) -> Event {
    Event::Upgrade(match message.body {
        FromCandidate::Boots {
            version,
            within_ms,
            grace_ms,
        } => UpgradeEvent::Boots {
            version,
            within: within_ms.map(Duration::from_millis),
            grace: Duration::from_millis(grace_ms),
        },
        FromCandidate::Offspring(offspring) => {
            lock(into).offspring = offspring;
            return Event::Tick;
        }
        FromCandidate::Failed(cause) => UpgradeEvent::Failed(cause),
        FromCandidate::Ready { snapshot } => {
            lock(into).handed = Some(Handed {
                snapshot: *snapshot,
                fds: message.fds,
            });
            UpgradeEvent::HandedOver
        }
    })
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
