//! How many requests a worker answers before it wants to be replaced.

use std::cell::Cell;
use std::sync::Arc;

use rsgun_core::ipc::FromWorker;
use rsgun_core::jitter::spread;
use rsgun_core::scoreboard::now_ms;

use crate::worker::keeper::Keeper;

/// Counts requests down and tells the keeper when there are none left. The worker
/// serves on: a master stops it when its replacement is ready.
pub(crate) struct Quota {
    /// 0: no limit, or the keeper knows.
    left: Cell<u64>,
    requests: u64,
    keeper: Arc<Keeper>,
}

impl Quota {
    /// A quota of `requests` and up to `jitter` more; 0 requests mean no limit.
    pub(crate) fn new(requests: u64, jitter: u64, keeper: Arc<Keeper>) -> Self {
        let requests = match requests {
            0 => 0,
            // Workers that start within a millisecond differ in their pid.
            _ => requests + spread((now_ms() << 24) ^ u64::from(std::process::id()), jitter),
        };
        Self {
            left: Cell::new(requests),
            requests,
            keeper,
        }
    }

    /// A request has been answered.
    pub(crate) fn count(&self) {
        let left = self.left.get();
        if left == 0 {
            return;
        }
        self.left.set(left - 1);
        if left == 1 {
            let message = FromWorker::Spent {
                requests: self.requests,
            };
            if let Err(error) = self.keeper.tell(&message) {
                tracing::debug!("the keeper cannot be told of the last request: {error}");
                // With the next request the queue of the channel may have room.
                self.left.set(1);
            }
        }
    }
}
