//! A real server behind drained is restarted with plain systemctl again and again, and fails none of the
//! clients that come all the while, each with a connection of its own. Between the restarts it serves as many as it
//! does without drained.
//!
//! DRAINED_TEST_RESTARTS is how often.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{PROXY, configure, install};
use crate::support::container::Container;
use crate::support::image::Release;
use crate::support::number_from;

/// Clients, and how often each of them comes: a thousand connections a second, whatever happens, as far as the server
/// can serve so many.
const CLIENTS: u32 = 50;
const PACE: Duration = Duration::from_millis(50);
/// No answer may take longer, however long the server's restart does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that are served between two restarts, at the least.
const BETWEEN: u64 = 500;
/// Those of the clients that come without drained, before it all begins.
const DIRECTLY: u64 = 3_000;

/// A server that is restarted.
struct Server {
    unit: &'static str,
    address: &'static str,
    /// What is prepared before it runs, as a shell script.
    prepare: &'static str,
    /// What each client asks, and how the answer begins.
    request: &'static [u8],
    answer: &'static [u8],
}

const NGINX: Server = Server {
    unit: "nginx.service",
    address: "127.0.0.1:8001",
    prepare: "printf 'server { listen 127.0.0.1:8001; root /usr/share/nginx/html; }' > /etc/nginx/sites-enabled/default",
    request: b"GET / HTTP/1.0\r\n\r\n",
    answer: b"HTTP/1.1 200 OK",
};

const REDIS: Server = Server {
    unit: "redis-server.service",
    address: "127.0.0.1:6379",
    prepare: "true",
    request: b"PING\r\n",
    answer: b"+PONG",
};

/// A startup message of protocol 3.0: the answer is a request for authentication, or an error that begins
/// with E, for one while the server starts.
const POSTGRESQL: Server = Server {
    unit: "postgresql@15-main.service",
    address: "127.0.0.1:5432",
    prepare: "true",
    request: b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0",
    answer: b"R",
};

const POSTGRESQL_17: Server = Server { unit: "postgresql@17-main.service", ..POSTGRESQL };

/// One that says nothing to systemd, and listens with a backlog of five.
const PYTHON: Server = Server {
    unit: "page.service",
    address: "127.0.0.1:8002",
    prepare: "mkdir -p /srv/page && echo hello > /srv/page/index.html && \
        printf '[Service]\\nExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv/page 8002\\n\
        StandardError=null\\n' > /etc/systemd/system/page.service && systemctl daemon-reload",
    request: b"GET / HTTP/1.0\r\n\r\n",
    answer: b"HTTP/1.0 200 OK",
};

#[test]
#[ignore = "boots a container: `make test` as root"]
fn restarts_of_the_servers_behind_fail_nobody_252() {
    restarts_of_the_servers_behind_fail_nobody(Release::BookwormServers, &POSTGRESQL);
}

#[test]
#[ignore = "boots a container: `make test` as root"]
fn restarts_of_the_servers_behind_fail_nobody_257() {
    restarts_of_the_servers_behind_fail_nobody(Release::TrixieServers, &POSTGRESQL_17);
}

fn restarts_of_the_servers_behind_fail_nobody(release: Release, postgresql: &Server) {
    let container = Container::boot(release);
    install(&container);
    for server in [&NGINX, &REDIS, postgresql, &PYTHON] {
        restarts_fail_nobody(&container, server);
    }
}

