//! The daemon as drainctl sees it: what it answers to each call.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use slog::Logger;

use super::by_hand::Refusals;
use super::{by_hand, report};
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
    /// Where what is set by hand is kept.
    pub kept: PathBuf,
    pub refusals: Refusals,
}

impl Operator for Daemon {
    fn answer(&self, call: Call, who: &Who, reply: Reply) {
        match call {
            Call::Status => reply.ok(&report::status(&self.fleet, &self.handle)),
            Call::Drain { .. } | Call::Resume { .. } | Call::Hold { .. } => {
                answer(
                    reply,
                    by_hand::change(&self.fleet, &self.kept, &call, who, (&self.refusals, &self.log)),
                );
            }
            Call::Progress { proxy, upstream } => {
                answer(reply, by_hand::progress(&self.fleet, &proxy, upstream.as_deref()));
            }
        }
    }
}

fn answer(reply: Reply, answer: Result<impl Serialize, String>) {
    match answer {
        Ok(answer) => reply.ok(&answer),
        Err(message) => reply.refuse(&message),
    }
}
