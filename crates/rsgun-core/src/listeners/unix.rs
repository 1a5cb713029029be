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
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::SocketFile;
use super::{Address, ListenError, Listener, Manner, local_address};

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

/// Opens the socket at `path`.
pub(super) fn open(path: &Path, manner: impl Into<Manner>) -> Result<Listener, ListenError> {
    let Manner {
        backlog,
        mode,
        owner,
        ..
    } = manner.into();
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
        if let Some((user, group)) = owner {
            lchown(&temporary.path, Some(user), Some(group)).map_err(failed("chown"))?;
        }
        fs::set_permissions(&temporary.path, fs::Permissions::from_mode(mode))
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

/// The path that users know, given the one that `getsockname(2)` tells.
///
/// The system keeps the name under which a UNIX socket was bound, and rsgun binds it
/// under a temporary one. Any other path is returned as it is.
#[must_use]
pub fn final_path(bound: &Path) -> PathBuf {
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use nix::unistd::{Uid, setfsuid};
    use tempfile::TempDir;

    use super::*;
    use crate::listeners::open_all;

    fn directory() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(directory: &TempDir) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_socket_is_there_listens_and_is_removed_at_the_end() {
        let directory = directory();
        let path = directory.path().join("app.sock");
        let listener = open(&path, 16).unwrap();
        assert_eq!(names(&directory), ["app.sock"], "no temporary name is left");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, Manner::MODE);
        assert_eq!(listener.url(), format!("unix:{}", path.display()));
        assert_eq!(
            local_address(listener.as_fd()).unwrap(),
            Address::Unix(path.clone())
        );
        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = socket2::SockRef::from(&listener).accept().unwrap();
        assert_eq!(
            local_address(server.as_fd()).unwrap(),
            Address::Unix(path.clone())
        );
        drop(client);
        listener.cleanup().unwrap();
        assert!(names(&directory).is_empty());
        listener.cleanup().unwrap();
    }

    #[test]
    fn dropping_a_listener_leaves_the_file() {
        let directory = directory();
        let path = directory.path().join("app.sock");
        drop(open(&path, 16).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = directory();
        let path = directory.path().join("app.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = open(&path, 16).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(names(&directory), ["app.sock"]);
        listener.cleanup().unwrap();
    }

    #[test]
    fn a_live_socket_is_left_alone() {
        let directory = directory();
        let path = directory.path().join("app.sock");
        let holder = UnixListener::bind(&path).unwrap();
        let error = open(&path, 16).unwrap_err();
        assert!(error.is_address_in_use(), "{error}");
        holder.accept().unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(names(&directory), ["app.sock"]);
    }

    #[test]
    fn a_full_queue_and_another_type_of_socket_have_an_owner() {
        let directory = directory();
        let path = directory.path().join("full.sock");
        let _holder = open(&path, 1).unwrap();
        let address = SockAddr::unix(&path).unwrap();
        let mut clients = Vec::new();
        loop {
            let client = new_socket().unwrap();
            match client.connect(&address) {
                Ok(()) => clients.push(client),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(open(&path, 1).unwrap_err().is_address_in_use());
        let path = directory.path().join("datagrams.sock");
        let _holder = UnixDatagram::bind(&path).unwrap();
        assert!(open(&path, 1).unwrap_err().is_address_in_use());
    }

    #[test]
    fn what_is_no_socket_stays_as_it_is() {
        let directory = directory();
        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        let folder = directory.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("file", &link).unwrap();
        for (path, kind) in [
            (&file, "regular file"),
            (&folder, "directory"),
            (&link, "symbolic link"),
        ] {
            let error = open(path, 16).unwrap_err();
            assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(kind) && text.contains(path.to_str().unwrap()),
                "{text}"
            );
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert_eq!(names(&directory), ["file", "folder", "link"]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = directory();
        let path = directory.path().join("run/app.sock");
        let error = open(&path, 16).unwrap_err();
        assert!(matches!(error, ListenError::NoDirectory { .. }), "{error}");
        fs::write(directory.path().join("run"), "").unwrap();
        let error = open(&path, 16).unwrap_err();
        assert!(matches!(error, ListenError::NoDirectory { .. }), "{error}");
    }

    #[test]
    fn a_long_name_is_refused_and_the_longest_works() {
        let directory = directory();
        let room = PATH_LIMIT - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(room));
        let listener = open(&path, 16).unwrap();
        assert_eq!(
            local_address(listener.as_fd()).unwrap(),
            Address::Unix(path)
        );
        let error = open(&directory.path().join("x".repeat(room + 1)), 16).unwrap_err();
        assert!(
            error.to_string().contains("has 100 bytes, at most 99 fit"),
            "{error}"
        );
        let error = open_abstract(&"x".repeat(108), 16).unwrap_err();
        assert!(
            error.to_string().contains("has 108 bytes, at most 107 fit"),
            "{error}"
        );
    }

    /// Runs a closure as a user who may do nothing in the file system; the identity
    /// for files belongs to a thread.
    fn as_nobody<T: Send>(closure: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setfsuid(Uid::from_raw(65534));
                closure()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn a_lack_of_permission_is_named() {
        let directory = directory();
        let path = directory.path().join("app.sock");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let error = as_nobody(|| open(&path, 16)).unwrap_err();
        assert!(
            matches!(error, ListenError::UnixPermission { .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(directory.path().to_str().unwrap()),
            "{error}"
        );
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let _holder = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let error = as_nobody(|| open(&path, 16)).unwrap_err();
        assert!(
            matches!(error, ListenError::UnixPermission { .. }),
            "{error}"
        );
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let directory = directory();
        let path = directory.path().join("app.sock");
        let listener = open(&path, 16).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        listener.cleanup().unwrap();
        UnixStream::connect(&path).unwrap();
        drop(other);
    }

    #[test]
    fn somebody_faster_wins() {
        let directory = directory();
        let path = directory.path().join("app.sock");
        let (_socket, temporary) = bind_temporary(&path).unwrap();
        let _faster = UnixListener::bind(&path).unwrap();
        assert!(!temporary.move_to(&path, &Found::Nothing).unwrap());
        let (_socket, temporary) = bind_temporary(&path).unwrap();
        assert!(!temporary.move_to(&path, &Found::Stale(0, 0)).unwrap());
        UnixStream::connect(&path).unwrap();
        assert_eq!(names(&directory), ["app.sock"]);
    }

    #[test]
    fn an_abstract_name_is_taken_once() {
        let name = format!("rsgun-test-{}", std::process::id());
        let address = Address::Abstract(name.clone());
        let listeners = open_all(std::slice::from_ref(&address), 16).unwrap();
        assert_eq!(listeners[0].local(), &address);
        assert_eq!(listeners[0].url(), format!("unix:@{name}"));
        assert!(open_abstract(&name, 16).unwrap_err().is_address_in_use());
        listeners[0].cleanup().unwrap();
        drop(listeners);
        open_abstract(&name, 16).unwrap();
    }

    #[test]
    fn only_temporary_names_are_shortened() {
        for (bound, known) in [
            ("/run/app.sock.~01abef", "/run/app.sock"),
            ("/run/app.sock", "/run/app.sock"),
            ("/run/app.~sock", "/run/app.~sock"),
            ("/run/app.~01ABEF", "/run/app.~01ABEF"),
        ] {
            assert_eq!(final_path(Path::new(bound)), Path::new(known));
        }
    }
}
