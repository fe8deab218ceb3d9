//! The integration tests, one binary. A module a topic; what they share stands in `support`.
//!
//! - `conventions`: catalog and documentation agree with the source.
//! - `journal`: the log thread against a fake journald.
//! - `systemd`: the installed package under a real systemd, in containers. Ignored unless asked
//!   for, since they need root: `make test` as root runs them.

mod conventions;
mod journal;
mod support;
mod systemd;
