//! Writing bytes to a log that may be a file, a pipe, a socket, or a terminal.
//!
//! Whoever reads a pipe may stop reading, and then a write waits. A worker may do that,
//! it slows down whoever is served; the master must not: it would hear no signal and
//! look after nobody. So it never waits ([`never_wait`]) for longer than a moment, and
//! what finds no room is lost. The descriptor itself cannot be told so, for it is shared
//! with the workers, and with whoever has started the server.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::write;

use crate::sys::signals::HeldBack;

/// How long a process that never waits waits for room after all, milliseconds.
pub(super) const PATIENCE_MS: u8 = 100;
/// For one that has waited in vain before.
pub(super) const NONE_MS: u8 = 0;

static NEVER_WAITS: AtomicBool = AtomicBool::new(false);

/// From now on nobody who reads what this process writes can hold it up.
pub fn never_wait() {
    NEVER_WAITS.store(true, Relaxed);
}

/// Writes all of it, to a terminal if that is said.
///
/// # Errors
/// `EAGAIN` when there is no room for it within `patience_ms` and this process never waits;
/// else what `write(2)` returns. A part may have been written.
pub(super) fn put(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    is_terminal: bool,
    patience_ms: u8,
) -> nix::Result<()> {
    // In the background SIGTTOU would interrupt a write to a terminal, and its handler have
    // it begun anew, for ever. Fails only for an invalid argument.
    let _held_back = is_terminal
        .then(HeldBack::for_terminal)
        .and_then(Result::ok);
    let patience = NEVER_WAITS.load(Relaxed).then_some(patience_ms);
    put_within(fd, bytes, patience)
}

fn put_within(fd: BorrowedFd<'_>, mut bytes: &[u8], patience_ms: Option<u8>) -> nix::Result<()> {
    while !bytes.is_empty() {
        let written = match patience_ms {
            Some(patience_ms) => write_soon(fd, bytes, patience_ms),
            None => write(fd, bytes),
        };
        match written {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes what there is room for.
fn write_soon(fd: BorrowedFd<'_>, bytes: &[u8], patience_ms: u8) -> nix::Result<usize> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    if !matches!(kind, SFlag::S_IFIFO | SFlag::S_IFSOCK | SFlag::S_IFCHR) {
        return write(fd, bytes);
    }
    let mut source = [PollFd::new(fd, PollFlags::POLLOUT)];
    if poll(&mut source, PollTimeout::from(patience_ms))? == 0 {
        return Err(Errno::EAGAIN);
    }
    // Others write to it, too, and may take the room meanwhile.
    if kind == SFlag::S_IFSOCK {
        return send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT);
    }
    let place = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let options = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match nix::fcntl::open(place.as_str(), options, Mode::empty()) {
        Ok(own) => write(own.as_fd(), bytes),
        // Another user's, or nobody reads it any more.
        Err(_) => write(fd, bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_finds_no_room_is_given_up() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let (_peer, socket) = UnixStream::pair().unwrap();
        for fd in [pipe.as_fd(), socket.as_fd()] {
            let line = [b'x'; 4096];
            let mut room = 0;
            let error = loop {
                match put_within(fd, &line, Some(NONE_MS)) {
                    Ok(()) => room += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, Errno::EAGAIN);
            assert!(room > 1, "{room}");
        }
        nix::unistd::read(&reader, &mut [0; 8192]).unwrap();
        put_within(pipe.as_fd(), b"again", Some(NONE_MS)).unwrap();
    }

    #[test]
    fn who_is_patient_writes_all() {
        let writes_all = |bytes: &[u8]| {
            let (reader, pipe) = nix::unistd::pipe().unwrap();
            let thread = std::thread::spawn(move || {
                while nix::unistd::read(&reader, &mut [0; 8192]).unwrap() > 0 {}
            });
            let written = put_within(pipe.as_fd(), bytes, Some(u8::MAX));
            drop(pipe);
            thread.join().unwrap();
            written
        };
        // The machine may keep the reader from its work for longer than all patience.
        let bytes = vec![b'x'; 1 << 20];
        assert!((0..5).any(|_| writes_all(&bytes).is_ok()));
    }
}
