//! The integration tests, one binary. A module a topic; what they share stands in `support`.
//!
//! - `conventions`: catalog and documentation agree with the source.
//! - `journal`: the log thread against a fake journald.

mod conventions;
mod journal;
