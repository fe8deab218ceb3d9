//! Records to journald's native protocol: priorities, identifier, and what to do without journald.
//!
//! slog-journald does the sending. It maps slog's six levels to the priorities 2 to 7 with info as
//! "notice" (5); here info is "informational" (6) as syslog(3) and everybody's filters mean it, so
//! each record is handed on one level lower from info on. The code location is left out: it would
//! put the paths of the machine that built the program into every entry, and MESSAGE_ID already
//! says which place in the source it is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use slog::{BorrowedKV, Drain, KV, Key, Level, Never, OwnedKVList, Record, RecordStatic, Serializer, o};
use slog_journald::JournaldDrain;

use super::lines::{Colour, Lines};

/// The drain for journald. Where it can't be reached, the record goes as a line to standard error,
/// which is journald's stream socket and outlives it.
pub struct Journald {
    drain: JournaldDrain,
    nothing: OwnedKVList,
    identifier: String,
    fallback: Lines<io::Stderr>,
}

impl Default for Journald {
    fn default() -> Journald {
        Journald {
            drain: JournaldDrain::default().emit_code_fields(false),
            nothing: o!().into(),
            identifier: program_name(),
            fallback: Lines::new(io::stderr(), Colour::Priorities),
        }
    }
}

impl Drain for Journald {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let lowered = RecordStatic {
            location: record.location(),
            level: level_for_journald(record.level()),
            tag: record.tag(),
        };
        let fields = Fields { identifier: &self.identifier, values, own: record.kv() };
        let sent = self.drain.log(&Record::new(&lowered, record.msg(), BorrowedKV(&fields)), &self.nothing);
        if sent.is_err() {
            self.fallback.log(record, values)?;
        }
        Ok(())
    }
}

/// The level that slog-journald turns into the priority that we mean.
fn level_for_journald(level: Level) -> Level {
    match level {
        Level::Critical | Level::Error | Level::Warning => level,
        Level::Info => Level::Debug,
        Level::Debug | Level::Trace => Level::Trace,
    }
}

/// SYSLOG_IDENTIFIER, which libsystemd does not send: `journalctl -t drained` looks for it.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    Path::new(&path).file_name().map_or_else(|| "drained".into(), |name| name.to_string_lossy().into_owned())
}

/// All fields of one entry. A value that is None makes no field. DRAINED_CLIENT also makes
/// DRAINED_CLIENT_IP, since the journal only finds whole values and ports change.
struct Fields<'a> {
    identifier: &'a str,
    values: &'a OwnedKVList,
    own: BorrowedKV<'a>,
}

impl KV for Fields<'_> {
    fn serialize(&self, record: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        let mut present = Present { serializer };
        present.emit_str("SYSLOG_IDENTIFIER", self.identifier)?;
        self.values.serialize(record, &mut present)?;
        self.own.serialize(record, &mut present)
    }
}

struct Present<'a> {
    serializer: &'a mut dyn Serializer,
}

impl Serializer for Present<'_> {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        if key == "DRAINED_CLIENT"
            && let Ok(client) = value.to_string().parse::<SocketAddr>()
        {
            self.serializer
                .emit_arguments("DRAINED_CLIENT_IP", &format_args!("{}", client.ip().to_canonical()))?;
        }
        self.serializer.emit_arguments(key, value)
    }

    fn emit_none(&mut self, _: Key) -> slog::Result {
        Ok(())
    }

    fn emit_unit(&mut self, _: Key) -> slog::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use slog::{b, record_static};

    use super::*;

    #[test]
    fn levels_become_the_priorities_of_syslog() {
        // slog-journald: critical 2, error 3, warning 4, info 5, debug 6, trace 7.
        let priority = |level: Level| level_for_journald(level).as_usize() + 1;
        let levels = [Level::Critical, Level::Error, Level::Warning, Level::Info, Level::Debug, Level::Trace];
        assert_eq!(levels.map(priority), [2, 3, 4, 6, 7, 7]);
    }

    #[derive(Default)]
    struct Collect(Vec<String>);

    impl Serializer for Collect {
        fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
            self.0.push(format!("{key}={value}"));
            Ok(())
        }
    }

    #[test]
    fn an_entry_has_the_identifier_the_clients_address_and_no_empty_field() {
        let fields = |client: &str| {
            let record = record_static!(Level::Info, "");
            let own = b!("DRAINED_CLIENT" => client, "DRAINED_STEP" => None::<&str>);
            let message = format_args!("text");
            let record = Record::new(&record, &message, own);
            let values = o!("DRAINED_PROXY" => "web").into();
            let mut all = Collect::default();
            let fields = Fields { identifier: "me", values: &values, own: record.kv() };
            fields.serialize(&record, &mut all).expect("Collect takes all");
            all.0
        };
        let (identifier, proxy) = ("SYSLOG_IDENTIFIER=me", "DRAINED_PROXY=web");
        assert_eq!(
            fields("[::ffff:192.0.2.7]:4711"),
            [identifier, proxy, "DRAINED_CLIENT_IP=192.0.2.7", "DRAINED_CLIENT=[::ffff:192.0.2.7]:4711"]
        );
        assert_eq!(
            fields("[2001:db8::1]:1"),
            [identifier, proxy, "DRAINED_CLIENT_IP=2001:db8::1", "DRAINED_CLIENT=[2001:db8::1]:1"]
        );
        assert_eq!(fields("unix"), [identifier, proxy, "DRAINED_CLIENT=unix"]);
    }
}
