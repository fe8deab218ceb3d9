//! Servers and clients that nobody here wrote, and drained between them.
//!
//! Each server has its own directory and addresses, and runs in namespaces that die with the test:
//! nothing of it outlives the test, and nothing outside its directory is written to. Every wait has
//! a bound; a missing program fails the test.

pub mod client;
pub mod drained;
pub mod server;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// No single step of a test may take longer: a start, a client's run, a stop.
pub const BOUND: Duration = Duration::from_secs(60);

pub fn text(path: &Path) -> String {
    path.to_str().expect("temporary paths are plain text").to_owned()
}

/// An address of loopback with a port that was free a moment ago, for servers that don't tell which
/// one they got.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Looks every few milliseconds until there is something to see.
pub fn wait_for<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + bound;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "no {what} within {bound:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A file of `megabytes` random bytes and its SHA-256.
pub fn random_file(path: &Path, megabytes: u64) -> String {
    let mut random = std::io::Read::take(fs::File::open("/dev/urandom").unwrap(), megabytes << 20);
    std::io::copy(&mut random, &mut fs::File::create(path).unwrap()).unwrap();
    sha256(path)
}

pub fn sha256(path: &Path) -> String {
    let sum = client::run("sha256sum", [path]).success();
    sum.split_whitespace().next().unwrap().to_owned()
}
