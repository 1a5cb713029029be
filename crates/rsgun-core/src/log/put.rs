//! Writing bytes to a log that may be a file, a pipe, a socket, or a terminal.
//!
//! Whoever reads a pipe may stop reading: a pager, a collector that hangs. A write would
//! wait for that reader for ever, and with it a master that hears no signal, or a worker and
//! all its clients. So nobody waits for longer than its [`Patience`], and what finds no room
//! is lost. It costs nothing as long as there is room: then the one write is all.
//!
//! A descriptor that was inherited cannot simply be told not to wait: `O_NONBLOCK` belongs to
//! the open file, which whoever has started the server has as well, and the application's own
//! output. So a pipe or a terminal is [opened anew](opened_anew), for the server alone. It
//! cannot be where it is another user's; what is to be done with a descriptor then is its
//! [`Way`].

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{isatty, pipe2, write};

use super::access::PIPE_BUF;
use crate::scoreboard::now_ms;
use crate::sys::no_wait::write_now;
use crate::sys::signals::HeldBack;

/// How long a process waits for room, milliseconds.
const PATIENCE_MS: u16 = 1000;
/// The same for the master.
const MASTER_PATIENCE_MS: u16 = 100;

static PATIENCE: AtomicU16 = AtomicU16::new(PATIENCE_MS);

/// From now on this process, the master, waits for nobody for longer than a moment.
pub fn hurry() {
    PATIENCE.store(MASTER_PATIENCE_MS, Relaxed);
}

/// How long to wait for room, over several writes.
#[derive(Debug)]
pub(super) struct Patience {
    span_ms: u16,
    /// Since when there was none; no clock is asked before.
    ends_at_ms: Option<u64>,
}

impl Patience {
    /// That of this process.
    pub(super) fn usual() -> Self {
        Self::of(PATIENCE.load(Relaxed))
    }

    /// That of somebody who has waited in vain lately.
    pub(super) fn none() -> Self {
        Self::of(0)
    }

    fn of(span_ms: u16) -> Self {
        Self {
            span_ms,
            ends_at_ms: None,
        }
    }

    /// How long it lasts, milliseconds.
    pub(super) fn span_ms(&self) -> u16 {
        self.span_ms
    }

    /// How much of it is left, milliseconds; the first question begins it.
    fn left_ms(&mut self) -> u16 {
        if self.span_ms == 0 {
            return 0;
        }
        let now = now_ms();
        let ends_at = *(self.ends_at_ms).get_or_insert_with(|| now + u64::from(self.span_ms));
        u16::try_from(ends_at.saturating_sub(now)).unwrap_or_default()
    }
}

/// What to do with a descriptor so that a write to it does not wait for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Way {
    /// Just write: nobody reads a file, or the descriptor does not wait.
    Write,
    /// A socket takes the wish with each message.
    Send,
    /// A pipe that is shared takes it with each write, or else is spliced to.
    Pipe,
    /// A terminal that is shared is looked at before, which is all that can be done.
    Look,
}

impl Way {
    const ALL: [Self; 4] = [Self::Write, Self::Send, Self::Pipe, Self::Look];

    /// That of this descriptor.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Self {
        let waits = fcntl(fd, FcntlArg::F_GETFL)
            .is_ok_and(|flags| !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
        match kind(fd) {
            Some(SFlag::S_IFSOCK) => Self::Send,
            Some(SFlag::S_IFIFO) if waits => Self::Pipe,
            Some(SFlag::S_IFCHR) if waits && is_terminal(fd) => Self::Look,
            _ => Self::Write,
        }
    }

    /// The one of this number.
    pub(super) fn from_number(number: u8) -> Self {
        let way = Self::ALL.get(usize::from(number));
        way.copied().unwrap_or(Self::Look)
    }
}

fn kind(fd: BorrowedFd<'_>) -> Option<SFlag> {
    let mode = SFlag::from_bits_truncate(fstat(fd).ok()?.st_mode);
    Some(mode & SFlag::S_IFMT)
}

fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    isatty(fd).unwrap_or(false)
}

/// The same pipe or terminal, as an open file that nobody else has and that does not wait;
/// `None` for anything else, and where that is not allowed.
pub(super) fn opened_anew(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let may_fill = match kind(fd)? {
        SFlag::S_IFIFO => true,
        SFlag::S_IFCHR => is_terminal(fd),
        _ => false,
    };
    let place = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let open = || nix::fcntl::open(place.as_str(), flags, Mode::empty()).ok();
    may_fill.then(open).flatten()
}

/// Bytes that were not written, or not all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unwritten {
    /// Why; `EAGAIN` when there was no room in time.
    pub(super) error: Errno,
    /// How many of them were.
    pub(super) written: usize,
}

/// Writes all of it, to a terminal if that is said.
///
/// # Errors
/// [`Unwritten`].
pub(super) fn put(
    fd: BorrowedFd<'_>,
    way: Way,
    bytes: &[u8],
    is_terminal: bool,
    patience: &mut Patience,
) -> Result<(), Unwritten> {
    // In the background SIGTTOU would interrupt a write to a terminal, and its handler have
    // it begun anew, for ever. Fails only for an invalid argument.
    let _held_back = is_terminal
        .then(HeldBack::for_terminal)
        .and_then(Result::ok);
    let mut written = 0;
    while written < bytes.len() {
        let tried = match try_write(fd, way, &bytes[written..]) {
            Ok(count) => {
                written += count;
                continue;
            }
            Err(Errno::EAGAIN) => wait_for_room(fd, patience),
            Err(error) => Err(error),
        };
        match tried {
            Ok(()) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Unwritten { error, written }),
        }
    }
    Ok(())
}

