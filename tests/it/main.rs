//! The integration tests, one binary. A module a topic; what they share stands in `support`.
//!
//! What needs no second process and no socket is tested inside its module under src/.
//!
//! - `actions`: what an administrator does to the service behind a proxy.
//! - `book`: what docs/ and the README say is so.
//! - `cli`: the command lines of the real programs.
//! - `control`: the control socket against clients of all kinds.
//! - `conventions`: catalog and documentation agree with the source.
//! - `demo`: the show, and breaking it off.
//! - `drain`: the daemon's stop against a fake service manager.
//! - `generated`: man pages and completions are current.
//! - `handover`: restarts of the daemon under a stand-in for systemd that holds its store.
//! - `journal`: the log thread against a fake journald.
//! - `house`: the conventions of the tree.
//! - `lifecycle`: the examples somedaemon and contrary against a fake service manager.
//! - `metrics`: metrics, health endpoints, and the active checks of upstreams.
//! - `looking`: drainctl connections and top, of a daemon at work, on a terminal.
//! - `relay`: the daemon's relay, between clients and upstreams that the tests own.
//! - `reload`: reloads of the daemon: proxies that come, change and go under live connections.
//! - `peers`: real servers and clients through the real binary. Ignored unless asked for, since they
//!   need root and packages: `make test` as root runs them.
//! - `systemd`: the installed package under a real systemd, in containers. Ignored unless asked
//!   for, since they need root: `make test` as root runs them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(missing_docs, reason = "helpers of one binary")]

mod actions;
mod book;
mod cli;
mod control;
mod conventions;
mod demo;
mod drain;
mod generated;
mod handover;
mod house;
mod journal;
mod lifecycle;
mod looking;
mod metrics;
mod peers;
mod relay;
mod reload;
mod support;
mod systemd;
