//! Whether a SIGHUP asks for a reload, or says that the terminal is gone.
//!
//! Both come as the same signal. A terminal that is closed takes itself away from all
//! processes of its session first, and then the kernel sends the signal, or the shell,
//! which leads the session, passes it on. An operator's `kill -HUP` comes from another
//! process, or while the terminal is there. So it is a hang-up when this process had a
//! controlling terminal when it started, has none now, *and* the sender is the kernel or
//! the leader of the session.
//!
//! A server that was started in the terminal by hand ends then, gracefully: nobody could
//! see it any more. Whoever wants it to stay says so with `--daemon`, or with `nohup`,
//! which has the signal ignored when the program starts; only the hang-up is ignored
//! then, and `kill -HUP` still reloads.

use std::fs::File;

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use rsgun_core::sys::signals::{Sender, is_ignored};
use serde::{Deserialize, Serialize};

use super::event::Command;

/// The terminal that this process was started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Terminal {
    was_there: bool,
    nohup: bool,
}

impl Terminal {
    /// Looks for it. Call this before any handler of a signal is installed.
    pub(super) fn of_process() -> Self {
        Self {
            was_there: is_there(),
            nohup: is_ignored(Signal::SIGHUP),
        }
    }

    /// What a SIGHUP from this sender asks for.
    pub(super) fn hang_up(self, sender: Sender) -> Option<Command> {
        let leader = getsid(None).map_or(0, Pid::as_raw);
        self.meaning(sender, leader, is_there())
    }

    fn meaning(self, sender: Sender, leader: i32, is_there: bool) -> Option<Command> {
        let by_the_terminal = match sender {
            Sender::Kernel => true,
            // 0 is whoever is in another namespace.
            Sender::Process(pid) => pid != 0 && pid == leader,
        };
        if !(self.was_there && !is_there && by_the_terminal) {
            return Some(Command::Reload);
        }
        tracing::info!("the terminal was closed");
        (!self.nohup).then_some(Command::Stop)
    }
}

/// Whether this process has a controlling terminal: opening it fails with ENXIO if not.
fn is_there() -> bool {
    File::open("/dev/tty").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: i32 = 10;

    fn meaning(was_there: bool, nohup: bool, sender: Sender, is_there: bool) -> Option<Command> {
        Terminal { was_there, nohup }.meaning(sender, SHELL, is_there)
    }

    #[test]
    fn a_closed_terminal_ends_the_server() {
        for sender in [Sender::Kernel, Sender::Process(SHELL)] {
            assert_eq!(meaning(true, false, sender, false), Some(Command::Stop));
            assert_eq!(meaning(true, true, sender, false), None, "nohup");
        }
    }

    #[test]
    fn an_operator_reloads_with_and_without_a_terminal() {
        let operator = Sender::Process(99);
        for nohup in [false, true] {
            for is_there in [false, true] {
                for was_there in [false, true] {
                    let asked = meaning(was_there, nohup, operator, is_there);
                    assert_eq!(asked, Some(Command::Reload));
                }
            }
            let from_the_shell = meaning(true, nohup, Sender::Process(SHELL), true);
            assert_eq!(from_the_shell, Some(Command::Reload));
            // A service manager may lead the session.
            let from_the_leader = meaning(false, nohup, Sender::Process(SHELL), false);
            assert_eq!(from_the_leader, Some(Command::Reload));
        }
    }
}
