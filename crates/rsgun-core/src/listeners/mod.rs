//! The sockets that the master listens on.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where to listen, as `--bind` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// `HOST:PORT`; an empty host is every address of the machine.
    Tcp {
        /// Name or literal address, without brackets.
        host: String,
        /// 0: the system picks one.
        port: u16,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `unix:@NAME`, without the `@`.
    Abstract(String),
    /// `fd://N`: inherited, listening already.
    Fd(RawFd),
}
