//! The candidate's side: it boots one worker with what the master has given it, and hands
//! everything over.
//!
//! It is the child of a master that serves. Only that one has pidfile and terminal; when
//! its channel ends, the candidate ends everything that it has started. The listeners are
//! the master's: the candidate never shuts one down. Its workers know the master as the
//! heir of their parent, and do not mind when that changes.
//!
//! Signals that the whole group gets are the master's business, which passes on what they
//! mean. Only TERM, which ends an upgrade by hand, counts from anybody.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::getppid;
use rsgun_core::config::Source;
use rsgun_core::ipc::{BEREFT, Channel, ChannelError, Identity};
use rsgun_core::listeners;
use rsgun_core::log;
use rsgun_core::log::output::Files;
use rsgun_core::sys::shared::Shared;
use rsgun_core::sys::signals::{Arrived, Sender, SignalQueue};
use rsgun_core::sys::{handover, process, title};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::Invocation;
use super::snapshot::{FORMAT, FromCandidate, Luggage, Snapshot, ToCandidate};
use crate::master::arrivals::Authority;
use crate::master::effects::{Effects, Foundation, Role, manner};
use crate::master::evaluation::{self, Prepared, Step, Watch};
use crate::master::event::{Command, Event, Policy};
use crate::master::generation::Cause;
use crate::master::link::Link;
use crate::master::moment::Moment;
use crate::master::state::State;
use crate::master::{MasterError, event_loop, set_umask};
use crate::python::Surroundings;

/// How long the first order may take, milliseconds.
const ORDER_LIMIT_MS: u16 = 30_000;
/// What a boot takes besides fork server and worker.
const MARGIN: Duration = Duration::from_secs(5);
/// What would end a program that handles nothing, and the end of children.
const HANDLED: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGCHLD,
];

type Master = Channel<FromCandidate, ToCandidate>;

/// Boots a worker for the master at the other end of the channel. Returns the exit code.
///
/// # Errors
/// What the system refuses; anything else is told to the master.
pub(in crate::master) fn run(
    source: Source,
    invocation: Invocation,
    channel: OwnedFd,
) -> Result<u8, MasterError> {
    let signals = SignalQueue::install(&HANDLED).map_err(MasterError::System)?;
    let master = Master::new(channel);
    let (sender, queue) = unbounded_channel();
    let prepared = prepare(&master, &signals, source, invocation, sender.clone());
    let (mut effects, policy, identity) = match prepared {
        Ok(prepared) => prepared,
        Err(cause) => {
            // It may be gone.
            let _ = master.send(&FromCandidate::Failed(cause), &[]);
            return Ok(1);
        }
    };
    let runtime = event_loop::runtime()?;
    let entered = runtime.enter();
    let link = Link::open(
        master,
        sender,
        |_| Event::Tick,
        Event::Command(Command::Stop),
    )
    .map_err(MasterError::System)?;
    let within = policy
        .boot_timeout
        .map(|limit| 2 * limit + policy.reload_probation + MARGIN);
    let boots = FromCandidate::Boots {
        version: rsgun_core::VERSION.to_owned(),
        within_ms: within.and_then(|within| u64::try_from(within.as_millis()).ok()),
        grace_ms: u64::try_from(policy.graceful_timeout.as_millis()).unwrap_or(u64::MAX),
    };
    link.send(boots, Vec::new());
    effects.role = Role::Candidate(link);
    drop(entered);
    let begun = State::prove(Moment::now(), policy, identity);
    event_loop::run(&runtime, signals, None, queue, effects, begun.into())
}

