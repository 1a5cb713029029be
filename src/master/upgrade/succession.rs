//! The part of the state machine that goes on after the exec: in the new program, or in
//! the old one that has been run again.

use rsgun_core::ipc::WorkerId;

use crate::master::event::Action;
use crate::master::generation::{Cause, Standing};
use crate::master::moment::Moment;
use crate::master::reload::Reload;
use crate::master::state::State;
use crate::master::status::Condition;

impl State {
    /// Goes on with what the candidate has handed over, in the new program: `self` is
    /// the state of the program before, with the policies of this one.
    pub(in crate::master) fn succeed(&mut self, now: Moment, candidate: Self) -> Vec<Action> {
        let new = candidate.current;
        let former: Vec<u32> = self.generations.keys().copied().collect();
        for number in former {
            if let Some(generation) = self.generations.get_mut(&number) {
                generation.standing = Standing::Former;
            }
            self.close_server(now, number);
        }
        // Whatever has failed may be better in this one.
        self.server_backoff.hurry();
        for slot in self.slots.values_mut() {
            slot.backoff.hurry();
        }
        let starting: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| worker.is_starting())
            .map(|worker| worker.identity.id)
            .collect();
        for id in starting {
            self.cancel(now, id);
        }
        self.upgrade = None;
        self.current = new;
        self.last_generation = self.last_generation.max(candidate.last_generation);
        self.last_worker = self.last_worker.max(candidate.last_worker);
        self.generations.extend(candidate.generations);
        self.reload = Some(Reload::committed(new));
        for (id, worker) in candidate.workers {
            let slot = self.slots.entry(worker.identity.slot).or_default();
            let mut replaced = None;
            if worker.is_serving() {
                slot.backoff.reset();
                replaced = slot.current.replace(id);
            }
            self.workers.insert(id, worker);
            if let Some(old) = replaced {
                self.retire(now, old);
            }
        }
        self.show_condition();
        self.replay(now);
        self.settle(now)
    }

    /// Goes on as before, in the old program, which the new one has run again.
    pub(in crate::master) fn go_on(&mut self, now: Moment, reason: String) -> Vec<Action> {
        self.show_condition();
        self.upgrade_failed(now, Cause::boot(reason));
        self.settle(now)
    }

    /// Has it shown that the server was degraded when the program was exchanged.
    fn show_condition(&mut self) {
        if self.condition == Condition::Degraded {
            self.act(Action::ShowCondition(self.condition));
        }
    }
}
