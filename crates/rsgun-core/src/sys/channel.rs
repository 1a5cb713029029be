//! Message channels between processes.
//!
//! A channel is one end of a `SOCK_SEQPACKET` pair: message boundaries are kept,
//! descriptors travel with a message (`SCM_RIGHTS`), and the death of the peer is
//! an end-of-file. All ends are close-on-exec.
//!
//! What an end takes in is its [`Freight`]. Where descriptors may come, a payload above
//! [`INLINE_MAX`] bytes travels in a memory file whose descriptor is the first of the
//! message, since a large datagram would fail with `EMSGSIZE` or fill the queue. More
//! descriptors than a datagram takes travel as a bundle, which is one (`bundle.rs`).
//!
//! A process below the master may be another user's, and run anything. From there comes
//! [`Freight::Plain`]: a bounded number of bytes, and nothing else. A descriptor of a
//! stranger is not even to be closed: that waits as long as a file system of his, or a
//! socket that lingers, pleases. So there is no room for one, and from Linux 6.16 on the
//! sender is refused. What the kernel adds instead is who has sent the message.

use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::bundle;
use super::datagram::{self, Datagram, FDS_OF_DATAGRAM, WORDS_OF_FDS, WORDS_OF_SENDER};

pub use super::datagram::pair;

/// The largest payload that travels inside the datagram itself where there is another way,
/// in bytes.
pub const INLINE_MAX: usize = 32 * 1024;

/// The largest payload of [`Freight::Plain`], in bytes; the kernel's buffers take more.
pub const PLAIN_MAX: usize = 128 * 1024;

/// The largest payload of all, in bytes.
pub const PAYLOAD_MAX: usize = 16 * 1024 * 1024;

/// The most descriptors one message may carry.
pub const FDS_MAX: usize = bundle::FDS_MAX;

/// First byte of a datagram: the payload follows.
const INLINE: u8 = 0;
/// First byte of a datagram: the payload is in the first descriptor.
const IN_MEMFD: u8 = 1;
/// Added to it: the descriptors are in a bundle, the last one.
const BUNDLED: u8 = 2;

/// `SO_PASSRIGHTS`, for which the C libraries have no name yet.
const SO_PASSRIGHTS: libc::c_int = 83;

/// What travels in one direction of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freight {
    /// Payloads of up to [`PAYLOAD_MAX`] bytes, and descriptors: from who is trusted.
    Descriptors,
    /// Payloads of up to [`PLAIN_MAX`] bytes alone.
    Plain,
}

/// A received message.
#[derive(Debug)]
pub struct Received {
    /// The payload, without framing.
    pub payload: Vec<u8>,
    /// The descriptors that travelled with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// There were more of them than this process may still open, and it has got none.
    pub bereft: bool,
    /// The process that has sent it, in the words of the kernel, at an end that is
    /// [prepared](prepare) for plain freight.
    pub sender: Option<i32>,
}

/// Prepares an end for what it is to take in. Messages that were sent before have no
/// sender.
///
/// # Errors
/// What `setsockopt(2)` returns.
pub fn prepare(channel: BorrowedFd<'_>, freight: Freight) -> io::Result<()> {
    if freight == Freight::Plain {
        setsockopt(&channel, sockopt::PassCred, &true)?;
        refuse_descriptors(channel);
    }
    Ok(())
}

/// Has the kernel refuse messages with descriptors, where it can.
fn refuse_descriptors(channel: BorrowedFd<'_>) {
    let passes: libc::c_int = 0;
    let size = libc::socklen_t::try_from(size_of_val(&passes)).unwrap_or_default();
    // SAFETY: `passes` is a number that the kernel only reads, before the call returns.
    // An option that it does not know is an error without consequences.
    unsafe {
        libc::setsockopt(
            channel.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const passes).cast(),
            size,
        );
    }
}

