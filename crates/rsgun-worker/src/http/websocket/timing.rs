//! Time: pings, their answers, and the limits of every phase.

use rsgun_websocket::{close, encoder};

use super::{Lost, Phase, WebSocket};
use crate::reactor::clock;

impl WebSocket {
    /// When something is to be done, milliseconds.
    pub(super) fn due(&self) -> Option<u64> {
        match (&self.phase, self.pinged_at) {
            (
                Phase::Ending { until, .. } | Phase::Closing { until } | Phase::Finishing { until },
                _,
            ) => Some(*until),
            (Phase::Open, None) => match self.limits.ping_interval_ms {
                0 => None,
                interval => Some(self.heard_at + interval),
            },
            (Phase::Open, Some(pinged_at)) => match self.limits.ping_timeout_ms {
                0 => None,
                timeout => Some(pinged_at + timeout),
            },
        }
    }

    /// What is due is done.
    pub(super) fn overdue(&mut self) -> Result<(), Lost> {
        let now = clock::now_ms();
        match self.phase {
            Phase::Open if !self.listens() => {
                // The application is slow: the client may well have answered.
                self.heard_at = now;
                self.pinged_at = None;
            }
            Phase::Open if self.pinged_at.is_none() => {
                encoder::ping(b"", self.backlog.tail());
                self.pinged_at = Some(now);
            }
            Phase::Open => {
                let reason = "no answer to a ping";
                self.end(
                    close::ABNORMAL,
                    reason,
                    close::INTERNAL_ERROR,
                    reason,
                    false,
                );
                self.session.shut();
            }
            Phase::Ending { .. } => {
                // The application had its time.
                self.session.shut();
            }
            Phase::Closing { .. } => self.finish(),
            Phase::Finishing { .. } => return Err(Lost),
        }
        Ok(())
    }
}