/// Writes what there is room for.
fn try_write(fd: BorrowedFd<'_>, way: Way, bytes: &[u8]) -> nix::Result<usize> {
    match way {
        Way::Write => write(fd, bytes),
        Way::Send => {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            send(fd.as_raw_fd(), bytes, flags)
        }
        Way::Pipe => match write_now(fd, bytes) {
            Err(error) if !says_of_pipe(error) => match splice_to(fd, bytes) {
                Err(error) if !says_of_pipe(error) => look_and_write(fd, bytes),
                spliced => spliced,
            },
            written => written,
        },
        Way::Look => look_and_write(fd, bytes),
    }
}

/// Whether an error is about the pipe, not about how it was written to.
fn says_of_pipe(error: Errno) -> bool {
    matches!(error, Errno::EAGAIN | Errno::EINTR | Errno::EPIPE)
}

/// Writes to a pipe by way of one of our own, which is empty and so takes a page at once:
/// splicing has a flag of its own for not waiting.
fn splice_to(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let page = &bytes[..bytes.len().min(PIPE_BUF)];
    let (out_of, into) = pipe2(OFlag::O_CLOEXEC)?;
    let length = write(into, page)?;
    splice(
        out_of,
        None,
        fd,
        None,
        length,
        SpliceFFlags::SPLICE_F_NONBLOCK,
    )
}

/// Writes where there is room. Somebody else may take it in between, and more bytes than it
/// takes wait.
fn look_and_write(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let mut source = [PollFd::new(fd, PollFlags::POLLOUT)];
    match poll(&mut source, PollTimeout::ZERO)? {
        0 => Err(Errno::EAGAIN),
        _ => write(fd, &bytes[..bytes.len().min(PIPE_BUF)]),
    }
}

/// Waits until there seems to be room.
fn wait_for_room(fd: BorrowedFd<'_>, patience: &mut Patience) -> nix::Result<()> {
    let left = patience.left_ms();
    let mut source = [PollFd::new(fd, PollFlags::POLLOUT)];
    if left == 0 || poll(&mut source, PollTimeout::from(left))? == 0 {
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Writes lines until one finds no room; how many were written, and the last result.
    fn fill(fd: BorrowedFd<'_>, way: Way) -> (usize, Unwritten) {
        let line = [b'x'; PIPE_BUF];
        for count in 0.. {
            if let Err(unwritten) = put(fd, way, &line, false, &mut Patience::none()) {
                return (count, unwritten);
            }
        }
        unreachable!()
    }

    #[test]
    fn what_finds_no_room_is_given_up_whole() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let (_peer, socket) = UnixStream::pair().unwrap();
        let own = opened_anew(pipe.as_fd()).unwrap();
        assert_eq!(Way::of(own.as_fd()), Way::Write);
        assert_eq!(Way::of(pipe.as_fd()), Way::Pipe);
        assert_eq!(Way::of(socket.as_fd()), Way::Send);
        for fd in [own.as_fd(), pipe.as_fd(), socket.as_fd()] {
            let (count, unwritten) = fill(fd, Way::of(fd));
            assert_eq!(unwritten.error, Errno::EAGAIN);
            assert_eq!(unwritten.written, 0);
            assert!(count > 0 || fd.as_raw_fd() == pipe.as_raw_fd(), "{count}");
        }
        for way in [Way::Pipe, Way::Look] {
            nix::unistd::read(&reader, &mut [0; 2 * PIPE_BUF]).unwrap();
            let (count, unwritten) = fill(pipe.as_fd(), way);
            assert_eq!((count, unwritten.written), (2, 0), "{way:?}");
        }
        nix::unistd::read(&reader, &mut [0; PIPE_BUF]).unwrap();
        assert_eq!(splice_to(pipe.as_fd(), b"spliced"), Ok(7));
        assert_eq!(splice_to(pipe.as_fd(), b"no room"), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_part_is_told() {
        let (_reader, pipe) = nix::unistd::pipe().unwrap();
        let bytes = vec![b'x'; 1 << 20];
        let mut patience = Patience::none();
        let unwritten = put(pipe.as_fd(), Way::Pipe, &bytes, false, &mut patience).unwrap_err();
        assert!(unwritten.written > 0, "{unwritten:?}");
    }

    #[test]
    fn who_is_patient_writes_all() {
        let writes_all = |bytes: &[u8]| {
            let (reader, pipe) = nix::unistd::pipe().unwrap();
            let thread = std::thread::spawn(move || {
                while nix::unistd::read(&reader, &mut [0; 8192]).unwrap() > 0 {}
            });
            let mut patience = Patience::of(u16::MAX);
            let written = put(pipe.as_fd(), Way::Pipe, bytes, false, &mut patience);
            drop(pipe);
            thread.join().unwrap();
            written
        };
        assert_eq!(writes_all(&vec![b'x'; 1 << 20]), Ok(()));
    }

    #[test]
    fn patience_ends_over_several_writes() {
        let (_reader, pipe) = nix::unistd::pipe().unwrap();
        let _ = fill(pipe.as_fd(), Way::Pipe);
        let mut patience = Patience::of(50);
        let before = now_ms();
        for _ in 0..100 {
            let unwritten = put(pipe.as_fd(), Way::Pipe, b"x", false, &mut patience);
            assert!(unwritten.is_err());
        }
        let took = now_ms() - before;
        assert!((49..2000).contains(&took), "{took}");
    }
}
