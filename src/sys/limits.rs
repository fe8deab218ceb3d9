//! Resource limits: how many file descriptors this process may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
