//! The course of a generation: read, bound, started, and taken over or given up.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{Shutdown, shutdown};
use rsgun_core::config::{Configured, PythonFile, Settings};
use rsgun_core::ipc::{Belated, Identity, ToForkServer, ToWorker, WorkerId};
use rsgun_core::listeners::{self, Change, Listener, Names, Origin};
use rsgun_core::log::output::{self, Files};
use rsgun_core::sys::signals::HeldBack;
use rsgun_core::sys::stacks::Report;

use super::words::urls;
use super::{Effects, Resources, logs, manner};
use crate::master::MasterError;
use crate::master::evaluation::Early;
use crate::master::event::{ConfigurationFile, Event, Policy};
use crate::master::spawn::{Interpreter, WorkerHandle};
use crate::python::Surroundings;

/// How far a configuration could be resolved.
enum Resolved {
    /// To its end.
    As(Policy),
    /// Not further than that, without knowing these hosts.
    Without(Vec<String>),
}

impl Effects {
    pub(super) fn evaluate(&self, generation: u32) {
        let file = (self.generations.get(&generation)).and_then(|resources| resources.file.clone());
        if let Some(file) = file {
            self.tell_server(generation, ToForkServer::Evaluate { generation, file });
        }
    }

    /// Sends a fork server its settings, and where to write its stacks.
    pub(super) fn configure(&mut self, generation: u32, workers: u32) -> Option<Event> {
        let Some(Resources {
            settings,
            logs,
            interpreter,
            file,
            server: Some(server),
            report,
            ..
        }) = self.generations.get_mut(&generation)
        else {
            return None;
        };
        let mut handed_over = match logs.to_fds() {
            Ok(fds) => fds,
            Err(error) => return Some(logs::cannot_configure(generation, &error)),
        };
        match Report::create().and_then(|new| Ok((new.try_clone()?, new))) {
            Ok((theirs, ours)) => {
                *report = Some(ours);
                handed_over.push(theirs.into());
            }
            Err(error) => {
                tracing::warn!("no descriptors or memory for the stacks of a process: {error}");
            }
        }
        let belated = match file {
            Some(_) => Belated {
                run_as: (settings.run_as.clone()).filter(|_| interpreter.run_as.is_none()),
                umask: self.belated_umask.take(),
                variables: settings.env.clone(),
            },
            None => Belated::default(),
        };
        let settings = Box::new(Settings::clone(settings));
        server.send(
            ToForkServer::Configure {
                generation,
                settings,
                heir: self.heir,
                workers,
                belated,
            },
            handed_over,
        );
        None
    }

    /// Reads the configuration and binds what is new. If that needs hosts that are not
    /// known yet, they are looked up elsewhere, and an event follows.
    pub(super) fn resolve(
        &mut self,
        generation: u32,
        evaluated: Option<Box<PythonFile>>,
        names: &Names,
    ) -> Option<Event> {
        let resolved = match &evaluated {
            Some(file) => self.resolve_evaluated(generation, file, names),
            None => self.resolve_read(generation, names),
        };
        let failed = |reason| Event::ResolveFailed { generation, reason };
        match resolved {
            Ok(Resolved::As(policy)) => Some(Event::Resolved { generation, policy }),
            Ok(Resolved::Without(hosts)) => self
                .look_up(hosts, generation, evaluated)
                .err()
                .map(|error| failed(format!("no thread for looking up a host: {error}"))),
            Err(error) => Some(failed(error.to_string())),
        }
    }

