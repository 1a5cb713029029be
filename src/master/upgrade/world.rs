//! Upgrades in the pretended world of the tests: a candidate that does what it should
//! when a test lets it, and an exec that exchanges the state machine.

use std::time::Duration;

use rsgun_core::ipc::{FromForkServer, FromWorker, Identity};

use super::UpgradeEvent;
use super::orphans::Offspring;
use super::record::StateRecord;
use crate::master::event::{Action, Event};
use crate::master::exit::Exit;
use crate::master::generation::Cause;
use crate::master::state::State;
use crate::master::state_world::{ForkServer, KILLED, Process, World};
use crate::master::status::Condition;

/// The candidate, from the outside.
#[derive(Debug)]
pub(in crate::master) struct Candidate {
    identity: Identity,
    pub(in crate::master) pid: i32,
    /// What it has started, once it boots.
    offspring: Option<Offspring>,
    pub(in crate::master) handed_over: bool,
    ended_by_master: bool,
}

/// What comes of an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::master) enum Exec {
    #[default]
    Succeeds,
    /// There is none.
    Fails,
    /// The next program gives up, and runs this one again.
    IsTakenBack,
}

/// What a candidate has proved.
#[derive(Debug)]
pub(in crate::master) struct Proved {
    identity: Identity,
    fork_server: i32,
    worker: i32,
}

impl World {
    /// The master starts a candidate.
    pub(in crate::master) fn candidate_starts(&mut self, identity: Identity) -> Event {
        assert!(self.candidate.is_none(), "two upgrades at a time");
        assert!(
            self.state.reload.is_none(),
            "an upgrade in the middle of a reload"
        );
        let pid = self.new_pid();
        self.candidate = Some(Candidate {
            identity,
            pid,
            offspring: None,
            handed_over: false,
            ended_by_master: false,
        });
        Event::Upgrade(UpgradeEvent::Started { pid })
    }

    /// The master closes the channel of the candidate.
    pub(in crate::master) fn end_candidate(&mut self) {
        if let Some(candidate) = &mut self.candidate {
            candidate.ended_by_master = true;
        }
    }

    /// The candidate does what it should; `false` when there is nothing to be done.
    pub(in crate::master) fn candidate_reacts(&mut self) -> bool {
        let Some(candidate) = &mut self.candidate else {
            return false;
        };
        if candidate.ended_by_master || candidate.handed_over {
            let code = i32::from(candidate.ended_by_master);
            self.candidate_dies(Exit::Code(code));
        } else if candidate.offspring.is_some() {
            candidate.handed_over = true;
            self.happen(Event::Upgrade(UpgradeEvent::HandedOver));
        } else {
            let offspring = Offspring {
                fork_server: Some(self.new_pid()),
                worker: Some(self.new_pid()),
            };
            if let Some(candidate) = &mut self.candidate {
                candidate.offspring = Some(offspring);
            }
            self.happen(Event::Upgrade(UpgradeEvent::Boots {
                version: "2.0".to_owned(),
                within: Some(Duration::from_secs(120)),
                grace: self.policy.graceful_timeout,
            }));
        }
        true
    }

    /// The candidate cannot boot.
    pub(in crate::master) fn candidate_fails(&mut self) {
        if let Some(candidate) = &self.candidate
            && !candidate.handed_over
            && !candidate.ended_by_master
        {
            let cause = Cause::boot("importing \"main\" failed".to_owned());
            self.happen(Event::Upgrade(UpgradeEvent::Failed(cause)));
        }
    }

    pub(in crate::master) fn candidate_dies(&mut self, exit: Exit) {
        // After the exec it is gone, and nobody waits for its channel.
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        let exited = Event::Exited {
            pid: candidate.pid,
            exit,
        };
        let closed = Event::Upgrade(UpgradeEvent::Closed);
        let offspring = candidate.offspring.unwrap_or_default();
        // One that ends by itself has ended them before.
        let leaves_them = candidate.handed_over || exit == KILLED;
        let orphans = [offspring.fork_server, offspring.worker];
        if let ([Some(fork_server), Some(worker)], true) = (orphans, candidate.handed_over) {
            let identity = candidate.identity;
            self.proved = Some(Proved {
                identity,
                fork_server,
                worker,
            });
        }
        if leaves_them {
            self.left_behind = Some((candidate.pid, offspring));
        } else {
            for pid in orphans.into_iter().flatten() {
                self.living.remove(&pid);
            }
        }
        if candidate.ended_by_master {
            self.ends(exited);
        } else if candidate.pid % 2 == 0 {
            self.both(exited, closed);
        } else {
            self.both(closed, exited);
        }
    }

