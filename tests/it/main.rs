//! The integration tests, one binary. A module a topic; what they share stands in `support`.
//!
//! - `conventions`: catalog and documentation agree with the source.
//! - `drain`: the daemon's stop against a fake service manager.
//! - `journal`: the log thread against a fake journald.
//! - `house`: the conventions of the tree.
//! - `lifecycle`: the examples somedaemon and contrary against a fake service manager.
//! - `relay`: the daemon's relay, between clients and upstreams that the tests own.
//! - `systemd`: the installed package under a real systemd, in containers. Ignored unless asked
//!   for, since they need root: `make test` as root runs them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(missing_docs, reason = "helpers of one binary")]

mod conventions;
mod drain;
mod house;
mod journal;
mod lifecycle;
mod relay;
mod support;
mod systemd;
