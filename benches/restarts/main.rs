//! What a stop takes, and what a restart under load costs the clients: drained beside haproxy, nginx's
//! stream module and systemd-socket-proxyd, each as its documentation has it: `systemctl reload` where
//! there is one, `systemctl restart` where not. In a container with a real systemd; needs root, and
//! DRAINED_TEST_DEB to name the package.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on says so")]

mod crowd;

#[path = "../compare/meter.rs"]
#[allow(dead_code, reason = "half of it is for the other benchmark")]
mod meter;
#[path = "../compare/server.rs"]
#[allow(dead_code, reason = "half of it is for the other benchmark")]
mod server;
#[path = "../../tests/it/support"]
#[allow(dead_code, reason = "written for the tests, which use all of it")]
mod support {
    pub mod container;
    pub mod image;
}

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;

use crowd::{Crowd, Seen};
use server::Servers;
use support::container::Container;
use support::image::Release;

/// Measures stops and restarts side by side.
#[derive(Parser)]
struct Options {
    /// How often each is stopped and restarted.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Connections that live while it is restarted: one in four asks each 10 ms, the others are idle.
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
    /// The report is written here besides.
    #[arg(long)]
    report: Option<PathBuf>,
    /// What `cargo bench` passes on.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where each of them listens.
const LISTEN: &str = "127.0.0.1:80";

/// One of them, and how it is restarted.
struct Contender {
    name: &'static str,
    unit: &'static str,
    /// Started and stopped with it.
    socket: Option<&'static str>,
    verb: &'static str,
    /// Its files, with @ECHO@ where its upstream belongs.
    files: &'static [(&'static str, &'static str)],
}

const ALL: [Contender; 4] = [
    Contender {
        name: "drained",
        unit: "drained.service",
        socket: None,
        verb: "restart",
        files: &[(
            "/etc/drained/drained.toml",
            "[proxy.echo]\nlisten = \"127.0.0.1:80\"\nupstream = \"@ECHO@\"\n",
        )],
    },
    Contender {
        name: "haproxy",
        unit: "haproxy.service",
        socket: None,
        verb: "reload",
        files: &[("/etc/haproxy/haproxy.cfg", include_str!("haproxy.cfg"))],
    },
    Contender {
        name: "nginx",
        unit: "nginx.service",
        socket: None,
        verb: "reload",
        files: &[("/etc/nginx/nginx.conf", include_str!("nginx.conf"))],
    },
    Contender {
        name: "socket-proxyd",
        unit: "proxyd.service",
        socket: Some("proxyd.socket"),
        verb: "restart",
        files: &[
            ("/etc/systemd/system/proxyd.socket", "[Socket]\nListenStream=127.0.0.1:80\nBacklog=4096\n"),
            ("/etc/systemd/system/proxyd.service", include_str!("proxyd.service")),
        ],
    },
];

fn main() {
    let options = Options::parse();
    meter::raise_descriptors().unwrap();
    let container = Container::boot(Release::BookwormProxies);
    let deb =
        PathBuf::from(std::env::var_os("DRAINED_TEST_DEB").expect("DRAINED_TEST_DEB names the package"));
    let deb = container.copy_in(&deb);
    container.run(["dpkg", "-i", &deb]);
    // They have started with the container, some of them on the same port.
    ALL.iter().for_each(|contender| _ = container.output(["systemctl", "stop", contender.unit]));
    let echo = container.in_network(|| Servers::start(None)).unwrap().addresses.echo;
    let mut text =
        "| | stop, ms | asked by | lost | failed requests | refused | longest reply, ms | all, ms |\n\
        |---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for contender in &ALL {
        text += &contender.measure(&container, echo, &options);
    }
    println!("{text}");
    options.report.iter().for_each(|path| write(path, &text));
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

impl Contender {
    /// Its line of the table: medians of the times, sums of the losses.
    fn measure(&self, container: &Container, echo: SocketAddr, options: &Options) -> String {
        for (path, content) in self.files {
            container.write(path, content.replace("@ECHO@", &echo.to_string()));
        }
        container.systemctl(["daemon-reload"]);
        let (mut stops, mut seen) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            eprintln!("{} {}/{}", self.name, round + 1, options.rounds);
            self.start(container);
            stops.push(self.stop(container));
            self.start(container);
            let crowd = container.in_network(|| Crowd::gather(LISTEN.parse().unwrap(), options.connections));
            seen.push(crowd.watch(|| _ = container.systemctl([self.verb, self.unit])));
            self.stop(container);
        }
        let (stop, pause) = (median(&stops), median(&seen.iter().map(|s| s.longest).collect::<Vec<_>>()));
        let sum = |which: fn(&Seen) -> usize| seen.iter().map(which).sum::<usize>();
        format!(
            "| {} | {stop:.1} | {} | {} of {} | {} | {} of {} | {pause:.0} | {} |\n",
            self.name,
            self.verb,
            sum(|s| s.lost),
            options.connections * options.rounds,
            sum(|s| s.failed),
            sum(|s| s.refused),
            sum(|s| s.fresh),
            seen.iter().map(|s| format!("{:.0}", s.longest)).collect::<Vec<_>>().join(", "),
        )
    }

    fn start(&self, container: &Container) {
        self.socket.iter().for_each(|socket| _ = container.systemctl(["start", *socket]));
        container.systemctl(["start", self.unit]);
    }

    /// Milliseconds from the beginning of the stop to the end of the main process.
    fn stop(&self, container: &Container) -> f64 {
        self.socket.iter().for_each(|socket| _ = container.systemctl(["stop", *socket]));
        container.systemctl(["stop", self.unit]);
        container.output(["systemctl", "reset-failed", self.unit]);
        let began = container.show_number(self.unit, "ActiveExitTimestampMonotonic");
        let ended = container.show_number(self.unit, "ExecMainExitTimestampMonotonic");
        ended.saturating_sub(began) as f64 / 1e3
    }
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
