//! The daemon: ordered startup, status.

pub mod demo;
