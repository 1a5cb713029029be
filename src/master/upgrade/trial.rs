//! The part of the state machine that only a candidate needs: one worker, and no future.
//!
//! Any failure is the end, as at a boot. But the worker of a candidate may serve already,
//! on the listeners of a master that goes on. So it leaves as one that is replaced:
//! it answers what it has, and shuts nothing down.

use crate::master::event::Action;
use crate::master::generation::Cause;
use crate::master::moment::Moment;
use crate::master::notice::Notice;
use crate::master::state::State;
use crate::master::stop::Urgency;

impl State {
    /// Whether any failure is the end: nothing has been proved yet.
    pub(in crate::master) fn is_unproven(&self) -> bool {
        self.is_booting() || self.candidate.is_some()
    }

    /// The worker of a candidate is ready, and its probation begins.
    pub(in crate::master) fn candidate_ready(&mut self, now: Moment) {
        let probation = self.policy().map(|policy| policy.reload_probation);
        if self.candidate.is_some() {
            self.proved_at = Some(now + probation.unwrap_or_default());
        }
    }

    /// Tells the master whom it has started, and hands over when the probation of the
    /// candidate's worker is over.
    pub(in crate::master) fn settle_candidate(&mut self, now: Moment) {
        if self.candidate.is_some() {
            self.tell_offspring();
        }
        if !self.is_stopping() && self.proved_at.is_some_and(|at| at <= now) {
            self.proved_at = None;
            self.act(Action::HandOver);
        }
    }

    /// Nothing will come of this program.
    pub(in crate::master) fn boot_failed(&mut self, now: Moment, cause: Cause) {
        let code = cause.code;
        let urgency = if self.candidate.is_some() {
            Urgency::Graceful
        } else {
            Urgency::Quick
        };
        self.notify(Notice::BootFailed { cause });
        self.begin_stop(now, urgency, code);
    }
}
