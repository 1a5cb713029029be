//! Signals that have arrived, as events in the order in which they are to be acted on.
//!
//! A signal to the whole group (`stopasgroup` of supervisord, CTRL+C) ends children and
//! tells the master why, and the kernel may run the handler of SIGCHLD first. Whoever
//! looked at the dead first would take them for failures, and start others. So commands
//! come before deaths: a signal to the group is pending for the master before any child
//! can die of it, and has reached the queue when the system call returns that reports
//! the death.

use std::io;

use nix::sys::signal::Signal;
use rsgun_core::sys::signals::{Arrived, Sender};

use super::event::{Command, Event};
use super::terminal::Terminal;
use super::upgrade;
use crate::signals;

/// Everything that has arrived: what `next` takes off the queue of signals, and what `reap`
/// finds when one of them says that a child has ended.
///
/// # Errors
/// What `next` returns.
pub(super) fn take(
    authority: Authority,
    mut next: impl FnMut() -> io::Result<Option<Arrived>>,
    mut reap: impl FnMut() -> Vec<Event>,
) -> io::Result<Vec<Event>> {
    let mut commands = Vec::new();
    let mut deaths = Vec::new();
    loop {
        let mut has_child_ended = false;
        while let Some(arrived) = next()? {
            has_child_ended |= arrived.signal == Signal::SIGCHLD;
            commands.extend(command(arrived, authority).map(Event::Command));
        }
        if !has_child_ended {
            commands.append(&mut deaths);
            return Ok(commands);
        }
        deaths.extend(reap());
    }
}

/// Whose signals count.
#[derive(Debug, Clone, Copy)]
pub(super) enum Authority {
    /// Everybody's, and those of the terminal that a master in the foreground has.
    Anybody(Option<Terminal>),
    /// Those of the master whose candidate this is.
    Master(i32),
}

/// What a signal asks for.
pub(super) fn command(arrived: Arrived, authority: Authority) -> Option<Command> {
    match (arrived.signal, authority) {
        (_, Authority::Master(pid)) => upgrade::candidate::command(arrived, pid),
        (Signal::SIGHUP, Authority::Anybody(Some(terminal))) => terminal.hang_up(arrived.sender),
        // It has another size.
        (Signal::SIGWINCH, Authority::Anybody(Some(_))) => None,
        // Somebody of the group uses the terminal from the background.
        (Signal::SIGTTIN | Signal::SIGTTOU, _) if arrived.sender == Sender::Kernel => None,
        (signal, _) => signals::command(signal),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::*;
    use crate::master::exit::Exit;

    fn from_process(signal: Signal) -> Arrived {
        let sender = Sender::Process(1);
        Arrived { signal, sender }
    }

    #[test]
    fn commands_come_before_the_deaths_that_they_explain() {
        let queue = RefCell::new(VecDeque::from([Signal::SIGCHLD, Signal::SIGHUP]));
        let died = |pid| Event::Exited {
            pid,
            exit: Exit::Unknown,
        };
        let mut reaped = 0;
        let events = take(
            Authority::Anybody(None),
            || Ok(queue.borrow_mut().pop_front().map(from_process)),
            || {
                reaped += 1;
                // More has come while the first was reaped.
                if reaped == 1 {
                    queue
                        .borrow_mut()
                        .extend([Signal::SIGTERM, Signal::SIGCHLD]);
                }
                vec![died(reaped)]
            },
        )
        .unwrap();
        let expected = [
            Event::Command(Command::Reload),
            Event::Command(Command::Stop),
            died(1),
            died(2),
        ];
        assert_eq!(format!("{events:?}"), format!("{expected:?}"));
    }

    #[test]
    fn a_terminal_does_not_ask_for_workers() {
        for (signal, wish) in [
            (Signal::SIGTTIN, Command::More),
            (Signal::SIGTTOU, Command::Fewer),
        ] {
            let sender = Sender::Kernel;
            assert_eq!(
                command(Arrived { signal, sender }, Authority::Anybody(None)),
                None
            );
            assert_eq!(
                command(from_process(signal), Authority::Anybody(None)),
                Some(wish)
            );
        }
    }

    #[test]
    fn nobody_is_reaped_without_a_death() {
        let mut queue = VecDeque::from([Signal::SIGTERM]);
        let next = || Ok(queue.pop_front().map(from_process));
        let events = take(Authority::Anybody(None), next, || panic!("nobody has died")).unwrap();
        assert!(matches!(events.as_slice(), [Event::Command(Command::Stop)]));
    }
}
