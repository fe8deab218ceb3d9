//! The drain policy for protocol `tcp`: what to do with one connection, as a pure function of what
//! it does and `now`. Times are milliseconds of one clock.
//!
//! TCP has no message boundaries, so silence and the direction of the last byte must serve. A
//! connection is quiet when nothing is under way, the last byte came from the upstream (its answer
//! is complete as far as anybody can tell), and nothing moved for [`QUIET_AFTER`]. It is then told
//! goodbye with a FIN, to the upstream first: what the upstream still sends goes through, and most
//! servers answer the FIN with theirs, which is passed on. Who does not is left after [`FIN_WAIT`].

/// Silence that makes a connection quiet, in milliseconds.
pub const QUIET_AFTER: u64 = 1_000;
/// How long to wait for a peer's FIN after ours, in milliseconds.
pub const FIN_WAIT: u64 = 2_000;
/// How often a busy connection is looked at, in milliseconds.
const LOOK_AGAIN: u64 = 100;

/// What a connection does, to say at a cut and to decide whether to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It waits for an upstream that takes it.
    Held,
    /// No upstream has taken it yet.
    Connecting,
    /// Bytes are under way.
    SendingToUpstream,
    /// Bytes are under way.
    SendingToClient,
    /// The last byte came from the client: an answer is due.
    WaitingForUpstream,
    /// The client has ended its stream, the upstream goes on. (Where the upstream has ended its own,
    /// and all of it is delivered, there is nothing to wait for.)
    HalfClosed,
    /// Bytes moved within a second.
    Active,
    /// None of these.
    Quiet,
    /// Told goodbye; the peers' FIN is missing.
    Closing,
}

impl Doing {
    /// Journal field DRAINED_DOING.
    pub fn word(self) -> &'static str {
        match self {
            Doing::Held => "held",
            Doing::Connecting => "connecting",
            Doing::SendingToUpstream => "sending-to-upstream",
            Doing::SendingToClient => "sending-to-client",
            Doing::WaitingForUpstream => "waiting-for-upstream",
            Doing::HalfClosed => "half-closed",
            Doing::Active => "active",
            Doing::Quiet => "quiet",
            Doing::Closing => "closing",
        }
    }

    /// A clean end would pass for the whole: the cut must be a reset.
    pub fn loses_data(self) -> bool {
        !matches!(self, Doing::Held | Doing::Connecting | Doing::Quiet | Doing::Closing)
    }
}

/// How far the goodbye of a connection has come, with the time of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goodbye {
    #[default]
    None,
    Upstream(u64),
    Client(u64),
}

/// One connection as the policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub held: bool,
    pub connecting: bool,
    /// Bytes for the upstream in our pipe or in the kernel's queues on either side of it.
    pub pending_to_upstream: bool,
    /// The same for the client.
    pub pending_to_client: bool,
    /// The client has ended its direction, and the upstream goes on.
    pub half_closed: bool,
    /// The last byte came from the client.
    pub answer_due: bool,
    /// When the last byte moved, or the connection was opened.
    pub last: u64,
    pub goodbye: Goodbye,
}

/// When the drain of a proxy ends, and how it gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub since: u64,
    /// What is left then is cut.
    pub deadline: u64,
    /// Goodbyes are spread evenly over this time, or what the deadline leaves of it.
    pub spread: u64,
    /// Asked a second time: the goodbye waits for no silence.
    pub hurried: bool,
}

impl Plan {
    /// When a connection may be told goodbye at the earliest; `share` out of 65,536 is its place.
    pub fn turn(&self, share: u16) -> u64 {
        let longest = self.deadline.saturating_sub(self.since + FIN_WAIT);
        let spread = if self.hurried { 0 } else { self.spread.min(longest) };
        self.since + ((spread * u64::from(share)) >> 16)
    }

    /// The same drain, asked for a second time at `now`.
    pub fn hurry(self, now: u64, hurry: u64) -> Plan {
        Plan { deadline: self.deadline.min(now + hurry), hurried: true, ..self }
    }
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    LookAgainAt(u64),
    /// FIN to the upstream.
    FinUpstream,
    /// FIN to the client.
    FinClient,
    /// The FINs were waited for, or the deadline came meanwhile: release it.
    Close,
    /// The deadline.
    Cut(Doing),
}

