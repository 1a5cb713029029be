//! One program taking the place of another: descriptors and a note that pass over an
//! exec.
//!
//! All descriptors of this project are close-on-exec. The few that a successor is to
//! have are duplicated without that mark ([`inheritable`]), and their numbers are written
//! down for it; it takes them over with [`claim`]. The kernel keeps blocked signals
//! waiting over the exec, so nothing is lost between the handlers of the old program and
//! those of the new one ([`let_signals_in`](super::signals::let_signals_in)).

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// Copies for a successor get numbers from here up: those below may have a meaning.
const FIRST_COPY: RawFd = 64;

/// Takes a variable out of the environment of this process, so that no child gets it.
///
/// Call it before any other thread exists.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "called first in `main`, where no other thread can read the environment"
)]
pub fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: by the contract of this function there is no other thread.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// A copy of a descriptor that stays open over an exec.
///
/// # Errors
/// `EMFILE` when no descriptor is left.
pub fn inheritable(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD makes a new descriptor and touches no memory.
    let number = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, FIRST_COPY) };
    if number == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes ownership of a descriptor that the program before has left open over the exec.
/// It stays open over the next one too, for a way back.
///
/// # Errors
/// `EBADF` when nothing is open there, or when it is close-on-exec and so belongs to
/// this program.
pub fn claim(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only tells about a number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    if number <= 2 || flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and since all that this program opens is close-on-exec, it was
    // left by the program before, for whoever reads its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor of the program that this process runs, which stays that program when the
/// file is replaced.
///
/// # Errors
/// What `open(2)` returns.
pub fn own_program() -> io::Result<OwnedFd> {
    // A program may be executable and yet not readable.
    let options = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open("/proc/self/exe", options, Mode::empty())?)
}

/// Runs another program in this process, with the environment of this one and one more
/// variable. Returns only if that fails, with the reason.
#[must_use]
pub fn exec(
    program: BorrowedFd<'_>,
    arguments: &[OsString],
    variable: &str,
    value: &OsStr,
) -> io::Error {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
    let pair = |name: &OsStr, value: &OsStr| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        text(bytes)
    };
    let arguments: Result<Vec<_>, _> = arguments
        .iter()
        .map(|argument| text(argument.clone().into_vec()))
        .collect();
    let environment: Result<Vec<_>, _> = std::env::vars_os()
        .filter(|(name, _)| name != variable)
        .map(|(name, value)| pair(&name, &value))
        .chain([pair(OsStr::new(variable), value)])
        .collect();
    match (arguments, environment) {
        (Ok(arguments), Ok(environment)) => {
            match nix::unistd::fexecve(program, &arguments, &environment) {
                Ok(never) => match never {},
                Err(error) => error.into(),
            }
        }
        (Err(error), _) | (_, Err(error)) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn only_what_the_program_before_has_left_can_be_claimed() {
        let file = File::open("/dev/null").unwrap();
        assert!(claim(file.as_raw_fd()).is_err(), "close-on-exec");
        assert!(claim(999_999).is_err(), "not open");
        assert!(claim(1).is_err(), "a standard stream");
        let copy = inheritable(file.as_fd()).unwrap();
        let number = copy.as_raw_fd();
        assert_eq!(std::os::fd::IntoRawFd::into_raw_fd(copy), number);
        assert_eq!(claim(number).unwrap().as_raw_fd(), number);
    }
}
