//! drained: stop services under systemd without hurting their peers.
//!
//! Two things in one crate. The module [`lifecycle`] is a library for authors of daemons: signals
//! blocked in all threads, a signalfd thread, a cleanup thread with phases and deadlines, workers
//! that are joined within a bound, at-exit hooks, and the whole sd_notify protocol. The rest,
//! behind the feature `daemon` (on by default), is the proxy daemon `drained` built on it.
//!
//! ```text
//! signal:  kernel -> signalfd thread -> cleanup thread -> phases -> workers, listeners, connections -> at-exit hooks -> exit code
//! data:    listener -> worker (epoll) -> connection -> relay: socket -> pipe -> socket, both ways
//! words:   every thread -> log thread -> journald;  every thread -> systemd;  notify thread -> systemd: what had to wait, signs of life
//! control: drainctl -> control socket -> control thread -> life cycle / workers
//! figures: workers' counters -> metrics thread -> Prometheus; health checks of the one who asks
//! ```
//!
//! A module imports only from rows below its own; a test checks it.
//!
//! ```text
//! bin/drained.rs bin/drainctl.rs        doors
//! cli                                   arguments -> options
//! daemon                                ordered startup, status
//! proxy | control | http                listeners, workers, relays | drainctl's socket | metrics and health
//! handover | server                     ledger, parking lots, adoption | a thread for small clients
//! lifecycle                             the library: signals, cleanup, workers, exit, state
//! systemd                               notify, listen fds, journal, manager
//! sys                                   the only unsafe: pipes and splice, sockets, limits, clock
//! config, event, error, fault           leaves
//! ```

pub mod error;
pub mod event;
#[cfg(feature = "daemon")]
mod fault;
pub mod lifecycle;
#[allow(unsafe_code, reason = "the one home for system calls")]
pub mod sys;
pub mod systemd;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod control;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod handover;
#[cfg(feature = "daemon")]
pub mod http;
#[cfg(feature = "daemon")]
pub mod proxy;
#[cfg(feature = "daemon")]
pub mod server;

pub use error::{Error, Exit, Result};
