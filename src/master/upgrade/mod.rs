//! Upgrade (USR2): another binary, and the configuration and code of today, in the place
//! of this one, in the same process.
//!
//! # Theory of operation
//!
//! The pid stays, so that systemd, supervisord and the pidfile are right all the time,
//! and the listeners stay, so that nobody is refused. Whatever can fail is tried in
//! another process first:
//!
//! ```text
//!   master (old binary)            candidate (new binary, its child)
//!     │  listeners, state ───────────▶ understands them? reads the configuration,
//!     │                                starts fork server and first worker
//!     │  ◀────────── its fork server, worker, state ── it is ready
//!     │                                exits: its children are the master's now
//!     │  execs the new binary
//!   master (new binary): takes everything over, and exchanges the old workers as a
//!                        reload does
//! ```
//!
//! Until the exec the old master serves as if nothing was going on (`decisions.rs`):
//! a candidate that cannot be started, refuses, fails, or takes too long is ended, the
//! log says why, and that is all. The candidate (`candidate.rs`) is a master like any
//! other with three differences: it has no signals and no pidfile, the listeners are not
//! its own, and it wants one worker only (`trial.rs`). That worker serves beside the
//! others while it is on probation; so whichever way a candidate ends, it answers what
//! it has accepted.
//!
//! The exec (`exec.rs`) is short. No link reads any more, signals are held back by the
//! kernel, children that end wait to be reaped; so whatever happens meanwhile is found
//! by the successor (`successor.rs`). It runs the very file that the candidate has
//! proved, by its descriptor. If it cannot take over all the same, it runs the old
//! program again, which goes on where it stopped.
//!
//! What passes between the binaries is a [`snapshot::Snapshot`]. Its format has a
//! number, and a candidate that does not know the number refuses before anything
//! happens. Workers of the old binary are followed by the new one for a while, so the
//! messages that end a worker are part of that format.

pub(super) mod candidate;
mod decisions;
pub(super) mod exec;
pub(super) mod orphans;
mod pack;
mod program;
pub(super) mod record;
pub(super) mod snapshot;
mod succession;
pub(super) mod successor;
#[cfg(test)]
mod tests;
mod trial;
#[cfg(test)]
pub(super) mod world;

use std::os::fd::OwnedFd;

use rsgun_core::bootstrap::CHANNEL_FD;
use rsgun_core::sys::{handover, process};

use super::activation;

pub(super) use self::decisions::{Upgrade, UpgradeEvent};
pub use self::program::{DirectoryError, Invocation};

/// The variable that tells a program what it is started for; no child gets it.
const VARIABLE: &str = "RSGUN_UPGRADE";
/// Its value for a candidate; for a successor it is the number of a descriptor.
const CANDIDATE: &str = "candidate";

/// What this program was started for.
#[derive(Debug)]
pub struct Purpose(Kind);

#[derive(Debug)]
pub(super) enum Kind {
    /// To serve.
    Serve,
    /// To prove that it could take over from the master at the other end of this channel.
    Prove(OwnedFd),
    /// To take over, in the same process, with what this file says.
    TakeOver(OwnedFd),
}

impl Purpose {
    /// That of this process. Call it first in `main`, before any other thread exists and
    /// before anything is opened.
    ///
    /// # Errors
    /// When the program before has announced a descriptor that is not there.
    pub fn of_process() -> std::io::Result<Self> {
        let Some(value) = handover::take_variable(VARIABLE) else {
            return Ok(Self(Kind::Serve));
        };
        if value == CANDIDATE {
            return Ok(Self(Kind::Prove(process::take_inherited(CHANNEL_FD)?)));
        }
        let number = value.to_str().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| {
            std::io::Error::other(format!("{VARIABLE} is not for use by hand: unset it"))
        })?;
        Ok(Self(Kind::TakeOver(handover::claim(number)?)))
    }

    /// How many listening sockets were opened for this process by whoever has started it.
    /// Call it before any other thread exists.
    #[must_use]
    pub fn sockets(&self) -> u16 {
        activation::count(!matches!(self.0, Kind::Serve))
    }

    pub(super) fn kind(self) -> Kind {
        self.0
    }
}
