//! Active checks: a worker looks at the upstreams of a proxy at an interval, whether or not clients come.
//!
//! A check is a connect, or a GET of HTTP of which the status line is read and the rest thrown away. It
//! runs within the worker's event loop and blocks nothing. A proxy's checks are one worker's, spread over
//! the interval. What they find stands beside what clients meet (see [`Upstream`]): an upstream takes
//! connections where neither speaks against it. Checks end when a stop begins.
//!
//! [`Upstream`]: super::upstream::Upstream

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use slog::{debug, info, warn};

use super::connect::{is_crowded, is_scarcity};
use super::fleet::Proxy;
use super::proxy_protocol;
use super::roster::{Change, Roster};
use super::seeded::Seeded;
use super::slab::Key;
use super::source::{Side, Source};
use super::watching::SOCKET_EVENTS;
use super::worker::{Entry, Worker};
use crate::config::{self, HttpCheck, SendProxy};
use crate::event::Event;
use crate::sys::socket::{self, Connecting};

/// How much is read of an answer: as far as the status code and a little of its words.
const STATUS: usize = 16;
/// How much of the rest is thrown away, so that the connection ends in order; a longer answer is reset.
const MOST_THROWN_AWAY: usize = 256 << 10;

/// The checks of one upstream, one after the other.
pub(super) struct Check {
    proxy: u16,
    upstream: u16,
    tally: Tally,
    stage: Stage,
    /// When the next one begins.
    due: u64,
    /// When its timer is due that counts.
    pub wake_at: u64,
}

enum Stage {
    Rests,
    Connects(OwnedFd),
    Reads(OwnedFd, Answer),
    /// The result is known; the rest of the answer is on its way.
    Leaves(OwnedFd, usize),
}

#[derive(Default)]
struct Answer {
    bytes: [u8; STATUS],
    length: usize,
}

/// What a check came to.
enum Finding {
    Good,
    Bad(String),
    /// This machine kept it from being made.
    Nothing,
}

/// How many checks in a row spoke against what is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    healthy: bool,
    against: u32,
}

impl Tally {
    /// An upstream counts as up until enough checks say otherwise.
    fn new() -> Tally {
        Tally { healthy: true, against: 0 }
    }

    /// Notes a check; tells what is believed from now on where that is news.
    fn note(&mut self, good: bool, rise: u32, fall: u32) -> Option<bool> {
        if good == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if good { rise } else { fall } {
            return None;
        }
        *self = Tally { healthy: good, against: 0 };
        Some(good)
    }
}

impl Worker {
    /// Begins the checks of the proxies that are this worker's to look after.
    pub(super) fn begin_checks(&mut self) {
        let roster = self.roster.clone();
        roster.numbered().for_each(|(number, _)| self.begin_checks_of(number));
    }

    /// After a reload the checks of a proxy go on where nothing of them has changed, and begin anew elsewhere.
    pub(super) fn renew_checks(&mut self, old: &Roster, change: &Change) {
        let roster = self.roster.clone();
        let stays = |number: u16| {
            let to = change.of(number).filter(|to| to.to == number && to.upstreams.is_none());
            to.is_some_and(|_| is_checked_alike(&old[number], &roster[number]))
        };
        for key in self.table.keys() {
            if matches!(self.table.get_mut(key), Some(Entry::Check(check)) if !stays(check.proxy)) {
                self.table.remove(key);
            }
        }
        for (number, proxy) in roster.numbered() {
            if !stays(number) {
                self.begin_checks_of(number);
            }
            if proxy.checks().is_none() {
                self.forget_checks_of(number, proxy);
            }
        }
    }

    /// What is down still may have nobody who tries it, for the checks did.
    fn forget_checks_of(&mut self, number: u16, proxy: &Proxy) {
        for (upstream, index) in proxy.upstreams.iter().zip(0..) {
            upstream.forget_checks();
            if self.index == 0 && !upstream.is_up() && !upstream.is_closed() && !proxy.departed {
                self.probe_often(number, index);
            }
        }
    }

