//! The integration tests, one binary. A module a topic; what they share stands in `support`.
//!
//! - `systemd`: the installed package under a real systemd, in containers. Ignored unless asked
//!   for, since they need root: `make test` as root runs them.
//! - `house`: the conventions of the tree.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(missing_docs, reason = "helpers of one binary")]

mod house;
mod support;
mod systemd;
