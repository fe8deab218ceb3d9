//! The daemon as drainctl sees it: what it answers to each call.

use std::sync::Arc;

use slog::Logger;

use super::reload::Last;
use super::report;
use crate::control::Operator;
use crate::control::operator::{Reply, Who};
use crate::control::protocol::Call;
use crate::lifecycle::Handle;
use crate::proxy::Fleet;

/// What the calls need.
pub struct Daemon {
    pub fleet: Arc<Fleet>,
    pub handle: Handle,
    pub log: Logger,
    pub reload: Last,
}

impl Operator for Daemon {
    fn answer(&self, call: Call, who: &Who, reply: Reply) {
        match call {
            Call::Reload => self.reload.ask(&self.handle, who, &self.log, reply),
            Call::Status => reply.ok(&report::status(&self.fleet, &self.handle)),
        }
    }
}