    /// Asks name servers on a thread of its own, which may wait for them.
    fn look_up(
        &self,
        hosts: Vec<String>,
        generation: u32,
        file: Option<Box<PythonFile>>,
    ) -> io::Result<()> {
        let events = self.events.clone();
        // The thread keeps this mask, and leaves signals to the loop.
        let _held_back = HeldBack::start()?;
        std::thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                let names = Names::look_up(hosts);
                // The loop ends before its queue does only when the master ends.
                let _ = events.send(Event::HostsKnown {
                    generation,
                    file,
                    names,
                });
            })
            .map(drop)
    }

    fn resolve_read(&mut self, generation: u32, names: &Names) -> Result<Resolved, MasterError> {
        let (settings, warnings, file) = match self.source.look()? {
            Configured::Completely { settings, warnings } => (*settings, warnings, None),
            Configured::But { file, known } => (*known, Vec::new(), Some(file)),
        };
        let settings = anchored(settings, &self.directory);
        let entered = self.invocation.enter_directory();
        // A file of Python is evaluated there, whatever it has for `chdir`.
        if file.is_some() || settings.chdir.is_none() {
            entered?;
        }
        let interpreter = interpreter(&settings, &self.surroundings)?;
        let (logs, change, known) = match &file {
            Some(_) => {
                let logs = Files::in_use().map_err(MasterError::System)?;
                (logs, None, ConfigurationFile::Python)
            }
            None => {
                let hosts = names.missing(&self.listeners, &settings.bind);
                if !hosts.is_empty() {
                    return Ok(Resolved::Without(hosts));
                }
                let (logs, change) = self.open(&settings, None, names)?;
                (logs, Some(change), ConfigurationFile::Read)
            }
        };
        if file.is_none() {
            self.warn(warnings);
        }
        let resources = Resources {
            settings: Arc::new(settings),
            logs,
            interpreter,
            file,
            known,
            change,
            server: None,
            report: None,
        };
        let policy = resources.policy();
        self.generations.insert(generation, resources);
        Ok(Resolved::As(policy))
    }

    /// The rest of [`Self::resolve`], when a fork server has evaluated the configuration.
    fn resolve_evaluated(
        &mut self,
        generation: u32,
        file: &PythonFile,
        names: &Names,
    ) -> Result<Resolved, MasterError> {
        let (settings, warnings) = self.source.complete(file)?;
        let settings = anchored(settings, &self.directory);
        let hosts = names.missing(&self.listeners, &settings.bind);
        if !hosts.is_empty() {
            return Ok(Resolved::Without(hosts));
        }
        let (logs, change) = self.open(&settings, Some(file), names)?;
        let Some(resources) = self.generations.get_mut(&generation) else {
            change.abandon();
            return Err(MasterError::Evaluation(format!(
                "generation {generation} has no fork server any more"
            )));
        };
        resources.known = ConfigurationFile::Evaluated(file.hooks);
        resources.settings = Arc::new(settings);
        resources.logs = logs;
        resources.change = Some(change);
        let policy = resources.policy();
        self.warn(warnings);
        Ok(Resolved::As(policy))
    }

    /// Warns of what is wrong with the configuration, unless the same was said last time.
    fn warn(&mut self, warnings: Vec<String>) {
        if self.warned != warnings {
            for warning in &warnings {
                tracing::warn!("{warning}");
            }
            self.warned = warnings;
        }
    }

    /// Opens the log files and what is new of the listeners, for settings that were
    /// completed with `file`.
    fn open(
        &self,
        settings: &Settings,
        file: Option<&PythonFile>,
        names: &Names,
    ) -> Result<(Files, Change), MasterError> {
        let logs = Files::open(settings, &self.directory)
            .map_err(|error| error.located(&self.source, file))?;
        let manner = manner(settings, self.started.umask);
        let change = listeners::prepare_with(&self.listeners, &settings.bind, manner, names)?;
        Ok((logs, change))
    }

    pub(super) fn start_fork_server(
        &mut self,
        generation: u32,
        like: Option<u32>,
    ) -> Result<i32, String> {
        if let Some(like) = like.and_then(|like| self.generations.get_mut(&like)) {
            let mut resources = like.like().map_err(|error| error.to_string())?;
            // What an upgrade is to change is not in place before all its workers are.
            resources.change = like.change.take();
            self.generations.insert(generation, resources);
        }
        let Some(resources) = self.generations.get_mut(&generation) else {
            return Err(format!("generation {generation} has no settings"));
        };
        match self.invocation.enter_directory() {
            Err(error) if resources.needs_directory() => return Err(error.to_string()),
            Ok(()) if like.is_some() => {
                // It may have been found in the directory, which may be another one now.
                let named = resources.settings.python.as_deref();
                let found = self.surroundings.interpreter(named);
                resources.interpreter.python = found.map_err(|error| error.to_string())?;
            }
            Ok(()) | Err(_) => {}
        }
        let Some(early) = self.early.take() else {
            let (pid, link) = resources
                .interpreter
                .start(generation, self.events.clone())?;
            resources.server = Some(link);
            return Ok(pid);
        };
        let Early {
            pid,
            channel,
            hello: message,
            ..
        } = *early;
        let link = resources
            .interpreter
            .link(generation, channel, self.events.clone())
            .map_err(|error| error.to_string())?;
        resources.server = Some(link);
        // It has been read already; `self` keeps the queue open.
        let _ = self.events.send(Event::ForkServer {
            generation,
            message,
        });
        Ok(pid)
    }

    pub(super) fn spawn(&mut self, identity: Identity) -> Result<WorkerHandle, String> {
        let Some(Resources {
            change,
            server: Some(server),
            ..
        }) = self.generations.get(&identity.generation)
        else {
            return Err("its fork server is gone".to_owned());
        };
        let listeners = match change {
            Some(change) => change.listeners(&self.listeners),
            None => self.listeners.iter().collect(),
        };
        WorkerHandle::ask(
            server,
            identity,
            &self.roster,
            &listeners,
            self.events.clone(),
        )
        .map_err(|error| {
            format!(
                "no descriptors or memory for another worker: {error}; see `ulimit -n` and the \
                     memory limit"
            )
        })
    }

    pub(super) fn adopt(&mut self, generation: u32, workers: &[WorkerId]) {
        if let Some(new) = self.generations.get(&generation) {
            self.own = Arc::clone(&new.settings);
            let unapplied = self.own.unapplied(&self.started);
            if !unapplied.is_empty() {
                tracing::warn!(
                    "Settings have changed that a reload does not apply; they need a restart: {}",
                    unapplied.join(", ")
                );
            }
            output::set_level(new.settings.log_level);
            output::replace(&new.logs);
            self.show_title();
        }
        if let Some(pidfile) = &self.pidfile
            && let Err(error) = pidfile.renew()
        {
            tracing::error!("{error}");
        }
        let change = self
            .generations
            .get_mut(&generation)
            .and_then(|new| new.change.take());
        if let Some(change) = change {
            let before = urls(&self.listeners);
            let (kept, retired) = change.apply(std::mem::take(&mut self.listeners));
            self.listeners = kept;
            for url in urls(&self.listeners) {
                if !before.contains(&url) {
                    tracing::info!("rsgun running on {url} from now on");
                }
            }
            for url in urls(&retired) {
                tracing::info!("rsgun no longer listens on {url}");
            }
            self.retire(&retired, workers);
        }
    }

    /// Ends listening on what nobody serves any more. Whoever waits there, or is about to
    /// arrive, would be reset if it were shut down: these workers take them before.
    fn retire(&self, retired: &[Listener], workers: &[WorkerId]) {
        let ours: Vec<&Listener> = (retired.iter())
            .filter(|listener| listener.origin() == Origin::Created)
            .collect();
        retired.iter().for_each(clean_up);
        if ours.is_empty() {
            return;
        }
        let mut called = false;
        for worker in workers.iter().filter_map(|id| self.workers.get(id)) {
            let copies = ours
                .iter()
                .map(|listener| listener.as_fd().try_clone_to_owned())
                .collect::<io::Result<Vec<_>>>();
            match copies {
                Ok(copies) => {
                    worker.link.send(ToWorker::LastCall, copies);
                    called = true;
                }
                Err(error) => tracing::warn!(
                    "cannot pass on sockets that are to be closed: {error}; see `ulimit -n`"
                ),
            }
        }
        if !called {
            ours.into_iter().for_each(shut);
        }
    }

    pub(super) fn forget_generation(&mut self, generation: u32) {
        if let Some(change) = self
            .generations
            .remove(&generation)
            .and_then(|old| old.change)
        {
            change.abandon();
        }
    }

    pub(super) fn close_listeners(&mut self) {
        for resources in self.generations.values_mut() {
            if let Some(change) = resources.change.take() {
                change.abandon();
            }
        }
        for listener in std::mem::take(&mut self.listeners) {
            give_up(&listener);
        }
    }
}

