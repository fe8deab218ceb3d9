//! `drainctl drain`, `resume` and `hold`: what they ask for, how they wait, and what they say.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::config::{parse_duration, render_duration};
use crate::control::by_hand::{ByHand, UpstreamByHand, UpstreamDrain};
use crate::control::client;
use crate::control::protocol::Call;
use crate::control::status::UpstreamState;
use crate::control::words::{counted, time_left};
use crate::{Error, Exit, Result};

/// How often the daemon is asked how far it is: first, and at the most.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// How long the daemon may be away while somebody waits: a restart of it takes less.
const AWAY: Duration = Duration::from_secs(2);
/// How long after the deadline a drain may take to be over.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// The proxy, by its name in the configuration
    proxy: String,

    /// One of its upstreams, as the configuration writes it; without it all
    #[arg(long, value_name = "ADDR")]
    upstream: Option<String>,

    /// Wait until the last connection has ended
    #[arg(long)]
    wait: bool,

    /// Cut what is left after this time; default: the deadline of the proxy's drain
    #[arg(long, value_name = "TIME", value_parser = at_least_a_moment)]
    timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The proxy, by its name in the configuration
    proxy: String,

    /// One of its upstreams, as the configuration writes it; without it all, and a hold ends
    #[arg(long, value_name = "ADDR")]
    upstream: Option<String>,

    /// Wait until they take connections
    #[arg(long)]
    wait: bool,

    /// With --wait: give up after this time
    #[arg(long, value_name = "TIME", value_parser = at_least_a_moment, default_value = "30s", requires = "wait")]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct Hold {
    /// The proxy, by its name in the configuration
    proxy: String,

    /// End the hold by itself after this time; without it: by resume
    #[arg(long, value_name = "TIME", value_parser = at_least_a_moment)]
    timeout: Option<Duration>,
}

/// A duration as the configuration has it.
pub(super) fn at_least_a_moment(text: &str) -> Result<Duration, String> {
    parse_duration(text, Duration::from_millis(1))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Drain {
    /// What to print.
    pub fn run(&self, socket: &Path, json: bool) -> Result<String> {
        let (proxy, upstream) = (self.proxy.clone(), self.upstream.clone());
        let call = Call::Drain { proxy, upstream, timeout_ms: self.timeout.map(ms) };
        let mut answer: ByHand = client::call(socket, &call)?;
        if !self.wait {
            return Ok(if json { answer.to_json() } else { begun(&answer) });
        }
        if !json && answer.drains().any(|drain| !drain.begun) {
            super::complain(begun(&answer));
        }
        let changed = answer.changed;
        let patience = Waiting::new(socket, self.progress(), "the drain goes on if it runs");
        answer = patience.until(answer, |answer, since| {
            let (left, away) = (answer.left(), answer.drains().map(|d| d.left_ms).max().unwrap_or(0));
            let over = away == 0 && since.elapsed() > GRACE;
            let done = is_drained(answer) || is_resumed(answer) || over;
            let progress = format!("{} left, cut in {}", connections(left), time_left(away));
            (done, if away > 0 { progress } else { format!("{} left", connections(left)) })
        })?;
        answer.changed = changed;
        if json {
            super::say(answer.to_json());
        }
        let cut = answer.cut();
        let what = named(&answer);
        let unfinished = |text: String| Err(Error::new(Exit::Unfinished, text));
        match is_drained(&answer) {
            false if is_resumed(&answer) => unfinished(format!("{what} was resumed before it was drained")),
            false => unfinished(format!("{what} is not drained: {} left", connections(answer.left()))),
            true if cut > 0 => unfinished(format!("{what} is drained: {} had to be cut", connections(cut))),
            true if json => Ok(String::new()),
            true => {
                let ended = answer.drains().map(|drain| drain.began_with).sum();
                Ok(format!("{what} is drained: {} ended, none was cut", connections(ended)))
            }
        }
    }

    fn progress(&self) -> Call {
        Call::Progress { proxy: self.proxy.clone(), upstream: self.upstream.clone() }
    }
}

impl Resume {
    /// What to print.
    pub fn run(&self, socket: &Path, json: bool) -> Result<String> {
        let (proxy, upstream) = (self.proxy.clone(), self.upstream.clone());
        let mut answer: ByHand =
            client::call(socket, &Call::Resume { proxy: proxy.clone(), upstream: upstream.clone() })?;
        if self.wait {
            let changed = answer.changed;
            let patience = Waiting::new(socket, Call::Progress { proxy, upstream }, "they are tried on");
            answer = patience.until(answer, |answer, since| {
                let left = ms(self.timeout.saturating_sub(since.elapsed()));
                let text =
                    format!("{} held, waiting {} more", counted(answer.held, "client"), time_left(left));
                (is_up(answer) || left == 0, text)
            })?;
            answer.changed = changed;
        }
        if json {
            super::say(answer.to_json());
        }
        let what = named(&answer);
        match (self.wait, is_up(&answer)) {
            (true, false) => {
                let time = render_duration(self.timeout);
                let text = match answer.down() {
                    None => format!("{what} took no connection within {time}; it is tried on"),
                    Some(why) => format!("{what} is not up after {time}: {why}; it is tried on"),
                };
                Err(Error::new(Exit::Unfinished, text))
            }
            _ if json => Ok(String::new()),
            (_, true) => Ok(format!("{what} takes connections")),
            (false, false) => Ok(format!("{what} is resumed: clients go there once a connect succeeds")),
        }
    }
}

impl Hold {
    /// What to print.
    pub fn run(&self, socket: &Path, json: bool) -> Result<String> {
        let call = Call::Hold { proxy: self.proxy.clone(), timeout_ms: self.timeout.map(ms) };
        let answer: ByHand = client::call(socket, &call)?;
        if json {
            return Ok(answer.to_json());
        }
        let proxy = &answer.proxy;
        let again = if answer.changed { "" } else { " on" };
        let until = answer.hold_ms.map_or(format!("until: drainctl resume {proxy}"), |left| {
            format!("for {}, or until: drainctl resume {proxy}", time_left(left))
        });
        Ok(format!("new clients of {proxy} are held{again} {until}"))
    }
}

/// Asks again and again how far the daemon is.
struct Waiting<'a> {
    socket: &'a Path,
    call: Call,
    /// What is so whether or not anybody waits.
    meanwhile: &'a str,
    progress: bool,
}

