//! The manager: what systemd says of the machine, over the system bus.
//!
//! org.freedesktop.systemd1(5). The bus may be missing, slow or refuse; nobody waits for it without
//! a bound.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use zbus::blocking::{Proxy, connection};

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The manager's property SystemState: `running`, `degraded`, `stopping`, ...; None without an
/// answer within `bound`.
pub fn system_state(bound: Duration) -> Option<String> {
    let (answer, answered) = mpsc::channel();
    // The thread is left behind if the bus hangs: zbus bounds a call, but not the connecting.
    let ask = move || {
        let _ = answer.send(ask_system_state(bound));
    };
    thread::Builder::new().name("bus".to_owned()).spawn(ask).ok()?;
    answered.recv_timeout(bound).ok()?.ok()
}

fn ask_system_state(bound: Duration) -> zbus::Result<String> {
    let bus = connection::Builder::system()?.method_timeout(bound).build()?;
    Proxy::new(&bus, SERVICE, MANAGER_PATH, MANAGER)?.get_property("SystemState")
}
