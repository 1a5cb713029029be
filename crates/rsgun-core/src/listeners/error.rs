//! Why a socket could not be opened.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::Address;

/// Why an address cannot be listened on. The message names the address and says what
/// to do; the exit code of the master is 1.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens on the TCP address.
    #[error(
        "cannot listen on {address}: the address is in use; stop the program that holds it \
         (`ss -ltnp 'sport = :{}'` shows it) or choose another port", address.port()
    )]
    TcpInUse {
        /// The address that was tried.
        address: SocketAddr,
    },
    /// The port needs a privilege.
    #[error(
        "cannot listen on {address}: no permission; ports below 1024 need CAP_NET_BIND_SERVICE \
         or a proxy in front, so choose a port from 1024 up or grant the capability"
    )]
    TcpPermission {
        /// The address that was tried.
        address: SocketAddr,
    },
    /// No interface of this machine has the address.
    #[error(
        "cannot listen on {address}: this machine does not have that address \
         (`ip address` lists those it has); 0.0.0.0 and [::] stand for all of them"
    )]
    NotOurs {
        /// The address that was tried.
        address: SocketAddr,
    },
    /// The name does not resolve.
    #[error(
        "cannot listen on {address}: the host `{host}` is unknown ({reason}); check the spelling or use a literal address"
    )]
    UnknownHost {
        /// The address as it was written.
        address: Address,
        /// Its host.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// A server answers on the UNIX socket.
    #[error(
        "cannot listen on {address}: another process is listening there; stop it \
         (`ss -lxp` shows it) or choose another name"
    )]
    UnixInUse {
        /// The address that was tried.
        address: Address,
    },
    /// The path is something else than a socket.
    #[error(
        "cannot listen on unix:{}: it is a {kind}, not a socket, and stays as it is; \
         choose another path or remove it yourself", path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The directory of the path does not exist.
    #[error("cannot listen on unix:{}: the directory {} does not exist; create it first", path.display(), directory.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// The directory or the socket may not be used.
    #[error(
        "cannot listen on unix:{}: no permission; the user that runs rsgun must be allowed to \
         write to the directory {} and to a socket that is there already", path.display(), directory.display()
    )]
    UnixPermission {
        /// The path.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// A socket's name is longer than the system allows.
    #[error(
        "cannot listen on {address}: the name has {length} bytes, at most {limit} fit; choose a shorter one"
    )]
    TooLong {
        /// The address that was tried.
        address: Address,
        /// Bytes of the name.
        length: usize,
        /// The most that fit.
        limit: usize,
    },
    /// The number is not a descriptor that the parent has passed on.
    #[error(
        "cannot use --fd {number}: the parent process has passed no descriptor with that number; \
         check how the supervisor or shell hands the socket over"
    )]
    DescriptorNotOpen {
        /// The number.
        number: RawFd,
    },
    /// The descriptor is not a socket.
    #[error(
        "cannot use --fd {number}: it is not a socket; the supervisor must open a listening socket there"
    )]
    DescriptorNotSocket {
        /// The number.
        number: RawFd,
    },
    /// The descriptor is a socket of another kind.
    #[error(
        "cannot use --fd {number}: it is another kind of socket ({kind}); a TCP or UNIX stream socket is needed"
    )]
    DescriptorFamily {
        /// The number.
        number: RawFd,
        /// What it is.
        kind: String,
    },
    /// The descriptor is a stream socket, but nobody has called `listen` on it.
    #[error(
        "cannot use --fd {number}: the socket is not listening; it may be a single connection \
         (inetd, or systemd with Accept=yes), where the listening socket itself is needed"
    )]
    DescriptorNotListening {
        /// The number.
        number: RawFd,
    },
    /// Anything else that the system refuses.
    #[error("cannot listen on {address}: {action} failed: {source}")]
    Io {
        /// The address that was tried.
        address: Address,
        /// The step that failed.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    /// Whether somebody else holds the address, which may pass: the master may try
    /// again a few times, since the previous server may be about to end.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        matches!(self, Self::TcpInUse { .. } | Self::UnixInUse { .. })
    }

    /// The error for what `bind(2)` or `listen(2)` says about a TCP address.
    pub(super) fn tcp(
        asked: &Address,
        address: SocketAddr,
        action: &'static str,
        source: io::Error,
    ) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::TcpInUse { address },
            io::ErrorKind::PermissionDenied => Self::TcpPermission { address },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { address },
            _ => Self::Io {
                address: asked.clone(),
                action,
                source,
            },
        }
    }
}
