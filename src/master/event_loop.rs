//! The one event loop.
//!
//! # Theory of operation
//!
//! Everything that happens, be it a signal, a message on a channel, the end of a child
//! or a deadline, becomes one [`Event`] in one queue. [`State`] decides what to do about it,
//! without touching anything; [`Effects`] does it. The loop knows neither.
//!
//! ```text
//!   signals ──▶ pipe ─┐
//!   channels ─▶ tasks ┼─▶ queue ─▶ State::step ─▶ actions ─▶ Effects::perform
//!   deadline ─▶ timer ┘     ▲                                     │
//!                           └──────── what is known at once ◀─────┘
//! ```

use std::collections::VecDeque;
use std::io;

use rsgun_core::sys::signals::{HeldBack, SignalQueue};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel};

use super::effects::Effects;
use super::event::{Action, Command, Event};
use super::moment::Moment;
use super::state::State;
use super::upgrade::UpgradeEvent;
use super::upgrade::candidate;
use super::upgrade::record::StateRecord;
use super::{MasterError, arrivals, link};
use crate::control::socket::{ControlSocket, Question};

/// What the event loop begins with.
pub(super) struct Begun {
    /// The state and its first actions.
    pub(super) begun: (State, Vec<Action>),
    /// What signals have asked for before the loop ran.
    pub(super) postponed: Vec<Command>,
}

impl From<(State, Vec<Action>)> for Begun {
    fn from(begun: (State, Vec<Action>)) -> Self {
        Self {
            begun,
            postponed: Vec::new(),
        }
    }
}

/// Runs the event loop to its end. Returns the exit code.
pub(super) fn run(
    runtime: &Runtime,
    signals: SignalQueue,
    control: Option<&ControlSocket>,
    queue: UnboundedReceiver<Event>,
    effects: Effects,
    begun: Begun,
) -> Result<u8, MasterError> {
    runtime
        .block_on(async {
            let questions = control.map(ControlSocket::listen).transpose()?;
            let questions = questions.unwrap_or_else(nobody);
            serve(signals, queue, questions, effects, begun).await
        })
        .map_err(MasterError::System)
}

/// The runtime of the one event loop.
pub(super) fn runtime() -> Result<Runtime, MasterError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(MasterError::System)
}

/// Nobody who asks for the status.
fn nobody() -> Receiver<Question> {
    channel(1).1
}

async fn serve(
    signals: SignalQueue,
    mut queue: UnboundedReceiver<Event>,
    mut questions: Receiver<Question>,
    mut effects: Effects,
    begun: Begun,
) -> io::Result<u8> {
    let Begun {
        begun: (mut state, actions),
        postponed,
    } = begun;
    let signals = link::watch(signals)?;
    let mut known = VecDeque::new();
    let mut then = perform(&state, &mut effects, actions, &mut known);
    known.extend(postponed.into_iter().map(Event::Command));
    known.extend(arrived(&signals, &mut effects)?);
    // A child may have ended before anybody was told, or during an upgrade.
    known.extend(effects.reap());
    loop {
        match then {
            Then::GoOn => {}
            Then::Exit(code) => {
                candidate::last_words(&effects).await;
                return Ok(code);
            }
            Then::HandOver | Then::Exec => {
                effects.pause().await;
                let held_back = HeldBack::start()?;
                // All that was seen so far happens before.
                while let Some(event) = at_hand(&signals, &mut queue, &effects, &mut known)? {
                    let actions = state.step(Moment::now(), event);
                    let next = perform(&state, &mut effects, actions, &mut known);
                    if let Then::Exit(code) = next {
                        return Ok(code);
                    }
                }
                if let Then::HandOver = then {
                    if let Some(code) = candidate::hand_over(&state, &effects).await {
                        return Ok(code);
                    }
                } else {
                    let reason = effects.exec(&state).await;
                    effects.resume();
                    let event = UpgradeEvent::NotReplaced { reason };
                    known.push_back(Event::Upgrade(event));
                }
                drop(held_back);
                known.extend(arrived(&signals, &mut effects)?);
                known.extend(effects.reap());
            }
        }
        if known.is_empty() {
            let deadline = state.next_deadline();
            let pause = deadline.map(|deadline| deadline.since(Moment::now()));
            let event = tokio::select! {
                biased;
                ready = signals.readable() => {
                    ready?.clear_ready();
                    None
                }
                // The sender lives in `effects`: the queue does not end.
                event = queue.recv() => event,
                Some(question) = questions.recv() => {
                    question.answer(&effects.status(&state, Moment::now()));
                    None
                }
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    Some(Event::Tick)
                }
            };
            // Whatever it was, a signal may explain it.
            known.extend(arrived(&signals, &mut effects)?);
            known.extend(event);
        }
        then = Then::GoOn;
        while let Some(event) = known.pop_front() {
            tracing::trace!("event: {event:?}");
            let actions = state.step(Moment::now(), event);
            then = perform(&state, &mut effects, actions, &mut known);
            if !matches!(then, Then::GoOn) {
                break;
            }
        }
    }
}

/// The signals that have come, and the children that have ended.
fn arrived(signals: &AsyncFd<SignalQueue>, effects: &mut Effects) -> io::Result<Vec<Event>> {
    let authority = effects.authority();
    arrivals::take(authority, || signals.get_ref().next(), || effects.reap())
}

/// The next event that is there without waiting; children are left for the program that
/// comes next, or for later.
fn at_hand(
    signals: &AsyncFd<SignalQueue>,
    queue: &mut UnboundedReceiver<Event>,
    effects: &Effects,
    known: &mut VecDeque<Event>,
) -> io::Result<Option<Event>> {
    if let Some(event) = known.pop_front().or_else(|| queue.try_recv().ok()) {
        return Ok(Some(event));
    }
    while let Some(arrived) = signals.get_ref().next()? {
        if let Some(command) = arrivals::command(arrived, effects.authority()) {
            return Ok(Some(Event::Command(command)));
        }
    }
    Ok(None)
}

/// What follows when actions were carried out.
#[derive(Debug, Clone, Copy)]
enum Then {
    GoOn,
    /// End with this code.
    Exit(u8),
    /// Hand everything over to the master of this candidate.
    HandOver,
    /// Run another program in this process.
    Exec,
}

/// Carries out actions; what is known at once about them is put in front of the other
/// events.
fn perform(
    state: &State,
    effects: &mut Effects,
    actions: Vec<Action>,
    known: &mut VecDeque<Event>,
) -> Then {
    let mut at_once = VecDeque::new();
    let mut then = Then::GoOn;
    for action in actions {
        tracing::trace!("action: {action:?}");
        match action {
            Action::Exit { code } => return Then::Exit(code),
            Action::HandOver => then = Then::HandOver,
            Action::Exec => then = Then::Exec,
            Action::StartCandidate { identity } => {
                let record = StateRecord::of(state);
                let event = match effects.start_candidate(&record, identity) {
                    Ok(pid) => UpgradeEvent::Started { pid },
                    Err(reason) => UpgradeEvent::NotStarted { reason },
                };
                at_once.push_back(Event::Upgrade(event));
            }
            other => at_once.extend(effects.perform(other)),
        }
    }
    at_once.append(known);
    *known = at_once;
    then
}
