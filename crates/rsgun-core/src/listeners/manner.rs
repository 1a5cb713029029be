//! In which manner sockets are opened.

/// What is the same for all sockets that are opened together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// The mode of UNIX sockets.
    pub mode: u32,
    /// Sockets for each TCP address, among which the kernel spreads the clients
    /// (`SO_REUSEPORT`); `None`: one, and nobody else may listen there.
    pub reuse_port: Option<usize>,
    /// The user and the group that UNIX sockets belong to, if not to this process's.
    pub owner: Option<(u32, u32)>,
}

impl Manner {
    /// Everybody may connect to a UNIX socket, as with gunicorn and uvicorn and as with
    /// a TCP port of this machine: the proxy in front runs as another user. Who shall
    /// not, is kept out by the mode of the directory, or by `--umask`.
    pub const MODE: u32 = 0o666;
    /// The most sockets for one address: each worker has all of them open, and they must
    /// fit into one message.
    pub const QUEUES_MAX: usize = 32;
}

impl From<u32> for Manner {
    /// With this backlog, and the rest as usual.
    fn from(backlog: u32) -> Self {
        Self {
            backlog,
            mode: Self::MODE,
            reuse_port: None,
            owner: None,
        }
    }
}