impl<'a> Waiting<'a> {
    fn new(socket: &'a Path, call: Call, meanwhile: &'a str) -> Waiting<'a> {
        Waiting { socket, call, meanwhile, progress: io::stderr().is_terminal() }
    }

    /// Until `look` says that it is done; it is told since when it may be over, and says what to show.
    fn until(&self, first: ByHand, look: impl Fn(&ByHand, Instant) -> (bool, String)) -> Result<ByHand> {
        let (mut answer, mut pause) = (first, LOOK.0);
        let mut since = Instant::now();
        loop {
            if answer.drains().any(|drain| drain.left_ms > 0) {
                since = Instant::now();
            }
            let (done, text) = look(&answer, since);
            if done {
                self.show("");
                return Ok(answer);
            }
            self.show(&format!("{}: {text}", named(&answer)));
            thread::sleep(pause);
            pause = (pause * 2).min(LOOK.1);
            answer = self.ask()?;
        }
    }

    /// A daemon that is just being restarted is asked again.
    fn ask(&self) -> Result<ByHand> {
        let until = Instant::now() + AWAY;
        loop {
            match client::call(self.socket, &self.call) {
                Err(e) if e.exit() == Exit::Unavailable && Instant::now() < until => thread::sleep(LOOK.1),
                Err(e) if e.exit() == Exit::Unavailable => {
                    self.show("");
                    let text = format!("lost drained while waiting, {}: {e}", self.meanwhile);
                    return Err(Error::new(Exit::Unavailable, text));
                }
                result => return result,
            }
        }
    }

    /// One line, rewritten.
    fn show(&self, text: &str) {
        if self.progress {
            let mut stderr = io::stderr();
            // A terminal that went away is no reason to stop.
            let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    }
}

fn is_drained(answer: &ByHand) -> bool {
    answer.upstreams.iter().all(|upstream| upstream.state == UpstreamState::Drained)
}

fn is_resumed(answer: &ByHand) -> bool {
    answer.upstreams.iter().any(|upstream| upstream.drain.is_none())
}

fn is_up(answer: &ByHand) -> bool {
    answer.upstreams.iter().all(|upstream| upstream.state == UpstreamState::Up)
}

/// What the call was about.
fn named(answer: &ByHand) -> String {
    match answer.upstreams.as_slice() {
        [one] => format!("{} of {}", one.address, answer.proxy),
        all => format!("{} ({} upstreams)", answer.proxy, all.len()),
    }
}

/// A line for each upstream: what the drain does, or that an earlier one does it.
fn begun(answer: &ByHand) -> String {
    let line = |upstream: &UpstreamByHand, drain: &UpstreamDrain| {
        let (left, time) = (connections(upstream.connections), time_left(drain.left_ms));
        let how = match (upstream.state == UpstreamState::Drained, drain.begun, drain.left_ms) {
            (true, true, _) => "is drained: it has no connection".to_owned(),
            (true, false, _) => "is drained already: it has no connection".to_owned(),
            (false, true, _) => format!("is being drained: {left}, cut in {time}"),
            (false, false, 1..) => format!("is being drained already: {left}, cut in {time}"),
            (false, false, 0) => format!("is being drained already: {left} left"),
        };
        format!("{} of {} {how}", upstream.address, answer.proxy)
    };
    let all = answer.upstreams.iter();
    let lines = all.filter_map(|u| Some(line(u, u.drain.as_ref()?)));
    lines.collect::<Vec<_>>().join("\n")
}

fn connections(n: u64) -> String {
    counted(n, "connection")
}

#[cfg(test)]
mod tests {
    use super::*;
    fn upstream(address: &str, state: UpstreamState, drain: Option<UpstreamDrain>) -> UpstreamByHand {
        UpstreamByHand { address: address.to_string(), state, connections: 3, drain, down: None }
    }

    #[test]
    fn who_drains_second_is_told_of_the_first() {
        let drain = UpstreamDrain { begun: true, began_with: 5, cut: 0, left_ms: 3_599_001 };
        let upstreams = vec![
            upstream("127.0.0.1:1", UpstreamState::Draining, Some(drain)),
            upstream("127.0.0.1:2", UpstreamState::Draining, Some(UpstreamDrain { begun: false, ..drain })),
        ];
        let answer =
            ByHand { proxy: "web".into(), changed: true, holding: false, hold_ms: None, held: 0, upstreams };
        assert_eq!(
            begun(&answer),
            "127.0.0.1:1 of web is being drained: 3 connections, cut in 1h\n\
             127.0.0.1:2 of web is being drained already: 3 connections, cut in 1h"
        );
        let mut drained = answer.clone();
        drained.upstreams.iter_mut().for_each(|upstream| upstream.state = UpstreamState::Drained);
        assert_eq!(
            begun(&drained),
            "127.0.0.1:1 of web is drained: it has no connection\n\
             127.0.0.1:2 of web is drained already: it has no connection"
        );
        assert_eq!(named(&answer), "web (2 upstreams)");
        assert!(!is_drained(&answer) && !is_resumed(&answer) && !is_up(&answer));
    }
}
