//! Listeners: those of a .socket unit, their backlog, and the backlog of our own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{PROXY, SOON, UNIT, assert_ended_well, configure, installed, on_every_release, one_proxy};
use crate::support::container::Container;
use crate::support::image::Release;

on_every_release!(
    steady:
    the_example_socket_unit_starts_the_daemon_and_keeps_its_backlog,
    the_backlog_of_our_own_listener_is_served_at_the_stop,
);

/// Clients in the backlog.
const WAITING: usize = 50;

fn the_example_socket_unit_starts_the_daemon_and_keeps_its_backlog(release: Release) {
    let container = installed(release);
    let upstream = echo(&container);
    let example = container.read("/usr/share/doc/drained/examples/drained.socket");
    container.write("/etc/systemd/system/drained.socket", example);
    container.systemctl(["stop", UNIT]);
    let toml = format!("[proxy.web]\nlisten = \"systemd:web\"\nupstream = \"{upstream}\"\n");
    container.write("/etc/drained/drained.toml", toml);
    container.systemctl(["daemon-reload"]);
    container.systemctl(["enable", "--now", "drained.socket"]);
    assert_eq!(container.show(UNIT, "ActiveState"), "inactive");

    let port = SocketAddr::from(([127, 0, 0, 1], 8080));
    ask(&mut container.in_network(|| TcpStream::connect(port).unwrap()));
    container.wait_property(UNIT, "SubState", SOON, |state| state == "running");

    // A client whose answer is due holds up the stop. Those that come meanwhile queue up, and the
    // drain must leave them there for the next daemon.
    let silent = container.in_network(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let toml =
        format!("[proxy.web]\nlisten = \"systemd:web\"\nupstream = \"{}\"\n", silent.local_addr().unwrap());
    container.write("/etc/drained/drained.toml", toml);
    container.systemctl(["restart", UNIT]);
    let mut busy = clients(&container, port, 1).remove(0);
    let (mut server, _) = silent.accept().unwrap();
    server.read_exact(&mut [0]).unwrap();
    let first = container.show(UNIT, "InvocationID");
    let toml = format!("[proxy.web]\nlisten = \"systemd:web\"\nupstream = \"{upstream}\"\n");
    container.write("/etc/drained/drained.toml", toml);
    container.systemctl(["stop", "--no-block", UNIT]);
    container.wait_property(UNIT, "StatusText", SOON, |text| text.starts_with("Draining: 1 of 1"));
    let mut waiting = clients(&container, port, WAITING);
    server.write_all(b"?").unwrap();
    answered(&mut busy);
    drop((busy, server));
    waiting.iter_mut().for_each(answered);
    assert_ne!(container.show(UNIT, "InvocationID"), first, "its successor served them");
    assert_eq!(container.show("drained.socket", "NRefused"), "0");
    assert!(container.journal(["DRAINED_EVENT=cut"]).is_empty());
}

fn the_backlog_of_our_own_listener_is_served_at_the_stop(release: Release) {
    let container = installed(release);
    let upstream = echo(&container);
    configure(&container, &one_proxy(upstream, ""));
    container.kill(UNIT, Signal::SIGSTOP);
    let mut waiting = clients(&container, PROXY, WAITING);
    // systemd sends SIGTERM, then SIGCONT.
    container.systemctl(["stop", "--no-block", UNIT]);
    waiting.iter_mut().for_each(answered);
    drop(waiting);
    assert_ended_well(&container);
    let refused = container.in_network(|| TcpStream::connect(PROXY).unwrap_err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// An upstream in the container's network that sends each byte back.
fn echo(container: &Container) -> SocketAddr {
    container.in_network(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    })
}

/// Clients that have asked and wait for the answer.
fn clients(container: &Container, port: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = || {
        let mut client = TcpStream::connect(port).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(b"?").unwrap();
        client
    };
    container.in_network(|| (0..count).map(|_| connect()).collect())
}

fn ask(client: &mut TcpStream) {
    client.write_all(b"?").unwrap();
    answered(client);
}

fn answered(client: &mut TcpStream) {
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"?");
}
