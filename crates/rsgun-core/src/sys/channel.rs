//! Message channels between processes.
//!
//! A channel is one end of a `SOCK_SEQPACKET` pair: message boundaries are kept,
//! descriptors travel with a message (`SCM_RIGHTS`), and the death of the peer is
//! an end-of-file. All ends are close-on-exec. A payload above [`INLINE_MAX`]
//! bytes travels in a memory file whose descriptor is the first of the message:
//! a large datagram would fail with `EMSGSIZE` or fill the queue.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};

/// The largest payload that travels inside the datagram itself, in bytes.
pub const INLINE_MAX: usize = 32 * 1024;

/// The most descriptors one message may carry (the kernel's `SCM_MAX_FD` is 253).
pub const FDS_MAX: usize = 250;

/// First byte of a datagram: the payload follows.
const INLINE: u8 = 0;
/// First byte of a datagram: the payload is in the first descriptor.
const IN_MEMFD: u8 = 1;

/// A received message.
#[derive(Debug)]
pub struct Received {
    /// The payload, without framing.
    pub payload: Vec<u8>,
    /// The descriptors that travelled with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Makes a connected pair of channel ends, both close-on-exec and non-blocking.
///
/// # Errors
/// What `socketpair(2)` returns, chiefly `EMFILE`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )?)
}

/// Sends one message with its descriptors.
///
/// # Errors
/// `WouldBlock` when the peer's queue is full, `BrokenPipe` when the peer is
/// gone, `InvalidInput` for more than [`FDS_MAX`] descriptors.
pub fn send(channel: BorrowedFd<'_>, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() >= FDS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} descriptors in one message, at most {FDS_MAX} fit",
                fds.len()
            ),
        ));
    }
    let spill = if payload.len() > INLINE_MAX {
        Some(spill(payload)?)
    } else {
        None
    };
    let mut raw: Vec<RawFd> = Vec::with_capacity(fds.len() + 1);
    raw.extend(spill.as_ref().map(AsRawFd::as_raw_fd));
    raw.extend(fds.iter().map(AsRawFd::as_raw_fd));
    let tag = [if spill.is_some() { IN_MEMFD } else { INLINE }];
    let body = if spill.is_some() { &[][..] } else { payload };
    let iov = [IoSlice::new(&tag), IoSlice::new(body)];
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    loop {
        match sendmsg::<UnixAddr>(
            channel.as_raw_fd(),
            &iov,
            control,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message; `None` is the end: the peer is gone.
///
/// Waits if the descriptor is in blocking mode.
///
/// # Errors
/// `WouldBlock` on an empty non-blocking channel, `InvalidData` for a message
/// that this module did not send.
pub fn recv(channel: BorrowedFd<'_>) -> io::Result<Option<Received>> {
    let mut buffer = vec![0_u8; INLINE_MAX + 1];
    let mut control = cmsg_space!([RawFd; FDS_MAX]);
    let (length, mut fds, flags) = loop {
        let mut iov = [IoSliceMut::new(&mut buffer)];
        match recvmsg::<UnixAddr>(
            channel.as_raw_fd(),
            &mut iov,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let mut fds = Vec::new();
                for cmsg in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = cmsg {
                        for fd in raw {
                            // SAFETY: the kernel has just made this descriptor for us, and
                            // nothing else in the process knows its number.
                            fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                        }
                    }
                }
                break (message.bytes, fds, message.flags);
            }
            Err(nix::Error::EINTR) => {}
            // A peer that died with unread messages resets the channel.
            Err(nix::Error::ECONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    if length == 0 {
        return Ok(None);
    }
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message on the channel was cut off",
        ));
    }
    buffer.truncate(length);
    let tag = buffer.remove(0);
    let payload = match tag {
        INLINE => buffer,
        IN_MEMFD if !fds.is_empty() => {
            let mut file = std::fs::File::from(fds.remove(0));
            file.seek(SeekFrom::Start(0))?;
            let mut payload = Vec::new();
            file.read_to_end(&mut payload)?;
            payload
        }
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message on the channel starts with the unknown tag {tag}"),
            ));
        }
    };
    Ok(Some(Received { payload, fds }))
}

/// Waits until the channel can be read or `timeout_ms` has passed (`None`: for ever).
///
/// # Errors
/// What `poll(2)` returns; an interrupting signal is not an error but `false`.
pub fn wait_readable(channel: BorrowedFd<'_>, timeout_ms: Option<u16>) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
    let timeout = timeout_ms.map_or(PollTimeout::NONE, PollTimeout::from);
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn spill(payload: &[u8]) -> io::Result<OwnedFd> {
    let fd =
        nix::sys::memfd::memfd_create(c"rsgun-message", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(payload)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (left, right) = pair().unwrap();
        let (extra, _keep) = pair().unwrap();
        send(left.as_fd(), b"hello", &[extra.as_fd()]).unwrap();
        let got = recv(right.as_fd()).unwrap().unwrap();
        assert_eq!(got.payload, b"hello");
        assert_eq!(got.fds.len(), 1);
    }

    #[test]
    fn a_long_payload_travels_in_a_memory_file() {
        let (left, right) = pair().unwrap();
        let (extra, _keep) = pair().unwrap();
        let payload = vec![b'x'; 5 * 1024 * 1024];
        send(left.as_fd(), &payload, &[extra.as_fd()]).unwrap();
        let got = recv(right.as_fd()).unwrap().unwrap();
        assert_eq!(got.payload, payload);
        assert_eq!(got.fds.len(), 1, "the memory file itself is not handed on");
    }

    #[test]
    fn the_death_of_the_peer_is_the_end() {
        let (left, right) = pair().unwrap();
        drop(left);
        assert!(recv(right.as_fd()).unwrap().is_none());
    }

    #[test]
    fn an_empty_channel_would_block() {
        let (_left, right) = pair().unwrap();
        assert_eq!(
            recv(right.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
