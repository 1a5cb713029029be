//! UNIX sockets: with a path, and abstract ones.
//!
//! A path becomes visible only when a connection to it would succeed: the socket is
//! bound under a temporary name beside it, gets its mode, listens, and is then moved
//! into place. So whoever waits for the path to appear may connect at once, and a
//! path that a dead server has left behind is replaced without a gap.
//!
//! What is there already decides whether the path may be taken. Nothing, or a socket
//! that refuses connections: yes. A socket that somebody answers, or any other kind
//! of file: no, and it stays as it is.

use std::fs::{self, Metadata};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::SocketFile;
use super::{Address, ListenError, Listener, local_address};

/// Bytes of a name in `sockaddr_un`, without the final NUL or the initial one.
const NAME_LIMIT: usize = 107;
/// What separates the final path from the random part of the temporary one.
const TEMPORARY_MARK: &str = ".~";
/// Hexadecimal digits of the random part.
const RANDOM_DIGITS: usize = 6;
/// Bytes of a path: the temporary one must fit, too.
const PATH_LIMIT: usize = NAME_LIMIT - TEMPORARY_MARK.len() - RANDOM_DIGITS;
/// How often the steps are repeated when another process interferes.
const TRIES: usize = 8;
/// Everybody may connect, as with gunicorn and uvicorn and as with a TCP port of
/// this machine: the proxy in front runs as another user. Who shall not, is kept out
/// by the mode of the directory.
const MODE: u32 = 0o666;

/// Opens the socket at `path`.
pub(super) fn open(path: &Path, backlog: u32) -> Result<Listener, ListenError> {
    let asked = Address::Unix(path.to_owned());
    let length = path.as_os_str().len();
    if length > PATH_LIMIT {
        return Err(ListenError::TooLong {
            address: asked,
            length,
            limit: PATH_LIMIT,
        });
    }
    for _ in 0..TRIES {
        let found = examine(path)?;
        let (socket, temporary) = bind_temporary(path)?;
        let failed = |action: &'static str| move |error: io::Error| failure(path, action, error);
        fs::set_permissions(&temporary.path, fs::Permissions::from_mode(MODE))
            .map_err(failed("chmod"))?;
        socket.listen(queue(backlog)).map_err(failed("listen"))?;
        let file = temporary.metadata().map_err(failed("stat"))?;
        let file = SocketFile::created(path, &file).map_err(failed("getcwd"))?;
        if temporary.move_to(path, &found).map_err(failed("rename"))? {
            return Ok(Listener::created(
                socket.into(),
                asked.clone(),
                asked,
                Some(file),
            ));
        }
    }
    Err(ListenError::UnixInUse { address: asked })
}

/// Opens the abstract socket `name`.
pub(super) fn open_abstract(name: &str, backlog: u32) -> Result<Listener, ListenError> {
    let asked = Address::Abstract(name.to_owned());
    if name.len() > NAME_LIMIT {
        return Err(ListenError::TooLong {
            address: asked,
            length: name.len(),
            limit: NAME_LIMIT,
        });
    }
    let failed = |action: &'static str| {
        let address = asked.clone();
        move |source: io::Error| match source.kind() {
            ErrorKind::AddrInUse => ListenError::UnixInUse { address },
            _ => ListenError::Io {
                address,
                action,
                source,
            },
        }
    };
    let socket = new_socket().map_err(failed("making a socket"))?;
    let address = SockAddr::unix(format!("\0{name}")).map_err(failed("bind"))?;
    socket.bind(&address).map_err(failed("bind"))?;
    socket.listen(queue(backlog)).map_err(failed("listen"))?;
    let local = local_address(socket.as_fd()).map_err(failed("getsockname"))?;
    Ok(Listener::created(socket.into(), asked.clone(), local, None))
}

/// The path that users know, given the one that the system knows: temporary names
/// stay with the socket for as long as it lives.
pub(super) fn final_path(bound: &Path) -> PathBuf {
    let known = || {
        let text = bound.to_str()?;
        let (path, random) = text.rsplit_once(TEMPORARY_MARK)?;
        let ours = random.len() == RANDOM_DIGITS
            && random
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        ours.then(|| PathBuf::from(path))
    };
    known().unwrap_or_else(|| bound.to_owned())
}

/// What is at a path that may be taken.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket that nobody listens on: its device and inode.
    Stale(u64, u64),
}

fn examine(path: &Path) -> Result<Found, ListenError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failure(path, "stat", error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket {
            path: path.to_owned(),
            kind: kind(&metadata),
        });
    }
    let in_use = || ListenError::UnixInUse {
        address: Address::Unix(path.to_owned()),
    };
    let socket = new_socket().map_err(|error| failure(path, "making a socket", error))?;
    let address = SockAddr::unix(path).map_err(|error| failure(path, "connect", error))?;
    match socket.connect(&address) {
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Found::Stale(metadata.dev(), metadata.ino())),
            ErrorKind::NotFound => Ok(Found::Nothing),
            // A full queue, and a socket of another type, have an owner.
            ErrorKind::WouldBlock => Err(in_use()),
            _ if error.raw_os_error() == Some(libc::EPROTOTYPE) => Err(in_use()),
            _ => Err(failure(path, "connect", error)),
        },
        Ok(()) => Err(in_use()),
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symbolic link"
    } else if kind.is_fifo() {
        "named pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "device"
    } else {
        "regular file"
    }
}

/// The name under which a socket is made ready; removed unless it was moved.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn metadata(&self) -> io::Result<Metadata> {
        fs::symlink_metadata(&self.path)
    }

    /// Moves the socket to its place; `false` when somebody has changed what was
    /// found there.
    fn move_to(self, place: &Path, found: &Found) -> io::Result<bool> {
        match found {
            // Unlike a rename a link never replaces what another process may just
            // have put there.
            Found::Nothing => match fs::hard_link(&self.path, place) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                // Not every file system has links.
                Err(_) => fs::rename(&self.path, place).map(|()| true),
            },
            Found::Stale(device, inode) => {
                let now = fs::symlink_metadata(place)?;
                if (now.dev(), now.ino()) != (*device, *inode) {
                    return Ok(false);
                }
                fs::rename(&self.path, place).map(|()| true)
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed away, it is not there any more; nothing else can be done about
        // another failure.
        let _ = fs::remove_file(&self.path);
    }
}

fn bind_temporary(path: &Path) -> Result<(Socket, Temporary), ListenError> {
    let failed = |action: &'static str| move |error: io::Error| failure(path, action, error);
    let socket = new_socket().map_err(failed("making a socket"))?;
    let mut tries = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        let random = RandomState::new().build_hasher().finish() & 0xff_ffff;
        name.push(format!("{TEMPORARY_MARK}{random:06x}"));
        let temporary = PathBuf::from(name);
        let address = SockAddr::unix(&temporary).map_err(failed("bind"))?;
        match socket.bind(&address) {
            Ok(()) => return Ok((socket, Temporary { path: temporary })),
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries < TRIES => tries += 1,
            Err(error) => return Err(failed("bind")(error)),
        }
    }
}

fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
}

/// The kernel takes what it can: net.core.somaxconn bounds the queue.
fn queue(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

fn failure(path: &Path, action: &'static str, source: io::Error) -> ListenError {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ListenError::NoDirectory { path, directory }
        }
        ErrorKind::PermissionDenied => ListenError::UnixPermission { path, directory },
        _ => ListenError::Io {
            address: Address::Unix(path),
            action,
            source,
        },
    }
}