    /// If they are this worker's to look after.
    fn begin_checks_of(&mut self, proxy: u16) {
        let shared = self.proxy(proxy);
        let Some(config) = shared.checks() else { return };
        if usize::from(proxy) % self.fleet.workers() != self.index {
            return;
        }
        let (count, interval) = (shared.upstreams.len() as u64, config.interval.as_millis() as u64);
        // Many daemons with the same configuration do not check in the same instant.
        let seed = u64::from(std::process::id()) << 16 | u64::from(proxy);
        let first = self.now + Seeded::new(seed).next() % (interval / count.max(1)).max(1);
        let healthy: Vec<_> = shared.upstreams.iter().map(|upstream| upstream.is_healthy()).collect();
        for (upstream, healthy) in (0..count).zip(healthy) {
            let due = first + interval * upstream / count;
            let tally = Tally { healthy, against: 0 };
            let check =
                Check { proxy, upstream: upstream as u16, tally, stage: Stage::Rests, due, wake_at: due };
            let key = self.table.insert(Entry::Check(check));
            self.timers.arm(due, key);
        }
    }

    /// The timer of a check: the next one, or the end of one that takes too long.
    pub(super) fn check_due(&mut self, key: Key) {
        if self.fleet.is_stopping() {
            self.table.remove(key);
            return;
        }
        let Some(Entry::Check(check)) = self.table.get_mut(key) else { return };
        match &check.stage {
            Stage::Rests => self.begin_check(key),
            Stage::Connects(_) => {
                self.check_found(key, Finding::Bad("no answer within its timeout".to_owned()))
            }
            Stage::Reads(_, answer) => {
                let what = if answer.length == 0 { "no answer" } else { "half an answer" };
                self.check_found(key, Finding::Bad(format!("{what} within its timeout")));
            }
            Stage::Leaves(..) => self.rest(key),
        }
    }

    fn begin_check(&mut self, key: Key) {
        let Some(Entry::Check(check)) = self.table.get_mut(key) else { return };
        let shared = &self.roster[check.proxy];
        let Some(config) = &shared.config.check else { return };
        check.due = next_due(check.due, config.interval.as_millis() as u64, self.now);
        if shared.upstreams[usize::from(check.upstream)].is_closed() {
            // Somebody works at it; when it is resumed a connect says whether it is up.
            check.tally = Tally::new();
            return self.rest(key);
        }
        let fd = match socket::start_connect(&shared.upstreams[usize::from(check.upstream)].address) {
            Ok(Connecting::Done(fd) | Connecting::Pending(fd)) => fd,
            Err(errno) => return self.check_found(key, finding(errno)),
        };
        let event = EpollEvent::new(SOCKET_EVENTS, Source::Entry(key, Side::Server).to_bits());
        let watched = self.epoll.add(&fd, event);
        check.stage = Stage::Connects(fd);
        check.wake_at = self.now + config.timeout.as_millis() as u64;
        self.timers.arm(check.wake_at, key);
        if watched.is_err() {
            self.check_found(key, Finding::Nothing);
        }
    }

    /// Something has happened on the socket of a check.
    pub(super) fn check_ready(&mut self, key: Key) {
        let Some(Entry::Check(check)) = self.table.get_mut(key) else { return };
        let shared = &self.roster[check.proxy];
        let found = match &mut check.stage {
            Stage::Rests => return,
            Stage::Connects(fd) => match connected(fd, &shared.config, check.upstream) {
                Ok(false) => Finding::Good,
                Ok(true) => {
                    if let Stage::Connects(fd) = std::mem::replace(&mut check.stage, Stage::Rests) {
                        check.stage = Stage::Reads(fd, Answer::default());
                    }
                    // What it said meanwhile has had its edge.
                    return self.check_ready(key);
                }
                Err(errno) => finding(errno),
            },
            Stage::Reads(fd, answer) => match answer.read(fd) {
                Ok(found) => found,
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(errno) => finding(errno),
            },
            Stage::Leaves(fd, thrown_away) => {
                return if throw_away(fd, thrown_away) {
                    self.rest(key)
                };
            }
        };
        self.check_found(key, found);
    }

