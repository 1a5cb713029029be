//! What the master does: the actions of the state machine, carried out.

mod children;
mod generations;
mod logs;
mod observe;
mod resources;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use rsgun_core::config::{Settings, Source};
use rsgun_core::ipc::{ToForkServer, WorkerId};
use rsgun_core::listeners::{Listener, Manner};
use rsgun_core::log::output::Files;
use rsgun_core::roster::Roster;
use rsgun_core::sys::shared::Shared;
use tokio::sync::mpsc::UnboundedSender;

use self::children::send_signal;
use self::generations::anchored;
use super::MasterError;
use super::arrivals::Authority;
use super::cgroup::OomCounter;
use super::daemon::Launcher;
use super::evaluation::Early;
use super::event::{Action, Asked, ConfigurationFile, Event, Policy};
use super::link::Link;
use super::pidfile::PidFile;
use super::spawn::WorkerHandle;
use super::status::Condition;
use super::terminal::Terminal;
use super::upgrade::Invocation;
use super::upgrade::exec::Companion;
use super::upgrade::snapshot::FromCandidate;
use super::{processors, stacks};
use crate::control::document::Totals;
use crate::control::socket::ControlSocket;
use crate::python::Surroundings;

pub(super) use self::generations::interpreter;
pub(super) use self::resources::Resources;
pub(super) use self::words::own_title;

/// The processes, sockets and files of the master.
pub(super) struct Effects {
    source: Source,
    surroundings: Surroundings,
    /// How this program was called.
    pub(super) invocation: Invocation,
    directory: PathBuf,
    /// What was last warned of in the configuration.
    warned: Vec<String>,
    pub(super) events: UnboundedSender<Event>,
    /// What the master listens on.
    pub(super) listeners: Vec<Listener>,
    pub(super) generations: BTreeMap<u32, Resources>,
    pub(super) workers: HashMap<WorkerId, WorkerHandle>,
    pub(super) roster: Shared<Roster>,
    out_of_memory: OomCounter,
    /// What workers have done that are gone.
    pub(super) dead: Totals,
    condition: Condition,
    /// The settings that the master itself logs by.
    own: Arc<Settings>,
    /// Those that it was started with: what a reload does not apply stays so.
    started: Arc<Settings>,
    /// Waits in the terminal until the server serves.
    launcher: Option<Launcher>,
    /// Removed at the end.
    pub(super) pidfile: Option<PidFile>,
    /// The terminal of a master in the foreground.
    pub(super) terminal: Option<Terminal>,
    pub(super) role: Role,
    /// Who takes the processes over when this one ends.
    pub(super) heir: Option<i32>,
    /// The candidate of an upgrade.
    pub(super) companion: Option<Companion>,
    /// The first fork server, if it has evaluated the configuration already.
    early: Option<Box<Early>>,
    /// The mask that this one could not be started with.
    belated_umask: Option<u32>,
}

/// What the boot has set up for the master.
pub(super) struct Foundation {
    pub(super) surroundings: Surroundings,
    pub(super) invocation: Invocation,
    /// Where relative paths start.
    pub(super) directory: PathBuf,
    pub(super) settings: Settings,
    pub(super) logs: Files,
    pub(super) listeners: Vec<Listener>,
    /// Waits in the terminal until the server serves.
    pub(super) launcher: Option<Launcher>,
    pub(super) pidfile: Option<PidFile>,
    pub(super) terminal: Option<Terminal>,
    /// The fork server that has evaluated the configuration.
    pub(super) early: Option<Box<Early>>,
    /// What was warned of in the configuration.
    pub(super) warned: Vec<String>,
}

impl Foundation {
    /// What every master has; only one that serves has more.
    pub(super) fn new(
        surroundings: Surroundings,
        invocation: Invocation,
        settings: Settings,
        logs: Files,
        listeners: Vec<Listener>,
    ) -> Self {
        Self {
            surroundings,
            directory: invocation.directory().to_owned(),
            invocation,
            settings,
            logs,
            listeners,
            launcher: None,
            pidfile: None,
            terminal: None,
            early: None,
            warned: Vec::new(),
        }
    }
}

/// What this process is.
pub(super) enum Role {
    /// The master.
    Master,
    /// The candidate of an upgrade, with its line to the master.
    Candidate(Link<FromCandidate>),
}

impl Effects {
    /// Takes over what was set up at boot, for the generation of this number. Returns
    /// what decisions about it depend on as well.
    ///
    /// # Errors
    /// When there is no interpreter, or the shared memory cannot be made.
    pub(super) fn new(
        source: Source,
        foundation: Foundation,
        number: u32,
        events: UnboundedSender<Event>,
    ) -> Result<(Self, Policy), MasterError> {
        let Foundation {
            surroundings,
            invocation,
            directory,
            settings,
            logs,
            listeners,
            launcher,
            pidfile,
            terminal,
            early,
            warned,
        } = foundation;
        let (interpreter, file) = match &early {
            Some(early) => (early.interpreter.clone(), Some(&early.file)),
            None => (interpreter(&settings, &surroundings)?, None),
        };
        let known = file.map_or(ConfigurationFile::Read, |file| {
            ConfigurationFile::Evaluated(file.hooks)
        });
        let belated_umask = settings.umask.filter(|_| early.is_some());
        let roster = Shared::create(c"rsgun-roster").map_err(MasterError::System)?;
        let settings = Arc::new(anchored(settings, &directory));
        let first = Resources {
            settings: Arc::clone(&settings),
            logs,
            interpreter,
            file: file.map(|file| file.source.clone()),
            known,
            change: None,
            server: None,
            report: None,
        };
        let policy = first.policy();
        let effects = Self {
            source,
            surroundings,
            invocation,
            directory,
            events,
            listeners,
            generations: BTreeMap::from([(number, first)]),
            workers: HashMap::new(),
            roster,
            out_of_memory: OomCounter::of_process(),
            dead: Totals::default(),
            condition: Condition::Sound,
            own: Arc::clone(&settings),
            started: settings,
            launcher,
            pidfile,
            terminal,
            role: Role::Master,
            heir: None,
            companion: None,
            early,
            warned,
            belated_umask,
        };
        Ok((effects, policy))
    }

