//! Restarts of the real daemon under a stand-in for systemd that holds its store.
//!
//! - `live`: connections of all kinds over ten restarts, and new ones meanwhile.
//! - `ends`: what peers do while nobody runs: bytes, FINs, resets.
//! - `killed`: SIGKILL, panics and aborts in place of an orderly end.
//! - `bounced`: SIGKILL while a small message is on its way.
//! - `killer`: SIGKILL at points of the program, chosen by a seed; for hours, if wanted.
//! - `changer`: reloads, drains and holds between and around kills, chosen by a seed too.
//! - `churn`: connections that come and go for a long time.
//! - `changed`: the next incarnation has another configuration.
//! - `damage`: ledgers and lots that are not what they should be.
//! - `policy`: when nothing is handed over, and a daemon without a store.

mod bounced;
mod changed;
mod changer;
mod churn;
mod damage;
mod ends;
mod killed;
mod killer;
mod live;
mod policy;

use std::net::TcpStream;

use crate::support::drained::Setup;
use crate::support::peers::{Listener, Port, connect, talk};
use crate::support::store::Store;

/// What is handed over without asking anybody.
const ALWAYS: &str = "[handover]\non_restart = \"always\"\n";

/// A proxy's part of a configuration.
fn proxy(name: &str, listen: &[&str], upstream: &str) -> String {
    format!("[proxy.{name}]\nlisten = {listen:?}\nupstream = \"{upstream}\"\nconnect_timeout = \"60s\"\n")
}

/// A daemon with one proxy named p that hands over.
fn setup(listen: &str, upstream: &str) -> Setup {
    Setup::new(&(ALWAYS.to_owned() + &proxy("p", &[listen], upstream)))
}

/// A client and its upstream's end of a connection that has been used.
fn pair(listen: &str, upstream: &Listener) -> (TcpStream, TcpStream) {
    let client = connect(listen);
    let server = upstream.accept();
    talk(&client, &server);
    (client, server)
}

/// How many listeners and connections the incarnation says that it adopted.
fn adopted(store: &Store) -> (u64, u64) {
    let adopted = store.status()["adopted"].clone();
    (adopted["listeners"].as_u64().unwrap(), adopted["connections"].as_u64().unwrap())
}
