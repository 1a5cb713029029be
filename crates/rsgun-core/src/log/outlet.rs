//! One log, as one process writes to it: a descriptor, and what is known of who reads it.
//!
//! Whoever has waited for a reader in vain does not wait again for ten times as long, so
//! that a reader that takes a little now and then costs a tenth of the time at most. As long as
//! there is room in time, nothing is lost, however slowly it is read.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;

use super::put::{Patience, Unwritten, Way, put};
use crate::scoreboard::now_ms;
use crate::sys::process;

/// Milliseconds before it is said again that a log cannot be written, where some lines can.
const COMPLAINT_MS: u64 = 600_000;
/// How many times its patience somebody does without who has waited in vain.
const REST: u64 = 10;

pub(super) struct Outlet {
    fd: OwnedFd,
    /// A [`Way`].
    way: AtomicU8,
    is_terminal: AtomicBool,
    /// When it was last said that it cannot be written; 0: not of this file.
    complained_ms: AtomicU64,
    /// Lines for which there was no room, and of which nobody has been told.
    lost: AtomicU64,
    /// Until when nobody waits for room; 0: it was not waited for in vain lately.
    rests_until_ms: AtomicU64,
    /// The last line that was written broke off.
    broke_off: AtomicBool,
}

impl Outlet {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            way: AtomicU8::new(Way::of(fd.as_fd()) as u8),
            is_terminal: AtomicBool::new(fd.is_terminal()),
            fd,
            complained_ms: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            rests_until_ms: AtomicU64::new(0),
            broke_off: AtomicBool::new(false),
        }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal.load(Relaxed)
    }

    /// Leads to another file from now on.
    pub(super) fn replace(&self, fd: &OwnedFd) {
        if let Err(error) = process::redirect(self.fd.as_fd(), fd.as_fd()) {
            tracing::error!("cannot change to another log file: {error}");
        }
        self.way.store(Way::of(fd.as_fd()) as u8, Relaxed);
        self.is_terminal.store(fd.is_terminal(), Relaxed);
        self.complained_ms.store(0, Relaxed);
        self.rests_until_ms.store(0, Relaxed);
        self.broke_off.store(false, Relaxed);
    }

    /// In a process that was just forked: what its parent has lost is told by that.
    pub(super) fn begin_anew(&self) {
        self.lost.store(0, Relaxed);
        self.rests_until_ms.store(0, Relaxed);
    }

    /// How long to wait now for room, over several writes.
    pub(super) fn patience(&self) -> Patience {
        let rests_until = self.rests_until_ms.load(Relaxed);
        if rests_until == 0 {
            return Patience::usual();
        }
        if now_ms() < rests_until {
            return Patience::none();
        }
        self.rests_until_ms.store(0, Relaxed);
        Patience::usual()
    }

    /// Writes lines, or counts them as lost. A log that cannot be written (full disk, closed
    /// terminal, a pipe that nobody reads) must not stop the server.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub(super) fn write(&self, lines: &[u8], patience: &mut Patience) -> Result<(), Errno> {
        let broke_off = self.broke_off.swap(false, Relaxed);
        let written = if broke_off {
            self.put(&[b"\n", lines].concat(), patience)
        } else {
            self.put(lines, patience)
        };
        let Err(Unwritten { error, written }) = written else {
            return Ok(());
        };
        let done = &lines[..written.saturating_sub(usize::from(broke_off))];
        let is_whole = done
            .last()
            .map_or(!broke_off || written > 0, |last| *last == b'\n');
        self.broke_off.store(!is_whole, Relaxed);
        if error == Errno::EAGAIN {
            self.count_lost(lines_in(&lines[done.len()..]));
            let rest = u64::from(patience.span_ms()) * REST;
            if rest > 0 {
                self.rests_until_ms.store(now_ms() + rest, Relaxed);
            }
        }
        Err(error)
    }

    fn put(&self, bytes: &[u8], patience: &mut Patience) -> Result<(), Unwritten> {
        let way = Way::from_number(self.way.load(Relaxed));
        put(self.fd.as_fd(), way, bytes, self.is_terminal(), patience)
    }

    /// How many lines were lost that nobody has been told of; whoever asks is to tell it.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }

    /// Adds lines that have found no room.
    pub(super) fn count_lost(&self, lines: u64) {
        self.lost.fetch_add(lines, Relaxed);
    }

    /// Whether it is time to say that this log cannot be written. Once it is said, it is not
    /// for a while.
    pub(super) fn may_complain(&self) -> bool {
        let now = now_ms().max(1);
        let last = self.complained_ms.load(Relaxed);
        let is_time = last == 0 || now.saturating_sub(last) >= COMPLAINT_MS;
        if is_time {
            self.complained_ms.store(now, Relaxed);
        }
        is_time
    }
}

/// How many lines these bytes are the rest of.
pub(super) fn lines_in(bytes: &[u8]) -> u64 {
    let ends = bytes.split(|byte| *byte == b'\n').count() - 1;
    u64::try_from(ends).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(outlet: &Outlet, lines: &[u8]) -> Result<(), Errno> {
        outlet.write(lines, &mut Patience::none())
    }

    #[test]
    fn what_broke_off_does_not_run_into_the_next_line() {
        let (mut reader, pipe) = std::io::pipe().unwrap();
        let outlet = Outlet::new(pipe.into());
        let long = [&b"x".repeat(1 << 20), &b"\nlast\n"[..]].concat();
        assert_eq!(write(&outlet, &long), Err(Errno::EAGAIN));
        assert_eq!(write(&outlet, b"lost\n"), Err(Errno::EAGAIN));
        assert_eq!(outlet.take_lost(), 3);
        let mut shown = vec![0; 1 << 16];
        std::io::Read::read_exact(&mut reader, &mut shown).unwrap();
        assert_eq!(write(&outlet, b"next\n"), Ok(()));
        let count = std::io::Read::read(&mut reader, &mut shown).unwrap();
        assert_eq!(&shown[..count], b"\nnext\n");
        assert_eq!(outlet.take_lost(), 0);
    }

    #[test]
    fn who_has_waited_in_vain_does_not_wait_again_soon() {
        let (_reader, pipe) = std::io::pipe().unwrap();
        let outlet = Outlet::new(pipe.into());
        while write(&outlet, &[b'\n'; 4096]).is_ok() {}
        assert!(outlet.patience().span_ms() > 0);
        let began = now_ms();
        assert!(outlet.write(b"lost\n", &mut outlet.patience()).is_err());
        assert!(now_ms() - began >= 999);
        assert_eq!(outlet.patience().span_ms(), 0);
        outlet.begin_anew();
        assert!(outlet.patience().span_ms() > 0);
    }
}
