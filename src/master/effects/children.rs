//! The ends of children, and signals to them.
//!
//! The master is the parent of every worker, and of whoever else has lost a parent, so all of
//! them are reaped here. The number of a process that was reaped may be another's: no signal
//! is sent to one that is not looked at before.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rsgun_core::sys::process;

use super::Effects;
use crate::master::event::Event;
use crate::master::exit::Exit;
use crate::master::upgrade::UpgradeEvent;

impl Effects {
    /// Collects every child that has ended, also those that nobody knows.
    pub(in crate::master) fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match process::reap_any() {
                Ok(Some((pid, status))) => {
                    let exit = Exit::from_raw(pid, status);
                    let exit = if exit.is_kill() {
                        self.blame_memory(exit)
                    } else {
                        exit
                    };
                    let orphans = self.companion.as_ref().and_then(|one| one.orphans(pid));
                    if let Some(orphans) = orphans {
                        events.push(Event::Upgrade(UpgradeEvent::Orphans(orphans)));
                    }
                    events.push(Event::Exited { pid, exit });
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("children cannot be reaped: {error}");
                    break;
                }
            }
        }
        events
    }

    fn blame_memory(&mut self, exit: Exit) -> Exit {
        match exit {
            Exit::Signal { signal, core, .. } => Exit::Signal {
                signal,
                core,
                out_of_memory: self.out_of_memory.claim(),
            },
            other => other,
        }
    }
}

/// Sends a signal to a child that was not reaped, and to nobody else.
pub(super) fn send_signal(pid: i32, signal: Signal) -> Option<Event> {
    // Reaped a moment ago, or with a status that could not be read: the number may be
    // another's by now.
    let gone = Event::Exited {
        pid,
        exit: Exit::Unknown,
    };
    if !process::is_descendant(pid) {
        return Some(gone);
    }
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) => None,
        Err(Errno::ESRCH) => Some(gone),
        Err(error) => {
            tracing::error!("cannot send {signal} to the process {pid}: {error}");
            None
        }
    }
}
