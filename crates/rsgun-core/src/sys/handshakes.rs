//! A TCP listener that new clients no longer reach, while those on their way still do.
//!
//! Shutting a listener down resets whoever has just arrived in its queue. So first a
//! filter drops only `SYN`, the first packet of a new client, which the client sends
//! again a second later. When all that are in the middle of a handshake have arrived,
//! nobody can be lost any more.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::sock_filter;

/// Where the flags are in a TCP header, and the flag `SYN` (RFC 9293, 3.1).
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;

/// A filter of a TCP listener, which sees the TCP header: drops packets with `SYN`.
const WITHOUT_SYN: [sock_filter; 4] = [
    instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, FLAGS),
    instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, SYN),
    // The length of what passes: all of it, or nothing.
    instruction(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0),
];

/// An instruction that skips the next ones if it is a test and holds.
#[expect(clippy::cast_possible_truncation, reason = "the codes have 16 bits")]
const fn instruction(code: u32, skips: u8, operand: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: skips,
        jf: 0,
        k: operand,
    }
}

/// Leaves clients that are not yet connected without an answer: they ask again after a
/// second. Whoever has had an answer to its first packet can complete the handshake, and
/// what waits in the queue waits on.
///
/// It holds for the socket in all processes, and for good.
///
/// # Errors
/// What `setsockopt(2)` returns where the system has no filters for sockets.
pub fn leave_out_new_clients(listener: BorrowedFd<'_>) -> io::Result<()> {
    if attach(listener.as_raw_fd()) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The same for a handler of signals; whether it worked.
pub(super) fn attach(listener: RawFd) -> bool {
    let mut filter = WITHOUT_SYN;
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or_default();
    // SAFETY: `program` points to four instructions, which the kernel only reads, before
    // the call returns; an invalid descriptor is an error. It is a system call alone, and
    // so async-signal-safe.
    unsafe {
        libc::setsockopt(
            listener,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        ) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_connected_is_served_and_who_comes_later_waits_outside() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut early = TcpStream::connect(address).unwrap();
        leave_out_new_clients(listener.as_fd()).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(50));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut accepted, _) = listener.accept().unwrap();
        early.write_all(b"request").unwrap();
        let mut request = [0; 7];
        accepted.read_exact(&mut request).unwrap();
        accepted.write_all(&request).unwrap();
        early.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"request");
    }
}
