//! The number of workers follows the load, if it has bounds (`--min-workers`,
//! `--max-workers`); [`super::scale`] decides by how much.
//!
//! Nothing changes while the workers are not what they should be: during the boot, a
//! reload, a stop, and while a worker starts or is missing. TTIN and TTOU move the
//! number at once, within the bounds, and the load moves it on from there. A reload keeps
//! it, within the new bounds.

use super::event::Reading;
use super::moment::Moment;
use super::notice::Notice;
use super::scale::{Beat, Bounds, Change, share};
use super::state::{Lifecycle, State};

impl State {
    /// The bounds for the number of workers; `None` if it does not depend on the load.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        self.policy().and_then(|policy| policy.bounds)
    }

    /// The number of workers that the load needs, within the bounds.
    pub(super) fn scaled(&self, bounds: Bounds) -> u32 {
        let configured = self.policy().map_or(1, |policy| policy.workers);
        bounds.clamp(self.scaled_to.unwrap_or(configured))
    }

    /// Notes how busy a worker is.
    pub(super) fn judge_load(&mut self, now: Moment, reading: &Reading) {
        let Some(worker) = self.workers.get_mut(&reading.id) else {
            return;
        };
        let beat = Beat {
            at: reading.heartbeat,
            busy_ms: reading.busy_ms,
        };
        if let Some(before) = worker.beat.replace(beat)
            && let Some(share) = share(before, beat, now)
        {
            worker.busy = Some(share);
        }
    }

    /// After a look at all workers: asks for one more or one fewer, if it is time.
    pub(super) fn settle_scaling(&mut self, now: Moment) {
        let Some(bounds) = self.bounds() else { return };
        let is_quiet = matches!(self.lifecycle, Lifecycle::Running)
            && self.departs_at.is_none()
            && !self.dismissed
            && self.reload.is_none()
            && !self.reload_waits
            && self.slots_without_service() == 0;
        if !is_quiet {
            self.scale.forget();
            return;
        }
        let shares: Vec<u64> = self
            .slots
            .values()
            .filter_map(|slot| self.workers.get(&slot.current?)?.busy)
            .collect();
        let Some(load) = shares.iter().sum::<u64>().checked_div(shares.len() as u64) else {
            return;
        };
        let before = self.target();
        let Some(Change { to, load, lasted }) = self.scale.judge(now, bounds, before, load) else {
            return;
        };
        self.scaled_to = Some(to);
        self.notify(Notice::Scaled {
            before,
            after: to,
            percent: load / 10,
            lasted,
        });
        self.workers_changed(before, to);
    }

    /// TTIN and TTOU where the number has bounds.
    pub(super) fn adjust_within(&mut self, bounds: Bounds, more: bool) {
        let before = self.scaled(bounds);
        let wanted = if more {
            before.saturating_add(1)
        } else {
            before.saturating_sub(1)
        };
        let after = bounds.clamp(wanted);
        self.scaled_to = Some(after);
        self.scale.forget();
        self.notify(Notice::WorkersWanted { before, after });
        self.workers_changed(before, after);
    }
}
