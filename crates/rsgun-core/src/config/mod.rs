//! The settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::listeners::Address;
use crate::log::Level;

/// All settings, resolved: what every process works with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The application: `MODULE:ATTRIBUTE`.
    pub app: String,
    /// Where to listen, never empty.
    pub bind: Vec<Address>,
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// Number of worker processes.
    pub workers: u32,
    /// Import the application once, before the workers are forked.
    pub preload: bool,
    /// Directory put first on `sys.path`.
    pub app_dir: PathBuf,
    /// Directory to change to before anything is loaded.
    pub chdir: Option<PathBuf>,
    /// The application is a function that returns the application.
    pub factory: bool,
    /// The interpreter.
    pub python: Option<PathBuf>,
    /// `auto`, `asyncio`, `uvloop` or `MODULE:FACTORY`.
    #[serde(rename = "loop")]
    pub event_loop: String,
    /// Whether the application has a lifespan.
    pub lifespan: Lifespan,
    /// The least level that is logged.
    pub log_level: Level,
    /// Log every request.
    pub access_log: bool,
    /// The ASGI `root_path`.
    pub root_path: String,
    /// Seconds that a worker has to finish its requests.
    pub graceful_timeout: u32,
    /// Seconds that an idle connection is kept open.
    pub keep_alive: u32,
    /// Seconds that a worker has from fork to ready; 0: no limit.
    pub boot_timeout: u32,
}

/// `--lifespan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifespan {
    /// Use it if the application knows it.
    Auto,
    /// The application must know it.
    On,
    /// Do not use it.
    Off,
}
