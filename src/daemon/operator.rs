//! The daemon as drainctl sees it: what it answers to each call.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use slog::Logger;

use super::by_hand::Refusals;
use super::looking::Looking;
use super::reload::Last;
use super::{by_hand, report};
use crate::control::Operator;
use crate::control::operator::{Reply, Who};
use crate::control::protocol::Call;
use crate::lifecycle::Handle;
use crate::proxy::Fleet;

/// What the calls need.
pub struct Daemon {
    fleet: Arc<Fleet>,
    handle: Handle,
    log: Logger,
    /// Where what is set by hand is kept.
    kept: PathBuf,
    reload: Last,
    refusals: Refusals,
    looking: Looking,
}

impl Daemon {
    pub fn new(fleet: Arc<Fleet>, handle: Handle, (kept, reload): (PathBuf, Last), log: Logger) -> Daemon {
        let (looking, refusals) = (Looking::new(fleet.clone()), Refusals::default());
        Daemon { fleet, handle, log, kept, reload, refusals, looking }
    }
}

impl Operator for Daemon {
    fn answer(&self, call: Call, who: &Who, reply: Reply) {
        match call {
            Call::Reload => match by_hand::permit(&call, who, &self.refusals, &self.log) {
                Ok(()) => {
                    let (who, log) = (*who, self.log.clone());
                    let say = move |outcome: Result<&str, &str>| by_hand::say(&call, &who, outcome, &log);
                    self.reload.ask(&self.handle, say, reply);
                }
                Err(message) => reply.refuse(&message),
            },
            Call::Status => reply.ok(&report::status(&self.fleet, &self.handle)),
            Call::Connections(query) => self.looking.answer(query, reply),
            Call::Drain { .. } | Call::Resume { .. } | Call::Hold { .. } => {
                let told = (&self.refusals, &self.log);
                answer(reply, by_hand::change(&self.fleet, &self.kept, &call, who, told));
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
