//! What the pretended world makes of the master's actions.

use nix::sys::signal::Signal;
use rsgun_core::ipc::{DrainReason, Identity, ToWorker, WorkerId};
use rsgun_core::scoreboard::Phase;

use super::{ForkServer, Process, World};
use crate::master::event::{Action, Event, Reading};

impl World {
    /// Does what the master asks for, and lets it know what is known at once.
    pub(in crate::master) fn carry_out(&mut self, actions: Vec<Action>) {
        let mut at_once = Vec::new();
        let mut execs = false;
        for action in actions {
            match action {
                Action::Resolve { generation, .. } => {
                    let before = self.resolving.replace(generation);
                    assert!(before.is_none_or(|before| before < generation));
                }
                Action::StartForkServer { generation, like } => {
                    at_once.push(self.fork_server_starts(generation, like));
                }
                Action::Evaluate { generation } => {
                    if let Some(server) = self.servers.get_mut(&generation) {
                        assert!(!server.asked && !server.configured);
                        server.asked = true;
                    }
                }
                Action::CallHook { generation, call } => {
                    if let Some(server) = self.servers.get(&generation) {
                        assert!(server.configured && !server.closed_by_master);
                    }
                    self.calls.push((generation, call));
                }
                Action::Configure { generation, .. } => {
                    if let Some(server) = self.servers.get_mut(&generation) {
                        server.configured = true;
                    }
                }
                Action::CloseForkServer { generation } => {
                    if let Some(server) = self.servers.get_mut(&generation) {
                        server.closed_by_master = true;
                    }
                }
                Action::Spawn { identity } => self.forked(identity),
                Action::Tell { id, order } => self.told(id, order),
                Action::Inspect { memory_of } => {
                    let readings = self.readings(&memory_of);
                    at_once.push(Event::Inspected { readings });
                }
                Action::AskForStacks { of, pid } => {
                    assert!(self.living.contains(&pid), "{of:?} was reaped");
                    assert!(!self.asked.contains(&of), "{of:?} is asked twice");
                    self.asked.push(of);
                }
                Action::Kill { pid, signal } => self.signalled(pid, signal),
                Action::ForgetWorker { identity } => {
                    let gone = self
                        .workers
                        .get(&identity.id)
                        .is_none_or(|worker| !worker.greeted);
                    assert!(gone, "a living worker is forgotten: {identity:?}");
                    self.workers.remove(&identity.id);
                }
                Action::ForgetGeneration { generation } => {
                    assert!(!self.servers.contains_key(&generation));
                    assert!(
                        !self
                            .workers
                            .values()
                            .any(|w| w.identity.generation == generation),
                        "generation {generation} has workers"
                    );
                }
                Action::CloseListeners => {
                    assert!(!self.listeners_closed);
                    self.listeners_closed = true;
                }
                Action::ShowCondition(condition) => {
                    assert_ne!(self.shown, condition, "nothing has changed");
                    self.shown = condition;
                }
                Action::Adopt {
                    generation,
                    workers,
                } => self.adopts(generation, workers),
                Action::ReopenLogs { .. } => {}
                Action::StartCandidate { identity } => {
                    at_once.push(self.candidate_starts(identity));
                }
                Action::EndCandidate => self.end_candidate(),
                Action::HandOver | Action::TellOffspring(_) => {
                    panic!("the master is no candidate")
                }
                Action::Exec => execs = true,
                Action::Notify(notice) => self.notices.push(notice),
                Action::Exit { code } => self.exit = Some(code),
            }
        }
        for event in at_once {
            let actions = self.state.step(self.now, event);
            self.carry_out(actions);
        }
        // All that is known is dealt with before.
        if execs && let Some(event) = self.exec() {
            let actions = self.state.step(self.now, event);
            self.carry_out(actions);
        }
    }

    fn signalled(&mut self, pid: i32, signal: Signal) {
        assert!(
            self.living.contains(&pid),
            "{pid} was reaped: it may be another's"
        );
        if signal == Signal::SIGKILL {
            self.killed.insert(pid);
        }
    }

    fn fork_server_starts(&mut self, generation: u32, like: Option<u32>) -> Event {
        assert!(like.is_none_or(|like| like < generation));
        let pid = self.new_pid();
        let server = ForkServer {
            pid,
            ..ForkServer::default()
        };
        assert!(self.servers.insert(generation, server).is_none());
        Event::ForkServerStarted { generation, pid }
    }

    fn forked(&mut self, identity: Identity) {
        let server = &self.servers[&identity.generation];
        assert!(server.loaded && !server.closed_by_master);
        let pid = self.new_pid();
        let process = Process::asked_for(identity, pid);
        self.check_recycling(&process);
        assert!(self.workers.insert(identity.id, process).is_none());
    }

    /// What a look at all workers shows.
    fn readings(&self, memory_of: &[(WorkerId, i32)]) -> Vec<Reading> {
        let reading = |worker: &Process| {
            let id = worker.identity.id;
            let memory = memory_of.contains(&(id, worker.pid));
            Reading {
                id,
                phase: if worker.ready {
                    Phase::Serving
                } else {
                    Phase::Importing
                },
                heartbeat: worker.silent_since.unwrap_or(self.now),
                busy_ms: worker.busy_ms,
                resident: memory.then_some(worker.resident),
            }
        };
        self.workers.values().map(reading).collect()
    }

    /// The listeners of a generation are the server's. Its workers are to serve what waits
    /// at those of before; of one that has just died the master may not know.
    fn adopts(&mut self, generation: u32, workers: Vec<WorkerId>) {
        let known = workers.iter().filter_map(|id| self.workers.get(id));
        for worker in known {
            let identity = worker.identity;
            assert!(
                worker.ready && identity.generation == generation,
                "{identity:?} is to serve what waits at old listeners"
            );
        }
        self.last_call = workers;
    }

    /// A worker gets an order.
    fn told(&mut self, id: WorkerId, order: ToWorker) {
        if !self.workers.contains_key(&id) {
            // It is dead, and only one of the signs was seen.
            return;
        }
        if let ToWorker::Drain {
            reason: DrainReason::Replaced,
            ..
        } = order
        {
            self.check_replaced(&self.workers[&id]);
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            match order {
                ToWorker::Acknowledge => worker.acknowledged = true,
                ToWorker::StopsSoon => worker.stops_soon = true,
                _ => worker.order = Some(order),
            }
        }
    }
}
