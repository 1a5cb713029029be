//! The new program in the old process: it takes everything over, or goes back.
//!
//! Signals are held back until the handlers stand, and what the kernel keeps of them and
//! of children that have ended is looked at before anything else. As long as the
//! successor has not taken over, the descriptors in the luggage stay as they are, so that
//! the program before can be run again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rsgun_core::config::{Settings, Source};
use rsgun_core::ipc::{
    Channel, Extension, FromForkServer, FromWorker, Post, ToForkServer, ToWorker, WorkerId,
};
use rsgun_core::listeners::{Change, Listener};
use rsgun_core::log;
use rsgun_core::log::output::Files;
use rsgun_core::scoreboard::Scoreboard;
use rsgun_core::sys::shared::Shared;
use rsgun_core::sys::signals::{SignalQueue, let_signals_in};
use rsgun_core::sys::stacks::Report;
use rsgun_core::sys::{handover, process, title};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::exec::written;
use super::snapshot::{
    ChangeRecord, ChannelRecord, HandleRecord, ListenerRecord, Luggage, Passage, ResourcesRecord,
    Snapshot,
};
use super::{Invocation, VARIABLE};
use crate::master::effects::{Effects, Foundation, Resources, own_title};
use crate::master::event::{Action, Event};
use crate::master::link::Link;
use crate::master::moment::Moment;
use crate::master::pidfile::PidFile;
use crate::master::spawn::{Interpreter, WorkerHandle};
use crate::master::state::State;
use crate::master::{MasterError, event_loop, set_umask};
use crate::python::Surroundings;
use crate::signals;

