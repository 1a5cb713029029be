//! Shared memory that neither side can pull away from the other.
//!
//! A [`SharedFile`] is a memory file sealed against shrinking and growing: a
//! process that truncates it gets an error instead of giving the others SIGBUS.

use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::roster::Roster;
use crate::scoreboard::Scoreboard;

/// Types that are valid for any bytes and may be shared between processes.
///
/// # Safety
/// Implementors consist of atomics only (`repr(C)`, no padding that matters, no
/// pointers), so that every bit pattern is valid, all access is atomic, and zeroed
/// memory is the initial state.
pub unsafe trait Shareable: Sync {}

// SAFETY: `repr(C)`, atomics and arrays of atomics only, and zero is its start.
unsafe impl Shareable for Scoreboard {}
// SAFETY: the same; the padding of its seats is never read.
unsafe impl Shareable for Roster {}

/// A mapping of a sealed memory file that holds one `T`.
#[derive(Debug)]
pub struct Shared<T: Shareable> {
    address: NonNull<T>,
    file: OwnedFd,
    marker: PhantomData<T>,
}

// SAFETY: the mapping is only reached through `&T`, `T` is `Sync` by the bound of
// `Shareable`, and unmapping from another thread is sound.
unsafe impl<T: Shareable> Send for Shared<T> {}
// SAFETY: as above, only `&T` is handed out.
unsafe impl<T: Shareable> Sync for Shared<T> {}

impl<T: Shareable> Shared<T> {
    /// Makes a new zeroed memory file of the size of `T`, sealed, and maps it.
    ///
    /// # Errors
    /// What `memfd_create(2)`, `ftruncate(2)`, `fcntl(2)` or `mmap(2)` return.
    pub fn create(name: &std::ffi::CStr) -> io::Result<Self> {
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let size = libc::off_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        nix::unistd::ftruncate(&file, size)?;
        fcntl(
            &file,
            FcntlArg::F_ADD_SEALS(
                SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL,
            ),
        )?;
        Self::map(file)
    }

    /// Maps a memory file that another process has made with [`Shared::create`].
    ///
    /// # Errors
    /// `InvalidData` when the file is smaller than `T` or could shrink, else what
    /// `mmap(2)` returns.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        let size = nix::sys::stat::fstat(&file)?.st_size;
        if !seals.contains(SealFlag::F_SEAL_SHRINK)
            || usize::try_from(size).map_or(true, |size| size < size_of::<T>())
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "shared memory is not sealed or too small",
            ));
        }
        Self::map(file)
    }

    fn map(file: OwnedFd) -> io::Result<Self> {
        let size = NonZeroUsize::new(size_of::<T>())
            .ok_or_else(|| io::Error::other("nothing to share"))?;
        // SAFETY: a fresh mapping at an address that the kernel picks aliases nothing;
        // the file is at least `size` bytes and sealed against shrinking.
        let address = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &file,
                0,
            )?
        };
        Ok(Self {
            address: address.cast(),
            file,
            marker: PhantomData,
        })
    }

    /// The memory file, to be handed to another process.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<T: Shareable> std::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping lives as long as `self`, is page-aligned, large enough,
        // and every bit pattern is a valid `T` (contract of `Shareable`).
        unsafe { self.address.as_ref() }
    }
}

impl<T: Shareable> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: address and size are those of our own mapping, and `self` was the
        // only way to reach it. Failure would leave it mapped, which is harmless.
        let _ = unsafe { munmap(self.address.cast(), size_of::<T>()) };
    }
}
