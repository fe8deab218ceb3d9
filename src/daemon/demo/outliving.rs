//! The second part of the demo: a restart and a SIGKILL under load, which every connection outlives.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::crowd::{self, Crowd, Fate, Kind, Moment};
use super::stage::Stage;
use super::staying::PATIENCE;
use super::table;
use super::upstream::Upstream;
use crate::Result;

/// How long clients and daemon work before the restart: more than the second after which connections
/// outlive a crash.
const WORK: Duration = Duration::from_secs(2);
/// How long they work after the restart and the SIGKILL.
const AFTER: Duration = Duration::from_millis(2500);
/// How often it is looked whether all live on.
const LOOK: Duration = Duration::from_millis(50);

/// Never for good: what is under way is handed over whatever the machine's own manager is about.
const CONFIG: &str = "[handover]\non_restart = \"always\"\n";

struct Show<'a> {
    stage: &'a mut Stage,
    crowd: Crowd,
    config: String,
    faults: Vec<String>,
}

/// Shows it, the daemon listening on `address`; returns what was not as it should be.
pub fn show(stage: &mut Stage, address: SocketAddr, upstream: &Upstream) -> Result<Vec<String>> {
    let began = Instant::now();
    stage.screen.heading(&format!("started anew, for {} clients that stay", crowd::size()), began);
    let config = super::config(address, upstream.address(), CONFIG);
    stage.start(&config)?;
    let crowd = Crowd::start(address, upstream.count());
    let mut show = Show { stage, crowd, config, faults: Vec::new() };
    show.work(Moment::Work, WORK)?;
    show.say_work();
    show.restart()?;
    show.kill()?;
    show.end()
}

