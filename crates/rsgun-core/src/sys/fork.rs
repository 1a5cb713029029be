//! Forks, and children that are to be somebody else's.
//!
//! A fork copies the page tables of its process, which takes milliseconds where that is
//! big. The grandchild of a process becomes the child of the nearest subreaper once the
//! process in between has ended; made by two forks, that one would cost a copy, and the
//! removal of that copy before the grandchild has its new parent.
//!
//! So here the process in between has no memory of its own. It is made as `vfork(2)`
//! does it: the child runs in the memory of the parent, on the stack below the parent's
//! frame, and the parent stands still until the child has ended. All that the child does
//! is to call `fork()` of the C library and to leave. To the C library it is the thread
//! that has called: same stack, same thread-local storage, same locks. What `fork()`
//! does to these on the side of its parent is done in the memory of the real one, which
//! goes on with it.
//!
//! For that to be right
//!
//! * nobody else may run in that memory: a process with several threads must not do it.
//!   A library's `pthread_atfork` handler for the parent that starts a thread would
//!   start it in the process in between, which ends.
//! * a process whose helper was killed half-way has to end: a lock may be taken.
//! * the kernel must not have forgotten anything about the grandchild. Of what belongs to
//!   a thread it forgets one thing when memory is shared: where its restartable sequences
//!   (rseq(2)) are. The grandchild asks for them again. Only the C library knows the
//!   place, so all this needs one that tells (glibc 2.35 and later).

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::process::exit_now;

/// Which side of a fork the caller is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In the parent; the child's pid.
    Parent(Pid),
    /// In the child.
    Child,
}

/// How it went to fork a grandchild.
#[derive(Debug)]
pub enum Orphaned {
    /// In the calling process: the grandchild exists, and this is its pid.
    Made(Pid),
    /// In the grandchild.
    Grandchild,
    /// Nothing has happened: the system does not want it done in this way.
    Refused,
    /// The system has no room for one more process.
    Failed(io::Error),
    /// The process in between was killed, the grandchild may exist, and this process has
    /// to end: what it has in memory is in the state of an interrupted fork.
    Torn(WaitStatus),
}

/// Forks without running the fork hooks that libraries have registered with Python.
///
/// Other threads do not exist in the child: what they had locked stays locked there.
///
/// # Errors
/// `EAGAIN` or `ENOMEM` when the system has no room for one more process.
pub fn fork_without_hooks() -> io::Result<Forked> {
    // SAFETY: a fork breaks no memory: the child has a copy of all of it. A lock that
    // another thread holds may block the child, which the callers know to avoid or to
    // warn of (see the documentation above).
    #[expect(clippy::disallowed_methods, reason = "this is the place for it")]
    match unsafe { nix::unistd::fork()? } {
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
    }
}

/// Whether [`fork_orphan`] can be used on this system and with this C library.
#[must_use]
pub fn can_fork_orphan() -> bool {
    shared::Sequences::of_this_thread().is_some()
}

