//! Listening sockets that the parent process has opened: a supervisor, systemd, a
//! shell.
//!
//! Siblings may listen on the same socket, and the parent hands it out again after we
//! are gone. So it is used as it is: no `listen`, no option, no change to its file,
//! never a `shutdown`. The one exception is `O_NONBLOCK`. It belongs to the open file
//! description and is therefore seen by siblings too, but without it a worker that is
//! woken for a connection which a sibling takes first would hang in `accept`, and
//! there is no accept call that does not wait on a blocking socket. A sibling that
//! polls before it accepts, as every server for such sockets does, must expect
//! `EAGAIN` anyhow.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use socket2::{Domain, SockRef, Type};

use super::{Address, ListenError, Listener, local_address};
use crate::sys::inherited::{self, Inherited};

/// A descriptor that has passed all checks and can be taken.
#[derive(Debug)]
pub(super) struct Candidate {
    number: RawFd,
    local: Address,
    inherited: Inherited,
}

/// Checks that the descriptor is a listening stream socket; changes nothing.
pub(super) fn check(number: RawFd) -> Result<Candidate, ListenError> {
    let inherited = Inherited::find(number).map_err(|source| match source.raw_os_error() {
        Some(libc::EBADF) => ListenError::DescriptorNotOpen { number },
        _ => failed(number, "dup", source),
    })?;
    let local = examine(number, inherited.as_fd())?;
    Ok(Candidate {
        number,
        local,
        inherited,
    })
}

/// Copies a listening socket that stays the property of somebody else in this process.
///
/// # Errors
/// [`ListenError`], which names the number: it is not open, or no listening socket.
pub fn copy_of(number: RawFd) -> Result<Listener, ListenError> {
    let copy = inherited::copy_of(number).map_err(|_| ListenError::DescriptorNotOpen { number })?;
    let local = examine(number, copy.as_fd())?;
    set_nonblocking(copy.as_fd()).map_err(|source| failed(number, "O_NONBLOCK", source))?;
    Ok(Listener::inherited(copy, Address::Fd(number), local))
}

/// The address of a listening stream socket; an error for anything else.
fn examine(number: RawFd, fd: BorrowedFd<'_>) -> Result<Address, ListenError> {
    let socket = SockRef::from(&fd);
    let domain = socket
        .domain()
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ENOTSOCK) => ListenError::DescriptorNotSocket { number },
            _ => failed(number, "SO_DOMAIN", source),
        })?;
    let kind = socket
        .r#type()
        .map_err(|source| failed(number, "SO_TYPE", source))?;
    if let Some(kind) = unsuitable(domain, kind) {
        return Err(ListenError::DescriptorFamily { number, kind });
    }
    if !socket
        .is_listener()
        .map_err(|source| failed(number, "SO_ACCEPTCONN", source))?
    {
        return Err(ListenError::DescriptorNotListening { number });
    }
    local_address(fd).map_err(|source| failed(number, "getsockname", source))
}

/// What the socket is, if it is not one to serve HTTP on.
fn unsuitable(domain: Domain, kind: Type) -> Option<String> {
    let family = match domain {
        Domain::IPV4 => "IPv4",
        Domain::IPV6 => "IPv6",
        Domain::UNIX => "UNIX",
        other => return Some(format!("{other:?}")),
    };
    match kind {
        Type::STREAM => None,
        Type::DGRAM => Some(format!("{family} datagram")),
        Type::SEQPACKET => Some(format!("{family} packet")),
        other => Some(format!("{family} {other:?}")),
    }
}

/// Takes the descriptor over. The old number becomes `/dev/null`, so that no child
/// gets the socket by accident and no file gets a number with a meaning.
pub(super) fn take(candidate: Candidate) -> Result<Listener, ListenError> {
    let Candidate {
        number,
        local,
        inherited,
    } = candidate;
    set_nonblocking(inherited.as_fd()).map_err(|source| failed(number, "O_NONBLOCK", source))?;
    let fd = inherited
        .take()
        .map_err(|source| failed(number, "dup", source))?;
    Ok(Listener::inherited(fd, Address::Fd(number), local))
}

fn set_nonblocking(socket: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

fn failed(number: RawFd, action: &'static str, source: io::Error) -> ListenError {
    ListenError::Io {
        address: Address::Fd(number),
        action,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::listeners::{Origin, open_all};

    /// Makes a copy that is not close-on-exec, as one that came over an exec.
    fn pass_on(fd: impl AsFd) -> RawFd {
        fcntl(fd, FcntlArg::F_DUPFD(300)).unwrap()
    }

    fn take(number: RawFd) -> Result<Listener, ListenError> {
        Ok(open_all(&[Address::Fd(number)], 16)?.remove(0))
    }

    #[test]
    fn a_listening_socket_is_taken_as_it_is() {
        let parent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = parent.local_addr().unwrap();
        let number = pass_on(&parent);
        let listener = take(number).unwrap();
        assert_eq!(listener.origin(), Origin::Inherited);
        assert_eq!(listener.requested(), &Address::Fd(number));
        assert_eq!(listener.url(), format!("http://{address}"));
        assert_ne!(listener.as_fd().as_raw_fd(), number);
        let old = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        assert_eq!(old, std::path::Path::new("/dev/null"));
        let client = TcpStream::connect(address).unwrap();
        SockRef::from(&listener).accept().unwrap();
        let empty = SockRef::from(&listener).accept().unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop((client, listener));
        TcpStream::connect(address).unwrap();
        parent.accept().unwrap();
    }

    #[test]
    fn the_file_of_an_inherited_socket_is_never_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("supervised.sock");
        let parent = UnixListener::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions();
        let listener = take(pass_on(&parent)).unwrap();
        assert_eq!(listener.local(), &Address::Unix(path.clone()));
        listener.cleanup().unwrap();
        drop(listener);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), mode);
        UnixStream::connect(&path).unwrap();
        parent.accept().unwrap();
    }

    #[test]
    fn what_cannot_be_served_is_named_with_its_number() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for (number, reason) in [
            (pass_on(&file), "is not a socket"),
            (
                pass_on(&datagrams),
                "another kind of socket (IPv4 datagram)",
            ),
            (pass_on(&connection), "is not listening"),
            (999_999, "has passed no descriptor"),
            (listener.as_raw_fd(), "has passed no descriptor"),
        ] {
            let text = take(number).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("cannot use --fd {number}: ")),
                "{text}"
            );
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn a_failure_elsewhere_leaves_the_descriptor_in_place() {
        let parent = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = parent.local_addr().unwrap().to_string();
        let number = pass_on(&parent);
        let list = [Address::Fd(number), taken.parse().unwrap()];
        assert!(open_all(&list, 16).unwrap_err().is_address_in_use());
        assert_eq!(take(number).unwrap().requested(), &Address::Fd(number));
    }
}
