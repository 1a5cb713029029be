//! The part of the state machine that has the binary exchanged.
//!
//! ```text
//!   Booting ── it is ready ──▶ Handed ── it has exited ──▶ Ready ─▶ Executing ─▶ (another
//!      └── any failure ─▶ Leaving ─▶ (as before)                        │        program)
//!                                      (as before) ◀───────── failed ───┘
//! ```
//!
//! One upgrade at a time, and none during a reload. What an operator wants while the
//! candidate boots is done at once, but for a reload, which waits. From the moment when
//! the candidate has handed over, or just exited, wishes are kept: for the new program, or
//! for this one if it goes on.

use std::mem;
use std::time::Duration;

use nix::sys::signal::Signal;
use rsgun_core::hooks::Call;
use rsgun_core::ipc::{Identity, WorkerId};

use super::orphans::Offspring;
use crate::master::event::{Action, Command};
use crate::master::exit::Exit;
use crate::master::generation::Cause;
use crate::master::moment::Moment;
use crate::master::notice::Notice;
use crate::master::reload::{Outcome, Reload};
use crate::master::state::State;

/// How long a candidate may take to say that it is one; it has not started Python then.
const FIRST_WORDS: Duration = Duration::from_secs(30);
/// What a candidate has beyond the limits that it keeps itself.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a candidate may take to end when it is no longer wanted, beyond the time that
/// its worker has for requests in flight: longer than a quick stop takes.
const END_LIMIT: Duration = Duration::from_secs(8);
/// How long its exit and the end of its channel may be apart.
const CLOSED_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to end once it has handed everything over: it is killed then,
/// which changes nothing any more.
const HANDED_LIMIT: Duration = Duration::from_secs(1);
/// How long the kernel may take for that before the upgrade is given up.
const KILLED_LIMIT: Duration = Duration::from_secs(2);

/// An upgrade that is under way.
#[derive(Debug)]
pub(in crate::master) struct Upgrade {
    /// The worker with which the candidate is to prove itself.
    pub(super) identity: Identity,
    pid: Option<i32>,
    /// It has said that it is a master of this kind.
    introduced: bool,
    /// What its worker may take to finish requests in flight.
    pub(super) grace: Duration,
    /// Its channel has ended.
    closed: bool,
    /// Those of its processes that live on although it has ended.
    pub(super) orphans: Offspring,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The candidate boots.
    Booting { by: Option<Moment> },
    /// It has exited; what it said last may still be on its way.
    Exited { by: Moment, exit: Exit },
    /// The candidate is to end.
    Leaving { by: Moment },
    /// SIGKILL is on its way.
    Killed,
    /// The candidate has handed over and is about to exit.
    Handed { by: Moment, killed: bool },
    /// It has exited: as soon as nobody else is in the middle of dying, this program goes.
    Ready,
    /// This program is being replaced.
    Executing,
}

impl Upgrade {
    /// One whose candidate has done its part: the new program runs, or has given up.
    pub(super) fn executing(identity: Identity, grace: Duration, orphans: Offspring) -> Self {
        Self {
            identity,
            pid: None,
            introduced: true,
            grace,
            closed: true,
            orphans,
            stage: Stage::Executing,
        }
    }
}

/// What happens to an upgrade.
#[derive(Debug)]
pub(in crate::master) enum UpgradeEvent {
    /// The candidate runs.
    Started {
        /// Its process id.
        pid: i32,
    },
    /// There could be no candidate.
    NotStarted {
        /// What the system said, and what to do.
        reason: String,
    },
    /// It understands what it was given and boots.
    Boots {
        /// What it calls itself.
        version: String,
        /// How long it gives its processes; `None`: no limit.
        within: Option<Duration>,
        /// What its worker may take to finish requests in flight.
        grace: Duration,
    },
    /// It has failed, or refuses, and ends.
    Failed(Cause),
    /// It has proved ready and handed everything over.
    HandedOver,
    /// It has closed its channel.
    Closed,
    /// It has ended, and these have not.
    Orphans(Offspring),
    /// The new program could not be run, or has given up.
    NotReplaced {
        /// Why.
        reason: String,
    },
}