    /// Notes what a check has found, and lets go of its connection.
    fn check_found(&mut self, key: Key, found: Finding) {
        let Some(Entry::Check(check)) = self.table.get_mut(key) else { return };
        let shared = &self.roster[check.proxy];
        let upstream = &shared.upstreams[usize::from(check.upstream)];
        let Some(config) = &shared.config.check else { return };
        let (good, why) = match &found {
            Finding::Good => (true, "good"),
            Finding::Bad(why) => (false, why.as_str()),
            Finding::Nothing => return self.rest(key),
        };
        debug!(self.log, "check of upstream {}: {why}", upstream.name);
        if upstream.is_closed() {
            return self.rest(key);
        }
        // A resume or a reload may have forgotten meanwhile what the checks had said.
        let healthy = upstream.is_healthy();
        if check.tally.healthy != healthy {
            check.tally = Tally { healthy, against: 0 };
        }
        if !good {
            upstream.note(why);
        }
        let news = check.tally.note(good, config.rise, config.fall);
        match news.filter(|healthy| upstream.set_healthy(*healthy)) {
            Some(true) => {
                info!(self.log, "upstream {} takes connections again: {} good checks in a row",
                upstream.name, config.rise; Event::UpstreamUp,
                "DRAINED_PROXY" => &shared.config.name, "DRAINED_UPSTREAM" => &upstream.name);
                self.fleet.tell_held(shared);
            }
            Some(false) => {
                warn!(self.log, "upstream {} does not take connections: {} failed checks in a row, the last one: {why}",
                upstream.name, config.fall; Event::UpstreamDown,
                "DRAINED_PROXY" => &shared.config.name, "DRAINED_UPSTREAM" => &upstream.name)
            }
            None => {}
        }
        match std::mem::replace(&mut check.stage, Stage::Rests) {
            // A status that is known is followed by the rest of the answer: unread, the close would be a reset.
            Stage::Reads(fd, answer) if answer.length == STATUS => {
                let _ = shutdown(fd.as_raw_fd(), Shutdown::Write);
                check.stage = Stage::Leaves(fd, 0);
                self.check_ready(key);
            }
            _ => self.rest(key),
        }
    }

    /// Waits for the next check.
    fn rest(&mut self, key: Key) {
        let Some(Entry::Check(check)) = self.table.get_mut(key) else { return };
        check.stage = Stage::Rests;
        check.wake_at = check.due;
        self.timers.arm(check.due, key);
    }
}

fn is_checked_alike(old: &Proxy, new: &Proxy) -> bool {
    old.checks() == new.checks() && old.config.send_proxy == new.config.send_proxy
}

impl Proxy {
    /// How its upstreams are checked; not at all once only connections are left of it.
    fn checks(&self) -> Option<&config::Check> {
        self.config.check.as_ref().filter(|_| !self.departed)
    }
}

/// The next instant of the interval; those that a pause of the machine has swallowed are left out.
fn next_due(due: u64, interval: u64, now: u64) -> u64 {
    due + interval * (now.saturating_sub(due) / interval + 1)
}

fn finding(errno: Errno) -> Finding {
    match is_scarcity(errno) || is_crowded(errno) {
        true => Finding::Nothing,
        false => Finding::Bad(errno.desc().to_owned()),
    }
}

/// Looks how a connect has ended, and says what is to be said. True where an answer is to come.
fn connected(fd: &OwnedFd, config: &config::Proxy, upstream: u16) -> Result<bool, Errno> {
    socket::take_error(fd.as_fd())?;
    let mut said = match config.send_proxy {
        SendProxy::Off => Vec::new(),
        SendProxy::V1 => proxy_protocol::v1(None),
        SendProxy::V2 => proxy_protocol::v2_local(),
    };
    let http = config.check.as_ref().and_then(|check| check.http.as_ref());
    said.extend(http.map(|http| request(http, &config.upstream[usize::from(upstream)])).unwrap_or_default());
    if !said.is_empty() {
        socket::send_whole(fd.as_fd(), &said)?;
    }
    Ok(http.is_some())
}