/// Forks a child for the nearest subreaper, with one copy of this process (see above).
/// The only thread of the process must be the caller's.
#[must_use]
pub fn fork_orphan() -> Orphaned {
    let Some(sequences) = shared::Sequences::of_this_thread() else {
        return Orphaned::Refused;
    };
    let between = match shared::fork_within() {
        Ok(Forked::Child) => {
            sequences.register();
            return Orphaned::Grandchild;
        }
        Ok(Forked::Parent(between)) => between,
        Err(_) => return Orphaned::Refused,
    };
    loop {
        // It sends no signal when it ends, so nobody else waits for it.
        match waitpid(between, Some(WaitPidFlag::__WALL)) {
            Err(nix::Error::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Orphaned::Made(shared::grandchild()),
            Ok(WaitStatus::Exited(_, code)) => {
                return Orphaned::Failed(io::Error::from_raw_os_error(code));
            }
            Ok(status) => return Orphaned::Torn(status),
            Err(error) => return Orphaned::Failed(error.into()),
        }
    }
}

/// Tells the pid of a grandchild, in the process in between that is about to end.
///
/// # Errors
/// What `write(2)` returns: nobody waits for it.
pub fn tell_pid(mut pipe: &PipeWriter, pid: Pid) -> io::Result<()> {
    pipe.write_all(&pid.as_raw().to_ne_bytes())
}

/// Hears the pid that [`tell_pid`] has told at the other end, once the process in between
/// has ended. There must be no copy of that end in this process.
///
/// # Errors
/// What `read(2)` returns; `UnexpectedEof` if nothing was told.
pub fn told_pid(mut pipe: PipeReader) -> io::Result<Pid> {
    let mut bytes = [0; size_of::<i32>()];
    pipe.read_exact(&mut bytes)?;
    Ok(Pid::from_raw(i32::from_ne_bytes(bytes)))
}

/// The child without memory of its own, where we know how to make one.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod shared {
    use std::arch::asm;
    use std::io;
    use std::sync::atomic::{AtomicI32, Ordering};

    use nix::unistd::Pid;

    use super::{Forked, exit_now};

    /// What the kernel expects before a handler of an aborted sequence (`RSEQ_SIG`).
    const SIGNATURE: u32 = 0x5305_3053;
    /// The size of the first version of `struct rseq`, and the unit of later ones.
    const LENGTH: u32 = 32;
    /// The value of `cpu_id` that tells the users of the sequences that there are none.
    const REGISTRATION_FAILED: i32 = -2;

    /// What the child leaves behind in the memory that it has borrowed.
    static GRANDCHILD: AtomicI32 = AtomicI32::new(0);

    /// The pid of the grandchild that was made last.
    pub(super) fn grandchild() -> Pid {
        Pid::from_raw(GRANDCHILD.load(Ordering::Relaxed))
    }

    /// Where the C library has the restartable sequences of the calling thread.
    pub(super) struct Sequences {
        area: *mut i32,
        length: u32,
    }

    impl Sequences {
        /// `None` when the C library uses none, or does not tell: others may then.
        pub(super) fn of_this_thread() -> Option<Self> {
            // SAFETY: the names are strings; these symbols are what glibc documents: the
            // offset from the thread pointer, and the size in use. The thread pointer
            // lies at its own address.
            unsafe {
                let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr());
                let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr());
                if offset.is_null() || size.is_null() {
                    return None;
                }
                let size = *size.cast::<libc::c_uint>();
                if size == 0 {
                    return None;
                }
                let thread: *mut u8;
                asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly, preserves_flags));
                Some(Self {
                    area: thread.wrapping_offset(*offset.cast::<isize>()).cast(),
                    length: size.next_multiple_of(LENGTH),
                })
            }
        }

        /// Tells the kernel once more; the users see it when it does not want to know.
        pub(super) fn register(&self) {
            let flags = 0;
            // SAFETY: this thread is a copy of the one whose area it is, which lies at the
            // same address and lives as long.
            let result =
                unsafe { libc::syscall(libc::SYS_rseq, self.area, self.length, flags, SIGNATURE) };
            // A kernel that has not forgotten it says that it is busy.
            if result == -1 && io::Error::last_os_error().raw_os_error() != Some(libc::EBUSY) {
                // SAFETY: inside the area, whose second field this is.
                unsafe { self.area.add(1).write_volatile(REGISTRATION_FAILED) };
            }
        }
    }

    /// Makes the child, waits until it has ended, and returns in the calling process
    /// with its pid, and in the child of that child.
    pub(super) fn fork_within() -> io::Result<Forked> {
        // Without a signal at its end.
        let flags = libc::CLONE_VM | libc::CLONE_VFORK;
        let result: i64;
        // SAFETY: the caller continues after the block with the child's pid, once the
        // child has ended; the grandchild does in its copy of the memory, with 0. For
        // each the block is run once, so the compiler need not know. The child itself
        // never leaves it: it returns from the call as grandchild only. What it writes
        // lies below the stack pointer, where the block may, or belongs to the C
        // library, which is called as by this thread.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "call {fork_and_leave}",
                "2:",
                fork_and_leave = sym fork_and_leave,
                inlateout("rax") libc::SYS_clone => result,
                in("rdi") i64::from(flags),
                // The stack that is in use, and nobody to be told a thread id.
                in("rsi") 0_i64,
                in("rdx") 0_i64,
                in("r10") 0_i64,
                in("r8") 0_i64,
                clobber_abi("C"),
            );
        }
        match i32::try_from(result) {
            Ok(0) => Ok(Forked::Child),
            Ok(pid) if pid > 0 => Ok(Forked::Parent(Pid::from_raw(pid))),
            Ok(error) => Err(io::Error::from_raw_os_error(-error)),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// What the child does: returns in its own child.
    extern "C" fn fork_and_leave() -> i64 {
        // SAFETY: a fork breaks no memory.
        match unsafe { libc::fork() } {
            0 => 0,
            -1 => exit_now(io::Error::last_os_error().raw_os_error().unwrap_or(1)),
            pid => {
                GRANDCHILD.store(pid, Ordering::Relaxed);
                exit_now(0)
            }
        }
    }
}

/// Elsewhere there is none.
#[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
mod shared {
    use std::io;

    use nix::unistd::Pid;

    use super::Forked;

    pub(super) struct Sequences;

    pub(super) fn grandchild() -> Pid {
        Pid::from_raw(0)
    }

    impl Sequences {
        pub(super) fn of_this_thread() -> Option<Self> {
            None
        }

        pub(super) fn register(&self) {}
    }

    pub(super) fn fork_within() -> io::Result<Forked> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
