//! What the tests share.

pub mod container;
pub mod crowd;
pub mod daemon;
pub mod drained;
pub mod image;
pub mod load;
pub mod manager;
pub mod peers;
pub mod real_peers;
pub mod replies;
pub mod scratch;
pub mod steady;
pub mod store;
pub mod swarm;
pub mod terminal;

use std::io::Write;
use std::panic;
use std::sync::Once;
use std::time::Duration;

/// A bound for what must happen at once, long enough for a busy machine. A test that waits this
/// long has failed.
pub const SOON: Duration = Duration::from_secs(10);

/// The number in this environment variable, for a run that is longer than what everybody waits for.
pub fn number_from(variable: &str, default: usize) -> usize {
    let Ok(text) = std::env::var(variable) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}"))
}

/// Has each panic of a test told where it happens in the run, past what the harness collects: that comes
/// after all tests only, and never if the run is broken off.
pub fn tell_failures() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let collected = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            collected(info);
            say(&info.to_string().chars().take(2_000).collect::<String>());
        }));
    });
}

/// A test, or a part of one, cannot run here, for this reason. In CI, which installs what is needed, that is a
/// failure.
pub fn left_out(why: &str) {
    assert!(std::env::var_os("DRAINED_CI").is_none(), "LEFT OUT: {why}");
    say(&format!("LEFT OUT: {why}"));
}

/// Tells it at once, past what the harness collects of print! and its like.
pub fn say(text: &str) {
    let name = std::thread::current().name().unwrap_or("a thread").to_owned();
    let _ = std::io::stderr().write_all(format!("{name}: {text}\n").as_bytes());
}
