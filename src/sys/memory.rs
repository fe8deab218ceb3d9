//! Memory in a file that outlives the process: memfd_create(2), mapped shared.

use std::ffi::CStr;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// What a mapping begins at a multiple of: the page size of every machine divides it.
pub const PAGE: u64 = 64 << 10;

/// An empty, close-on-exec memory file.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn new_file(name: &CStr) -> Result<OwnedFd, Errno> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
}

/// A part of a memory file, as words that are read and written while other threads and processes do
/// the same. What is stored is there for whoever maps the file next, however this process ends.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: a mapping is nothing but shared atomic words; it may be used and unmapped by any thread.
unsafe impl Send for Mapping {}
// SAFETY: the same.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `words` words of `file` from `offset` on, a multiple of [`PAGE`]; the file grows where it
    /// is shorter, and can never be shortened again (F_SEAL_SHRINK), by nobody: a mapping without
    /// memory below it would be fatal (SIGBUS).
    ///
    /// # Errors
    /// EPERM: the file cannot be sealed, or not be written to. EINVAL: it is no memory file. ENOMEM,
    /// ENOSPC, EFBIG.
    pub fn new(file: BorrowedFd<'_>, offset: u64, words: usize) -> Result<Mapping, Errno> {
        let length = words * size_of::<AtomicU64>();
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let end = offset.checked_add(length as libc::off_t).ok_or(Errno::EFBIG)?;
        let as_file = File::from(file.try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
        let current = as_file.metadata().map_err(|_| Errno::EBADF)?.len();
        if current < end as u64 {
            as_file.set_len(end as u64).map_err(|_| Errno::EPERM)?;
        }
        let seals = fcntl(file, FcntlArg::F_GET_SEALS)?;
        if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) {
            fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
        }
        let length = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping that the kernel places where nothing is, over memory that is there
        // and, sealed, stays there. There is no safe way to have memory that outlives the process.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, offset)? };
        Ok(Mapping { start: start.cast(), words })
    }

    /// All of it.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many words, is aligned to a page, and lives as long as `self`.
        // Other processes may write to it too, which is what atomics are for; any bits are a u64.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and whole, and `self` was the last to use it.
        let _ = unsafe { munmap(self.start.cast(), self.words * size_of::<AtomicU64>()) };
    }
}

/// Gives back the memory of a part of a file, which then reads as zeros.
///
/// # Errors
/// That of fallocate(2); the memory is kept then.
pub fn release(file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<(), Errno> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file.as_fd(), flags, offset as libc::off_t, length as libc::off_t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_is_stored_is_in_the_file() {
        let file = new_file(c"drained-test").unwrap();
        let mapping = Mapping::new(file.as_fd(), PAGE, 16).unwrap();
        mapping.words()[3].store(7, Relaxed);
        let again = Mapping::new(file.as_fd(), PAGE, 16).unwrap();
        drop(mapping);
        assert_eq!(again.words()[3].load(Relaxed), 7);
        // Nobody takes the memory away from below a mapping.
        assert!(File::from(file.try_clone().unwrap()).set_len(0).is_err());
        release(file.as_fd(), PAGE, 128).unwrap();
        assert_eq!(again.words()[3].load(Relaxed), 0);
    }

    #[test]
    fn what_is_no_memory_file_is_refused() {
        let file = File::open("/dev/zero").unwrap();
        assert!(Mapping::new(file.as_fd(), 0, 16).is_err());
        let sealed = new_file(c"drained-test").unwrap();
        fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL)).unwrap();
        assert!(Mapping::new(sealed.as_fd(), 0, 16).is_err());
    }
}
