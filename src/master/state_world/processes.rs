//! What the processes of a pretended world do: each thing by itself, or all that is right.

use std::time::Duration;

use rsgun_core::config::{PythonFile, PythonSource};
use rsgun_core::ipc::{Failure, FromForkServer, FromWorker, ToWorker, WorkerId};

use super::{KILLED, World, import_error};
use crate::master::event::{Asked, Event};
use crate::master::exit::Exit;
use crate::master::worker::Stage;

impl World {
    pub(in crate::master) fn server_hello(&mut self, generation: u32) {
        self.servers.get_mut(&generation).unwrap().greeted = true;
        let message = FromForkServer::Hello {
            version: rsgun_core::VERSION.to_owned(),
            python: "3.12.1".to_owned(),
        };
        self.happen(Event::ForkServer {
            generation,
            message,
        });
    }

    pub(in crate::master) fn server_evaluated(&mut self, generation: u32) {
        self.servers.get_mut(&generation).unwrap().asked = false;
        let file = PythonFile {
            source: PythonSource::File("gunicorn.conf.py".into()),
            path: "gunicorn.conf.py".into(),
            assigned: Vec::new(),
            hooks: self.policy.hooks,
        };
        self.happen(Event::ForkServer {
            generation,
            message: FromForkServer::Evaluated(file),
        });
    }

    pub(in crate::master) fn server_loaded(&mut self, generation: u32) {
        self.servers.get_mut(&generation).unwrap().loaded = true;
        self.happen(Event::ForkServer {
            generation,
            message: FromForkServer::Loaded,
        });
    }

