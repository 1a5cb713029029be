//! What the master says: in its log, in its title, and to who waits for it to serve.

use rsgun_core::config::Settings;
use rsgun_core::listeners::Listener;
use rsgun_core::log::output;
use rsgun_core::sys::title;
use tracing::Level;

use super::{Effects, Role};
use crate::master::generation::Cause;
use crate::master::notice::Notice;
use crate::master::status::Condition;
use crate::master::upgrade::snapshot::FromCandidate;

impl Effects {
    /// Writes a notice into the log. A candidate leaves to the master what is to be said of
    /// its end.
    pub(super) fn tell(&mut self, notice: &Notice) {
        if let Role::Candidate(master) = &self.role {
            match notice {
                Notice::BootFailed { cause } => {
                    master.send(FromCandidate::Failed(cause.clone()), Vec::new());
                    return;
                }
                // By the master, which has closed the channel then, or by hand.
                Notice::Stopping { .. } => {
                    let cause = Cause::boot("it was told to end".to_owned());
                    master.send(FromCandidate::Failed(cause), Vec::new());
                    return;
                }
                Notice::Finished => return,
                _ => {}
            }
        }
        let serving = notice
            .concerns()
            .and_then(|worker| self.serving(worker.identity.id));
        let (level, text) = notice.text(&serving.unwrap_or_default());
        match level {
            Level::ERROR => tracing::error!("{text}"),
            Level::WARN => tracing::warn!("{text}"),
            Level::INFO => tracing::info!("{text}"),
            _ => tracing::debug!("{text}"),
        }
        if matches!(notice, Notice::Starting { .. }) {
            tracing::info!("Waiting for application startup.");
        }
        if *notice == Notice::Serving {
            output::dismiss_witness();
            if let Some(launcher) = self.launcher.take() {
                launcher.release();
            }
            for url in urls(&self.listeners) {
                tracing::info!("rsgun running on {url} (Press CTRL+C to quit)");
            }
        }
    }

    /// Shows the condition of the server in the title of this process.
    pub(super) fn show_title(&self) {
        let condition = match self.condition {
            Condition::Sound => "",
            Condition::Degraded => " (degraded)",
        };
        title::set(&format!("{}{condition}", own_title(&self.own)));
    }
}

/// Where listeners listen, each address once.
pub(super) fn urls(listeners: &[Listener]) -> Vec<String> {
    let mut urls: Vec<String> = listeners.iter().map(Listener::url).collect();
    urls.dedup();
    urls
}

/// The process title of the master.
pub(in crate::master) fn own_title(settings: &Settings) -> String {
    format!("rsgun: master [{}]", shown_name(settings))
}

/// What the server is called.
pub(super) fn shown_name(settings: &Settings) -> &str {
    settings.name.as_deref().unwrap_or(&settings.app)
}
