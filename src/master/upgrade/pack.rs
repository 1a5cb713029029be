//! A master's belongings, packed for another program.

use std::io;
use std::os::fd::AsFd;

use rsgun_core::ipc::{Extension, Post};
use rsgun_core::listeners::{Change, Listener, Record};

use super::record::StateRecord;
use super::snapshot::{
    ChangeRecord, ChannelRecord, HandleRecord, ListenerRecord, Luggage, ResourcesRecord, Snapshot,
};
use crate::master::effects::{Effects, Resources, Role};
use crate::master::link::Link;
use crate::master::spawn::WorkerHandle;
use crate::master::state::State;

impl Effects {
    /// Stops reading from all channels.
    pub(in crate::master) async fn pause(&self) {
        for server in self.generations.values().filter_map(|g| g.server.as_ref()) {
            server.pause().await;
        }
        for worker in self.workers.values() {
            worker.link.pause().await;
        }
    }

    /// Reads from all channels again.
    pub(in crate::master) fn resume(&self) {
        for server in self.generations.values().filter_map(|g| g.server.as_ref()) {
            server.resume();
        }
        for worker in self.workers.values() {
            worker.link.resume();
        }
    }

    /// What a candidate needs to boot, and to see whether it understands the rest.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) fn outline(
        &self,
        state: &StateRecord,
        luggage: &mut Luggage,
    ) -> io::Result<Snapshot> {
        Ok(Snapshot {
            state: state.clone(),
            // Those of a candidate are the master's.
            listeners: match self.role {
                Role::Master => listeners(&self.listeners, luggage)?,
                Role::Candidate(_) => Vec::new(),
            },
            roster: luggage.pack(self.roster.file())?,
            generations: Vec::new(),
            workers: Vec::new(),
            pidfile: (self.pidfile.as_ref()).map(|file| file.path().to_owned()),
            dead: self.dead.clone(),
            terminal: self.terminal,
        })
    }

    /// Everything; the channels must have been paused.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) async fn pack(&self, state: &State, luggage: &mut Luggage) -> io::Result<Snapshot> {
        let mut snapshot = self.outline(&StateRecord::of(state), luggage)?;
        for (number, resources) in &self.generations {
            let record = generation(*number, resources, luggage).await?;
            snapshot.generations.push(record);
        }
        for (id, handle) in &self.workers {
            snapshot.workers.push(HandleRecord {
                id: *id,
                ..worker(handle, luggage).await?
            });
        }
        Ok(snapshot)
    }
}

async fn generation(
    number: u32,
    resources: &Resources,
    luggage: &mut Luggage,
) -> io::Result<ResourcesRecord> {
    let mut logs = Vec::new();
    for fd in resources.logs.to_fds()? {
        logs.push(luggage.pack(fd.as_fd())?);
    }
    let server = match &resources.server {
        Some(server) => channel(server, luggage).await?,
        None => None,
    };
    let report = resources
        .report
        .as_ref()
        .map(|report| luggage.pack(report.as_fd()))
        .transpose()?;
    Ok(ResourcesRecord {
        number,
        settings: serde_json::to_value(&*resources.settings)?,
        python: resources.interpreter.python.clone(),
        extension: match &resources.interpreter.extension {
            Extension::File(path) => Some(path.clone()),
            Extension::Installed => None,
        },
        run_as: resources.interpreter.run_as.clone(),
        file: resources.file.clone(),
        known: resources.known,
        logs,
        change: resources
            .change
            .as_ref()
            .map(|prepared| change(prepared, luggage))
            .transpose()?,
        server,
        report,
    })
}

async fn worker(handle: &WorkerHandle, luggage: &mut Luggage) -> io::Result<HandleRecord> {
    Ok(HandleRecord {
        id: rsgun_core::ipc::WorkerId(0),
        generation: handle.generation,
        channel: channel(&handle.link, luggage).await?,
        scoreboard: luggage.pack(handle.scoreboard.file())?,
        report: luggage.pack(handle.report.as_fd())?,
    })
}

async fn channel<Out: Post + Clone + Send + Sync + 'static>(
    link: &Link<Out>,
    luggage: &mut Luggage,
) -> io::Result<Option<ChannelRecord>> {
    let Some(remains) = link.report().await? else {
        return Ok(None);
    };
    let mut unsent = Vec::new();
    for (message, fds) in remains.unsent {
        let places = fds
            .iter()
            .map(|fd| luggage.pack(fd.as_fd()))
            .collect::<io::Result<_>>()?;
        unsent.push((serde_json::to_value(message)?, places));
    }
    Ok(Some(ChannelRecord {
        channel: luggage.pack(remains.channel.as_fd())?,
        unsent,
    }))
}

fn listeners(listeners: &[Listener], luggage: &mut Luggage) -> io::Result<Vec<ListenerRecord>> {
    listeners
        .iter()
        .map(|listener| {
            Ok(ListenerRecord {
                record: Record::of(listener),
                fd: luggage.pack(listener.as_fd())?,
            })
        })
        .collect()
}

fn change(change: &Change, luggage: &mut Luggage) -> io::Result<ChangeRecord> {
    Ok(ChangeRecord {
        wanted: change.wanted().to_vec(),
        opened: listeners(change.opened(), luggage)?,
    })
}