/// Takes what the master gives, and everything of the boot that can fail at once.
fn prepare(
    master: &Master,
    signals: &SignalQueue,
    source: Source,
    invocation: Invocation,
    events: UnboundedSender<Event>,
) -> Result<(Effects, Policy, Identity), Cause> {
    let surroundings = Surroundings::of_process();
    let refused = |reason: String| Cause::boot(format!("the new program refuses: {reason}"));
    let system = |error: std::io::Error| Cause::boot(MasterError::System(error).to_string());
    let failed = |error: MasterError| Cause::configuration(error.to_string());
    let (snapshot, luggage, identity) = order(master).map_err(refused)?;
    let mut watch = Watch {
        signals,
        authority: Authority::Master(getppid().as_raw()),
        postponed: &mut Vec::new(),
    };
    // A master in the background stays there, and so this process is.
    let generation = identity.generation;
    let step = evaluation::prepare(&source, &surroundings, &mut watch, generation, true);
    let Step::Prepared(prepared) = step.map_err(failed)? else {
        return Err(refused("it was told to end".to_owned()));
    };
    let Prepared {
        settings,
        warnings,
        early,
    } = *prepared;
    let directory = invocation.directory().to_owned();
    if let Some(mask) = settings.umask {
        set_umask(mask);
    }
    let logs = Files::open(&settings, &directory).map_err(|error| {
        let file = early.as_ref().map(|early| &early.file);
        failed(error.located(&source, file).into())
    })?;
    log::init(settings.log_level, logs.try_clone().map_err(system)?, false);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let name = settings.name.as_ref().unwrap_or(&settings.app);
    title::set(&format!("rsgun: candidate [{name}]"));
    process::become_subreaper().map_err(system)?;
    let current = snapshot
        .listeners
        .into_iter()
        .map(|each| Ok(each.record.lent(luggage.unpack(each.fd)?)))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(system)?;
    let roster = luggage
        .unpack(snapshot.roster)
        .and_then(Shared::open)
        .map_err(system)?;
    let change = listeners::prepare(&current, &settings.bind, manner(&settings, settings.umask))
        .map_err(|error| failed(error.into()))?;
    let foundation = Foundation {
        early,
        ..Foundation::new(surroundings, invocation, settings, logs, current)
    };
    let (mut effects, policy) =
        Effects::new(source, foundation, identity.generation, events).map_err(failed)?;
    effects.roster = roster;
    effects.heir = Some(getppid().as_raw());
    if let Some(first) = effects.generations.get_mut(&identity.generation) {
        first.change = Some(change);
    }
    Ok((effects, policy, identity))
}

/// Waits for the order to begin, and understands it or says why not.
fn order(master: &Master) -> Result<(Snapshot, Luggage, Identity), String> {
    let message = match master.recv(Some(ORDER_LIMIT_MS)) {
        Ok(Some(message)) => message,
        Ok(None) => return Err("the old one is gone".to_owned()),
        Err(ChannelError::Io(error) | ChannelError::Damaged(error)) => {
            return Err(format!("no order has come: {error}"));
        }
        Err(ChannelError::Format(error)) => {
            return Err(format!(
                "it does not understand the old one ({error}); {RESTART}"
            ));
        }
    };
    if message.bereft {
        return Err(BEREFT.to_owned());
    }
    let ToCandidate::Begin {
        format,
        version,
        snapshot,
        identity,
    } = message.body;
    if format != FORMAT {
        let ours = rsgun_core::VERSION;
        return Err(format!(
            "rsgun {ours} cannot take over from rsgun {version}, whose state has the format \
             {format} and not {FORMAT}; {RESTART}"
        ));
    }
    let snapshot = serde_json::from_value(*snapshot)
        .map_err(|error| format!("the state of rsgun {version} is damaged: {error}; {RESTART}"))?;
    Ok((snapshot, Luggage(message.fds), identity))
}

const RESTART: &str = "restart the server to change to it";

/// What a signal asks the candidate of this master for.
pub(in crate::master) fn command(arrived: Arrived, master: i32) -> Option<Command> {
    match arrived.signal {
        Signal::SIGTERM => Some(Command::Stop),
        Signal::SIGINT if arrived.sender == Sender::Process(master) => Some(Command::StopQuickly),
        _ => None,
    }
}

/// Waits until a candidate has told the master why it ends.
pub(in crate::master) async fn last_words(effects: &Effects) {
    if let Role::Candidate(master) = &effects.role {
        // The answer follows what was sent before; there is none if the master is gone.
        let _ = master.report().await;
    }
}

/// Hands everything over to the master. Returns the exit code, or `None` if the candidate
/// has failed in the last moment.
pub(in crate::master) async fn hand_over(state: &State, effects: &Effects) -> Option<u8> {
    let Role::Candidate(master) = &effects.role else {
        return None;
    };
    if state.is_stopping() {
        effects.resume();
        return None;
    }
    let mut luggage = Luggage::default();
    let ready = async {
        let program = handover::own_program()?;
        let snapshot = effects.pack(state, &mut luggage).await?;
        let snapshot = Box::new(serde_json::to_value(snapshot)?);
        std::io::Result::Ok((program, FromCandidate::Ready { snapshot }))
    }
    .await;
    let message = match ready {
        Ok((program, message)) => {
            luggage.0.insert(0, program);
            message
        }
        Err(error) => FromCandidate::Failed(Cause::boot(MasterError::System(error).to_string())),
    };
    master.send(message, luggage.0);
    last_words(effects).await;
    Some(0)
}
