//! Becoming another user, for good.

use std::io;

use serde::{Deserialize, Serialize};

/// A user with its groups, as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

/// Makes this process that user, in a way that cannot be taken back.
///
/// Groups go first: the right to change them goes with the user. All three ids of
/// each kind are set, all capabilities go unless the user is root, and afterwards it is
/// tried whether the old user can be had again. Allocates nothing, so it may be called between fork and exec.
///
/// # Errors
/// `EPERM` without the right to; what `setgroups(2)`, `setresgid(2)`, `setresuid(2)` and
/// `capset(2)` return.
pub fn assume(credentials: &Credentials) -> io::Result<()> {
    // SAFETY: getuid only returns a number.
    let before = unsafe { libc::getuid() };
    // SAFETY: the pointer and the length are those of a vector that lives here; the
    // other calls take numbers.
    let failed = unsafe {
        libc::setgroups(credentials.groups.len(), credentials.groups.as_ptr()) == -1
            || libc::setresgid(credentials.gid, credentials.gid, credentials.gid) == -1
            || libc::setresuid(credentials.uid, credentials.uid, credentials.uid) == -1
    };
    if failed || credentials.uid != 0 && !drop_capabilities() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes a number; that it fails is what is hoped for.
    if before != credentials.uid && unsafe { libc::setresuid(before, before, before) } != -1 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

/// Gives up every capability. The kernel does so itself only when root becomes somebody
/// else, not when a user does that has the capability to.
fn drop_capabilities() -> bool {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    // Effective, permitted and inheritable ones, in two parts.
    let nothing = [0_u32; 6];
    // SAFETY: both pointers are to what the kernel expects for this version, and live
    // here.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, nothing.as_ptr()) };
    result == 0
}
