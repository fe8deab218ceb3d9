//! The daemon: ordered startup, status.
