//! File descriptors through UNIX sockets: SCM_RIGHTS, unix(7).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrLike, UnixAddr, recvmsg, sendmsg,
};

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

/// Sends two datagrams to `address`, the second with duplicates of `fds`, at most [`MOST_AT_ONCE`]: in one system
/// call, so that a SIGKILL comes before or after both. Says how many have left: 1 where there was no room for
/// the second.
///
/// # Errors
/// Nothing has left. EAGAIN, ENOBUFS: the queue is full. Others as sendmsg(2) has them.
pub fn send_both(
    socket: BorrowedFd<'_>,
    address: &UnixAddr,
    texts: [&[u8]; 2],
    fds: &[RawFd],
) -> Result<usize, Errno> {
    let of_rights = size_of_val(fds) as libc::c_uint;
    // SAFETY: it only computes.
    let space = unsafe { libc::CMSG_SPACE(of_rights) } as usize;
    // Aligned as a cmsghdr has to be.
    let mut control = vec![0_u64; space.div_ceil(size_of::<u64>())];
    let mut slices =
        texts.map(|text| libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() });
    let mut headers = slices.each_mut().map(|slice| {
        // SAFETY: all zeros are a header without anything.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = address.len();
        header.msg_hdr.msg_iov = slice;
        header.msg_hdr.msg_iovlen = 1;
        header
    });
    if !fds.is_empty() {
        let second = &mut headers[1].msg_hdr;
        second.msg_control = control.as_mut_ptr().cast();
        second.msg_controllen = space as _;
        // SAFETY: there is room for one header and for `fds` behind it, as CMSG_SPACE said.
        unsafe {
            let rights = libc::CMSG_FIRSTHDR(second);
            (*rights).cmsg_level = libc::SOL_SOCKET;
            (*rights).cmsg_type = libc::SCM_RIGHTS;
            (*rights).cmsg_len = libc::CMSG_LEN(of_rights) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(rights).cast(), fds.len());
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: both headers, and all to which they point, live until the call is over. nix's call gives the same
    // file descriptors to all.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), 2, flags as _) };
    Errno::result(sent).map(|sent| sent as usize)
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