/// What a connection does at `now`.
pub fn doing(view: &View, now: u64) -> Doing {
    if view.held {
        Doing::Held
    } else if view.connecting {
        Doing::Connecting
    } else if view.pending_to_client {
        Doing::SendingToClient
    } else if view.pending_to_upstream {
        Doing::SendingToUpstream
    } else if view.goodbye != Goodbye::None {
        Doing::Closing
    } else if view.half_closed {
        Doing::HalfClosed
    } else if view.answer_due {
        Doing::WaitingForUpstream
    } else if is_recent(view, now) {
        Doing::Active
    } else {
        Doing::Quiet
    }
}

fn is_recent(view: &View, now: u64) -> bool {
    now.saturating_sub(view.last) < QUIET_AFTER
}

/// The next thing to do with a connection whose goodbye is due from `turn` on.
pub fn verdict(view: &View, plan: &Plan, turn: u64, now: u64) -> Verdict {
    let doing = doing(view, now);
    if now >= plan.deadline {
        let goes_on = matches!(view.goodbye, Goodbye::Upstream(_)) && is_recent(view, now);
        return match doing {
            Doing::Closing if goes_on => Verdict::Cut(Doing::Active),
            Doing::Closing => Verdict::Close,
            _ => Verdict::Cut(doing),
        };
    }
    let look = |at: u64| Verdict::LookAgainAt(at.clamp(now + 1, plan.deadline));
    match (doing, view.goodbye) {
        (Doing::Quiet, _) if now < turn => look(turn),
        (Doing::Quiet, _) => Verdict::FinUpstream,
        (Doing::Active, _) if plan.hurried => Verdict::FinUpstream,
        (Doing::Active, _) => look(turn.max(view.last + QUIET_AFTER)),
        (Doing::Closing, Goodbye::Client(at)) if now >= at + FIN_WAIT => Verdict::Close,
        (Doing::Closing, Goodbye::Client(at)) => look(at + FIN_WAIT),
        (Doing::Closing, Goodbye::Upstream(at)) if now >= at.max(view.last) + FIN_WAIT => Verdict::FinClient,
        (Doing::Closing, Goodbye::Upstream(at)) => look(at.max(view.last) + FIN_WAIT),
        _ => look(now + LOOK_AGAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::seeded::Seeded;

    const PLAN: Plan = Plan { since: 10_000, deadline: 40_000, spread: 0, hurried: false };

    fn silent_since(last: u64) -> View {
        View {
            held: false,
            connecting: false,
            pending_to_upstream: false,
            pending_to_client: false,
            half_closed: false,
            answer_due: false,
            last,
            goodbye: Goodbye::None,
        }
    }

    #[test]
    fn quiet_is_told_goodbye_upstream_first_then_client_then_closed() {
        let mut view = silent_since(5_000);
        assert_eq!(verdict(&view, &PLAN, 10_000, 10_000), Verdict::FinUpstream);
        view.goodbye = Goodbye::Upstream(10_000);
        assert_eq!(verdict(&view, &PLAN, 10_000, 10_000), Verdict::LookAgainAt(12_000));
        assert_eq!(verdict(&view, &PLAN, 10_000, 12_000), Verdict::FinClient);
        view.goodbye = Goodbye::Client(12_000);
        assert_eq!(verdict(&view, &PLAN, 10_000, 13_999), Verdict::LookAgainAt(14_000));
        assert_eq!(verdict(&view, &PLAN, 10_000, 14_000), Verdict::Close);
    }

    #[test]
    fn busy_is_waited_for_until_the_deadline() {
        for change in [
            |v: &mut View| v.answer_due = true,
            |v: &mut View| v.pending_to_client = true,
            |v: &mut View| v.pending_to_upstream = true,
            |v: &mut View| v.half_closed = true,
            |v: &mut View| v.connecting = true,
            |v: &mut View| v.held = true,
        ] {
            let mut view = silent_since(0);
            change(&mut view);
            assert_eq!(verdict(&view, &PLAN, 10_000, 39_950), Verdict::LookAgainAt(40_000));
            assert!(matches!(verdict(&view, &PLAN, 10_000, 40_000), Verdict::Cut(_)));
        }
        assert_eq!(verdict(&silent_since(9_500), &PLAN, 10_000, 10_000), Verdict::LookAgainAt(10_500));
    }

    #[test]
    fn an_upstream_that_goes_on_after_its_goodbye_is_cut_like_an_active_one() {
        let told = View { goodbye: Goodbye::Upstream(30_000), ..silent_since(39_500) };
        assert_eq!(verdict(&told, &PLAN, 10_000, 40_000), Verdict::Cut(Doing::Active));
        let silent = View { last: 35_000, ..told };
        assert_eq!(verdict(&silent, &PLAN, 10_000, 40_000), Verdict::Close);
    }

    #[test]
    fn only_what_would_pass_for_the_whole_is_reset() {
        let mut view = silent_since(0);
        assert_eq!(verdict(&view, &PLAN, 0, 40_000), Verdict::Cut(Doing::Quiet));
        assert!(!Doing::Quiet.loses_data());
        view.pending_to_client = true;
        assert!(doing(&view, 40_000).loses_data());
    }

    #[test]
    fn spread_gives_each_its_turn_before_the_deadline() {
        let plan = Plan { spread: 60_000, ..PLAN };
        let turns: Vec<_> = (0..=u16::MAX).step_by(1024).map(|share| plan.turn(share)).collect();
        assert!(turns.is_sorted());
        assert!(turns.iter().all(|t| (plan.since..plan.deadline - FIN_WAIT).contains(t)));
        assert!(turns[32].abs_diff(24_000) < 500);
        assert_eq!(plan.hurry(11_000, 2_000).turn(u16::MAX), plan.since);
    }

    /// Ten thousand drains of up to 40 connections whose peers behave at random, in time that
    /// jumps from one event to the next.
    #[test]
    fn every_drain_ends_by_its_deadline_and_cuts_only_there() {
        for seed in 0..10_000 {
            let mut random = Seeded::new(seed);
            let since = 5_000;
            let mut plan = Plan {
                since,
                deadline: since + u64::from(random.below(30_000)),
                spread: u64::from(random.below(10_000)),
                hurried: false,
            };
            let mut now = since;
            let mut left: Vec<(View, u16, u64)> = (0..1 + random.below(40))
                .map(|_| {
                    let mut view = silent_since(u64::from(random.below(5_000)));
                    view.connecting = random.below(10) == 0;
                    view.answer_due = random.below(3) == 0;
                    view.pending_to_client = random.below(4) == 0;
                    (view, random.next() as u16, since)
                })
                .collect();
            while !left.is_empty() {
                if random.below(200) == 0 && !plan.hurried {
                    plan = plan.hurry(now, 2_000);
                    left.iter_mut().for_each(|(_, _, at)| *at = now);
                }
                let mut next = Vec::new();
                for (mut view, share, mut at) in left {
                    if at <= now {
                        match verdict(&view, &plan, plan.turn(share), now) {
                            Verdict::LookAgainAt(then) => {
                                assert!(then > now && then <= plan.deadline, "seed {seed}");
                                at = then;
                            }
                            Verdict::FinUpstream => view.goodbye = Goodbye::Upstream(now),
                            Verdict::FinClient => view.goodbye = Goodbye::Client(now),
                            Verdict::Close => continue,
                            Verdict::Cut(_) => {
                                assert!(now >= plan.deadline, "seed {seed}: cut early");
                                continue;
                            }
                        }
                    }
                    match random.below(30) {
                        0 => view = View { connecting: false, pending_to_client: false, last: now, ..view },
                        1 => view = View { answer_due: false, last: now, ..view },
                        2 => continue,
                        _ => {}
                    }
                    next.push((view, share, at));
                }
                left = next;
                now = left.iter().map(|(.., at)| *at).min().unwrap_or(now).max(now + 1);
                assert!(left.is_empty() || now <= plan.deadline + 2, "seed {seed}: past the deadline");
            }
        }
    }
}
