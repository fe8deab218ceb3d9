//! File descriptors through UNIX sockets: SCM_RIGHTS, unix(7).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most that the kernel takes in one message: SCM_MAX_FD.
pub const MOST_AT_ONCE: usize = 253;

/// Sends duplicates of `fds`, at most [`MOST_AT_ONCE`], with one byte.
///
/// # Errors
/// EAGAIN: the queue is full. ETOOMANYREFS: more in flight than RLIMIT_NOFILE.
pub fn send(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"\n")], &rights, flags, None).map(drop)
}

/// Begins a walk through the queue of `socket` at its head: SO_PEEK_OFF, socket(7).
pub fn start_walk(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_peek_offset(socket, 0)
}

/// Ends a walk: a look at the queue begins at its head again.
pub fn stop_walk(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_peek_offset(socket, -1)
}

fn set_peek_offset(socket: BorrowedFd<'_>, offset: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the kernel reads one int, to which the pointer points for the whole call. nix has no
    // such option.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            size_of_val(&offset) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Takes the first message off the queue and closes what is in it.
///
/// # Errors
/// EAGAIN: the queue is empty.
pub fn discard(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    // Without room for them the kernel closes the file descriptors: MSG_CTRUNC, unix(7).
    recvmsg::<()>(socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT).map(drop)
}

/// Duplicates of the file descriptors in the next message of the walk, close-on-exec; they stay in the
/// queue too. None: the walk is over.
///
/// # Errors
/// EMFILE: this process had no room for all of them (MSG_CTRUNC).
pub fn walk(socket: BorrowedFd<'_>) -> Result<Option<Vec<OwnedFd>>, Errno> {
    let mut byte = [0];
    let mut control = nix::cmsg_space!([RawFd; MOST_AT_ONCE]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_PEEK;
    let message = match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let fds = owned(message.cmsgs()?);
    match message.bytes {
        _ if message.flags.contains(MsgFlags::MSG_CTRUNC) => Err(Errno::EMFILE),
        // The other end is gone, and with it nothing.
        0 if fds.is_empty() => Ok(None),
        _ => Ok(Some(fds)),
    }
}

/// The next datagram or piece of a stream in `buffer`: how many bytes of it, and the file descriptors
/// that came with it, close-on-exec.
///
/// # Errors
/// EAGAIN: there is none, and `flags` say not to wait. EMFILE: no room for all of them (MSG_CTRUNC).
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut control = nix::cmsg_space!([RawFd; MOST_AT_ONCE]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let fds = owned(message.cmsgs()?);
    match message.flags.contains(MsgFlags::MSG_CTRUNC) {
        true => Err(Errno::EMFILE),
        false => Ok((message.bytes, fds)),
    }
}

/// The file descriptors that came with one message.
fn owned(items: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    for item in items {
        if let ControlMessageOwned::ScmRights(numbers) = item {
            // SAFETY: the kernel has just installed these descriptors for this message; nobody else
            // owns them.
            fds.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    fds
}