/// Why the state of the program before cannot be taken over.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the system refuses what the new program needs: {0}")]
    System(#[from] std::io::Error),
    #[error("the state of the program before cannot be understood: {0}")]
    Format(#[from] serde_json::Error),
    #[error("{0}")]
    Other(String),
}

/// Goes on as the master that this process was before the exec. Returns the exit code.
///
/// # Errors
/// What the system refuses, if there is no way back either.
pub(in crate::master) fn run(
    source: Source,
    invocation: Invocation,
    passage: OwnedFd,
) -> Result<u8, MasterError> {
    let signals = SignalQueue::install(&signals::HANDLED).map_err(MasterError::System)?;
    let mut text = String::new();
    File::from(passage)
        .read_to_string(&mut text)
        .map_err(MasterError::System)?;
    let unreadable = |error: serde_json::Error| MasterError::System(error.into());
    let value: Value = serde_json::from_str(&text).map_err(unreadable)?;
    let luggage = luggage(&value).map_err(MasterError::System)?;
    let runtime = event_loop::runtime()?;
    let entered = runtime.enter();
    let (sender, queue) = unbounded_channel();
    let arguments = invocation.clone();
    let taken = Successor::put_together(source, invocation, sender, &value, luggage);
    let (effects, begun) = match taken {
        Ok(taken) => taken,
        Err((refusal, luggage)) => {
            return Err(MasterError::System(go_back(
                value, &luggage, &arguments, &refusal,
            )));
        }
    };
    drop(entered);
    let control = effects.open_control_socket();
    let_signals_in().map_err(MasterError::System)?;
    event_loop::run(
        &runtime,
        signals,
        control.as_ref(),
        queue,
        effects,
        begun.into(),
    )
}

/// Takes the descriptors that the program before has left open.
fn luggage(passage: &Value) -> std::io::Result<Luggage> {
    let numbers: Vec<i32> = serde_json::from_value(passage["numbers"].clone())?;
    let fds: std::io::Result<_> = numbers.into_iter().map(handover::claim).collect();
    Ok(Luggage(fds?))
}

/// Runs the program before again. Returns only if that fails.
fn go_back(
    mut passage: Value,
    luggage: &Luggage,
    invocation: &Invocation,
    refusal: &Refusal,
) -> std::io::Error {
    passage["returned"] = refusal.to_string().into();
    let program = serde_json::from_value(passage["program"].clone())
        .map_err(std::io::Error::from)
        .and_then(|place| luggage.unpack(place));
    let file = written(passage.to_string().as_bytes());
    match (program, file) {
        (Ok(program), Ok(file)) => handover::exec(
            program.as_fd(),
            invocation.arguments(),
            VARIABLE,
            OsStr::new(&file.as_raw_fd().to_string()),
        ),
        (Err(error), _) | (_, Err(error)) => error,
    }
}

/// What comes of taking over: the effects, and the state with its first actions.
type Taken = (Effects, (State, Vec<Action>));

/// The place where the new master is put together.
struct Successor {
    source: Source,
    invocation: Invocation,
    surroundings: Surroundings,
    events: UnboundedSender<Event>,
}

impl Successor {
    fn put_together(
        source: Source,
        invocation: Invocation,
        events: UnboundedSender<Event>,
        passage: &Value,
        mut luggage: Luggage,
    ) -> Result<Taken, (Refusal, Luggage)> {
        let successor = Self {
            source,
            invocation,
            surroundings: Surroundings::of_process(),
            events,
        };
        let passage: Passage = match serde_json::from_value(passage.clone()) {
            Ok(passage) => passage,
            Err(error) => return Err((error.into(), luggage)),
        };
        let candidates = luggage.split_off(passage.descriptors_of_master);
        let taken = match passage.returned.clone() {
            Some(reason) => successor.come_back(passage, &luggage, reason),
            None => successor.take_over(passage, &luggage, &candidates),
        };
        taken.map_err(|refusal| {
            luggage.0.extend(candidates.0);
            (refusal, luggage)
        })
    }

    /// Goes on with what the candidate has proved.
    fn take_over(
        self,
        passage: Passage,
        luggage: &Luggage,
        candidates: &Luggage,
    ) -> Result<Taken, Refusal> {
        let master: Snapshot = serde_json::from_value(passage.master)?;
        let candidate: Snapshot = serde_json::from_value(passage.candidate)?;
        let now = Moment::now();
        let Some(new) = candidate.generations.first() else {
            return Err(Refusal::Other("the candidate has no generation".to_owned()));
        };
        let number = new.number;
        let own = resources(new.clone(), candidates, Some(&self.events))?;
        let policy = own.policy();
        let mut generations = BTreeMap::new();
        for old in &master.generations {
            // Their own settings may be unknown here, and count for nothing but log files.
            generations.insert(old.number, own.like()?);
        }
        let mut workers = HashMap::new();
        for (handles, luggage) in [(master.workers, luggage), (candidate.workers, candidates)] {
            for handle in handles {
                let (id, handle) = worker(handle, luggage, &self.events)?;
                workers.insert(id, handle);
            }
        }
        let mut state = master
            .state
            .restore(now, |generation| generation.promised(&policy));
        let candidate = candidate.state.restore(now, |_| policy.clone());
        let settings = Arc::clone(&own.settings);
        generations.insert(number, own);
        let foundation = self.foundation(
            &settings,
            &generations[&number],
            listeners(master.listeners, luggage)?,
            master.pidfile.map(PidFile::taken_over),
            master.terminal,
        )?;
        let roster = Shared::open(luggage.unpack(master.roster)?)?;
        let (mut effects, _) = Effects::new(self.source, foundation, number, self.events)
            .map_err(|error| Refusal::Other(error.to_string()))?;
        effects.roster = roster;
        effects.generations = generations;
        effects.workers = workers;
        effects.keep_pidfile(&settings);
        effects.dead = master.dead;
        tracing::info!(
            "rsgun {} has taken over from rsgun {} [pid {}]",
            rsgun_core::VERSION,
            passage.version,
            std::process::id()
        );
        let actions = state.succeed(now, candidate);
        Ok((effects, (state, actions)))
    }

    /// Goes on as before: the program that was to take over has given up.
    fn come_back(
        self,
        passage: Passage,
        luggage: &Luggage,
        reason: String,
    ) -> Result<Taken, Refusal> {
        let master: Snapshot = serde_json::from_value(passage.master)?;
        let now = Moment::now();
        let mut generations = BTreeMap::new();
        for record in master.generations {
            let number = record.number;
            generations.insert(number, resources(record, luggage, Some(&self.events))?);
        }
        let mut workers = HashMap::new();
        for handle in master.workers {
            let (id, handle) = worker(handle, luggage, &self.events)?;
            workers.insert(id, handle);
        }
        let current = master.state.current();
        let Some(own) = generations.get(&current) else {
            return Err(Refusal::Other(format!("generation {current} is missing")));
        };
        let today = own.policy();
        let mut state = master.state.restore(now, |generation| {
            generations
                .get(&generation.number)
                .map_or_else(|| today.clone(), Resources::policy)
        });
        let settings = Arc::clone(&own.settings);
        let foundation = self.foundation(
            &settings,
            own,
            listeners(master.listeners, luggage)?,
            master.pidfile.map(PidFile::taken_over),
            master.terminal,
        )?;
        let roster = Shared::open(luggage.unpack(master.roster)?)?;
        let (mut effects, _) = Effects::new(self.source, foundation, current, self.events)
            .map_err(|error| Refusal::Other(error.to_string()))?;
        effects.roster = roster;
        effects.generations = generations;
        effects.workers = workers;
        effects.dead = master.dead;
        let actions = state.go_on(now, reason);
        Ok((effects, (state, actions)))
    }

    /// What a boot would have set up.
    fn foundation(
        &self,
        settings: &Settings,
        own: &Resources,
        listeners: Vec<Listener>,
        pidfile: Option<PidFile>,
        terminal: Option<crate::master::terminal::Terminal>,
    ) -> Result<Foundation, Refusal> {
        if let Some(mask) = settings.umask {
            set_umask(mask);
        }
        let captures = settings.daemon && settings.error_logfile.is_file();
        log::init(settings.log_level, own.logs.try_clone()?, captures);
        title::set(&own_title(settings));
        process::become_subreaper()?;
        Ok(Foundation {
            pidfile,
            terminal,
            ..Foundation::new(
                self.surroundings.clone(),
                self.invocation.clone(),
                settings.clone(),
                own.logs.try_clone()?,
                listeners,
            )
        })
    }
}

fn listeners(records: Vec<ListenerRecord>, luggage: &Luggage) -> Result<Vec<Listener>, Refusal> {
    records
        .into_iter()
        .map(|each| Ok(each.record.with(luggage.unpack(each.fd)?)))
        .collect()
}

/// A generation; its fork server gets its channel again.
fn resources(
    record: ResourcesRecord,
    luggage: &Luggage,
    events: Option<&UnboundedSender<Event>>,
) -> Result<Resources, Refusal> {
    let settings: Settings = serde_json::from_value(record.settings)?;
    let logs = record
        .logs
        .iter()
        .map(|fd| luggage.unpack(*fd))
        .collect::<std::io::Result<_>>()?;
    let logs =
        Files::from_fds(logs).ok_or_else(|| Refusal::Other("log files are missing".to_owned()))?;
    let change = match record.change {
        Some(ChangeRecord { wanted, opened }) => {
            Some(Change::restored(wanted, listeners(opened, luggage)?))
        }
        None => None,
    };
    let interpreter = Interpreter {
        python: record.python,
        extension: record
            .extension
            .map_or(Extension::Installed, Extension::File),
        variables: settings.env.clone(),
        run_as: record.run_as,
        quiet: false,
    };
    let server = match (record.server, events) {
        (Some(channel), Some(events)) => {
            let (channel, unsent) = unpack::<ToForkServer, FromForkServer>(channel, luggage)?;
            let link = interpreter.link(record.number, channel, events.clone())?;
            Some((link, unsent))
        }
        _ => None,
    };
    Ok(Resources {
        settings: Arc::new(settings),
        logs,
        interpreter,
        file: record.file,
        known: record.known,
        change,
        server: server.map(|(link, unsent)| resend(link, unsent)),
        report: match record.report {
            Some(fd) => Some(Report::from(luggage.unpack(fd)?)),
            None => None,
        },
    })
}

fn worker(
    record: HandleRecord,
    luggage: &Luggage,
    events: &UnboundedSender<Event>,
) -> Result<(WorkerId, WorkerHandle), Refusal> {
    let id = record.id;
    let link = match record.channel {
        Some(channel) => {
            let (channel, unsent) = unpack::<ToWorker, FromWorker>(channel, luggage)?;
            resend(WorkerHandle::link(id, channel, events.clone())?, unsent)
        }
        None => Link::ended(),
    };
    // One of another layout shows nothing; it is replaced in a moment.
    let scoreboard = Shared::<Scoreboard>::open(luggage.unpack(record.scoreboard)?)
        .or_else(|_| Shared::create(c"rsgun-scoreboard"))?;
    let handle = WorkerHandle {
        generation: record.generation,
        link,
        scoreboard,
        report: Report::from(luggage.unpack(record.report)?),
    };
    Ok((id, handle))
}

/// Messages that the program before could not send, with their descriptors.
type Unsent<Out> = Vec<(Out, Vec<OwnedFd>)>;

fn unpack<Out, In>(
    record: ChannelRecord,
    luggage: &Luggage,
) -> Result<(Channel<Out, In>, Unsent<Out>), Refusal>
where
    Out: Post,
    In: Post,
{
    let channel = Channel::new(luggage.unpack(record.channel)?);
    let mut unsent = Vec::new();
    for (message, fds) in record.unsent {
        let fds: std::io::Result<_> = fds.into_iter().map(|fd| luggage.unpack(fd)).collect();
        unsent.push((serde_json::from_value(message)?, fds?));
    }
    Ok((channel, unsent))
}

fn resend<Out: Post + Clone + Send + Sync + 'static>(
    link: Link<Out>,
    unsent: Unsent<Out>,
) -> Link<Out> {
    for (message, fds) in unsent {
        link.send(message, fds);
    }
    link
}