pub(in crate::master) fn interpreter(
    settings: &Settings,
    surroundings: &Surroundings,
) -> Result<Interpreter, MasterError> {
    Ok(Interpreter {
        python: surroundings.interpreter(settings.python.as_deref())?,
        extension: surroundings.extension(),
        variables: settings.env.clone(),
        run_as: settings.run_as.clone(),
        quiet: false,
    })
}

/// Makes the directory to change to absolute, for processes that may change twice.
pub(super) fn anchored(mut settings: Settings, directory: &Path) -> Settings {
    settings.chdir = settings.chdir.map(|chdir| directory.join(chdir));
    settings
}

/// Removes what the file system shows of a socket and makes the kernel refuse new
/// connections, although workers that drain still have it open. One that was
/// inherited may be in use by another server and stays as it is.
fn give_up(listener: &Listener) {
    clean_up(listener);
    if listener.origin() == Origin::Created {
        shut(listener);
    }
}

fn clean_up(listener: &Listener) {
    if let Err(error) = listener.cleanup() {
        tracing::warn!("cannot remove the socket {}: {error}", listener.url());
    }
}

fn shut(listener: &Listener) {
    if let Err(error) = shutdown(listener.as_fd().as_raw_fd(), Shutdown::Both) {
        tracing::debug!("cannot shut down the socket {}: {error}", listener.url());
    }
}
