//! The daemon as drainctl sees it: what it answers to each call.

use std::sync::Arc;

use super::looking::Looking;
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
    looking: Looking,
}

impl Daemon {
    pub fn new(fleet: Arc<Fleet>, handle: Handle) -> Daemon {
        Daemon { looking: Looking::new(fleet.clone()), fleet, handle }
    }
}

impl Operator for Daemon {
    fn answer(&self, call: Call, _who: &Who, reply: Reply) {
        match call {
            Call::Status => reply.ok(&report::status(&self.fleet, &self.handle)),
            Call::Connections(query) => self.looking.answer(query, reply),
            Call::Drain { .. } => reply.refuse("not known"),
        }
    }
}
