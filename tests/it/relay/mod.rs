//! The relay of the real daemon, between clients and upstreams that the tests own.
//!
//! - `families`: TCP, UNIX and passed sockets on either side; PROXY protocol headers.
//! - `breaks`: urgent data, resets at odd times, slow receivers when descriptors are short.
//! - `ends`: half-close, resets, peers that never read.
//! - `bulk`: much data in both directions at once, in large pipes and in small ones.
//! - `upstreams`: which one takes a connection, and what happens when none does.
//! - `pieces`: what one read leaves behind.
//! - `slow`: receivers that take nothing while more comes for them.
//! - `limits`: idle_timeout, max_connections, file descriptors.
//! - `memory`: what a connection costs, and that no byte of a peer enters the daemon's memory.

mod breaks;
mod bulk;
mod ends;
mod families;
mod limits;
mod memory;
mod pieces;
mod slow;
mod upstreams;
mod workers;