fn request(http: &HttpCheck, upstream: &config::UpstreamAddress) -> Vec<u8> {
    let host = match (&http.host, upstream) {
        (Some(host), _) => host.clone(),
        (None, config::UpstreamAddress::Tcp(address)) => address.to_string(),
        (None, config::UpstreamAddress::Unix(_)) => "localhost".to_owned(),
    };
    let (path, version) = (&http.path, env!("CARGO_PKG_VERSION"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: drained/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

impl Answer {
    /// Reads on; EAGAIN says that there is more to come.
    fn read(&mut self, fd: &OwnedFd) -> Result<Finding, Errno> {
        while self.length < STATUS {
            let room = &mut self.bytes[self.length..];
            match recv(fd.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT)? {
                0 if self.length == 0 => return Ok(Finding::Bad("it closed without an answer".to_owned())),
                0 => break,
                n => self.length += n,
            }
        }
        Ok(judge(&self.bytes[..self.length]))
    }
}

fn judge(bytes: &[u8]) -> Finding {
    let mut answer = httparse::Response::new(&mut []);
    // What comes after the code is not there, or not looked at.
    let _ = answer.parse(bytes);
    match answer.code {
        Some(200..400) => Finding::Good,
        Some(code) => Finding::Bad(format!("it answered {code}")),
        None => Finding::Bad("its answer is not HTTP/1".to_owned()),
    }
}

/// Throws away what has come. True where that is all, or enough.
fn throw_away(fd: &OwnedFd, thrown_away: &mut usize) -> bool {
    let mut chunk = [0; 4096];
    while *thrown_away < MOST_THROWN_AWAY {
        match recv(fd.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return true,
            Ok(n) => *thrown_away += n,
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(_) => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_so_many_in_a_row() {
        let mut tally = Tally::new();
        let mut note = |good| tally.note(good, 2, 3);
        // Two and two with a good one between them are not three in a row.
        for good in [false, false, true, false, false] {
            assert_eq!(note(good), None);
        }
        assert_eq!(note(false), Some(false));
        for good in [false, true, false, true] {
            assert_eq!(note(good), None);
        }
        assert_eq!(note(true), Some(true));
        assert_eq!(note(true), None);
    }

    #[test]
    fn one_is_enough_where_that_is_asked_for() {
        let mut tally = Tally::new();
        for good in [false, true, false, true] {
            assert_eq!(tally.note(good, 1, 1), Some(good));
        }
    }

    #[test]
    fn whatever_happens_news_alternate_and_come_after_enough_in_a_row() {
        let mut seeded = Seeded::new(7);
        for (rise, fall) in [(1, 1), (1, 4), (3, 2), (5, 5)] {
            let (mut tally, mut healthy, mut run) = (Tally::new(), true, (true, 0));
            for _ in 0..10_000 {
                let good = seeded.below(3) > 0;
                run = if run.0 == good { (good, run.1 + 1) } else { (good, 1) };
                let expected = healthy != good && run.1 >= if good { rise } else { fall };
                assert_eq!(tally.note(good, rise, fall), expected.then_some(good));
                healthy ^= expected;
            }
        }
    }

    #[test]
    fn instants_that_were_slept_through_are_left_out() {
        assert_eq!(next_due(1_000, 500, 1_000), 1_500);
        assert_eq!(next_due(1_000, 500, 1_499), 1_500);
        assert_eq!(next_due(1_000, 500, 1_500), 2_000);
        assert_eq!(next_due(1_000, 500, 61_234), 61_500);
    }

    #[test]
    fn the_code_decides() {
        let why = |bytes: &str| match judge(bytes.as_bytes()) {
            Finding::Good => String::new(),
            Finding::Bad(why) => why,
            Finding::Nothing => panic!("an answer is something"),
        };
        for good in ["HTTP/1.1 200 OK\r", "HTTP/1.0 204 \r\n", "HTTP/1.1 302 Foun", "HTTP/1.1 399\r\n"] {
            assert_eq!(why(good), "", "{good}");
        }
        for (bad, right) in [
            ("HTTP/1.1 500 Inte", "it answered 500"),
            ("HTTP/1.1 404 Not ", "it answered 404"),
            ("HTTP/1.1 100 Cont", "it answered 100"),
            ("HTTP/1.1 2", "not HTTP/1"),
            ("HTTP/2 200", "not HTTP/1"),
            ("SSH-2.0-OpenSSH_", "not HTTP/1"),
            ("\0\0\0\0", "not HTTP/1"),
            ("", "not HTTP/1"),
        ] {
            assert!(why(bad).contains(right), "{bad}: {}", why(bad));
        }
    }

    #[test]
    fn a_request_is_for_the_host_that_is_named() {
        let tcp = config::UpstreamAddress::Tcp("[::1]:80".parse().expect("an address"));
        let unix = config::UpstreamAddress::Unix(config::UnixPath::Abstract("a".to_owned()));
        let host = |host: Option<&str>, upstream| {
            let http = HttpCheck { path: "/up?x=1".to_owned(), host: host.map(str::to_owned) };
            let text = String::from_utf8(request(&http, upstream)).expect("text");
            assert!(
                text.starts_with("GET /up?x=1 HTTP/1.1\r\nHost: ") && text.ends_with("close\r\n\r\n"),
                "{text}"
            );
            text.lines().nth(1).map(str::to_owned)
        };
        assert_eq!(host(None, &tcp).as_deref(), Some("Host: [::1]:80"));
        assert_eq!(host(None, &unix).as_deref(), Some("Host: localhost"));
        assert_eq!(host(Some("app.example.org"), &tcp).as_deref(), Some("Host: app.example.org"));
    }
}