impl State {
    pub(in crate::master) fn upgrade_ordered(&mut self, now: Moment) {
        let is_under_way = self.upgrade.is_some() && !self.candidate_leaves();
        if is_under_way || self.upgrade_waits || self.is_exchanging() {
            self.notify(Notice::UpgradeRefused);
        } else if !self.announced
            || self.reload.is_some()
            || self.reload_waits
            || self.upgrade.is_some()
        {
            self.upgrade_waits = true;
            self.notify(Notice::UpgradeWaits);
        } else {
            self.start_upgrade(now);
        }
    }

    /// Takes the next step of an upgrade, or starts one that has waited.
    pub(in crate::master) fn settle_upgrade(&mut self, now: Moment) {
        if self.upgrade_waits
            && self.upgrade.is_none()
            && self.reload.is_none()
            && !self.reload_waits
            && self.announced
            && !self.is_stopping()
        {
            self.upgrade_waits = false;
            self.start_upgrade(now);
        }
        self.expire_upgrade(now);
        let dying =
            self.workers
                .values()
                .any(|worker| worker.ending.has_exited())
                || self.generations.values().any(|generation| {
                    !generation.server.gone && generation.server.ending.has_exited()
                });
        if let Some(upgrade) = &mut self.upgrade
            && upgrade.stage == Stage::Ready
            && !dying
        {
            upgrade.stage = Stage::Executing;
            self.act(Action::Exec);
        }
    }

    fn start_upgrade(&mut self, now: Moment) {
        self.last_generation += 1;
        let Some(seat) = self.free_seat() else {
            let reason = "no seat is free for another worker".to_owned();
            self.note_upgrade_failure(now, self.last_generation, Cause::boot(reason));
            return;
        };
        self.last_worker += 1;
        let identity = Identity {
            id: WorkerId(self.last_worker),
            slot: 1,
            generation: self.last_generation,
            seat,
        };
        self.upgrade = Some(Upgrade {
            identity,
            pid: None,
            introduced: false,
            grace: Duration::ZERO,
            closed: false,
            orphans: Offspring::default(),
            // Until it runs there is nothing to wait for.
            stage: Stage::Booting { by: None },
        });
        self.notify(Notice::UpgradeStarted {
            generation: identity.generation,
        });
        self.call_hook(self.current, Call::PreExec);
        self.act(Action::StartCandidate { identity });
    }

