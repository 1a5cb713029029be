//! What a candidate leaves behind that ends without having ended its processes, or whose
//! work is not taken up.
//!
//! It tells the master the process ids of what it has started before that runs anything of
//! the application. When it is gone, those that live are children of the master, a
//! subreaper. They leave by themselves, since their channels have ended; but one that hangs
//! reads no channel, and the kernel ends it only when the master dies. So from then on they
//! are followed like all others: as a generation that was given up, whose worker drains.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::Upgrade;
use super::decisions::Stage;
use crate::master::event::{Action, Policy};
use crate::master::exit::Exit;
use crate::master::generation::{Cause, Generation, Standing};
use crate::master::moment::Moment;
use crate::master::state::State;
use crate::master::supervision::{DRAIN_MARGIN, FORK_SERVER_LIMIT};
use crate::master::worker::{self, Worker};

/// The processes that a candidate has started and not seen end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::master) struct Offspring {
    pub(in crate::master) fork_server: Option<i32>,
    pub(in crate::master) worker: Option<i32>,
}

impl Offspring {
    /// Those of them that `is_there` holds for.
    pub(in crate::master) fn only(self, is_there: impl Fn(i32) -> bool) -> Self {
        Self {
            fork_server: self.fork_server.filter(|pid| is_there(*pid)),
            worker: self.worker.filter(|pid| is_there(*pid)),
        }
    }

    pub(super) fn contains(self, pid: i32) -> bool {
        self.fork_server == Some(pid) || self.worker == Some(pid)
    }
}

impl State {
    /// Tells the master, as its candidate, when other processes than before are there.
    pub(super) fn tell_offspring(&mut self) {
        let mut servers = self.generations.values().map(|each| &each.server);
        let mut workers = self.workers.values();
        let offspring = Offspring {
            fork_server: servers
                .find(|server| !server.gone && !server.ending.has_exited())
                .and_then(|server| server.pid),
            worker: workers
                .find(|worker| !worker.ending.has_exited())
                .and_then(|worker| worker.pid),
        };
        if self.offspring != offspring {
            self.offspring = offspring;
            // Before they are told to go on.
            self.actions.insert(0, Action::TellOffspring(offspring));
        }
    }

    /// Whether an exit was that of somebody whom the candidate has left behind.
    pub(super) fn orphan_exited(&mut self, now: Moment, pid: i32, exit: Exit) -> bool {
        let Some(upgrade) = &mut self.upgrade else {
            return false;
        };
        if !upgrade.orphans.contains(pid) {
            return false;
        }
        upgrade.orphans = upgrade.orphans.only(|other| other != pid);
        if upgrade.stage == Stage::Ready {
            let message = format!("its process {pid} {exit} while it was to take over");
            self.upgrade_failed(now, Cause::boot(message));
        }
        true
    }

    /// Follows those that a candidate has left behind, as it has failed.
    pub(super) fn adopt_orphans(&mut self, now: Moment, upgrade: &Upgrade) {
        let Offspring {
            fork_server,
            worker,
        } = upgrade.orphans;
        let Some(policy) = self.policy() else { return };
        if fork_server.is_none() && worker.is_none() {
            return;
        }
        let policy = Policy {
            graceful_timeout: upgrade.grace,
            ..policy.clone()
        };
        let number = upgrade.identity.generation;
        let mut generation = Generation::new(Standing::Rejected, policy, now);
        let server = &mut generation.server;
        server.pid = fork_server;
        server.gone = fork_server.is_none();
        server.stage = worker::Stage::Leaving {
            since: now,
            by: now + FORK_SERVER_LIMIT,
        };
        server.ending.channel_dropped();
        self.generations.insert(number, generation);
        if let Some(pid) = worker {
            self.adopt_worker(now, upgrade, pid);
        }
        // They read no channel while they import.
        for pid in [fork_server, worker].into_iter().flatten() {
            let signal = Signal::SIGTERM;
            self.act(Action::Kill { pid, signal });
        }
        self.hasten_orphans(now, number);
    }

    fn adopt_worker(&mut self, now: Moment, upgrade: &Upgrade, pid: i32) {
        let mut worker = Worker::new(upgrade.identity, now, None);
        worker.pid = Some(pid);
        // It may have accepted requests, but no longer does.
        worker.was_ready = true;
        worker.stopped_accepting = true;
        worker.stage = worker::Stage::Leaving {
            since: now,
            by: now + upgrade.grace + DRAIN_MARGIN,
        };
        worker.ending.channel_dropped();
        self.workers.insert(upgrade.identity.id, worker);
    }
}