/// Sends one message with its descriptors, to an end that takes this freight.
///
/// # Errors
/// `WouldBlock` when the peer's queue is full, `BrokenPipe` when the peer is
/// gone, `InvalidInput` for what is too large or too much.
pub fn send(
    channel: BorrowedFd<'_>,
    payload: &[u8],
    fds: &[BorrowedFd<'_>],
    freight: Freight,
) -> io::Result<()> {
    let (payload_max, fds_max) = match freight {
        Freight::Descriptors => (PAYLOAD_MAX, FDS_MAX),
        Freight::Plain => (PLAIN_MAX, 0),
    };
    if fds.len() > fds_max || payload.len() > payload_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} bytes and {} descriptors in one message, at most {payload_max} and {fds_max} \
                 fit",
                payload.len(),
                fds.len()
            ),
        ));
    }
    let spill = if freight == Freight::Descriptors && payload.len() > INLINE_MAX {
        Some(spill(payload)?)
    } else {
        None
    };
    let bundle = if fds.len() < FDS_OF_DATAGRAM {
        None
    } else {
        Some(bundle::pack(fds)?)
    };
    let beside = if bundle.is_some() { &[][..] } else { fds };
    let mut raw: Vec<RawFd> = Vec::with_capacity(beside.len() + 1);
    raw.extend(spill.as_ref().map(AsRawFd::as_raw_fd));
    raw.extend(bundle.as_ref().map(AsRawFd::as_raw_fd));
    raw.extend(beside.iter().map(AsRawFd::as_raw_fd));
    let place = if spill.is_some() { IN_MEMFD } else { INLINE };
    let tag = [place | if bundle.is_some() { BUNDLED } else { 0 }];
    let body = if spill.is_some() { &[][..] } else { payload };
    datagram::send(channel, &[IoSlice::new(&tag), IoSlice::new(body)], &raw)
}

