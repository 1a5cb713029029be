//! When hooks are due, and by whom they are called: the part of the state machine for
//! configuration files that are Python.
//!
//! gunicorn's arbiter calls hooks itself. Here that is the work of a fork server: of the
//! current one, or, for a reload, of the one that it brings. A hook can do nothing to the
//! master but be skipped, if there is nobody to call it.
//!
//! When the server stops, the current fork server stays as long as it has hooks to call,
//! and `on_exit` is the last thing that it does.

use rsgun_core::config::PythonFile;
use rsgun_core::hooks::{Call, Hook};
use rsgun_core::ipc::Identity;
use rsgun_core::listeners::Names;

use super::event::{Action, Policy};
use super::generation::{Generation, Standing};
use super::moment::Moment;
use super::notice::Notice;
use super::state::State;
use super::worker::Label;

impl State {
    /// A fork server has evaluated the configuration.
    pub(super) fn evaluated(&mut self, number: u32, file: PythonFile) {
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        if generation.standing == Standing::Candidate {
            self.act(Action::Resolve {
                generation: number,
                file: Some(Box::new(file)),
                names: Names::default(),
            });
        } else {
            // It stands in for one that has died: its settings are as before, and what
            // is on the disk by now waits for a reload, but for the hooks.
            generation.policy.hooks = file.hooks;
            self.configure(number);
        }
    }

    /// Sends a fork server its settings, and asks for the hooks of the first moment.
    pub(super) fn configure(&mut self, number: u32) {
        let Some(generation) = self.generations.get_mut(&number) else {
            return;
        };
        generation.server.configured = true;
        let standing = generation.standing;
        let (bounds, workers) = (generation.policy.bounds, generation.policy.workers);
        let workers = bounds.map_or_else(|| self.wanted(workers), |bounds| self.scaled(bounds));
        self.act(Action::Configure {
            generation: number,
            workers,
        });
        // A new binary is no new start: it brings a generation, as a reload does.
        if standing == Standing::Candidate || self.candidate.is_some() {
            self.call_hook(number, Call::OnReload);
        } else if self.is_booting() {
            let (new, old) = (workers, None);
            self.call_hook(number, Call::WorkersChanged { new, old });
            self.call_hook(number, Call::OnStarting);
            self.call_hook(number, Call::WhenReady);
        }
    }

    /// A worker is known by its process id.
    pub(super) fn introduce(&mut self, identity: Identity, pid: i32) {
        let evaluates = |generation: &Generation| generation.policy.evaluates;
        let generation = self.generations.get(&identity.generation);
        if generation.is_some_and(evaluates) {
            self.act(Action::Introduce { identity, pid });
        }
    }

    pub(super) fn workers_changed(&mut self, before: u32, after: u32) {
        if before != after {
            let (new, old) = (after, Some(before));
            self.call_hook(self.current, Call::WorkersChanged { new, old });
        }
    }

    /// A worker is gone for good.
    pub(super) fn child_exited(&mut self, worker: Label) {
        if let Some(pid) = worker.pid {
            let id = worker.identity.id;
            self.call_hook(self.current, Call::ChildExit { id, pid });
        }
    }

    /// Has a fork server call a hook, if the configuration has it.
    pub(super) fn call_hook(&mut self, number: u32, call: Call) {
        let hook = call.hook();
        let Some(generation) = self.generations.get(&number) else {
            return;
        };
        if !generation.policy.hooks.contains(hook) {
            return;
        }
        if generation.server.configured && !generation.server.is_down() {
            self.act(Action::CallHook {
                generation: number,
                call,
            });
        } else {
            self.notify(Notice::HookSkipped { hook });
        }
    }

    /// Whether a fork server is still needed when the server stops.
    pub(super) fn stays_for_hooks(&self, number: u32) -> bool {
        let has_any = |policy: &Policy| {
            [Hook::ChildExit, Hook::OnExit]
                .into_iter()
                .any(|hook| policy.hooks.contains(hook))
        };
        number == self.current
            && self
                .generations
                .get(&number)
                .is_some_and(|generation| generation.can_fork() && has_any(&generation.policy))
    }

    /// All workers are gone: so may the fork server be that stayed for the hooks.
    pub(super) fn call_last_hook(&mut self, now: Moment) {
        let number = self.current;
        if self.stays_for_hooks(number) {
            self.call_hook(number, Call::OnExit);
            self.close_server(now, number);
        }
    }
}
