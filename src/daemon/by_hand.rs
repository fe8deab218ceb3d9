//! The calls that change something: who may make them, what they do, and the file that keeps it.
//!
//! What was set by hand outlives the process, however it ends, in a small file beside the control socket:
//! replaced as a whole, and never a reason not to start.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use slog::{Logger, info, warn};

use super::report;
use crate::control::by_hand::{ByHand, UpstreamByHand, UpstreamDrain};
use crate::control::operator::{Credentials, Who};
use crate::control::protocol::{Call, LONGEST_TIMEOUT};
use crate::control::status::UpstreamState;
use crate::event::Event;
use crate::proxy::{self, Fleet};
use crate::sys::clock::monotonic_ms;

/// The longest file that is read.
const LONGEST_FILE: u64 = 4 << 20;
const VERSION: u32 = 1;
/// How many characters of a reason the journal gets.
const LONGEST_REASON: usize = 300;
/// Refused calls a second that have an entry of their own.
const REFUSALS_LOGGED: u32 = 10;

/// How many calls were refused in which second, so that nobody fills the journal.
#[derive(Default)]
pub struct Refusals(Mutex<(u64, u32)>);

impl Refusals {
    fn may_be_logged(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = monotonic_ms() / 1_000;
        *last = if last.0 == second { (second, last.1 + 1) } else { (second, 1) };
        last.1 <= REFUSALS_LOGGED
    }
}

/// What the file says. Times are milliseconds of CLOCK_MONOTONIC.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    proxies: Vec<KeptProxy>,
}

#[derive(Serialize, Deserialize)]
struct KeptProxy {
    name: String,
    hold_until: Option<u64>,
    /// For how long clients wait in that hold at the least, in milliseconds.
    #[serde(default)]
    hold_bound: u64,
    drained: Vec<(String, u64, u64)>,
}

/// The file that goes with a control socket.
pub fn file_of(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(".by-hand");
    PathBuf::from(name)
}

/// Sets again what the last incarnation was told.
pub fn restore(fleet: &Fleet, file: &Path, log: &Logger) {
    let kept = match read(file) {
        Ok(kept) => kept,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => {
            warn!(log, "let go of what was set by hand: {}: {e}", file.display(); Event::LetGo);
            return;
        }
    };
    let now = monotonic_ms();
    // What a file says beyond the longest drain or hold is of another boot.
    let sane = |(name, since, deadline): (String, u64, u64)| {
        (name, since.min(now), deadline.min(now + LONGEST_TIMEOUT))
    };
    let of = |kept: KeptProxy| {
        let hold_until =
            kept.hold_until.filter(|until| *until == u64::MAX || *until <= now + LONGEST_TIMEOUT);
        let hold_bound = kept.hold_bound.min(LONGEST_TIMEOUT);
        let drained = kept.drained.into_iter().map(sane).collect();
        (kept.name, proxy::ByHand { hold_until, hold_bound, drained })
    };
    let all: Vec<_> = kept.proxies.into_iter().map(of).collect();
    if fleet.restore_by_hand(&all) {
        info!(log, "what was set by hand is set again: drained upstreams and holds");
    }
    // What is not configured any more shall not come back with it.
    keep_or_warn(fleet, file, log);
}

/// Brings the file up to date with what is set.
pub fn keep_or_warn(fleet: &Fleet, file: &Path, log: &Logger) {
    if let Err(error) = keep(fleet, file) {
        warn!(log, "what is set by hand would not outlive this process: {error}");
    }
}

/// The daemon ends for good: the next one begins with nothing.
pub fn forget(file: &Path) {
    // Left in place it is read by the next one.
    let _ = fs::remove_file(file);
}

fn read(file: &Path) -> io::Result<Kept> {
    let mut text = Vec::new();
    let options = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let opened = fs::OpenOptions::new().read(true).custom_flags(options).open(file)?;
    opened.take(LONGEST_FILE).read_to_end(&mut text)?;
    let kept: Kept = serde_json::from_slice(&text)?;
    match kept.version {
        VERSION => Ok(kept),
        other => Err(io::Error::other(format!("it is of version {other}"))),
    }
}

/// Writes what is set; without anything there is no file.
fn keep(fleet: &Fleet, file: &Path) -> io::Result<()> {
    let of = |(name, set): (String, proxy::ByHand)| KeptProxy {
        name,
        hold_until: set.hold_until,
        hold_bound: set.hold_bound,
        drained: set.drained,
    };
    let proxies: Vec<_> = fleet.by_hand().into_iter().map(of).collect();
    if proxies.is_empty() {
        return match fs::remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    }
    let text = serde_json::to_vec(&Kept { version: VERSION, proxies })?;
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    // One of a process that died in between is in nobody's way.
    let _ = fs::remove_file(&new);
    let mut opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    io::Write::write_all(&mut opened, &text)?;
    fs::rename(&new, file)
}

/// Does what a call asks for that changes something, if `who` may.
///
/// # Errors
/// What the one who asks is told: nothing has changed then.
pub fn change(
    fleet: &Fleet,
    file: &Path,
    call: &Call,
    who: &Who,
    (refusals, log): (&Refusals, &Logger),
) -> Result<ByHand, String> {
    permit(call, who, refusals, log)?;
    let done = call.check().and_then(|()| do_it(fleet, file, call, log));
    let outcome = match &done {
        Ok(answer) if answer.changed => Ok("done"),
        Ok(_) => Ok("nothing to change, it was so already"),
        Err(message) => Err(message.as_str()),
    };
    say(call, who, outcome, log);
    done
}