    pub(in crate::master) fn server_dies(&mut self, generation: u32, exit: Exit) {
        let server = self.servers.remove(&generation).unwrap();
        // Requests that it has not yet served are lost with it.
        let lost: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| worker.identity.generation == generation && !worker.greeted)
            .map(|worker| worker.identity.id)
            .collect();
        for id in lost {
            let worker = self.workers.remove(&id).unwrap();
            self.living.remove(&worker.pid);
            self.ends(Event::WorkerClosed { id });
        }
        let exited = Event::Exited {
            pid: server.pid,
            exit,
        };
        if server.closed_by_master {
            self.ends(exited);
        } else {
            self.both(exited, Event::ForkServerClosed { generation });
        }
    }

    pub(in crate::master) fn worker_hello(&mut self, id: WorkerId) {
        let worker = self.workers.get_mut(&id).unwrap();
        worker.greeted = true;
        let pid = worker.pid;
        self.happen(Event::Worker {
            id,
            message: FromWorker::Hello { pid },
        });
    }

    pub(in crate::master) fn worker_ready(&mut self, id: WorkerId) {
        self.workers.get_mut(&id).unwrap().ready = true;
        // What it was asked as it was late is of no interest any more.
        self.asked.retain(|of| *of != Asked::Worker(id));
        self.happen(Event::Worker {
            id,
            message: FromWorker::Ready,
        });
    }

    /// A worker has answered enough requests.
    pub(in crate::master) fn worker_spent(&mut self, id: WorkerId) {
        self.happen(Event::Worker {
            id,
            message: FromWorker::Spent { requests: 50 },
        });
    }

    /// A worker comes by a break point.
    pub(in crate::master) fn worker_debugged(&mut self, id: WorkerId) {
        self.happen(Event::Worker {
            id,
            message: FromWorker::Debugged,
        });
    }

    /// Seconds pass one after the other, as they do for a master that runs.
    pub(in crate::master) fn seconds(&mut self, count: u64) {
        for _ in 0..count {
            if self.exit.is_none() {
                self.pass(Duration::from_secs(1));
            }
        }
    }

    /// The first who was asked for stacks answers.
    pub(in crate::master) fn answer_stacks(&mut self, stacks: Option<&str>) {
        if self.asked.is_empty() {
            return;
        }
        let of = self.asked.remove(0);
        let stacks = stacks.map(str::to_owned);
        self.happen(Event::Stacks { of, stacks });
    }

    pub(in crate::master) fn worker_draining(&mut self, id: WorkerId) {
        self.workers.get_mut(&id).unwrap().draining = true;
        self.happen(Event::Worker {
            id,
            message: FromWorker::Draining,
        });
    }

    pub(in crate::master) fn worker_fails(&mut self, id: WorkerId, failure: Failure) {
        self.happen(Event::Worker {
            id,
            message: FromWorker::Failed(failure),
        });
        if self.exit.is_none() {
            self.worker_dies(id, Exit::Code(3));
        }
    }

    pub(in crate::master) fn worker_dies(&mut self, id: WorkerId, exit: Exit) {
        let worker = self.workers.remove(&id).unwrap();
        let exited = Event::Exited {
            pid: worker.pid,
            exit,
        };
        let closed = Event::WorkerClosed { id };
        // The two signs come in either order.
        if worker.pid % 2 == 0 {
            self.both(exited, closed);
        } else {
            self.both(closed, exited);
        }
    }

    pub(in crate::master) fn both(&mut self, first: Event, second: Event) {
        self.ends(first);
        if self.signs_come_late {
            self.late.push_back(second);
        } else {
            self.ends(second);
        }
    }

    /// An event that may come after the master has ended.
    pub(in crate::master) fn ends(&mut self, event: Event) {
        if let Event::Exited { pid, .. } = event {
            self.inherit_from(pid);
            self.living.remove(&pid);
        }
        if self.exit.is_none() {
            self.happen(event);
        }
    }

    /// The second sign of a death arrives.
    pub(in crate::master) fn late_sign(&mut self) {
        if let Some(event) = self.late.pop_front() {
            self.ends(event);
        }
    }

    // === cooperation ===

    /// Every process does what it should, until nothing is left to do.
    pub(in crate::master) fn cooperate(&mut self) {
        for _ in 0..100_000 {
            if self.exit.is_some() || !self.one_reaction() {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// They do so until a worker starts.
    pub(in crate::master) fn until_a_start(&mut self) -> WorkerId {
        while self.starting().is_empty() {
            assert!(self.one_reaction(), "no worker starts");
        }
        self.starting()[0]
    }

    /// They do so, but the next worker that starts cannot import the application.
    pub(in crate::master) fn until_a_failed_start(&mut self) {
        let worker = self.until_a_start();
        self.worker_hello(worker);
        self.worker_fails(worker, import_error());
        self.cooperate();
    }

    /// One process does what it should; `false` when there is nothing to be done.
    pub(in crate::master) fn one_reaction(&mut self) -> bool {
        if !self.late.is_empty() {
            self.late_sign();
            return true;
        }
        if !self.asked.is_empty() {
            self.answer_stacks(Some("Thread 1"));
            return true;
        }
        if self.candidate_reacts() {
            return true;
        }
        if self.orphan_leaves() {
            self.orphan_dies(Exit::Code(0));
            return true;
        }
        if let Some(generation) = self.resolving.take() {
            let policy = self.policy.clone();
            self.happen(Event::Resolved { generation, policy });
            return true;
        }
        let server = self.servers.iter().find_map(|(number, server)| {
            (server.closed_by_master
                || !server.greeted
                || server.asked
                || (server.configured && !server.loaded)
                || self.is_killed_server(*number))
            .then_some(*number)
        });
        if let Some(number) = server {
            self.server_reacts(number);
            return true;
        }
        let worker = self
            .workers
            .iter()
            .find(|(id, worker)| {
                !worker.greeted
                    || worker.order.is_some()
                    || (worker.acknowledged && !worker.ready)
                    || self.is_killed(**id)
                    || self.is_aborted(**id)
                    || worker.draining
            })
            .map(|(id, _)| *id);
        if let Some(id) = worker {
            self.worker_reacts(id);
            return true;
        }
        false
    }

    pub(in crate::master) fn server_reacts(&mut self, number: u32) {
        let server = &self.servers[&number];
        if self.is_killed_server(number) {
            self.server_dies(number, KILLED);
        } else if !server.greeted {
            self.server_hello(number);
        } else if server.asked && !server.closed_by_master {
            self.server_evaluated(number);
        } else if server.configured && !server.loaded && !server.closed_by_master {
            self.server_loaded(number);
        } else if server.closed_by_master {
            self.server_dies(number, Exit::Code(0));
        }
    }

    pub(in crate::master) fn worker_reacts(&mut self, id: WorkerId) {
        let worker = &self.workers[&id];
        if (self.is_killed(id) || self.is_aborted(id)) && worker.greeted {
            self.worker_dies(id, KILLED);
        } else if !worker.greeted {
            self.worker_hello(id);
        } else if matches!(worker.order, Some(ToWorker::Drain { .. })) && !worker.draining {
            self.worker_draining(id);
        } else if worker.order.is_some() || worker.draining {
            self.worker_dies(id, Exit::Code(0));
        } else if worker.acknowledged && !worker.ready {
            self.worker_ready(id);
        }
    }

    pub(in crate::master) fn is_killed(&self, id: WorkerId) -> bool {
        self.state
            .workers
            .get(&id)
            .is_some_and(|worker| worker.stage == Stage::Killed)
    }

    pub(in crate::master) fn is_aborted(&self, id: WorkerId) -> bool {
        self.state
            .workers
            .get(&id)
            .is_some_and(|worker| matches!(worker.stage, Stage::Aborted { .. }))
    }

    pub(in crate::master) fn is_killed_server(&self, number: u32) -> bool {
        self.state
            .generations
            .get(&number)
            .is_some_and(|g| g.server.stage == Stage::Killed)
    }
}
