//! What a generation is made of.

use std::io;
use std::sync::Arc;

use rsgun_core::config::{PythonSource, Settings};
use rsgun_core::ipc::ToForkServer;
use rsgun_core::listeners::Change;
use rsgun_core::log::output::Files;
use rsgun_core::sys::stacks::Report;

use crate::master::event::{ConfigurationFile, Policy};
use crate::master::link::Link;
use crate::master::spawn::Interpreter;

/// The configuration of a generation, and what was opened and started for it.
pub(in crate::master) struct Resources {
    pub(in crate::master) settings: Arc<Settings>,
    /// For its processes.
    pub(in crate::master) logs: Files,
    pub(in crate::master) interpreter: Interpreter,
    /// The configuration, if its fork server has to evaluate it.
    pub(in crate::master) file: Option<PythonSource>,
    /// What is known of it.
    pub(in crate::master) known: ConfigurationFile,
    /// Its listeners, if they are others than the master's.
    pub(in crate::master) change: Option<Change>,
    pub(in crate::master) server: Option<Link<ToForkServer>>,
    /// Where its fork server writes its stacks.
    pub(in crate::master) report: Option<Report>,
}

impl Resources {
    /// The same, for another generation without a process.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(in crate::master) fn like(&self) -> io::Result<Self> {
        Ok(Self {
            settings: Arc::clone(&self.settings),
            logs: self.logs.try_clone()?,
            interpreter: self.interpreter.clone(),
            file: self.file.clone(),
            known: self.known,
            change: None,
            server: None,
            report: None,
        })
    }

    /// Whether its processes need the directory that the master was started in: they serve
    /// there, or a file of Python is evaluated there.
    pub(super) fn needs_directory(&self) -> bool {
        self.settings.chdir.is_none() || self.file.is_some()
    }

    /// What of it decisions depend on.
    pub(in crate::master) fn policy(&self) -> Policy {
        Policy::new(&self.settings, &self.interpreter.python, self.known)
    }
}
