//! The manager: what systemd says of this service and of the machine, over the system bus.
//!
//! org.freedesktop.systemd1(5). The bus may be missing, slow or refuse; nobody waits for it without
//! a bound.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use zbus::MatchRule;
use zbus::blocking::{Connection, MessageIterator, connection};
use zbus::message::Type;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The caller's own unit.
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/self";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE_UNIT: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const JOB: &str = "org.freedesktop.systemd1.Job";

/// What systemd is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manager {
    /// The type of the job that our unit has: `restart`, `stop`, `start`, ...; None where it has none.
    pub job: Option<String>,
    /// Of the machine: `running`, `degraded`, `stopping`, ...
    pub system_state: String,
    /// FileDescriptorStoreMax= of our unit.
    pub store_max: u32,
}

/// How often whoever waits for an answer looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Asks; None without an answer within `bound`, or before `is_urgent` says that there is no more time for it.
pub fn ask(bound: Duration, is_urgent: impl Fn() -> bool) -> Option<Manager> {
    let (answer, answered) = mpsc::channel();
    // The thread is left behind if the bus hangs: zbus bounds a call, but not the connecting.
    let ask = move || {
        let _ = answer.send(ask_bus(bound));
    };
    thread::Builder::new().name("bus".to_owned()).spawn(ask).ok()?;
    let until = Instant::now() + bound;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match answered.recv_timeout(left.min(LOOK)) {
            Err(RecvTimeoutError::Timeout) if !left.is_zero() && !is_urgent() => {}
            answer => return answer.ok()?.ok(),
        }
    }
}

/// Calls `changed` when our unit has got another job, for as long as the bus tells. It is asked for that by a
/// thread of its own, which nobody waits for; without a bus it ends.
pub fn watch_job(changed: impl Fn() + Send + 'static) {
    let watch = move || {
        let _ = watch_bus(changed);
    };
    // Without the thread nothing is told, as without a bus.
    let _ = thread::Builder::new().name("bus".to_owned()).spawn(watch);
}

fn watch_bus(changed: impl Fn()) -> zbus::Result<()> {
    let bus = connection::Builder::system()?.build()?;
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .path(MANAGER_PATH)?
        .interface(MANAGER)?
        .member("JobNew")?
        .build();
    let new_jobs = MessageIterator::for_match_rule(rule, &bus, None)?;
    // systemd sends no signals unless somebody asks for them.
    bus.call_method(Some(SERVICE), MANAGER_PATH, Some(MANAGER), "Subscribe", &())?;
    let ours: String = property(&bus, UNIT_PATH, UNIT, "Id")?;
    // One that came before that.
    changed();
    for message in new_jobs {
        let (_, _, unit): (u32, OwnedObjectPath, String) = message?.body().deserialize()?;
        if unit == ours {
            changed();
        }
    }
    Ok(())
}

fn ask_bus(bound: Duration) -> zbus::Result<Manager> {
    let bus = connection::Builder::system()?.method_timeout(bound).build()?;
    Ok(Manager {
        job: job(&bus)?,
        system_state: property(&bus, MANAGER_PATH, MANAGER, "SystemState")?,
        store_max: property(&bus, UNIT_PATH, SERVICE_UNIT, "FileDescriptorStoreMax")?,
    })
}

fn job(bus: &Connection) -> zbus::Result<Option<String>> {
    // Between the two questions a job may be replaced by another: then the unit names that one.
    for _ in 0..2 {
        let (id, path): (u32, OwnedObjectPath) = property(bus, UNIT_PATH, UNIT, "Job")?;
        if id == 0 {
            return Ok(None);
        }
        if let Ok(kind) = property(bus, path.as_str(), JOB, "JobType") {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

/// One question and one answer. A proxy object of zbus would fetch all properties of the interface and
/// subscribe to their changes first.
fn property<T>(bus: &Connection, path: &str, interface: &str, name: &str) -> zbus::Result<T>
where
    T: TryFrom<OwnedValue>,
    T::Error: Into<zbus::Error>,
{
    let answer = bus.call_method(Some(SERVICE), path, Some(PROPERTIES), "Get", &(interface, name))?;
    let value: OwnedValue = answer.body().deserialize()?;
    T::try_from(value).map_err(Into::into)
}
