//! Datagrams between processes with what travels beside them, as the kernel has it.
//!
//! Descriptors and the sender lie in a control buffer beside the payload. What finds no room
//! there the kernel throws away, with a mark: so the room that the receiver gives says what
//! can come in. Room for the sender leaves none for a descriptor.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair,
};

/// The most descriptors of one datagram (the kernel's `SCM_MAX_FD` is 253).
pub(super) const FDS_OF_DATAGRAM: usize = 250;

/// Eight bytes of a control buffer, which must be aligned like its headers.
pub(super) type Word = u64;
/// The room for [`FDS_OF_DATAGRAM`] descriptors.
pub(super) const WORDS_OF_FDS: usize = words::<[RawFd; FDS_OF_DATAGRAM]>();
/// The room for the sender, which leaves none for a descriptor.
pub(super) const WORDS_OF_SENDER: usize = words::<libc::ucred>();

/// The words that a control message with this in it takes.
#[expect(clippy::cast_possible_truncation, reason = "some hundred bytes")]
const fn words<T>() -> usize {
    // SAFETY: only computes.
    let bytes = unsafe { libc::CMSG_SPACE(size_of::<T>() as libc::c_uint) };
    (bytes as usize).div_ceil(size_of::<Word>())
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

/// Sends one datagram, without waiting.
///
/// # Errors
/// What `sendmsg(2)` returns; with `EAGAIN` the peer's queue is full.
pub(super) fn send(socket: BorrowedFd<'_>, iov: &[IoSlice<'_>], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    loop {
        match sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            iov,
            control,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One datagram with what came beside it.
pub(super) struct Datagram {
    pub(super) length: usize,
    pub(super) flags: libc::c_int,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) sender: Option<i32>,
}

/// `recvmsg(2)`. Whatever descriptors the kernel has made for this process are owned
/// afterwards, also when it could not make all of them.
///
/// # Errors
/// What `recvmsg(2)` returns.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [Word],
) -> Result<Datagram, Errno> {
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: an all-zero header is a valid one, without anything.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(control);
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header leads to two buffers of these lengths, which live here.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let length = usize::try_from(Errno::result(length)?).unwrap_or_default();
    let mut datagram = Datagram {
        length,
        flags: header.msg_flags,
        fds: Vec::new(),
        sender: None,
    };
    // SAFETY: the kernel has filled the control buffer with messages, each of the length
    // that it says, and has set the length of all; the macros stay within. Each number of
    // SCM_RIGHTS is a descriptor that was just made for this process, and nothing else in it
    // knows it. Nothing is assumed about alignment.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let head = message.read_unaligned();
            let data = libc::CMSG_DATA(message);
            match (head.cmsg_level, head.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let start = data as usize - message as usize;
                    let count = (head.cmsg_len - start) / size_of::<RawFd>();
                    for index in 0..count {
                        let number = data.add(index * size_of::<RawFd>());
                        let number = number.cast::<RawFd>().read_unaligned();
                        datagram.fds.push(OwnedFd::from_raw_fd(number));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    let pid = data.cast::<libc::ucred>().read_unaligned().pid;
                    // None is known of a message that was sent too early, or from another
                    // namespace.
                    datagram.sender = Some(pid).filter(|pid| *pid > 0);
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Ok(datagram)
}