impl Show<'_> {
    fn say_work(&mut self) {
        let alive = self.crowd.shared.alive(Moment::Work);
        if alive != crowd::size() {
            self.faults.push(format!("{alive} of {} clients were served", crowd::size()));
        }
        let bytes = table::bytes(self.crowd.shared.bytes());
        self.say(&format!("{alive} at work, {bytes} relayed"));
        self.say(&self.pause("the longest that one of them waited", Moment::Work));
    }

    fn restart(&mut self) -> Result<()> {
        self.stage.screen.heading("restart: SIGTERM, and the next process goes on", Instant::now());
        self.strike(Moment::Restart, Signal::SIGTERM)?;
        let left = self.stage.notes.handed_over;
        if self.stage.notes.exit.is_none_or(|exit| !exit.success()) {
            self.faults.push("the restarted daemon did not end with exit code 0".into());
        }
        if left.is_none_or(|left| left < crowd::size() as u64) {
            self.faults.push("the daemon did not hand over all connections".into());
        }
        self.go_on(Moment::Restart)
    }

    fn kill(&mut self) -> Result<()> {
        self.stage.screen.heading("SIGKILL: no last word, and the next process goes on", Instant::now());
        self.strike(Moment::Kill, Signal::SIGKILL)?;
        self.go_on(Moment::Kill)
    }

    /// Has them work for so long, and until each has shown that it lives, should this take longer.
    fn work(&mut self, moment: Moment, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        self.stage.follow(until)?;
        while self.crowd.shared.alive(moment) < crowd::size() && Instant::now() < until + PATIENCE {
            self.stage.follow(Instant::now() + LOOK)?;
        }
        Ok(())
    }

    /// Ends the daemon by a signal.
    fn strike(&mut self, moment: Moment, signal: Signal) -> Result<()> {
        self.crowd.shared.begin(moment);
        self.stage.signal(signal)?;
        self.stage.follow_until(|notes| notes.exit.is_some())?;
        self.crowd.shared.gone.store(moment == Moment::Kill, Relaxed);
        Ok(())
    }

    /// Starts the next process, and sees whether every connection lives on through it.
    fn go_on(&mut self, moment: Moment) -> Result<()> {
        let stored = self.stage.manager.stored().len();
        let words = format!("starts the daemon, with {stored} stored file descriptors");
        self.stage.screen.line(Instant::now(), "manager", &words);
        self.stage.start(&self.config)?;
        self.crowd.shared.ask(moment);
        self.work(moment, AFTER)?;

        let (shared, all) = (self.crowd.shared.clone(), crowd::size());
        let (alive, served, refused) =
            (shared.alive(moment), shared.visits.served(moment), shared.visits.refused(moment));
        let lost = all.saturating_sub(alive);
        self.say(&format!("{all} connections before, {alive} after: {lost} lost"));
        self.say(&format!("new ones: {served} served, {refused} refused"));
        self.say(&self.pause("the longest pause that a client saw", moment));
        let adopted = self.stage.notes.adopted.unwrap_or(0);
        if adopted < all as u64 {
            self.faults.push(format!("the next process took over {adopted} of {all} connections"));
        }
        if lost > 0 {
            self.faults.push(format!("{lost} of {all} connections did not live on"));
        }
        if refused > 0 || served == 0 {
            self.faults.push(format!("of the new clients {served} were served and {refused} refused"));
        }
        Ok(())
    }

    /// Ends the show, and counts.
    fn end(mut self) -> Result<Vec<String>> {
        let fates = self.crowd.end(PATIENCE);
        self.stage.screen.plain(&self.table(&fates));
        let missing = crowd::size() - fates.len();
        if missing > 0 {
            self.faults.push(format!("{missing} clients did not come to an end"));
        }
        for (kind, _) in Kind::ALL {
            let name = kind.name();
            let of_kind = || fates.iter().filter(|fate| fate.kind == kind);
            let damaged = of_kind().filter(|fate| !fate.intact).count();
            if damaged > 0 {
                self.faults.push(format!("{damaged} of \"{name}\" got damaged bytes"));
            }
            let faults: BTreeSet<_> = of_kind().filter_map(|fate| fate.fault.as_ref()).collect();
            self.faults.extend(faults.iter().map(|why| format!("\"{name}\": {why}")));
        }
        let (sent, arrived) = self.streamed();
        if sent != arrived {
            self.faults.push(format!("{sent} bytes were streamed, but {arrived} arrived"));
        }
        self.stage.screen.verdict(&self.faults, &self.summary(arrived));
        Ok(self.faults)
    }

    /// The bytes of all streams, at those who sent them and at those who got them.
    fn streamed(&self) -> (u64, u64) {
        let (mut sent, mut arrived) = (0, 0);
        let mut streams = self.crowd.count.streams.iter().map(|bytes| bytes.load(Relaxed));
        for ((kind, number), figures) in Kind::ALL.iter().zip(&self.crowd.shared.kinds) {
            let of_service: u64 = streams.by_ref().take(*number).sum();
            match kind {
                Kind::Idle | Kind::Talking => {}
                Kind::Upload => {
                    sent += figures.to_upstream.load(Relaxed);
                    arrived += of_service;
                }
                Kind::Download | Kind::SlowDownload | Kind::HalfClosed => {
                    sent += of_service;
                    arrived += figures.to_client.load(Relaxed);
                }
            }
        }
        (sent, arrived)
    }

    fn table(&self, fates: &[Fate]) -> String {
        let mut table = format!(
            "\n{:>79}\n{:<21} {:>6} {:>9} {:>11}  {:<6} {:>4} {:>7} {:>7}\n",
            "longest pause",
            "client",
            "number",
            "to client",
            "to upstream",
            "intact",
            "lost",
            "restart",
            "SIGKILL"
        );
        for ((kind, number), figures) in Kind::ALL.iter().zip(&self.crowd.shared.kinds) {
            let of_kind = || fates.iter().filter(|fate| fate.kind == *kind);
            let well = of_kind().filter(|fate| fate.fault.is_none()).count();
            // Writing into a String does not fail.
            let _ = writeln!(
                table,
                "{:<21} {:>6} {:>9} {:>11}  {:<6} {:>4} {:>7} {:>7}",
                kind.name(),
                number,
                table::bytes(figures.to_client.load(Relaxed)),
                table::bytes(figures.to_upstream.load(Relaxed)),
                if of_kind().all(|fate| fate.intact) { "yes" } else { "NO" },
                number - well,
                milliseconds(figures.pauses.longest(Moment::Restart)),
                milliseconds(figures.pauses.longest(Moment::Kill)),
            );
        }
        table.truncate(table.trim_end().len());
        table
    }

    fn summary(&self, arrived: u64) -> String {
        let shared = &self.crowd.shared;
        let served: u64 =
            [Moment::Work, Moment::Restart, Moment::Kill].iter().map(|m| shared.visits.served(*m)).sum();
        let young = match shared.visits.young() {
            0 => String::new(),
            n => format!(
                " The SIGKILL cut {n} of the new ones that had just come: connections outlive it once \
                 they are older than crash_after, a second."
            ),
        };
        format!(
            "All went as it should: {} connections lived through a restart and a SIGKILL, {served} new \
             ones were served, none was refused; {} were streamed, and every byte arrived in its \
             place.{young}",
            crowd::size(),
            table::bytes(arrived),
        )
    }

    fn pause(&self, what: &str, moment: Moment) -> String {
        format!("{what}: {}", milliseconds(self.crowd.shared.longest(moment)))
    }

    fn say(&self, words: &str) {
        self.stage.screen.line(Instant::now(), "clients", words);
    }
}

fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}
