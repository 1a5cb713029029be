//! What the operator wishes for, by signal, and how many workers that makes.

use std::mem;

use super::event::{Action, Command, Policy};
use super::moment::Moment;
use super::notice::Notice;
use super::state::{SLOTS_MAX, State};

impl State {
    /// How many workers there should be. The boot is finished before they go.
    pub(super) fn target(&self) -> u32 {
        if self.dismissed && !self.is_booting() {
            return 0;
        }
        if self.candidate.is_some() {
            return 1;
        }
        let number = |policy: &Policy| match policy.bounds {
            Some(bounds) => bounds.clamp(self.scaled_to.unwrap_or(policy.workers)),
            None => self.wanted(policy.workers),
        };
        let current = self.policy().map_or(1, number);
        // The slots that the new configuration does without are not exchanged before they
        // are left out; those that it adds come when it counts.
        let proven = (self.proven_candidate()).and_then(|number| self.generations.get(&number));
        proven.map_or(current, |new| current.min(number(&new.policy)))
    }

    /// How many workers a configured number means.
    pub(super) fn wanted(&self, configured: u32) -> u32 {
        let configured = i64::from(configured);
        let wanted = (configured + self.adjustment).clamp(1, i64::from(SLOTS_MAX));
        u32::try_from(wanted).unwrap_or(1)
    }

    pub(super) fn on_command(&mut self, now: Moment, command: Command) {
        if self.keep(command) {
            return;
        }
        match command {
            Command::Stop | Command::StopQuickly => self.stop_ordered(now, command),
            Command::ReopenLogs => {
                self.act(Action::ReopenLogs { only: None });
                self.notify(Notice::LogsReopened);
            }
            _ if self.is_stopping() || self.departs_at.is_some() => {}
            Command::Reload => {
                self.recall();
                self.reload_ordered(now);
            }
            Command::More if self.dismissed => self.recall(),
            Command::More => self.adjust(1),
            Command::Fewer if self.dismissed => {}
            Command::Fewer => self.adjust(-1),
            Command::Dismiss => {
                if !mem::replace(&mut self.dismissed, true) {
                    self.notify(Notice::Dismissed);
                }
            }
            Command::Upgrade => self.upgrade_ordered(now),
        }
    }

    /// Wants the workers back that WINCH has sent away.
    fn recall(&mut self) {
        if mem::take(&mut self.dismissed) {
            let workers = self.target();
            self.notify(Notice::Recalled { workers });
        }
    }

    fn adjust(&mut self, difference: i64) {
        if let Some(bounds) = self.bounds() {
            self.adjust_within(bounds, difference > 0);
            return;
        }
        let before = self.target();
        self.adjustment += difference;
        let after = self.target();
        if before == after {
            self.adjustment -= difference;
        }
        self.notify(Notice::WorkersWanted { before, after });
        self.workers_changed(before, after);
    }
}