/// Receives one message; `None` is the end: the peer is gone.
///
/// Waits if the descriptor is in blocking mode.
///
/// # Errors
/// `WouldBlock` on an empty non-blocking channel, `InvalidData` for a message that this
/// module did not send, or that could not be received; the next one may be right.
pub fn recv(channel: BorrowedFd<'_>, freight: Freight) -> io::Result<Option<Received>> {
    let mut of_fds = [0; WORDS_OF_FDS];
    let (payload_max, control) = match freight {
        Freight::Descriptors => (INLINE_MAX, &mut of_fds[..]),
        Freight::Plain => (PLAIN_MAX, &mut of_fds[..WORDS_OF_SENDER]),
    };
    let mut buffer = vec![0_u8; payload_max + 1];
    let datagram = loop {
        match datagram::receive(channel, &mut buffer, control) {
            Ok(datagram) => break datagram,
            Err(Errno::EINTR) => {}
            // A peer that died with unread messages resets the channel.
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let Datagram {
        length,
        flags,
        mut fds,
        sender,
    } = datagram;
    if length == 0 {
        return Ok(None);
    }
    let mut bereft = flags & libc::MSG_CTRUNC != 0;
    if bereft {
        // Some may be missing; which is which is not known.
        fds.clear();
    }
    if flags & libc::MSG_TRUNC != 0 {
        return Err(damaged("is too long"));
    }
    if freight == Freight::Plain && (bereft || !fds.is_empty()) {
        return Err(damaged("carries descriptors where none belong"));
    }
    buffer.truncate(length);
    let tag = buffer.remove(0);
    let payload = match tag & !BUNDLED {
        INLINE => buffer,
        IN_MEMFD if bereft => return Err(damaged("needs a descriptor, and none is left")),
        IN_MEMFD if !fds.is_empty() => unspill(fds.remove(0))?,
        _ => return Err(damaged(&format!("starts with the unknown tag {tag}"))),
    };
    if tag & BUNDLED != 0 && !bereft {
        let Some(bundle) = fds.pop() else {
            return Err(damaged("has lost its descriptors"));
        };
        (fds, bereft) = bundle::unpack(bundle.as_fd())?;
    }
    Ok(Some(Received {
        payload,
        fds,
        bereft,
        sender,
    }))
}

fn damaged(how: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a message on the channel {how}"),
    )
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

/// Reads what [`spill`] has written, of a file that is one of that kind.
fn unspill(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::from(fd);
    let data = file.metadata()?;
    let size = usize::try_from(data.len()).unwrap_or(usize::MAX);
    if !data.is_file() || size > PAYLOAD_MAX {
        return Err(damaged("has a payload that is no file, or too large"));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut payload = vec![0; size];
    file.read_exact(&mut payload)?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

    use super::*;
    use crate::sys::process::next_fd_number;

    const FREIGHT: Freight = Freight::Descriptors;

    /// Sends a datagram as it is.
    fn send_raw(channel: BorrowedFd<'_>, datagram: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let iov = [IoSlice::new(datagram)];
        sendmsg::<UnixAddr>(channel.as_raw_fd(), &iov, control, MsgFlags::empty(), None)
    }

    fn is_damaged(result: io::Result<Option<Received>>) -> bool {
        matches!(result, Err(error) if error.kind() == io::ErrorKind::InvalidData)
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (left, right) = pair().unwrap();
        let (extra, _keep) = pair().unwrap();
        send(left.as_fd(), b"hello", &[extra.as_fd()], FREIGHT).unwrap();
        let got = recv(right.as_fd(), FREIGHT).unwrap().unwrap();
        assert_eq!(got.payload, b"hello");
        assert_eq!((got.fds.len(), got.bereft), (1, false));
    }

    #[test]
    fn a_long_payload_travels_in_a_memory_file() {
        let (left, right) = pair().unwrap();
        let (extra, _keep) = pair().unwrap();
        let payload = vec![b'x'; 5 * 1024 * 1024];
        send(left.as_fd(), &payload, &[extra.as_fd()], FREIGHT).unwrap();
        let got = recv(right.as_fd(), FREIGHT).unwrap().unwrap();
        assert_eq!(got.payload, payload);
        assert_eq!(got.fds.len(), 1, "the memory file itself is not handed on");
        let too_long = vec![b'x'; PAYLOAD_MAX + 1];
        let error = send(left.as_fd(), &too_long, &[], FREIGHT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn only_a_file_of_bounded_size_is_read() {
        let (left, right) = pair().unwrap();
        let large = tempfile::tempfile().unwrap();
        large.set_len(PAYLOAD_MAX as u64 + 1).unwrap();
        for file in [File::open("/dev/zero").unwrap(), large] {
            send_raw(left.as_fd(), &[IN_MEMFD], &[file.as_raw_fd()]).unwrap();
            assert!(is_damaged(recv(right.as_fd(), FREIGHT)));
        }
        send(left.as_fd(), b"next", &[], FREIGHT).unwrap();
        let got = recv(right.as_fd(), FREIGHT).unwrap().unwrap();
        assert_eq!(got.payload, b"next");
    }

    #[test]
    fn plain_freight_is_bounded_and_tells_its_sender() {
        let (left, right) = pair().unwrap();
        prepare(right.as_fd(), Freight::Plain).unwrap();
        let payload = vec![b'x'; PLAIN_MAX];
        send(left.as_fd(), &payload, &[], Freight::Plain).unwrap();
        let got = recv(right.as_fd(), Freight::Plain).unwrap().unwrap();
        assert_eq!(got.payload, payload);
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(got.sender, Some(own));
        let longer = vec![INLINE; PLAIN_MAX + 2];
        let error = send(left.as_fd(), &longer, &[], Freight::Plain).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        send_raw(left.as_fd(), &longer, &[]).unwrap();
        assert!(is_damaged(recv(right.as_fd(), Freight::Plain)));
    }

    #[test]
    fn plain_freight_leaves_no_descriptor_behind() {
        let (left, right) = pair().unwrap();
        setsockopt(&right, sockopt::PassCred, &true).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let fds = [theirs.as_raw_fd(); 3];
        send_raw(left.as_fd(), b"\0hello", &fds).unwrap();
        drop(theirs);
        let free = next_fd_number().unwrap();
        assert!(is_damaged(recv(right.as_fd(), Freight::Plain)));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "nobody has it");
        assert_eq!(next_fd_number().unwrap(), free);
        // Where the kernel can refuse them it does; elsewhere they are as above.
        prepare(right.as_fd(), Freight::Plain).unwrap();
        let own = [ours.as_raw_fd()];
        let refused = send_raw(left.as_fd(), b"\0hello", &own) == Err(Errno::EPERM);
        assert!(refused || is_damaged(recv(right.as_fd(), Freight::Plain)));
        send(left.as_fd(), b"next", &[], Freight::Plain).unwrap();
        assert!(recv(right.as_fd(), Freight::Plain).unwrap().is_some());
    }

    #[test]
    fn who_has_no_descriptor_left_gets_the_message_without() {
        let (left, right) = pair().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let fds = [theirs.as_fd(), theirs.as_fd()];
        send(left.as_fd(), b"hello", &fds, FREIGHT).unwrap();
        let long = vec![b'x'; INLINE_MAX + 1];
        send(left.as_fd(), &long, &[], FREIGHT).unwrap();
        drop(theirs);
        // Room for one of the two, and then for none.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let free = u64::try_from(next_fd_number().unwrap()).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, free + 1, hard).unwrap();
        let first = recv(right.as_fd(), FREIGHT);
        setrlimit(Resource::RLIMIT_NOFILE, free, hard).unwrap();
        let second = recv(right.as_fd(), FREIGHT);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let got = first.unwrap().unwrap();
        assert_eq!(got.payload, b"hello");
        assert_eq!((got.fds.len(), got.bereft), (0, true));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "the one is closed again");
        assert!(is_damaged(second));
    }

    #[test]
    fn the_death_of_the_peer_is_the_end() {
        let (left, right) = pair().unwrap();
        drop(left);
        assert!(recv(right.as_fd(), FREIGHT).unwrap().is_none());
    }

    #[test]
    fn an_empty_channel_would_block() {
        let (_left, right) = pair().unwrap();
        assert_eq!(
            recv(right.as_fd(), FREIGHT).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