fn do_it(fleet: &Fleet, file: &Path, call: &Call, log: &Logger) -> Result<ByHand, String> {
    let ms = |ms: &Option<u64>| ms.map(Duration::from_millis);
    let (name, upstream, changed, begun) = match call {
        Call::Drain { proxy, upstream, timeout_ms } => {
            let begun = fleet.drain_upstreams(proxy, upstream.as_deref(), ms(timeout_ms))?;
            (proxy, upstream.as_deref(), !begun.is_empty(), begun)
        }
        Call::Resume { proxy, upstream } => {
            let held = upstream.is_none() && fleet.find_proxy(proxy)?.hold_until(monotonic_ms()).is_some();
            let resumed = fleet.resume(proxy, upstream.as_deref())?;
            (proxy, upstream.as_deref(), held || !resumed.is_empty(), Vec::new())
        }
        Call::Hold { proxy, timeout_ms } => {
            let changed = fleet.hold(proxy, ms(timeout_ms))?;
            (proxy, None, changed, Vec::new())
        }
        _ => return Err("the call changes nothing".to_string()),
    };
    keep_or_warn(fleet, file, log);
    tell(fleet, name, upstream, changed, &begun)
}

/// What is set of a proxy and of the upstream named, or all.
///
/// # Errors
/// There is no such proxy or upstream.
pub fn progress(fleet: &Fleet, name: &str, upstream: Option<&str>) -> Result<ByHand, String> {
    tell(fleet, name, upstream, false, &[])
}

fn tell(
    fleet: &Fleet,
    name: &str,
    upstream: Option<&str>,
    changed: bool,
    begun: &[String],
) -> Result<ByHand, String> {
    let now = monotonic_ms();
    let proxy = fleet.find_proxy_or_left(name)?;
    let of = |upstream: &Arc<proxy::Upstream>| {
        // In this order: what is said to be drained has no connection, and all that were cut are counted.
        let state = report::upstream_state(upstream, fleet.is_settled());
        let connections = u64::from(upstream.active());
        let down = upstream.why_down().filter(|_| state == UpstreamState::Down);
        let drain = upstream.drain_times().map(|(_, deadline)| {
            let (began_with, cut) = upstream.drain_counts();
            UpstreamDrain {
                begun: begun.contains(&upstream.name),
                began_with: began_with.into(),
                cut: cut.into(),
                left_ms: deadline.saturating_sub(now),
            }
        });
        UpstreamByHand { address: upstream.name.clone(), state, connections, drain, down }
    };
    let hold = proxy.hold_until(now);
    Ok(ByHand {
        proxy: name.to_owned(),
        changed,
        holding: hold.is_some(),
        hold_ms: hold.filter(|until| *until != u64::MAX).map(|until| until - now),
        held: proxy.held().into(),
        upstreams: proxy.find_upstreams(upstream)?.into_iter().map(of).collect(),
    })
}

/// Tells the journal what came of a call that may change something: what was done, or why nothing was.
pub fn say(call: &Call, who: &Who, outcome: Result<&str, &str>, log: &Logger) {
    let Some(who) = who.credentials else { return };
    let (asked, whom) = (call.words(), format!("pid {}, uid {}, gid {}", who.pid, who.uid, who.gid));
    let (refused, what) = match outcome {
        Ok(what) => ("", what),
        Err(why) => ("refused: ", why),
    };
    // It may repeat what was asked for.
    let what: String = what.chars().take(LONGEST_REASON).collect();
    info!(log, "{refused}{asked}, asked for by {whom}: {what}"; Event::ByHand, "DRAINED_CALL" => &asked,
        "DRAINED_PEER_PID" => who.pid, "DRAINED_PEER_UID" => who.uid, "DRAINED_PEER_GID" => who.gid);
}

/// Root and the daemon's own user may change what it does; everybody else who may connect, look.
/// The journal is told of refusals, as far as they are not many.
///
/// # Errors
/// What somebody is told who may not.
pub fn permit(call: &Call, who: &Who, refusals: &Refusals, log: &Logger) -> Result<(), String> {
    let Some(Credentials { uid, .. }) = who.credentials else {
        return Err("refused: the kernel does not say who asks".to_string());
    };
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    if refusals.may_be_logged() {
        say(call, who, Err("only root and the user of drained may change something"), log);
    }
    Err(format!("refused: only root and the user of drained may {}, you are uid {uid}", call.verb()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_may_change_and_nobody_else() {
        let own = geteuid().as_raw();
        let who = |uid| Who { credentials: Some(Credentials { pid: 1, uid, gid: 0 }) };
        let log = Logger::root(slog::Discard, slog::o!());
        for (who, may) in
            [(who(0), true), (who(own), true), (who(own + 1), false), (Who { credentials: None }, false)]
        {
            let permitted = permit(&Call::Reload, &who, &Refusals::default(), &log);
            assert_eq!(permitted.is_ok(), may, "{who:?}: {permitted:?}");
        }
    }
}