fn restarts_fail_nobody(container: &Container, server: &Server) {
    let Server { unit, address, .. } = server;
    container.run(["sh", "-euc", server.prepare]);
    container.systemctl(["restart", unit]);
    configure(container, &format!("[proxy.web]\nlisten = \"{PROXY}\"\nupstream = \"{address}\"\n"));
    container.run(["drainctl", "adopt", unit, "--proxy", "web", "--upstream", address]);
    let clients = container.in_network(|| Clients::start(server, address.parse().unwrap()));
    let directly = clients.rate_of(DIRECTLY);
    let (_, longest_directly, failed) = clients.finish();
    let began = Instant::now();
    container.systemctl(["restart", unit]);
    eprintln!(
        "{unit}, directly: {directly:.0} connections a second, the longest wait {longest_directly:?}, {} failed; \
         a restart takes {:?}",
        failed.len(),
        began.elapsed()
    );
    let clients = container.in_network(|| Clients::start(server, PROXY));
    let (began, mut between) = (Instant::now(), Vec::new());
    let restarts = number_from("DRAINED_TEST_RESTARTS", 20);
    for _ in 0..restarts {
        between.push(clients.rate_of(BETWEEN));
        // So many restarts in a few seconds are more than the units allow.
        container.systemctl(["reset-failed", unit]);
        container.systemctl(["restart", unit]);
    }
    between.push(clients.rate_of(BETWEEN));
    let took = began.elapsed();
    let (served, longest, failed) = clients.finish();
    between.sort_by(f64::total_cmp);
    let (rate, between) = (served as f64 / took.as_secs_f64(), between[between.len() / 2]);
    eprintln!(
        "{unit}: {restarts} restarts, {served} connections served, {rate:.0} a second, {between:.0} between the restarts, \
         the longest wait {longest:?}, {} failed",
        failed.len()
    );
    assert!(failed.is_empty(), "{unit}: {:?}", &failed[..failed.len().min(5)]);
    assert!(between > directly / 2.0, "{unit}: {between} a second, and {directly} without drained");
    let status = container.run(["drainctl", "--json", "status"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let counts = &status["proxies"]["web"]["connections"];
    assert_eq!((&counts["failed"], &counts["cut"]), (&0.into(), &0.into()), "{status}");
    container.run(["drainctl", "adopt", unit, "--undo"]);
    container.systemctl(["stop", unit]);
}

/// Clients that come again and again.
struct Clients {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<(Duration, Vec<String>)>>,
}

impl Clients {
    fn start(server: &Server, address: SocketAddr) -> Clients {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |number: u32| {
            let (over, served) = (over.clone(), served.clone());
            let (request, answer) = (server.request, server.answer);
            let began = Instant::now() + PACE * number / CLIENTS;
            thread::spawn(move || come_and_go(began, &|| visit(address, request, answer), &over, &served))
        };
        let threads = (0..CLIENTS).map(start).collect();
        Clients { over, served, threads }
    }

    /// Waits until so many more have been served.
    fn wait_for(&self, more: u64) {
        let (until, enough) = (Instant::now() + PATIENCE, self.served.load(Relaxed) + more);
        while self.served.load(Relaxed) < enough {
            assert!(Instant::now() < until, "{} served", self.served.load(Relaxed));
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many are served a second, of so many from the next one on.
    fn rate_of(&self, count: u64) -> f64 {
        self.wait_for(1);
        let (began, before) = (Instant::now(), self.served.load(Relaxed));
        self.wait_for(count);
        (self.served.load(Relaxed) - before) as f64 / began.elapsed().as_secs_f64()
    }

    /// How many were served, the longest wait, and what went wrong.
    fn finish(self) -> (u64, Duration, Vec<String>) {
        self.over.store(true, Relaxed);
        let ended: Vec<_> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let longest = ended.iter().map(|(longest, _)| *longest).max().unwrap_or_default();
        (self.served.load(Relaxed), longest, ended.into_iter().flat_map(|(_, failed)| failed).collect())
    }
}

fn come_and_go(
    began: Instant,
    visit: &dyn Fn() -> io::Result<()>,
    over: &AtomicBool,
    served: &AtomicU64,
) -> (Duration, Vec<String>) {
    let (mut next, mut longest, mut failed) = (began, Duration::ZERO, Vec::new());
    while !over.load(Relaxed) {
        // Who was kept waiting makes up for it.
        next += PACE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let at = Instant::now();
        match visit() {
            Ok(()) => _ = served.fetch_add(1, Relaxed),
            Err(error) => failed.push(format!("after {:?}: {error}", at.elapsed())),
        }
        longest = longest.max(at.elapsed());
    }
    (longest, failed)
}

/// Asks once, on a connection of its own.
fn visit(address: SocketAddr, request: &[u8], answer: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got)?;
    match got == answer {
        true => Ok(()),
        false => Err(io::Error::other(format!("{:?}", String::from_utf8_lossy(&got)))),
    }
}
