//! What is pure, by itself: the configuration, a connection's record, a request to the control socket.
//! `cargo bench --bench micro`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use divan::{Bencher, black_box};
use drained::config;
use drained::control::protocol::Call;
use drained::handover::record::{Flags, Live, Record, Slot, State, Way};
use drained::sys::socket::Peer;

fn main() {
    divan::main();
}

/// The path of a configuration with so many proxies.
fn written(proxies: usize) -> PathBuf {
    let one = |n: usize| {
        format!("[proxy.p{n}]\nlisten = \"127.0.0.1:{}\"\nupstream = \"127.0.0.1:80\"\n", 10_000 + n)
    };
    let path = std::env::temp_dir().join(format!("drained-micro-{}-{proxies}.toml", std::process::id()));
    fs::write(&path, (0..proxies).map(one).collect::<String>())
        .expect("the folder for such files can be written");
    path
}

#[divan::bench(args = [1, 10, 100])]
fn configuration(bencher: Bencher<'_, '_>, proxies: usize) {
    let path = written(proxies);
    bencher.bench(|| config::load(&path).map(|config| config.proxies.len()));
    let _ = fs::remove_file(path);
}

fn record() -> Record {
    Record {
        state: State::Live,
        flags: Flags::default(),
        proxy: 1,
        upstream: 2,
        id: 3,
        client: 4,
        server: 5,
        opened: 6,
        peer: Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 80))),
        last: 7,
        bytes: [8, 9],
        pipes: [0, 10],
    }
}

/// Once for each connection that is parked.
#[divan::bench]
fn record_stored(bencher: Bencher<'_, '_>) {
    let (record, slot) = (record(), Slot::default());
    bencher.bench(|| black_box(&record).store(black_box(&slot)));
}

/// Twice for each turn of a connection that has one.
#[divan::bench]
fn record_flagged(bencher: Bencher<'_, '_>) {
    let slot = Slot::default();
    record().store(&slot);
    bencher.bench(|| black_box(&slot).add_flags(Flags::fin(Way::ToClient)));
}

#[divan::bench]
fn request_read(bencher: Bencher<'_, '_>) {
    let line = Call::Status.to_line();
    bencher.bench(|| Call::from_line(black_box(&line)));
}
