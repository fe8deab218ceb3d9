//! The pristine roots that containers boot from: made once a machine with debootstrap.
//!
//! Invariant: a root that stands under its final name is whole, and nobody writes to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

/// What every root has beside the minimal system.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,libpam-systemd,curl,python3-minimal";

const SERVERS: &str = ",python3,nginx-light,redis-server,postgresql";

/// A release of Debian with its systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
    /// Debian 12 with rpm(8), which does there what it does on a distribution of its own.
    BookwormRpm,
    /// Debian 12 with the proxies that drained is compared to.
    #[allow(dead_code, reason = "the benchmark's, which shares this file")]
    BookwormProxies,
    /// Debian 12 with servers to restart behind drained.
    BookwormServers,
    /// The same of Debian 13.
    TrixieServers,
}

impl Release {
    /// The root of this release; the first caller on a machine makes it.
    pub fn root(self) -> PathBuf {
        let (name, suite, more) = match self {
            Release::Bookworm => ("bookworm", "bookworm", ""),
            Release::Trixie => ("trixie", "trixie", ""),
            Release::BookwormRpm => ("bookworm-rpm", "bookworm", ",rpm"),
            Release::BookwormProxies => {
                ("bookworm-proxies", "bookworm", ",haproxy,nginx-light,libnginx-mod-stream")
            }
            Release::BookwormServers => ("bookworm-servers", "bookworm", SERVERS),
            Release::TrixieServers => ("trixie-servers", "trixie", SERVERS),
        };
        let root = cache().join(name);
        let _lock = lock(&cache());
        if !root.exists() {
            make(&root, suite, &format!("{PACKAGES}{more}"));
        }
        root
    }
}

/// Where the roots are kept: $DRAINED_TEST_CACHE, or /var/cache/drained-tests.
pub fn cache() -> PathBuf {
    std::env::var_os("DRAINED_TEST_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/drained-tests"), PathBuf::from)
}

fn make(root: &Path, suite: &str, packages: &str) {
    let unfinished = root.with_extension("unfinished");
    _ = fs::remove_dir_all(&unfinished);
    eprintln!("making {} with debootstrap", root.display());
    let output = Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--include={packages}"), suite])
        .arg(&unfinished)
        .output()
        .expect("debootstrap is installed (make tools)");
    assert!(
        output.status.success(),
        "debootstrap {suite}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    // Packages fetched for the root would be in each container's view for nothing.
    _ = fs::remove_dir_all(unfinished.join("var/cache/apt/archives"));
    fs::rename(&unfinished, root).unwrap();
}

/// Held while a root is looked for and made: test threads and test processes run at once.
fn lock(cache: &Path) -> Flock<File> {
    fs::create_dir_all(cache).unwrap();
    let file = File::create(cache.join("lock")).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap()
}
