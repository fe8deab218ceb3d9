//! Socket options that are numbers, and that nix has no names for.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// What may be read as a socket option: any bits are a value of it.
pub(super) trait Numbers: Sized {}
impl Numbers for u8 {}
impl Numbers for u64 {}
impl Numbers for libc::c_int {}
impl Numbers for libc::tcp_info {}

/// Reads a socket option, or the beginning of it. `name` is its level and its number.
///
/// # Errors
/// EINVAL: the kernel knows less of it. ENOPROTOOPT: nothing.
pub(super) fn get<T: Numbers>(fd: BorrowedFd<'_>, name: (libc::c_int, libc::c_int)) -> Result<T, Errno> {
    // SAFETY: all zeros are a value, as any bits are: nothing else is `Numbers`.
    let mut value: T = unsafe { std::mem::zeroed() };
    let size = size_of::<T>() as libc::socklen_t;
    let mut length = size;
    // SAFETY: the kernel writes at most `length` bytes, those of the value to which the pointer points.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), name.0, name.1, (&raw mut value).cast(), &mut length) };
    Errno::result(result)?;
    if length < size { Err(Errno::EINVAL) } else { Ok(value) }
}