    pub(in crate::master) fn on_upgrade(&mut self, now: Moment, event: UpgradeEvent) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        match (event, upgrade.stage) {
            (UpgradeEvent::Started { pid }, stage) => {
                upgrade.pid = Some(pid);
                if matches!(stage, Stage::Booting { .. }) {
                    let by = Some(now + FIRST_WORDS);
                    upgrade.stage = Stage::Booting { by };
                }
            }
            (UpgradeEvent::NotStarted { reason }, _)
            | (UpgradeEvent::NotReplaced { reason }, Stage::Executing) => {
                self.upgrade_failed(now, Cause::boot(reason));
            }
            (
                UpgradeEvent::Boots {
                    version,
                    within,
                    grace,
                },
                Stage::Booting { .. },
            ) => {
                upgrade.introduced = true;
                upgrade.grace = grace;
                let by = within.map(|within| now + within + MARGIN);
                upgrade.stage = Stage::Booting { by };
                let pid = upgrade.pid.unwrap_or_default();
                self.notify(Notice::CandidateBoots { version, pid });
            }
            (UpgradeEvent::Failed(cause), Stage::Booting { .. }) => {
                let generation = upgrade.identity.generation;
                self.give_up_upgrade(now, generation, cause);
            }
            (UpgradeEvent::Failed(cause), Stage::Exited { .. }) => {
                self.upgrade_failed(now, cause);
            }
            (UpgradeEvent::HandedOver, Stage::Booting { .. }) => {
                let by = now + HANDED_LIMIT;
                let killed = false;
                upgrade.stage = Stage::Handed { by, killed };
            }
            (UpgradeEvent::HandedOver, Stage::Exited { .. }) => upgrade.stage = Stage::Ready,
            (UpgradeEvent::Orphans(orphans), _) => upgrade.orphans = orphans,
            (UpgradeEvent::Closed, stage) => {
                upgrade.closed = true;
                match stage {
                    // Its exit is about to follow.
                    Stage::Booting { .. } => {
                        let by = Some(now + CLOSED_LIMIT);
                        upgrade.stage = Stage::Booting { by };
                    }
                    Stage::Exited { exit, .. } => self.candidate_unexplained(now, exit),
                    _ => {}
                }
            }
            (_, _) => {}
        }
    }

    /// Whether an exit was that of the candidate, or of somebody whom it has left behind.
    pub(in crate::master) fn candidate_exited(
        &mut self,
        now: Moment,
        pid: i32,
        exit: Exit,
    ) -> bool {
        let Some(upgrade) = &mut self.upgrade else {
            return false;
        };
        if upgrade.pid != Some(pid) {
            return self.orphan_exited(now, pid, exit);
        }
        match upgrade.stage {
            Stage::Booting { .. } if upgrade.closed => self.candidate_unexplained(now, exit),
            Stage::Booting { .. } => {
                let by = now + CLOSED_LIMIT;
                upgrade.pid = None;
                upgrade.stage = Stage::Exited { by, exit };
            }
            Stage::Leaving { .. } | Stage::Killed => self.forget_upgrade(now),
            Stage::Handed { .. } => {
                upgrade.pid = None;
                upgrade.stage = Stage::Ready;
            }
            Stage::Exited { .. } | Stage::Ready | Stage::Executing => {}
        }
        true
    }

    /// The candidate has ended and has not said why.
    fn candidate_unexplained(&mut self, now: Moment, exit: Exit) {
        let advice = match &self.upgrade {
            Some(upgrade) if upgrade.introduced => {
                ": see what it has logged above, and send SIGUSR2 again"
            }
            _ => ", without a word to the old one: is it rsgun?",
        };
        let reason = format!("the new program {exit} before it had taken over{advice}");
        self.upgrade_failed(now, Cause::boot(reason));
    }

    /// Forgets the upgrade, of which no process is left.
    pub(super) fn upgrade_failed(&mut self, now: Moment, cause: Cause) {
        let Some(upgrade) = &self.upgrade else {
            return;
        };
        let generation = upgrade.identity.generation;
        self.act(Action::EndCandidate);
        self.note_upgrade_failure(now, generation, cause);
        self.forget_upgrade(now);
        self.replay(now);
    }

    /// The candidate is gone, and nothing comes of it.
    fn forget_upgrade(&mut self, now: Moment) {
        if let Some(upgrade) = self.upgrade.take() {
            self.adopt_orphans(now, &upgrade);
        }
    }

    fn note_upgrade_failure(&mut self, now: Moment, generation: u32, cause: Cause) {
        self.last_upgrade = Some(Outcome {
            generation,
            at: now,
            failure: Some(cause.clone()),
        });
        self.notify(Notice::UpgradeFailed { cause });
    }

    /// Does what was wanted since the new program was to take over.
    pub(super) fn replay(&mut self, now: Moment) {
        for command in mem::take(&mut self.kept) {
            self.on_command(now, command);
        }
    }

    fn give_up_upgrade(&mut self, now: Moment, generation: u32, cause: Cause) {
        self.end_candidate(now);
        self.note_upgrade_failure(now, generation, cause);
    }

    /// Ends the candidate with everything that it has started. Its worker may serve
    /// already, and then answers what it has.
    pub(in crate::master) fn end_candidate(&mut self, now: Moment) {
        if let Some(upgrade) = &mut self.upgrade
            && matches!(upgrade.stage, Stage::Booting { .. })
        {
            let by = now + upgrade.grace + END_LIMIT;
            upgrade.stage = Stage::Leaving { by };
            self.act(Action::EndCandidate);
        }
    }

    /// Lets a candidate that ends wait for no request any more.
    pub(in crate::master) fn hurry_candidate(&mut self, now: Moment) {
        if let Some(upgrade) = &mut self.upgrade
            && let Stage::Leaving { by } = &mut upgrade.stage
        {
            *by = (*by).min(now + END_LIMIT);
            if let Some(pid) = upgrade.pid {
                let signal = Signal::SIGINT;
                self.act(Action::Kill { pid, signal });
            }
        }
    }

    /// Whether there is a candidate only because it has not ended yet.
    fn candidate_leaves(&self) -> bool {
        self.upgrade
            .as_ref()
            .is_some_and(|upgrade| matches!(upgrade.stage, Stage::Leaving { .. } | Stage::Killed))
    }

    /// Kills a candidate that takes too long.
    pub(in crate::master) fn kill_candidate(&mut self) {
        if let Some(upgrade) = &mut self.upgrade
            && let Some(pid) = upgrade.pid
        {
            if !matches!(upgrade.stage, Stage::Handed { .. }) {
                upgrade.stage = Stage::Killed;
            }
            self.act(Action::Kill {
                pid,
                signal: Signal::SIGKILL,
            });
        }
    }

    fn expire_upgrade(&mut self, now: Moment) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        match upgrade.stage {
            Stage::Booting { by: Some(by) } if by <= now => {
                let cause = Cause::boot(if upgrade.introduced {
                    "the new program was not ready in time: see what it does while it starts, or \
                     raise --boot-timeout"
                        .to_owned()
                } else {
                    format!(
                        "the new program has not said a word to the old one within {} s: is it \
                         rsgun, and is its disk not too slow?",
                        FIRST_WORDS.as_secs()
                    )
                });
                let generation = upgrade.identity.generation;
                self.give_up_upgrade(now, generation, cause);
            }
            Stage::Exited { by, exit } if by <= now => self.candidate_unexplained(now, exit),
            Stage::Leaving { by } if by <= now => self.kill_candidate(),
            Stage::Handed { by, killed: false } if by <= now => {
                let (by, killed) = (now + KILLED_LIMIT, true);
                upgrade.stage = Stage::Handed { by, killed };
                self.kill_candidate();
            }
            Stage::Handed { by, killed: true } if by <= now => {
                upgrade.stage = Stage::Killed;
                let generation = upgrade.identity.generation;
                self.act(Action::EndCandidate);
                let cause = Cause::boot("the kernel does not end the candidate".to_owned());
                self.note_upgrade_failure(now, generation, cause);
                self.replay(now);
            }
            _ => {}
        }
    }

    /// When something is due about the candidate.
    pub(in crate::master) fn upgrade_deadline(&self) -> Option<Moment> {
        match self.upgrade.as_ref()?.stage {
            Stage::Booting { by } => by,
            Stage::Exited { by, .. } | Stage::Leaving { by } | Stage::Handed { by, .. } => Some(by),
            Stage::Killed | Stage::Ready | Stage::Executing => None,
        }
    }

    /// Gives the candidate more time.
    pub(in crate::master) fn extend_upgrade(&mut self, time: Duration) {
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        match &mut upgrade.stage {
            Stage::Booting { by: Some(by) }
            | Stage::Exited { by, .. }
            | Stage::Leaving { by }
            | Stage::Handed { by, .. } => *by = *by + time,
            Stage::Booting { by: None } | Stage::Killed | Stage::Ready | Stage::Executing => {}
        }
    }

    /// Whether everything belongs to the new program already but for this process, or
    /// will be known to in a moment.
    pub(in crate::master) fn is_handed_over(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| {
            matches!(
                upgrade.stage,
                Stage::Exited { .. } | Stage::Handed { .. } | Stage::Ready | Stage::Executing
            )
        })
    }

    /// Whether workers of the program before are still being exchanged.
    pub(in crate::master) fn is_exchanging(&self) -> bool {
        self.reload.as_ref().is_some_and(Reload::is_committed)
    }

    /// The seat that the candidate's worker has.
    pub(in crate::master) fn reserved_seat(&self) -> Option<u32> {
        Some(self.upgrade.as_ref()?.identity.seat)
    }

    /// Keeps a wish for the new program, if it is about to take over.
    pub(in crate::master) fn keep(&mut self, command: Command) -> bool {
        if self.is_handed_over() {
            self.kept.push(command);
            return true;
        }
        false
    }

    /// Whether there is no candidate but one that was killed.
    pub(in crate::master) fn candidate_is_doomed(&self) -> bool {
        (self.upgrade.as_ref()).is_none_or(|upgrade| upgrade.stage == Stage::Killed)
    }

    /// Who is being started or ended for an upgrade.
    pub(in crate::master) fn candidate_pid(&self) -> Option<i32> {
        self.upgrade.as_ref()?.pid
    }
}