    /// The exec: the state crosses to another program, or nothing happens.
    pub(in crate::master) fn exec(&mut self) -> Option<Event> {
        let proved = self.proved.take().expect("a candidate has handed over");
        assert!(!self.state.is_stopping(), "an exec during the stop");
        let text = serde_json::to_string(&StateRecord::of(&self.state)).unwrap();
        let record: StateRecord = serde_json::from_str(&text).unwrap();
        let exec = std::mem::take(&mut self.next_exec);
        if exec == Exec::Fails {
            let reason = "no such program".to_owned();
            return Some(Event::Upgrade(UpgradeEvent::NotReplaced { reason }));
        }
        // What this program was asked for is not known to the next one.
        self.asked.clear();
        if exec == Exec::IsTakenBack {
            let policy = self.policy.clone();
            self.state = record.restore(self.now, |generation| generation.promised(&policy));
            self.shown = Condition::Sound;
            let actions = self.state.go_on(self.now, "it is damaged".to_owned());
            self.carry_out(actions);
            return None;
        }
        self.orphans.clear();
        let policy = self.policy.clone();
        let identity = proved.identity;
        let candidate = self.prove(&proved);
        // The channels of the fork servers are closed by it.
        for server in self.servers.values_mut() {
            server.closed_by_master = true;
        }
        if let Some(server) = self.servers.get_mut(&identity.generation) {
            server.closed_by_master = false;
        }
        self.shown = Condition::Sound;
        self.state = record.restore(self.now, |generation| generation.promised(&policy));
        let actions = self.state.succeed(self.now, candidate);
        self.carry_out(actions);
        None
    }

    /// The candidate is reaped: who is left of its processes is a child of the master now,
    /// which sees that in the same moment.
    pub(in crate::master) fn inherit_from(&mut self, candidate: i32) {
        let Some((_, offspring)) = self.left_behind.take_if(|(pid, _)| *pid == candidate) else {
            return;
        };
        let orphans = [offspring.fork_server, offspring.worker];
        self.orphans.extend(orphans.into_iter().flatten());
        if self.exit.is_none() {
            self.happen(Event::Upgrade(UpgradeEvent::Orphans(offspring)));
        }
    }

    /// Somebody dies whom a candidate has left behind.
    pub(in crate::master) fn orphan_dies(&mut self, exit: Exit) {
        if let Some(pid) = self.orphans.pop_first() {
            self.killed.remove(&pid);
            self.ends(Event::Exited { pid, exit });
        }
    }

    /// Whether one of them is about to end: its channel has ended, or it was killed.
    pub(in crate::master) fn orphan_leaves(&self) -> bool {
        let is_killed = |pid| self.killed.contains(pid);
        let leaves = self.proved.is_none() && !self.orphans_hang;
        self.orphans
            .first()
            .is_some_and(|pid| leaves || is_killed(pid))
    }

    /// What the candidate has made.
    fn prove(&mut self, proved: &Proved) -> State {
        let Proved {
            identity,
            fork_server: server,
            worker,
        } = *proved;
        let generation = identity.generation;
        let (mut state, _) = State::prove(self.now, self.policy.clone(), identity);
        let from_server = |message| Event::ForkServer {
            generation,
            message,
        };
        let from_worker = |message| Event::Worker {
            id: identity.id,
            message,
        };
        let mut actions = Vec::new();
        for event in [
            Event::ForkServerStarted {
                generation,
                pid: server,
            },
            from_server(FromForkServer::Hello {
                version: "2.0".to_owned(),
                python: "3.13.0".to_owned(),
            }),
            from_server(FromForkServer::Loaded),
            from_worker(FromWorker::Hello { pid: worker }),
            from_worker(FromWorker::Ready),
        ] {
            actions.extend(state.step(self.now, event));
        }
        let mut now = self.now;
        while !actions.iter().any(|a| matches!(a, Action::HandOver)) {
            let due = state.next_deadline().expect("its probation ends");
            assert!(due > now, "the loop of the candidate would spin");
            now = due;
            actions.extend(state.step(now, Event::Tick));
        }
        assert_eq!(now, self.now + self.policy.reload_probation);
        let spawned: Vec<Identity> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Spawn { identity } => Some(*identity),
                _ => None,
            })
            .collect();
        assert_eq!(spawned, [identity], "a candidate starts what it was given");
        let told = actions.iter().rev().find_map(|action| match action {
            Action::TellOffspring(offspring) => Some(*offspring),
            _ => None,
        });
        let all = Offspring {
            fork_server: Some(server),
            worker: Some(worker),
        };
        assert_eq!(told, Some(all), "the master knows them");
        let text = serde_json::to_string(&StateRecord::of(&state)).unwrap();
        let record: StateRecord = serde_json::from_str(&text).unwrap();
        self.servers.insert(
            generation,
            ForkServer {
                pid: server,
                greeted: true,
                asked: false,
                configured: true,
                loaded: true,
                closed_by_master: false,
            },
        );
        let process = Process::ready(identity, worker);
        self.workers.insert(identity.id, process);
        record.restore(self.now, |_| self.policy.clone())
    }
}

impl State {
    /// Whether a process is known to the state machine.
    pub(in crate::master) fn follows(&self, pid: i32) -> bool {
        let mut workers = self.workers.values();
        let mut servers = self.generations.values().map(|each| &each.server);
        workers.any(|worker| worker.pid == Some(pid))
            || servers.any(|server| server.pid == Some(pid) && !server.gone)
            || (self.upgrade.as_ref()).is_some_and(|upgrade| upgrade.orphans.contains(pid))
    }
}
