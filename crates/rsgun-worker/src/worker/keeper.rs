//! Who keeps a worker: a master, or the Python program that serves in its own process.

use pyo3::prelude::*;
use rsgun_core::ipc::{Channel, FromWorker, ToWorker};

/// The worker's end of its channel.
pub(crate) type Master = Channel<FromWorker, ToWorker>;

/// Who is told what becomes of a worker.
pub(crate) enum Keeper {
    /// Another process.
    Master(Master),
    /// This process: an object with the methods `_serving()` and `_spent(requests)`.
    Program(Py<PyAny>),
}

/// Why a keeper does not know what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error(transparent)]
    Channel(#[from] rsgun_core::ipc::ChannelError),
    #[error("{0}")]
    Python(#[from] PyErr),
}

impl Keeper {
    /// Tells the keeper something, on the thread of the event loop.
    ///
    /// # Errors
    /// [`KeeperError`]: it is gone, or busy, or has raised.
    pub(crate) fn tell(&self, message: &FromWorker) -> Result<(), KeeperError> {
        let program = match self {
            Self::Master(channel) => return Ok(channel.send(message, &[])?),
            Self::Program(program) => program,
        };
        Python::attach(|py| match message {
            FromWorker::Ready => program.call_method0(py, "_serving").map(drop),
            FromWorker::Spent { requests } => {
                program.call_method1(py, "_spent", (requests,)).map(drop)
            }
            // It has ordered the drain itself, opens its own logs, and sees what is raised.
            FromWorker::Hello { .. }
            | FromWorker::Failed(_)
            | FromWorker::Draining
            | FromWorker::Hung { .. }
            | FromWorker::WantsLogs
            | FromWorker::Debugged => Ok(()),
        })?;
        Ok(())
    }
}
