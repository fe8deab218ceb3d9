//! The integration tests, one binary. A module a topic; what they share stands in `support`.
//!
//! - `conventions`: catalog and documentation agree with the source.
//! - `journal`: the log thread against a fake journald.
//! - `house`: the conventions of the tree.
//! - `peers`: real servers and clients through the real binary. Ignored unless asked for, since they
//!   need root and packages: `make test` as root runs them.
//! - `systemd`: the installed package under a real systemd, in containers. Ignored unless asked
//!   for, since they need root: `make test` as root runs them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(missing_docs, reason = "helpers of one binary")]

mod conventions;
mod house;
mod journal;
mod peers;
mod support;
mod systemd;
