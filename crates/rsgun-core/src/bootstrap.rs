//! How a fresh interpreter becomes a fork server (or a worker).
//!
//! The master runs `python3 -c SCRIPT MODE CHANNEL_FD EXTENSION`:
//!
//! * `MODE` is [`FORK_SERVER`] or [`WORKER`];
//! * `CHANNEL_FD` is the number of the inherited channel end;
//! * `EXTENSION` is the path of the shared object, or `-` for the installed package.
//!
//! The script first takes the current directory off `sys.path`: a `token.py` of the
//! user must not be imported in the place of the standard library's. It is written so that
//! Python 2.7 can read it, since an interpreter that is too old is to say so itself.

/// The Python program.
pub const SCRIPT: &str = include_str!("bootstrap.py");

/// Mode of the process that forks workers.
pub const FORK_SERVER: &str = "fork-server";

/// Mode of a worker that is started by exec, because its fork server has threads.
pub const WORKER: &str = "worker";

/// The descriptor number at which the script finds its channel.
pub const CHANNEL_FD: std::os::fd::RawFd = 3;