    /// Whose signals count.
    pub(super) fn authority(&self) -> Authority {
        self.heir
            .map_or(Authority::Anybody(self.terminal), Authority::Master)
    }

    /// Carries out an action. Returns what is known about it at once.
    pub(super) fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Resolve {
                generation,
                file,
                names,
            } => return self.resolve(generation, file, &names),
            Action::StartForkServer { generation, like } => {
                return Some(match self.start_fork_server(generation, like) {
                    Ok(pid) => Event::ForkServerStarted { generation, pid },
                    Err(reason) => Event::ForkServerNotStarted { generation, reason },
                });
            }
            Action::Evaluate { generation } => self.evaluate(generation),
            Action::Configure {
                generation,
                workers,
            } => return self.configure(generation, workers),
            Action::CallHook { generation, call } => {
                self.tell_server(generation, ToForkServer::Call(call));
            }
            Action::CloseForkServer { generation } => {
                if let Some(resources) = self.generations.get_mut(&generation) {
                    resources.server = None;
                }
            }
            Action::ForgetGeneration { generation } => self.forget_generation(generation),
            Action::Adopt {
                generation,
                workers,
            } => self.adopt(generation, &workers),
            Action::Spawn { identity } => {
                let id = identity.id;
                return match self.spawn(identity) {
                    Ok(handle) => {
                        self.workers.insert(id, handle);
                        None
                    }
                    Err(reason) => Some(Event::WorkerNotSpawned { id, reason }),
                };
            }
            Action::Tell { id, order } => {
                if let Some(worker) = self.workers.get(&id) {
                    worker.link.send(order, Vec::new());
                }
            }
            Action::Inspect { memory_of } => {
                self.out_of_memory.look();
                let readings = self.inspect(&memory_of);
                return Some(Event::Inspected { readings });
            }
            Action::AskForStacks { of, pid } => return self.ask_for_stacks(of, pid),
            Action::Kill { pid, signal } => return send_signal(pid, signal),
            Action::ForgetWorker { identity } => {
                self.keep_counts(identity.id);
                self.roster.leave(identity.seat);
                self.workers.remove(&identity.id);
            }
            Action::CloseListeners => self.close_listeners(),
            Action::ReopenLogs { only } => self.reopen_logs(only),
            Action::ShowCondition(condition) => {
                self.condition = condition;
                self.show_title();
            }
            Action::Notify(notice) => self.tell(&notice),
            Action::EndCandidate => {
                if let Some(companion) = &mut self.companion {
                    companion.dismiss();
                }
            }
            Action::TellOffspring(offspring) => {
                if let Role::Candidate(master) = &self.role {
                    master.send(FromCandidate::Offspring(offspring), Vec::new());
                }
            }
            // The loop looks for these itself.
            Action::StartCandidate { .. }
            | Action::HandOver
            | Action::Exec
            | Action::Exit { .. } => {}
        }
        None
    }

    fn ask_for_stacks(&self, of: Asked, pid: i32) -> Option<Event> {
        let report = match of {
            Asked::Worker(id) => self.workers.get(&id).map(|worker| &worker.report),
            Asked::ForkServer(generation) => self
                .generations
                .get(&generation)
                .and_then(|resources| resources.report.as_ref()),
        };
        let report = report.and_then(|report| report.try_clone().ok());
        stacks::ask(of, pid, report, self.events.clone())
    }

    fn tell_server(&self, generation: u32, message: ToForkServer) {
        let server =
            (self.generations.get(&generation)).and_then(|resources| resources.server.as_ref());
        if let Some(server) = server {
            server.send(message, Vec::new());
        }
    }

    /// Opens the control socket of the settings, after an upgrade.
    pub(super) fn open_control_socket(&self) -> Option<ControlSocket> {
        let path = self.own.control_socket.as_deref()?;
        ControlSocket::open(&self.directory.join(path))
            .inspect_err(|error| tracing::error!("{error}; there is none until the next start"))
            .ok()
    }

    /// Has the pidfile where the settings want it, after an upgrade.
    pub(super) fn keep_pidfile(&mut self, settings: &Settings) {
        let wanted = settings.pid.as_ref().map(|path| self.directory.join(path));
        let is_there = self.pidfile.as_ref().map(PidFile::path) == wanted.as_deref();
        if is_there {
            return;
        }
        match wanted.map(|path| PidFile::create(&path)).transpose() {
            Ok(file) => self.pidfile = file,
            Err(error) => tracing::error!("{error}; the one of before stays"),
        }
    }
}

/// In which manner sockets are opened. The mask is that of the boot.
pub(super) fn manner(settings: &Settings, umask: Option<u32>) -> Manner {
    Manner {
        backlog: settings.backlog,
        mode: Manner::MODE & !umask.unwrap_or(0),
        reuse_port: settings.reuse_port.then(|| {
            let workers = usize::try_from(processors::workers(settings.workers)).unwrap_or(1);
            workers.min(Manner::QUEUES_MAX)
        }),
        owner: (settings.run_as.as_ref()).map(|run_as| (run_as.uid, run_as.gid)),
    }
}
