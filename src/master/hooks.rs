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
use super::generation::{Cause, Generation, Standing};
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
        let is_first = self.is_booting();
        // It begins to count for this fork server, even if it is the same as before.
        let old = (!is_first).then(|| self.target());
        self.tell_number(number, workers, old);
        // A new binary is no new start: it brings a generation, as a reload does.
        if standing == Standing::Candidate || self.candidate.is_some() {
            self.call_hook(number, Call::OnReload);
        } else if is_first {
            self.call_hook(number, Call::OnStarting);
            self.call_when_ready(number);
        }
    }

    /// `on_starting` has decided that there is to be no server.
    pub(super) fn start_declined(&mut self, now: Moment, code: u8, reason: String) {
        let cause = Cause {
            code,
            ..Cause::boot(reason)
        };
        self.close_server(now, self.current);
        self.boot_failed(now, cause);
    }

    /// Has a fork server call `when_ready` as soon as the one before is gone, and with it
    /// whatever that hook has started there: it may hold a port that is wanted again.
    pub(super) fn settle_hooks(&mut self) {
        let current = self.current;
        let is_due = |generation: &Generation| {
            !generation.server.when_ready && generation.server.takes_calls()
        };
        let has_former = self
            .generations
            .values()
            .any(|generation| generation.standing == Standing::Former && !generation.server.gone);
        if !self.is_booting()
            && self.candidate.is_none()
            && !has_former
            && self.generations.get(&current).is_some_and(is_due)
        {
            self.call_when_ready(current);
        }
    }

    fn call_when_ready(&mut self, number: u32) {
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.server.when_ready = true;
            self.call_hook(number, Call::WhenReady);
        }
    }

    pub(super) fn workers_changed(&mut self, before: u32, after: u32) {
        if before != after {
            self.tell_number(self.current, after, Some(before));
        }
    }

    fn tell_number(&mut self, number: u32, new: u32, old: Option<u32>) {
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.server.workers = new;
            self.call_hook(number, Call::WorkersChanged { new, old });
        }
    }

    /// A worker is gone for good: its own fork server knows best who that was.
    pub(super) fn child_exited(&mut self, worker: Label) {
        let Identity { id, generation, .. } = worker.identity;
        let own = (self.generations.get(&generation))
            .is_some_and(|generation| generation.server.takes_calls());
        let pid = worker.pid;
        if own {
            self.call_hook(generation, Call::ChildExit { id, pid });
        } else if pid.is_some() {
            self.call_hook(self.current, Call::ChildExit { id, pid });
        }
    }

    /// Has a fork server call a hook, if the configuration has it, or only note what has
    /// happened, if hooks see that.
    pub(super) fn call_hook(&mut self, number: u32, call: Call) {
        let hook = call.hook();
        let Some(generation) = self.generations.get(&number) else {
            return;
        };
        let is_called = generation.policy.hooks.contains(hook);
        let is_noted = matches!(call, Call::WorkersChanged { .. } | Call::ChildExit { .. })
            && generation.policy.evaluates;
        if generation.server.takes_calls() && (is_called || is_noted) {
            self.act(Action::CallHook {
                generation: number,
                call,
            });
        } else if is_called {
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
