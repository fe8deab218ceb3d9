//! A service behind the proxy is adopted: systemd drains it before each stop, and no client fails.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::{PROXY, UNIT, configure, installed, on_every_release, one_proxy};
use crate::support::container::Container;
use crate::support::drained::until;
use crate::support::image::Release;
use crate::support::peers::try_connect;

on_every_release!(restarts_of_an_adopted_service_fail_no_client);

const SERVER: &str = r#"
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", 8000))
s.listen(64)
while True:
    c, _ = s.accept()
    c.sendall(c.recv(8))
    c.close()
"#;

/// Its own ExecStop= ends it at once: a drain after that would come too late.
const SERVICE: &str = "[Service]\nExecStart=/usr/bin/python3 /opt/server.py\nExecStop=/bin/kill -KILL $MAINPID\n\
                       SuccessExitStatus=SIGKILL\nTimeoutStopSec=5s\n";
const BESIDE: &str = "drained-before-myapp.service";

fn ask(number: u64) -> Result<(), String> {
    let mut stream = try_connect(&PROXY.to_string()).map_err(|e| format!("connecting: {e}"))?;
    let mut answer = [0; 8];
    stream.write_all(&number.to_le_bytes()).map_err(|e| format!("asking: {e}"))?;
    stream.read_exact(&mut answer).map_err(|e| format!("hearing: {e}"))?;
    if u64::from_le_bytes(answer) == number { Ok(()) } else { Err("another's answer".to_owned()) }
}

fn state(container: &Container) -> String {
    let status = container.run(["drainctl", "--json", "status"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["proxies"]["web"]["upstreams"][0]["state"].as_str().unwrap().to_owned()
}

fn restarts_of_an_adopted_service_fail_no_client(release: Release) {
    let container = installed(release);
    configure(&container, &one_proxy("127.0.0.1:8000".parse().unwrap(), ""));
    container.write("/opt/server.py", SERVER);
    container.write("/etc/systemd/system/myapp.service", SERVICE);
    container.systemctl(["daemon-reload"]);
    container.systemctl(["start", "myapp"]);
    let adopt = ["drainctl", "adopt", "myapp", "--proxy", "web", "--upstream", "127.0.0.1:8000"];
    container.run(adopt);
    assert_eq!(container.show(BESIDE, "ActiveState"), "active");
    let (ending, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let client = || {
        let (mut errors, mut longest) = (Vec::new(), Duration::ZERO);
        while !ending.load(Relaxed) {
            let began = Instant::now();
            match ask(answered.load(Relaxed)) {
                Ok(()) => _ = answered.fetch_add(1, Relaxed),
                Err(e) => errors.push(e),
            }
            longest = longest.max(began.elapsed());
        }
        (errors, longest)
    };
    container.in_network(|| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
            for round in 0..20 {
                let enough = answered.load(Relaxed) + 20;
                until("answers", || answered.load(Relaxed) >= enough);
                match round % 4 {
                    3 => {
                        _ = (container.systemctl(["stop", "myapp"]), container.systemctl(["start", "myapp"]))
                    }
                    _ => _ = container.systemctl(["restart", "myapp"]),
                }
            }
            ending.store(true, Relaxed);
            for client in clients {
                let (errors, longest) = client.join().unwrap();
                assert!(errors.is_empty(), "{errors:#?}");
                println!("{release:?}: {} answers, the longest took {longest:?}", answered.load(Relaxed));
            }
        });
    });
    let told = container.journal(["-u", UNIT, "DRAINED_EVENT=by-hand"]);
    assert!(told.len() >= 40, "{}", told.len());
    // A stopped service is a drained one.
    container.systemctl(["stop", "myapp"]);
    assert_eq!(
        (container.show(BESIDE, "ActiveState").as_str(), state(&container).as_str()),
        ("inactive", "drained")
    );
    container.systemctl(["start", "myapp"]);
    until("it is up", || state(&container) == "up");
    // A crash of it is none of ours.
    container.kill("myapp", nix::sys::signal::Signal::SIGKILL);
    container.wait_property("myapp", "ActiveState", super::SOON, |state| state != "active");
    println!("{release:?}: after its end {} {}", container.show(BESIDE, "ActiveState"), state(&container));
    container.systemctl(["restart", "myapp"]);
    until("it is up", || container.in_network(|| ask(7)).is_ok());
    // Nor is it harmed by a drained that does not run.
    container.systemctl(["stop", UNIT]);
    let began = Instant::now();
    container.systemctl(["restart", "myapp"]);
    assert_eq!(container.show("myapp", "ActiveState"), "active");
    println!("{release:?}: without drained a restart took {:?}", began.elapsed());
    container.systemctl(["start", UNIT]);
    container.run(["drainctl", "adopt", "myapp", "--undo"]);
    assert_eq!(container.show("myapp", "ActiveState"), "active");
    assert_eq!(
        (container.show(BESIDE, "ActiveState").as_str(), state(&container).as_str()),
        ("inactive", "up")
    );
    assert_eq!(container.show("myapp", "Wants"), "");
    // One that does not run is adopted too, and let go of again.
    container.systemctl(["stop", "myapp"]);
    container.run(adopt);
    assert_eq!(container.show(BESIDE, "ActiveState"), "inactive");
    container.run(["drainctl", "adopt", "myapp", "--undo"]);
    assert_eq!(container.show(BESIDE, "LoadState"), "not-found");
    let none =
        container.output(["drainctl", "adopt", "none", "--proxy", "web", "--upstream", "127.0.0.1:8000"]);
    assert_eq!(none.status.code(), Some(65), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no unit none.service"), "{none:?}");
}
