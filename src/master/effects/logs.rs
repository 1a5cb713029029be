//! Log files: opened by the master, written by all.
//!
//! Only the master opens them, with its own rights and relative to its own directory,
//! and passes the descriptors on by message. A worker to which USR1 was sent asks for
//! new ones in the same way.

use std::os::fd::OwnedFd;
use std::path::Path;

use rsgun_core::config::Settings;
use rsgun_core::ipc::{FromForkServer, ToForkServer, ToWorker, WorkerId};
use rsgun_core::log::output::{self, Files};

use super::Effects;
use crate::master::event::Event;

impl Effects {
    /// Opens the log files anew for one worker or for every process. Where that fails,
    /// the old ones stay in use.
    pub(super) fn reopen_logs(&mut self, only: Option<WorkerId>) {
        let only = only.and_then(|id| self.workers.get(&id));
        for (number, resources) in &mut self.generations {
            if only.is_some_and(|worker| worker.generation != *number) {
                continue;
            }
            let Some(logs) = opened_anew(&resources.settings, &self.directory) else {
                continue;
            };
            resources.logs = logs;
            let workers = self.workers.values();
            for worker in workers.filter(|worker| worker.generation == *number) {
                if only.is_none_or(|only| std::ptr::eq(only, worker)) {
                    pass_on(&resources.logs, |fds| {
                        worker.link.send(ToWorker::ChangeLogs, fds);
                    });
                }
            }
            if let Some(server) = resources.server.as_ref().filter(|_| only.is_none()) {
                pass_on(&resources.logs, |fds| {
                    server.send(ToForkServer::ChangeLogs, fds);
                });
            }
        }
        if only.is_none()
            && let Some(logs) = opened_anew(&self.own, &self.directory)
        {
            output::replace(&logs);
        }
    }
}

fn opened_anew(settings: &Settings, directory: &Path) -> Option<Files> {
    Files::open(settings, directory)
        .inspect_err(|error| tracing::error!("{error}; the old one stays in use"))
        .ok()
}

fn pass_on(logs: &Files, send: impl FnOnce(Vec<OwnedFd>)) {
    match logs.to_fds() {
        Ok(fds) => send(fds),
        Err(error) => tracing::error!("cannot pass on the log files: {error}; see `ulimit -n`"),
    }
}

/// What becomes of a fork server that cannot be given its log files.
pub(super) fn cannot_configure(generation: u32, error: &std::io::Error) -> Event {
    Event::ForkServer {
        generation,
        message: FromForkServer::Unsuitable {
            reason: format!("cannot pass on the log files: {error}; see `ulimit -n`"),
        },
    }
}
