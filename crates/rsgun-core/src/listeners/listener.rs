//! An open listening socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use socket2::SockRef;

use super::{Address, unix};

/// Where a listener comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This process has opened it.
    Created,
    /// The parent process has; its name and options are not ours to change.
    Inherited,
    /// A master has, for whose workers it is what it would be to its own.
    Lent,
}

/// An open listening socket: close-on-exec, non-blocking.
#[derive(Debug)]
pub struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) requested: Address,
    pub(super) local: Address,
    pub(super) origin: Origin,
    pub(super) file: Option<SocketFile>,
}

/// The file that a UNIX socket shows, as it was when this process created it.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) creator: u32,
}

impl SocketFile {
    /// Notes that this process has created the socket that `metadata` describes and
    /// that it will be found at `path`.
    ///
    /// # Errors
    /// When the current directory of a relative path cannot be found out.
    pub(super) fn created(path: &Path, metadata: &std::fs::Metadata) -> io::Result<Self> {
        Ok(Self {
            // The current directory may be another one when the file is removed.
            path: std::path::absolute(path)?,
            device: metadata.dev(),
            inode: metadata.ino(),
            creator: std::process::id(),
        })
    }
}

impl Listener {
    pub(super) fn created(
        fd: OwnedFd,
        requested: Address,
        local: Address,
        file: Option<SocketFile>,
    ) -> Self {
        Self {
            fd,
            requested,
            local,
            origin: Origin::Created,
            file,
        }
    }

    pub(super) fn inherited(fd: OwnedFd, requested: Address, local: Address) -> Self {
        Self {
            fd,
            requested,
            local,
            origin: Origin::Inherited,
            file: None,
        }
    }

    /// The address that asked for this socket. A host name may have asked for several.
    #[must_use]
    pub fn requested(&self) -> &Address {
        &self.requested
    }

    /// The address that the socket really has: a literal IP address and the port that
    /// the system picked, or the name of the UNIX socket; never [`Address::Fd`].
    #[must_use]
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// Who has opened the socket.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the start-up line shows: `http://127.0.0.1:8000`, `http://[::1]:8000`,
    /// `unix:/run/app.sock` or `unix:@name`.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.local {
            Address::Tcp { .. } => format!("http://{}", self.local),
            Address::Unix(_) | Address::Abstract(_) | Address::Fd(_) => self.local.to_string(),
        }
    }

    /// Removes what the file system shows of this socket; for the final stop.
    ///
    /// Does nothing for TCP and abstract sockets, for inherited ones, in another
    /// process than the one that created the socket, and when somebody has removed or
    /// replaced the file. The socket keeps it from being confused: while it is open
    /// its inode number is not given to another file.
    ///
    /// # Errors
    /// What the system says when the file is there, is ours and cannot be removed.
    pub fn cleanup(&self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        if file.creator != std::process::id() {
            return Ok(());
        }
        match std::fs::symlink_metadata(&file.path) {
            Ok(found) if found.dev() == file.device && found.ino() == file.inode => {
                std::fs::remove_file(&file.path)
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The address that a TCP or UNIX socket has, for listeners and accepted connections
/// alike (their own end), with the path that users know ([`unix::final_path`]).
///
/// # Errors
/// What `getsockname(2)` says; `Unsupported` for another family and for a UNIX socket
/// without a name.
pub(super) fn local_address(socket: BorrowedFd<'_>) -> io::Result<Address> {
    let name = SockRef::from(&socket).local_addr()?;
    if let Some(address) = name.as_socket() {
        return Ok(from_socket_address(address));
    }
    if let Some(path) = name.as_pathname() {
        return Ok(Address::Unix(unix::final_path(path)));
    }
    if let Some(bytes) = name.as_abstract_namespace() {
        return Ok(Address::Abstract(
            String::from_utf8_lossy(bytes).into_owned(),
        ));
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "the socket has no TCP or UNIX address",
    ))
}

fn from_socket_address(address: SocketAddr) -> Address {
    let host = match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => address.ip().to_string(),
    };
    Address::Tcp {
        host,
        port: address.port(),
    }
}
