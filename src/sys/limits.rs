//! Resource limits: how many file descriptors this process may have.

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::close;

use crate::{Error, Result};

/// Raises the soft RLIMIT_NOFILE to the hard one, see getrlimit(2); returns it.
///
/// The soft limit also bounds file descriptors in flight over UNIX sockets (ETOOMANYREFS).
pub fn raise_file_descriptors() -> Result<u64> {
    let failed = |what: &str, errno| Error::system(format!("{what} the limit on file descriptors"), errno);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| failed("reading", e))?;
    // A sandbox may forbid the call where there is nothing to raise.
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|e| failed("raising", e))?;
    }
    Ok(hard)
}

/// Has the kernel make the table of file descriptors large enough for so many at once, or for as many as
/// there may be if that is less. Call it before the first thread is started: a table that grows under
/// threads has each growth wait until all processors have seen it (synchronize_rcu, some 20 ms), and
/// whoever needs a new file descriptor waits with it. Takes 9 bytes of the kernel for each.
///
/// It changes nothing but that: a failure is one of speed, and not told.
pub fn make_room(file_descriptors: u64) {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let highest = i32::try_from(file_descriptors.min(soft)).unwrap_or(i32::MAX) - 1;
    if let Ok(any) = EventFd::new()
        && let Ok(high) = fcntl(&any, FcntlArg::F_DUPFD_CLOEXEC(highest))
    {
        let _ = close(high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_and_nothing_left_open() {
        let size = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line =
                status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap().trim().to_owned();
            line.parse::<u64>().unwrap()
        };
        let most = raise_file_descriptors().unwrap();
        let wanted = most.min(5_000);
        make_room(wanted);
        assert!(size() >= wanted, "{} of {wanted}", size());
        let high = format!("/proc/self/fd/{}", wanted - 1);
        assert!(!std::path::Path::new(&high).exists());
    }
}
