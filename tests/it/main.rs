//! The integration tests, one binary. A module a topic; what they share stands in `support`.
//!
//! - `lifecycle`: the examples somedaemon and contrary against a fake service manager.

mod lifecycle;
mod support;
